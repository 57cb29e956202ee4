/**
 * A hostile guest against the device side of virtqueues: it writes anything into its rings and tables at any moment.
 *
 * What must hold, whatever it writes: a call does no more than its budget; every frame that reaches a port lies in the guest's regions; of the host's
 * memory only what belongs to that queue changes, and of the guest's, while transmitting, only the rings; mistakes are counted;
 * the other queue goes on; a new ring works.
 *
 * POLYNIC_LONG=hostile makes a million mutations of each format, an everyday run a share of that.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { ARENA_START } from '../../src/memory/window.js';
import { areaSizes } from '../../src/ring/virtio/areas.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, randomFrom, window } from '../compliance/testbed.js';
import { type Random, VirtioBed, type VirtioSide } from '../compliance/virtio-bed.js';
import { styleOf, VirtioRx, VirtioTx } from '../compliance/virtio-flows.js';
import { anyWord } from './mutations.js';
import { checkFrames } from './virtq-frames.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const NUM = 16;
const OFFLOADS = F.CSUM | F.HOST_TSO4 | F.GUEST_CSUM | F.GUEST_TSO4;
const SETS: readonly (readonly [string, bigint])[] = [
  ['modern', F.VERSION_1 | F.INDIRECT_DESC | F.EVENT_IDX],
  ['merging, large', F.VERSION_1 | F.INDIRECT_DESC | F.EVENT_IDX | F.MRG_RXBUF | OFFLOADS],
  ['legacy', F.MRG_RXBUF],
  ['addresses on demand', F.VERSION_1 | F.INDIRECT_DESC | F.ACCESS_PLATFORM | F.IN_ORDER],
];

for (const format of ['split', 'packed'] as const)
  for (const [name, set] of SETS)
    test(`${format}, ${name}: a guest that mutates its ring between any two steps of the device`, t => {
      const live = arena.live;
      const features = format === 'packed' ? set | F.RING_PACKED | F.VERSION_1 : set;
      const bed = new VirtioBed({ features, num: NUM, slots: 32 });
      const goal = (LONG ? 1_000_000 : 160_000) / SETS.length;
      const seen = { faults: 0, errors: 0, frames: 0, misses: 0 };
      let mutations = 0;
      for (let burst = 0; mutations < goal; burst++) {
        const random = randomFrom(burst);
        const [hostile, honest] = burst % 2 === 0 ? [bed.tx, bed.rx] : [bed.rx, bed.tx];
        bed.reset(format === 'split' ? random(0x10000) : random(2 * NUM));
        const before = picture(bed, hostile);
        const payload = hostile.direction === 'tx' ? bed.payload.slice() : null;
        const past = bed.stats(hostile);
        for (let step = 0; step < 300; step++) {
          const what = random(16);
          if (what < 5) {
            mutate(bed, hostile, random);
            mutations++;
          } else if (what < 10) {
            makeAvailable(bed, hostile, random);
            mutations++;
          } else if (what < 14) mutations += deviceTurn(bed, hostile, random);
          else if (what === 14) bed.ring.kicks(hostile.queue.address, random(2) === 0);
          else if (random(4) === 0) bed.ring.resume(hostile.queue.address);
          if (hostile.queue.miss) seen.misses++;
          if (hostile.queue.fault === 0) continue;
          seen.faults++;
          assert.equal(bed.ring.pending(hostile.queue.address), 0, 'it stands still');
          assert.equal(bed.ring.pop(hostile.queue.address, bed.batch.address, 16), 0);
          if (random(2) === 0) bed.reset(format === 'split' ? random(0x10000) : random(2 * NUM));
          else bed.ring.resume(hostile.queue.address);
        }
        compare(before, `burst ${burst}`);
        if (payload) assert.equal(Buffer.compare(payload, bed.payload), 0, 'written while transmitting');
        bed.checkCanaries();
        const now = bed.stats(hostile);
        seen.frames += now.packets - past.packets;
        seen.errors += now.errors - past.errors;

        if (burst % 4 > 1) continue;
        // The other queue has noticed nothing, and a new ring makes this one work as well.
        bed.reset();
        for (const side of [honest, hostile]) runHonestly(bed, side, random);
      }
      t.diagnostic(`${mutations} mutations: ${JSON.stringify(seen)}`);
      const enough = goal / 1000;
      assert.ok(seen.errors > enough && seen.frames > enough, 'too tame to mean anything');
      // A packed ring has no index that could be wrong.
      assert.ok(format === 'packed' || seen.faults > enough, 'no faults');
      assert.equal(seen.misses > enough, (features & F.ACCESS_PLATFORM) !== 0n, 'misses');
      bed.close();
      assert.equal(arena.live, live);
    });

/** The device's side of one turn, the guest writing in between. Returns how often it did. */
function deviceTurn(bed: VirtioBed, side: VirtioSide, random: Random): number {
  const { ring, batch } = bed;
  const { address } = side.queue;
  const budget = 1 + random(20);
  const past = bed.stats(side);
  const receives = side.direction === 'rx';
  assert.ok(ring.pending(address) <= NUM, 'more waiting than the ring holds');
  const frames = ring[receives ? 'room' : 'pop'](address, batch.address, budget);
  assert.ok(frames <= budget, `${frames} frames for a budget of ${budget}`);
  const now = bed.stats(side);
  assert.ok(
    now.errors - past.errors + now.dropped - past.dropped + frames <= budget + 1,
    'beyond the budget',
  );
  checkFrames(bed, side, frames);
  const done = random(frames + 1);
  const written = random(4);
  for (let i = 0; i < written; i++) mutate(bed, side, random);
  if (receives) for (let i = 0; i < done; i++) batch.setLength(i, random(batch.room(i) + 1));
  else checkFrames(bed, side, frames);
  ring[receives ? 'push' : 'complete'](address, batch.address, done);
  return written;
}

