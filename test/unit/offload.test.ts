/** Checksums in software, and who may ask for what. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import * as L from '../../datapath/layout.js';
import { Bench, folder, readCapture } from '../../src/port/pcapng/testing.js';
import { attachPort, openPort } from '../../src/port/registry.js';
import { loadDatapath } from '../../src/ring/datapath.js';
import { FEATURE, frameLimits, maskOf, offloadsOf, parseOffloads } from '../../src/ring/features.js';
import { getHeader, pieces, setHeader } from '../compliance/packets.js';
import { arena, window } from '../compliance/testbed.js';
import { internetChecksum } from './internet-checksum.js';

const bench = new Bench({ window, arena });
const { calls } = loadDatapath(window);
const batch = bench.batch();
const space = arena.allocate(1 << 17);
after(() => {
  bench.close();
  arena.free(batch.address);
  arena.free(space);
});

/** The bytes as one frame of the batch, cut into buffers at these places. */
function frameOf(bytes: Uint8Array, cuts: readonly number[]): void {
  const edges = [0, ...cuts.map(cut => cut % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length];
  let at = space;
  const buffers = edges.slice(1).map((end, i) => {
    const buffer = window.bytes.subarray(at, at + end - edges[i]!);
    buffer.set(bytes.subarray(edges[i], end));
    at += buffer.length + 3; // nowhere aligned
    return buffer;
  });
  bench.fill(batch, [buffers]);
}
const bytesOf = () => Buffer.concat(pieces(batch, 0, batch.length(0)));

const packet = fc
  .tuple(
    fc.uint8Array({ minLength: 2, maxLength: 400 }),
    fc.nat(),
    fc.nat(),
    fc.array(fc.nat(), { maxLength: 6 }),
  )
  .map(([bytes, a, b, cuts]) => {
    const start = a % (bytes.length - 1);
    return { bytes, start, offset: b % (bytes.length - 1 - start), cuts };
  });

test('a checksum is finished wherever it is, however the packet is cut, and put back as it was', () => {
  fc.assert(
    fc.property(packet, ({ bytes, start, offset, cuts }) => {
      frameOf(bytes, cuts);
      setHeader(batch, 0, { flags: 1, start, offset });
      calls.checksums_finish(batch.address, 1);
      const expected = Uint8Array.from(bytes);
      new DataView(expected.buffer).setUint16(
        start + offset,
        internetChecksum(bytes.subarray(start)) || 0xffff,
      );
      assert.deepEqual([...bytesOf()], [...expected]);
      calls.checksums_restore(batch.address, 1);
      assert.deepEqual([...bytesOf()], [...bytes]);
    }),
    { numRuns: 500 },
  );
  frameOf(new Uint8Array(65536).fill(255), [7, 4096, 60_001]);
  setHeader(batch, 0, { flags: 1, start: 0, offset: 65534 });
  calls.checksums_finish(batch.address, 1);
  assert.equal(bytesOf().readUInt16BE(65534), 0xffff, 'not 0, which would mean that there is none');
});

test('nothing is touched where nothing was asked, where it does not fit, or where we can not reach', () => {
  const bytes = Uint8Array.from({ length: 60 }, (_, i) => i);
  for (const [header, far] of [
    [{}, false],
    [{ flags: 2 }, false],
    [{ flags: 1, start: 50, offset: 9 }, false],
    [{ flags: 1, start: 0xffff, offset: 0xffff }, false],
    [{ flags: 1, start: 14, offset: 10 }, true],
  ] as const) {
    frameOf(bytes, [20]);
    const views = pieces(batch, 0, 60);
    if (far) {
      const frame = window.words[(batch.address + L.BATCH_FRAMES) >>> 2]!;
      window.words[window.words[(frame + L.FRAME_WIN) >>> 2]! >>> 2] = 0;
    }
    setHeader(batch, 0, header);
    calls.checksums_finish(batch.address, 1);
    assert.equal(calls.offload_undo(batch.address, 0, 0), Number(!('flags' in header) || header.flags === 2));
    calls.checksums_restore(batch.address, 1);
    assert.deepEqual([...Buffer.concat(views)], [...bytes], JSON.stringify(header));
  }
});

test('who has agreed to nothing gets finished packets, and none that would have to be cut', () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i * 7);
  const sum = { flags: 1, start: 34, offset: 16 };
  const segments = { ...sum, type: 1, hdrLen: 54, gsoSize: 500 };
  const undo = (header: Parameters<typeof setHeader>[2], offloads: number) => {
    frameOf(bytes, [33, 700]);
    setHeader(batch, 0, header);
    return calls.offload_undo(batch.address, 0, offloads);
  };
  assert.equal(undo(sum, 0), 1);
  assert.equal(bytesOf().readUInt16BE(50), internetChecksum(bytes.subarray(34)));
  assert.equal(getHeader(batch, 0).flags, 0);
  assert.equal(undo(sum, L.OFFLOAD_CSUM), 1);
  assert.deepEqual([...bytesOf()], [...bytes], 'left to who has agreed to it');
  assert.equal(undo(segments, L.OFFLOAD_CSUM | L.OFFLOAD_TSO4), 1);
  for (const offloads of [0, L.OFFLOAD_CSUM, L.OFFLOAD_CSUM | L.OFFLOAD_TSO6])
    assert.equal(undo(segments, offloads), 0);
});

