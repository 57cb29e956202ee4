/**
 * One queue pair of virtqueues: the model's drivers on the guest's side, the datapath on the device's, in one thread.
 *
 * ```
 *   memfd   | canary | rings | tables | slots … | canary | slots … | canary |     mapped twice: a DataView for the guest, by the region
 *                                                                                 table for the device; canaries are in no region
 * ```
 * A slot holds the pieces of one chain. Where they lie in it, and how many there are, is random.
 */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { GuestMemory, type RegionTable } from '../../src/memory/guest-memory.js';
import { readStats } from '../../src/nic/queue.js';
import { Batch } from '../../src/ring/batch.js';
import { type Datapath, loadDatapath } from '../../src/ring/datapath.js';
import type { Ring } from '../../src/ring/ring.js';
import { type Areas, areaSizes } from '../../src/ring/virtio/areas.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { Virtq, virtqRing } from '../../src/ring/virtio/virtq.js';
import { arena, window } from './testbed.js';
import { type ModelDriver, PackedDriver, type Piece, SplitDriver } from './virtio-model.js';

export type Random = (below: number) => number;

const PAGE = 4096;
const CANARY = 0xa5;
export const SLOT = 80 * 1024;

export interface VirtioBedOptions {
  readonly features: bigint;
  readonly num?: number;
  readonly maxFrame?: number;
  /** Slots for chains, half of them in either region. */
  readonly slots?: number;
}

export interface VirtioSide {
  readonly direction: 'rx' | 'tx';
  readonly queue: Virtq;
  readonly areas: Areas<bigint>;
  driver: ModelDriver;
}

export class VirtioBed {
  readonly features: bigint;
  readonly num: number;
  readonly packed: boolean;
  readonly header: number;
  readonly datapath: Datapath = loadDatapath(window);
  readonly ring: Ring = virtqRing(this.datapath);
  readonly batch = Batch.allocate(window, arena);
  readonly ram: GuestRam;
  readonly table: RegionTable;
  /** All of guest memory as the guest sees it. */
  readonly memory: DataView;
  readonly bytes: Uint8Array;
  readonly tx: VirtioSide;
  readonly rx: VirtioSide;
  /** Guest physical addresses of pages that no region holds. */
  readonly forbidden: readonly bigint[];
  /** Runs between the store and the load of the model's `publish` and `arm`. */
  between: () => void = () => {};
  readonly #slots: number[] = [];
  readonly #tables: number;
  readonly #canaries: readonly number[];

