/** All that is known at one point of one path: the registers, and the frames of the functions that are active. */

import { ALU, FRAME_POINTER } from '../isa.js';
import { compute } from './domain/arithmetic.js';
import { type Line, rounds, stretch } from './domain/line.js';
import { constant, constantOf, meet, meetLow, type Num } from './domain/number.js';
import {
  contextAt,
  covers,
  isPointer,
  JoinedNames,
  joinValues,
  type Link,
  numberIn,
  type Pointer,
  Renaming,
  type Scalar,
  scalar,
  unset,
  type Value,
  withNumber,
  ZERO,
} from './domain/value.js';
import { type Cell, type Frame, framesCovered, joinFrames, NO_CELLS } from './frame.js';

export class State {
  /** r0 … r10. */
  readonly registers: Value[];
  /** By depth of calls; frames are never changed, but replaced. */
  readonly frames: Frame[];

  constructor(registers: readonly Value[], frames: readonly Frame[]) {
    this.registers = [...registers];
    this.frames = [...frames];
  }

  copy(): State {
    return new State(this.registers, this.frames);
  }

  /** Applies to every register and every cell; null keeps the value, an unset cell is removed. */
  change(to: (value: Value) => Value | null): void {
    const { registers, frames } = this;
    for (let register = 0; register < registers.length; register++) {
      const changed = to(registers[register]!);
      if (changed !== null) registers[register] = changed;
    }
    for (let depth = 0; depth < frames.length; depth++) {
      if (frames[depth]!.size !== 0) frames[depth] = changeFrame(frames[depth]!, to);
    }
  }
}

function changeFrame(frame: Frame, to: (value: Value) => Value | null): Frame {
  let after: Map<number, Cell> | null = null;
  for (const [at, { size, value }] of frame) {
    const changed = to(value);
    if (changed === null) continue;
    after ??= new Map(frame);
    if (changed.kind === 'unset') after.delete(at);
    else after.set(at, { size, value: changed });
  }
  return after ?? frame;
}

/** How a program starts: nothing set but r1 and r10. */
export function initialState(): State {
  const registers: Value[] = new Array(FRAME_POINTER + 1).fill(unset('nothing has set'));
  registers[1] = contextAt(ZERO);
  registers[FRAME_POINTER] = frameTop(0);
  return new State(registers, [NO_CELLS]);
}

export function frameTop(frame: number): Value {
  return { kind: 'stack', frame, offset: ZERO, line: null };
}

/** Whether whatever holds of every run in b holds of those in a: nothing new is to be found from b. */
export function stateCovers(a: State, b: State): boolean {
  const names = new Renaming();
  const { registers } = a;
  for (let register = 0; register < registers.length; register++) {
    const value = registers[register]!;
    const other = b.registers[register]!;
    // Most are untouched. Of links the names have to be compared as well.
    if (value === other && (value.kind !== 'number' || value.link === null)) continue;
    if (!covers(value, other, names)) return false;
  }
  return a.frames.every((frame, depth) => framesCovered(frame, b.frames[depth]!, names));
}

/** Both, of the same point and depth. */
export function joinStates(a: State, b: State, fresh: () => number): State {
  const names = new JoinedNames(fresh);
  return new State(
    a.registers.map((value, register) => joinValues(value, b.registers[register]!, names)),
    a.frames.map((frame, depth) => joinFrames(frame, b.frames[depth]!, names)),
  );
}

/** How much a join would blur: registers, those of different kinds most, and what only one of them has on the stack. */
export function distance(a: State, b: State): number {
  let sum = 0;
  for (let depth = 0; depth < a.frames.length; depth++) {
    sum += 4 * Math.abs(a.frames[depth]!.size - b.frames[depth]!.size);
  }
  for (let register = 0; register < a.registers.length; register++) {
    const value = a.registers[register]!;
    const other = b.registers[register]!;
    if (value === other) continue;
    if (value.kind !== other.kind) sum += 16;
    else if (value.kind === 'number') sum += value.num === (other as Scalar).num ? 0 : 1;
    else if (isPointer(value)) sum += 4;
  }
  return sum;
}

/**
 * Forgets links that would only make equal states differ: those that tie a value to no other one, and those of copies that were moved, which
 * compilers compare at once or not at all.
 */
export function dropIdleLinks(state: State): void {
  const { registers, frames } = state;
  let any = false;
  let linked: number[] | null = null;
  for (let register = 0; register < registers.length; register++) {
    const value = registers[register]!;
    if (value.kind !== 'number' || value.link === null) continue;
    any = true;
    if (value.link.plus === 0n) (linked ??= []).push(value.link.id);
  }
  for (let depth = 0; depth < frames.length; depth++) {
    for (const { value } of frames[depth]!.values()) {
      if (value.kind !== 'number' || value.link === null) continue;
      any = true;
      if (value.link.plus === 0n) (linked ??= []).push(value.link.id);
    }
  }
  if (!any) return;
  const ids: readonly number[] = linked ?? [];
  state.change(value => {
    if (value.kind !== 'number' || value.link === null) return null;
    const { id, plus } = value.link;
    return plus !== 0n || ids.indexOf(id) === ids.lastIndexOf(id) ? scalar(value.num) : null;
  });
}

/**
 * Learns that a register's number, or a pointer's offset, is one of these, and what that says about others: those linked to it, and those
 * on lines along the rounds of the same loop.
 * @returns false when that contradicts what is known of them: the path is never taken
 */
export function learn(state: State, register: number, num: Num): boolean {
  const value = state.registers[register] as Scalar | Pointer;
  if (num === numberIn(value)) return true;
  state.registers[register] = withNumber(value, num);
  if (value.line !== null) return learnRounds(state, value.line, num);
  if (value.kind !== 'number' || value.link === null || value.link.form === 'shifted') return true;
  return learnLinked(state, value.link, num);
}

function learnLinked(state: State, link: Link, num: Num): boolean {
  let possible = true;
  state.change(value => {
    if (value.kind !== 'number' || value.link?.id !== link.id || value.link.form === 'shifted') return null;
    const wide = value.link.form === 'whole' && link.form === 'whole';
    const by = value.link.plus - link.plus;
    const moved = by === 0n ? num : compute(ALU.ADD, wide ? 64 : 32, num, constant(by), false);
    const learned = wide ? meet(value.num, moved) : meetLow(value.num, moved);
    possible &&= learned !== null;
    return learned === null ? null : scalar(learned, value.link);
  });
  return possible;
}

function learnRounds(state: State, line: Line, num: Num): boolean {
  const { first, last } = rounds(line, num);
  let possible = first <= last;
  if (possible) {
    state.change(value => {
      if (value.kind === 'unset' || value.line?.id !== line.id) return null;
      const learned = meet(numberIn(value), stretch(value.line, first, last));
      possible &&= learned !== null;
      return learned === null ? null : withNumber(value, learned);
    });
  }
  return possible;
}

/** A link for a copy of a register's number, which is given a name when it has none. Null for a constant. */
export function linkOf(state: State, register: number, fresh: () => number): Link | null {
  const value = state.registers[register] as Scalar;
  if (value.link !== null || value.line !== null || constantOf(value.num) !== null) return value.link;
  const link: Link = { id: fresh(), form: 'whole', plus: 0n };
  state.registers[register] = { ...value, link };
  return link;
}
