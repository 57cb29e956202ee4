/**
 * Runs a program on what is known instead of on numbers. Blocks come in the order of order.ts; states that meet at the start of a
 * block in the same round of a loop are kept apart as long as they are few, and joined when they get many.
 *
 * ```
 *   one pass down the order:   take what waits → run the block → hand on to its successors
 *   at the end of a loop:      something waits for the next round → back to the head
 * ```
 * A run passes through the same (round, block) at most once, so the instructions looked at bound what it executes: a loop whose
 * rounds come to an end here comes to an end when it runs. One that does not is cut off by a limit, or as soon as a round
 * starts exactly as the one before. Loops that count need not be followed to their end: see trial.ts.
 */
import { EXIT_OPCODE, GOTOL_OPCODE, JA_OPCODE } from '../forms.js';
import { CLASS, FRAME_POINTER, MAX_CALL_DEPTH } from '../isa.js';
import { type Block, buildGraphs, type FunctionGraph, isLocalCall } from '../jit/cfg.js';
import { type Program, targetOf } from '../program.js';
import { Activation, type Move, type Span } from './activation.js';
import { stepBranch } from './branches.js';
import { unset, type Value } from './domain/value.js';
import { Effort, type FollowedLoop } from './effort.js';
import { NO_CELLS } from './frame.js';
import type { VerifyOptions } from './options.js';
import { type Order, orderBlocks } from './order.js';
import { countsToItsEnd } from './progress.js';
import { frameTop, initialState, type State, stateCovers } from './state.js';
import { type Findings, Refusal, refuse, type Step } from './step.js';
import { checkResult, endsBlock, stepInsn } from './transfer.js';
import { clobberArguments } from './transfer-call.js';
import { guessRounds } from './trial.js';
import { anyRounds } from './widen.js';

const KEPT_FROM = 6; // r6 … r9 are as before after a local call

export class Explorer {
  readonly findings: Findings;
  readonly effort: Effort;
  /** Some loop was guessed from two of its rounds. */
  hasty = false;
  readonly #firstTrial: number;
  readonly #graphs: ReadonlyMap<number, FunctionGraph>;
  readonly #main: FunctionGraph;
  readonly #orders = new Map<FunctionGraph, Order>();

  /**
   * @param patient guesses loops from three rounds at least, which takes longer and sometimes tells more
   * @throws EbpfError `EBPF_OVERLAP`
   */
  constructor(program: Program, options: VerifyOptions, patient: boolean) {
    this.#firstTrial = patient ? 2 : 1;
    const [main, ...functions] = buildGraphs(program) as [FunctionGraph, ...FunctionGraph[]];
    this.#main = main;
    this.#graphs = new Map(functions.map(graph => [graph.pc, graph]));
    let names = 0;
    const fresh = () => ++names;
    this.findings = {
      ...{ options, accesses: new Set(), guards: new Set(), promised: new Map(), plain: new Set() },
      ...{ unbounded: false, meetings: null, fresh },
    };
    this.effort = new Effort(options.unbounded !== 'budget');
  }

  /** All functions, the main one first. */
  get graphs(): readonly FunctionGraph[] {
    return [this.#main, ...this.#graphs.values()];
  }

  /** @throws Refusal */
  run(): void {
    this.#function(this.#main, initialState(), []);
  }

  /** One round of a loop: its head, then the rest. */
  round(activation: Activation, { head, end }: Span): void {
    this.effort.round(end - head);
    this.#runWaiting(activation, head);
    this.#pass(activation, head + 1, end);
  }

  /** @returns the states at the function's exits */
  #function(graph: FunctionGraph, entry: State, callers: readonly FunctionGraph[]): readonly State[] {
    const order = this.#order(graph);
    const activation = new Activation(graph, order, callers, this.effort, this.findings.fresh);
    activation.await(0, [entry]);
    this.#pass(activation, 0, order.blocks.length);
    return activation.exits;
  }

