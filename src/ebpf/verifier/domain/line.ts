/**
 * Numbers that go up or down by the same step in every round of a loop. All those of one loop depend on one k, so that a bound for
 * the counter is a bound for the pointer that moves along with it.
 *
 * ```
 *   r9 = 2 + k          r9 < 64  →  k ≤ 61  →  r8 ≤ 140 + 32·61
 *   r8 = 140 + 32·k
 * ```
 */
import { ALU } from '../../isa.js';
import type { Width } from './bounds.js';
import { constantOf, type Num, signedRange } from './number.js';

/** The number is exactly base + step·k, as a signed number, without wrapping. */
export interface Line {
  /** Names the k. */
  readonly id: number;
  readonly base: bigint;
  /** Not 0. */
  readonly step: bigint;
}

export function sameLine(a: Line | null, b: Line | null): boolean {
  return a === b || (a !== null && b !== null && a.id === b.id && a.base === b.base && a.step === b.step);
}

/** The numbers of a line for k from first to last. */
export function stretch({ base, step }: Line, first: bigint, last: bigint): Num {
  const [a, b] = [base + step * first, base + step * last];
  return a < b ? signedRange(a, b) : signedRange(b, a);
}

/** The least and the greatest k for which the line may be in the number. */
export function rounds({ base, step }: Line, { wide }: Num): { first: bigint; last: bigint } {
  const [near, far] = step > 0n ? [wide.slo, wide.shi] : [wide.shi, wide.slo];
  const size = step > 0n ? step : -step;
  const up = step > 0n ? 1n : -1n;
  const least = (near - base) * up;
  return { first: least <= 0n ? 0n : (least + size - 1n) / size, last: ((far - base) * up) / size };
}

/** A number with its line, if it has one. */
export interface Traced {
  readonly num: Num;
  readonly line: Line | null;
}

/** The line of a result: of a line and a constant, where nothing wraps. */
export function combineLines(op: number, width: Width, left: Traced, right: Traced): Line | null {
  const by = constantOf(right.num);
  if (left.line !== null && by !== null) return through(op, width, left.line, left.num, by);
  const start = constantOf(left.num);
  const commutes = op === ALU.ADD || op === ALU.MUL;
  if (right.line !== null && start !== null && commutes) {
    return through(op, width, right.line, right.num, start);
  }
  return null;
}

/** The same line where its numbers fit so many unsigned bits, so that cutting them off there changes nothing. */
export function keptBelow({ num, line }: Traced, bits: number): Line | null {
  return num.wide.slo >= 0n && num.wide.shi < 1n << BigInt(bits) ? line : null;
}

function through(op: number, width: Width, line: Line, { wide }: Num, constant: bigint): Line | null {
  const by = BigInt.asIntN(width, constant);
  const fits = (value: bigint) =>
    width === 32 ? value >= 0n && value < 1n << 32n : BigInt.asIntN(64, value) === value;
  const moved = (to: (value: bigint) => bigint, step: bigint): Line | null => {
    if (![wide.slo, wide.shi, to(wide.slo), to(wide.shi)].every(fits)) return null;
    return step === 0n ? null : { id: line.id, base: to(line.base), step };
  };
  switch (op) {
    case ALU.ADD:
      return moved(value => value + by, line.step);
    case ALU.SUB:
      return moved(value => value - by, line.step);
    case ALU.MUL:
      return moved(value => value * by, line.step * by);
    case ALU.LSH: {
      const factor = 1n << (by & BigInt(width - 1));
      return moved(value => value * factor, line.step * factor);
    }
    case ALU.RSH: {
      const divisor = 1n << (by & BigInt(width - 1));
      const exact = wide.slo >= 0n && line.base % divisor === 0n && line.step % divisor === 0n;
      return exact ? moved(value => value / divisor, line.step / divisor) : null;
    }
    default:
      return null;
  }
}
