/**
 * Guest memory for the main thread, which looks into it now and then: nothing is held from one look to the next, so that the memory may change in
 * between.
 */

import type { RegionTable } from '../../memory/guest-memory.js';
import { MemoryError, type Window } from '../../memory/window.js';

export class GuestBytes {
  readonly #window: Window;
  readonly #table: () => RegionTable | null;
  readonly #halves: Uint16Array;

  /** `table` gives the memory as it is at that moment; null: there is none. */
  constructor(window: Window, table: () => RegionTable | null) {
    this.#window = window;
    this.#table = table;
    this.#halves = new Uint16Array(window.memory.buffer);
  }

  /**
   * Has `use` work with the window address of bytes that lie in one region, a writable one if `write`. Throws MemoryError when they don't, or are not
   * aligned.
   */
  at<T>(address: bigint, length: number, alignment: number, write: boolean, use: (at: number) => T): T {
    const table = this.#table();
    if (!table) throw new MemoryError('MEMORY_ADDRESS', 'there is no memory');
    const at = table.pin(address, length, alignment, write);
    try {
      return use(at);
    } finally {
      table.unpin(address, length);
    }
  }

  /** A copy, which nobody changes any more. Throws MemoryError. */
  read(address: bigint, length: number): Uint8Array {
    return this.at(address, length, 1, false, at => this.#window.bytes.slice(at, at + length));
  }

  /** Throws MemoryError. */
  write(address: bigint, bytes: Uint8Array): void {
    this.at(address, bytes.length, 1, true, at => this.#window.bytes.set(bytes, at));
  }

  /** Sequentially consistent, as the indices of rings have to be read. Throws MemoryError. */
  load16(address: bigint): number {
    return this.at(address, 2, 2, false, at => Atomics.load(this.#halves, at >>> 1));
  }

  /** Likewise: what was written before is there for whoever sees this. Throws MemoryError. */
  store16(address: bigint, value: number): void {
    this.at(address, 2, 2, true, at => Atomics.store(this.#halves, at >>> 1, value));
  }
}
