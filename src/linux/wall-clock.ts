/** The time of day in nanoseconds since 1970, as the two halves of a 64-bit number, without BigInt and without allocation. */
import { addressOf, clockGettime } from './libc.js';

const CLOCK_REALTIME = 0;
const HALF = 0x1_0000;
const WORD = 0x1_0000_0000;
const NANOSECONDS = 1e9;

export class WallClock {
  high = 0;
  low = 0;
  readonly #timespec = new Uint32Array(4);
  readonly #address = addressOf(this.#timespec);

  /** Reads the clock into `high` and `low`. */
  read(): void {
    clockGettime(CLOCK_REALTIME, this.#address);
    this.set(this.#timespec[0]!, this.#timespec[2]!);
  }

  /** `seconds` (32 bits: until 2106) and nanoseconds. No step leaves the 53 bits in which Numbers are exact. */
  set(seconds: number, nanoseconds: number): void {
    const upper = Math.floor(seconds / HALF) * NANOSECONDS; // counts 2^16 ns each
    const lower = (seconds % HALF) * NANOSECONDS + nanoseconds;
    const sum = (upper % HALF) * HALF + lower;
    this.high = Math.floor(upper / HALF) + Math.floor(sum / WORD);
    this.low = sum % WORD;
  }
}
