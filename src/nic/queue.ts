/** One queue of a contract as the main thread keeps it: its structure in the arena, its context in guest memory. */
import * as L from '../../datapath/layout.js';
import type { Arena } from '../memory/arena.js';
import type { RegionTable } from '../memory/guest-memory.js';
import type { Window } from '../memory/window.js';
import type { Ring } from '../ring/ring.js';
import type { Direction } from './control.js';

/** Counters of a queue, since it was made. */
export interface QueueStats {
  readonly packets: number;
  readonly bytes: number;
  readonly buffers: number;
  readonly batches: number;
  readonly kicks: number;
  readonly interrupts: number;
  readonly errors: number;
  readonly dropped: number;
}

/** Reads the block of counters at a window address. */
export function readStats(window: Window, stats: number): QueueStats {
  const at = (counter: number) => Number(window.longs[(stats + counter) / 8]!);
  return {
    packets: at(L.STAT_PACKETS),
    bytes: at(L.STAT_BYTES),
    buffers: at(L.STAT_BUFFERS),
    batches: at(L.STAT_BATCHES),
    kicks: at(L.STAT_KICKS),
    interrupts: at(L.STAT_INTERRUPTS),
    errors: at(L.STAT_ERRORS),
    dropped: at(L.STAT_DROPPED),
  };
}

/** Contexts are aligned for the widest atomic access that the datapath makes on them. */
const CONTEXT_ALIGNMENT = 8;

export class Queue {
  readonly index: number;
  readonly direction: Direction;
  readonly address: number;
  readonly contextSize: number;
  readonly #window: Window;
  readonly #arena: Arena;
  #context: { readonly gpa: bigint; readonly table: RegionTable } | null = null;

  constructor(
    host: { window: Window; arena: Arena },
    {
      index,
      direction,
      num,
      contextSize,
    }: { index: number; direction: Direction; num: number; contextSize: number },
  ) {
    this.index = index;
    this.direction = direction;
    this.contextSize = contextSize;
    this.#window = host.window;
    this.#arena = host.arena;
    this.address = host.arena.allocate(L.QUEUE_SIZE);
    this.#set(L.QUEUE_NUM, num);
  }

  /** What frames of this queue may be: their largest size in bytes, and the OFFLOAD_* that they may ask for. For queues that no worker runs. */
  setFrames(maxFrame: number, offloads: number): void {
    this.#set(L.QUEUE_MAX_FRAME, maxFrame);
    this.#set(L.QUEUE_OFFLOADS, offloads);
  }

  /** Guest physical address of the context; null: none. */
  get contextGpa(): bigint | null {
    return this.#context?.gpa ?? null;
  }

  get stats(): QueueStats {
    return readStats(this.#window, this.address + L.QUEUE_STATS);
  }

  /** One of FAULT_*; not 0: the guest broke the ring's rules, or its memory can't be reached, and the queue stands still. */
  get fault(): number {
    return this.#window.words[(this.address + L.QUEUE_FAULT) >>> 2]!;
  }

  /** It stands still until it is started anew: its buffers can't be brought into the window. For queues that no worker runs. */
  giveUp(): void {
    this.#set(L.QUEUE_FAULT, L.FAULT_MEMORY);
  }

  /** Its table has been written anew. For queues that no worker runs. */
  refresh(): void {
    if (this.#context) this.#lookUp(this.#context.table);
  }

  /** Takes a context at `gpa` and sets up its ring. Throws MemoryError and keeps what it had. */
  setContext(gpa: bigint, table: RegionTable, ring: Ring): void {
    const context = this.locate(gpa, table);
    this.dropContext();
    this.#context = { gpa, table };
    this.place(table, context);
    ring.initialise(this.address, this.direction === 'rx');
  }

  /** Forgets the context. */
  dropContext(): void {
    this.#context?.table.unpin(this.#context.gpa, this.contextSize);
    this.#context = null;
  }

  /** Pins a context at `gpa` of that table; returns its window address. Throws MemoryError. */
  locate(gpa: bigint, table: RegionTable): number {
    return table.pin(gpa, this.contextSize, CONTEXT_ALIGNMENT);
  }

  /** The context is found by `table` from now on, which has `locate`d it; the former table is not needed any more. */
  follow(table: RegionTable): void {
    const { gpa } = this.#context!;
    this.dropContext();
    this.#context = { gpa, table };
  }

  /** The datapath finds the context at window address `context`, and buffers by `table`. For queues that no worker runs. */
  place(table: RegionTable, context: number): void {
    this.#lookUp(table);
    this.#set(L.QUEUE_CONTEXT, context);
    this.#set(L.QUEUE_RING, context + L.CTX_OPAQUE);
  }

  /** Goes on counting where `former` has stopped. For queues that no worker runs. */
  inherit(former: Queue): void {
    const from = (former.address + L.QUEUE_STATS) / 8;
    this.#window.longs.copyWithin((this.address + L.QUEUE_STATS) / 8, from, from + L.STATS_SIZE / 8);
  }

  close(): void {
    this.dropContext();
    this.#arena.free(this.address);
  }

  #lookUp(table: RegionTable): void {
    this.#set(L.QUEUE_REGIONS, table.address);
    this.#set(L.QUEUE_HINT, 0);
  }

  #set(field: number, value: number): void {
    this.#window.words[(this.address + field) >>> 2] = value;
  }
}
