/**
 * The numbers that a register may hold: three descriptions at once, each sharpened by what the others know.
 *
 * ```
 *   wide   bounds of all 64 bits, unsigned and signed
 *   low    bounds of the low 32 bits
 *   bits   which bits are known
 * ```
 * γ of a `Num` are the 64-bit numbers that fit all three. It is never empty: what would be is null (`reduce`, `meet`).
 */
import {
  type Bounds,
  boundsInclude,
  boundsOf,
  exactly,
  FULL,
  fromTo,
  joinBounds,
  max,
  meetBounds,
  min,
  sameBounds,
} from './bounds.js';
import {
  ALL_32,
  ALL_64,
  ANY_BITS,
  bitsAgree,
  bitsInclude,
  bitsOf,
  bitsOfRange,
  joinBits,
  lowBits,
  lowKnown,
  meetBits,
  sameBits,
  type Tnum,
  tnum,
} from './tnum.js';

export class Num {
  // Declared, not defined: they are made often, and the constructor fills all.
  /** Tells objects apart, for tables of what was computed before. */
  declare readonly serial: number;
  declare readonly wide: Bounds;
  declare readonly low: Bounds;
  declare readonly bits: Tnum;

  constructor(wide: Bounds, low: Bounds, bits: Tnum) {
    this.serial = serials++;
    this.wide = wide;
    this.low = low;
    this.bits = bits;
  }
}

let serials = 0;

/** Any 64-bit number. */
export const ANY = new Num(FULL[64], FULL[32], ANY_BITS);

const HALF_32 = 1n << 31n;

/** The constants from 0 up to this that were needed so far: most that programs compute with. */
const CACHED = 4096n;
const cache: (Num | undefined)[] = new Array(Number(CACHED)).fill(undefined);

/** One number, of which the low 64 bits count. */
export function constant(value: bigint): Num {
  if (value < 0n || value >= CACHED) return makeConstant(BigInt.asUintN(64, value));
  return (cache[Number(value)] ??= makeConstant(value));
}

function makeConstant(value: bigint): Num {
  return new Num(exactly(64, value), exactly(32, value), bitsOf(value));
}

/** The unsigned value if there is but one, else null. */
export function constantOf(number: Num): bigint | null {
  const { bits } = number;
  return bits.mask === 0n ? bits.value : null;
}

/** What a load of so many bytes may give. */
export function loaded(bytes: number, signed: boolean): Num {
  return (signed ? LOADED_SIGNED : LOADED).get(bytes)!;
}

function fullUnsigned(bits: number): Num {
  const hi = (1n << BigInt(bits)) - 1n;
  const wide = fromTo(0n, hi);
  return new Num(wide, bits === 32 ? FULL[32] : wide, tnum(0n, hi));
}

/** All unsigned numbers from lo to hi. */
export function unsignedRange(lo: bigint, hi: bigint): Num {
  return reduce(boundsOf(lo, hi, FULL[64].slo, FULL[64].shi), FULL[32], ANY_BITS)!;
}

/** All signed numbers from lo to hi. */
export function signedRange(lo: bigint, hi: bigint): Num {
  return reduce(boundsOf(FULL[64].ulo, FULL[64].uhi, lo, hi), FULL[32], ANY_BITS)!;
}

/** Whether a concrete number, unsigned, is one of these. */
export function contains(number: Num, value: bigint): boolean {
  return includes(number, constant(value));
}

/** Whether all of b is in a. */
export function includes(a: Num, b: Num): boolean {
  return (
    a === b || (boundsInclude(a.wide, b.wide) && boundsInclude(a.low, b.low) && bitsInclude(a.bits, b.bits))
  );
}

export function join(a: Num, b: Num): Num {
  if (includes(a, b)) return a;
  if (includes(b, a)) return b;
  return new Num(joinBounds(a.wide, b.wide), joinBounds(a.low, b.low), joinBits(a.bits, b.bits));
}

/** What may be in both; null when nothing can. */
export function meet(a: Num, b: Num): Num | null {
  if (includes(b, a)) return a;
  if (!bitsAgree(a.bits, b.bits)) return null;
  return reduce(meetBounds(a.wide, b.wide), meetBounds(a.low, b.low), meetBits(a.bits, b.bits));
}

/** The numbers of a whose low 32 bits may be those of b. */
export function meetLow(a: Num, b: Num): Num | null {
  const known = lowKnown(b.bits);
  if (!bitsAgree(a.bits, known)) return null;
  return reduce(a.wide, meetBounds(a.low, b.low), meetBits(a.bits, known));
}

/** The low 32 bits as an unsigned number. */
export function zeroExtended({ low, bits }: Num): Num {
  return lowNumber(low, lowBits(bits));
}

/** A number that is its low half. The bounds must not be empty. */
export function lowNumber(low: Bounds, bits: Tnum): Num {
  return reduce(fromTo(low.ulo, low.uhi), low, bits)!;
}

/** Rounds of `reduce`. More would find little more; fewer are sound as well. */
const ROUNDS = 3;

