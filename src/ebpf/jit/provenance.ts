/**
 * Where a register's value comes from, found by a forward data-flow analysis over all functions. Accesses at a known
 * offset into the context or the own stack frame need no guard.
 *
 * ```
 *              unknown
 *            /    |     \
 *     context+?   |    stack         pointer into the context; into any frame of the stack
 *         |       |      |
 *     context+n   n   frame+n        n bytes from r1 at entry; the number n; n bytes from the own r10
 * ```
 * Arithmetic on a pointer may have wrapped: `context+?` and `stack` only say which guard to try first, they prove nothing.
 */
import { CALL_OPCODE, CALLX_OPCODE, LDDW } from '../forms.js';
import { ALU, ATOMIC, CALL, CLASS, FRAME_POINTER, MODE, SRC } from '../isa.js';
import { type Insn, targetOf } from '../program.js';
import { type FunctionGraph, isLocalCall } from './cfg.js';
import { Worklist } from './worklist.js';

export interface Provenance {
  readonly origin: 'unknown' | 'number' | 'context' | 'frame' | 'stack';
  /** Null when unknown; always known for `number` and `frame`. A safe integer. */
  readonly offset: number | null;
}

/** By register, r0 … r10. */
export type RegisterState = readonly Provenance[];

const UNKNOWN: Provenance = { origin: 'unknown', offset: null };
const STACK: Provenance = { origin: 'stack', offset: null };
const FRAME_TOP: Provenance = { origin: 'frame', offset: 0 };
const IN_CONTEXT: Provenance = { origin: 'context', offset: null };

const REGISTERS = FRAME_POINTER + 1;
/** A call of a local function passes r0 … r9 and hands r0 … r5 back. */
const FIRST_KEPT = 6;

/**
 * @returns by function and block: the registers when the block is entered
 */
export function analyseProvenance(
  graphs: readonly FunctionGraph[],
  contextSize: number,
): readonly (readonly RegisterState[])[] {
  const entryStates: (Provenance[] | undefined)[] = graphs.map(() => undefined);
  const states: (Provenance[] | undefined)[][] = graphs.map(graph => graph.blocks.map(() => undefined));
  const calleeOf = new Map(graphs.slice(1).map((graph, index) => [graph.pc, index + 1]));
  const pending = new Worklist(graphs, 'forward');

  /** Lets one more state flow into a block. */
  const flow = (graph: number, block: number, state: RegisterState): void => {
    const old = states[graph]![block];
    if (old === undefined) states[graph]![block] = [...state];
    else if (!joinInto(old, state)) return;
    pending.push(graph, block);
  };
  const enter = (graph: number, caller: RegisterState): void => {
    const state = caller.map(value => (value.origin === 'frame' ? STACK : value));
    state[FRAME_POINTER] = FRAME_TOP;
    const old = entryStates[graph];
    if (old === undefined) entryStates[graph] = state;
    else if (!joinInto(old, state)) return;
    flow(graph, 0, entryStates[graph]!);
  };

  flow(0, 0, mainEntry(contextSize));
  for (let item = pending.pop(); item !== undefined; item = pending.pop()) {
    const { graph, block } = item;
    const state = [...states[graph]![block]!];
    const { insns, successors } = graphs[graph]!.blocks[block]!;
    for (const insn of insns) {
      if (isLocalCall(insn)) enter(calleeOf.get(targetOf(insn)!)!, state);
      step(state, insn);
    }
    for (const successor of successors) flow(graph, successor, state);
  }
  return states.map(blocks => blocks.map(state => state!));
}

/** Changes the state to that after the instruction. */
export function step(state: Provenance[], insn: Insn): void {
  const { opcode, dst, src, imm } = insn;
  switch (opcode & 7) {
    case CLASS.ALU64:
      state[dst] = result64(state, insn);
      break;
    case CLASS.ALU:
      state[dst] = (opcode & 0xf8) === (ALU.MOV | SRC.K) ? number(imm >>> 0) : UNKNOWN;
      break;
    case CLASS.LD:
      if (opcode === LDDW) state[dst] = number(Number(BigInt.asIntN(64, insn.imm64!)));
      break;
    case CLASS.LDX:
      state[dst] = UNKNOWN;
      break;
    case CLASS.STX:
      if ((opcode & 0xe0) !== MODE.ATOMIC) break;
      if (imm === ATOMIC.CMPXCHG) state[0] = UNKNOWN;
      else if ((imm & ATOMIC.FETCH) !== 0) state[src] = UNKNOWN;
      break;
    case CLASS.JMP:
      if (opcode === CALL_OPCODE && src === CALL.LOCAL) state.fill(UNKNOWN, 0, FIRST_KEPT);
      else if (opcode === CALL_OPCODE || opcode === CALLX_OPCODE) state[0] = UNKNOWN;
      break;
  }
}

function mainEntry(contextSize: number): RegisterState {
  const state = new Array<Provenance>(REGISTERS).fill(number(0));
  state[1] = { origin: 'context', offset: 0 };
  state[2] = number(contextSize);
  state[FRAME_POINTER] = FRAME_TOP;
  return state;
}

/** The result of a 64-bit operation; only moves, sums and differences are followed. */
function result64(state: RegisterState, { opcode, dst, src, off, imm }: Insn): Provenance {
  const left = state[dst]!;
  const right = (opcode & SRC.X) !== 0 ? state[src]! : number(imm);
  switch (opcode & 0xf0) {
    case ALU.MOV:
      return off === 0 ? right : UNKNOWN;
    case ALU.ADD:
      return left.origin === 'number' || left.origin === 'unknown'
        ? moved(right, left, 1)
        : moved(left, right, 1);
    case ALU.SUB:
      return moved(left, right, -1);
    default:
      return UNKNOWN;
  }
}

/** A value moved by another one, forwards or backwards. */
function moved(from: Provenance, by: Provenance, sign: 1 | -1): Provenance {
  const known = by.origin === 'number' && from.offset !== null;
  const offset = known ? from.offset + sign * by.offset! : null;
  if (from.origin === 'number') return offset === null ? UNKNOWN : number(offset);
  if (by.origin !== 'number' && by.origin !== 'unknown') return UNKNOWN;
  return offset === null || !Number.isSafeInteger(offset) ? lost(from) : { origin: from.origin, offset };
}

/** The same pointer at an unknown distance. */
function lost({ origin }: Provenance): Provenance {
  if (origin === 'context') return IN_CONTEXT;
  return origin === 'frame' || origin === 'stack' ? STACK : UNKNOWN;
}

/** A signed number; those that a double cannot hold are not followed. */
function number(value: number): Provenance {
  return Number.isSafeInteger(value) ? { origin: 'number', offset: value } : UNKNOWN;
}

/** Joins another state into one. @returns whether that changed it */
function joinInto(state: Provenance[], other: RegisterState): boolean {
  let changed = false;
  for (const [register, value] of state.entries()) {
    const joined = join(value, other[register]!);
    if (joined.origin === value.origin && joined.offset === value.offset) continue;
    state[register] = joined;
    changed = true;
  }
  return changed;
}

function join(a: Provenance, b: Provenance): Provenance {
  if (a.origin === b.origin && a.offset === b.offset) return a;
  const left = lost(a);
  return left.origin === lost(b).origin ? left : UNKNOWN;
}
