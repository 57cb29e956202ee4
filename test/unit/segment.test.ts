/** TCP segmentation in software, packet by packet; and through two real kernels, one of which sends large frames that the other end has not agreed to. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import fc from 'fast-check';
import * as L from '../../datapath/layout.js';
import { Bench } from '../../src/port/pcapng/testing.js';
import { loadDatapath } from '../../src/ring/datapath.js';
import { getHeader, pieces, setHeader } from '../compliance/packets.js';
import { arena, window } from '../compliance/testbed.js';
import { internetChecksum } from './internet-checksum.js';

const bench = new Bench({ window, arena });
const { calls } = loadDatapath(window);
const [from, to] = [bench.batch(), bench.batch()];
const segments = arena.allocate(L.SEGMENTS_BYTES);
const space = arena.allocate(1 << 18);
after(() => {
  bench.close();
  for (const address of [from.address, to.address, segments, space]) arena.free(address);
});

interface Shape {
  readonly v6: boolean;
  readonly vlans: number;
  /** Words of options. */
  readonly ip: number;
  readonly tcp: number;
  readonly payload: number;
  readonly size: number;
  readonly flags: number;
  readonly sequence: number;
}

const shape: fc.Arbitrary<Shape> = fc.record({
  v6: fc.boolean(),
  vlans: fc.integer({ min: 0, max: 2 }),
  ip: fc.integer({ min: 0, max: 10 }),
  tcp: fc.integer({ min: 0, max: 10 }),
  payload: fc.integer({ min: 1, max: 20_000 }),
  size: fc.integer({ min: 1, max: 3000 }),
  flags: fc.integer({ min: 0, max: 255 }),
  sequence: fc.integer({ min: 0, max: 0xffff_ffff }),
});

/** Offsets of IP, TCP and payload. */
function offsets({ v6, vlans, ip, tcp }: Shape): [number, number, number] {
  const l3 = 14 + 4 * vlans;
  const l4 = l3 + (v6 ? 40 : 20 + 4 * ip);
  return [l3, l4, l4 + 20 + 4 * tcp];
}

/** A large frame as a kernel hands it over: lengths of the whole, the checksum that of the pseudo-header. */
function largeFrame(shape: Shape): Buffer {
  const [l3, l4, start] = offsets(shape);
  const frame = Buffer.alloc(start + shape.payload);
  for (let i = 0; i < frame.length; i++) frame[i] = (i * 31) ^ (i >> 8);
  for (let i = 0; i < shape.vlans; i++) frame.writeUInt16BE(i === 0 ? 0x88a8 : 0x8100, 12 + 4 * i);
  frame.writeUInt16BE(shape.v6 ? 0x86dd : 0x800, l3 - 2);
  if (shape.v6) frame[l3 + 6] = 6;
  else {
    frame[l3] = 0x45 + shape.ip;
    frame[l3 + 9] = 6;
  }
  frame.writeUInt32BE(shape.sequence, l4 + 4);
  frame[l4 + 12] = (5 + shape.tcp) << 4;
  frame[l4 + 13] = shape.flags;
  return frame;
}

/** Puts the frame into a batch, its last bytes into the spill when the buffers hold less; lets it be cut; returns all segments. */
function cut(
  frame: Buffer,
  shape: Shape,
  { room = frame.length, outRoom = 9000, header = {} } = {},
): Buffer[] | null {
  const [, l4, start] = offsets(shape);
  const half = room >> 1;
  const at = (offset: number, length: number) =>
    window.bytes.subarray(space + offset, space + offset + length);
  const buffers = [at(0, half), at(half + 5, room - half)];
  bench.fill(from, [buffers], true);
  buffers[0]!.set(frame.subarray(0, half));
  buffers[1]!.set(frame.subarray(half, room));
  const spill = window.words[(from.address + L.BATCH_SPILL) >>> 2]!;
  window.bytes.set(frame.subarray(room), spill);
  from.setLength(0, frame.length);
  const type = shape.v6 ? 4 : 1;
  setHeader(from, 0, {
    flags: 1,
    type,
    hdrLen: start,
    gsoSize: shape.size,
    start: l4,
    offset: 16,
    ...header,
  });
  if (calls.segment_begin(segments, from.address, 0) === 0) return null;
  for (const buffer of buffers) buffer.fill(0); // it is looked at no more

  const out: Buffer[] = [];
  while (calls.segment_pending(segments) !== 0) {
    const parts = [at(1 << 17, 100), at((1 << 17) + 101, outRoom - 100)];
    bench.fill(to, [parts], true);
    setHeader(to, 0, { flags: 1, type: 1, gsoSize: 7 });
    if (calls.segment_next(segments, to.address, 0) === 0) continue;
    assert.deepEqual(getHeader(to, 0), { flags: 0, type: 0, hdrLen: 0, gsoSize: 0, start: 0, offset: 0 });
    out.push(Buffer.concat(pieces(to, 0, to.length(0))));
  }
  return out;
}

