/** Ports of a switch: what large frames become, which lane gets what, and how ports come and go. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import * as L from '../../datapath/layout.js';
import { openPort } from '../../src/port/registry.js';
import { openSwitchPort } from '../../src/port/switch/index.js';
import { arena, window } from '../compliance/testbed.js';
import { largeFrame, plain, type Shape } from './large-frames.js';
import { type Ask, cutPlainly } from './segment-model.js';
import { calls, frame, hello, mac, SECOND, type Station, switchTest } from './switch-bed.js';

const A = '02:00:00:00:00:0a';
const B = '02:00:00:00:00:0b';
const NOTHING: Ask = { flags: 0, type: 0, hdrLen: 0, gsoSize: 0, start: 0, offset: 0 };

/** A large frame from one station to another. */
function large(shape: Partial<Shape>): { bytes: Buffer; ask: Ask } {
  const route = {
    ethernet: Buffer.from([...mac(B), ...mac(A)]),
    source: Buffer.from([10, 0, 0, 1]),
    target: Buffer.from([10, 0, 0, 2]),
    port: 7000,
  };
  const { frame, ask } = largeFrame({ ...plain, ...shape }, route);
  return { bytes: frame, ask };
}

switchTest('a large frame arrives whole where that was agreed on, with what it asks for', join => {
  const [a, b] = [join(), join()];
  b.send(hello(B));
  b.port.setOffloads(L.OFFLOAD_ALL);
  for (const payload of [5000, 65_000]) {
    const sent = large({ payload });
    a.send(sent);
    const [got] = b.get(2, 65_536);
    assert.ok(got!.bytes.equals(sent.bytes));
    assert.deepEqual(got!.ask, sent.ask);
  }
  assert.equal(b.port.counters().softened, 0);
});

switchTest('and in pieces where it was not, or where there is no room for it', join => {
  const [a, b] = [join(), join()];
  b.send(hello(B));
  for (const kind of ['tcp', 'datagrams'] as const) {
    for (const offloads of [0, L.OFFLOAD_CSUM, L.OFFLOAD_ALL]) {
      b.port.setOffloads(offloads);
      const sent = large({ kind, payload: 20_000, size: 1400 });
      const before = b.port.counters().softened;
      a.send(sent, frame(B, A, 70, 9));
      const got: Buffer[] = [];
      // Small batches: the rest of the frame waits for the next one.
      for (let some = b.get(4, 1518); some.length > 0; some = b.get(4, 1518)) {
        for (const { bytes, ask } of some) {
          assert.deepEqual(ask, NOTHING);
          got.push(bytes);
        }
      }
      const id = got[0]!.readUInt16BE(18);
      assert.deepEqual(
        got,
        [...cutPlainly(sent.bytes, sent.ask, id)!, frame(B, A, 70, 9)],
        `${kind}, ${offloads}`,
      );
      assert.equal(b.port.counters().softened, before + 1);
    }
  }
});

switchTest('a checksum to be finished is left to who agreed to it, and finished for the others', join => {
  const [a, b, c] = [join(), join(), join()];
  for (const [station, offloads] of [
    [b, L.OFFLOAD_CSUM],
    [c, 0],
  ] as const) {
    station.port.setOffloads(offloads);
  }
  const { bytes, ask } = large({ payload: 500 });
  const sum = { ...ask, type: 0, gsoSize: 0, hdrLen: 0 };
  a.send({ bytes, ask: sum }); // nobody knows B: both get it
  const [[atB], [atC]] = [b.get(), c.get()];
  assert.deepEqual(atB!.ask, sum);
  assert.ok(atB!.bytes.equals(bytes));
  assert.deepEqual(atC!.ask, NOTHING);
  assert.ok(!atC!.bytes.equals(bytes));
});

switchTest('what a guest says of checksums that are good already, nobody hears', join => {
  const [a, b] = [join(), join()];
  b.port.setOffloads(L.OFFLOAD_ALL);
  a.send({ bytes: frame(B, A, 100), ask: { flags: 2, start: 20, offset: 6, hdrLen: 77 } });
  const { bytes, ask } = large({ payload: 500 });
  a.send({ bytes, ask: { ...ask, flags: 3 } });
  const got = [...b.get(1, 70_000), ...b.get(1, 70_000)];
  assert.deepEqual(
    got.map(one => one.ask),
    [NOTHING, ask],
  );
});

