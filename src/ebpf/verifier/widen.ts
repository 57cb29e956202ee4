/**
 * All rounds of a loop of which no bound is seen: what changes from round to round is taken for any number of its width until nothing
 * changes any more. What then holds at the start of a round holds at the start of each, however many there are.
 *
 * ```
 *   a round starts with   r2 = 0…3   r3 = context+48      r4 = 5
 *   and leads to          r2 = 4     r3 = context+80      r4 = 5
 *   so the next try is    r2 any     r3 = context + any   r4 = 5        … until a round leads to nothing new
 * ```
 */
import type { Activation, Span } from './activation.js';
import { ANY, includes, loaded, type Num } from './domain/number.js';
import { contextAt, isPointer, numberIn, sameBase, scalar, unset, type Value } from './domain/value.js';
import type { Explorer } from './explore.js';
import type { Cell, Frame } from './frame.js';
import { State, stateCovers } from './state.js';

/**
 * Follows a loop until a round leads to nothing new; what it finds counts.
 * @param starts what the last rounds, and the one to come, start with
 */
export function anyRounds(
  explorer: Explorer,
  activation: Activation,
  span: Span,
  starts: readonly (readonly State[])[],
): void {
  const head = activation.order.blocks[span.head]!;
  let state = starts.flat().reduce(widened);
  for (;;) {
    activation.await(head, [state]);
    explorer.round(activation, span);
    const back = activation.takeNext(head);
    if (back.every(next => stateCovers(state, next))) return;
    state = back.reduce(widened, state);
  }
}

/** The first of two states with all forgotten that the second does not share: links, and what numbers may be. */
function widened(a: State, b: State): State {
  return new State(
    a.registers.map((value, register) => widenedValue(value, b.registers[register]!)),
    a.frames.map((frame, depth) => widenedFrame(frame, b.frames[depth]!)),
  );
}

function widenedFrame(a: Frame, b: Frame): Frame {
  const cells = new Map<number, Cell>();
  for (const [at, { size, value }] of a) {
    const other = b.get(at);
    if (other?.size !== size) continue;
    const wide = widenedValue(value, other.value);
    if (wide.kind !== 'unset') cells.set(at, { size, value: wide });
  }
  return cells;
}

function widenedValue(a: Value, b: Value): Value {
  if (a.kind === 'unset') return a;
  if (a.kind === 'number' && b.kind === 'number') return scalar(widenedNumber(a.num, b.num));
  if (isPointer(a) && isPointer(b) && sameBase(a, b)) {
    if (includes(a.offset, numberIn(b))) return { ...a, line: null };
    // A pointer to the stack at any offset is of no use to anybody.
    return a.kind === 'context' ? contextAt(ANY) : unset('points to different places in different rounds');
  }
  return unset('holds different kinds of values in different rounds');
}

/** Counters stay within their width. */
function widenedNumber(a: Num, b: Num): Num {
  if (includes(a, b)) return a;
  return [2, 4].map(bytes => loaded(bytes, false)).find(all => includes(all, a) && includes(all, b)) ?? ANY;
}
