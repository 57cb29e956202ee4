/**
 * Tristate numbers: what is known of each of 64 bits.
 *
 * ```
 *   mask  0 0 1 1
 *   value 0 1 0 -      a value bit under a set mask bit is always 0
 *   bit   0 1 ? ?
 * ```
 */
export interface Tnum {
  readonly value: bigint;
  readonly mask: bigint;
}

export const ALL_64 = 0xffff_ffff_ffff_ffffn;
export const ALL_32 = 0xffff_ffffn;

/** All are made here. */
export function tnum(value: bigint, mask: bigint): Tnum {
  return { value, mask };
}

export const ANY_BITS = tnum(0n, ALL_64);

export function bitsOf(value: bigint): Tnum {
  return tnum(value, 0n);
}

/** Those of the numbers from lo to hi: the bits above the highest one in which the ends differ. */
export function bitsOfRange(lo: bigint, hi: bigint): Tnum {
  const mask = lowOnes(lo ^ hi);
  return tnum(lo & (ALL_64 ^ mask), mask);
}

/** By length: so many ones at the low end. */
const ONES = Array.from({ length: 65 }, (_, length) => (1n << BigInt(length)) - 1n);

/** As many ones as the number, of 64 bits, is long. */
function lowOnes(value: bigint): bigint {
  const high = Number(value >> 32n);
  return ONES[high === 0 ? 32 - Math.clz32(Number(value)) : 64 - Math.clz32(high)]!;
}

/** Whether some number has the bits of both; `meetBits` is only for such. */
export function bitsAgree(a: Tnum, b: Tnum): boolean {
  return ((a.value ^ b.value) & (ALL_64 ^ (a.mask | b.mask))) === 0n;
}

export function sameBits(a: Tnum, b: Tnum): boolean {
  return a.value === b.value && a.mask === b.mask;
}

export function meetBits(a: Tnum, b: Tnum): Tnum {
  const mask = a.mask & b.mask;
  return tnum((a.value | b.value) & (ALL_64 ^ mask), mask);
}

export function joinBits(a: Tnum, b: Tnum): Tnum {
  const mask = a.mask | b.mask | (a.value ^ b.value);
  return tnum(a.value & (ALL_64 ^ mask), mask);
}

/** Whether every number of b is one of a. */
export function bitsInclude(a: Tnum, b: Tnum): boolean {
  const known = ALL_64 ^ a.mask;
  return (b.mask & known) === 0n && (b.value & known) === a.value;
}

export function andBits(a: Tnum, b: Tnum): Tnum {
  const value = a.value & b.value;
  return tnum(value, (a.value | a.mask) & (b.value | b.mask) & (ALL_64 ^ value));
}

export function orBits(a: Tnum, b: Tnum): Tnum {
  const value = a.value | b.value;
  return tnum(value, (a.mask | b.mask) & (ALL_64 ^ value));
}

export function xorBits(a: Tnum, b: Tnum): Tnum {
  const mask = a.mask | b.mask;
  return tnum((a.value ^ b.value) & (ALL_64 ^ mask), mask);
}

/** The sum's bits are known where both are and where no carry may or may not arrive. */
export function addBits(a: Tnum, b: Tnum): Tnum {
  const least = a.value + b.value;
  const most = least + a.mask + b.mask;
  const mask = ((least ^ most) | a.mask | b.mask) & ALL_64;
  return tnum(least & (ALL_64 ^ mask), mask);
}

export function subBits(a: Tnum, b: Tnum): Tnum {
  const difference = a.value - b.value;
  const most = difference + a.mask;
  const least = difference - b.mask;
  const mask = BigInt.asUintN(64, (most ^ least) | a.mask | b.mask);
  return tnum(BigInt.asUintN(64, difference) & (ALL_64 ^ mask), mask);
}

/** By a known number: a sum of shifts, one for each of its ones. Else only the zeros at the low end are kept. */
export function mulBits(a: Tnum, b: Tnum): Tnum {
  if (a.mask === 0n) return mulByConstant(b, a.value);
  if (b.mask === 0n) return mulByConstant(a, b.value);
  const zeros = lowZeros(a) + lowZeros(b);
  return tnum(0n, zeros >= 64 ? 0n : (ALL_64 << BigInt(zeros)) & ALL_64);
}

function mulByConstant(a: Tnum, factor: bigint): Tnum {
  let sum = bitsOf(0n);
  for (let rest = factor, count = 0n; rest !== 0n; rest >>= 1n, count++) {
    if ((rest & 1n) === 1n) sum = addBits(sum, shiftLeftBits(a, count));
  }
  return sum;
}

function lowZeros({ value, mask }: Tnum): number {
  const ones = value | mask;
  return ones === 0n ? 64 : ONES.indexOf(((ones & -ones) << 1n) - 1n) - 1;
}

export function shiftLeftBits(a: Tnum, count: bigint): Tnum {
  return tnum((a.value << count) & ALL_64, (a.mask << count) & ALL_64);
}

export function shiftRightBits(a: Tnum, count: bigint): Tnum {
  return tnum(a.value >> count, a.mask >> count);
}

/** The top bit of `width` bits, known or not, fills the room. */
export function shiftRightSignedBits(a: Tnum, count: bigint, width: 32 | 64): Tnum {
  return tnum(
    BigInt.asUintN(width, BigInt.asIntN(width, a.value) >> count),
    BigInt.asUintN(width, BigInt.asIntN(width, a.mask) >> count),
  );
}

/** The low 32 bits; zeros above. */
export function lowBits(a: Tnum): Tnum {
  return tnum(a.value & ALL_32, a.mask & ALL_32);
}

/** The low 32 bits; nothing is known of those above. */
export function lowKnown(a: Tnum): Tnum {
  return tnum(a.value & ALL_32, a.mask | (ALL_64 ^ ALL_32));
}
