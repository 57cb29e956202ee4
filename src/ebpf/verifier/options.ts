/** What the verifier is told, and what it tells back. */
import type { HelperTable } from '../helpers.js';
import type { Region } from '../sandbox.js';

export interface VerifyOptions {
  /** Bytes of the context, which starts at a multiple of 8. */
  readonly contextSize: number;
  readonly helpers: HelperTable;
  /** Further memory that the program may touch, by constant addresses. */
  readonly extra?: readonly Region[];
  /** What r0 must be at the end: a number (the default), or anything but a pointer. */
  readonly returns?: 'number' | 'nothing';
  /**
   * Where the engine's guards let an access go that was not proved.
   * - `any`, the default: wherever the program may go, so also to its stack, where it may hit what was stored there
   * - `context`: loads, stores and atomics only into the context; more can be proved then. Arguments of helpers may still lie anywhere.
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
  /** Slots of the loads, stores and atomics that are proved to stay inside. */
  readonly unguarded: ReadonlySet<number>;
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
