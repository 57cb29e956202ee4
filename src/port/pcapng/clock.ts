/**
 * The time of a frame as a capture file gives it, made nanoseconds since 1970: two halves of 64 bits, without a BigInt for each frame.
 *
 * ```
 *   units of 10^-n s or 2^-n s, 64 bits            limbs of 16 bits: products and remainders stay whole numbers below 2^53
 *     × a number below 2^30                        ┌────┬────┬────┬────┬────┬────┐
 *     ÷ numbers up to 2^30, one after another      │ 5  │ 4  │ 3  │ 2  │ 1  │ 0  │
 *     + the interface's offset                     └────┴────┴────┴────┴────┴────┘
 * ```
 * Rounded down; what is beyond 64 bits is cut off.
 */
import type { Resolution } from './layout.js';

const NANOS = 9;
const LIMB = 65536;
/** Enough for 64 bits times 30. */
const LIMBS = 6;
const HALF = 2 ** 32;

/** What units are multiplied by, and then divided by, to give nanoseconds. */
function scaleOf({ base, exponent }: Resolution): {
  readonly factor: number;
  readonly divisors: readonly number[];
} {
  if (base === 10 && exponent <= NANOS) return { factor: 10 ** (NANOS - exponent), divisors: [] };
  const factor = base === 10 ? 1 : 10 ** NANOS;
  const step = base === 10 ? NANOS : 30; // the power of the base that one division takes
  const rest = base === 10 ? exponent - NANOS : exponent;
  const whole = Array.from({ length: Math.floor(rest / step) }, () => base ** step);
  return { factor, divisors: rest % step === 0 ? whole : [...whole, base ** (rest % step)] };
}

export class Clock {
  /** Of the frame that was read last. */
  high = 0;
  low = 0;
  readonly #perSecond: number;
  readonly #factor: number;
  readonly #divisors: readonly number[];
  readonly #offsetHigh: number;
  readonly #offsetLow: number;
  /** The lowest first. */
  readonly #limbs = new Float64Array(LIMBS);

  /** @param offset seconds to add, signed */
  constructor(resolution: Resolution, offset = 0n) {
    const { factor, divisors } = scaleOf(resolution);
    this.#perSecond = resolution.base ** resolution.exponent;
    this.#factor = factor;
    this.#divisors = divisors;
    const nanos = BigInt.asUintN(64, offset * 1_000_000_000n);
    this.#offsetHigh = Number(nanos >> 32n);
    this.#offsetLow = Number(nanos & 0xffff_ffffn);
  }

  /** Units since 1970, in halves. */
  read(high: number, low: number): void {
    this.#load(high, low);
    this.#finish();
  }

  /** Seconds since 1970, and units; there are at most 2^30 of them in a second. */
  readSeconds(seconds: number, units: number): void {
    this.#load(0, seconds);
    this.#multiply(this.#perSecond, units);
    this.#finish();
  }

  #load(high: number, low: number): void {
    const limbs = this.#limbs;
    limbs[0] = low % LIMB;
    limbs[1] = Math.floor(low / LIMB);
    limbs[2] = high % LIMB;
    limbs[3] = Math.floor(high / LIMB);
    limbs[4] = limbs[5] = 0;
  }

  /** By a number below 2^30; adds another of 32 bits. */
  #multiply(factor: number, plus: number): void {
    const limbs = this.#limbs;
    let carry = plus;
    for (let i = 0; i < LIMBS; i++) {
      const product = limbs[i]! * factor + carry;
      limbs[i] = product % LIMB;
      carry = Math.floor(product / LIMB);
    }
  }

  #divide(divisor: number): void {
    const limbs = this.#limbs;
    let remainder = 0;
    for (let i = LIMBS - 1; i >= 0; i--) {
      const part = remainder * LIMB + limbs[i]!;
      limbs[i] = Math.floor(part / divisor);
      remainder = part % divisor;
    }
  }

  #finish(): void {
    const limbs = this.#limbs;
    if (this.#factor !== 1) this.#multiply(this.#factor, 0);
    for (let i = 0; i < this.#divisors.length; i++) this.#divide(this.#divisors[i]!);
    const low = limbs[0]! + LIMB * limbs[1]! + this.#offsetLow;
    const high = limbs[2]! + LIMB * limbs[3]! + this.#offsetHigh + (low >= HALF ? 1 : 0);
    this.low = low % HALF;
    this.high = high % HALF;
  }
}