/** Offset in guest memory, and bytes, of the three areas. */
function extents(
  bed: VirtioBed,
  side: VirtioSide,
): { descriptor: number; driver: number; device: number; end: number } {
  const offset = (gpa: bigint) => Number(gpa - bed.ram.guestPhysicalAddress);
  const { descriptor, driver, device } = side.areas;
  const end = offset(device) + areaSizes(NUM, bed.packed).device;
  return { descriptor: offset(descriptor), driver: offset(driver), device: offset(device), end };
}

function anyAddress(bed: VirtioBed, random: Random): bigint {
  switch (random(8)) {
    case 0:
      return BigInt.asUintN(64, BigInt(anyWord(random)) * 2n ** 32n + BigInt(anyWord(random)));
    case 1:
      return bed.forbidden[random(3)]! + BigInt(random(4200) - 100);
    case 2:
      return bed.tableFor(random(32));
    default:
      return bed.cut(random(32), 0, 1, random)[0]!.gpa;
  }
}

/** A descriptor of a likely kind at an offset of guest memory: all-random ones are nearly always refused. */
function forge(
  bed: VirtioBed,
  side: VirtioSide,
  at: number,
  random: Random,
  more: { flags: number; other: number },
): void {
  const kind = (side.direction === 'rx') !== (random(40) === 0) ? 2 : 0;
  const flags = kind | more.flags;
  const indirect = (flags & 4) !== 0;
  const view = bed.memory;
  view.setBigUint64(at, indirect && random(8) > 0 ? bed.tableFor(random(32)) : anyAddress(bed, random), true);
  const length =
    random(8) === 0 ? anyWord(random) : indirect ? 16 * random(6) : [0, 1, 10, 12, 72, 600, 1530][random(7)]!;
  view.setUint32(at + 8, length, true);
  view.setUint16(at + 12, bed.packed ? more.other : flags, true);
  view.setUint16(at + 14, bed.packed ? flags : more.other, true);
}

