/**
 * Virtqueues as the standard describes them, written down once more without regard to speed: a driver and a device over a
 * DataView of guest memory. What the datapath does is compared with them; nothing here is shared with datapath/.
 *
 * ```
 *   ModelDriver   add(pieces) … publish() ──► ring ──►  device under test     taken() ◄── what came back
 * ```
 */
import assert from 'node:assert/strict';
import type { Areas } from '../../src/ring/virtio/areas.js';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 0x80;
const USED = 0x8000;

/** A part of a buffer. */
export interface Piece {
  readonly gpa: bigint;
  readonly length: number;
  /** Where that differs from the rest of its chain. */
  readonly writable?: boolean;
}

export interface ModelOptions {
  /** All of guest memory, and the guest physical address of its first byte. */
  readonly memory: DataView;
  readonly base: bigint;
  readonly areas: Areas<bigint>;
  readonly num: number;
  readonly eventIdx: boolean;
  readonly inOrder?: boolean;
  /** Called in the middle of `publish` and `arm`, between the store and the load that may not change places. */
  readonly between?: () => void;
}

/** One that came back. */
export interface Used {
  readonly id: number;
  readonly length: number;
}

interface Offsets {
  readonly descriptor: number;
  readonly driver: number;
  readonly device: number;
}

/** Whether a run of single steps from `old` to `now` steps over `event`. Indices live on a circle of that circumference. */
function passes(event: number, old: number, now: number, circle: number): boolean {
  for (let at = old; at !== now; at = (at + 1) % circle) if (at === event) return true;
  return false;
}

abstract class Model {
  protected readonly view: DataView;
  protected readonly at: Offsets;
  protected readonly num: number;
  protected readonly options: ModelOptions;

  constructor(options: ModelOptions) {
    const offset = (gpa: bigint) => Number(gpa - options.base);
    this.options = options;
    this.view = options.memory;
    this.num = options.num;
    const { descriptor, driver, device } = options.areas;
    this.at = { descriptor: offset(descriptor), driver: offset(driver), device: offset(device) };
  }

  protected u16(at: number): number {
    return this.view.getUint16(at, true);
  }

  protected setU16(at: number, value: number): void {
    this.view.setUint16(at, value & 0xffff, true);
  }

  /** A descriptor: the last two fields are flags and next (split, tables), or id and flags (packed). */
  protected setDescriptor(at: number, { gpa, length }: Piece, third: number, fourth: number): void {
    this.view.setBigUint64(at, gpa, true);
    this.view.setUint32(at + 8, length, true);
    this.setU16(at + 12, third);
    this.setU16(at + 14, fourth);
  }

  protected offsetOf(gpa: bigint): number {
    return Number(gpa - this.options.base);
  }
}

/** The driver's side. `free` says how many descriptors a chain may take. */
export abstract class ModelDriver extends Model {
  /** Chains that are out, in the order in which they were added: id, number of descriptors, which ones (split). */
  protected readonly out: {
    readonly id: number;
    readonly count: number;
    readonly slots: readonly number[];
  }[] = [];

  /** Adds a chain; `table`: through an indirect table at that address. Returns its id; nobody sees it before `publish`. */
  abstract add(pieces: readonly Piece[], writable: boolean, table?: bigint): number;
  /** Shows what was added. True: the device wants a kick. */
  abstract publish(): boolean;
  /** What came back, oldest first. */
  abstract taken(): Used[];
  /** Interrupts when the n-th chain (split) or descriptor (packed) from now on comes back; 0: never. True: something has come back already. */
  abstract arm(n: number): boolean;
  abstract get free(): number;

  get posted(): number {
    return this.out.length;
  }

  /** With IN_ORDER one entry stands for all before it. */
  protected batchUpTo(id: number, length: number): Used[] {
    const index = this.out.findIndex(chain => chain.id === id);
    assert.ok(index >= 0, `id ${id} came back and is not out`);
    assert.ok(index === 0 || this.options.inOrder, `id ${id} came back out of order`);
    return this.out
      .slice(0, index + 1)
      .map(chain => ({ id: chain.id, length: chain.id === id ? length : 0 }));
  }
}

export class SplitDriver extends ModelDriver {
  readonly #free: number[];
  #avail = 0;
  #shown = 0;
  #used = 0;

  constructor(options: ModelOptions, start = 0) {
    super(options);
    // Odd slots first, so that chains do not lie in a row.
    const all = [...Array(options.num).keys()];
    this.#free = [...all.filter(i => i % 2 === 1), ...all.filter(i => i % 2 === 0)];
    this.#avail = this.#shown = this.#used = start;
    this.setU16(this.at.driver + 2, start);
    this.setU16(this.at.device + 2, start);
  }

  get free(): number {
    return this.#free.length;
  }

