/**
 * A span of a file in this process: in the window as a whole when it fits, else flat, with pieces of it in the window on demand.
 *
 * ```
 *   file     │ start                                                            end │
 *   flat     │ all of it, for system calls                                          │
 *   window         [pin: a ring]            [chunk][chunk]          [chunk]
 * ```
 * Pins stay until they are given back. Chunks are what the datapath has come across: 2 MiB, or a page where pages are larger. A backing's chunks take no
 * more of the window than they leave free, so that there is room for pins, and for other guests of the process; those that came first leave.
 */
import type { OwnedFd } from '../linux/fd.js';
import type { MemoryFacts } from '../linux/memfd.js';
import { type Mapping, mapFlat } from '../linux/mmap.js';
import { MemoryError, type Window } from './window.js';

/** What is to be mapped of a file, in whole pages. */
export interface FileSpan {
  fd: OwnedFd;
  facts: MemoryFacts;
  start: number;
  end: number;
}

/** Bytes from the backing's first byte; window address 0: not in the window. */
export interface Part {
  readonly offset: number;
  readonly length: number;
  readonly window: number;
}

/** A part of the file in the window: bytes from the backing's first byte. */
export interface Chunk {
  readonly from: number;
  readonly to: number;
  /** Window address of byte `from`. */
  readonly window: number;
}

interface Piece {
  readonly address: number;
  readonly mapping: Mapping;
}

const CHUNK = 0x20_0000;
/** Bytes of chunks that every backing may have: more than the largest frame needs; and of the window, that they leave to pins beyond. */
const ENOUGH = 0x1000_0000;

export class Backing {
  readonly key: string;
  readonly start: number;
  readonly end: number;
  /** Window address of byte `start`, 0 = not in the window. */
  readonly window: number;
  /** Address in this process of byte `start`. */
  readonly flat: number;
  readonly #mapping: Mapping;
  readonly #fd: OwnedFd;
  readonly #pageSize: number;
  readonly #pins = new Map<string, Piece & { users: number }>();
  /** By the offset of their first byte in the file, in the order in which they came. */
  readonly #chunks = new Map<number, Piece & { readonly length: number }>();
  readonly #home: Window;
  users = 1;

  /** `whole`: all of the file, if that fits. Throws LinuxError, MappingError. */
  constructor(window: Window, key: string, { fd, facts, start, end }: FileSpan, whole: boolean) {
    this.key = key;
    this.#home = window;
    this.#pageSize = facts.pageSize;
    this.#fd = fd.dup();
    const bytes = Math.floor(facts.size / facts.pageSize) * facts.pageSize;
    try {
      let overlay = whole ? this.#overlay(0, bytes) : null;
      this.start = overlay ? 0 : start;
      this.end = overlay ? bytes : end;
      overlay ??= this.#overlay(start, end);
      this.#mapping = overlay?.mapping ?? mapFlat(this.#range(start, end));
      this.window = overlay?.address ?? 0;
      this.flat = this.#mapping.address;
    } catch (error) {
      this.#fd.close();
      throw error;
    }
  }

  /** Window address of `length` bytes at `offset`, mapped for this purpose when the whole is not in the window. */
  pin(offset: number, length: number): number {
    if (this.window !== 0) return this.window + offset;
    const { first, end, key } = this.#pages(offset, length);
    let pin = this.#pins.get(key);
    if (!pin) this.#pins.set(key, (pin = { ...(this.#overlay(first, end) ?? this.#full(length)), users: 0 }));
    pin.users++;
    return pin.address + (this.start + offset - first);
  }

  /** Takes one `pin` of the same bytes back. */
  unpin(offset: number, length: number): void {
    const { key } = this.#pages(offset, length);
    const pin = this.#pins.get(key);
    if (!pin || --pin.users > 0) return;
    pin.mapping.close();
    this.#pins.delete(key);
  }

