/**
 * Runs a program on what is known instead of on numbers. Blocks come in the order of order.ts; states that meet at the start of a
 * block in the same round of a loop are kept apart as long as they are few, and joined when they get many.
 *
 * ```
 *   pending   states that wait at a block, in this round              4 at most each
 *   next      states that wait at a loop's head, for the next round
 *
 *   one pass down the order:   take what is pending → run the block → hand on to its successors
 *   at the end of a loop:      something is in next → it becomes pending, back to the head
 * ```
 * A run passes through the same (round, block) at most once, so the instructions looked at bound what it executes: a loop whose
 * rounds come to an end here comes to an end when it runs. One that does not is cut off by the limit, or as soon as
 * a round starts exactly as the one before.
 */
import { CALL_OPCODE, CALLX_OPCODE, EXIT_OPCODE, GOTOL_OPCODE, JA_OPCODE } from '../forms.js';
import { CLASS, FRAME_POINTER, MAX_CALL_DEPTH } from '../isa.js';
import { type Block, buildGraphs, type FunctionGraph, isLocalCall } from '../jit/cfg.js';
import { type Insn, type Program, targetOf } from '../program.js';
import { stepBranch } from './branches.js';
import { constant } from './domain/number.js';
import { isPointer, scalar, unset, type Value } from './domain/value.js';
import { NO_CELLS } from './frame.js';
import type { VerifyOptions } from './options.js';
import { type Order, orderBlocks } from './order.js';
import { describeValue } from './report.js';
import {
  distance,
  dropLoneLinks,
  frameTop,
  initialState,
  joinStates,
  type State,
  stateCovers,
} from './state.js';
import { type Findings, Refusal, refuse, type Step } from './step.js';
import { stepAlu } from './transfer-alu.js';
import { clobberArguments, stepHelperCall } from './transfer-call.js';
import { stepLoad, stepStore } from './transfer-memory.js';

/** States that are kept apart at one place. */
const MAX_APART = 4;
/** Instructions looked at, each once per state: the time that a program may take, and more than a guest lets it run for. */
export const MAX_STATES = 1 << 17;

const KEPT_FROM = 6; // r6 … r9 are as before after a local call

export class Explorer {
  readonly findings: Findings;
  /** Instructions looked at, each once per state. */
  visited = 0;
  readonly #graphs: ReadonlyMap<number, FunctionGraph>;
  readonly #main: FunctionGraph;
  readonly #orders = new Map<FunctionGraph, Order>();
  /** The rounds of the loops that are being followed, innermost last: for the message when there are too many. */
  readonly #loops: { readonly pc: number; rounds: number }[] = [];

  /** @throws EbpfError `EBPF_OVERLAP` */
  constructor(program: Program, options: VerifyOptions) {
    const [main, ...functions] = buildGraphs(program) as [FunctionGraph, ...FunctionGraph[]];
    this.#main = main;
    this.#graphs = new Map(functions.map(graph => [graph.pc, graph]));
    let names = 0;
    this.findings = { options, accesses: new Set(), guards: new Set(), fresh: () => ++names };
  }

