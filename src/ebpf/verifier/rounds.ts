/**
 * A guess at all further rounds of a loop, from two or three rounds that were followed: what moved by the same step goes on so, what
 * stayed stays, of the rest nothing is known but its kind. explore.ts looks whether one more round bears the guess out.
 */
import { type Line, rounds, sameLine, stretch } from './domain/line.js';
import { ANY, constantOf, includes, type Num } from './domain/number.js';
import {
  isPointer,
  type Link,
  numberIn,
  type Pointer,
  type Scalar,
  sameBase,
  sameForm,
  scalar,
  unset,
  type Value,
  withNumber,
} from './domain/value.js';
import type { Cell, Frame } from './frame.js';
import { State } from './state.js';

/** Lines are followed for at most so many rounds; programs that need more are refused in any case. */
export const MOST_ROUNDS = 1n << 17n;

/** Beyond this, bases and steps are not followed: lines stay far from wrapping. */
const MOST_BASE = 1n << 40n;
const MOST_STEP = 1n << 20n;

export interface Guess {
  readonly state: State;
  /** Of its lines; k is 0 in the third of the rounds. */
  readonly id: number;
}

/**
 * The rounds from the third one on, `most` of them at most after that.
 * @param first null: not known; the guess is made from two rounds, when they are alike in kind
 * @returns null when nothing moves: then no end can be seen
 */
export function guess(
  first: State | null,
  second: State,
  third: State,
  id: number,
  most: bigint,
): Guess | null {
  if (first === null && !alikeInKind(second, third)) return null;
  let moves = false;
  const guessed = (a: Value | null, b: Value, c: Value): Value => {
    const line = lineThrough(a, b, c, id);
    if (line === null) return settled(b, c);
    moves = true;
    const num = stretch(line, 0n, most);
    return c.kind === 'number' ? scalar(num, null, line) : { ...(c as Pointer), offset: num, line };
  };
  const registers = third.registers.map((value, register) =>
    guessed(first?.registers[register] ?? null, second.registers[register]!, value),
  );
  const frames = third.frames.map((frame, depth) =>
    guessFrame(first?.frames[depth] ?? null, second.frames[depth]!, frame, guessed),
  );
  return moves ? { state: new State(registers, frames), id } : null;
}

/** Whether registers are set in both or in neither, and what is set in both points to the same memory. */
function alikeInKind(a: State, b: State): boolean {
  const alike = (x: Value, y: Value) =>
    x.kind === 'unset' || y.kind === 'unset' ? x.kind === y.kind : sameKind(x, y);
  return (
    b.registers.every((value, register) => alike(a.registers[register]!, value)) &&
    b.frames.every((frame, depth) =>
      [...frame].every(([at, { value }]) => alike(a.frames[depth]!.get(at)?.value ?? value, value)),
    )
  );
}

function guessFrame(
  first: Frame | null,
  second: Frame,
  third: Frame,
  guessed: (a: Value | null, b: Value, c: Value) => Value,
): Frame {
  const cells = new Map<number, Cell>();
  for (const [at, { size, value }] of third) {
    const [a, b] = [first?.get(at), second.get(at)];
    if ((first !== null && a?.size !== size) || b?.size !== size) continue;
    const guess = guessed(a?.value ?? null, b.value, value);
    if (guess.kind !== 'unset') cells.set(at, { size, value: guess });
  }
  return cells;
}

function lineThrough(a: Value | null, b: Value, c: Value, id: number): Line | null {
  if (a?.kind === 'unset' || b.kind === 'unset' || c.kind === 'unset') return null;
  if ((a !== null && !sameKind(a, b)) || !sameKind(b, c)) return null;
  const [y, z] = [signedConstant(numberIn(b)), signedConstant(numberIn(c))];
  if (y === null || z === null || y === z) return null;
  const step = z - y;
  if (a !== null && signedConstant(numberIn(a)) !== y - step) return null;
  return size(step) > MOST_STEP || size(z) > MOST_BASE ? null : { id, base: z, step };
}

/** What covers both of two rounds and, it is hoped, those to come. */
function settled(b: Value, c: Value): Value {
  if (b.kind === 'unset') return b;
  if (c.kind === 'unset' || !sameKind(b, c))
    return unset('holds different kinds of values in different rounds');
  const line = sameLine(b.line, c.line) ? c.line : null;
  const num = includes(numberIn(b), numberIn(c)) ? numberIn(b) : ANY;
  if (c.kind !== 'number') return { ...c, offset: num, line: num === ANY ? null : line };
  return scalar(num, sameLink((b as Scalar).link, c.link), line);
}

function sameLink(a: Link | null, b: Link | null): Link | null {
  return a !== null && b !== null && a.id === b.id && sameForm(a, b) ? a : null;
}

function sameKind(a: Scalar | Pointer, b: Scalar | Pointer): boolean {
  return isPointer(a) ? isPointer(b) && sameBase(a, b) : b.kind === 'number';
}

/** The guess one round on: what a round must lead back to. */
export function nextRound({ state, id }: Guess): State {
  const next = state.copy();
  next.change(value => {
    if (value.kind === 'unset' || value.line?.id !== id) return null;
    return { ...value, line: { ...value.line, base: value.line.base + value.line.step } };
  });
  return next;
}

/** The last k for which a state at the end of a round is possible; null when nothing bounds it. */
export function lastRound(state: State, { id }: Guess): bigint | null {
  let last: bigint | null = null;
  state.change(value => {
    if (value.kind === 'unset' || value.line?.id !== id) return null;
    const possible = rounds(value.line, numberIn(value)).last;
    if (last === null || possible < last) last = possible;
    return null;
  });
  return last;
}

/** Behind the loop its lines mean nothing any more. */
export function forgetLines(state: State, ids: ReadonlySet<number>): void {
  state.change(value => {
    if (value.kind === 'unset' || value.line === null || !ids.has(value.line.id)) return null;
    return withNumber({ ...value, line: null }, numberIn(value));
  });
}

function signedConstant(num: Num): bigint | null {
  const known = constantOf(num);
  return known === null ? null : BigInt.asIntN(64, known);
}

function size(value: bigint): bigint {
  return value < 0n ? -value : value;
}
