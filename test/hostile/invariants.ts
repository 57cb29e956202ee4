/** What a hostile guest must not be able to change, compared with how it was; and where frames may lie. */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { ARENA_START } from '../../src/memory/window.js';
import { type Side, type Testbed, window } from '../compliance/testbed.js';

/** Fields of a queue that the device itself moves. All others are set by the control side and never change. */
const MOVING = [L.QUEUE_CONS, L.QUEUE_SEEN, L.QUEUE_HINT, L.QUEUE_FAULT, L.QUEUE_SHORT];
const ARENA_LOOKED_AT = 1 << 20;

export interface Range {
  readonly start: number;
  readonly end: number;
}

/** Takes a picture of all host-private memory and of the guest memory around the hostile queue's context. */
export class Invariants {
  readonly #bed: Testbed;
  readonly #side: Side;
  readonly #pictures: readonly { readonly range: Range; readonly bytes: Uint8Array }[];

  /** @param excepted further ranges of window addresses that may change */
  constructor(bed: Testbed, side: Side, excepted: readonly Range[] = []) {
    this.#bed = bed;
    this.#side = side;
    const { deviceBatch, guestBatch } = bed;
    const queue = side.queue.address;
    const arena = { start: ARENA_START, end: ARENA_START + ARENA_LOOKED_AT };
    const own: Range[] = [
      ...MOVING.map(field => ({ start: queue + field, end: queue + field + 4 })),
      { start: queue + L.QUEUE_STATS, end: queue + L.QUEUE_STATS + L.STATS_SIZE },
      extent(deviceBatch.address),
      extent(guestBatch.address),
      ...excepted,
    ];
    const { context, contextSize } = side;
    const ram = { start: context - Number(bed.ram.toGuest(context) - bed.ram.guestPhysicalAddress), end: 0 };
    ram.end = ram.start + bed.ram.size;
    const ranges = [
      ...without(arena, own),
      ...without(ram, [{ start: context, end: context + contextSize }]),
    ];
    this.#pictures = ranges.map(range => ({ range, bytes: window.bytes.slice(range.start, range.end) }));
  }

  check(where: string): void {
    for (const { range, bytes } of this.#pictures) {
      const now = window.bytes.subarray(range.start, range.end);
      if (Buffer.compare(now, bytes) === 0) continue;
      const at = bytes.findIndex((byte, i) => byte !== now[i]);
      assert.fail(`${where}: byte at window address ${range.start + at} has changed`);
    }
    const hint = window.words[(this.#side.queue.address + L.QUEUE_HINT) >>> 2]!;
    const entry = hint - this.#bed.table.address - L.REGIONS_HEAD;
    assert.ok(hint === 0 || entry === 0 || entry === L.REGION_SIZE, `${where}: hint ${hint}`);
    this.#bed.checkCanaries();
  }

  /** Every iovec of the batch's frames lies in one region, by both of its addresses. */
  checkFrames(count: number): void {
    const { deviceBatch, table } = this.#bed;
    assert.equal(deviceBatch.count, count);
    const most = window.words[(this.#side.queue.address + L.QUEUE_MAX_FRAME) >>> 2]!;
    const [frames, headers] = [L.BATCH_FRAMES, L.BATCH_HEADERS].map(
      field => window.words[(deviceBatch.address + field) >>> 2]!,
    ) as [number, number];
    for (let i = 0; i < count; i++) {
      const frame = (frames + i * L.FRAME_SIZE) >>> 2;
      const iov = window.words[frame + L.FRAME_IOV / 4]! / 8;
      const iovs = window.words[frame + L.FRAME_IOVS / 4]!;
      const win = window.words[frame + L.FRAME_WIN / 4]! >>> 2;
      assert.equal(Number(window.longs[iov]!) - window.base, headers + i * L.VNET_HEADER_STRIDE);
      assert.equal(window.longs[iov + 1], BigInt(L.VNET_HEADER_SIZE));
      let total = 0;
      for (let b = 1; b < iovs; b++) {
        const flat = Number(window.longs[iov + 2 * b]!);
        const length = Number(window.longs[iov + 2 * b + 1]!);
        const at = window.words[win + b - 1]!;
        if (length === 0 && b > 1) {
          assert.deepEqual([flat, at], [0, 0], 'a place without a buffer');
          continue;
        }
        assert.ok(length > 0 && length <= most, `a buffer of ${length} bytes`);
        assert.equal(flat - window.base, at, 'the two addresses are the same memory');
        assert.ok(inRegion(table.address, flat, length), `${length} bytes at ${flat} are no guest memory`);
        total += length;
      }
      assert.equal(deviceBatch.length(i), total);
      if (this.#side.direction === 'rx') assert.equal(deviceBatch.room(i), total);
    }
  }
}

function inRegion(table: number, flat: number, length: number): boolean {
  const count = window.words[(table + L.REGIONS_COUNT) >>> 2]!;
  for (let i = 0; i < count; i++) {
    const entry = (table + L.REGIONS_HEAD + i * L.REGION_SIZE) / 8;
    const start = Number(window.longs[entry + L.REGION_FLAT / 8]!);
    const size = Number(window.longs[entry + L.REGION_LENGTH / 8]!);
    if (flat >= start && flat + length <= start + size) return true;
  }
  return false;
}

/** What a batch takes of the arena: it ends with its spill. */
function extent(batch: number): Range {
  return { start: batch, end: window.words[(batch + L.BATCH_SPILL) >>> 2]! + L.SPILL_SIZE };
}

/** The range without those holes. */
function without(whole: Range, holes: readonly Range[]): Range[] {
  const left: Range[] = [];
  let { start } = whole;
  const inside = (hole: Range) => hole.start >= whole.start && hole.end <= whole.end;
  for (const hole of holes.filter(inside).toSorted((a, b) => a.start - b.start)) {
    if (hole.start > start) left.push({ start, end: hole.start });
    start = hole.end;
  }
  if (start < whole.end) left.push({ start, end: whole.end });
  return left;
}
