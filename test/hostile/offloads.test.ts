/**
 * A format with packets of several buffers and with offloads, everything accepted: a guest that writes anything into its ring against the device,
 * and a device that does so against the guest's driver.
 *
 * Frames whose headers lie, as large frames from anywhere may: what is cut in software is cut as the plain model of test/unit/segment-model.ts cuts it, and
 * nothing behind the frame matters.
 *
 * Beyond what guest.test.ts and device.test.ts ask of every format: no header passes, on either side, that points out of its packet or asks for what does
 * not exist; no packet is larger than the largest.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as L from '../../datapath/layout.js';
import { STACK_BYTES } from '../../src/ebpf/sandbox.js';
import { OUTLET_BYTES, Outlet, prepareOutlet } from '../../src/port/soften.js';
import type { Batch } from '../../src/ring/batch.js';
import { getHeader, setHeader } from '../compliance/packets.js';
import { arena, randomFrom, type Side, Testbed, window } from '../compliance/testbed.js';
import { largeFrame, shape } from '../unit/large-frames.js';
import { SegmentBed } from '../unit/segment-bed.js';
import { type Ask, cutPlainly } from '../unit/segment-model.js';
import { Invariants } from './invariants.js';
import { mutate, publishAnything } from './mutations.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const NUM = 64;
const ALL = 0x1ffn;
const TYPES = [0, 1, 3, 4, 0x81, 0x84];

/** Returns how many frames ask for something. */
function checkHeaders(batch: Batch, count: number): number {
  let asking = 0;
  for (let i = 0; i < count; i++) {
    const { flags, type, hdrLen, gsoSize, start, offset } = getHeader(batch, i);
    const length = batch.length(i);
    assert.ok(length <= L.LARGE_FRAME, `a packet of ${length} bytes`);
    assert.ok(TYPES.includes(type), `type ${type}`);
    if (flags & 1) assert.ok(start + offset + 2 <= length, `a checksum at ${start} + ${offset} of ${length}`);
    if (type !== 0) assert.ok(flags & 1 && gsoSize > 0 && hdrLen <= length, `segments of ${gsoSize}`);
    if (flags !== 0) asking++;
  }
  return asking;
}

test('a guest that mutates its ring: chains, lengths, requests', t => {
  const live = arena.live;
  const bed = new Testbed({ device: 'sring_gso', num: NUM, features: ALL });
  const goal = LONG ? 1_000_000 : 60_000;
  const seen = { frames: 0, asking: 0, several: 0, errors: 0, dropped: 0, cut: 0 };
  const softened = arena.allocate(OUTLET_BYTES);
  prepareOutlet(window, softened);
  const outlet = new Outlet({ window, calls: bed.datapath.calls }, softened);
  let mutations = 0;
  for (let burst = 0; mutations < goal; burst++) {
    const random = randomFrom(burst);
    const side = burst % 4 === 0 ? bed.rx : bed.tx;
    const { address } = side.queue;
    side.queue.setContext(bed.ram.toGuest(side.context), bed.table, bed.ring);
    const invariants = new Invariants(bed, side, [
      { start: bed.stack, end: bed.stack + STACK_BYTES },
      { start: softened, end: softened + OUTLET_BYTES },
    ]);
    const past = side.queue.stats;
    for (let step = 0; step < 200; step++) {
      for (let i = random(4); i > 0; i--, mutations++) mutate(bed, side, random);
      for (let i = random(8); i > 0; i--) publishAnything(bed, side, random);
      if (side.direction === 'tx') forge(side, random);
      const receives = side.direction === 'rx';
      const frames = bed.ring[receives ? 'room' : 'pop'](address, bed.deviceBatch.address, 1 + random(NUM));
      invariants.checkFrames(frames);
      for (let i = random(3); i > 0; i--, mutations++) mutate(bed, side, random);
      const done = random(frames + 1);
      for (let i = 0; i < frames; i++) if (bed.deviceBatch.iovs(i) > 2) seen.several++;
      if (receives) {
        for (let i = 0; i < done; i++) {
          bed.deviceBatch.setLength(i, random(bed.deviceBatch.room(i) + 1));
        }
      } else {
        seen.asking += checkHeaders(bed.deviceBatch, frames);
        for (let i = 0; i < frames; i++) seen.cut += cutAndLook(outlet, bed, i);
      }
      bed.ring[receives ? 'push' : 'complete'](address, bed.deviceBatch.address, done);
      if (side.queue.fault !== 0) side.queue.setContext(bed.ram.toGuest(side.context), bed.table, bed.ring);
    }
    invariants.check(`burst ${burst}`);
    const now = side.queue.stats;
    seen.frames += now.packets - past.packets;
    seen.errors += now.errors - past.errors;
    seen.dropped += now.dropped - past.dropped;
  }
  t.diagnostic(`${mutations} mutations: ${JSON.stringify(seen)}`);
  for (const [what, n] of Object.entries(seen)) assert.ok(n > goal / 1000, `too tame: ${what} ${n}`);
  bed.close();
  arena.free(softened);
  assert.equal(arena.live, live);
});

