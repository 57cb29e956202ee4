/** What all functions of one module share while they are compiled. */

import type { FunctionGraph } from './cfg.js';
import type { FaultCode } from './faults.js';
import type { Interface } from './liveness.js';
import type { JitOptions } from './options.js';

/** A local function as its callers see it. */
export interface Callee {
  /** Index of the WebAssembly function. */
  readonly index: number;
  readonly graph: FunctionGraph;
  readonly interface: Interface;
}

export interface ModulePlan {
  readonly options: JitOptions;
  /** Indices of the WebAssembly functions: see runtime.ts. */
  readonly faultFunction: number;
  readonly checkFunction: number;
  /** The check of accesses, and of what helpers are given: the same one, or that of the context alone. */
  readonly accessFunction: number;
  /** Null when the program calls no helper through a register. */
  readonly callxFunction: number | null;
  /** Of each helper that can be called, by id. */
  readonly helperFunctions: ReadonlyMap<number, number>;
  /** By first slot. */
  readonly callees: ReadonlyMap<number, Callee>;
  /** Local calls may nest deeper than there are frames. */
  readonly checkDepth: boolean;
  /** Where the rest of the budget is kept: in a local of the main function, in a global, or nowhere. */
  readonly budget: 'none' | 'local' | { readonly global: number };
  /** Counted while compiling. */
  readonly counts: { guards: number; proved: number; structured: boolean };
  faultNumber(code: FaultCode): number;
}
