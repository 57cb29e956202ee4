/**
 * Guests of different kinds at one switch, all in this process: each with a TAP in a namespace of its own, a driver, a NIC, and workers for both.
 *
 * ```
 *   sw0 10.9.0.11 ══ guest ── sring ────────── NIC ─┐
 *   sw1 10.9.0.12 ══ guest ── vring_packed ─── NIC ─┼─ switch:link       nobody is told where the others are: ARP finds them
 *   sw2 10.9.0.13 ══ guest ── sring_gso ────── NIC ─┘
 * ```
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { openFds } from '../../src/linux/fd.js';
import { changeLink } from '../../src/linux/link.js';
import { openMappings } from '../../src/linux/mmap.js';
import { addAddress } from '../../src/linux/route.js';
import type { SwitchCounters } from '../../src/port/switch/index.js';
import { arena } from '../compliance/testbed.js';
import { Backend, Guest } from '../unit/driver-rig.js';
import { cannot, type End, kernelStats, makeEnd } from './harness.js';
import { ManyFlows } from './many-flows.js';
import { tcpTransfer, UdpFlow } from './traffic.js';

interface StationOptions {
  readonly device: string;
  readonly isolated?: boolean;
  readonly queuePairs?: number;
}

class Station {
  readonly end: End;
  readonly guest: Guest;
  readonly backend: Backend;
  #closed = false;

  private constructor(end: End, guest: Guest, backend: Backend) {
    this.end = end;
    this.guest = guest;
    this.backend = backend;
  }

  static async start(
    i: number,
    { device, isolated = false, queuePairs = 1 }: StationOptions,
  ): Promise<Station> {
    const end = makeEnd(`sw${i}`, `10.9.0.${11 + i}`, `02:00:00:00:0a:0${i}`);
    const netdev = `tap:${end.interface},netns=${end.path},mac=${end.mac}`;
    const lanes = queuePairs;
    const guest = await Guest.start({ netdev, bufs: 256 / queuePairs, queuePairs, lanes });
    const spec = isolated ? 'switch:link,isolated' : 'switch:link';
    const backend = await Backend.start(spec, { device, lanes });
    guest.connect(backend.nic);
    await guest.driver.setInterfaceUp(true);
    await guest.driver.whenRunning();
    addAddress(end.interface, `${end.ip}/24`, end.netns);
    changeLink(end.interface, { up: true }, end.netns);
    return new Station(end, guest, backend);
  }

  get counters(): SwitchCounters {
    return this.backend.port.counters() as SwitchCounters;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.guest.close();
    await this.backend.close();
    this.end.netns.close();
  }
}

/** A test with stations at one switch that end with it; then nothing may be left. */
function switchedTest(
  name: string,
  options: readonly StationOptions[],
  body: (stations: readonly Station[], t: TestContext) => Promise<void>,
): void {
  test(name, { timeout: 300_000 }, async t => {
    const why = cannot();
    if (why) return t.skip(why);
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const before = held();
    const stations: Station[] = [];
    try {
      for (const [i, one] of options.entries()) stations.push(await Station.start(i, one));
      await body(stations, t);
    } finally {
      for (const station of stations) await station.close();
    }
    assert.deepEqual(held(), before, 'left behind');
  });
}

async function transfer(from: Station, to: Station, seed: number, bytes: number): Promise<void> {
  const { sent, got } = await tcpTransfer(from.end, to.end, { seed, bytes });
  assert.deepEqual(
    [got.bytes, got.sha256],
    [bytes, sent.sha256],
    `${from.end.interface} to ${to.end.interface}`,
  );
}

async function datagrams(from: Station, to: Station, seed: number, count: number): Promise<void> {
  const flow = await UdpFlow.start(from.end, to.end, { seed, count, window: 256 });
  const { packets, corrupt, repeated, late } = (await flow.finished()).got;
  assert.deepEqual(
    { packets, corrupt, repeated, late },
    { packets: count, corrupt: 0, repeated: 0, late: 0 },
  );
}