/** What a port that takes nothing of the kind makes of a frame. Returns 1 when it was cut or finished, 0 when refused. */
function cutAndLook(outlet: Outlet, bed: Testbed, i: number): number {
  if (!bed.deviceBatch.asks(i) || !outlet.begin(bed.deviceBatch, i)) return 0;
  const { pieces } = outlet;
  let all = 0;
  for (let n = outlet.fill(); n > 0; n = outlet.fill(), all += n) {
    assert.equal(n, pieces.count);
    for (let p = 0; p < n; p++) {
      assert.ok(!pieces.asks(p));
      assert.ok(pieces.length(p) > 0 && pieces.length(p) <= bed.deviceBatch.length(i));
    }
  }
  assert.ok(all <= L.SEGMENTS_MOST);
  return 1;
}

/** Makes some descriptor's request a likely one: all-random fields are nearly always refused. */
function forge({ context }: Side, random: (below: number) => number): void {
  const descriptor = context + L.CTX_OPAQUE + 512 + random(NUM) * 32;
  const view = new DataView(window.bytes.buffer, descriptor, 32);
  view.setUint16(18, random(4), true);
  view.setUint16(20, random(100), true);
  view.setUint16(22, random(30), true);
  view.setUint16(24, random(200), true);
  view.setUint16(26, random(1500), true);
  view.setUint16(28, [...TYPES, 2, 5, 0x101][random(TYPES.length + 3)]!, true);
}

test('a device that mutates the ring and hands over headers of all kinds', t => {
  const live = arena.live;
  const bed = new Testbed({ device: 'sring_gso', num: NUM, features: ALL });
  const { calls } = bed.datapath;
  const goal = LONG ? 1_000_000 : 30_000;
  const seen = { frames: 0, asking: 0, several: 0, faults: 0, dropped: 0 };
  let mutations = 0;
  for (let burst = 0; mutations < goal; burst++) {
    const random = randomFrom(burst ^ 0x5eed);
    const side = burst % 4 === 0 ? bed.tx : bed.rx;
    const { address } = side.queue;
    bed.reset();
    const counter = (side.driver + L.DRIVER_STATS + L.STAT_DROPPED) / 8;
    const dropped = Number(window.longs[counter]!);
    for (let step = 0; step < 100 && bed.driver(side, L.DRIVER_FAULT) === 0; step++) {
      for (let i = random(4) === 0 ? 1 + random(3) : 0; i > 0; i--, mutations++) mutate(bed, side, random);
      guarded(bed, side, () => {
        if (side.direction === 'tx') {
          const taken = calls.driver_tx_complete(side.driver, NUM);
          if (taken < 0) return taken;
          const room = calls.driver_tx_room(side.driver, bed.guestBatch.address, 1 + random(4));
          for (let i = 0; i < room; i++) bed.guestBatch.setLength(i, 1 + random(L.LARGE_FRAME));
          return calls.driver_tx_publish(side.driver, bed.guestBatch.address, room);
        }
        const taken = calls.driver_rx_poll(side.driver, bed.guestBatch.address, NUM);
        seen.frames += bed.guestBatch.count;
        seen.asking += checkHeaders(bed.guestBatch, bed.guestBatch.count);
        for (let i = 0; i < bed.guestBatch.count; i++) if (bed.guestBatch.iovs(i) > 2) seen.several++;
        calls.driver_rx_release(side.driver, bed.guestBatch.address);
        return taken < 0 ? taken : calls.driver_rx_refill(side.driver);
      });
      bed.audit(side);
      if (side.direction === 'tx') {
        bed.ring.complete(
          address,
          bed.deviceBatch.address,
          bed.ring.pop(address, bed.deviceBatch.address, NUM),
        );
        continue;
      }
      for (let n = random(4); n > 0 && bed.ring.room(address, bed.deviceBatch.address, NUM) > 0; n--) {
        bed.deviceBatch.setLength(0, random(bed.deviceBatch.room(0) + 1));
        setHeader(bed.deviceBatch, 0, {
          flags: random(4),
          type: [...TYPES, 2, 5, 0x83][random(TYPES.length + 3)]!,
          hdrLen: random(100),
          gsoSize: random(1500),
          start: random(2000),
          offset: random(50),
        });
        bed.ring.push(address, bed.deviceBatch.address, 1);
      }
    }
    if (bed.driver(side, L.DRIVER_FAULT) !== 0) seen.faults++;
    seen.dropped += Number(window.longs[counter]!) - dropped;
    guarded(bed, side, () => calls.driver_reclaim(side.driver));
    calls.driver_seize(side.driver, NUM);
    assert.deepEqual(bed.audit(side), { free: NUM, driver: 0, device: 0 });
    bed.checkCanaries();
  }
  t.diagnostic(`${mutations} mutations: ${JSON.stringify(seen)}`);
  for (const [what, n] of Object.entries(seen)) assert.ok(n > goal / 1000, `too tame: ${what} ${n}`);
  bed.close();
  assert.equal(arena.live, live);
});

