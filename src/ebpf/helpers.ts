/**
 * Signatures of helper functions: what a program may pass, and what an engine has to check before the helper runs.
 * The interpreter, the JIT and the verifier read the same table; implementations are handed over apart from it.
 */
import { CALL } from './isa.js';

/**
 * One argument, in the order r1 … r5.
 * - `context`: must be exactly the address of the program's context
 * - `number`: a number, never an address of the program's memory; the verifier alone can tell them apart
 * - `ignored`: anything that is set, also an address: for helpers that do not look at it
 * - `memory`: an address of which `size` bytes must lie in memory that the program may touch; a size of
 *   `{ arg: n }` is the value of the n-th argument (0-based) of the same call. Size 0 passes with any address. A helper with `write` writes
 *   all of it, whatever it returns: the verifier takes it for numbers from then on.
 */
export type HelperArg =
  | { readonly kind: 'context' }
  | { readonly kind: 'number' }
  | { readonly kind: 'ignored' }
  | {
      readonly kind: 'memory';
      readonly size: number | { readonly arg: number };
      readonly access: 'read' | 'write';
    };

export interface HelperSpec {
  /** Key in the table: see `helperKey`. */
  readonly id: number;
  readonly name: string;
  readonly args: readonly HelperArg[];
  /** The call is a full memory barrier that an engine emits in place; it has no implementation and returns 0. */
  readonly inline?: 'fence';
}

/** Helpers by key. */
export type HelperTable = ReadonlyMap<number, HelperSpec>;

/** Added to the id of a runtime function (`call runtime`, a BTF id), so that it shares the table with helpers. */
export const RUNTIME_KEY = 2 ** 32;

/** The key of what a call instruction calls, unless that is a local function: a helper's id is its signed 32-bit imm. */
export function helperKey(call: { readonly src: number; readonly imm: number }): number {
  return call.src === CALL.BTF ? RUNTIME_KEY + (call.imm >>> 0) : call.imm;
}

/** What runs behind a helper: r1 … r5 in, r0 out, each an unsigned 64-bit number. */
export type HelperFunction = (a: bigint, b: bigint, c: bigint, d: bigint, e: bigint) => bigint;

export type HelperImplementations = ReadonlyMap<number, HelperFunction>;