/** Lets each description sharpen the others. Null when no number fits all of them. */
export function reduce(wide: Bounds, half: Bounds, known: Tnum): Num | null {
  if (wide.uhi < HALF_32) return reduceSmall(wide, half, known);
  if (known.mask === ALL_64 && sameBounds(half, FULL[32]) && sameBounds(wide, FULL[64])) return ANY;
  let { ulo, uhi, slo, shi } = wide;
  let low = half;
  let bits = known;
  for (let round = 0; round < ROUNDS; round++) {
    const { mask } = bits;
    // The known bits bound all.
    ulo = max(ulo, bits.value);
    uhi = min(uhi, bits.value | mask);
    let lowUlo = max(low.ulo, bits.value & ALL_32);
    let lowUhi = min(low.uhi, (bits.value | mask) & ALL_32);
    let { slo: lowSlo, shi: lowShi } = low;
    // Wide and low, where the upper half is one number, or only the sign.
    const upper = ulo >> 32n;
    if (upper === uhi >> 32n) {
      lowUlo = max(lowUlo, ulo & ALL_32);
      lowUhi = min(lowUhi, uhi & ALL_32);
      ulo = max(ulo, (upper << 32n) | lowUlo);
      uhi = min(uhi, (upper << 32n) | lowUhi);
    }
    if (slo >= -HALF_32 && shi < HALF_32) {
      slo = lowSlo = max(slo, lowSlo);
      shi = lowShi = min(shi, lowShi);
    }
    // Unsigned and signed, where the range does not pass from one half to the other.
    ({ ulo, uhi, slo, shi } = bothSigns(64, ulo, uhi, slo, shi));
    low = bothSigns(32, lowUlo, lowUhi, lowSlo, lowShi);
    if (ulo > uhi || slo > shi || low.ulo > low.uhi || low.slo > low.shi) return null;
    // Ranges fix the bits above the highest one in which their ends differ.
    const ofWide = bitsOfRange(ulo, uhi);
    if (!bitsAgree(bits, ofWide)) return null;
    bits = meetBits(bits, ofWide);
    const ofLow = lowKnown(bitsOfRange(low.ulo, low.uhi));
    if (!bitsAgree(bits, ofLow)) return null;
    bits = meetBits(bits, ofLow);
    if (round > 0 && bits.mask === mask) break;
  }
  if (bits.mask === 0n) return bits.value < ulo || bits.value > uhi ? null : constant(bits.value);
  // What loads give is one object for good: see `isUnknown` in frame.ts.
  if (bits.value === 0n && ulo === 0n && bits.mask === uhi && sameBounds(low, FULL[32])) {
    if (uhi === ALL_32) return LOADED.get(4)!;
    if (uhi === ALL_64 && slo === FULL[64].slo && shi === FULL[64].shi) return ANY;
  }
  const mix = Number((ulo ^ (uhi << 1n) ^ (shi << 2n) ^ (bits.value << 3n)) & MIX);
  const before = made[mix];
  if (before !== undefined && sameBounds(before.low, low) && sameBits(before.bits, bits)) {
    const { wide } = before;
    if (wide.ulo === ulo && wide.uhi === uhi && wide.slo === slo && wide.shi === shi) return before;
  }
  return (made[mix] = new Num(boundsOf(ulo, uhi, slo, shi), low, bits));
}

/**
 * Numbers made before, by a mix of what they are. The same one is the same object again, as long as its place is not needed for another: then what was
 * computed from it is found again, and comparing it with itself costs nothing.
 */
const MADE = 512;
const MIX = BigInt(MADE - 1);
const made: (Num | undefined)[] = new Array(MADE).fill(undefined);

/** The same for numbers below 2^31, most of those that programs work with: all four bounds are one, and fit plain numbers. */
function reduceSmall(wide: Bounds, half: Bounds, known: Tnum): Num | null {
  if (known.value >= HALF_32) return null;
  let lo = Math.max(Number(wide.ulo), Number(wide.slo), Number(half.ulo), Number(half.slo));
  let hi = Math.min(Number(wide.uhi), Number(wide.shi), Number(half.uhi), Number(half.shi));
  let value = Number(known.value);
  let mask = Number(known.mask & (HALF_32 - 1n));
  for (let round = 0; round < ROUNDS; round++) {
    const before = mask;
    lo = Math.max(lo, value);
    hi = Math.min(hi, value | mask);
    if (lo > hi) return null;
    // The bits above the highest one in which the ends differ.
    const open = lo === hi ? 0 : 2 ** (32 - Math.clz32(lo ^ hi)) - 1;
    if (((lo ^ value) & ~open & ~mask) !== 0) return null;
    mask &= open;
    value = (value | (lo & ~open)) & ~mask;
    if (round > 0 && mask === before) break;
  }
  if (mask === 0) return value < lo || value > hi ? null : constant(BigInt(value));
  const [ulo, uhi, some] = [BigInt(lo), BigInt(hi), BigInt(value)];
  const mix = (lo ^ (hi << 1) ^ (value << 3)) & (MADE - 1);
  const before = made[mix];
  if (before !== undefined && before.wide.uhi === uhi && before.wide.ulo === ulo) {
    if (before.bits.value === some && before.bits.mask === BigInt(mask)) return before;
  }
  const bounds = fromTo(ulo, uhi);
  return (made[mix] = new Num(bounds, bounds, tnum(some, BigInt(mask))));
}

/** Unsigned bounds out of signed ones and the other way round. */
function bothSigns(width: 32 | 64, ulo: bigint, uhi: bigint, slo: bigint, shi: bigint): Bounds {
  const middle = FULL[width].shi;
  if (uhi <= middle || ulo > middle) {
    slo = max(slo, BigInt.asIntN(width, ulo));
    shi = min(shi, BigInt.asIntN(width, uhi));
  }
  if (slo >= 0n || shi < 0n) {
    ulo = max(ulo, BigInt.asUintN(width, slo));
    uhi = min(uhi, BigInt.asUintN(width, shi));
  }
  return boundsOf(ulo, uhi, slo, shi);
}

const SIZES = [1, 2, 4, 8];
const LOADED = new Map(SIZES.map(bytes => [bytes, bytes === 8 ? ANY : fullUnsigned(8 * bytes)]));
const LOADED_SIGNED = new Map(
  SIZES.map(bytes => [
    bytes,
    signedRange(-(1n << BigInt(8 * bytes - 1)), (1n << BigInt(8 * bytes - 1)) - 1n),
  ]),
);