switchedTest(
  'guests of three kinds of ring exchange streams and datagrams, each with each',
  [{ device: 'sring' }, { device: 'vring_packed' }, { device: 'sring_gso' }],
  async (stations, t) => {
    let seed = 1;
    for (const from of stations) {
      for (const to of stations) {
        if (from === to) continue;
        await transfer(from, to, seed++, 5e6);
        await datagrams(from, to, seed++, 2000);
      }
    }
    for (const { counters, end } of stations) {
      assert.equal(counters.addresses, 1, end.interface);
      assert.deepEqual([counters.limited, counters.unreachable, counters.errors], [0, 0, 0]);
      // ARP, and its answers to those who are known: all else goes where it belongs.
      assert.ok(counters.flooded < 20, `${counters.flooded} frames went to all`);
    }
    t.diagnostic(`missed: ${stations.map(({ counters }) => counters.missed)}`);
  },
);

switchedTest(
  'all at once, both ways',
  [{ device: 'sring' }, { device: 'vring_packed' }, { device: 'sring_gso' }],
  async stations => {
    const [a, b, c] = stations as [Station, Station, Station];
    const pairs = [
      ...[[a, b] as const, [b, a] as const, [b, c] as const],
      ...[[c, b] as const, [a, c] as const, [c, a] as const],
    ];
    await Promise.all(pairs.map(([from, to], i) => transfer(from, to, 100 + i, 5e6)));
  },
);

switchedTest(
  'between two guests that agree on it, frames of 64 KiB pass whole',
  [{ device: 'sring_gso' }, { device: 'sring_gso' }],
  async ([a, b], t) => {
    await transfer(a!, b!, 31, 1e6); // the first ones may be small
    const before = kernelStats(b!.end);
    const start = performance.now();
    await transfer(a!, b!, 32, 40e6);
    const seconds = (performance.now() - start) / 1000;
    const after = kernelStats(b!.end);
    const size = (after.rxBytes - before.rxBytes) / (after.rxPackets - before.rxPackets);
    t.diagnostic(`${Math.round(size)} bytes a frame, ${((40e6 * 8) / seconds / 1e9).toFixed(2)} Gbit/s`);
    assert.ok(size > 8000, `${size} bytes a frame`);
    assert.equal(b!.counters.softened, 0);
  },
);

switchedTest(
  'isolated guests reach who is not, and not each other',
  [{ device: 'sring_gso', isolated: true }, { device: 'sring', isolated: true }, { device: 'sring_gso' }],
  async ([a, b, c]) => {
    await transfer(a!, c!, 41, 1e6);
    await transfer(c!, b!, 42, 1e6);
    const before = b!.counters.received;
    const flow = await UdpFlow.start(a!.end, b!.end, { seed: 43, pace: 100 });
    const { flooded } = a!.counters;
    // ARP asks for it, and nobody answers.
    const end = performance.now() + 20_000;
    while (a!.counters.flooded === flooded && performance.now() < end) {
      await new Promise(resolve => setTimeout(resolve, 5));
    }
    const { got } = await flow.stop();
    assert.equal(got.packets, 0);
    assert.ok(a!.counters.flooded > flooded);
    assert.equal(b!.counters.received, before);
  },
);

switchedTest(
  'guests with several queue pairs: flows are spread over lanes, and each stays in order',
  [
    { device: 'sring_gso', queuePairs: 4 },
    { device: 'sring', queuePairs: 4 },
  ],
  async ([a, b]) => {
    const flows = new ManyFlows(a!.end, b!.end, 32, 9000);
    try {
      await flows.exchange(10);
    } finally {
      flows.close();
    }
    for (const { backend } of [a!, b!]) {
      const received = backend.nic
        .stats()
        .queues.filter(({ direction }) => direction === 'rx')
        .map(({ packets }) => packets);
      assert.ok(
        received.every(n => n > 0),
        `${received}`,
      );
    }
    await transfer(a!, b!, 51, 5e6);
  },
);

switchedTest(
  'a guest that leaves and one that comes disturb nobody',
  [{ device: 'sring_gso' }, { device: 'vring_packed' }, { device: 'sring' }],
  async ([a, b, c]) => {
    const steady = transfer(a!, b!, 61, 60e6);
    await transfer(a!, c!, 62, 1e6);
    await c!.close();
    for (let i = 0; i < 3; i++) {
      const guest = await Station.start(3 + i, { device: i % 2 === 0 ? 'sring' : 'vring_packed' });
      try {
        await transfer(guest, a!, 63 + i, 1e6);
      } finally {
        await guest.close();
      }
    }
    await steady;
  },
);