switchTest('frames that are too long for a buffer are counted, and the next ones come', join => {
  const [a, b] = [join(), join()];
  a.send(frame(B, A, 3000), frame(B, A, 80), frame(B, A, 1519), frame(B, A, 81));
  assert.deepEqual(
    b.get(8, 1518).map(({ bytes }) => bytes.length),
    [80, 81],
  );
  assert.equal(b.port.counters().tooLong, 2);
});

switchTest('buffers that the datapath cannot reach cost the frames for them, and no more', join => {
  const [a, b] = [join(), join()];
  const sent = Array.from({ length: 200 }, (_, i) => frame(B, A, 60, i));
  a.send(...sent.slice(0, 100));
  const batch = b.batchOf([frame(A, B, 2048)]); // stands for room
  const first = window.words[(batch.address + L.BATCH_FRAMES) >>> 2]!;
  const win = window.words[(first + L.FRAME_WIN) >>> 2]!;
  window.words[(first + L.FRAME_ROOM) >>> 2] = 2048;
  window.words[win >>> 2] = 0;
  assert.equal(b.lanes[0]!.get(batch), 0);
  assert.equal(b.port.counters().unreachable, 100);
  a.send(...sent.slice(100));
  assert.equal(b.take().length, 100);
});

// ---- lanes

/** A UDP datagram between two ports. */
function datagram(from: number, to: number, change?: (bytes: Buffer) => void): Buffer {
  const { bytes } = large({ kind: 'datagrams', payload: 30, size: 1400 });
  bytes.writeUInt16BE(from, 34);
  bytes.writeUInt16BE(to, 36);
  change?.(bytes);
  return bytes;
}

/** The lane on which a frame arrives. */
function laneOf(a: Station, b: Station, bytes: Buffer): number {
  a.send(bytes);
  const lanes = [...b.lanes.keys()].filter(lane => b.get(2, 2048, { lane }).length > 0);
  assert.equal(lanes.length, 1);
  return lanes[0]!;
}

switchTest(
  'frames of one flow take one lane, in their order; many flows take all that are in service',
  join => {
    const [a, b] = [join(), join({ lanes: 4 })];
    b.send(hello(B));
    for (const used of [4, 3, 1, 2, 4]) {
      b.port.useLanes(used);
      const lanes = Array.from({ length: 200 }, (_, i) => laneOf(a, b, datagram(1000 + i, 7)));
      assert.deepEqual(
        [0, 1, 2, 3].map(lane => lanes.includes(lane)),
        [0, 1, 2, 3].map(lane => lane < used),
      );
      for (const [i, lane] of lanes.entries()) assert.equal(laneOf(a, b, datagram(1000 + i, 7)), lane);
    }
    b.port.useLanes(0);
    assert.equal(laneOf(a, b, datagram(1, 2)), 0);
    b.port.useLanes(9);
    a.send(...Array.from({ length: 64 }, (_, i) => datagram(5, 5, bytes => bytes.fill(i, 60))));
    const counts = [0, 1, 2, 3].map(lane => [1, 2].flatMap(() => b.get(32, 2048, { lane })));
    assert.deepEqual(
      counts.map(({ length }) => length).sort((x, y) => x - y),
      [0, 0, 0, 64],
    );
    const all = counts.flat();
    for (const [i, { bytes }] of all.entries()) assert.equal(bytes.at(-1), i);
  },
);

switchTest(
  'fragments of a datagram take one lane, whatever stands where the ports would be; tags change nothing',
  join => {
    const [a, b] = [join(), join({ lanes: 8 })];
    b.send(hello(B));
    const fragment = (bytes: Buffer) => void bytes.writeUInt16BE(0x2000, 20);
    const lanes = Array.from({ length: 50 }, (_, i) => laneOf(a, b, datagram(i, 3 * i, fragment)));
    assert.equal(new Set(lanes).size, 1);
    const tagged = (bytes: Buffer) =>
      Buffer.concat([bytes.subarray(0, 12), Buffer.from([0x81, 0, 0, 5]), bytes.subarray(12)]);
    for (let i = 0; i < 20; i++) {
      const plainLane = laneOf(a, b, datagram(i, 7));
      assert.equal(laneOf(a, b, tagged(datagram(i, 7))), plainLane);
    }
    // Cut short at any byte, in buffers of any size: there is a lane for it.
    const whole = datagram(3, 7);
    for (let length = 14; length < whole.length; length++) laneOf(a, b, whole.subarray(0, length));
  },
);

