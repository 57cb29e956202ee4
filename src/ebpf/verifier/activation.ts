/**
 * One function while it is followed for one call of it: which states wait where.
 *
 * ```
 *   pending   at a block, in this round of the loops around it        3 at most each
 *   next      at a loop's head, for the next round
 *   exits     what the function returns with
 * ```
 */

import { FRAME_POINTER } from '../isa.js';
import type { FunctionGraph } from '../jit/cfg.js';
import { unset, type Value } from './domain/value.js';
import type { Effort } from './effort.js';
import type { Order } from './order.js';
import { distance, dropIdleLinks, joinStates, type State, stateCovers } from './state.js';

/** States that are kept apart at one place. */
const MAX_APART = 3;

/** The positions of a loop: from its head to behind its last block. */
export interface Span {
  readonly head: number;
  readonly end: number;
}

/** A state on its way to a block; to an exit when there is none. */
export interface Move {
  readonly successor: number | null;
  readonly state: State;
}

/** A loop that is being tried: states that leave it are kept back. */
export interface Try extends Span {
  readonly left: Move[];
}

export class Activation {
  readonly graph: FunctionGraph;
  readonly order: Order;
  /** The function itself and those that called it, the main function first. */
  readonly functions: readonly FunctionGraph[];
  readonly exits: State[] = [];
  /** Innermost last. */
  readonly tries: Try[] = [];
  readonly #pending: State[][];
  readonly #next: State[][];
  readonly #effort: Effort;
  readonly #fresh: () => number;

  constructor(
    graph: FunctionGraph,
    order: Order,
    callers: readonly FunctionGraph[],
    effort: Effort,
    fresh: () => number,
  ) {
    this.graph = graph;
    this.order = order;
    this.functions = [...callers, graph];
    this.#pending = graph.blocks.map(() => []);
    this.#next = graph.blocks.map(() => []);
    this.#effort = effort;
    this.#fresh = fresh;
  }

  waiting(block: number): readonly State[] {
    return this.#pending[block]!;
  }

  await(block: number, states: readonly State[]): void {
    this.#pending[block] = [...states];
  }

  /** Takes what waits for this round. */
  take(block: number): readonly State[] {
    const states = this.#pending[block]!;
    this.#pending[block] = [];
    return states;
  }

  /** Takes what waits for the next round. */
  takeNext(block: number): readonly State[] {
    const states = this.#next[block]!;
    this.#next[block] = [];
    return states;
  }

  clear({ head, end }: Span): void {
    for (let position = head; position < end; position++) {
      this.take(this.order.blocks[position]!);
      this.takeNext(this.order.blocks[position]!);
    }
  }

  /** Hands a state on from a position. */
  hand(from: number, move: Move): void {
    const { successor, state } = move;
    if (successor !== null) forgetDead(state, this.order.live[successor]!);
    const to = successor === null ? this.order.blocks.length : this.order.positions[successor]!;
    const attempt = this.tries.at(-1);
    if (attempt !== undefined && (to < attempt.head || to >= attempt.end)) attempt.left.push(move);
    else if (successor === null) this.#add(this.exits, state);
    else this.#add(to > from ? this.#pending[successor]! : this.#next[successor]!, state);
  }

  /** Adds a state to those of a place, unless they cover it; the two that are most alike become one when there are too many. */
  #add(states: State[], state: State): void {
    dropIdleLinks(state);
    if (states.length === 0) {
      states.push(state);
      return;
    }
    let added = state;
    for (;;) {
      this.#effort.comparison(added, states.length);
      if (states.some(other => stateCovers(other, added))) return;
      for (let index = states.length - 1; index >= 0; index--) {
        if (stateCovers(added, states[index]!)) states.splice(index, 1);
      }
      if (states.length < MAX_APART) {
        states.push(added);
        return;
      }
      const distances = states.map(other => distance(other, added));
      const [closest] = states.splice(distances.indexOf(Math.min(...distances)), 1);
      added = joinStates(closest!, added, this.#fresh);
    }
  }
}

const DEAD: Value = unset('is not read again');

function forgetDead({ registers }: State, live: number): void {
  for (let register = 0; register < FRAME_POINTER; register++) {
    if ((live & (1 << register)) === 0) registers[register] = DEAD;
  }
}