  /** One pass over some positions: all states that wait there leave them or wait for the next round. */
  #pass(activation: Activation, from: number, to: number): void {
    const { ends } = activation.order;
    for (let position = from; position < to; ) {
      const end = ends[position]!;
      if (end === 0) this.#runWaiting(activation, position++);
      else {
        this.#loop(activation, { head: position, end });
        position = end;
      }
    }
  }

  #loop(activation: Activation, span: Span): void {
    const { graph, order } = activation;
    const head = order.blocks[span.head]!;
    const first = graph.blocks[head]!.insns[0]!;
    const loop: FollowedLoop = { insn: first, rounds: 0, state: null };
    this.effort.loops.push(loop);
    /** What the latest rounds start with, the one to come last. */
    let starts: (readonly State[])[] = [activation.waiting(head)];
    for (;;) {
      if (
        loop.rounds >= this.#firstTrial &&
        isPowerOf2(loop.rounds) &&
        guessRounds(this, activation, span, starts)
      )
        break;
      if (loop.rounds === FOLLOWED_ROUNDS && this.#takesUnbounded(activation, span, starts.flat())) {
        anyRounds(this, activation, span, starts);
        break;
      }
      this.round(activation, span);
      const states = activation.takeNext(head);
      if (states.length === 0) break;
      if (loop.rounds === 0 && !leadsOut(activation, span)) {
        throw new Refusal(
          first,
          'a loop starts here that may never end: nothing leads out of it',
          states[0]!,
        );
      }
      if (alike(states, starts.at(-1)!)) {
        // All rounds are alike from here on: nothing new comes of them, whether they end or not.
        if (this.#takesUnbounded(activation, span, states)) break;
        const why = 'a loop starts here that may never end: a round changes nothing that its end depends on';
        throw new Refusal(first, why, states[0]!);
      }
      loop.rounds++;
      loop.state = states[0]!;
      starts = [...starts.slice(-2), states];
      activation.await(head, states);
    }
    this.effort.loops.pop();
  }

  /** Whether a loop of which no bound is seen may stay, and notes that it does. */
  #takesUnbounded(activation: Activation, span: Span, starts: readonly State[]): boolean {
    if (this.findings.options.unbounded !== 'budget') return false;
    if (!countsToItsEnd(activation, span, starts)) return false;
    this.findings.unbounded = true;
    return true;
  }

  #runWaiting(activation: Activation, position: number): void {
    const { graph, order, functions } = activation;
    const number = order.blocks[position]!;
    const waiting = activation.take(number);
    if (waiting.length === 0) return;
    const isHead = order.ends[position] !== 0; // what a round starts with is looked at again
    const leave = (move: Move) => activation.hand(position, move);
    for (const state of waiting) {
      this.#block(graph.blocks[number]!, 0, isHead ? state.copy() : state, functions, leave);
    }
  }

  /** Runs one state through a block, from its instruction `from` on. */
  #block(block: Block, from: number, state: State, functions: readonly FunctionGraph[], leave: Leave): void {
    const { insns, successors } = block;
    const { effort } = this;
    const step = { insn: insns[from]!, state, findings: this.findings };
    const weight = effort.weight(state);
    for (let index = from; index < insns.length; index++) {
      const insn = insns[index]!;
      step.insn = insn;
      effort.instruction(insn, state, weight);
      const cls = insn.opcode & 7;
      if (cls !== CLASS.JMP && cls !== CLASS.JMP32) {
        stepInsn(step);
        continue;
      }
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
    leave({ successor: successors[0]!, state });
  }

  #leave(step: Step, { successors }: Block, depth: number, leave: Leave): void {
    const { insn, state } = step;
    if (insn.opcode === EXIT_OPCODE) {
      if (depth === 0) checkResult(step);
      leave({ successor: null, state });
    } else if (insn.opcode === JA_OPCODE || insn.opcode === GOTOL_OPCODE) {
      leave({ successor: successors[0]!, state });
    } else {
      const { taken, next } = stepBranch(step);
      // A jump to the next instruction has one successor.
      if (taken !== null) leave({ successor: successors[0]!, state: taken });
      if (next !== null) leave({ successor: successors.at(-1)!, state: next });
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
}

/** Takes a state that has come to the end of a block. */
type Leave = (move: Move) => void;

const GONE: Value = unset('points into the frame of a function that has returned');

/** Rounds that are followed one by one before a loop is taken for one without a bound: more than a context has buffers. */
const FOLLOWED_ROUNDS = 72;

/** All further rounds are guessed before these: early, then ever more seldom. */
function isPowerOf2(round: number): boolean {
  return (round & (round - 1)) === 0;
}

/** Whether some jump leads out of a loop. Exits are never within one. */
function leadsOut({ graph, order }: Activation, { head, end }: Span): boolean {
  const isWithin = (block: number) => order.positions[block]! >= head && order.positions[block]! < end;
  return order.blocks.slice(head, end).some(block => !graph.blocks[block]!.successors.every(isWithin));
}

/** Whether two rounds start with the same states: then all rounds after them do. */
function alike(a: readonly State[], b: readonly State[]): boolean {
  const within = (inner: readonly State[], outer: readonly State[]) =>
    inner.every(state => outer.some(other => stateCovers(other, state)));
  return within(a, b) && within(b, a);
}
