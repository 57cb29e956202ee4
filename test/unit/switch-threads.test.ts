/** The switch among threads that get on as they like: nothing is torn, nothing out of order, nobody sleeps while a frame waits. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import * as L from '../../datapath/layout.js';
import { openFds } from '../../src/linux/fd.js';
import { Bench } from '../../src/port/pcapng/testing.js';
import type { PortHandle } from '../../src/port/port.js';
import { attachPort, openPort } from '../../src/port/registry.js';
import { Batch } from '../../src/ring/batch.js';
import { arena, window } from '../compliance/testbed.js';
import { bufferOf, calls, frame, hello, switchTest } from './switch-bed.js';
import type { StationReport, StationTask } from './switch-worker.js';

const FRAMES = 24;
const ROOM = 66_048;

/** Stations with a thread each, everyone sending to everyone; returns what each has seen. */
async function run({
  stations = 3,
  count = 4000,
  under = 0,
}): Promise<{ reports: StationReport[]; missed: number }> {
  const before = { live: arena.live, fds: openFds() };
  const ports = Array.from({ length: stations }, () => openPort('switch:threads', { window, arena }));
  const control = arena.allocate(4 * (stations ** 2 + 1));
  const benches: Bench[] = [];
  const pieces = [control];
  /** Window address of a batch with a buffer of its own for each frame. */
  const batch = (receive: boolean): number => {
    const bench = new Bench({ window, arena });
    const made = bench.batch();
    const space = arena.allocate(FRAMES * ROOM);
    const buffers = Array.from({ length: FRAMES }, (_, i) => [
      window.bytes.subarray(space + i * ROOM, space + (i + 1) * ROOM),
    ]);
    bench.fill(made, buffers, receive);
    benches.push(bench);
    pieces.push(space, made.address);
    return made.address;
  };
  try {
    const batches = ports.map(() => ({ tx: batch(false), rx: batch(true) }));
    introduce(ports, batches);
    const workers = ports.map((port, me) => {
      const workerData: StationTask = {
        ...{ memory: window.memory, lane: port.lanes[0]!, me, stations, count, under, control },
        ...{ ...batches[me]!, frames: FRAMES },
      };
      return new Worker(new URL('./switch-worker.js', import.meta.url), { workerData });
    });
    const reports = await Promise.all(
      workers.map(async worker => {
        const ended = once(worker, 'exit');
        const [report] = (await once(worker, 'message')) as [StationReport];
        await ended;
        return report;
      }),
    );
    const missed = ports.reduce((sum, port) => sum + port.counters().dropped, 0);
    return { reports, missed };
  } finally {
    for (const port of ports) port.close();
    for (const bench of benches) bench.close();
    for (const piece of pieces) arena.free(piece);
    assert.deepEqual({ live: arena.live, fds: openFds() }, before, 'left behind');
  }
}

/** All say once where they are, so that nothing more is sent to all. */
function introduce(ports: readonly PortHandle[], batches: readonly { tx: number; rx: number }[]): void {
  const lanes = ports.map(port => attachPort(port.lanes[0]!, { window, calls }));
  for (const [me, lane] of lanes.entries()) {
    const tx = new Batch(window, batches[me]!.tx);
    window.bytes.set(frame('ff:ff:ff:ff:ff:ff', `02:00:00:00:00:0${me}`), bufferOf(tx));
    window.words[(tx.address + L.BATCH_COUNT) >>> 2] = 1;
    tx.setLength(0, 60);
    lane.put(tx);
  }
  for (const [me, lane] of lanes.entries()) {
    assert.equal(lane.get(new Batch(window, batches[me]!.rx)), ports.length - 1);
  }
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, n) => total + n, 0);

function checkReports(reports: readonly StationReport[]): void {
  for (const [me, { torn, outOfOrder, lost }] of reports.entries()) {
    assert.deepEqual({ torn, outOfOrder, lost }, { torn: 0, outOfOrder: 0, lost: 0 }, `station ${me}`);
  }
}

test('with a window on each flow nothing is lost', { timeout: 120_000 }, async t => {
  const [stations, count] = [3, 5000];
  // Three flows into an inbox of 1 MiB, and of 24 frames only one may be a large one.
  const { reports, missed } = await run({ stations, count, under: FRAMES });
  checkReports(reports);
  assert.equal(missed, 0);
  for (const { received } of reports) assert.equal(sum(received), (stations - 1) * count);
  assert.ok(
    reports.some(({ slept }) => slept > 100),
    'nobody ever slept: nothing was tested',
  );
  t.diagnostic(`slept ${reports.map(({ slept }) => slept)} times`);
});

test('without one a full inbox loses frames, and none that it has taken', { timeout: 120_000 }, async t => {
  const [stations, count] = [4, 6000];
  const { reports, missed } = await run({ stations, count });
  checkReports(reports);
  const received = sum(reports.map(report => sum(report.received)));
  const sent = stations * (stations - 1) * count;
  assert.equal(received + missed, sent);
  t.diagnostic(`${received} of ${sent} frames, ${missed} missed`);
});

/** Writes one of two addresses over the destination of a frame, again and again, until it is told to stop. */
const FLIP = `
  const { workerData: { memory, at, addresses, stop } } = require('node:worker_threads');
  const bytes = new Uint8Array(memory.buffer);
  const words = new Int32Array(memory.buffer);
  for (let i = 0; Atomics.load(words, stop) === 0; i++) bytes.set(addresses[i & 1], at);
`;

switchTest(
  'a guest that changes a frame while it is looked at reaches nobody who was not looked up',
  async join => {
    const [a, b, c] = [join(), join(), join()];
    const [B, C] = ['02:00:00:00:00:0b', '02:00:00:00:00:0c'];
    b.send(hello(B));
    c.send(hello(C));
    for (const station of [a, b, c]) station.take();
    const stop = arena.allocate(64);
    const batch = a.batchOf([frame(B, '02:00:00:00:00:0a', 1500)]);
    const at = bufferOf(batch);
    const addresses = [B, C].map(address => frame(address, B, 14).subarray(0, 6));
    const worker = new Worker(FLIP, {
      eval: true,
      workerData: { memory: window.memory, at, addresses, stop: stop >>> 2 },
    });
    await once(worker, 'online');
    const seen = { b: 0, c: 0 };
    const end = performance.now() + 2000;
    try {
      // Some addresses are half of one and half of the other; they are nobody's, and go to all.
      while (performance.now() < end && Math.min(seen.b, seen.c) < 3000) {
        a.lanes[0]!.put(batch);
        for (const [name, station, own] of [
          ['b', b, 0x0b],
          ['c', c, 0x0c],
        ] as const) {
          for (const bytes of station.take()) {
            seen[name]++;
            assert.equal(bytes[5], own);
          }
        }
      }
    } finally {
      Atomics.store(window.words, stop >>> 2, 1);
      await once(worker, 'exit');
      arena.free(stop);
    }
    assert.ok(seen.b > 0 && seen.c > 0, JSON.stringify(seen));
  },
);
