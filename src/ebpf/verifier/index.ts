/**
 * Verifies a program before it runs: that it ends, touches nothing but its memory, reads nothing that was not set and hands out no address. What
 * is proved needs no guard from the JIT.
 */
import { DEFAULT_MAX_SLOTS, EbpfError, type Insn, type Program } from '../program.js';
import { Explorer } from './explore.js';
import type { Verdict, VerifyOptions } from './options.js';
import { describeRefusal } from './report.js';
import { listGuards, Refusal } from './step.js';

export type { Accepted, ContextPromise, Refused, Verdict, VerifyOptions } from './options.js';

/** Never throws for a decoded program: what it does not accept it refuses, with a reason. */
export function verify(program: Program, options: VerifyOptions): Verdict {
  const start = performance.now();
  const { promises = [], ...unaided } = options;
  let { explorer, refusal } = explore(program, unaided);
  if (refusal !== null && promises.length > 0) {
    const aided = explore(program, options);
    if (aided.refusal === null) ({ explorer, refusal } = aided);
  }
  const effort = { states: explorer?.effort.visited ?? 0, milliseconds: performance.now() - start };
  if (refusal !== null) return { accepted: false, ...refusal, ...effort };
  const { accesses, guards, promised, unbounded } = explorer!.findings;
  const { slots, guardedArguments } = listGuards(explorer!.findings);
  const budget = unbounded || explorer!.effort.tooLong;
  const isMemory = (pc: number) => [1, 2, 3].includes(program.bySlot[pc]!.opcode & 7);
  return {
    accepted: true,
    steps: budget ? Number.POSITIVE_INFINITY : explorer!.effort.length,
    budget,
    guards: slots,
    guardedArguments,
    unguarded: new Set([...accesses].filter(pc => !guards.has(pc) && isMemory(pc)).sort((a, b) => a - b)),
    promised,
    ...effort,
  };
}

interface Exploration {
  readonly explorer: Explorer | null;
  readonly refusal: { readonly insn: number; readonly reason: string } | null;
}

/** What is refused after a hasty guess is looked at once more, with patience. */
function explore(program: Program, options: VerifyOptions, patient = false): Exploration {
  let explorer: Explorer | null = null;
  try {
    if (program.slots > DEFAULT_MAX_SLOTS) {
      const why = `the program has ${program.slots} slots, at most ${DEFAULT_MAX_SLOTS} are taken`;
      throw new Refusal(program.insns[0]!, why, null);
    }
    explorer = new Explorer(program, options, patient);
    const dead = unreachable(program, explorer);
    if (dead !== undefined) throw new Refusal(dead, 'no path leads here', null);
    explorer.run();
    return { explorer, refusal: null };
  } catch (error) {
    if (error instanceof Refusal) {
      if (explorer?.hasty) return explore(program, options, true);
      const { insn, why, state } = error;
      return { explorer, refusal: { insn: insn.pc, reason: describeRefusal(insn, why, state) } };
    }
    if (error instanceof EbpfError) {
      return { explorer, refusal: { insn: error.pc ?? 0, reason: error.message } };
    }
    throw error;
  }
}

/** The first instruction that no jump and no call leads to. */
function unreachable(program: Program, explorer: Explorer): Insn | undefined {
  const reached = new Uint8Array(program.slots);
  for (const graph of explorer.graphs) {
    // The instructions of a block follow each other.
    for (const { insns } of graph.blocks) {
      const last = insns[insns.length - 1]!;
      reached.fill(1, insns[0]!.pc, last.pc + last.slots);
    }
  }
  const slot = reached.indexOf(0);
  return slot < 0 ? undefined : program.bySlot[slot];
}
