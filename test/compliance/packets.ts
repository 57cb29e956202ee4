/**
 * What a ring format has to keep whose packets have several buffers and ask for offloads: beside `ringCompliance`, with all features accepted.
 *
 * Payloads and headers follow from the packet's number, so whoever gets one knows what it should be.
 */
import assert from 'node:assert/strict';
import { basename } from 'node:path';
import { after, before, describe, it } from 'node:test';
import * as L from '../../datapath/layout.js';
import { LARGE_RX_BUFFER_SIZE } from '../../src/guest/bpfhv/registers.js';
import type { Batch } from '../../src/ring/batch.js';
import { arena, type Engine, randomFrom, type Side, Testbed, window } from './testbed.js';

export interface PacketRing {
  readonly device: string;
  readonly object?: string;
  readonly seek: (bed: Testbed, side: Side, index: number) => void;
  readonly seams: readonly number[];
}

const NUM = 64;
const NEEDS_CSUM = 1;
const TCPV4 = 1;
const UDP = 3;
const TCPV6 = 4;

interface Header {
  readonly flags?: number;
  readonly type?: number;
  readonly hdrLen?: number;
  readonly gsoSize?: number;
  readonly start?: number;
  readonly offset?: number;
}

/** Window address of a structure of the batch's i-th frame. */
function frameWord(batch: Batch, i: number, field: number): number {
  const frame = window.words[(batch.address + L.BATCH_FRAMES) >>> 2]! + i * L.FRAME_SIZE;
  return window.words[(frame + field) >>> 2]!;
}

export function setHeader(batch: Batch, i: number, header: Header): void {
  const view = new DataView(window.bytes.buffer, frameWord(batch, i, L.FRAME_HEADER), L.VNET_HEADER_SIZE);
  view.setUint8(L.VNET_FLAGS, header.flags ?? 0);
  view.setUint8(L.VNET_GSO_TYPE, header.type ?? 0);
  view.setUint16(L.VNET_HDR_LEN, header.hdrLen ?? 0, true);
  view.setUint16(L.VNET_GSO_SIZE, header.gsoSize ?? 0, true);
  view.setUint16(L.VNET_CSUM_START, header.start ?? 0, true);
  view.setUint16(L.VNET_CSUM_OFFSET, header.offset ?? 0, true);
}

export function getHeader(batch: Batch, i: number): Required<Header> {
  const view = new DataView(window.bytes.buffer, frameWord(batch, i, L.FRAME_HEADER), L.VNET_HEADER_SIZE);
  return {
    flags: view.getUint8(L.VNET_FLAGS),
    type: view.getUint8(L.VNET_GSO_TYPE),
    hdrLen: view.getUint16(L.VNET_HDR_LEN, true),
    gsoSize: view.getUint16(L.VNET_GSO_SIZE, true),
    start: view.getUint16(L.VNET_CSUM_START, true),
    offset: view.getUint16(L.VNET_CSUM_OFFSET, true),
  };
}

/** The frame's bytes, buffer by buffer, as views of the window: those of its length, or all of its room. */
export function pieces(batch: Batch, i: number, bytes: number): Uint8Array[] {
  const win = frameWord(batch, i, L.FRAME_WIN) >>> 2;
  const iov = frameWord(batch, i, L.FRAME_IOV) / 8 + 2;
  const all: Uint8Array[] = [];
  for (let b = 0; b < batch.iovs(i) - 1 && bytes > 0; b++) {
    const length = Math.min(bytes, Number(window.longs[iov + 2 * b + 1]!));
    all.push(window.bytes.subarray(window.words[win + b]!, window.words[win + b]! + length));
    bytes -= length;
  }
  assert.equal(bytes, 0, 'the buffers hold the frame');
  return all;
}

const lengthOf = (n: number): number => (n % 3 === 0 ? 60 + (n % 1400) : 1 + ((n * 40_503) % L.LARGE_FRAME));

function headerOf(n: number): Required<Header> {
  const none = { flags: 0, type: 0, hdrLen: 0, gsoSize: 0, start: 0, offset: 0 };
  if (lengthOf(n) < 60 || n % 4 === 0) return none;
  const sum = { ...none, flags: NEEDS_CSUM, start: 34, offset: n % 2 === 0 ? 16 : 6 };
  if (n % 4 === 1) return sum;
  const type = [TCPV4, TCPV6, UDP, TCPV4 | 0x80][n & 3]!;
  return { ...sum, type, hdrLen: 54, gsoSize: 1 + (n % 1448) };
}

function fill(batch: Batch, i: number, n: number): void {
  const length = lengthOf(n);
  for (const piece of pieces(batch, i, length)) piece.fill(n);
  pieces(batch, i, length)
    .at(-1)!
    .fill(n + 1, -1);
  batch.setLength(i, length);
  setHeader(batch, i, headerOf(n));
}

