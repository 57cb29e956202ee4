/** What a worker does with a ring beside moving frames: faults, doorbells, interrupts. A device that breaks the rules stops its ring and no other. */
import * as L from '../../../datapath/layout.js';
import { drainEventFd, signalEventFd } from '../../linux/eventfd.js';
import type { Poller } from '../../linux/poll.js';
import type { Window } from '../../memory/window.js';
import type { DatapathExports } from '../../ring/datapath.js';
import type { VirtioEvent, VirtioQueue } from './commands.js';

const NONSENSE = 'the device gave back a buffer that it does not have, or more than it holds';

export class QueueCalls {
  readonly calls: DatapathExports;
  readonly window: Window;
  readonly #emit: (event: VirtioEvent) => void;
  /** Rings whose fault the main thread has heard of. */
  readonly #told = new Set<number>();

  constructor(window: Window, calls: DatapathExports, emit: (event: VirtioEvent) => void) {
    this.window = window;
    this.calls = calls;
    this.#emit = emit;
  }

  /** Faults are news again. */
  forget(): void {
    this.#told.clear();
  }

  /** Passes a count through; a negative one is a fault of the ring, of which the first is news. */
  checked(queue: VirtioQueue, result: number): number {
    if (result >= 0) return result;
    if (!this.#told.has(queue.index)) {
      this.#told.add(queue.index);
      this.#emit({ queue: queue.index, reason: NONSENSE });
    }
    return 0;
  }

  /** Asks for an interrupt when `minimum` chains have come back, 0 = none. True: so many are there already. */
  arm(queue: VirtioQueue, minimum: number): boolean {
    return this.calls.vdrv_arm(queue.address, minimum) > 0 && minimum > 0;
  }

  kick(queue: VirtioQueue): void {
    signalEventFd(queue.kick);
    this.calls.bump(queue.address + L.DRIVER_STATS, L.STAT_KICKS);
  }

  takeInterrupt(queue: VirtioQueue, poller: Poller, entry: number): boolean {
    if (!poller.ready(entry)) return false;
    drainEventFd(queue.call);
    this.calls.bump(queue.address + L.DRIVER_STATS, L.STAT_INTERRUPTS);
    return true;
  }

  /** A word of the ring's structure. */
  field(queue: VirtioQueue, field: number): number {
    return this.window.words[(queue.address + field) >>> 2]!;
  }
}
