/** The monotonic clock in nanoseconds, as a Number: comparable between threads and processes, unlike performance.now(). */
import { addressOf, clockGettime } from './libc.js';

const CLOCK_MONOTONIC = 1;
const timespec = new Uint32Array(4);
const timespecAddress = addressOf(timespec);

/** CLOCK_MONOTONIC; exact to the nanosecond for the first 104 days after boot, to two after that. No allocation. */
export function monotonicNs(): number {
  clockGettime(CLOCK_MONOTONIC, timespecAddress);
  return timespec[0]! * 1e9 + timespec[2]!;
}