function check(batch: Batch, i: number, n: number): void {
  assert.equal(batch.length(i), lengthOf(n), `length of packet ${n}`);
  const bytes = Buffer.concat(pieces(batch, i, lengthOf(n)));
  assert.equal(bytes.at(-1), (n + 1) & 0xff, `end of packet ${n}`);
  assert.ok(bytes.subarray(0, -1).equals(Buffer.alloc(bytes.length - 1, n)), `payload of packet ${n}`);
  assert.deepEqual(getHeader(batch, i), headerOf(n), `header of packet ${n}`);
}

/** Headers that may not pass, for a packet of 1000 bytes. */
const BAD: readonly (readonly [string, Header])[] = [
  ['a checksum beyond the end', { flags: NEEDS_CSUM, start: 983, offset: 16 }],
  ['a checksum that would wrap', { flags: NEEDS_CSUM, start: 0xffff, offset: 0xffff }],
  ['segments without a checksum', { type: TCPV4, hdrLen: 54, gsoSize: 500 }],
  ['segments of no size', { flags: NEEDS_CSUM, start: 34, offset: 16, type: TCPV4, hdrLen: 54 }],
  [
    'headers longer than the packet',
    { flags: NEEDS_CSUM, start: 34, offset: 16, type: TCPV6, hdrLen: 1001, gsoSize: 9 },
  ],
  ['no such type', { flags: NEEDS_CSUM, start: 34, offset: 16, type: 2, hdrLen: 54, gsoSize: 500 }],
  ['UDP with ECN', { flags: NEEDS_CSUM, start: 34, offset: 6, type: UDP | 0x80, hdrLen: 42, gsoSize: 500 }],
];
const SEGMENTS = {
  flags: NEEDS_CSUM,
  start: 34,
  offset: 16,
  type: TCPV4,
  hdrLen: 54,
  gsoSize: 500,
};

export function packetCompliance(ring: PacketRing): void {
  for (const engine of ['jit', 'interpreter'] as const) {
    describe(`${basename(ring.object ?? ring.device)}, packets of several buffers, programs by ${engine}`, () =>
      packets(ring, engine));
  }
}