  add(pieces: readonly Piece[], writable: boolean, table?: bigint): number {
    const flagsOf = (piece: Piece) => ((piece.writable ?? writable) ? WRITE : 0);
    const count = table === undefined ? pieces.length : 1;
    const slots = this.#free.splice(0, count);
    assert.equal(slots.length, count, 'the ring is full');
    const head = slots[0]!;
    const descriptor = (slot: number) => this.at.descriptor + 16 * slot;
    if (table === undefined) {
      pieces.forEach((piece, i) => {
        const next = slots[i + 1];
        this.setDescriptor(
          descriptor(slots[i]!),
          piece,
          next === undefined ? flagsOf(piece) : flagsOf(piece) | NEXT,
          next ?? 0xbeef,
        );
      });
    } else {
      // Entries of a table may be linked in any order; the first one comes first.
      const order = [
        0,
        ...pieces
          .map((_, i) => i)
          .slice(1)
          .reverse(),
      ];
      order.forEach((entry, i) => {
        const next = order[i + 1];
        const where = this.offsetOf(table) + 16 * entry;
        const flags = flagsOf(pieces[i]!);
        this.setDescriptor(where, pieces[i]!, next === undefined ? flags : flags | NEXT, next ?? 0xbeef);
      });
      this.setDescriptor(descriptor(head), { gpa: table, length: 16 * pieces.length }, INDIRECT, 0xdead);
    }
    this.setU16(this.at.driver + 4 + 2 * (this.#avail % this.num), head);
    this.#avail = (this.#avail + 1) & 0xffff;
    this.out.push({ id: head, count, slots });
    return head;
  }

  publish(): boolean {
    const old = this.#shown;
    this.setU16(this.at.driver + 2, this.#avail);
    this.#shown = this.#avail;
    this.options.between?.();
    if (old === this.#avail) return false;
    if (!this.options.eventIdx) return (this.u16(this.at.device) & 1) === 0;
    return passes(this.u16(this.at.device + 4 + 8 * this.num), old, this.#avail, 0x10000);
  }

  taken(): Used[] {
    const all: Used[] = [];
    while (this.#used !== this.u16(this.at.device + 2)) {
      const entry = this.at.device + 4 + 8 * (this.#used % this.num);
      const batch = this.batchUpTo(this.view.getUint32(entry, true), this.view.getUint32(entry + 4, true));
      this.#used = (this.#used + batch.length) & 0xffff;
      all.push(...batch);
      for (const { slots } of this.out.splice(0, batch.length)) this.#free.push(...slots);
    }
    return all;
  }

  arm(n: number): boolean {
    if (this.options.eventIdx) this.setU16(this.at.driver + 4 + 2 * this.num, this.#used + n - 1);
    else this.setU16(this.at.driver, n === 0 ? 1 : 0);
    this.options.between?.();
    return ((this.u16(this.at.device + 2) - this.#used) & 0xffff) >= Math.max(1, n);
  }
}

/** A place in a packed ring: an index and the wrap counter. */
class Cursor {
  index: number;
  wrap: boolean;
  readonly #num: number;

  constructor(num: number, { index, wrap }: { index: number; wrap: boolean }) {
    this.#num = num;
    this.index = index;
    this.wrap = wrap;
  }

  advance(n: number): void {
    for (let i = 0; i < n; i++) {
      if (++this.index < this.#num) continue;
      this.index = 0;
      this.wrap = !this.wrap;
    }
  }

  get available(): number {
    return this.wrap ? AVAIL : USED;
  }

  get used(): number {
    return this.wrap ? AVAIL | USED : 0;
  }

  get offWrap(): number {
    return this.index | (this.wrap ? 0x8000 : 0);
  }

  clone(): Cursor {
    return new Cursor(this.#num, this);
  }
}

/** Whether stepping from `old` to `now` steps over the event that says "when you pass this". */
function cursorPasses(offWrap: number, old: Cursor, now: Cursor): boolean {
  for (const at = old.clone(); at.offWrap !== now.offWrap; at.advance(1))
    if (at.offWrap === offWrap) return true;
  return false;
}

const BOTH = AVAIL | USED;

export class PackedDriver extends ModelDriver {
  readonly #next: Cursor;
  readonly #used: Cursor;
  #shown: Cursor;
  #heads: { at: number; flags: number }[] = [];
  #ids = 0;
  #free: number;

  constructor(options: ModelOptions, start = { index: 0, wrap: true }) {
    super(options);
    this.#free = options.num;
    this.#next = new Cursor(options.num, start);
    this.#used = this.#next.clone();
    this.#shown = this.#next.clone();
    // As if all slots before the start had been used: in this lap up to the index, in the lap before behind it.
    for (let i = 0; i < options.num; i++) {
      const flags = i < start.index === start.wrap ? BOTH : 0;
      this.setU16(this.at.descriptor + 16 * i + 14, flags);
    }
  }

  get free(): number {
    return this.#free;
  }

  add(pieces: readonly Piece[], writable: boolean, table?: bigint): number {
    const count = table === undefined ? pieces.length : 1;
    assert.ok(count <= this.#free, 'the ring is full');
    do this.#ids = (this.#ids + 11) % this.num;
    while (this.out.some(({ id }) => id === this.#ids));
    const id = this.#ids;
    const flagsOf = (piece: Piece) => ((piece.writable ?? writable) ? WRITE : 0);
    if (table !== undefined) {
      pieces.forEach((piece, i) => {
        this.setDescriptor(this.offsetOf(table) + 16 * i, piece, 0xdead, flagsOf(piece));
      });
    }
    const list = table === undefined ? pieces : [{ gpa: table, length: 16 * pieces.length }];
    list.forEach((piece, i) => {
      const last = i === list.length - 1;
      const own = table === undefined ? flagsOf(piece) | (last ? 0 : NEXT) : INDIRECT;
      const at = this.at.descriptor + 16 * this.#next.index;
      const whole = own | this.#next.available;
      // The first one's flags wait for `publish`.
      const before = this.u16(at + 14);
      this.setDescriptor(at, piece, last ? id : 0xbeef, i === 0 ? before : whole);
      if (i === 0) this.#heads.push({ at: at + 14, flags: whole });
      this.#next.advance(1);
    });
    this.#free -= count;
    this.out.push({ id, count, slots: [] });
    return id;
  }

  publish(): boolean {
    if (this.#heads.length === 0) return false;
    // Backwards, so that the device finds all of them or none.
    for (const { at, flags } of this.#heads.reverse()) this.setU16(at, flags);
    this.#heads = [];
    const old = this.#shown;
    this.#shown = this.#next.clone();
    this.options.between?.();
    const [offWrap, flags] = [this.u16(this.at.device), this.u16(this.at.device + 2)];
    if (flags !== 2) return flags === 0;
    assert.ok(this.options.eventIdx, 'an event that was not agreed on');
    return cursorPasses(offWrap, old, this.#shown);
  }

  taken(): Used[] {
    const all: Used[] = [];
    while (this.#isUsed()) {
      const at = this.at.descriptor + 16 * this.#used.index;
      const batch = this.batchUpTo(this.u16(at + 12), this.view.getUint32(at + 8, true));
      for (const { count } of this.out.splice(0, batch.length)) {
        this.#used.advance(count);
        this.#free += count;
      }
      all.push(...batch);
    }
    return all;
  }

  arm(n: number): boolean {
    if (n === 0) this.setU16(this.at.driver + 2, 1);
    else if (!this.options.eventIdx) this.setU16(this.at.driver + 2, 0);
    else {
      const event = this.#used.clone();
      event.advance(n - 1);
      this.setU16(this.at.driver, event.offWrap);
      this.setU16(this.at.driver + 2, 2);
    }
    this.options.between?.();
    return this.#isUsed();
  }

  #isUsed(): boolean {
    if (this.out.length === 0) return false;
    return (this.u16(this.at.descriptor + 16 * this.#used.index + 14) & BOTH) === this.#used.used;
  }
}

/** A chain as a device finds it. */
export interface Chain {
  readonly id: number;
  readonly pieces: readonly (Piece & { readonly writable: boolean })[];
}

/** The device's side: chains may be used in any order. */
export abstract class ModelDevice extends Model {
  /** The next chain that was made available, null when there is none. */
  abstract next(): Chain | null;
  /** Gives a chain back; the driver sees it after `publish`. `count`: and all before it that were not given back, as many chains in all. */
  abstract use(id: number, length: number, count?: number): void;
  /** True: the driver wants an interrupt. */
  abstract publish(): boolean;
  /** Asks for kicks from the next chain on, or for none. True: there is one already. */
  abstract arm(on: boolean): boolean;

  protected read(at: number): { piece: Piece; third: number; fourth: number } {
    const piece = { gpa: this.view.getBigUint64(at, true), length: this.view.getUint32(at + 8, true) };
    return { piece, third: this.u16(at + 12), fourth: this.u16(at + 14) };
  }
}

export class SplitDevice extends ModelDevice {
  /** With IN_ORDER, the next one that the driver has to use. */
  #descriptor = 0;
  #avail = 0;
  #used = 0;
  #shown = 0;

  next(): Chain | null {
    if (this.u16(this.at.driver + 2) === this.#avail) return null;
    const id = this.u16(this.at.driver + 4 + 2 * (this.#avail % this.num));
    this.#avail = (this.#avail + 1) & 0xffff;
    const pieces: Chain['pieces'][number][] = [];
    let table = this.at.descriptor;
    for (let index = id; ; ) {
      if (this.options.inOrder && table === this.at.descriptor) {
        assert.equal(index, this.#descriptor, 'descriptors in the order of the table');
        this.#descriptor = (this.#descriptor + 1) % this.num;
      }
      const { piece, third: flags, fourth: next } = this.read(table + 16 * index);
      if ((flags & INDIRECT) !== 0) {
        assert.equal(flags, INDIRECT, 'no other flag goes with INDIRECT');
        assert.equal(table, this.at.descriptor, 'a table in a table');
        table = this.offsetOf(piece.gpa);
        index = 0;
        continue;
      }
      pieces.push({ ...piece, writable: (flags & WRITE) !== 0 });
      assert.ok(pieces.length <= 65, 'a chain without end');
      if ((flags & NEXT) === 0) return { id, pieces };
      index = next;
    }
  }

  use(id: number, length: number, count = 1): void {
    const entry = this.at.device + 4 + 8 * (this.#used % this.num);
    this.view.setUint32(entry, id, true);
    this.view.setUint32(entry + 4, length, true);
    this.#used = (this.#used + count) & 0xffff;
  }

  publish(): boolean {
    const old = this.#shown;
    this.#shown = this.#used;
    this.setU16(this.at.device + 2, this.#used);
    this.options.between?.();
    if (old === this.#used) return false;
    if (!this.options.eventIdx) return (this.u16(this.at.driver) & 1) === 0;
    return passes(this.u16(this.at.driver + 4 + 2 * this.num), old, this.#used, 0x10000);
  }

  arm(on: boolean): boolean {
    if (!this.options.eventIdx) this.setU16(this.at.device, on ? 0 : 1);
    else this.setU16(this.at.device + 4 + 8 * this.num, on ? this.#avail : this.#avail - 1);
    this.options.between?.();
    return this.u16(this.at.driver + 2) !== this.#avail;
  }
}

export class PackedDevice extends ModelDevice {
  readonly #avail = new Cursor(this.num, { index: 0, wrap: true });
  readonly #used = new Cursor(this.num, { index: 0, wrap: true });
  #shown = this.#used.clone();
  /** Descriptors of the chains that are out, the oldest first. */
  readonly #counts = new Map<number, number>();

  next(): Chain | null {
    if (!this.#isAvailable()) return null;
    const pieces: Chain['pieces'][number][] = [];
    for (let count = 1; ; count++) {
      const { piece, third: id, fourth: flags } = this.read(this.at.descriptor + 16 * this.#avail.index);
      assert.equal(flags & BOTH, this.#avail.available, 'all descriptors of a chain are available');
      if ((flags & INDIRECT) === 0) pieces.push({ ...piece, writable: (flags & WRITE) !== 0 });
      else {
        assert.equal(flags & ~BOTH, INDIRECT, 'no other flag goes with INDIRECT');
        for (let i = 0; i < piece.length / 16; i++) {
          const entry = this.read(this.offsetOf(piece.gpa) + 16 * i);
          assert.equal(entry.fourth & ~WRITE, 0, 'no flag but WRITE in a table');
          pieces.push({ ...entry.piece, writable: (entry.fourth & WRITE) !== 0 });
        }
      }
      this.#avail.advance(1);
      if ((flags & NEXT) !== 0) continue;
      assert.ok(!this.#counts.has(id), `id ${id} is in use`);
      this.#counts.set(id, count);
      return { id, pieces };
    }
  }

  use(id: number, length: number, count = 1): void {
    const at = this.at.descriptor + 16 * this.#used.index;
    this.view.setUint32(at + 8, length, true);
    this.setU16(at + 12, id);
    this.setU16(at + 14, this.#used.used);
    const back = count === 1 ? [id] : [...this.#counts.keys()].slice(0, count);
    assert.equal(back.at(-1), id);
    for (const one of back) {
      this.#used.advance(this.#counts.get(one)!);
      this.#counts.delete(one);
    }
  }

  publish(): boolean {
    const old = this.#shown;
    this.#shown = this.#used.clone();
    this.options.between?.();
    if (old.offWrap === this.#used.offWrap) return false;
    const [offWrap, flags] = [this.u16(this.at.driver), this.u16(this.at.driver + 2)];
    if (flags !== 2) return flags === 0;
    assert.ok(this.options.eventIdx, 'an event that was not agreed on');
    return cursorPasses(offWrap, old, this.#used);
  }

  arm(on: boolean): boolean {
    this.setU16(this.at.device, this.#avail.offWrap);
    this.setU16(this.at.device + 2, on ? (this.options.eventIdx ? 2 : 0) : 1);
    this.options.between?.();
    return this.#isAvailable();
  }

  #isAvailable(): boolean {
    return (this.u16(this.at.descriptor + 16 * this.#avail.index + 14) & BOTH) === this.#avail.available;
  }
}
