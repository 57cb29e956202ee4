/** The port: frames from a file into a batch's buffers and from a batch into a file, with both halves as a NIC uses them. */
import assert from 'node:assert/strict';
import { appendFileSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import * as L from '../../datapath/layout.js';
import { countProcessFds, openFds } from '../linux/fd.js';
import { loadDatapath } from '../ring/datapath.js';
import { readFlow } from './flow.js';
import { pcap } from './pcap.js';
import { Bench, folder, haveTshark, numbered, Pen, readCapture, run, writeBytes } from './pcapng/testing.js';
import type { Port, PortHandle } from './port.js';
import { attachPort, openPort } from './registry.js';

const bench = new Bench();
const { calls } = loadDatapath(bench.window);
const batch = bench.batch();
const pen = new Pen(true);
const head = [...pen.section(), ...pen.interface()];

const before = { fds: openFds(), live: bench.arena.live, all: countProcessFds() };
after(() => {
  assert.deepEqual(openFds(), before.fds);
  assert.equal(bench.arena.live, before.live);
  assert.ok(countProcessFds() <= before.all);
});

/** Opens and attaches; closes when the test ends. */
function openFor(t: { after(f: () => void): void }, spec: string): { handle: PortHandle; port: Port } {
  const handle = openPort(spec, bench);
  t.after(() => handle.close());
  return { handle, port: attach(handle) };
}
const attach = (handle: PortHandle): Port =>
  attachPort(structuredClone(handle.lanes[0]!), { window: bench.window, calls });

/** Asks the port for up to `n` frames into buffers of these sizes; the frames it gave. */
function take(port: Port, n: number, rooms: readonly number[] = [2048]): number[][] {
  const frames = Array.from({ length: n }, () => rooms.map(room => new Uint8Array(room)));
  bench.fill(batch, frames, true);
  const got = port.get(batch);
  return frames.slice(0, got).map((buffers, i) => [...Buffer.concat(buffers).subarray(0, batch.length(i))]);
}

/** Asks until the port is exhausted; bounded. */
function drain(port: Port, n = 16, rooms?: readonly number[]): number[][] {
  const all: number[][] = [];
  for (let calls = 0; !port.exhausted && calls < 10_000; calls++) all.push(...take(port, n, rooms));
  assert.ok(port.exhausted);
  return all;
}

const none = { received: 0, sent: 0, dropped: 0, tooLong: 0, errors: 0, softened: 0 };

test('a batch that wants stamps gets those of the file, and another is not touched', t => {
  const path = join(folder(t), 'f');
  const stamp = (i: number) => batch.stampHigh(i) * 2 ** 32 + batch.stampLow(i);
  const untimed = pen.simple(20, numbered(20));
  writeBytes(path, head, pen.packet(numbered(20), { high: 1, low: 77 }), untimed);
  for (const wanted of [true, false]) {
    const { port } = openFor(t, `pcap:in=${path}`);
    bench.fill(batch, [[new Uint8Array(64)], [new Uint8Array(64)]], true);
    for (const i of [0, 1]) batch.setStamp(i, 0, 5);
    if (wanted) calls.metadata_want(batch.address);
    assert.equal(port.get(batch), 2);
    assert.deepEqual([stamp(0), stamp(1)], wanted ? [(2 ** 32 + 77) * 1000, 0] : [5, 5]);
    calls.kit_clear(batch.address);
  }
});

test('frames come out as they are in the file, into buffers of any sizes, in batches of any size', t => {
  const path = join(folder(t), 'f');
  const frame = fc.uint8Array({ minLength: 14, maxLength: 300 }).map(bytes => [...bytes]);
  const junk = fc.uint8Array({ maxLength: 200 }).map(bytes => pen.block(0xbad, [...bytes]));
  const blocks = fc.array(fc.oneof(frame, fc.record({ junk })), { maxLength: 40 });
  const rooms = fc.array(fc.integer({ min: 0, max: 120 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(blocks, rooms, fc.integer({ min: 1, max: 128 }), fc.boolean(), (blocks, rooms, n, simple) => {
      rooms.push(300);
      const write = (frame: number[]) => (simple ? pen.simple(frame.length, frame) : pen.packet(frame));
      writeBytes(path, head, ...blocks.map(block => (Array.isArray(block) ? write(block) : block.junk)));
      const handle = openPort(`pcap:in=${path}`, bench);
      try {
        const expected = blocks.filter(block => Array.isArray(block));
        assert.deepEqual(drain(attach(handle), n, rooms), expected);
        assert.deepEqual(handle.counters(), { ...none, received: expected.length });
      } finally {
        handle.close();
      }
    }),
    { numRuns: 60 },
  );
});

test('at its end the input is exhausted, and stays so', t => {
  const path = writeBytes(join(folder(t), 'f'), head, pen.packet(numbered(60)));
  const { port } = openFor(t, `pcap:in=${path}`);
  assert.equal(port.fd, -1);
  assert.equal(port.exhausted, false);
  assert.deepEqual(take(port, 4), [numbered(60)]);
  assert.equal(port.exhausted, true);
  appendFileSync(path, Uint8Array.from(pen.packet(numbered(60))));
  assert.deepEqual(take(port, 4), []);
});

test('frames too long for their buffers are dropped and counted, and so are those too short to be frames', t => {
  const sizes = [13, 14, 100, 101, 262144, 99, 0];
  const frames = sizes.map(size => pen.packet(numbered(size)));
  const { port, handle } = openFor(t, `pcap:in=${writeBytes(join(folder(t), 'f'), head, ...frames)}`);
  assert.deepEqual(drain(port, 4, [60, 40]), [numbered(14), numbered(100), numbered(99)]);
  assert.deepEqual(handle.counters(), { ...none, received: 3, tooLong: 2, dropped: 2 });
});

test('one call is bounded, however much of the file is no frame', t => {
  const junk = Array(3000).fill(pen.block(0xbad, []));
  const large = Array(12).fill(pen.block(0xbad, Array(0x10_0000).fill(7)));
  const path = writeBytes(join(folder(t), 'f'), head, ...junk, pen.packet(numbered(60)));
  for (const block of [...large, pen.packet(numbered(61))]) appendFileSync(path, Uint8Array.from(block));
  const { port } = openFor(t, `pcap:in=${path}`);
  const got = Array.from({ length: 5 }, () => take(port, 8).length);
  assert.deepEqual(got, [0, 0, 1, 0, 1]);
  assert.equal(port.exhausted, true);
});

test('a damaged input ends there, with one error; frames before it are handed out', t => {
  const path = join(folder(t), 'f');
  writeBytes(
    path,
    head,
    pen.packet(numbered(60)),
    pen.packet(numbered(61), { captured: 9999 }),
    pen.packet(numbered(62)),
  );
  const { port, handle } = openFor(t, `pcap:in=${path}`);
  assert.deepEqual(drain(port), [numbered(60)]);
  take(port, 4);
  assert.deepEqual(handle.counters(), { ...none, received: 1, errors: 1 });
});

test('an input that shrinks while it is read ends there', t => {
  const frames = Array.from({ length: 9 }, (_, i) => pen.packet(numbered(60, i)));
  const path = writeBytes(join(folder(t), 'f'), head, ...frames);
  const { port, handle } = openFor(t, `pcap:in=${path}`);
  assert.deepEqual(take(port, 1), [numbered(60)]); // the reader is ahead: it holds all of the file in memory
  truncateSync(path, head.length + 3 * 92 + 40);
  assert.deepEqual(drain(port), [numbered(60, 1), numbered(60, 2)]);
  assert.deepEqual(handle.counters(), { ...none, received: 3, errors: 1 });
});

test('another worker goes on where the last one stopped', t => {
  const frames = Array.from({ length: 9 }, (_, i) => pen.packet(numbered(60, i)));
  const { port, handle } = openFor(t, `pcap:in=${writeBytes(join(folder(t), 'f'), head, ...frames)}`);
  assert.equal(take(port, 4).length, 4);
  assert.deepEqual(
    drain(attach(handle)),
    [4, 5, 6, 7, 8].map(i => numbered(60, i)),
  );
  assert.deepEqual(handle.counters(), { ...none, received: 9 });
});

test('what is put ends up in the file', t => {
  const path = join(folder(t), 'f');
  const { port, handle } = openFor(t, `pcap:out=${path}`);
  const frames = Array.from({ length: 128 }, () => [new Uint8Array(60)]);
  for (let round = 0; round < 3; round++) {
    bench.fill(
      batch,
      frames.map(([frame], i) => [frame!.fill(round * 128 + i)]),
    );
    assert.equal(port.put(batch), 128);
  }
  const read = readCapture(path);
  assert.equal(read.fault, '');
  assert.deepEqual(
    read.frames.map(({ bytes }) => [...bytes]),
    Array.from({ length: 384 }, (_, i) => Array(60).fill(i & 255)),
  );
  assert.deepEqual(take(port, 4), []);
  assert.equal(port.exhausted, true);
  assert.deepEqual(handle.counters(), { ...none, sent: 384 });
});

test('a numbered stream through a file: source, pcap, pcap, sink', t => {
  const path = join(folder(t), 'f');
  const buffers = bench.arena.allocate(100 * 2048);
  t.after(() => bench.arena.free(buffers));
  const room = Array.from({ length: 100 }, (_, i) => [
    bench.window.bytes.subarray(buffers + i * 2048, buffers + (i + 1) * 2048),
  ]);
  const { port: from } = openFor(t, 'source:len=1514');
  const { port: file } = openFor(t, `pcap:out=${path}`);
  for (let i = 0; i < 3; i++) {
    bench.fill(batch, room, true);
    assert.equal(from.get(batch), 100);
    assert.equal(file.put(batch), 100);
  }
  const { port: again } = openFor(t, `pcap:in=${path}`);
  const { port: to, handle } = openFor(t, 'sink');
  while (!again.exhausted) {
    bench.fill(batch, room, true);
    const got = again.get(batch);
    bench.fill(batch, room.slice(0, got));
    assert.equal(to.put(batch), got);
  }
  assert.deepEqual(readFlow(bench.window, handle.lanes[0]!.state), { sequence: 300, outOfOrder: 0 });
});

test('without a file to write, and on one that takes nothing, frames are dropped and counted', t => {
  const path = writeBytes(join(folder(t), 'f'), head);
  const { port, handle } = openFor(t, `pcap:in=${path}`);
  bench.fill(batch, [[new Uint8Array(60)], [new Uint8Array(60)]]);
  assert.equal(port.put(batch), 2);
  assert.deepEqual(handle.counters(), { ...none, dropped: 2 });

  const state = bench.arena.allocate(L.PORT_SIZE + 8);
  const descriptor = { kind: 'pcap', name: 'x', state, fds: [-1, 1_000_000], options: {} };
  const broken = pcap.attach(descriptor, { window: bench.window, calls });
  assert.equal(broken.put(batch), 2);
  assert.equal(bench.window.doubles[(state + L.PORT_DROPPED) / 8], 2);
  assert.equal(bench.window.doubles[(state + L.PORT_ERRORS) / 8], 1);
  bench.arena.free(state);
});

test('what goes in comes out, when tools of others have had it in between', t => {
  if (!haveTshark(t)) return;
  const at = folder(t);
  const [from, between, to] = [join(at, 'a'), join(at, 'b'), join(at, 'c')] as const;
  const frames = [60, 61, 999, 1514].map((n, i) => numbered(n, i));
  const first = openFor(t, `pcap:out=${from}`).port;
  bench.fill(
    batch,
    frames.map(frame => [Uint8Array.from(frame)]),
  );
  assert.equal(first.put(batch), 4);
  run('editcap', ['-F', 'pcap', from, between]);
  const { port } = openFor(t, `pcap:in=${between},out=${to}`);
  assert.deepEqual(take(port, 8), frames);
  bench.fill(
    batch,
    frames.map(frame => [Uint8Array.from(frame)]),
  );
  port.put(batch);
  assert.deepEqual(
    readCapture(to).frames.map(({ bytes }) => [...bytes]),
    frames,
  );
});

test('what cannot be opened is said in one line, and nothing stays open', t => {
  const at = folder(t);
  const bad = writeBytes(join(at, 'bad'), numbered(100));
  const raw = writeBytes(join(at, 'raw'), pen.section(), pen.interface(101));
  const good = writeBytes(join(at, 'good'), head);
  const empty = writeBytes(join(at, 'empty'));
  const before = [openFds(), bench.arena.live];
  const CASES: readonly [string, string, RegExp][] = [
    ['pcap', 'PORT_SPEC', /needs a file to read or to write: pcap:in=FILE,out=FILE/],
    ['pcap:in=', 'PORT_SPEC', /needs a file/],
    ['pcap:in=x,out=', 'PORT_SPEC', /needs a file/],
    [`pcap:${good}`, 'PORT_SPEC', /does not belong there/],
    [`pcap:in=${at}/none`, 'PORT_OPEN', /open .*none: ENOENT/],
    [`pcap:in=${at}`, 'PORT_OPEN', /no regular file/],
    ['pcap:in=/dev/zero', 'PORT_OPEN', /no regular file/],
    [`pcap:in=${bad}`, 'PORT_OPEN', /bad is neither pcapng nor pcap/],
    [`pcap:in=${empty}`, 'PORT_OPEN', /too short/],
    [`pcap:in=${raw}`, 'PORT_OPEN', /raw has an interface of link type 101, not Ethernet/],
    [`pcap:out=${at}/no/f`, 'PORT_OPEN', /ENOENT/],
    [`pcap:in=${good},out=/dev/full`, 'PORT_OPEN', /no regular file/],
    [`pcap:in=${good},out=${good}`, 'PORT_OPEN', /is the file to read from/],
  ];
  for (const [spec, code, message] of CASES) {
    assert.throws(
      () => openPort(spec, bench),
      (error: Error & { code: string }) => {
        assert.deepEqual([error.name, error.code], ['PortError', code], spec);
        assert.match(error.message, message, spec);
        assert.doesNotMatch(error.message, /\n/);
        return true;
      },
    );
  }
  assert.deepEqual([openFds(), bench.arena.live], before);
  assert.equal(readFileSync(good).length, head.length);
});