  /**
   * Has the chunks that hold these bytes in the window; the oldest ones may leave, so nobody may be using any. Throws MemoryError MEMORY_FULL when there
   * is no room for a single one; whether there was room for all of them, `has` tells.
   */
  reach(offset: number, length: number): void {
    if (this.window !== 0) return;
    const step = this.#chunkSize;
    for (const [first, end] of this.#chunksOf(offset, length)) {
      const known = this.#chunks.get(first);
      this.#chunks.delete(first); // to be the youngest one
      if (!known) while (this.#isGreedy(this.#chunks.size * step)) this.#dropOldest();
      this.#chunks.set(first, known ?? { ...this.#bring(first, end), length: end - first });
    }
  }

  /** Whether all of these bytes are in the window. */
  has(offset: number, length: number): boolean {
    return this.window !== 0 || this.#chunksOf(offset, length).every(([first]) => this.#chunks.has(first));
  }

  /** The chunks of now, by their offsets. */
  inOrder(): readonly Chunk[] {
    return [...this.#chunks]
      .map(([first, { address, length }]) => ({
        from: first - this.start,
        to: first - this.start + length,
        window: address,
      }))
      .sort((a, b) => a.from - b.from);
  }

  /** The bytes as the window has them: in one part, or cut where `chunks`, those of now, begin and end. */
  parts(offset: number, length: number, chunks: readonly Chunk[]): Part[] {
    if (this.window !== 0) return [{ offset, length, window: this.window + offset }];
    const end = offset + length;
    const parts: Part[] = [];
    let at = offset;
    for (let i = firstBehind(chunks, offset); i < chunks.length && chunks[i]!.from < end; i++) {
      const { from, to, window } = chunks[i]!;
      const begin = Math.max(from, at);
      if (begin > at) parts.push({ offset: at, length: begin - at, window: 0 });
      const stop = Math.min(to, end);
      parts.push({ offset: begin, length: stop - begin, window: window + (begin - from) });
      at = stop;
    }
    if (at < end) parts.push({ offset: at, length: end - at, window: 0 });
    return parts;
  }

  close(): void {
    for (const { mapping } of this.#pins.values()) mapping.close();
    for (const { mapping } of this.#chunks.values()) mapping.close();
    this.#pins.clear();
    this.#chunks.clear();
    this.#mapping.close();
    this.#fd.close();
  }

  #isGreedy(bytes: number): boolean {
    return bytes >= ENOUGH && bytes > this.#home.free - ENOUGH;
  }

  get #chunkSize(): number {
    return Math.max(CHUNK, this.#pageSize);
  }

  /** The chunks of the file that hold these bytes: where they begin and end. */
  #chunksOf(offset: number, length: number): [first: number, end: number][] {
    const step = this.#chunkSize;
    const chunks: [number, number][] = [];
    const end = this.start + offset + length;
    for (let at = Math.floor((this.start + offset) / step) * step; at < end; at += step)
      chunks.push([Math.max(this.start, at), Math.min(this.end, at + step)]);
    return chunks;
  }

  /** The pages of the file that hold these bytes. */
  #pages(offset: number, length: number): { first: number; end: number; key: string } {
    const first = Math.floor((this.start + offset) / this.#pageSize) * this.#pageSize;
    const end = Math.ceil((this.start + offset + length) / this.#pageSize) * this.#pageSize;
    return { first, end, key: `${first}:${end}` };
  }

  /** A part of the file in the window, for which chunks may have to leave. */
  #bring(first: number, end: number): Piece {
    for (;;) {
      const piece = this.#overlay(first, end);
      if (piece) return piece;
      if (this.#chunks.size === 0) this.#full(end - first);
      this.#dropOldest();
    }
  }

  #full(length: number): never {
    throw new MemoryError('MEMORY_FULL', `no room in the window for ${length} bytes of ${this.#fd.name}`);
  }

  #dropOldest(): void {
    const [first, { mapping }] = this.#chunks.entries().next().value!;
    mapping.close();
    this.#chunks.delete(first);
  }

  #overlay(first: number, end: number): Piece | null {
    return this.#home.overlay(this.#range(first, end), this.#pageSize);
  }

  #range(first: number, end: number) {
    return { fd: this.#fd.fd, fileOffset: first, length: end - first, name: this.#fd.name };
  }
}

/** The index of the first chunk, in order, that ends behind that offset. */
function firstBehind(chunks: readonly Chunk[], offset: number): number {
  let [low, high] = [0, chunks.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (chunks[middle]!.to <= offset) low = middle + 1;
    else high = middle;
  }
  return low;
}