/** Compares with what RFC 791, 8200, 9293 say of the packets, from the large frame alone. */
function check(segment: Buffer, i: number, count: number, frame: Buffer, shape: Shape): void {
  const [l3, l4, start] = offsets(shape);
  const offset = i * shape.size;
  const payload = frame.subarray(start + offset, Math.min(start + offset + shape.size, frame.length));
  assert.ok(segment.subarray(start).equals(payload), `payload of segment ${i}`);
  const expected = Buffer.from(frame.subarray(0, start));
  const bytes = start - l4 + payload.length;
  let addresses: Buffer;
  if (shape.v6) {
    expected.writeUInt16BE(bytes, l3 + 4);
    addresses = expected.subarray(l3 + 8, l3 + 40);
  } else {
    expected.writeUInt16BE(l4 - l3 + bytes, l3 + 2);
    expected.writeUInt16BE((frame.readUInt16BE(l3 + 4) + i) & 0xffff, l3 + 4);
    expected.writeUInt16BE(0, l3 + 10);
    expected.writeUInt16BE(internetChecksum(expected.subarray(l3, l4)), l3 + 10);
    addresses = expected.subarray(l3 + 12, l3 + 20);
  }
  expected.writeUInt32BE((shape.sequence + offset) % 2 ** 32, l4 + 4);
  expected[l4 + 13] = shape.flags & (i === count - 1 ? 0xff : ~0x09) & (i === 0 ? 0xff : ~0x80);
  expected.writeUInt16BE(0, l4 + 16);
  const pseudo = Buffer.concat([addresses, Buffer.of(0, 6, bytes >> 8, bytes & 255)]);
  const sum = internetChecksum(
    Buffer.concat([expected.subarray(l4), payload]),
    0xffff - internetChecksum(pseudo),
  );
  expected.writeUInt16BE(sum, l4 + 16);
  assert.deepEqual([...segment.subarray(0, start)], [...expected], `headers of segment ${i} of ${count}`);
}

test('segments are those that the large frame stands for, whatever headers it has, wherever it ended', () => {
  let spilled = 0;
  fc.assert(
    fc.property(shape, fc.nat(), (shape, at) => {
      const frame = largeFrame(shape);
      const room = 200 + (at % 4000);
      if (room < frame.length) spilled++;
      const out = cut(frame, shape, { room: Math.min(room, frame.length) });
      const count = Math.ceil(shape.payload / shape.size);
      assert.equal(out?.length, count);
      for (const [i, segment] of out!.entries()) check(segment, i, count, frame, shape);
    }),
    { numRuns: 300 },
  );
  assert.ok(spilled > 50, `only ${spilled} ran into the spill`);
});

const plain: Shape = {
  v6: false,
  vlans: 0,
  ip: 0,
  tcp: 3,
  payload: 5000,
  size: 1448,
  flags: 0x18,
  sequence: 1,
};

test('the largest frame there is', () => {
  const shape = { ...plain, payload: 65536 - 66 };
  const frame = largeFrame(shape);
  const out = cut(frame, shape, { room: 1518 })!;
  for (const [i, segment] of out.entries()) check(segment, i, out.length, frame, shape);
  const larger = { ...plain, payload: 65537 - 66 };
  assert.equal(cut(largeFrame(larger), larger, { room: 1518 }), null);
});

test('what is no TCP frame to be cut is refused', () => {
  const refused = (change: (frame: Buffer) => void, header = {}) => {
    const frame = largeFrame(plain);
    change(frame);
    return cut(frame, plain, { header }) === null;
  };
  const same = () => {};
  assert.equal(refused(same), false);
  assert.ok(
    refused(frame => frame.writeUInt16BE(0x806, 12)),
    'ARP',
  );
  assert.ok(
    refused(frame => frame.writeUInt16BE(0x8100, 12)),
    'a VLAN and then nothing',
  );
  assert.ok(
    refused(frame => (frame[14] = 0x44)),
    'an IP header that is too short',
  );
  assert.ok(
    refused(frame => (frame[14] = 0x46)),
    'TCP is somewhere else',
  );
  assert.ok(
    refused(frame => (frame[23] = 17)),
    'UDP',
  );
  assert.ok(
    refused(frame => (frame[46] = 0x40)),
    'a TCP header that is too short',
  );
  assert.ok(refused(same, { gsoSize: 0 }), 'segments of nothing');
  assert.ok(refused(same, { flags: 0 }), 'no checksum');
  assert.ok(refused(same, { type: 3 }), 'UDP by its header');
  assert.ok(refused(same, { type: 0 }), 'nothing asked');
  assert.ok(refused(same, { start: 5060 }), 'TCP at the end');
  assert.ok(refused(same, { offset: 6 }), "a checksum that is not TCP's");
  const empty = { ...plain, payload: 0 };
  assert.equal(cut(largeFrame(empty), empty), null);
});

test('segments that do not fit end the frame', () => {
  assert.deepEqual(cut(largeFrame(plain), plain, { outRoom: 1513 }), []);
  assert.equal(calls.segment_pending(segments), 0);
  assert.equal(cut(largeFrame(plain), plain, { outRoom: 1514 })!.length, 4);
});
