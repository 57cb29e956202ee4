/**
 * What each ALU operation makes of numbers that are only partly known. For operands of one number each it is the reference of `alu.ts`
 * itself; else bounds and bits go through the operation each on their own and then sharpen each other.
 */
import { arithmetic, signExtend, swapBytes } from '../../alu.js';
import { ALU } from '../../isa.js';
import {
  addBounds,
  andBounds,
  type BoundsOperation,
  divBounds,
  exactly,
  FULL,
  modBounds,
  mulBounds,
  orBounds,
  shiftLeftBounds,
  shiftRightBounds,
  shiftRightSignedBounds,
  signedDivBounds,
  signedModBounds,
  subBounds,
  type Width,
  xorBounds,
} from './bounds.js';
import { constant, constantOf, lowNumber, type Num, reduce, zeroExtended } from './number.js';
import {
  ANY_BITS,
  addBits,
  andBits,
  lowBits,
  mulBits,
  orBits,
  shiftLeftBits,
  shiftRightBits,
  shiftRightSignedBits,
  subBits,
  type Tnum,
  tnum,
  xorBits,
} from './tnum.js';

interface Operation {
  readonly bounds: BoundsOperation;
  readonly bits?: (a: Tnum, b: Tnum) => Tnum;
  /** For shifts, whose count has to be known. */
  readonly shiftBits?: (a: Tnum, count: bigint, width: Width) => Tnum;
  /** The low half of the result depends only on the low halves of the operands. */
  readonly lowFromLow?: true;
}

const OPERATIONS: Readonly<Record<number, Operation>> = {
  [ALU.ADD]: { bounds: addBounds, bits: addBits, lowFromLow: true },
  [ALU.SUB]: { bounds: subBounds, bits: subBits, lowFromLow: true },
  [ALU.MUL]: { bounds: mulBounds, bits: mulBits, lowFromLow: true },
  [ALU.AND]: { bounds: andBounds, bits: andBits, lowFromLow: true },
  [ALU.OR]: { bounds: orBounds, bits: orBits, lowFromLow: true },
  [ALU.XOR]: { bounds: xorBounds, bits: xorBits, lowFromLow: true },
  [ALU.DIV]: { bounds: divBounds },
  [ALU.MOD]: { bounds: modBounds },
  [ALU.LSH]: { bounds: shiftLeftBounds, shiftBits: shiftLeftBits },
  [ALU.RSH]: { bounds: shiftRightBounds, shiftBits: shiftRightBits },
  [ALU.ARSH]: { bounds: shiftRightSignedBounds, shiftBits: shiftRightSignedBits },
};
const SIGNED: Readonly<Record<number, Operation>> = {
  [ALU.DIV]: { bounds: signedDivBounds },
  [ALU.MOD]: { bounds: signedModBounds },
};

/** Computed before, by a mix of the operands: loops that are followed round by round compute the same many times. */
const REMEMBERED = 1024;
const memory: (
  | { readonly key: number; readonly a: Num; readonly b: Num; readonly result: Num }
  | undefined
)[] = new Array(REMEMBERED).fill(undefined);

/** A binary operation `op` (a value of ALU, other than NEG and END) on numbers; `signed` is for DIV and MOD. */
export function compute(op: number, width: Width, a: Num, b: Num, signed: boolean): Num {
  const key = op * 256 + width + (signed ? 1 : 0);
  const index = (a.serial * 31 + b.serial * 7 + key) & (REMEMBERED - 1);
  const before = memory[index];
  if (before !== undefined && before.key === key && before.a === a && before.b === b) return before.result;
  const result = computed(op, width, a, b, signed);
  memory[index] = { key, a, b, result };
  return result;
}

function computed(op: number, width: Width, a: Num, b: Num, signed: boolean): Num {
  const x = constantOf(a);
  const y = constantOf(b);
  if (x !== null && y !== null) return constant(arithmetic(op, width, x, y, signed));
  if (op === ALU.MOV) return width === 64 ? b : zeroExtended(b);
  if (!signed && y !== null && y <= FULL[width].uhi && isPowerOf2(y)) {
    if (op === ALU.MOD) return compute(ALU.AND, width, a, constant(y - 1n), false);
    if (op === ALU.DIV) return compute(ALU.RSH, width, a, constant(exponent(y)), false);
  }
  const operation = (signed ? SIGNED[op] : undefined) ?? OPERATIONS[op]!;
  return width === 64 ? compute64(operation, a, b) : compute32(operation, a, b);
}

function compute64(operation: Operation, a: Num, b: Num): Num {
  const count = operation.shiftBits === undefined ? null : shiftCount(b, 64);
  const low = operation.lowFromLow ? operation.bounds(32, a.low, b.low) : FULL[32];
  const bits =
    operation.bits?.(a.bits, b.bits) ?? (count === null ? ANY_BITS : operation.shiftBits!(a.bits, count, 64));
  // Shifted left by 32 or more, nothing is left but the low half.
  if (operation.bounds === shiftLeftBounds && count !== null) {
    const from = count >= 32n ? a.low : a.wide;
    const lowHalf = count >= 32n ? exactly(32, 0n) : shiftLeftBounds(32, a.low, exactly(32, count));
    return reduce(shiftLeftBounds(64, from, exactly(64, count)), lowHalf, bits)!;
  }
  return reduce(operation.bounds(64, a.wide, b.wide), low, bits)!;
}

function compute32(operation: Operation, a: Num, b: Num): Num {
  const count = operation.shiftBits === undefined ? null : shiftCount(b, 32);
  const low = operation.bounds(32, a.low, b.low);
  const bits =
    operation.bits?.(lowBits(a.bits), lowBits(b.bits)) ??
    (count === null ? ANY_BITS : operation.shiftBits!(lowBits(a.bits), count, 32));
  return lowNumber(low, lowBits(bits));
}

function shiftCount(number: Num, width: Width): bigint | null {
  const known = constantOf(number);
  return known === null ? null : known & BigInt(width - 1);
}

export function negate(width: Width, a: Num): Num {
  return compute(ALU.SUB, width, constant(0n), a, false);
}

/** The low `from` bits, sign-extended to the width: up and down again. */
export function extendSign(a: Num, from: number, width: Width): Num {
  const known = constantOf(a);
  if (known !== null) return constant(signExtend(known, from, width));
  const count = constant(BigInt(width - from));
  return compute(ALU.ARSH, width, compute(ALU.LSH, width, a, count, false), count, false);
}

/** The low `bits` bits; zeros above. */
export function truncate(a: Num, bits: number): Num {
  if (bits === 64) return a;
  if (bits === 32) return zeroExtended(a);
  return compute(ALU.AND, 64, a, constant((1n << BigInt(bits)) - 1n), false);
}

/** The low `bits` bits with their bytes reversed: only the known bits come along. */
export function swap(a: Num, bits: number): Num {
  const swapped = tnum(swapBytes(a.bits.value, bits), swapBytes(a.bits.mask, bits));
  return reduce(FULL[64], FULL[32], swapped)!;
}

/** Division by powers of two keeps bits. */
function isPowerOf2(value: bigint): boolean {
  return value !== 0n && (value & (value - 1n)) === 0n;
}

function exponent(powerOf2: bigint): bigint {
  return BigInt(powerOf2.toString(2).length - 1);
}
