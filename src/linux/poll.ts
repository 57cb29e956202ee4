/**
 * Waiting for several descriptors at once in a datapath worker: ppoll over a fixed array, without allocation.
 *
 *     one buffer:   pollfd 0 │ pollfd 1 │ … │ timespec {i64 seconds, i64 nanoseconds}
 *     pollfd:       i32 fd (-1: not watched) │ i16 events │ i16 revents
 *
 * The thread is stuck in `wait` until something is ready: have the worker's wake-up eventfd among the entries, since
 * neither terminate() nor process.exit() can interrupt it.
 */
import { EINTR } from './errors.js';
import { addressOf, ppoll } from './libc.js';

export const POLLIN = 0x01;
export const POLLOUT = 0x04;
export const POLLERR = 0x08;
export const POLLHUP = 0x10;
export const POLLNVAL = 0x20;

export class Poller {
  readonly capacity: number;
  readonly #words: Int32Array;
  readonly #halves: Int16Array;
  readonly #address: number;
  readonly #timespec: number;
  /** How many entries, from the first on, `wait` looks at; at first all. */
  count: number;

  /** Room for `capacity` descriptors, none of them watched yet. */
  constructor(capacity: number) {
    const buffer = new ArrayBuffer(capacity * 8 + 16);
    this.capacity = capacity;
    this.count = capacity;
    this.#words = new Int32Array(buffer);
    this.#halves = new Int16Array(buffer);
    this.#address = addressOf(this.#words);
    this.#timespec = this.#address + capacity * 8;
    for (let i = 0; i < capacity; i++) this.#words[2 * i] = -1;
  }

  /** Entry `i` watches `fd` for `events` (POLLIN, POLLOUT); errors and hang-ups always. A negative fd: nothing. */
  set(i: number, fd: number, events: number): void {
    if (!(i >= 0 && i < this.capacity)) throw new RangeError(`poll entry ${i} of ${this.capacity}`);
    this.#words[2 * i] = fd;
    this.#words[2 * i + 1] = events; // and no revents
  }

  /**
   * Waits until an entry is ready, at most `timeoutMs` (0: only look; -1: without limit). Returns how many are
   * ready: 0 after the timeout or a signal; or `-errno`.
   */
  wait(timeoutMs: number): number {
    let timeout = 0;
    if (timeoutMs >= 0) {
      const at = 2 * this.capacity;
      const seconds = Math.floor(timeoutMs / 1000);
      this.#words[at] = seconds;
      this.#words[at + 2] = (timeoutMs - seconds * 1000) * 1e6;
      timeout = this.#timespec;
    }
    const result = ppoll(this.#address, this.count, timeout);
    if (result > 0) return result;
    // On failure the kernel leaves the old revents in place.
    for (let i = 0; i < this.count; i++) this.#halves[4 * i + 3] = 0;
    return result === -EINTR ? 0 : result;
  }

  /** Whether entry `i` was ready in the last wait, for anything, an error included. */
  ready(i: number): boolean {
    return this.#halves[4 * i + 3] !== 0;
  }

  /** What entry `i` was ready for in the last wait: POLL* bits. */
  revents(i: number): number {
    return this.#halves[4 * i + 3]!;
  }
}
