/**
 * What a register or a stack slot may hold.
 *
 * ```
 *   unset ── nothing that may be read
 *     ├── number    with a link to other copies of the same number, or a line along the rounds of a loop
 *     ├── context   a pointer: the address of the context plus an offset
 *     └── stack     a pointer: the top of a frame plus an offset, which is negative where there is memory
 * ```
 */
import { type Line, sameLine } from './line.js';
import { constant, constantOf, includes, join, type Num } from './number.js';

/**
 * Says of several values that they come from one number X, so that a comparison of one tells something about all. Without
 * it the bound would be lost where a compiler moves a copy, or clears its upper half, before it compares that.
 */
export interface Link {
  /** Names X. */
  readonly id: number;
  /** X + plus itself; its low half zero- or sign-extended; its low half shifted up by 32. */
  readonly form: 'whole' | 'low' | 'signed' | 'shifted';
  readonly plus: bigint;
}

export interface Unset {
  readonly kind: 'unset';
  /** Completes "…, which …". */
  readonly why: string;
}

export interface Scalar {
  readonly kind: 'number';
  readonly num: Num;
  /** Null for a constant, and beside a line. */
  readonly link: Link | null;
  readonly line: Line | null;
}

export interface ContextPointer {
  readonly kind: 'context';
  /** Bytes, signed. */
  readonly offset: Num;
  /** Of the offset. */
  readonly line: Line | null;
}

export interface StackPointer {
  readonly kind: 'stack';
  /** 0 for that of the main function, then by depth of calls. */
  readonly frame: number;
  readonly offset: Num;
  readonly line: Line | null;
}

export type Pointer = ContextPointer | StackPointer;
export type Value = Unset | Scalar | Pointer;

export const ZERO = constant(0n);

export function scalar(num: Num, link: Link | null = null, line: Line | null = null): Scalar {
  return { kind: 'number', num, link: line === null && constantOf(num) === null ? link : null, line };
}

export function contextAt(offset: Num, line: Line | null = null): ContextPointer {
  return { kind: 'context', offset, line };
}

/** The number of a number, the offset of a pointer. */
export function numberIn(value: Scalar | Pointer): Num {
  return value.kind === 'number' ? value.num : value.offset;
}

/** The same kind of value with another number, or offset. */
export function withNumber(value: Scalar | Pointer, num: Num): Scalar | Pointer {
  return value.kind === 'number' ? scalar(num, value.link, value.line) : { ...value, offset: num };
}

export function unset(why: string): Unset {
  return { kind: 'unset', why };
}

export function isPointer(value: Value): value is Pointer {
  return value.kind === 'context' || value.kind === 'stack';
}

/** Whether two pointers are offsets from one address. */
export function sameBase(a: Pointer, b: Pointer): boolean {
  return a.kind === b.kind && (a.kind === 'context' || a.frame === (b as StackPointer).frame);
}

/** Whether two links make the same of their X. */
export function sameForm(a: Link, b: Link): boolean {
  return a.form === b.form && a.plus === b.plus;
}

/** Which names of one state stand for which of another one. */
export class Renaming {
  #to: Map<number, number> | null = null;

  /** Whether the two names can stand for each other. Remembers that they do. */
  matches(id: number, other: number): boolean {
    this.#to ??= new Map();
    const known = this.#to.get(id);
    if (known === undefined) this.#to.set(id, other);
    return known === undefined || known === other;
  }
}

/** Whether all that b may be is covered by a. */
export function covers(a: Value, b: Value, names: Renaming): boolean {
  if (a === b && (a.kind !== 'number' || a.link === null)) return true;
  if (a.kind === 'unset') return true;
  if (a.line !== null && (b.kind === 'unset' || !sameLine(a.line, b.line))) return false;
  switch (a.kind) {
    case 'number':
      return b.kind === 'number' && includes(a.num, b.num) && linkHolds(a.link, b.link, names);
    default:
      return isPointer(b) && sameBase(a, b) && includes(a.offset, b.offset);
  }
}

function linkHolds(a: Link | null, b: Link | null, names: Renaming): boolean {
  return a === null || (b !== null && sameForm(a, b) && names.matches(a.id, b.id));
}

/** The names of a join: one for each pair of names that meet. */
export class JoinedNames {
  #ids: Map<string, number> | null = null;
  readonly #fresh: () => number;

  constructor(fresh: () => number) {
    this.#fresh = fresh;
  }

  link(a: Link | null, b: Link | null): Link | null {
    if (a === null || b === null || !sameForm(a, b)) return null;
    const key = `${a.id} ${b.id}`;
    this.#ids ??= new Map();
    const id = this.#ids.get(key) ?? this.#fresh();
    this.#ids.set(key, id);
    return { ...a, id };
  }
}

/** What covers both. */
export function joinValues(a: Value, b: Value, names: JoinedNames): Value {
  if (a === b && (a.kind !== 'number' || a.link === null)) return a;
  if (a.kind === 'number' && b.kind === 'number') {
    return scalar(join(a.num, b.num), names.link(a.link, b.link), joinLines(a.line, b.line));
  }
  if (isPointer(a) && isPointer(b) && sameBase(a, b)) {
    return { ...a, offset: join(a.offset, b.offset), line: joinLines(a.line, b.line) };
  }
  if (a.kind === 'unset') return a;
  return b.kind === 'unset' ? b : unset('holds different kinds of values on different paths');
}

function joinLines(a: Line | null, b: Line | null): Line | null {
  return sameLine(a, b) ? a : null;
}
