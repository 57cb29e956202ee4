/** What ports share for frames that ask for too much: the inlet, the outlet, and the capture file as a port that can take nothing of the kind. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { Bench, folder, readCapture } from '../../src/port/pcapng/testing.js';
import { attachPort, openPort } from '../../src/port/registry.js';
import {
  INLET_BYTES,
  Inlet,
  OUTLET_BYTES,
  Outlet,
  prepareInlet,
  prepareOutlet,
} from '../../src/port/soften.js';
import { loadDatapath } from '../../src/ring/datapath.js';
import { getHeader, pieces, setHeader } from '../compliance/packets.js';
import { arena, window } from '../compliance/testbed.js';
import { largeFrame, payloadOf, plain, type Shape } from './large-frames.js';
import { type Ask, cutPlainly, reassemble, receive } from './segment-model.js';

const { calls } = loadDatapath(window);
const bench = new Bench({ window, arena });
const batch = bench.batch();
const state = arena.allocate(L.PORT_SIZE + INLET_BYTES);
const space = arena.allocate(1 << 20);
after(() => {
  bench.close();
  for (const address of [batch.address, state, space]) arena.free(address);
});

const nothing: Ask = { flags: 0, type: 0, hdrLen: 0, gsoSize: 0, start: 0, offset: 0 };
const at = (offset: number, length: number) => window.bytes.subarray(space + offset, space + offset + length);
const counter = (field: number) => window.doubles[(state + field) / 8]!;

/** A batch of `n` frames with this much room each. */
function roomFor(n: number, room: number): void {
  bench.fill(
    batch,
    Array.from({ length: n }, (_, i) => [at(i * 4096, room)]),
    true,
  );
}

/** Frame `i` of the batch has come in. */
function arrive(i: number, { frame, ask }: { frame: Buffer; ask: Ask }): void {
  const room = batch.room(i);
  at(i * 4096, room).set(frame.subarray(0, room));
  window.bytes.set(frame.subarray(room), window.words[(batch.address + L.BATCH_SPILL) >>> 2]!);
  batch.setLength(i, frame.length);
  setHeader(batch, i, ask);
}

const bytesOf = (i: number): Buffer => Buffer.concat(pieces(batch, i, batch.length(i)));

test('an inlet fills the batch with pieces, and the next one with what did not fit', () => {
  prepareInlet(window, state + L.PORT_SIZE);
  const inlet = new Inlet({ window, calls }, state + L.PORT_SIZE, state);
  const large = largeFrame({ ...plain, kind: 'datagrams', payload: 7000, size: 1000 });
  roomFor(4, 1518);
  assert.equal(inlet.rest(batch, 0), 0, 'nothing is left from before');
  arrive(0, { frame: large.frame.subarray(0, 60), ask: nothing });
  assert.equal(inlet.take(batch, 0, 0), 1);
  arrive(1, large);
  assert.equal(inlet.take(batch, 1, L.OFFLOAD_CSUM | L.OFFLOAD_TSO4), 4, 'three of seven');
  const got = [1, 2, 3].map(bytesOf);
  roomFor(3, 1518);
  assert.equal(inlet.rest(batch, 0), 3);
  got.push(...[0, 1, 2].map(bytesOf));
  roomFor(3, 1518);
  assert.equal(inlet.rest(batch, 1), 2, 'the last one');
  got.push(bytesOf(1));
  assert.equal(inlet.rest(batch, 2), 2);
  for (const [i, piece] of cutPlainly(large.frame, large.ask, 0)!.entries()) {
    assert.ok(got[i]!.equals(piece), `piece ${i}`);
  }
  assert.equal(got.length, 7);
  assert.equal(counter(L.PORT_SOFTENED), 1);
});

