/**
 * How queues follow their guest's memory when the table of its regions changes.
 *
 * ```
 *   running   locate ──► workers move to it, between two turns ──► follow     not found: nothing changes, for any queue
 *   resting   locate ──────────────────────────────────────────► place, follow     not found: the context is lost
 * ```
 * A guest that has rebooted leaves contexts behind that are in no memory any more.
 */
import type { RegionTable } from '../memory/guest-memory.js';
import { MemoryError } from '../memory/window.js';
import type { Queue } from './queue.js';

export interface Movers {
  /** Workers may look at them; all have a context. */
  readonly running: readonly Queue[];
  readonly resting: readonly Queue[];
}

/** Where a queue's context is from now on: a window address. */
export interface Moved {
  readonly queue: Queue;
  readonly context: number;
}

/** `move` has the workers move to the new table. Throws MemoryError, or what `move` throws: then all stays as it was. */
export async function relocate(
  { running, resting }: Movers,
  next: RegionTable,
  move: (moved: readonly Moved[]) => Promise<unknown>,
  warn: (message: string) => void,
): Promise<void> {
  const placed = new Map<Queue, number>();
  try {
    const moved = running.map(queue => ({ queue, context: queue.locate(queue.contextGpa!, next) }));
    for (const { queue, context } of moved) placed.set(queue, context);
    for (const queue of resting) {
      const context = locate(queue, next, warn);
      if (context !== null) placed.set(queue, context);
    }
    if (running.length > 0) await move(moved);
  } catch (error) {
    for (const queue of placed.keys()) next.unpin(queue.contextGpa!, queue.contextSize);
    throw error;
  }
  for (const queue of resting) {
    const context = placed.get(queue);
    if (context === undefined) queue.dropContext();
    else queue.place(next, context);
  }
  for (const queue of placed.keys()) queue.follow(next);
}

/** Null: it has none, or it is in no region. */
function locate(queue: Queue, next: RegionTable, warn: (message: string) => void): number | null {
  if (queue.contextGpa === null) return null;
  try {
    return queue.locate(queue.contextGpa, next);
  } catch (error) {
    if (!(error instanceof MemoryError) || error.code !== 'MEMORY_ADDRESS') throw error;
    warn(`queue ${queue.index} loses its context: ${error.message}`);
    return null;
  }
}
