/** Segmentation in software, packet by packet: against a plain model, and against a receiver who checks everything. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import fc from 'fast-check';
import * as L from '../../datapath/layout.js';
import { window } from '../compliance/testbed.js';
import { GSO, largeFrame, payloadOf, plain, type Shape, shape } from './large-frames.js';
import { SegmentBed } from './segment-bed.js';
import { cutPlainly, reassemble, receive } from './segment-model.js';

const bed = new SegmentBed();
after(() => bed.close());

/** The identification in the first of these fragments, as the model wants it. */
function idOf(pieces: readonly Buffer[]): number {
  return receive(pieces[0]!).id;
}

/** The payload that a receiver gets from these pieces. */
function delivered(pieces: readonly Buffer[], { kind }: Shape): Buffer {
  if (kind === 'fragments') return receive(reassemble(pieces)).transport.subarray(8);
  return Buffer.concat(
    pieces.map(piece => {
      const { transport } = receive(piece);
      return transport.subarray(kind === 'tcp' ? (transport[12]! >> 4) * 4 : 8);
    }),
  );
}

test('pieces are those that the large frame stands for, whatever headers it has, wherever it ended', () => {
  let spilled = 0;
  fc.assert(
    fc.property(shape, fc.nat(), (shape, at) => {
      const { frame, ask } = largeFrame(shape);
      const room = Math.min(frame.length, 200 + (at % 4000));
      if (room < frame.length) spilled++;
      const copied = bed.copied(frame, ask, { room })!;
      const expected = cutPlainly(frame, ask, idOf(copied))!;
      assert.equal(copied.length, expected.length);
      for (const [i, piece] of copied.entries()) assert.ok(piece.equals(expected[i]!), `copied piece ${i}`);
      assert.ok(delivered(copied, shape).equals(payloadOf(shape)), 'what a receiver gets');
      const referred = bed.referred(frame, ask)!;
      const again = cutPlainly(frame, ask, idOf(referred))!;
      assert.equal(referred.length, again.length);
      for (const [i, piece] of referred.entries()) assert.ok(piece.equals(again[i]!), `referred piece ${i}`);
    }),
    { numRuns: 300 },
  );
  assert.ok(spilled > 50, `only ${spilled} ran into the spill`);
});

const KINDS = ['tcp', 'datagrams', 'fragments'] as const;

test('the largest frame there is', () => {
  for (const kind of KINDS) {
    const headers = kind === 'tcp' ? 66 : 42;
    const shape: Shape = { ...plain, kind, payload: 65536 - headers };
    const { frame, ask } = largeFrame(shape);
    const out = bed.copied(frame, ask, { room: 1518 })!;
    assert.ok(delivered(out, shape).equals(payloadOf(shape)));
    assert.ok(out.every(piece => piece.length <= 1514));
    const larger = largeFrame({ ...shape, payload: 65537 - headers });
    assert.equal(bed.copied(larger.frame, larger.ask, { room: 1518 }), null);
  }
});

test('a datagram that needs no fragments gets none; one that is a byte longer gets two', () => {
  for (const v6 of [false, true]) {
    const size = 1480;
    const fits: Shape = { ...plain, kind: 'fragments', v6, payload: size - 8, dontFragment: true };
    for (const [payload, count] of [
      [fits.payload, 1],
      [fits.payload + 1, 2],
    ] as const) {
      const shape = { ...fits, payload };
      const { frame, ask } = largeFrame(shape);
      const out = bed.copied(frame, { ...ask, gsoSize: size })!;
      assert.equal(out.length, count);
      assert.ok(delivered(out, shape).equals(payloadOf(shape)));
      if (count === 1) assert.equal(out[0]!.length, frame.length);
    }
  }
});

test('fragments are multiples of eight bytes, whatever was asked for, and the first one has the UDP header', () => {
  const { frame, ask } = largeFrame({ ...plain, kind: 'fragments' });
  const sizes = (gsoSize: number) =>
    bed.copied(frame, { ...ask, gsoSize })?.map(piece => receive(piece).transport.length);
  assert.deepEqual(sizes(1479), [1472, 1472, 1472, 592]);
  assert.deepEqual(sizes(1472), [1472, 1472, 1472, 592]);
  assert.equal(sizes(8)!.length, 626);
  for (const gsoSize of [1, 7]) assert.equal(sizes(gsoSize), undefined);
  // Behind destination options the UDP header begins at 32.
  const shape: Shape = { ...plain, kind: 'fragments', v6: true, extensions: [{ type: 60, more: 3 }] };
  const behind = largeFrame(shape);
  assert.equal(bed.copied(behind.frame, { ...behind.ask, gsoSize: 39 }), null);
  assert.equal(bed.copied(behind.frame, { ...behind.ask, gsoSize: 40 })!.length, 126);
});