test('an inlet leaves alone what was agreed on, finishes checksums, and counts what it has to drop', () => {
  const inlet = new Inlet({ window, calls }, state + L.PORT_SIZE, state);
  const before = { softened: counter(L.PORT_SOFTENED), dropped: 0, tooLong: 0 };
  const small = largeFrame({ ...plain, payload: 1000, size: 500 });
  roomFor(2, 1518);
  arrive(0, small);
  assert.equal(inlet.take(batch, 0, L.OFFLOAD_CSUM | L.OFFLOAD_TSO4), 1);
  assert.deepEqual(getHeader(batch, 0), small.ask);
  assert.ok(bytesOf(0).equals(small.frame));

  const sum = { ...small.ask, type: 0, gsoSize: 0, hdrLen: 0 };
  arrive(0, { ...small, ask: sum });
  assert.equal(inlet.take(batch, 0, 0), 1);
  assert.deepEqual(getHeader(batch, 0), nothing);
  receive(bytesOf(0));
  assert.equal(counter(L.PORT_SOFTENED), before.softened + 1);

  // Agreed on, but longer than there is room: it is cut all the same.
  const long = largeFrame({ ...plain, payload: 2000 });
  arrive(0, long);
  assert.equal(inlet.take(batch, 0, L.OFFLOAD_ALL), 2);
  assert.equal(counter(L.PORT_SOFTENED), before.softened + 2);

  arrive(0, { ...long, ask: nothing });
  assert.equal(inlet.take(batch, 0, L.OFFLOAD_ALL), 0);
  assert.equal(counter(L.PORT_TOO_LONG), 1, 'nobody asked for it to be cut');
  arrive(0, { ...small, ask: { ...small.ask, start: 900 } });
  assert.equal(inlet.take(batch, 0, 0), 0);
  assert.equal(counter(L.PORT_DROPPED), 1, 'a header that lies');
  roomFor(2, 1000);
  arrive(0, long);
  assert.equal(inlet.take(batch, 0, 0), 0);
  assert.equal(counter(L.PORT_TOO_LONG), 2, 'pieces that have no room');
  assert.equal(inlet.rest(batch, 0), 0);
});

test('an outlet gives all pieces, batch after batch, and of the frame it took nothing changes', () => {
  const outlet = arena.allocate(OUTLET_BYTES);
  prepareOutlet(window, outlet);
  const taker = new Outlet({ window, calls }, outlet);
  const large = largeFrame({ ...plain, payload: 20_000, size: 100 });
  bench.fill(batch, [[at(0, large.frame.length)]]);
  at(0, large.frame.length).set(large.frame);
  setHeader(batch, 0, large.ask);
  assert.ok(taker.begin(batch, 0));
  const counts: number[] = [];
  while (taker.fill() > 0) counts.push(taker.pieces.count);
  assert.deepEqual(counts, [128, 72]);
  assert.ok(bytesOf(0).equals(large.frame));
  assert.deepEqual(getHeader(batch, 0), large.ask);
  setHeader(batch, 0, { ...large.ask, gsoSize: 0 });
  assert.equal(taker.begin(batch, 0), false);
  assert.equal(taker.fill(), 0);
  arena.free(outlet);
});

test('frames that are not in the window are softened by their addresses in this process', () => {
  const outlet = arena.allocate(OUTLET_BYTES);
  prepareOutlet(window, outlet);
  const inlet = new Inlet({ window, calls }, state + L.PORT_SIZE, state);
  const taker = new Outlet({ window, calls }, outlet);
  const large = largeFrame({ ...plain, payload: 7000, size: 1000 });
  const expected = cutPlainly(large.frame, large.ask, 0)!;
  const elsewhere = (frame: Uint8Array) => [
    new Uint8Array(frame.subarray(0, 99)),
    new Uint8Array(frame.subarray(99)),
  ];

  bench.fill(batch, [elsewhere(large.frame)]);
  setHeader(batch, 0, large.ask);
  assert.ok(taker.begin(batch, 0));
  assert.equal(taker.fill(), 7);
  for (const [i, piece] of expected.entries()) {
    assert.ok(Buffer.concat(pieces(taker.pieces, i, piece.length)).equals(piece), `sent piece ${i}`);
  }

  const buffers = Array.from({ length: 8 }, () => elsewhere(new Uint8Array(1518)));
  bench.fill(batch, buffers, true);
  const room = batch.room(0);
  for (const [b, start] of [0, 99].entries())
    buffers[0]![b]!.set(large.frame.subarray(start, b === 0 ? 99 : room));
  window.bytes.set(large.frame.subarray(room), window.words[(batch.address + L.BATCH_SPILL) >>> 2]!);
  batch.setLength(0, large.frame.length);
  setHeader(batch, 0, large.ask);
  assert.equal(inlet.take(batch, 0, 0), 7);
  for (const [i, piece] of expected.entries()) {
    assert.equal(batch.length(i), piece.length);
    assert.ok(Buffer.concat(buffers[i]!).subarray(0, piece.length).equals(piece), `received piece ${i}`);
  }

  const sum = { ...large.ask, type: 0, gsoSize: 0, hdrLen: 0 };
  const small = largeFrame({ ...plain, payload: 1000 });
  for (const [b, start] of [0, 99].entries())
    buffers[0]![b]!.set(small.frame.subarray(start, b === 0 ? 99 : undefined));
  bench.fill(batch, buffers, true);
  batch.setLength(0, small.frame.length);
  setHeader(batch, 0, sum);
  assert.equal(inlet.take(batch, 0, 0), 1);
  assert.deepEqual(getHeader(batch, 0), nothing);
  receive(Buffer.concat(buffers[0]!).subarray(0, small.frame.length));
  arena.free(outlet);
});

