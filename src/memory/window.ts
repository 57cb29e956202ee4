/**
 * The window: 4 GiB of shared WebAssembly memory onto which guest memory is mapped, so that ring loops work on it in place.
 *
 * ```
 *   0        1 MiB                64 MiB                                                     4 GiB
 *   │ unused │ arena              │ slot     │ slot              │ …                             │
 *   │ + code │ host-private state │ overlays: guest memory, in whole units of 2 MiB              │
 * ```
 * Address 0 and all below the arena are never handed out, so 0 can mean "nowhere". A window is created once a process and shared with its
 * workers; only the thread that created it maps and unmaps.
 */
import { memcpy } from '../linux/libc.js';
import { baseOf, type FileRange, type Mapping, mapOnto } from '../linux/mmap.js';
import { ChunkPool } from './chunks.js';

export const WINDOW_PAGES = 65536;
export const ARENA_START = 0x10_0000;
export const ARENA_END = 0x400_0000;
const UNIT = 0x20_0000;
const WINDOW_SIZE = 0x1_0000_0000;

/** Memory that can't be had, or that a peer described wrongly. */
export class MemoryError extends Error {
  override readonly name = 'MemoryError';
  readonly code: 'MEMORY_FULL' | 'MEMORY_REGION' | 'MEMORY_UNSEALED' | 'MEMORY_ADDRESS';

  constructor(code: MemoryError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

export class Window {
  readonly memory: WebAssembly.Memory;
  /** The address in this process of window address 0. */
  readonly base: number;
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly longs: BigUint64Array;
  readonly doubles: Float64Array;
  /** Of the thread that maps. */
  readonly chunks = new ChunkPool(() => this.free);
  readonly #used: Uint8Array;
  #free = (WINDOW_SIZE - ARENA_END) / UNIT;

  private constructor(memory: WebAssembly.Memory) {
    this.memory = memory;
    this.base = baseOf(memory);
    this.bytes = new Uint8Array(memory.buffer);
    this.words = new Uint32Array(memory.buffer);
    this.longs = new BigUint64Array(memory.buffer);
    this.doubles = new Float64Array(memory.buffer);
    this.#used = new Uint8Array(WINDOW_SIZE / UNIT);
    this.#used.fill(1, 0, ARENA_END / UNIT);
  }

  static create(): Window {
    return new Window(new WebAssembly.Memory({ initial: WINDOW_PAGES, maximum: WINDOW_PAGES, shared: true }));
  }

  /** The same window, in a worker. */
  static attach(memory: WebAssembly.Memory): Window {
    return new Window(memory);
  }

  /**
   * Maps a file range into a free slot: `address` is its window address. Null when no slot is long enough.
   * @param pageSize the page size of the file; the slot begins at a multiple of it.
   */
  overlay(range: FileRange, pageSize: number): { address: number; mapping: Mapping } | null {
    const alignment = Math.max(UNIT, pageSize);
    const length = Math.ceil(range.length / pageSize) * pageSize;
    // Processes usually place the memory at a multiple of its own size, but nothing promises more than a page.
    const phase = this.base % alignment;
    const lead = phase === 0 ? 0 : alignment - phase;
    const slot = this.#reserve(length + lead, alignment);
    if (slot === null) return null;
    const address = slot.address + lead;
    try {
      const mapping = mapOnto(this.memory, address, { ...range, length });
      return { address, mapping: new Overlay(mapping, () => this.#release(slot)) };
    } catch (error) {
      this.#release(slot);
      throw error;
    }
  }

  /** Bytes that no overlay takes, in however many pieces. */
  get free(): number {
    return this.#free * UNIT;
  }

  /** Copies `length` bytes from an address in this process to a window address. */
  copyIn(to: number, from: number, length: number): void {
    memcpy(this.base + to, from, length);
  }

  /** Copies `length` bytes from a window address to an address in this process. */
  copyOut(to: number, from: number, length: number): void {
    memcpy(to, this.base + from, length);
  }

  /** First fit in whole units. `alignment` is of the window address, not of the process's. */
  #reserve(length: number, alignment: number): { address: number; units: number } | null {
    const units = Math.ceil(length / UNIT);
    const step = alignment / UNIT;
    for (
      let first = Math.ceil(ARENA_END / UNIT / step) * step;
      first + units <= this.#used.length;
      first += step
    ) {
      const taken = this.#used.subarray(first, first + units).lastIndexOf(1);
      if (taken < 0) {
        this.#used.fill(1, first, first + units);
        this.#free -= units;
        return { address: first * UNIT, units };
      }
      first += Math.floor(taken / step) * step;
    }
    return null;
  }

  #release({ address, units }: { address: number; units: number }): void {
    this.#used.fill(0, address / UNIT, address / UNIT + units);
    this.#free += units;
  }
}

/** An overlay's mapping, which gives its slot back when it is closed. */
class Overlay implements Mapping {
  readonly #mapping: Mapping;
  readonly #release: () => void;

  constructor(mapping: Mapping, release: () => void) {
    this.#mapping = mapping;
    this.#release = release;
  }

  get name(): string {
    return this.#mapping.name;
  }
  get address(): number {
    return this.#mapping.address;
  }
  get length(): number {
    return this.#mapping.length;
  }
  get closed(): boolean {
    return this.#mapping.closed;
  }

  close(): void {
    if (this.closed) return;
    this.#mapping.close();
    this.#release();
  }
}
