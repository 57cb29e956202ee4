/**
 * The lanes of a worker, which take turns: none of them keeps the others from being looked at.
 *
 * ```
 *   awake    turn of lane 0, of lane 1, …     one that moved something asks its descriptors again; so does one of the others, another each time
 *   asleep   one poller for all:  │ first … lane 0's entries … │ lane 1's entries … │
 * ```
 */
import type { Poller } from '../linux/poll.js';

export interface Lane {
  /** Does a bounded amount of work. Returns how many frames it moved. */
  turn(): number;
  /** What was known of its descriptors is out of date. */
  askAgain(): void;
  /** Arms what wakes it, and sets the poller's entries from `entry` on. Returns the entry behind them, negative when something is waiting already. */
  prepareSleep(poller: Poller, entry: number): number;
  /** Looks at the entries that `prepareSleep` has set; returns the one behind them. */
  afterSleep(poller: Poller, entry: number): number;
}

export class Lanes<L extends Lane> {
  readonly all: readonly L[];
  #next = 0;

  constructor(all: readonly L[]) {
    this.all = all;
  }

  /** One turn of each. Returns how many frames they moved; `restless`: who never sleeps looks at everything even when there were none. */
  turn(restless: boolean): number {
    const { all } = this;
    let moved = 0;
    for (let i = 0; i < all.length; i++) {
      const lane = all[i]!;
      const frames = lane.turn();
      if (frames > 0) lane.askAgain(); // one direction that is always busy must not keep the other from being looked at
      moved += frames;
    }
    if (moved > 0 || restless) this.#askNext();
    return moved;
  }

  /** False: something is waiting already. */
  prepareSleep(poller: Poller, first: number): boolean {
    const { all } = this;
    let waiting = false;
    let entry = first;
    for (let i = 0; i < all.length; i++) {
      const next = all[i]!.prepareSleep(poller, entry);
      if (next < 0) waiting = true;
      entry = Math.abs(next);
    }
    poller.count = entry;
    if (waiting) this.#askNext();
    return !waiting;
  }

  afterSleep(poller: Poller, first: number): void {
    const { all } = this;
    let entry = first;
    for (let i = 0; i < all.length; i++) entry = all[i]!.afterSleep(poller, entry);
  }

  /** Nor must one lane keep the others from it: while we are awake, one of them is asked each turn. That costs a system call which may find nothing. */
  #askNext(): void {
    if (++this.#next >= this.all.length) this.#next = 0;
    this.all[this.#next]?.askAgain();
  }
}