test('a capture file gets what would be on the wire, in order', t => {
  const path = join(folder(t), 'f');
  const handle = openPort(`pcap:out=${path}`, { window, arena });
  t.after(() => handle.close());
  const port = attachPort(handle.lanes[0]!, { window, calls });
  const sum = (shape: Shape) => {
    const { frame, ask } = largeFrame(shape);
    return { frame, ask: { ...ask, type: 0, gsoSize: 0, hdrLen: 0 } };
  };
  const shapes: Shape[] = [
    plain,
    { ...plain, kind: 'datagrams', v6: true },
    { ...plain, kind: 'fragments' },
    { ...plain, kind: 'fragments', v6: true },
  ];
  const short = { ...plain, payload: 100 };
  const frames = [
    ...[sum(short), largeFrame(shapes[0]!), largeFrame(shapes[1]!), sum({ ...short, kind: 'datagrams' })],
    ...[sum({ ...short, v6: true }), largeFrame(shapes[2]!), largeFrame(shapes[3]!)],
    { frame: largeFrame(plain).frame, ask: { ...largeFrame(plain).ask, start: 20 } }, // lies
    { frame: largeFrame(short).frame, ask: nothing },
  ];
  const buffers = frames.map(({ frame }, i) => at(i * 16384, frame.length));
  for (const [i, { frame }] of frames.entries()) buffers[i]!.set(frame);
  bench.fill(
    batch,
    buffers.map(buffer => [buffer.subarray(0, 50), buffer.subarray(50)]),
  );
  for (const [i, { ask }] of frames.entries()) setHeader(batch, i, ask);
  assert.equal(port.put(batch), frames.length);
  for (const [i, { frame, ask }] of frames.entries()) {
    assert.ok(bytesOf(i).equals(frame), `frame ${i} was changed`);
    assert.deepEqual(getHeader(batch, i), ask);
  }

  const seen = readCapture(path).frames.map(({ bytes }) => Buffer.from(bytes));
  const take = (n: number) => seen.splice(0, n);
  const user = (frame: Buffer, header: number) => receive(frame).transport.subarray(header);
  const joined = (n: number, header: number) => Buffer.concat(take(n).map(piece => user(piece, header)));
  receive(take(1)[0]!);
  assert.ok(joined(4, 32).equals(payloadOf(plain)), 'TCP');
  assert.ok(joined(4, 8).equals(payloadOf(shapes[1]!)), 'datagrams');
  receive(take(1)[0]!);
  receive(take(1)[0]!);
  assert.ok(user(reassemble(take(4)), 8).equals(payloadOf(shapes[2]!)), 'fragments');
  assert.ok(user(reassemble(take(4)), 8).equals(payloadOf(shapes[3]!)), 'IPv6 fragments');
  assert.ok(take(1)[0]!.equals(frames.at(-1)!.frame), 'what asks for nothing is left as it is');
  assert.equal(seen.length, 0);
  const { sent, dropped, softened, errors } = handle.counters();
  assert.deepEqual({ sent, dropped, softened, errors }, { sent: 20, dropped: 1, softened: 4, errors: 0 });
});
