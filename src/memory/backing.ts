/**
 * A span of a file in this process: in the window as a whole when it fits, else flat, with pieces of it in the window on demand.
 *
 * ```
 *   file     │ start                                                            end │
 *   flat     │ all of it, for system calls                                          │
 *   window         [pin: a ring]            [chunk][chunk]          [chunk]
 * ```
 * Pins stay until they are given back. Chunks are what the datapath has come across (chunks.ts).
 */
import type { OwnedFd } from '../linux/fd.js';
import type { MemoryFacts } from '../linux/memfd.js';
import { type Mapping, mapFlat } from '../linux/mmap.js';
import { type Chunk, Chunks, type GiveWay } from './chunks.js';
import { countUpTo } from './sorted.js';
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

interface Piece {
  readonly address: number;
  readonly mapping: Mapping;
}

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
  /** Null: it is in the window as a whole. */
  readonly #chunks: Chunks | null;
  readonly #home: Window;
  users = 1;

  /** `whole`: all of the file, if that fits; `giveWay`: how its chunks make room for others. Throws LinuxError, MappingError. */
  constructor(
    window: Window,
    key: string,
    { fd, facts, start, end }: FileSpan,
    { whole, giveWay }: { whole: boolean; giveWay: GiveWay },
  ) {
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
      const bring = (first: number, last: number) => this.#overlay(first, last);
      const own = { start, end, pageSize: facts.pageSize };
      this.#chunks = overlay ? null : new Chunks(window, own, bring, giveWay);
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

  /** Has these bytes in the window, as `Chunks.reach`. */
  reach(offset: number, length: number, needed: boolean): boolean {
    return this.#chunks?.reach(this.start + offset, length, needed) ?? true;
  }

  /** Gives up chunks beyond the share. Nobody uses any. */
  trim(): void {
    this.#chunks?.trim();
  }

  /** The chunks of now, by their offsets. */
  get chunks(): readonly Chunk[] {
    return this.#chunks?.inOrder ?? [];
  }

  /** The bytes as the window has them: in one part, or cut where `chunks`, those of now, begin and end. */
  parts(offset: number, length: number, chunks: readonly Chunk[]): Part[] {
    if (this.window !== 0) return [{ offset, length, window: this.window + offset }];
    const end = offset + length;
    const parts: Part[] = [];
    let at = offset;
    let i = countUpTo(chunks, ({ first, length: bytes }) => first + bytes <= this.start + offset);
    for (; i < chunks.length; i++) {
      const { first, length: bytes, address } = chunks[i]!;
      const from = first - this.start;
      if (from >= end) break;
      const begin = Math.max(from, at);
      if (begin > at) parts.push({ offset: at, length: begin - at, window: 0 });
      const stop = Math.min(from + bytes, end);
      parts.push({ offset: begin, length: stop - begin, window: address + (begin - from) });
      at = stop;
    }
    if (at < end) parts.push({ offset: at, length: end - at, window: 0 });
    return parts;
  }

  close(): void {
    for (const { mapping } of this.#pins.values()) mapping.close();
    this.#pins.clear();
    this.#chunks?.close();
    this.#mapping.close();
    this.#fd.close();
  }

  /** The pages of the file that hold these bytes. */
  #pages(offset: number, length: number): { first: number; end: number; key: string } {
    const first = Math.floor((this.start + offset) / this.#pageSize) * this.#pageSize;
    const end = Math.ceil((this.start + offset + length) / this.#pageSize) * this.#pageSize;
    return { first, end, key: `${first}:${end}` };
  }

  #full(length: number): never {
    throw new MemoryError('MEMORY_FULL', `no room in the window for ${length} bytes of ${this.#fd.name}`);
  }

  #overlay(first: number, end: number): Piece | null {
    return this.#home.overlay(this.#range(first, end), this.#pageSize);
  }

  #range(first: number, end: number) {
    return { fd: this.#fd.fd, fileOffset: first, length: end - first, name: this.#fd.name };
  }
}
