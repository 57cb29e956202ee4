/**
 * The guest driver for virtqueues: what every set of features has to keep, against the datapath's own device, and against the model's, which gives chains
 * back in any order.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import * as L from '../../datapath/layout.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { pieces as framePieces, getHeader, setHeader } from './packets.js';
import { arena, randomFrom } from './testbed.js';
import { DatapathEnd, type DeviceEnd, type DriverSide, ModelEnd, VdrvBed } from './virtio-driver-bed.js';
import { contentOf, headerOf, kindsOf } from './virtio-flows.js';

const OFFLOADS =
  F.CSUM |
  F.HOST_TSO4 |
  F.HOST_TSO6 |
  F.HOST_UFO |
  F.HOST_USO |
  (F.GUEST_CSUM | F.GUEST_TSO4 | F.GUEST_TSO6 | F.GUEST_UFO | F.GUEST_USO4 | F.GUEST_USO6);
const SETS: readonly (readonly [string, bigint])[] = [
  ['legacy, 10-byte header', F.ANY_LAYOUT],
  ['modern', F.VERSION_1],
  ['event index', F.VERSION_1 | F.EVENT_IDX],
  ['merging', F.VERSION_1 | F.MRG_RXBUF | F.EVENT_IDX],
  ['in order', F.VERSION_1 | F.IN_ORDER],
  ['in order, merging', F.VERSION_1 | F.MRG_RXBUF | F.EVENT_IDX | F.IN_ORDER],
  ['in order, large frames', F.VERSION_1 | F.MRG_RXBUF | F.IN_ORDER | OFFLOADS],
  ['in order, indirect', F.VERSION_1 | F.MRG_RXBUF | F.EVENT_IDX | F.INDIRECT_DESC | F.IN_ORDER | OFFLOADS],
  ['large frames, direct', F.VERSION_1 | F.MRG_RXBUF | OFFLOADS],
  ['large frames, indirect', F.VERSION_1 | F.MRG_RXBUF | F.EVENT_IDX | F.INDIRECT_DESC | OFFLOADS],
];

for (const format of ['split', 'packed'] as const)
  for (const [name, set] of SETS) {
    if (format === 'packed' && (set & F.VERSION_1) === 0n) continue;
    const features = format === 'packed' ? set | F.RING_PACKED : set;
    for (const end of ['datapath', 'model'] as const)
      describe(`driver, ${format}, ${name}, ${end}'s device`, () => compliance(features, end));
  }

function compliance(features: bigint, end: 'datapath' | 'model'): void {
  const large = (features & F.HOST_TSO4) !== 0n;
  const [out, into] = [kindsOf(features, 'tx'), kindsOf(features, 'rx')];
  const longest = large ? L.LARGE_FRAME : (features & F.MRG_RXBUF) !== 0n ? 6000 : 1518;
  const buffers = large ? 128 : 24;
  let live: number;
  let bed: VdrvBed;
  before(() => {
    live = arena.live;
    bed = new VdrvBed({
      features,
      num: large ? 128 : 32,
      buffers,
      frameBuffers: Math.ceil(longest / 2032),
      maxFrame: longest,
    });
  });
  after(() => {
    bed.checkCanaries();
    bed.close();
    assert.equal(arena.live, live, 'leaks');
  });
  const endOf = (side: DriverSide): DeviceEnd =>
    end === 'model' ? new ModelEnd(bed, side) : new DatapathEnd(bed, side);

  /** Publishes up to `want` frames, numbered from `first` on. */
  const publish = (first: number, want: number): { sent: number; kick: boolean } => {
    const { datapath, batch, tx } = bed;
    assert.ok(datapath.calls.vdrv_tx_complete(tx.driver.address, 128) >= 0, 'fault');
    const sent = Math.min(want, datapath.calls.vdrv_tx_room(tx.driver.address, batch.address, want));
    for (let i = 0; i < sent; i++) {
      const payload = contentOf(first + i, longest);
      let done = 0;
      for (const piece of framePieces(batch, i, payload.length)) {
        piece.set(payload.subarray(done, done + piece.length));
        done += piece.length;
      }
      batch.setLength(i, payload.length);
      setHeader(batch, i, headerOf(first + i, payload.length, out));
    }
    return { sent, kick: datapath.calls.vdrv_tx_publish(tx.driver.address, batch.address, sent) > 0 };
  };
  const checkTx = (n: number, { header, payload }: { header: unknown; payload: Buffer }) => {
    const expected = contentOf(n, longest);
    assert.ok(payload.equals(expected), `payload of frame ${n}`);
    assert.deepEqual(header, headerOf(n, expected.length, out), `header of frame ${n}`);
  };
  /** Takes what was received; the number of the first is `first`. */
  const poll = (first: number, budget = 64): number => {
    const { datapath, batch, rx } = bed;
    assert.ok(datapath.calls.vdrv_rx_poll(rx.driver.address, batch.address, budget) >= 0, 'fault');
    const { count } = batch;
    for (let i = 0; i < count; i++) {
      const expected = contentOf(first + i, longest);
      assert.equal(batch.length(i), expected.length, `length of frame ${first + i}`);
      assert.ok(
        Buffer.concat(framePieces(batch, i, expected.length)).equals(expected),
        `payload of frame ${first + i}`,
      );
      assert.deepEqual(
        getHeader(batch, i),
        headerOf(first + i, expected.length, into),
        `header of frame ${first + i}`,
      );
    }
    datapath.calls.vdrv_rx_release(rx.driver.address, batch.address);
    return count;
  };
  const refill = () => {
    const kick = bed.datapath.calls.vdrv_rx_refill(bed.rx.driver.address);
    assert.ok(kick >= 0);
    return kick > 0;
  };
  const settle = () => {
    for (const side of bed.sides) {
      bed.audit(side);
      assert.equal(bed.faultOf(side), 0);
      assert.equal(bed.dropped(side), 0);
    }
  };

  it('frames arrive once, in order and whole, with their headers; every buffer has one owner', () => {
    for (const seed of [1, 2, 3]) {
      bed.reset();
      const random = randomFrom(seed);
      const [tx, rx] = [endOf(bed.tx), endOf(bed.rx)];
      let [sent, arrived, filled, polled] = [0, 0, 0, 0];
      for (let round = 0; round < (large ? 60 : 150); round++) {
        sent += publish(sent, random(8)).sent;
        bed.audit(bed.tx);
        for (const frame of tx.drain(random(8), random).frames) checkTx(arrived++, frame);
        if (random(3) > 0) refill();
        bed.audit(bed.rx);
        const want = random(6);
        for (let i = 0; i < want; i++) {
          const payload = contentOf(filled, longest);
          if (!rx.fill(payload, headerOf(filled, payload.length, into))) break;
          filled++;
          rx.publish();
        }
        polled += poll(polled, 1 + random(20));
        bed.audit(bed.rx);
      }
      for (let n = 1; n > 0; ) {
        const { frames } = tx.drain(64, random);
        for (const frame of frames) checkTx(arrived++, frame);
        n = frames.length;
      }
      for (let n = 1; n > 0; polled += n) n = poll(polled);
      assert.deepEqual([arrived, polled], [sent, filled], 'lost');
      assert.ok(sent > 50 && filled > 50, `too little traffic: ${sent}, ${filled}`);
      assert.ok(bed.datapath.calls.vdrv_tx_complete(bed.tx.driver.address, 1000) >= 0);
      assert.equal(bed.audit(bed.tx).free, buffers);
      settle();
    }
  });

  it('an empty ring gives nothing, a full one takes no more', () => {
    bed.reset();
    const { calls } = bed.datapath;
    const random = randomFrom(9);
    const tx = endOf(bed.tx);
    assert.equal(tx.drain(10, random).frames.length, 0);
    assert.equal(calls.vdrv_tx_complete(bed.tx.driver.address, 10), 0);
    let sent = 0;
    for (let n = 1; n > 0; sent += n) n = publish(sent, 200).sent;
    assert.ok(bed.audit(bed.tx).free < Math.ceil(longest / 2032));
    let arrived = 0;
    for (let n = 1; n > 0; arrived += n) n = tx.drain(200, random).frames.length;
    assert.equal(arrived, sent);
    assert.equal(calls.vdrv_tx_complete(bed.tx.driver.address, 1000), sent);
    assert.equal(bed.audit(bed.tx).free, buffers);
    assert.equal(poll(0), 0);
    refill();
    assert.deepEqual([refill(), bed.audit(bed.rx)], [false, { free: 0, driver: 0, device: buffers }]);
    settle();
  });

  it('kicks go out when the device wants them, interrupts come when they were asked for', () => {
    bed.reset();
    const { calls } = bed.datapath;
    const random = randomFrom(5);
    const tx = endOf(bed.tx);
    const address = bed.tx.driver.address;
    tx.arm(true);
    assert.equal(publish(0, 1).kick, true);
    tx.drain(1, random);
    assert.equal(tx.arm(false), false);
    assert.equal(publish(1, 1).kick, false);
    calls.vdrv_tx_complete(address, 10);
    calls.vdrv_arm(address, 0);
    assert.equal(tx.drain(1, random).interrupt, false);
    assert.equal(calls.vdrv_arm(address, 1), 1, 'one has come back already');
    calls.vdrv_tx_complete(address, 10);
    assert.equal(calls.vdrv_arm(address, 1), 0);
    tx.arm(true);
    assert.equal(publish(2, 1).kick, true);
    assert.equal(tx.drain(1, random).interrupt, true);
    settle();
  });

  it('no wake-up is lost, whoever moves when', () => {
    let naps = 0;
    const { calls } = bed.datapath;
    for (let seed = 1; seed <= 30; seed++) {
      bed.reset();
      const random = randomFrom(seed);
      const tx = endOf(bed.tx);
      const { address } = bed.tx.driver;
      const total = 60;
      let [sent, arrived] = [0, 0];
      const guest = { awake: true, told: false };
      const device = { awake: true, told: false };
      const steps = {
        guest: () => {
          const { sent: n, kick } = publish(sent, Math.min(1 + random(9), total - sent));
          sent += n;
          if (kick) device.told = true;
          if (sent === total || (n === 0 && calls.vdrv_arm(address, 1) === 0)) guest.awake = false;
        },
        device: () => {
          const { frames, interrupt } = tx.drain(random(9), random);
          for (const frame of frames) checkTx(arrived++, frame);
          if (interrupt && sent < total) guest.told = true;
          if (frames.length > 0 && random(4) > 0) return;
          if (tx.arm(true)) tx.arm(false);
          else device.awake = false;
        },
      };
      bed.between = () => {
        if (random(2) === 0 && sent < total && !inGuest) {
          inGuest = true;
          steps.guest();
          inGuest = false;
        }
      };
      let inGuest = false;
      for (let n = 0; arrived < total; n++) {
        assert.ok(n < 10_000, `no progress: seed ${seed}`);
        const ready = [guest, device].filter(side => side.awake || side.told);
        assert.ok(ready.length > 0, `both sides sleep and work is left: seed ${seed}, ${arrived} of ${sent}`);
        const one = ready[random(ready.length)]!;
        if (!one.awake) naps++;
        one.awake = true;
        one.told = false;
        if (one === guest) {
          inGuest = true;
          steps.guest();
          inGuest = false;
        } else steps.device();
      }
      bed.between = () => {};
      settle();
    }
    assert.ok(naps > 30, `only ${naps} times was somebody asleep`);
  });

  it('reclaim returns every buffer after a stop, and the ring begins anew', () => {
    const random = randomFrom(6);
    for (let round = 0; round < 10; round++) {
      bed.reset();
      const [tx, rx] = [endOf(bed.tx), endOf(bed.rx)];
      publish(0, 5);
      tx.drain(random(5), random);
      refill();
      const payload = contentOf(0, longest);
      assert.ok(rx.fill(payload, headerOf(0, payload.length, into)));
      rx.publish();
      if (random(2) === 0) poll(0);
      for (const side of bed.sides) {
        const { device } = bed.audit(side);
        assert.equal(bed.datapath.calls.vdrv_reclaim(side.driver.address, buffers), device);
        assert.equal(bed.audit(side).free, buffers);
      }
    }
    settle();
  });
}
