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
  readonly start: number;
  end: number;
}

/** Where a piece is to be. Bytes, from the arena's first one on. */
export interface Placement {
  /** It begins at a multiple of that; a power of two. */
  readonly alignment?: number;
  /** It lies in one page of that size, if it fits into one. */
  readonly page?: number;
}

export class Arena {
  readonly #window: Window;
  readonly #live = new Map<number, number>();
  readonly #name: string;
  readonly #start: number;
  #free: Range[];

  constructor(window: Window, start = ARENA_START, end = ARENA_END, name = 'the arena') {
    this.#window = window;
    this.#name = name;
    this.#start = start;
    this.#free = [{ start, end }];
  }

  /** Window address of `size` zeroed bytes, at the start of a cache line. Throws MemoryError MEMORY_FULL. */
  allocate(size: number, { alignment = LINE, page = 0 }: Placement = {}): number {
    const length = Math.max(1, Math.ceil(size / LINE)) * LINE;
    for (const [index, range] of this.#free.entries()) {
      const address = this.#fit(range.start, length, Math.max(alignment, LINE), page);
      if (!(address + length <= range.end)) continue; // a size that is no number is too large as well
      const rest = [
        { start: range.start, end: address },
        { start: address + length, end: range.end },
      ].filter(({ start, end }) => start < end);
      this.#free.splice(index, 1, ...rest);
      this.#live.set(address, length);
      this.#window.bytes.fill(0, address, address + length);
      return address;
    }
    throw new MemoryError('MEMORY_FULL', `${this.#name} has no ${size} bytes left`);
  }

  /** The first place from `from` on. */
  #fit(from: number, length: number, alignment: number, page: number): number {
    const up = (at: number, unit: number) => Math.ceil((at - this.#start) / unit) * unit + this.#start;
    const at = up(from, alignment);
    if (length > page || up(at + 1, page) >= at + length) return at;
    return up(at, Math.max(page, alignment));
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