function packets({ device, object, seek, seams }: PacketRing, engine: Engine): void {
  const rounds = engine === 'jit' ? 200 : 10;
  let live: number;
  let bed: Testbed;
  before(() => {
    live = arena.live;
    bed = new Testbed({ device, ...(object ? { object } : {}), num: NUM, engine, features: 0x1ffn });
  });
  after(() => {
    bed.checkCanaries();
    bed.close();
    assert.equal(arena.live, live, 'leaks');
  });

  const startAt = (index: number) => {
    bed.reset();
    for (const side of bed.sides) {
      seek(bed, side, index >>> 0);
      assert.ok(bed.ring.resume(side.queue.address));
    }
  };
  /** Publishes `n` packets; the number of the first is `first`. */
  const publish = (n: number, prepare: (i: number) => void): number => {
    const { calls } = bed.datapath;
    assert.ok(calls.driver_tx_complete(bed.tx.driver, NUM) >= 0, 'fault');
    const room = calls.driver_tx_room(bed.tx.driver, bed.guestBatch.address, n);
    for (let i = 0; i < room; i++) prepare(i);
    assert.ok(calls.driver_tx_publish(bed.tx.driver, bed.guestBatch.address, room) >= 0, 'fault');
    bed.audit(bed.tx);
    return room;
  };
  const pop = (budget = 128) => bed.ring.pop(bed.tx.queue.address, bed.deviceBatch.address, budget);
  const complete = (n: number) => bed.ring.complete(bed.tx.queue.address, bed.deviceBatch.address, n);
  const refill = () => assert.ok(bed.datapath.calls.driver_rx_refill(bed.rx.driver) >= 0);
  const room = () => bed.ring.room(bed.rx.queue.address, bed.deviceBatch.address, 128);
  const push = (n: number) => bed.ring.push(bed.rx.queue.address, bed.deviceBatch.address, n);
  const poll = () => bed.datapath.calls.driver_rx_poll(bed.rx.driver, bed.guestBatch.address, 64);
  const release = () => bed.datapath.calls.driver_rx_release(bed.rx.driver, bed.guestBatch.address);
  const droppedBy = (stats: number) => Number(window.longs[(stats + L.STAT_DROPPED) / 8]!);
  const small = (header: Header) => (i: number) => {
    bed.guestBatch.setLength(i, 1000);
    setHeader(bed.guestBatch, i, header);
  };

  it('packets of any size are transmitted whole, in order, with what they ask for', () => {
    for (const seam of seams) {
      startAt(seam - 40);
      const random = randomFrom(seam);
      let sent = 0;
      let arrived = 0;
      for (let round = 0; round < rounds; round++) {
        publish(random(6), i => fill(bed.guestBatch, i, sent + i));
        sent += bed.guestBatch.count;
        const taken = Math.min(pop(1 + random(NUM)), random(6));
        for (let i = 0; i < taken; i++) check(bed.deviceBatch, i, arrived++);
        complete(taken);
      }
      const rest = pop();
      for (let i = 0; i < rest; i++) check(bed.deviceBatch, i, arrived++);
      complete(rest);
      assert.equal(arrived, sent, 'lost');
      assert.ok(sent > rounds / 2, `too little traffic: ${sent}`);
      bed.datapath.calls.driver_tx_complete(bed.tx.driver, NUM);
      assert.equal(bed.audit(bed.tx).free, NUM);
      assert.equal(bed.tx.queue.fault, 0);
    }
  });

  it('packets of any size are received whole, in order; buffers that were not needed stay posted', () => {
    for (const seam of seams) {
      startAt(seam - 40);
      const random = randomFrom(seam);
      let sent = 0;
      let arrived = 0;
      for (let round = 0; round < rounds; round++) {
        refill();
        for (let n = random(6); n > 0 && room() > 0; n--) {
          assert.equal(bed.deviceBatch.count, 1, 'where the next one begins is not known yet');
          assert.equal(bed.deviceBatch.room(0), L.LARGE_FRAME);
          if (random(4) === 0) {
            push(0);
            continue;
          }
          const cons = bed.ring.pending(bed.rx.queue.address);
          fill(bed.deviceBatch, 0, sent);
          push(1);
          const used = Math.ceil(lengthOf(sent++) / LARGE_RX_BUFFER_SIZE);
          const left = bed.ring.pending(bed.rx.queue.address);
          assert.ok(left === cons - used || left === 0, `${cons - left} buffers used, not ${used}`);
        }
        assert.ok(poll() >= 0);
        for (let i = 0; i < bed.guestBatch.count; i++) check(bed.guestBatch, i, arrived++);
        release();
        bed.audit(bed.rx);
      }
      assert.equal(arrived, sent, 'lost');
      assert.ok(sent > rounds / 2, `too little traffic: ${sent}`);
      const { device: posted } = bed.audit(bed.rx);
      assert.equal(bed.datapath.calls.driver_reclaim(bed.rx.driver), posted);
      assert.equal(bed.audit(bed.rx).free, NUM);
    }
  });

  it('a device with too few buffers for the largest packet waits for more, and is told', () => {
    startAt(0);
    const { address } = bed.rx.queue;
    bed.setDriver(bed.rx, L.DRIVER_NUM, 15);
    refill();
    assert.equal(room(), 0);
    assert.equal(bed.ring.kicks(address, true), false, 'nothing to wake up for');
    bed.setDriver(bed.rx, L.DRIVER_NUM, NUM);
    refill();
    assert.equal(bed.ring.kicks(address, false), true);
    assert.equal(room(), 1);
  });

  it('requests that make no sense are dropped on either side, and counted; others pass', () => {
    startAt(0);
    for (const [what, header] of BAD) {
      const past = bed.tx.queue.stats.dropped;
      for (const each of [header, SEGMENTS]) assert.equal(publish(1, small(each)), 1);
      assert.equal(pop(), 1, what);
      assert.equal(getHeader(bed.deviceBatch, 0).gsoSize, SEGMENTS.gsoSize);
      complete(1);
      assert.equal(bed.tx.queue.stats.dropped - past, 1, what);
      bed.datapath.calls.driver_tx_complete(bed.tx.driver, NUM);
      assert.equal(bed.audit(bed.tx).free, NUM);

      const before = droppedBy(bed.rx.driver + L.DRIVER_STATS);
      refill();
      for (const each of [header, SEGMENTS]) {
        assert.equal(room(), 1);
        bed.deviceBatch.setLength(0, 1000);
        setHeader(bed.deviceBatch, 0, each);
        push(1);
      }
      assert.equal(poll(), 2);
      assert.equal(bed.guestBatch.count, 1, what);
      assert.deepEqual(getHeader(bed.guestBatch, 0), SEGMENTS);
      release();
      assert.equal(droppedBy(bed.rx.driver + L.DRIVER_STATS) - before, 1, what);
      bed.audit(bed.rx);
    }
  });

  it('what was not agreed on is dropped', () => {
    startAt(0);
    const { queue, driver } = bed.tx;
    queue.setFrames(L.LARGE_FRAME, L.OFFLOAD_CSUM);
    publish(1, small(SEGMENTS));
    assert.equal(pop(), 0);
    complete(0);
    queue.setFrames(1518, 0);
    publish(1, small({ flags: NEEDS_CSUM, start: 34, offset: 16 }));
    publish(1, i => {
      setHeader(bed.guestBatch, i, {});
      bed.guestBatch.setLength(i, 1519);
    });
    publish(1, small({}));
    assert.equal(pop(), 1);
    complete(1);
    queue.setFrames(L.LARGE_FRAME, 0x17);
    assert.deepEqual([queue.stats.dropped, queue.stats.errors], [BAD.length + 2, 1]);
    bed.datapath.calls.driver_tx_complete(driver, NUM);
    assert.equal(bed.audit(bed.tx).free, NUM);
  });
}
