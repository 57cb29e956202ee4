/**
 * Chunks: pieces of a file that is larger than the window, brought into it when the datapath comes across them. 2 MiB each, or a page where pages are
 * larger.
 *
 * ```
 *   window   │ whole files, pins …  │ chunks of A │ chunks of B │ … │     half of it for chunks: each such file has the same share
 *
 *   reach    oldest ◄── A: [ ][ ][ ][ ][c][c]     c: of this call. Others leave for them, the oldest first; c stays, or what they are for would
 *                                                 never be there as a whole
 * ```
 * Shares shrink when another file comes. What one has beyond its share it gives up at its next `reach`, or when another finds no room and its owner is
 * asked to give way: only the owner knows when nobody uses them.
 */
import type { Mapping } from '../linux/mmap.js';
import type { Window } from './window.js';

const CHUNK = 0x20_0000;
/** Bytes of chunks of all files; the other half is for pins, whole files, and frames that need more than a share. */
const MAX_CHUNKED = 0x8000_0000;

/** Gives up what is beyond the share as soon as nobody uses it; resolves after that. */
export type GiveWay = () => Promise<unknown>;

/** What files of one window have of it. */
export class ChunkPool {
  readonly #files = new Set<Chunks>();
  readonly #free: () => number;
  /** The number of the present `reach` call. */
  call = 0;
  /** Somebody had to do with less than his share since room was made. */
  crowded = false;

  /** `free`: bytes of the window that nobody has. */
  constructor(free: () => number) {
    this.#free = free;
  }

  join(file: Chunks): void {
    this.#files.add(file);
  }

  leave(file: Chunks): void {
    this.#files.delete(file);
  }

  /** Bytes that a file's chunks may have: less where others than chunks have much of the window. */
  get share(): number {
    let had = this.#free();
    for (const { bytes } of this.#files) had += bytes;
    return Math.floor(Math.min(MAX_CHUNKED, had) / Math.max(1, this.#files.size));
  }

  /** Has whoever has more than his share give it up. */
  async makeRoom(): Promise<void> {
    this.crowded = false;
    const { share } = this;
    const greedy = [...this.#files].filter(({ bytes }) => bytes > share);
    await Promise.all([...new Set(greedy.map(({ giveWay }) => giveWay))].map(giveWay => giveWay()));
  }
}

/** Bytes of the file that are in the window. */
export interface Chunk {
  /** Offset in the file. */
  readonly first: number;
  readonly length: number;
  /** Window address. */
  readonly address: number;
}

interface Held extends Chunk {
  readonly mapping: Mapping;
  /** The last `reach` call that wanted it. */
  call: number;
}

/** How a part of the file comes into the window; null: there is no room. */
export type Overlay = (first: number, end: number) => { address: number; mapping: Mapping } | null;

/** The chunks of one file. */
export class Chunks {
  readonly giveWay: GiveWay;
  readonly #pool: ChunkPool;
  readonly #overlay: Overlay;
  readonly #step: number;
  readonly #start: number;
  readonly #end: number;
  /** By their offset, the oldest first. */
  readonly #held = new Map<number, Held>();
  #bytes = 0;

  /** Of the bytes from `start` to `end`, whole pages. */
  constructor(
    { chunks }: Window,
    { start, end, pageSize }: { start: number; end: number; pageSize: number },
    overlay: Overlay,
    giveWay: GiveWay,
  ) {
    this.#pool = chunks;
    this.#overlay = overlay;
    this.#step = Math.max(CHUNK, pageSize);
    this.#start = start;
    this.#end = end;
    this.giveWay = giveWay;
    this.#pool.join(this);
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Those of now, by their offsets. */
  get inOrder(): readonly Chunk[] {
    return [...this.#held.values()].sort((a, b) => a.first - b.first);
  }

  /**
   * Brings in the chunks that hold these bytes of the file; `needed`: beyond the share, if need be. False: there is no room but that of what came in the
   * same call; some of them may have come.
   */
  reach(offset: number, length: number, needed: boolean): boolean {
    const last = offset + length - 1;
    for (let at = offset; at <= last; at = (Math.floor(at / this.#step) + 1) * this.#step) {
      const first = Math.max(this.#start, Math.floor(at / this.#step) * this.#step);
      const end = Math.min(this.#end, (Math.floor(at / this.#step) + 1) * this.#step);
      const held = this.#held.get(first) ?? this.#bring(first, end, needed);
      if (!held) return false;
      held.call = this.#pool.call;
      this.#held.delete(first); // to be the youngest
      this.#held.set(first, held);
    }
    return true;
  }

  /** Gives up what is beyond the share. Nobody uses any of them. */
  trim(): void {
    while (this.#bytes > this.#pool.share && this.#dropOldest(Number.POSITIVE_INFINITY));
  }

  close(): void {
    for (const { mapping } of this.#held.values()) mapping.close();
    this.#held.clear();
    this.#pool.leave(this);
  }

  #bring(first: number, end: number, needed: boolean): Held | null {
    const length = end - first;
    const { call, share } = this.#pool;
    while (this.#bytes + length > share) {
      if (this.#dropOldest(call)) continue;
      if (needed) break;
      return null;
    }
    for (;;) {
      const piece = this.#overlay(first, end);
      if (piece) {
        this.#bytes += length;
        return { ...piece, first, length, call };
      }
      if (this.#bytes + length <= share) this.#pool.crowded = true;
      if (!this.#dropOldest(call)) return null;
    }
  }

  /** False: there is none from before that call. */
  #dropOldest(call: number): boolean {
    const oldest = this.#held.values().next().value;
    if (!oldest || oldest.call >= call) return false;
    oldest.mapping.close();
    this.#held.delete(oldest.first);
    this.#bytes -= oldest.length;
    return true;
  }
}
