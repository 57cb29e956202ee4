/** Frames through virtqueues, numbered: their content, length and header follow from the number, so whoever gets one knows what it should be. */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { pieces as framePieces, getHeader, setHeader } from './packets.js';
import type { Random, VirtioBed } from './virtio-bed.js';
import type { Piece } from './virtio-model.js';

const none = { flags: 0, type: 0, hdrLen: 0, gsoSize: 0, start: 0, offset: 0 };

/** How chains look, and how long frames are. */
export interface Style {
  readonly pieces: number;
  readonly longest: number;
}

export function contentOf(n: number, longest: number): Buffer {
  const length = n % 5 === 0 ? 1 + (n % 60) : 1 + ((n * 40_503) % longest);
  const bytes = Buffer.alloc(length, n);
  bytes[length - 1] = n + 1;
  return bytes;
}

/** What frames may ask to be cut into, as gso_type has it; null: they may ask for nothing. */
export type Kinds = readonly number[] | null;

/** Seen from the guest: features, and the gso_type that each allows. */
const KINDS = {
  tx: [F.CSUM, [F.HOST_TSO4, 1], [F.HOST_UFO, 3], [F.HOST_TSO6, 4], [F.HOST_USO, 5]],
  rx: [
    F.GUEST_CSUM,
    [F.GUEST_TSO4, 1],
    [F.GUEST_UFO, 3],
    [F.GUEST_TSO6, 4],
    [F.GUEST_USO4 | F.GUEST_USO6, 5],
  ],
} as const;

export function kindsOf(features: bigint, direction: 'tx' | 'rx'): Kinds {
  const [sums, ...kinds] = KINDS[direction];
  if ((features & sums) === 0n) return null;
  return kinds.filter(([feature]) => (features & feature) === feature).map(([, type]) => type);
}

/** Where the headers of a frame of that kind end, and its checksum is. */
const SHAPES: Readonly<Record<number, { start: number; hdrLen: number; offset: number }>> = {
  1: { start: 34, hdrLen: 54, offset: 16 },
  3: { start: 34, hdrLen: 42, offset: 6 },
  4: { start: 54, hdrLen: 74, offset: 16 },
  5: { start: 34, hdrLen: 42, offset: 6 },
};

export function headerOf(n: number, length: number, kinds: Kinds): typeof none {
  if (!kinds || length < 80 || n % 3 === 0) return none;
  const sum = { ...none, flags: 1, start: 34, offset: 16 };
  if (n % 3 === 1 || kinds.length === 0) return sum;
  const type = kinds[Math.floor(n / 3) % kinds.length]!;
  return { ...sum, ...SHAPES[type]!, type, gsoSize: 1 + (n % 1448) };
}

function headerBytes(n: number, length: number, kinds: Kinds, size: number): Buffer {
  const { flags, type, hdrLen, gsoSize, start, offset } = headerOf(n, length, kinds);
  const bytes = Buffer.alloc(size, 0xee); // what the last two bytes hold says nothing
  bytes.writeUInt8(flags, 0);
  bytes.writeUInt8(type, 1);
  bytes.writeUInt16LE(hdrLen, 2);
  bytes.writeUInt16LE(gsoSize, 4);
  bytes.writeUInt16LE(start, 6);
  bytes.writeUInt16LE(offset, 8);
  return bytes;
}

let flows = 0;

/** Guest to device. */
export class VirtioTx {
  sent = 0;
  arrived = 0;
  /** Ids of chains that the device has completed and the driver has not taken, oldest first. */
  readonly #out: number[] = [];
  readonly #base = ++flows * 1009;
  readonly #bed: VirtioBed;
  readonly #style: Style;
  readonly #kinds: Kinds;

  constructor(bed: VirtioBed, style: Style) {
    this.#bed = bed;
    this.#style = style;
    this.#kinds = kindsOf(bed.features, 'tx');
  }