test('what is asked for has to have been agreed on, each kind for itself', () => {
  const { OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_UFO, OFFLOAD_USO, OFFLOAD_ALL } = L;
  const bytes = new Uint8Array(1000);
  const needed = new Map<number, number>([
    [1, OFFLOAD_TSO4],
    [0x81, OFFLOAD_TSO4],
    [4, OFFLOAD_TSO6],
    [0x84, OFFLOAD_TSO6],
    [3, OFFLOAD_UFO],
    [5, OFFLOAD_USO],
  ]);
  for (const type of [1, 2, 3, 4, 5, 6, 0x80, 0x81, 0x83, 0x84, 0x85]) {
    for (const offload of [OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_UFO, OFFLOAD_USO]) {
      frameOf(bytes, []);
      setHeader(batch, 0, { flags: 1, type, hdrLen: 54, gsoSize: 500, start: 34, offset: 6 });
      const agreed = needed.get(type) === offload;
      assert.equal(
        calls.offload_undo(batch.address, 0, OFFLOAD_CSUM | offload),
        Number(agreed),
        `${type} ${offload}`,
      );
    }
    assert.equal(calls.offload_undo(batch.address, 0, OFFLOAD_ALL), Number(needed.has(type)));
    assert.equal(calls.offload_undo(batch.address, 0, OFFLOAD_ALL & ~OFFLOAD_CSUM), 0);
  }
});

test('captures have finished checksums; whoever else has the frame does not notice', t => {
  const path = join(folder(t), 'f');
  const handle = openPort(`pcap:out=${path}`, { window, arena });
  t.after(() => handle.close());
  const port = attachPort(handle.lanes[0]!, { window, calls });
  const bytes = Uint8Array.from({ length: 300 }, (_, i) => i * 3);
  frameOf(bytes, [40]);
  setHeader(batch, 0, { flags: 1, start: 34, offset: 6 });
  assert.equal(port.put(batch), 1);
  const [seen] = readCapture(path).frames;
  assert.equal(Buffer.from(seen!.bytes).readUInt16BE(40), internetChecksum(bytes.subarray(34)));
  assert.deepEqual([...bytesOf()], [...bytes]);
});

test('words for offloads', () => {
  const { SG, TX_CSUM, RX_CSUM, TSOV4, TSOV6, TCPV4_LRO, TCPV6_LRO } = FEATURE;
  assert.equal(parseOffloads('all'), 0x1ffn);
  assert.equal(parseOffloads('none'), 0n);
  assert.equal(parseOffloads('csum'), 7n);
  assert.equal(parseOffloads('txcsum,rxcsum'), 7n);
  assert.equal(parseOffloads('tso'), maskOf(SG, TX_CSUM, TSOV4, TSOV6));
  assert.equal(parseOffloads('rxcsum,lro'), maskOf(SG, RX_CSUM, TCPV4_LRO, TCPV6_LRO));
  assert.equal(parseOffloads('tso,lro,ufo'), 0x1ffn);
  for (const bad of ['', 'tso,', 'TSO', 'tso lro', 'toString', 'none,x'])
    assert.equal(parseOffloads(bad), null, bad);
});

test('features mean offloads of one direction each; without checksums there is nothing else', () => {
  const { TX_CSUM, RX_CSUM, TSOV4, TCPV6_LRO, UFO } = FEATURE;
  const { OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_UFO } = L;
  assert.equal(offloadsOf(0x1ffn, 'tx'), OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6 | OFFLOAD_UFO);
  assert.equal(offloadsOf(maskOf(TX_CSUM, TSOV4, TCPV6_LRO), 'tx'), OFFLOAD_CSUM | OFFLOAD_TSO4);
  assert.equal(offloadsOf(maskOf(RX_CSUM, TSOV4, TCPV6_LRO), 'rx'), OFFLOAD_CSUM | OFFLOAD_TSO6);
  assert.equal(offloadsOf(maskOf(TSOV4, UFO), 'tx'), 0);
  const device = { maxFrame: 1518 };
  assert.deepEqual(frameLimits(device, 7n, 'rx'), { maxFrame: 1518, offloads: OFFLOAD_CSUM });
  assert.equal(frameLimits(device, maskOf(TX_CSUM, TSOV4), 'tx').maxFrame, 65536);
  assert.equal(frameLimits(device, maskOf(TX_CSUM, TSOV4), 'rx').maxFrame, 1518);
});