  constructor({ features, num = 16, maxFrame = 1518, slots = 128 }: VirtioBedOptions) {
    this.features = features;
    this.num = num;
    this.packed = (features & F.RING_PACKED) !== 0n;
    this.header = (features & (F.VERSION_1 | F.MRG_RXBUF)) !== 0n ? 12 : 10;
    const rings = Math.ceil((2 * 26 * num + 4096) / PAGE) * PAGE;
    const tables = slots * 1024 * 16;
    const half = (Math.ceil(slots / 2) * SLOT) / PAGE;
    const size = 3 * PAGE + rings + tables + 2 * half * PAGE;
    this.ram = new GuestRam(window, size);
    const first = this.ram.allocate(size);
    const hole = PAGE + rings + tables + half * PAGE;
    this.#canaries = [0, hole, size - PAGE].map(offset => first + offset);
    const start = this.ram.guestPhysicalAddress;
    this.forbidden = this.#canaries.map(at => start + BigInt(at - first));
    for (const at of this.#canaries) window.bytes.fill(CANARY, at, at + PAGE);
    this.memory = new DataView(window.bytes.buffer, first, size);
    this.bytes = window.bytes.subarray(first, first + size);
    this.#tables = PAGE + rings;
    const base = PAGE + rings + tables;
    for (let i = 0; i < slots; i++) this.#slots.push(base + i * SLOT + (i < Math.ceil(slots / 2) ? 0 : PAGE));

    const { fd } = this.ram;
    const region = (from: number, to: number) => ({
      guestPhysicalAddress: start + BigInt(from),
      size: BigInt(to - from),
      mmapOffset: BigInt(from),
      fd,
    });
    this.table = new GuestMemory(window, arena).build([region(PAGE, hole), region(hole + PAGE, size - PAGE)]);
    const side = (direction: 'rx' | 'tx', offset: number): VirtioSide => {
      const sizes = areaSizes(num, this.packed);
      const driver = offset + sizes.descriptor;
      const device = Math.ceil((driver + sizes.driver) / 4) * 4;
      const areas = { descriptor: offset, driver, device };
      const queue = new Virtq({ window, arena, calls: this.datapath.calls }, direction);
      queue.negotiate(features, num, maxFrame);
      const at = {
        descriptor: start + BigInt(areas.descriptor),
        driver: start + BigInt(areas.driver),
        device: start + BigInt(areas.device),
      };
      queue.place(at, this.table);
      return { direction, queue, areas: at, driver: undefined as unknown as ModelDriver };
    };
    this.tx = side('tx', PAGE);
    this.rx = side('rx', PAGE + Math.ceil((26 * num + 64) / 64) * 64);
    this.reset();
  }

  /** Guest memory behind rings and tables: the slots, and what lies between them. */
  get payload(): Uint8Array {
    return this.bytes.subarray(this.#slots[0]);
  }

  get sides(): readonly VirtioSide[] {
    return [this.tx, this.rx];
  }

  /** Both sides anew, at an index (split), or a position: an index, or an index plus the ring's size for wrap counter 0 (packed). */
  reset(at = 0): void {
    for (const side of this.sides) {
      const { num } = this;
      const options = {
        memory: this.memory,
        base: this.ram.guestPhysicalAddress,
        areas: side.areas,
        num,
        eventIdx: (this.features & F.EVENT_IDX) !== 0n,
        inOrder: (this.features & F.IN_ORDER) !== 0n,
        between: () => this.between(),
      };
      const offset = Number(side.areas.descriptor - this.ram.guestPhysicalAddress);
      this.bytes.fill(0, offset, offset + 26 * num + 16);
      const place = { index: at % num, wrap: at < num };
      side.driver = this.packed ? new PackedDriver(options, place) : new SplitDriver(options, at);
      assert.ok(side.queue.setBase(this.packed ? place.index | (place.wrap ? 0x8000 : 0) : at));
      assert.ok(this.ring.resume(side.queue.address));
      side.driver.arm(1);
    }
  }

  stats(side: VirtioSide): ReturnType<typeof readStats> {
    return readStats(window, side.queue.address + L.QUEUE_STATS);
  }

  toGuest(offset: number): bigint {
    return this.ram.guestPhysicalAddress + BigInt(offset);
  }

  /** Cuts `length` bytes into up to `most` pieces at random places of the n-th slot, some of them empty. */
  cut(n: number, length: number, most: number, random: Random): Piece[] {
    const slot = this.#slots[n % this.#slots.length]!;
    const count = 1 + random(most);
    const cuts = Array.from({ length: count - 1 }, () => random(length + 1)).sort((a, b) => a - b);
    const ends = [...cuts, length];
    const slack = Math.floor((SLOT - length) / count);
    let at = slot;
    return ends.map((end, i) => {
      at += random(Math.min(slack, 40));
      const piece = { gpa: this.toGuest(at), length: end - (ends[i - 1] ?? 0) };
      at += piece.length;
      return piece;
    });
  }

  /** Where the n-th slot's indirect table may be. */
  tableFor(n: number): bigint {
    return this.toGuest(this.#tables + (n % this.#slots.length) * 1024 * 16);
  }

  /** The bytes that the pieces hold, up to `length` of them. */
  gather(pieces: readonly Piece[], length = Number.POSITIVE_INFINITY): Buffer {
    const parts = pieces.map(({ gpa, length: bytes }) => {
      const at = Number(gpa - this.ram.guestPhysicalAddress);
      return this.bytes.subarray(at, at + bytes);
    });
    return Buffer.concat(parts).subarray(0, length);
  }

  scatter(pieces: readonly Piece[], bytes: Uint8Array): void {
    let done = 0;
    for (const { gpa, length } of pieces) {
      this.bytes.set(bytes.subarray(done, done + length), Number(gpa - this.ram.guestPhysicalAddress));
      done += length;
    }
    assert.ok(done >= bytes.length, 'the pieces are too short');
  }

  checkCanaries(): void {
    for (const at of this.#canaries) {
      const page = window.bytes.subarray(at, at + PAGE);
      const bad = page.findIndex(byte => byte !== CANARY);
      if (bad >= 0) throw new Error(`byte ${bad} of the page at window address ${at} was overwritten`);
    }
  }

  close(): void {
    for (const { queue } of this.sides) queue.close();
    this.table.close();
    this.ram.close();
    arena.free(this.batch.address);
  }
}