/** Calls into the datapath as the driver's loop does: a program that traps stops its queue. */
function guarded(bed: Testbed, side: Side, call: () => number): void {
  try {
    call();
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    bed.datapath.calls.driver_fail(side.driver, L.FAULT_PROGRAM);
  }
}

type Random = (below: number) => number;

/** A lie about where something is, or how long. */
const LIES: readonly ((frame: Buffer, ask: Ask, random: Random) => Partial<Ask> | Buffer | null)[] = [
  (_, { start }, random) => ({ start: Math.max(0, start + random(90) - 45) }),
  (_, __, random) => ({ start: random(0x10000) }),
  (_, { offset }, random) => ({ offset: random(2) ? (offset === 6 ? 16 : 6) : random(40) }),
  (frame, _, random) => ({
    gsoSize: [0, 1, 7, 8, 9, 48, frame.length - 1, frame.length, 0xffff][random(9)]!,
  }),
  (_, __, random) => ({ gsoSize: 1 + random(200) }),
  (frame, _, random) => ({ hdrLen: frame.length + random(3) - 1 }),
  (_, __, random) => ({ type: [...TYPES, 2, 5, 0x83, 0x85][random(TYPES.length + 4)]! }),
  (_, __, random) => ({ flags: random(4) }),
  (frame, _, random) => frame.subarray(0, 1 + random(frame.length)), // it ends early
  (frame, _, random) => frame.subarray(0, 1 + random(120)),
  (frame, { start }, random) => {
    frame[random(Math.min(frame.length, start + 20))] = random(256);
    return null;
  },
  (frame, { start }, random) => {
    // Extension headers, or options, of all lengths; IP headers, VLANs and protocols that are others.
    const at = random(Math.min(frame.length - 1, start + 20));
    frame[at] = [0, 1, 2, 43, 44, 51, 60, 0x45, 0x4f, 0x60, 0x81, 6, 17, 255][random(14)]!;
    return null;
  },
  (frame, { start }, random) => {
    if (frame.length > start) frame[14 + 6 + random(2)]! ^= 1 << random(8); // a fragment
    return null;
  },
];

/** The identification that these pieces have, where the model leaves it open. */
function identified(pieces: readonly Buffer[] | null, cut: (id: number) => Buffer[] | null): number {
  const [none, all] = [cut(0), cut(0xffff_ffff)];
  const first = pieces?.[0];
  const at = none && all && first ? none[0]!.findIndex((byte, i) => byte !== all[0]![i]) : -1;
  if (at < 0) return 0;
  const long = [0, 1, 2, 3].every(i => none![0]![at + i] !== all![0]![at + i]); // else IPv4, and the checksum follows from it
  return long ? first!.readUInt32LE(at) : first!.readUInt16BE(at);
}

test('large frames with headers that lie, against a plain model', t => {
  const bed = new SegmentBed();
  const goal = LONG ? 200_000 : 4_000;
  const seen = { cut: 0, refused: 0, whole: 0, most: 0 };
  const shapes = fc.sample(shape, { numRuns: 500, seed: 1 });
  for (let i = 0; i < goal; i++) {
    const random = randomFrom(i ^ 0x11e5);
    const made = largeFrame({
      ...shapes[i % shapes.length]!,
      payload: 1 + random(i % 50 === 0 ? 60_000 : 6000),
    });
    let { frame, ask } = made;
    for (let lies = random(4); lies > 0; lies--) {
      const lie = LIES[random(LIES.length)]!(frame, ask, random);
      if (Buffer.isBuffer(lie)) frame = Buffer.from(lie);
      else if (lie) ask = { ...ask, ...lie };
    }
    const model = (id: number) => cutPlainly(frame, ask, id);
    const what = `frame ${i}: ${JSON.stringify(ask)}, ${frame.subarray(0, 150).toString('hex')}`;
    // What is in the state behind the frame, and was there before, must not show.
    bed.litter(frame.length, 0);
    compare(bed.copied(frame, ask, { room: random(frame.length + 1) }), model, what);
    bed.litter(frame.length, 0xff);
    const pieces = bed.referred(frame, ask);
    compare(pieces, model, what);
    if (pieces === null) seen.refused++;
    else if (pieces.length === 1) seen.whole++;
    else seen.cut++;
    seen.most = Math.max(seen.most, pieces?.length ?? 0);
  }
  bed.close();
  t.diagnostic(`${goal} frames: ${JSON.stringify(seen)}`);
  for (const n of [seen.cut, seen.refused, seen.whole]) assert.ok(n > goal / 20, 'too tame');
  assert.ok(seen.most > 500 && seen.most <= L.SEGMENTS_MOST, `up to ${seen.most} pieces`);
});

function compare(
  pieces: readonly Buffer[] | null,
  model: (id: number) => Buffer[] | null,
  what: string,
): void {
  const expected = model(identified(pieces, model));
  assert.equal(pieces?.length, expected?.length, what);
  for (const [i, piece] of (pieces ?? []).entries()) {
    assert.ok(piece.equals(expected![i]!), `piece ${i} of ${what}`);
  }
}
