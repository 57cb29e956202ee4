/**
 * What a worker does with a queue by way of the device's programs, guarded: a program that traps, or a device that breaks the rules, stops
 * its queue and no other, and the main thread hears of it once.
 */
import * as L from '../../../datapath/layout.js';
import { drainEventFd, signalEventFd } from '../../linux/eventfd.js';
import type { Poller } from '../../linux/poll.js';
import type { Window } from '../../memory/window.js';
import type { DatapathExports } from '../../ring/datapath.js';
import type { DriverEvent, DriverQueue } from './commands.js';

const FAULTS: Readonly<Record<number, string>> = {
  [L.FAULT_COMPLETION]: 'the device completed a buffer that it does not have, or more than it holds',
  [L.FAULT_PROGRAM]: 'a program failed or broke the calling convention',
};

/** Puts an error that a program threw into words; null: it was another program. */
export type Explain = (error: unknown) => Error | null;

export class QueueCalls {
  readonly calls: DatapathExports;
  /** The queue whose programs run, for the one that traps. */
  active: DriverQueue | null = null;
  readonly #window: Window;
  readonly #emit: (event: DriverEvent) => void;
  /** Queues whose fault the main thread has heard of. */
  readonly #told = new Set<number>();
  #explain: readonly Explain[] = [];

  constructor(window: Window, calls: DatapathExports, emit: (event: DriverEvent) => void) {
    this.#window = window;
    this.calls = calls;
    this.#emit = emit;
  }

  /** Other programs run from now on. */
  explainBy(explain: readonly Explain[]): void {
    this.#explain = explain;
  }

  /** All buffers are the driver's again, and faults are forgotten. */
  reset(queues: readonly DriverQueue[]): void {
    this.#told.clear();
    for (const queue of queues) this.calls.driver_reset(queue.address, queue.buffers);
  }

  /** Passes a count through; a negative one is a fault of the queue. */
  checked(queue: DriverQueue, result: number): number {
    if (result >= 0) return result;
    this.#tell(queue, FAULTS[this.word(queue, L.DRIVER_FAULT)] ?? 'unknown fault');
    return 0;
  }

  /** Does something with a queue that may trap. Not for every packet. */
  guard(queue: DriverQueue, action: () => void): void {
    this.active = queue;
    try {
      action();
    } catch (error) {
      this.trapped(error);
    }
  }

  /** A program trapped: its queue stands still from now on. Anything else is our own mistake, and is thrown on. */
  trapped(error: unknown): void {
    if (!(error instanceof WebAssembly.RuntimeError) || !this.active) throw error;
    const queue = this.active;
    this.calls.driver_fail(queue.address, L.FAULT_PROGRAM);
    const cause = this.#explain.map(explain => explain(error)).find(fault => fault !== null);
    this.#tell(queue, (cause ?? error).message);
  }

  /** Arms for `minimum` completed buffers, 0 = off. True: so many are there already. */
  arm(queue: DriverQueue, minimum: number): boolean {
    this.active = queue;
    try {
      // With 0 the programs' answer means nothing, and may be negative.
      return this.calls.driver_arm(queue.address, minimum) > 0 && minimum > 0;
    } catch (error) {
      this.trapped(error);
      return true;
    }
  }

  kick(queue: DriverQueue): void {
    signalEventFd(queue.doorbell);
    this.calls.bump(queue.address + L.DRIVER_STATS, L.STAT_KICKS);
  }

  takeInterrupt(queue: DriverQueue, poller: Poller, entry: number): boolean {
    if (!poller.ready(entry)) return false;
    drainEventFd(queue.interrupt);
    this.calls.bump(queue.address + L.DRIVER_STATS, L.STAT_INTERRUPTS);
    return true;
  }

  word(queue: DriverQueue, field: number): number {
    return this.#window.words[(queue.address + field) >>> 2]!;
  }

  /** The first fault of a queue is news; what follows from it, at the latest when it is stopped, is not. */
  #tell(queue: DriverQueue, reason: string): void {
    if (this.#told.has(queue.index)) return;
    this.#told.add(queue.index);
    this.#emit({ queue: queue.index, address: queue.address, reason });
  }
}
