/**
 * The guest memory of a bpfhv NIC: the table in force, and what of a large guest its queues need in the window.
 *
 * ```
 *   another table ──► queues move to it, between two turns of the workers, or nothing changes
 *   a queue waits ──► nobody runs ──► its buffers come in, others may have to leave ──► all go on
 *   others need room ──► nobody runs ──► what is beyond our share leaves ──► all go on
 * ```
 */
import type { Arena } from '../memory/arena.js';
import { GuestMemory, type RegionTable } from '../memory/guest-memory.js';
import { MemoryError, type Window } from '../memory/window.js';
import type { Lacks } from './commands.js';
import type { Direction, MemoryRegionSpec } from './control.js';
import type { Queue } from './queue.js';
import { bringIn, giveWay } from './reach.js';
import { type Moved, relocate } from './relocate.js';
import type { Missed, Workers } from './workers.js';

export interface NicMemoryOptions {
  readonly window: Window;
  readonly arena: Arena;
  readonly requireSealed?: boolean;
}

/** The NIC, as its memory sees it. */
export interface NicMemoryHost {
  readonly workers: Workers;
  /** Queues of the contract in force, and of one that is announced. */
  queues(): { readonly present: readonly Queue[]; readonly next: readonly Queue[] };
  runs(direction: Direction): boolean;
  /** When nothing else is under way that waits for workers. */
  inTurn<T>(step: () => Promise<T>): Promise<T>;
  /** While no queue is in a worker's hands. */
  paused<T>(action: () => T): Promise<T>;
  warn(message: string): void;
}

export class NicMemory {
  readonly #host: NicMemoryHost;
  readonly #window: Window;
  readonly #tables: GuestMemory;
  #table: RegionTable | null = null;

  constructor({ window, arena, requireSealed = false }: NicMemoryOptions, host: NicMemoryHost) {
    this.#host = host;
    this.#window = window;
    this.#tables = new GuestMemory(window, arena, {
      requireSealed,
      giveWay: () => host.inTurn(() => this.#giveWay()),
      note: message => host.warn(message),
    });
  }

  /** The table in force; null: there is none. */
  get table(): RegionTable | null {
    return this.#table;
  }

  /** Not all of it is in the window. */
  get partial(): boolean {
    return this.#table !== null && !this.#table.inWindow;
  }

  /** Takes these regions in force. Their descriptors stay the caller's. In a turn. Throws MemoryError, LinuxError: then all stays as it was. */
  async change(specs: readonly MemoryRegionSpec[]): Promise<void> {
    const next = this.#tables.build(specs);
    try {
      await this.#moveTo(next);
    } catch (error) {
      next.close();
      throw error;
    }
  }

  /** There is none any more; no queue runs. */
  forget(): void {
    this.#table?.close();
    this.#table = null;
  }

  /** A queue waits for buffers that are not in the window. Where there is too little room, others are asked for it, once. */
  async missed(address: number, lacks: Lacks): Promise<void> {
    const { chunks } = this.#window;
    const done = await this.#host.inTurn(() => this.#bringIn(address, lacks, false));
    if (!done || chunks.crowded) await chunks.makeRoom();
    if (!done) await this.#host.inTurn(() => this.#bringIn(address, lacks, true));
  }

  /** Brings in what queues wait for, while none runs. Null, or why nothing of it can be had. */
  reach(misses: readonly Missed[]): Error | null {
    const table = this.#table;
    if (!table || this.#host.workers.failure) return new MemoryError('MEMORY_ADDRESS', 'there is no memory');
    const failures = misses.map(
      ({ lacks }) => lacks && bringIn(table, () => table.reachBuffers(lacks.first, lacks.others)),
    );
    this.#refresh();
    return failures.includes(null) ? null : (failures[0] ?? null);
  }

  /** False: there is no room; `last`: the queue stands still then. It may have been stopped meanwhile. */
  async #bringIn(address: number, lacks: Lacks, last: boolean): Promise<boolean> {
    const { workers, queues, runs, paused, warn } = this.#host;
    const queue = queues().present.find(own => own.address === address);
    if (!queue || !this.#table || !runs(queue.direction) || workers.failure) return true;
    if (queue.fault !== 0) return true; // it was given up meanwhile
    return paused(() => {
      const failure = this.reach([{ queue: address, lacks }]);
      if (!failure || !last) return !failure;
      warn(`queue ${queue.index} stands still: ${failure.message}`);
      queue.giveUp();
      return false;
    });
  }

  /** Others need room in the window. */
  async #giveWay(): Promise<void> {
    const table = this.#table;
    if (!table || this.#host.workers.failure) return;
    await this.#host.paused(() => {
      giveWay(table);
      this.#refresh();
    });
  }

  /** The table was written anew: so is what queues have of it. */
  #refresh(): void {
    const { present, next } = this.#host.queues();
    for (const each of [...present, ...next]) each.refresh();
  }

  /** Everything that stands in the old table is found in the new one, or nothing changes. */
  async #moveTo(next: RegionTable): Promise<void> {
    const { workers, queues, runs, warn } = this.#host;
    const { present, next: staged } = queues();
    const movers =
      runs('rx') || runs('tx')
        ? { running: present.filter(queue => queue.contextGpa !== null), resting: staged }
        : { running: [], resting: [...present, ...staged] };
    const pairs = present.filter(({ direction }) => direction === 'rx').length;
    // The only worker that may touch a queue while it runs.
    const workerOf = ({ index, direction }: Queue) =>
      workers.workerOf(direction === 'rx' ? index : index - pairs);
    const move = (moved: readonly Moved[]) =>
      workers.call(worker => ({
        op: 'remap',
        regions: next.address,
        partial: !next.inWindow,
        queues: moved
          .filter(({ queue }) => workerOf(queue) === worker)
          .map(({ queue, context }) => ({ queue: queue.address, context })),
      }));
    await relocate(movers, next, move, warn);
    this.forget();
    this.#table = next;
  }
}
