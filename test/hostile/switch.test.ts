/**
 * Guests that meet at a switch and wish each other, or themselves, no good: two that send to each other as fast as they can and take nothing, so that both
 * are full for ever; and one that sends to itself. Nobody stands still for it, nobody else gets less, and once they behave they get what is sent to them.
 */
import assert from 'node:assert/strict';
import type { SwitchCounters } from '../../src/port/switch/index.js';
import { eventually, payload, window } from '../compliance/testbed.js';
import { type NicRig, nicTest, RX, TX } from '../unit/nic-rig.js';

const LENGTH = 60;
/** Frames that each of the two sends: many times what ring and inbox hold. */
const STORM = process.env.POLYNIC_LONG === 'hostile' ? 300_000 : 30_000;

/** A guest with an address of its own. */
class Station {
  readonly rig: NicRig;
  readonly mac: readonly number[];
  sent = 0;
  /** Numbers of frames that came, those of each sender. */
  readonly got = new Map<string, number[]>();

  constructor(rig: NicRig, last: number) {
    this.rig = rig;
    this.mac = [2, 0, 0, 0, 0, last];
  }

  get counters(): SwitchCounters {
    return this.rig.port.counters() as SwitchCounters;
  }

  /** Publishes as many numbered frames as there is room for; kicks when that is wanted. Returns how many. */
  send(to: readonly number[], most = 64): number {
    const { datapath, guestBatch, tx } = this.rig.bed;
    const { calls } = datapath;
    assert.ok(calls.driver_tx_complete(tx.driver, 128) >= 0);
    const room = calls.driver_tx_room(tx.driver, guestBatch.address, most);
    for (let i = 0; i < room; i++) {
      const at = payload(guestBatch, i);
      window.bytes.set([...to, ...this.mac, 0x88, 0xb5], at);
      window.longs[(at + 16) / 8] = BigInt(this.sent++);
      guestBatch.setLength(i, LENGTH);
    }
    if (calls.driver_tx_publish(tx.driver, guestBatch.address, room) > 0) this.rig.kicks[TX]!.signal();
    return room;
  }

  /** Takes what has come and lends the buffers again. */
  take(): void {
    const { datapath, guestBatch, rx } = this.rig.bed;
    const { calls } = datapath;
    assert.ok(calls.driver_rx_poll(rx.driver, guestBatch.address, 64) >= 0);
    for (let i = 0; i < guestBatch.count; i++) {
      const at = payload(guestBatch, i);
      const from = window.bytes.slice(at + 6, at + 12).join();
      const numbers = this.got.get(from) ?? [];
      numbers.push(Number(window.longs[(at + 16) / 8]!));
      this.got.set(from, numbers);
    }
    calls.driver_rx_release(rx.driver, guestBatch.address);
    if (calls.driver_rx_refill(rx.driver) > 0) this.rig.kicks[RX]!.signal();
  }

  from(other: Station): readonly number[] {
    return this.got.get(other.mac.join()) ?? [];
  }
}

const BROADCAST = [255, 255, 255, 255, 255, 255];

/** Guests at one switch, each with a NIC and a worker of its own, that have heard of each other. */
async function meet(
  start: (options: { portSpec: string }) => Promise<NicRig>,
  name: string,
  count: number,
): Promise<Station[]> {
  const stations: Station[] = [];
  for (let i = 1; i <= count; i++) {
    const rig = await start({ portSpec: `switch:${name}` });
    await rig.prepare();
    await rig.enable();
    stations.push(new Station(rig, i));
  }
  for (const station of stations) station.take(); // there are buffers now
  for (const station of stations) station.send(BROADCAST, 1);
  await eventually(() => {
    for (const station of stations) station.take();
    return stations.every(station =>
      stations.every(other => other === station || station.from(other).length === 1),
    );
  });
  for (const { got } of stations) got.clear();
  return stations;
}

const inOrder = (numbers: readonly number[]) => numbers.every((n, i) => i === 0 || n > numbers[i - 1]!);

nicTest(
  'two guests send to each other and take nothing: both full, nobody stands still',
  async (start, t) => {
    const [a, b, c, d] = (await meet(start, 'full', 4)) as [Station, Station, Station, Station];
    const begun = { a: a.sent, b: b.sent, c: c.sent };
    await eventually(() => {
      for (let i = 0; i < 200; i++) {
        if (a.sent - begun.a < STORM) a.send(b.mac);
        if (b.sent - begun.b < STORM) b.send(a.mac);
        // The others have their own affairs, one frame at a time.
        if (c.sent - begun.c === d.from(c).length) c.send(d.mac, 1);
        d.take();
      }
      return a.sent - begun.a >= STORM && b.sent - begun.b >= STORM && d.from(c).length > 100;
    });
    for (const [full, sender] of [
      [a, b],
      [b, a],
    ] as const) {
      await eventually(() => sender.rig.packets(TX) === sender.sent);
      assert.ok(full.counters.missed > STORM / 2, `${full.counters.missed} frames found the other one full`);
      assert.equal(full.rig.nic.running, true);
    }
    const lonely = d.from(c);
    assert.deepEqual(
      lonely,
      Array.from({ length: lonely.length }, (_, i) => begun.c + i),
      'the others lost nothing',
    );
    t.diagnostic(
      `${a.counters.missed} and ${b.counters.missed} missed; ${lonely.length} frames between the others`,
    );

    // They take what is there, and then what is sent to them, in order.
    for (const [one, other] of [
      [a, b],
      [b, a],
    ] as const) {
      const fresh = other.sent;
      await eventually(() => {
        other.send(one.mac, 1);
        one.take();
        return (one.from(other).at(-1) ?? -1) >= fresh;
      });
      assert.ok(inOrder(one.from(other)), 'out of order');
    }
  },
);

nicTest(
  'a guest that sends to itself, by every address it has: it comes nowhere, again and again',
  async start => {
    const [a, b] = (await meet(start, 'self', 2)) as [Station, Station];
    const filtered = a.counters.filtered;
    const begun = a.sent;
    await eventually(() => {
      for (let i = 0; i < 100; i++) {
        if (a.sent - begun < STORM / 10) a.send(a.mac);
        for (const station of [a, b]) station.take();
      }
      return a.rig.packets(TX) - begun >= STORM / 10;
    });
    await eventually(() => a.counters.filtered - filtered === a.sent - begun);
    assert.deepEqual([a.got.size, b.got.size], [0, 0], 'nobody has heard of it');
    b.send(a.mac, 1);
    await eventually(() => {
      a.take();
      return a.from(b).length === 1;
    });
  },
);
