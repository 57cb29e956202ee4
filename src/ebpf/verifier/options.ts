/** What the verifier is told, and what it tells back. */
import type { HelperTable } from '../helpers.js';
import type { Region } from '../sandbox.js';

/** A field of the context that holds an unsigned number from `least` to `most` when a program loads it as a whole. */
export interface ContextPromise {
  readonly offset: number;
  readonly bytes: 1 | 2 | 4;
  readonly least: number;
  readonly most: number;
}

export interface VerifyOptions {
  /** Bytes of the context, which starts at a multiple of 8. */
  readonly contextSize: number;
  readonly helpers: HelperTable;
  /** Further memory that the program may touch, by constant addresses. */
  readonly extra?: readonly Region[];
  /**
   * What whoever runs the program has put into its context. Relied upon only when the program would be refused without, since the context is shared: the
   * engine has to check it at each of the loads that the verdict then names.
   */
  readonly promises?: readonly ContextPromise[];
  /** What r0 must be at the end: a number (the default), or anything but a pointer. */
  readonly returns?: 'number' | 'nothing';
  /**
   * Where the engine's guards let an access go that was not proved.
   * - `any`, the default: wherever the program may go, so also to its stack, where it may hit what was stored there
   * - `context`: only into the context, memory that is given to helpers included; more can be proved then
   */
  readonly guarded?: 'any' | 'context';
  /**
   * What becomes of a loop that counts, but of which no bound is seen, or of a program that may run for too long.
   * - `refuse`, the default
   * - `budget`: it is accepted when all else holds in any round; the verdict says `budget`, and the engine has to stop what runs too long
   */
  readonly unbounded?: 'refuse' | 'budget';
}

export interface Accepted {
  readonly accepted: true;
  /**
   * Slots, in ascending order, of accesses and helper calls that have to be checked when they run: behind a context pointer
   * and a number that is not bounded, or, for atomics, not known to be aligned.
   */
  readonly guards: readonly number[];
  /** By slot of a helper call that is among `guards`: the arguments that have to be checked, bit n for the n-th. All others are proved. */
  readonly guardedArguments: ReadonlyMap<number, number>;
  /** Slots of the loads, stores and atomics that are proved to stay inside. */
  readonly unguarded: ReadonlySet<number>;
  /** Slots of loads whose result has to be checked, and against what. Empty unless a promise was needed; all are among `guards`, too. */
  readonly promised: ReadonlyMap<number, ContextPromise>;
  /** Instructions looked at, each once per state. */
  readonly states: number;
  /** No run executes more instructions than this; Infinity when that is not known. */
  readonly steps: number;
  /** The program is not seen to end: it must run under a budget. Only with `unbounded: 'budget'`. */
  readonly budget: boolean;
  readonly milliseconds: number;
}

export interface Refused {
  readonly accepted: false;
  /** Slot of the instruction. */
  readonly insn: number;
  /** The instruction, why it is refused, and what the registers hold there: one paragraph. */
  readonly reason: string;
  readonly states: number;
  readonly milliseconds: number;
}

export type Verdict = Accepted | Refused;
