/**
 * How long a change of contract keeps packets waiting, as the guest sees it.
 *
 * ```
 *   out   ‖ ‖ ‖ ‖ ‖                         ‖ ‖ ‖ ‖
 *                 └────────── tx ───────────┘
 *               stop ├── switched ─────────┤ go
 * ```
 * What the driver publishes between the switch and the go is out when the device goes.
 * Looks at the clock once a batch, and only from `watch` until packets flow again.
 */
import type { Blackout } from './commands.js';

/** A direction in which nothing came for so long before the stop was idle: its gap says nothing. Milliseconds. */
const IDLE_MS = 10;
/** So long after the go, what has not come does not come. */
const LATE_MS = 1000;

export class Gap {
  readonly #tell: (blackout: Blackout) => void;
  #watching = false;
  #stopped = 0;
  #switched = false;
  #gone = 0;
  /** When the last packet before the stop, and the first one after the go, went out and came in; 0: none. */
  #last = { tx: 0, rx: 0 };
  #first = { tx: 0, rx: 0 };

  constructor(tell: (blackout: Blackout) => void) {
    this.#tell = tell;
  }

  /** A change is about to come. */
  watch(on: boolean): void {
    if (this.#watching && this.#gone !== 0) this.#end();
    this.#watching = on;
    this.#stopped = 0;
    this.#switched = false;
    this.#gone = 0;
    this.#last = { tx: 0, rx: 0 };
    this.#first = { tx: 0, rx: 0 };
  }

  stop(): void {
    this.#stopped = performance.now();
  }

  /** What comes from now on belongs to the new contract. */
  switched(): void {
    this.#switched = true;
  }

  /** The device runs since `at`, by performance.now(). */
  go(at: number): void {
    this.#gone = at;
  }

  /** Packets went out, or came in. */
  packets(direction: 'tx' | 'rx'): void {
    if (!this.#watching) return;
    const now = performance.now();
    if (!this.#switched) {
      this.#last[direction] = now;
      return;
    }
    const late = this.#gone !== 0 && now - this.#gone > LATE_MS;
    if (!late && this.#first[direction] === 0) this.#first[direction] = now;
    if (this.#gone === 0) return;
    if (late || (this.#flows('tx') && this.#flows('rx'))) this.#end();
  }

  /** Nothing more is to be learnt of that direction. */
  #flows(direction: 'tx' | 'rx'): boolean {
    return this.#first[direction] !== 0 || this.#idle(direction);
  }

  #idle(direction: 'tx' | 'rx'): boolean {
    return this.#stopped - this.#last[direction] > IDLE_MS;
  }

  #end(): void {
    this.#watching = false;
    const stopped = (this.#gone - this.#stopped) * 1000;
    this.#tell({ stopped, tx: this.#between('tx'), rx: this.#between('rx') });
  }

  #between(direction: 'tx' | 'rx'): number | null {
    const last = this.#last[direction];
    const first = this.#first[direction];
    return this.#idle(direction) || first === 0 ? null : (Math.max(first, this.#gone) - last) * 1000;
  }
}
