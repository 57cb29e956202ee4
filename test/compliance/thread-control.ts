/**
 * What the two threads of a stress share beside the ring: words in the window, a cache line each.
 *
 * ```
 *   told      set by the other side when it has to be woken; cleared by its owner before it looks at the ring
 *   nap       counts when the device begins to wait for that, and when it ends: odd while it does
 *   done      frames that the device has taken, or filled
 * ```
 * Who waits spins for a moment, since what is looked for happens when both run at the same time; then it lets others have the processor.
 */
import type { Window } from '../../src/memory/window.js';

const LINE = 64;
const SPINS = 3000;
const NAP_MS = 1;
const NAMES = ['stop', 'deviceTold', 'deviceNap', 'guestTold', 'done'] as const;
export const CONTROL_BYTES = NAMES.length * LINE;

type Name = (typeof NAMES)[number];

export class ThreadControl {
  readonly #words: Int32Array;
  readonly #address: number;

  /** CONTROL_BYTES zeroed bytes of the window. */
  constructor(window: Window, address: number) {
    this.#words = new Int32Array(window.memory.buffer);
    this.#address = address;
  }

  get(name: Name): number {
    return Atomics.load(this.#words, this.#index(name)) >>> 0;
  }

  set(name: Name, value: number): void {
    Atomics.store(this.#words, this.#index(name), value | 0);
  }

  /** Sets it, for who may be waiting. */
  tell(name: Name): void {
    this.set(name, 1);
    Atomics.notify(this.#words, this.#index(name));
  }

  /** Until it is set, or `over` says so. */
  wait(name: Name, over: () => boolean): void {
    this.watch(() => this.get(name) === 0 && !over(), name);
  }

  /** As long as `goOn` says; `name`: what is told when that changes, if anything is. */
  watch(goOn: () => boolean, name: Name = 'guestTold'): void {
    for (let spins = 0; goOn(); spins++) {
      if (spins > SPINS) Atomics.wait(this.#words, this.#index(name), 0, NAP_MS);
    }
  }

  #index(name: Name): number {
    return (this.#address + NAMES.indexOf(name) * LINE) >>> 2;
  }
}