const kindOf = (random: Random): number => (random(3) === 0 ? 1 : 0) | (random(5) === 0 ? 4 : 0);

/** Puts chains where the device looks next, and entries into tables. */
function makeAvailable(bed: VirtioBed, side: VirtioSide, random: Random): void {
  const { descriptor, driver } = extents(bed, side);
  for (let i = 0; i < 4; i++) {
    const table = Number(bed.tableFor(random(32)) - bed.ram.guestPhysicalAddress);
    forge(bed, side, table + 16 * random(6), random, {
      flags: random(20) === 0 ? kindOf(random) : random(2),
      other: random(7),
    });
  }
  if (bed.packed) {
    let at = side.queue.base & 0xffff;
    for (let i = random(6); i >= 0; i--) {
      const owner = (at & 0x8000) !== 0 ? 0x80 : 0x8000;
      const index = (at & 0x7fff) % NUM;
      forge(bed, side, descriptor + 16 * index, random, { flags: kindOf(random) | owner, other: random(40) });
      at = index + 1 === NUM ? (at & 0x8000) ^ 0x8000 : (at & 0x8000) | (index + 1);
    }
    return;
  }
  const view = bed.memory;
  const index = view.getUint16(driver + 2, true);
  const n = random(6);
  for (let i = 0; i < n; i++) {
    const head = random(NUM);
    forge(bed, side, descriptor + 16 * head, random, { flags: kindOf(random), other: random(NUM) });
    view.setUint16(driver + 4 + 2 * ((index + i) % NUM), head, true);
  }
  // Mostly no further than the ring goes, so that the device gets somewhere.
  const room = NUM - ((index - side.queue.base) & 0xffff);
  view.setUint16(driver + 2, index + (random(30) === 0 ? n : Math.max(0, Math.min(n, room))), true);
}

/** One write into the areas or a table, through the guest's mapping. */
function mutate(bed: VirtioBed, side: VirtioSide, random: Random): void {
  const { descriptor, driver, end } = extents(bed, side);
  const table = Number(bed.tableFor(random(32)) - bed.ram.guestPhysicalAddress);
  const anywhere = random(4) === 0 ? table + random(128) : descriptor + random(end - descriptor);
  const view = bed.memory;
  switch (random(8)) {
    case 0:
      bed.bytes[anywhere] = random(256);
      return;
    case 1:
      view.setUint32(anywhere & ~3, anyWord(random), true);
      return;
    case 2:
      view.setBigUint64(anywhere & ~7, anyAddress(bed, random), true);
      return;
    case 3:
      // The index, or the event: in both formats the first words of the driver's area.
      view.setUint16(
        driver + 2 * random(2),
        random(4) === 0 ? random(0x10000) : view.getUint16(driver + 2, true) + random(9) - 4,
        true,
      );
      return;
    case 4:
      view.setUint16(
        (anywhere & ~15) + 12 + 2 * random(2),
        random(32) | [0, 0x80, 0x8000, 0x8080][random(4)]!,
        true,
      );
      return;
    case 5:
      view.setUint16(anywhere & ~1, (view.getUint16(anywhere & ~1, true) + random(9) - 4) & 0xffff, true);
      return;
    default:
      forge(bed, side, descriptor + 16 * random(NUM), random, {
        flags: kindOf(random) | (random(2) === 0 ? 0x80 : 0x8000),
        other: random(NUM),
      });
  }
}

