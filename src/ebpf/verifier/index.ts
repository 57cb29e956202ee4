/**
 * Verifies a program before it runs: that it ends, touches nothing but its memory, reads nothing that was not set and hands out no address. What
 * is proved needs no guard from the JIT.
 */
import { DEFAULT_MAX_SLOTS, EbpfError, type Insn, type Program } from '../program.js';
import { Explorer } from './explore.js';
import type { Verdict, VerifyOptions } from './options.js';
import { describeRefusal } from './report.js';
import { Refusal } from './step.js';

export type { Accepted, Refused, Verdict, VerifyOptions } from './options.js';

/** Never throws for a decoded program: what it does not accept it refuses, with a reason. */
export function verify(program: Program, options: VerifyOptions): Verdict {
  const start = performance.now();
  let explorer: Explorer | null = null;
  const effort = () => ({ states: explorer?.effort.visited ?? 0, milliseconds: performance.now() - start });
  try {
    if (program.slots > DEFAULT_MAX_SLOTS) {
      throw new Refusal(
        program.insns[0]!,
        `the program has ${program.slots} slots, at most ${DEFAULT_MAX_SLOTS} are taken`,
        null,
      );
    }
    explorer = new Explorer(program, options);
    const dead = unreachable(program, explorer);
    if (dead !== undefined) throw new Refusal(dead, 'no path leads here', null);
    explorer.run();
  } catch (error) {
    if (error instanceof Refusal) {
      const { insn, why, state } = error;
      return { accepted: false, insn: insn.pc, reason: describeRefusal(insn, why, state), ...effort() };
    }
    if (error instanceof EbpfError) {
      return { accepted: false, insn: error.pc ?? 0, reason: error.message, ...effort() };
    }
    throw error;
  }
  const { accesses, guards } = explorer.findings;
  const budget = explorer.findings.unbounded || explorer.effort.tooLong;
  const isMemory = (pc: number) => [1, 2, 3].includes(program.bySlot[pc]!.opcode & 7);
  return {
    accepted: true,
    steps: budget ? Number.POSITIVE_INFINITY : explorer.effort.length,
    budget,
    guards: [...guards].sort((a, b) => a - b),
    unguarded: new Set([...accesses].filter(pc => !guards.has(pc) && isMemory(pc)).sort((a, b) => a - b)),
    ...effort(),
  };
}

/** The first instruction that no jump and no call leads to. */
function unreachable(program: Program, explorer: Explorer): Insn | undefined {
  const reached = new Set<Insn>();
  for (const graph of explorer.graphs) {
    for (const block of graph.blocks) for (const insn of block.insns) reached.add(insn);
  }
  return program.insns.find(insn => !reached.has(insn));
}
