/**
 * A lane of a switch port, in the worker that uses it. All that touches frames is in the datapath module; here is what needs the kernel: the
 * eventfd by which one worker wakes another, and only when that one has found nothing.
 *
 * ```
 *   put:  switch_put ──► whose inbox was asked for? ──► signal their eventfds ──► switch_leave
 *   get:  switch_get ──► nothing more? switch_arm ──► read our eventfd, if we owe it that ──► still nothing? then `fd` will be readable
 * ```
 */
import * as L from '../../../datapath/layout.js';
import { monotonicNs } from '../../linux/clock.js';
import { drainEventFd, signalEventFd } from '../../linux/eventfd.js';
import type { Window } from '../../memory/window.js';
import type { Batch } from '../../ring/batch.js';
import type { DatapathExports } from '../../ring/datapath.js';
import { add } from '../counters.js';
import type { Port, PortDescriptor, PortWorker } from '../port.js';
import { Inlet } from '../soften.js';

/** Where frames are softened, in the lane's state. */
export const INLET = L.SWLANE_SIZE;

export class SwitchLane implements Port {
  readonly fd: number;
  readonly exhausted = false;
  readonly #window: Window;
  readonly #calls: DatapathExports;
  readonly #state: number;
  readonly #inlet: Inlet;
  /** Index in the window's words of INBOX_OWED. */
  readonly #owed: number;

  constructor({ fds, state }: PortDescriptor, worker: PortWorker) {
    this.fd = fds[0]!;
    this.#window = worker.window;
    this.#calls = worker.calls;
    this.#state = state;
    this.#inlet = new Inlet(worker, state + INLET, state);
    this.#owed = (this.#word(L.SWLANE_INBOX) + L.INBOX_OWED) >>> 2;
  }

  /** Takes all: who has no room loses what is for him, and holds up nobody. */
  put(batch: Batch): number {
    const { count } = batch;
    const now = monotonicNs();
    for (let next = 0; next < count; ) {
      next = this.#calls.switch_put(this.#state, batch.address, next, now);
      if (this.#word(L.SWLANE_WAKES) !== 0) this.#wake();
    }
    return count;
  }

  get(batch: Batch): number {
    const { count } = batch;
    let filled = this.#inlet.rest(batch, 0);
    for (let looks = 0; filled < count; looks++) {
      const result = this.#calls.switch_get(this.#state, batch.address, filled);
      if (result < 0) filled = this.#inlet.take(batch, ~result, this.#word(L.PORT_OFFLOADS));
      else {
        filled = result;
        if (filled === count || this.#nothingWaits()) break;
      }
      if (looks === L.MAX_BATCH) {
        this.#comeBack();
        break;
      }
    }
    if (filled !== 0) add(this.#window, this.#state, L.PORT_RECEIVED, filled);
    return filled;
  }

  /** True: whoever brings the next frame signals. */
  #nothingWaits(): boolean {
    if (this.#calls.switch_arm(this.#state) > 0) this.#window.words[this.#owed]! -= drainEventFd(this.fd);
    return this.#calls.switch_waiting(this.#state) === 0;
  }

  /** Frames wait, but we have had more than enough of those that lead to nothing: have `fd` readable all the same. */
  #comeBack(): void {
    if (signalEventFd(this.fd) === 0) this.#window.words[this.#owed]! += 1;
  }

  /** Their eventfds stay open until `switch_leave`. */
  #wake(): void {
    const fds = (this.#state + L.SWLANE_WAKE_FDS) >>> 2;
    for (let i = this.#word(L.SWLANE_WAKES) - 1; i >= 0; i--) signalEventFd(this.#window.words[fds + i]!);
    this.#calls.switch_leave(this.#state);
  }

  #word(field: number): number {
    return this.#window.words[(this.#state + field) >>> 2]!;
  }
}
