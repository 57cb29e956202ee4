/**
 * An arena: a part of the window from which pieces are given out. The default one is host-private memory for what the datapath keeps
 * between calls, where no guest can reach it; a guest driver has another over its guest memory.
 *
 * First fit over a list of free ranges, neighbours joined when they come back. Allocations are few and long-lived (queues, batches,
 * tables), so clarity wins over speed.
 */
import { ARENA_END, ARENA_START, MemoryError, type Window } from './window.js';

const LINE = 64;

interface Range {
  start: number;
  end: number;
}

export class Arena {
  readonly #window: Window;
  readonly #live = new Map<number, number>();
  readonly #name: string;
  #free: Range[];

  constructor(window: Window, start = ARENA_START, end = ARENA_END, name = 'the arena') {
    this.#window = window;
    this.#name = name;
    this.#free = [{ start, end }];
  }

  /** Window address of `size` zeroed bytes, at the start of a cache line. Throws MemoryError MEMORY_FULL. */
  allocate(size: number): number {
    const length = Math.max(1, Math.ceil(size / LINE)) * LINE;
    const index = this.#free.findIndex(range => range.end - range.start >= length);
    if (index < 0) throw new MemoryError('MEMORY_FULL', `${this.#name} has no ${size} bytes left`);
    const range = this.#free[index]!;
    const address = range.start;
    range.start += length;
    if (range.start === range.end) this.#free.splice(index, 1);
    this.#live.set(address, length);
    this.#window.bytes.fill(0, address, address + length);
    return address;
  }

  /** Takes back what `allocate` returned. */
  free(address: number): void {
    const length = this.#live.get(address);
    if (length === undefined)
      throw new MemoryError('MEMORY_ADDRESS', `the arena never gave out address ${address}`);
    this.#live.delete(address);
    this.#free.push({ start: address, end: address + length });
    this.#free.sort((a, b) => a.start - b.start);
    this.#free = this.#free.reduce<Range[]>((joined, range) => {
      const last = joined.at(-1);
      if (last?.end === range.start) last.end = range.end;
      else joined.push(range);
      return joined;
    }, []);
  }

  /** How many allocations are live. */
  get live(): number {
    return this.#live.size;
  }
}