switchTest('a flow has one lane however its frames are cut into buffers', join => {
  const [a, b] = [join(), join({ lanes: 8 })];
  b.send(hello(B));
  for (let i = 0; i < 20; i++) {
    const lane = laneOf(a, b, datagram(i, 7));
    for (const cuts of [[14], [1, 1, 1], [0, 20], [35]]) {
      a.send({ bytes: datagram(i, 7), cuts });
      assert.equal(b.get(2, 2048, { lane }).length, 1, `${cuts}`);
    }
  }
});

// ---- coming and going

switchTest(
  'a port that leaves takes its addresses with it, and who comes next in its place has none',
  join => {
    const [a, b, c] = [join(), join(), join()];
    b.send(hello(B));
    for (const station of [a, c]) assert.equal(station.take().length, 1);
    b.close();
    a.send(frame(B, A));
    assert.equal(c.take().length, 1, 'unknown again');
    const d = join();
    a.send(frame(B, A));
    assert.deepEqual(
      [c, d].map(station => station.take().length),
      [1, 1],
    );
    assert.equal(d.port.counters().addresses, 0);
    for (const station of [a, c, d]) station.close();
  },
);

switchTest('names are switches of their own, and one ends with its last port', join => {
  const [a, b, other] = [join(), join(), join({ name: 'other' })];
  a.send(hello(A));
  assert.deepEqual(
    [b, other].map(station => station.take().length),
    [1, 0],
  );
  for (const station of [a, b]) station.close();
  const [next, after] = [join(), join()];
  next.send(frame(A, B));
  assert.equal(after.take().length, 1);
  assert.equal(next.port.counters().flooded, 1, 'a new one of the same name knows nothing');
});

switchTest('alone at its switch a port sends to nobody, and that is no mistake', join => {
  const a = join();
  assert.equal(a.send(hello(A), frame(B, A)), 2);
  assert.deepEqual(a.take(), []);
  const { sent, dropped } = a.port.counters();
  assert.deepEqual({ sent, dropped }, { sent: 2, dropped: 0 });
});

switchTest('a switch has 32 ports and no more; memory that is not there leaves nothing behind', () => {
  const host = { window, arena };
  const before = arena.live;
  const limits = { addresses: 4, floodRate: 1, floodBurst: 1, inboxBytes: 4096, laneBytes: 4096 };
  const open = (inboxBytes = 4096) =>
    openSwitchPort(new Map([['_', 'many']]), host, 1, { ...limits, inboxBytes });
  assert.throws(() => open(1 << 26), { code: 'MEMORY_FULL' });
  assert.equal(arena.live, before);
  const ports = Array.from({ length: 32 }, () => open());
  assert.throws(() => open(), { code: 'PORT_OPEN', message: /32 ports already/ });
  ports.pop()!.close();
  assert.throws(() => open(1 << 26), { code: 'MEMORY_FULL' });
  ports.push(open());
  for (const port of ports) port.close();
  assert.equal(arena.live, before);
  const most = openPort('switch:many', host, 1000);
  assert.equal(most.lanes.length, 32);
  most.close();
});

/** A worker that is in the middle of bringing frames, and goes on after a while. */
const MIDDLE = `
  const { workerData: { memory, index } } = require('node:worker_threads');
  const words = new Int32Array(memory.buffer);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
  Atomics.add(words, index, 1);
`;

switchTest('memory of a port is given up only when no worker can still be writing into it', async join => {
  const [a, b] = [join(), join()];
  b.take();
  // It has put a frame, and is to wake b: until it has, it uses b's inbox and eventfd.
  const batch = a.batchOf([hello(A)]);
  calls.switch_put(a.state(), batch.address, 0, 100 * SECOND);
  const index = (a.state() + L.SWLANE_EPOCH) >>> 2;
  assert.equal(window.words[index]! % 2, 1);
  const worker = new Worker(MIDDLE, { eval: true, workerData: { memory: window.memory, index } });
  await once(worker, 'online');
  const start = performance.now();
  b.close();
  assert.ok(performance.now() - start > 20, 'it has waited');
  assert.equal(window.words[index]! % 2, 0);
  await once(worker, 'exit');
});
