/**
 * The workers of a NIC, or of a guest's driver: one, or several that have the queue pairs and the port's lanes dealt out among them.
 *
 * ```
 *   pair, lane    0  1  2  3  4
 *   worker        0  1  0  1  0         of two
 *   slot          0  0  1  1  2         the pair's number in its worker's own count
 * ```
 * They share no queue, no lane and no batch, so none waits for another. When one fails, all end: what runs on without the others is no NIC.
 */
import type { Arena } from '../memory/arena.js';
import type { Window } from '../memory/window.js';
import { Batch } from '../ring/batch.js';
import { LoopThread, type ThreadError } from './thread.js';

export const MAX_WORKERS = 8;

/** Window addresses of the batches that a worker gets, one for each direction. */
export interface WorkerBatches {
  readonly txBatch: number;
  readonly rxBatch: number;
}

export interface CrewOptions {
  readonly window: Window;
  readonly arena: Arena;
  readonly name: string;
  /** Workers. */
  readonly size: number;
  /** What a worker starts with. */
  data(worker: number, batches: WorkerBatches): unknown;
}

/** The items that each of `workers` gets. */
export function deal<T>(items: readonly T[], workers: number): T[][] {
  return Array.from({ length: workers }, (_, worker) => items.filter((_, i) => i % workers === worker));
}

export class Crew<Command, Reply> {
  readonly #threads: LoopThread<Command, Reply>[] = [];
  readonly #pieces: number[] = [];
  readonly #arena: Arena;
  #failed: Promise<unknown> | null = null;
  /** Called once when a worker fails; the others end then. */
  onFailure: (error: ThreadError) => void = () => {};
  /** Called with what a worker emits. */
  onEvent: (event: unknown) => void = () => {};

  private constructor(arena: Arena) {
    this.#arena = arena;
  }

  /** Starts workers whose module is `entry`; resolves when all run. Throws ThreadError, MemoryError, and leaves nothing behind. */
  static async start<Command, Reply>(entry: URL, options: CrewOptions): Promise<Crew<Command, Reply>> {
    const { window, arena, name, size } = options;
    const crew = new Crew<Command, Reply>(arena);
    try {
      for (let worker = 0; worker < size; worker++) {
        const batches = { txBatch: crew.#batch(window), rxBatch: crew.#batch(window) };
        const data = options.data(worker, batches);
        const thread = await LoopThread.start<Command, Reply>(entry, { window, arena, data, name });
        crew.#threads.push(thread);
        thread.onEvent = event => crew.onEvent(event);
        thread.onFailure = error => crew.#end(error);
      }
      return crew;
    } catch (error) {
      await crew.stop();
      throw error;
    }
  }

  get size(): number {
    return this.#threads.length;
  }

  /** Has every worker handle a command between two turns, each its own. Resolves when all have; rejects after that when one has failed. */
  async call(command: (worker: number) => Command): Promise<Reply[]> {
    const calls = this.#threads.map((thread, worker) => thread.call(command(worker)));
    const results = await Promise.allSettled(calls);
    await this.#failed;
    return results.map(result => {
      if (result.status === 'rejected') throw result.reason;
      return result.value;
    });
  }

  /** Has one worker handle a command between two turns. */
  tell(worker: number, command: Command): Promise<Reply> {
    return this.#threads[worker]!.call(command);
  }

  /** Ends all workers after their present turns. */
  async stop(): Promise<void> {
    await Promise.all(this.#threads.map(thread => thread.stop()));
    for (const piece of this.#pieces.splice(0)) this.#arena.free(piece);
  }

  /** Window address of zeroed bytes that go with the crew. Throws MemoryError MEMORY_FULL. */
  allocate(size: number): number {
    const address = this.#arena.allocate(size);
    this.#pieces.push(address);
    return address;
  }

  #batch(window: Window): number {
    const { address } = Batch.allocate(window, this.#arena);
    this.#pieces.push(address);
    return address;
  }

  #end(error: ThreadError): void {
    if (this.#failed) return;
    this.#failed = Promise.all(this.#threads.map(thread => thread.stop()));
    this.onFailure(error);
  }
}
