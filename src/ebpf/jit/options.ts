/** What the compiler is told, and what it tells back. */
import type { HelperTable } from '../helpers.js';

export interface JitOptions {
  /** Bytes of the context, which is at the address that `run` is given. */
  readonly contextSize: number;
  /** Address of the stack area of 8 frames of 512 bytes; a multiple of 8, not 0. */
  readonly stackBase: number;
  readonly helpers: HelperTable;
  /** Instructions that one run may take, see loops.ts; Infinity for programs that are known to end. */
  readonly budget: number;
  /** Further memory that the program may touch. */
  readonly extra?: readonly { readonly base: number; readonly size: number }[];
  /** Slots of loads, stores and atomics that are proved to stay inside: they get no bounds guard. */
  readonly unguarded?: ReadonlySet<number>;
  /**
   * By slot of a call: the helper's arguments that were not proved, bit n for the n-th; those of calls that are not in it are proved. Without it, all are
   * checked. The arguments of a helper that is called by a register are checked in any case.
   */
  readonly guardedArguments?: ReadonlyMap<number, number>;
  /** Slots of loads of which the verifier was promised what they give: anything else is a fault. */
  readonly promised?: ReadonlyMap<number, { readonly least: number; readonly most: number }>;
  /**
   * Guards let nothing pass but the context, those of what helpers are given included: for programs that were verified with `guarded: 'context'`, of
   * which only such accesses and arguments keep a guard.
   */
  readonly confined?: boolean;
  readonly sharedMemory: boolean;
  /** Limits of the imported memory in pages of 64 KiB: the most it may have; for shared memory also the least. */
  readonly memoryPages: number;
}

export interface JitStats {
  /** Loads, stores, atomics and helper arguments that are checked when they run. */
  guards: number;
  /** Those that were proved to stay inside. */
  proved: number;
  /** Every function got structured control flow; else at least one is a dispatch loop. */
  structured: boolean;
  /** Length of the module. */
  bytes: number;
  /** Time for all of it, WebAssembly.Module included. */
  milliseconds: number;
}