/** All host-private memory but what the queue's calls may write. */
function picture(bed: VirtioBed, side: VirtioSide): { start: number; bytes: Uint8Array }[] {
  const { address } = side.queue;
  const moving = [
    L.QUEUE_CONS,
    L.QUEUE_SEEN,
    L.QUEUE_HINT,
    L.QUEUE_FAULT,
    L.QUEUE_SHORT,
    L.VIRTQ_FRESH,
    L.VIRTQ_POSTED,
  ];
  const holes = [
    ...moving.map(field => ({ start: address + field, end: address + field + 4 })),
    { start: address + L.VIRTQ_MISS_LENGTH, end: address + L.VIRTQ_MISS + 8 },
    { start: address + L.QUEUE_STATS, end: address + L.QUEUE_STATS + L.STATS_SIZE },
    { start: address + L.VIRTQ_CHAINS, end: address + L.VIRTQ_SIZE },
    // Both queues are started anew together.
    ...bed.sides
      .map(({ queue }) => ({ start: queue.address, end: queue.address + L.QUEUE_STATS }))
      .filter(({ start }) => start !== address),
    ...bed.sides
      .map(({ queue }) => ({ start: queue.address + L.VIRTQ_FRESH, end: queue.address + L.VIRTQ_MISS + 8 }))
      .filter(({ start }) => start !== address + L.VIRTQ_FRESH),
    {
      start: bed.batch.address,
      end: window.words[(bed.batch.address + L.BATCH_SPILL) >>> 2]! + L.SPILL_SIZE,
    },
  ].sort((a, b) => a.start - b.start);
  const kept: { start: number; bytes: Uint8Array }[] = [];
  let start = ARENA_START;
  for (const hole of [...holes, { start: ARENA_START + (1 << 19), end: 0 }]) {
    if (hole.start > start) kept.push({ start, bytes: window.bytes.slice(start, hole.start) });
    start = Math.max(start, hole.end);
  }
  return kept;
}

function compare(kept: readonly { start: number; bytes: Uint8Array }[], where: string): void {
  for (const { start, bytes } of kept) {
    const now = window.bytes.subarray(start, start + bytes.length);
    if (Buffer.compare(now, bytes) === 0) continue;
    assert.fail(
      `${where}: byte at window address ${start + bytes.findIndex((byte, i) => byte !== now[i])} has changed`,
    );
  }
}

function runHonestly(bed: VirtioBed, side: VirtioSide, random: Random): void {
  const style = { ...styleOf(bed.features), longest: 1518 };
  if (side.direction === 'tx') {
    const flow = new VirtioTx(bed, style);
    for (let i = 0; i < 3; i++) {
      flow.publish(3, random);
      flow.drain(128);
      flow.reap();
    }
    assert.ok(flow.arrived === flow.sent && flow.sent > 2, 'transmit');
  } else {
    const flow = new VirtioRx(bed, style);
    for (let i = 0; i < 6; i++) {
      flow.refill(NUM, random);
      flow.fill(128, 3);
      flow.poll();
    }
    assert.ok(flow.arrived === flow.sent && flow.sent > 2, 'receive');
  }
  assert.equal(side.queue.fault, 0);
}

for (const format of ['split', 'packed'] as const)
  test(`${format}: num_buffers is written before the buffer is given back`, () => {
    const live = arena.live;
    const packed = format === 'packed';
    const features = F.VERSION_1 | F.MRG_RXBUF | (packed ? F.RING_PACKED : 0n);
    const bed = new VirtioBed({ features, num: 1, slots: 4 });
    const { queue, areas } = bed.rx;
    // The field lies where the ring says that the buffer is given back: what is there in the end was written last.
    const given = packed ? areas.descriptor + 14n : areas.device + 2n;
    const at = Number(given - bed.ram.guestPhysicalAddress);
    bed.reset(packed ? 0 : 7);
    bed.rx.driver.add([{ gpa: given - 10n, length: 200 }], true);
    bed.rx.driver.publish();
    assert.equal(bed.ring.room(queue.address, bed.batch.address, 1), 1);
    bed.batch.setLength(0, 60);
    bed.ring.push(queue.address, bed.batch.address, 1);
    assert.equal(bed.memory.getUint16(at, true), packed ? 0x8082 : 8, 'not num_buffers, which is 1');
    bed.close();
    assert.equal(arena.live, live);
  });