test("an identification is the sender's where it has one, else nobody's before, and hard to guess", () => {
  const ids = (shape: Shape, n: number) =>
    Array.from({ length: n }, () => {
      const { frame, ask } = largeFrame({ ...shape, kind: 'fragments', payload: 3000 });
      return idOf(bed.copied(frame, ask)!);
    });
  assert.deepEqual(ids({ ...plain, dontFragment: true }, 2), [77, 77]);
  assert.deepEqual(ids({ ...plain, id: 0 }, 2), [0, 0], 'it might have chosen 0');
  const atomic = ids({ ...plain, id: 0, dontFragment: true }, 100);
  assert.ok(new Set(atomic).size > 90, 'datagrams that were never to be fragmented have none');
  const v6 = ids({ ...plain, v6: true }, 2000);
  assert.equal(new Set(v6).size, v6.length);
  const steps = new Set(v6.slice(1).map((id, i) => (id - v6[i]!) >>> 0));
  assert.ok(steps.size > 1900, `${steps.size} different steps from one to the next`);
  const other = new SegmentBed();
  window.bytes.fill(7, other.segments + L.SEGMENTS_KEY, other.segments + L.SEGMENTS_KEY + 8);
  window.words[(other.segments + L.SEGMENTS_DATAGRAMS) >>> 2] = 0;
  window.bytes.fill(8, bed.segments + L.SEGMENTS_KEY, bed.segments + L.SEGMENTS_KEY + 8);
  window.words[(bed.segments + L.SEGMENTS_DATAGRAMS) >>> 2] = 0;
  const { frame, ask } = largeFrame({ ...plain, kind: 'fragments', v6: true });
  assert.notEqual(idOf(bed.copied(frame, ask)!), idOf(other.copied(frame, ask)!), 'another key');
  other.close();
});

test('a frame that asks for its checksum only, or for nothing, is one piece', () => {
  const { frame, ask } = largeFrame({ ...plain, payload: 40_000 });
  const sum = { ...ask, type: 0, gsoSize: 0, hdrLen: 0 };
  const [piece, ...more] = bed.referred(frame, sum)!;
  assert.equal(more.length, 0);
  assert.ok(piece!.equals(cutPlainly(frame, sum, 0)![0]!));
  assert.ok(bed.referred(frame, { ...sum, flags: 2 })![0]!.equals(frame), 'a checksum that was verified');
  assert.equal(bed.referred(frame, { ...sum, start: frame.length - 10 }), null, 'a checksum behind the end');
});

test('what is not as its header says is refused', () => {
  const refused = (from: Shape, change: (frame: Buffer) => void, header = {}) => {
    const { frame, ask } = largeFrame(from);
    change(frame);
    return bed.copied(frame, { ...ask, ...header }) === null;
  };
  const same = () => {};
  const put = (at: number, byte: number) => (frame: Buffer) => void (frame[at] = byte);
  const udp: Shape = { ...plain, kind: 'fragments' };
  const uso: Shape = { ...plain, kind: 'datagrams' };
  const v6: Shape = { ...udp, v6: true, extensions: [{ type: 0, more: 1 }] };
  for (const from of [plain, udp, uso, v6]) {
    assert.ok(!refused(from, same), from.kind);
    assert.ok(refused(from, same, { gsoSize: 0 }), 'pieces of nothing');
    assert.ok(refused(from, same, { flags: 0 }), 'no checksum');
    assert.ok(refused(from, same, { type: 2 }), 'a type that does not exist');
    assert.ok(refused(from, same, { start: 5060 }), 'the transport header at the end');
    assert.ok(refused(from, same, { start: 20 }), 'in the middle of the IP header');
    assert.ok(refused(from, same, { start: 36 }), 'where there is none');
    assert.ok(refused(from, same, { start: 300 }), 'far behind');
    assert.ok(refused(from, same, { offset: 10 }), 'a checksum that is not its');
    assert.ok(
      refused(from, frame => frame.writeUInt16BE(0x806, 12)),
      'ARP',
    );
    assert.ok(
      refused(from, frame => frame.writeUInt16BE(0x8100, 12)),
      'a VLAN and then nothing',
    );
  }
  assert.ok(refused(plain, put(14, 0x44)), 'an IP header that is too short');
  assert.ok(refused(plain, put(14, 0x46)), 'TCP is somewhere else');
  assert.ok(refused(plain, put(14, 0x65)), 'IPv6 in an IPv4 frame');
  assert.ok(refused(plain, put(23, 17)), 'UDP');
  assert.ok(refused(udp, put(23, 6)), 'TCP');
  assert.ok(refused(plain, put(46, 0x40)), 'a TCP header that is too short');
  assert.ok(refused(plain, same, { type: GSO.TCPV6 }), 'TCP of the other IP');
  assert.ok(refused(plain, same, { type: GSO.UDP }), 'UDP by its header');
  assert.ok(refused(udp, same, { type: GSO.UDP | 0x80 }), 'congestion in UDP');
  for (const from of [plain, udp, uso]) {
    assert.ok(refused(from, put(20, 0x20)), 'a first fragment');
    assert.ok(refused(from, put(21, 0x01)), 'a later fragment');
    assert.ok(refused(from, put(20, 0x80)), 'the reserved bit');
  }
  assert.ok(refused(v6, put(54, 44)), 'an IPv6 fragment');
  assert.ok(refused(v6, put(54, 0)), 'two hop-by-hop headers');
  assert.ok(refused(v6, put(54, 51)), 'an authentication header');
  assert.ok(refused(v6, put(55, 2)), 'an extension header beyond UDP');
  assert.ok(refused(v6, put(55, 0)), 'one that ends before it');
  for (const from of [plain, uso]) assert.ok(refused({ ...from, payload: 0 }, same), 'no payload');
  assert.ok(refused(uso, same, { gsoSize: 3 }), 'too many pieces');
  assert.ok(!refused(uso, same, { gsoSize: 4 }), '1250 pieces');
});

test('pieces that do not fit end the frame', () => {
  const { frame, ask } = largeFrame(plain);
  assert.deepEqual(bed.copied(frame, ask, { outRoom: 1513 }), []);
  assert.ok(!bed.pending);
  assert.equal(bed.copied(frame, ask, { outRoom: 1514 })!.length, 4);
});