  /** All functions, the main one first. */
  get graphs(): readonly FunctionGraph[] {
    return [this.#main, ...this.#graphs.values()];
  }

  /** @throws Refusal */
  run(): void {
    this.#function(this.#main, initialState(), []);
  }

  /** @returns the states at the function's exits */
  #function(graph: FunctionGraph, entry: State, callers: readonly FunctionGraph[]): readonly State[] {
    const { blocks, positions, ends } = this.#order(graph);
    const pending: State[][] = blocks.map(() => []);
    const next: State[][] = blocks.map(() => []);
    const exits: State[] = [];
    const loops: Loop[] = [];
    const functions = callers.concat(graph);
    pending[0]!.push(entry);

    for (let position = 0; position < blocks.length; ) {
      const number = blocks[position]!;
      const block = graph.blocks[number]!;
      const incoming = pending[number]!;
      pending[number] = [];
      if (ends[position] !== 0 && loops.at(-1)?.position !== position) {
        const loop = { position, pc: block.pc, end: ends[position]!, rounds: 0, states: incoming };
        loops.push(loop);
        this.#loops.push(loop);
      }
      for (const state of incoming) {
        this.#block(block, 0, state.copy(), functions, (successor, after) => {
          if (successor === null) this.#add(exits, after);
          else if (positions[successor]! > position) this.#add(pending[successor]!, after);
          else this.#add(next[successor]!, after);
        });
      }
      position++;
      for (let loop = loops.at(-1); loop !== undefined && loop.end === position; loop = loops.at(-1)) {
        const head = blocks[loop.position]!;
        const states = next[head]!;
        if (states.length === 0) {
          loops.pop();
          this.#loops.pop();
          continue;
        }
        if (alike(states, loop.states)) {
          throw new Refusal(
            graph.blocks[head]!.insns[0]!,
            'a loop starts here that may never end: a round changes nothing that its end depends on',
            states[0]!,
          );
        }
        loop.rounds++;
        loop.states = states;
        pending[head] = states;
        next[head] = [];
        position = loop.position;
      }
    }
    return exits;
  }

  /** Runs one state through a block, from its instruction `from` on. */
  #block(block: Block, from: number, state: State, functions: readonly FunctionGraph[], leave: Leave): void {
    const { insns, successors } = block;
    const step = { insn: insns[from]!, state, findings: this.findings };
    for (let index = from; index < insns.length; index++) {
      const insn = insns[index]!;
      step.insn = insn;
      this.#count(insn, state);
      if (isLocalCall(insn)) {
        for (const after of this.#call(step, functions)) {
          this.#block(block, index + 1, after, functions, leave);
        }
        return;
      }
      if (endsBlock(insn)) {
        this.#leave(step, block, functions.length - 1, leave);
        return;
      }
      stepInsn(step);
    }
    leave(successors[0]!, state);
  }

  #leave(step: Step, { successors }: Block, depth: number, leave: Leave): void {
    const { insn, state } = step;
    if (insn.opcode === EXIT_OPCODE) {
      if (depth === 0) checkResult(step);
      leave(null, state);
    } else if (insn.opcode === JA_OPCODE || insn.opcode === GOTOL_OPCODE) {
      leave(successors[0]!, state);
    } else {
      const { taken, next } = stepBranch(step);
      // A jump to the next instruction has one successor.
      if (taken !== null) leave(successors[0]!, taken);
      if (next !== null) leave(successors.at(-1)!, next);
    }
  }

  /** Follows a local function for one state of its caller. */
  #call(step: Step, functions: readonly FunctionGraph[]): readonly State[] {
    const { insn, state } = step;
    const callee = this.#graphs.get(targetOf(insn)!)!;
    if (functions.includes(callee) || callee.pc === this.#main.pc) {
      refuse(step, 'it calls a function that has not returned yet; recursion is not followed');
    }
    if (functions.length === MAX_CALL_DEPTH) {
      refuse(step, `calls nest deeper than ${MAX_CALL_DEPTH} frames`);
    }
    const kept = state.registers.slice(KEPT_FROM);
    const depth = state.frames.length;
    state.frames.push(NO_CELLS);
    state.registers[FRAME_POINTER] = frameTop(depth);
    return this.#function(callee, state, functions).map(exit => {
      const after = exit.copy();
      after.frames.pop();
      after.change(value => (value.kind === 'stack' && value.frame === depth ? GONE : null));
      after.registers.splice(KEPT_FROM, kept.length, ...kept);
      clobberArguments(after.registers);
      return after;
    });
  }

  #order(graph: FunctionGraph): Order {
    const known = this.#orders.get(graph);
    if (known !== undefined) return known;
    const order = orderBlocks(graph);
    if (order === null) throw new Refusal(graph.blocks[0]!.insns[0]!, 'loops are nested too deeply', null);
    this.#orders.set(graph, order);
    return order;
  }

  /** Adds a state to those of a place, unless they cover it; the two that are most alike become one when there are too many. */
  #add(states: State[], state: State): void {
    dropLoneLinks(state);
    let added = state;
    for (;;) {
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
      added = joinStates(closest!, added, this.findings.fresh);
    }
  }

  #count(insn: Insn, state: State): void {
    if (++this.visited <= MAX_STATES) return;
    const loop = this.#loops.reduce<Loops | null>(
      (a, b) => (a === null || b.rounds > a.rounds ? b : a),
      null,
    );
    const where =
      loop === null
        ? 'it has too many paths'
        : `the loop at insn ${loop.pc} was followed for ${loop.rounds} rounds`;
    throw new Refusal(
      insn,
      `the program is not seen to end within ${MAX_STATES} instructions; ${where}`,
      state,
    );
  }
}

/** Takes a state that has come to the end of a block; no successor after an exit. */
type Leave = (successor: number | null, state: State) => void;

interface Loops {
  readonly pc: number;
  rounds: number;
}

interface Loop extends Loops {
  readonly position: number;
  readonly end: number;
  /** Those with which the round started. */
  states: readonly State[];
}

const GONE: Value = unset('points into the frame of a function that has returned');

/** Anything but calls and what ends a block. */
function stepInsn(step: Step): void {
  const { insn, state } = step;
  switch (insn.opcode & 7) {
    case CLASS.ALU:
    case CLASS.ALU64:
      stepAlu(step);
      break;
    case CLASS.LD:
      state.registers[insn.dst] = scalar(constant(insn.imm64!));
      break;
    case CLASS.LDX:
      stepLoad(step);
      break;
    case CLASS.ST:
    case CLASS.STX:
      stepStore(step);
      break;
    default:
      stepHelperCall(step);
  }
}

/** Jumps and exits; calls go on behind themselves. */
function endsBlock({ opcode }: Insn): boolean {
  const cls = opcode & 7;
  return (cls === CLASS.JMP || cls === CLASS.JMP32) && opcode !== CALL_OPCODE && opcode !== CALLX_OPCODE;
}

/** What the program hands back: an address would tell where its memory is. */
function checkResult(step: Step): void {
  const { returns = 'number' } = step.findings.options;
  const value = step.state.registers[0]!;
  if (isPointer(value)) refuse(step, `it returns a pointer, r0 = ${describeValue(value)}`);
  if (value.kind === 'unset' && returns === 'number') refuse(step, `it returns r0, which ${value.why}`);
}

/** Whether two rounds start with the same states: then all rounds after them do. */
function alike(a: readonly State[], b: readonly State[]): boolean {
  const within = (inner: readonly State[], outer: readonly State[]) =>
    inner.every(state => outer.some(other => stateCovers(other, state)));
  return within(a, b) && within(b, a);
}
