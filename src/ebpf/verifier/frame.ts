/**
 * One stack frame of 512 bytes, as cells: what was stored with one instruction and can be loaded again as a whole.
 *
 * ```
 *   -512 ····················· -16 ┌───────────┐ -8 ┌──────┬─────┐ 0
 *        never written: no cell    │ context+0 │    │ 0…64 │ any │      a cell: where it starts, its bytes, its value
 *                                  └───────────┘    └──────┴─────┘
 * ```
 * A number of which a part is overwritten, or loaded, leaves bytes that are set but not known; a pointer leaves nothing that may be read.
 */
import { STACK_SIZE } from '../isa.js';
import { ANY, loaded } from './domain/number.js';
import {
  contextAt,
  covers,
  isPointer,
  type JoinedNames,
  joinValues,
  type Renaming,
  scalar,
  type Value,
} from './domain/value.js';

export interface Cell {
  readonly size: number;
  /** Not unset. Of a number: those bytes, zero-extended. */
  readonly value: Value;
}

/** Cells by the offset from the top of the frame at which they start; they do not overlap. */
export type Frame = ReadonlyMap<number, Cell>;

export const NO_CELLS: Frame = new Map();

/** What the bytes hold: the value of a cell, numbers that are not known, or why they must not be read. */
export type Found = { readonly value: Value } | { readonly unknown: true } | { readonly problem: string };

const UNSET = 'nothing has set';

export function find(frame: Frame, at: number, size: number): Found {
  const exact = frame.get(at);
  if (exact?.size === size) return { value: exact.value };
  let set = 0;
  for (const [start, cell] of frame) {
    const bytes = Math.min(start + cell.size, at + size) - Math.max(start, at);
    if (bytes <= 0) continue;
    if (isPointer(cell.value)) return { problem: 'holds a pointer, of which only a part is read' };
    set += bytes;
  }
  return set === size ? { unknown: true } : { problem: UNSET };
}

/** Whether all of these bytes hold something that may be read, or a part of a pointer. */
export function isSet(frame: Frame, at: number, size: number): boolean {
  const found = find(frame, at, size);
  return !('problem' in found) || found.problem !== UNSET;
}

/** These bytes hold nothing that may be read. */
export function forget(frame: Frame, at: number, size: number): Frame {
  return cut(frame, at, size);
}

/** Stores a value where it is known exactly. */
export function put(frame: Frame, at: number, size: number, value: Value): Frame {
  const after = cut(frame, at, size);
  after.set(at, { size, value });
  return after;
}

/** Overwrites these bytes with numbers that are not known. */
export function putUnknown(frame: Frame, at: number, size: number): Frame {
  const after = cut(frame, at, size);
  after.set(at, unknownBytes(size));
  return after;
}

/** Some of these bytes may be overwritten with a number: what was set stays set. */
export function blur(frame: Frame, at: number, size: number): Frame {
  const after = cut(frame, at, size);
  for (const [start, cell] of frame) {
    const from = Math.max(start, at);
    const bytes = Math.min(start + cell.size, at + size) - from;
    if (bytes > 0 && !isPointer(cell.value)) after.set(from, unknownBytes(bytes));
  }
  return after;
}

/** Any of the frame's bytes may be overwritten, by an access that is only guarded. */
export function shake(frame: Frame): Frame {
  const after = new Map<number, Cell>();
  for (const [at, { size, value }] of frame) {
    // Any address is the context's plus some number: what was a pointer to it is behind a guard from now on.
    if (value.kind === 'context') after.set(at, { size, value: contextAt(ANY) });
    else if (value.kind === 'number') after.set(at, unknownBytes(size));
  }
  return after;
}

export function framesCovered(a: Frame, b: Frame, names: Renaming): boolean {
  let numbers: Uint8Array | null = null;
  for (const [at, { size, value }] of a) {
    const other = b.get(at);
    if (other !== undefined && other.size === size) {
      if (!covers(value, other.value, names)) return false;
    } else {
      if (!isUnknown(value, size)) return false;
      numbers ??= numberBytes(b);
      if (numbers.indexOf(0, at + STACK_SIZE) < at + STACK_SIZE + size) return false;
    }
  }
  return true;
}

/** Cells of the same place are joined; of other bytes only that both sides have set them is kept. */
export function joinFrames(a: Frame, b: Frame, names: JoinedNames): Frame {
  const joined = new Map<number, Cell>();
  const left = new Uint8Array(STACK_SIZE);
  for (const [at, cell] of a) {
    const other = b.get(at);
    if (other?.size === cell.size) {
      const value = joinValues(cell.value, other.value, names);
      if (value.kind !== 'unset') joined.set(at, { size: cell.size, value });
    } else if (!isPointer(cell.value)) {
      left.fill(1, at + STACK_SIZE, at + STACK_SIZE + cell.size);
    }
  }
  if (!left.includes(1)) return joined;
  const right = numberBytes(b);
  const both = left.map((set, byte) => set & right[byte]!);
  for (let start = both.indexOf(1); start >= 0; ) {
    const zero = both.indexOf(0, start);
    const end = zero < 0 ? STACK_SIZE : zero;
    joined.set(start - STACK_SIZE, unknownBytes(end - start));
    start = both.indexOf(1, end);
  }
  return joined;
}

/** By byte of the frame, from its lower end: 1 where a number is. A byte more, which is 0, ends it. */
function numberBytes(frame: Frame): Uint8Array {
  const bytes = new Uint8Array(STACK_SIZE + 1);
  for (const [at, { size, value }] of frame) {
    if (!isPointer(value)) bytes.fill(1, at + STACK_SIZE, at + STACK_SIZE + size);
  }
  return bytes;
}

function isUnknown(value: Value, size: number): boolean {
  return (
    value.kind === 'number' &&
    value.link === null &&
    value.line === null &&
    value.num === unknownBytes(size).value.num
  );
}

/** The frame without these bytes; what is left of cut cells is not known any more. */
function cut(frame: Frame, at: number, size: number): Map<number, Cell> {
  const end = at + size;
  const after = new Map<number, Cell>();
  for (const [start, cell] of frame) {
    const cellEnd = start + cell.size;
    if (cellEnd <= at || start >= end) after.set(start, cell);
    else if (!isPointer(cell.value)) {
      if (start < at) after.set(start, unknownBytes(at - start));
      if (cellEnd > end) after.set(end, unknownBytes(cellEnd - end));
    }
  }
  return after;
}

/** Of other sizes than those of loads only the number of bytes counts. */
function unknownBytes(size: number) {
  return { size, value: scalar(size === 1 || size === 2 || size === 4 ? loaded(size, false) : ANY) };
}