  /** Adds up to `want` frames. Returns how many, and whether the device wants a kick. */
  publish(want: number, random: Random): { sent: number; kick: boolean } {
    const { driver } = this.#bed.tx;
    let sent = 0;
    for (; sent < want; sent++) {
      const n = this.#base + this.sent;
      const payload = contentOf(n, this.#style.longest);
      const header = headerBytes(n, payload.length, this.#kinds, this.#bed.header);
      const whole = Buffer.concat([header, payload]);
      const pieces = this.#bed.cut(2 * this.sent, whole.length, this.#style.pieces, random);
      const indirect = (this.#bed.features & F.INDIRECT_DESC) !== 0n && random(2) === 0;
      if (driver.free < (indirect ? 1 : pieces.length)) break;
      this.#bed.scatter(pieces, whole);
      this.#out.push(driver.add(pieces, false, indirect ? this.#bed.tableFor(2 * this.sent) : undefined));
      this.sent++;
    }
    return { sent, kick: driver.publish() };
  }

  /** The device takes up to `take` of the frames that it finds within the budget. */
  drain(budget: number, take = budget): { frames: number; interrupt: boolean } {
    const { ring, batch, tx } = this.#bed;
    const frames = Math.min(take, ring.pop(tx.queue.address, batch.address, budget));
    for (let i = 0; i < frames; i++) {
      const n = this.#base + this.arrived++;
      const payload = contentOf(n, this.#style.longest);
      assert.equal(batch.length(i), payload.length, `length of frame ${n}`);
      assert.ok(
        Buffer.concat(framePieces(batch, i, payload.length)).equals(payload),
        `payload of frame ${n}`,
      );
      assert.deepEqual(getHeader(batch, i), headerOf(n, payload.length, this.#kinds), `header of ${n}`);
    }
    return { frames, interrupt: ring.complete(tx.queue.address, batch.address, frames) };
  }

  /** The driver takes back what was completed. */
  reap(): number {
    const taken = this.#bed.tx.driver.taken();
    for (const used of taken) assert.deepEqual(used, { id: this.#out.shift(), length: 0 });
    return taken.length;
  }
}

/** Device to guest. */
export class VirtioRx {
  sent = 0;
  arrived = 0;
  posted = 0;
  readonly #out: { id: number; pieces: Piece[]; size: number }[] = [];
  readonly #base = ++flows * 1009;
  readonly #bed: VirtioBed;
  readonly #style: Style;
  readonly #kinds: Kinds;
  readonly #merge: boolean;

  constructor(bed: VirtioBed, style: Style) {
    this.#bed = bed;
    this.#style = style;
    this.#merge = (bed.features & F.MRG_RXBUF) !== 0n;
    this.#kinds = kindsOf(bed.features, 'rx');
  }

  /** Posts up to `want` chains: where they merge of any size, else large enough for every frame. */
  refill(want: number, random: Random): boolean {
    const { driver } = this.#bed.rx;
    const { longest, pieces: most } = this.#style;
    for (let i = 0; i < want; i++) {
      const small = Math.max(12, Math.floor(longest / 4));
      const size = this.#merge ? small + random(longest) : longest + this.#bed.header;
      const pieces = this.#bed.cut(2 * this.posted + 1, size, most, random);
      const indirect = (this.#bed.features & F.INDIRECT_DESC) !== 0n && random(2) === 0;
      if (driver.free < (indirect ? 1 : pieces.length)) break;
      const id = driver.add(pieces, true, indirect ? this.#bed.tableFor(2 * this.posted + 1) : undefined);
      this.#out.push({ id, pieces, size });
      this.posted++;
    }
    return driver.publish();
  }

  /** The device fills up to `want` of the frames that there is room for. */
  fill(budget: number, want = budget): { frames: number; room: number; interrupt: boolean } {
    const { ring, batch, rx } = this.#bed;
    const room = ring.room(rx.queue.address, batch.address, budget);
    let frames = 0;
    for (; frames < Math.min(want, room); frames++) {
      const n = this.#base + this.sent;
      const payload = contentOf(n, this.#style.longest);
      if (payload.length > batch.room(frames)) break; // there are too few buffers for this one
      let done = 0;
      for (const piece of framePieces(batch, frames, payload.length)) {
        piece.set(payload.subarray(done, done + piece.length));
        done += piece.length;
      }
      batch.setLength(frames, payload.length);
      setHeader(batch, frames, headerOf(n, payload.length, this.#kinds));
      this.sent++;
    }
    return { frames, room, interrupt: ring.push(rx.queue.address, batch.address, frames) };
  }

  /** The driver takes what has arrived, whole frames. Returns how many. */
  poll(): number {
    const { header: size, rx } = this.#bed;
    const used = rx.driver.taken();
    const before = this.arrived;
    while (used.length > 0) {
      const n = this.#base + this.arrived++;
      const payload = contentOf(n, this.#style.longest);
      const header = this.#bed.gather(this.#out[0]!.pieces, size);
      const buffers = size === 12 ? header.readUInt16LE(10) : 1;
      assert.ok(buffers >= 1 && buffers <= used.length, `${buffers} buffers`);
      if (!this.#merge) assert.equal(buffers, 1);
      const parts: Buffer[] = [];
      for (const [i, { id, length }] of used.splice(0, buffers).entries()) {
        const own = this.#out.shift()!;
        assert.equal(id, own.id, 'order');
        assert.ok(
          length <= own.size && (length > 0 || buffers === 1),
          `${length} bytes in a chain of ${own.size}`,
        );
        if (i < buffers - 1) assert.equal(length, own.size, 'only the last one may be used in part');
        parts.push(this.#bed.gather(own.pieces, length));
      }
      const whole = Buffer.concat(parts);
      assert.ok(whole.subarray(size).equals(payload), `payload of frame ${n}`);
      const expected = headerBytes(n, payload.length, this.#kinds, size);
      assert.ok(header.subarray(0, 10).equals(expected.subarray(0, 10)), `header of frame ${n}`);
    }
    return this.arrived - before;
  }
}

/** A set of features that makes sense together, named. */
export const MATRIX: readonly (readonly [string, bigint])[] = (() => {
  const sums = F.CSUM | F.GUEST_CSUM;
  const offloads = sums | F.HOST_TSO4 | F.GUEST_TSO4;
  const others =
    sums |
    (F.HOST_TSO6 | F.HOST_UFO | F.HOST_USO) |
    (F.GUEST_TSO6 | F.GUEST_UFO | F.GUEST_USO4 | F.GUEST_USO6);
  const modern = F.VERSION_1;
  const sets: [string, bigint][] = [
    ['legacy, 10-byte header', 0n],
    ['legacy, merging', F.MRG_RXBUF | F.ANY_LAYOUT],
    ['modern', modern],
    ['event index', modern | F.EVENT_IDX],
    ['indirect', modern | F.INDIRECT_DESC],
    ['merging', modern | F.MRG_RXBUF],
    ['in order', modern | F.IN_ORDER],
    ['all, no offloads', modern | F.EVENT_IDX | F.INDIRECT_DESC | F.MRG_RXBUF | F.IN_ORDER],
    ['large frames', modern | F.EVENT_IDX | F.INDIRECT_DESC | offloads],
    ['large frames, merging', modern | F.EVENT_IDX | F.MRG_RXBUF | offloads],
    ['checksums only', modern | F.MRG_RXBUF | sums],
    ['TSO6, UFO, USO', modern | F.INDIRECT_DESC | others],
    ['TSO6, UFO, USO, merging', modern | F.EVENT_IDX | F.MRG_RXBUF | others],
    ['all', modern | F.EVENT_IDX | F.INDIRECT_DESC | F.MRG_RXBUF | F.IN_ORDER | offloads | others],
  ];
  return [
    ...sets.map(([name, features]) => [`split, ${name}`, features] as const),
    ...sets
      .filter(([, features]) => (features & modern) !== 0n)
      .map(([name, features]) => [`packed, ${name}`, features | F.RING_PACKED] as const),
  ];
})();

export const isLarge = (features: bigint): boolean => (kindsOf(features, 'tx') ?? []).length > 0;
export const styleOf = (features: bigint): Style => ({
  pieces: 5,
  longest: isLarge(features) ? L.LARGE_FRAME : 1518,
});
