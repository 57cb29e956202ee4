/** Conditional jumps: which ways they can go, and what is known on each. */
import { CLASS, JMP, SRC, STACK_SIZE } from '../isa.js';
import type { Insn } from '../program.js';
import { refine } from './domain/compare.js';
import { constant, constantOf } from './domain/number.js';
import {
  isPointer,
  numberIn,
  type Pointer,
  type Scalar,
  sameBase,
  type Value,
  ZERO,
} from './domain/value.js';
import { describeValue } from './report.js';
import { learn, type State } from './state.js';
import { operandValue, readValue, refuse, type Step } from './step.js';

export interface Branches {
  /** Null where the jump cannot go that way. */
  readonly taken: State | null;
  readonly next: State | null;
}

/** Uses up the state. */
export function stepBranch(step: Step): Branches {
  const { insn, state } = step;
  const left = readValue(step, insn.dst);
  const right = operandValue(step);
  noteMeeting(step, left, right);
  if (isPointer(left) || isPointer(right)) return pointerBranches(step, left, right);
  const other = state.copy();
  const bothSame = (insn.opcode & SRC.X) !== 0 && insn.src === insn.dst;
  const assume = bothSame ? assumeOfOne : assumeNumbers;
  return {
    taken: assume(insn, other, true) ? other : null,
    next: assume(insn, state, false) ? state : null,
  };
}

/** A test for equality does not bound a counter, but it tells the round in which a loop would end. */
function noteMeeting({ insn, findings }: Step, left: Scalar | Pointer, right: Scalar | Pointer): void {
  const op = insn.opcode & 0xf0;
  if (findings.meetings === null || (op !== JMP.JEQ && op !== JMP.JNE)) return;
  const [moving, still] = left.line === null ? [right, left] : [left, right];
  const at = constantOf(numberIn(still));
  if (moving.line === null || at === null) return;
  const distance = BigInt.asIntN(64, at) - moving.line.base;
  if (distance % moving.line.step === 0n) findings.meetings.add(distance / moving.line.step);
}

function assumeNumbers(insn: Insn, state: State, taken: boolean): boolean {
  const { opcode, dst, src, imm } = insn;
  const fromRegister = (opcode & SRC.X) !== 0;
  const left = (state.registers[dst] as Scalar).num;
  const right = fromRegister ? (state.registers[src] as Scalar).num : constant(BigInt(imm));
  const pair = refine(opcode & 0xf0, widthOf(insn), taken, left, right);
  if (pair === null) return false;
  if (!learn(state, dst, pair[0])) return false;
  if (!fromRegister) return true;
  // What was learned about the one may have told something about the other already: then that is the sharper knowledge.
  return (state.registers[src] as Scalar).num !== right || learn(state, src, pair[1]);
}

/** A register compared with itself. */
function assumeOfOne(insn: Insn, state: State, taken: boolean): boolean {
  const op = insn.opcode & 0xf0;
  if (op === JMP.JSET) {
    const { num } = state.registers[insn.dst] as Scalar;
    const pair = refine(JMP.JNE, widthOf(insn), taken, num, ZERO);
    return pair !== null && learn(state, insn.dst, pair[0]);
  }
  return ALWAYS_OF_ONE.has(op) === taken;
}

const ALWAYS_OF_ONE: ReadonlySet<number> = new Set([JMP.JEQ, JMP.JGE, JMP.JLE, JMP.JSGE, JMP.JSLE]);

function widthOf({ opcode }: Insn): 32 | 64 {
  return (opcode & 7) === CLASS.JMP ? 64 : 32;
}

/**
 * Pointers into the same memory are equal when their offsets are, and compare as those do, as long as they are too small for the addresses to
 * wrap. No such pointer is 0. All else would tell addresses: a bit of them each time, to a program that may choose what it compares with.
 */
function pointerBranches(step: Step, left: Value, right: Value): Branches {
  const { insn, state } = step;
  if (widthOf(insn) === 64) {
    if (isPointer(left) && isPointer(right) && sameBase(left, right)) {
      const branches = offsetBranches(step, left, right);
      if (branches !== null) return branches;
    }
    const pointer = isPointer(left) ? left : (right as Pointer);
    const other = isPointer(left) ? right : left;
    const op = insn.opcode & 0xf0;
    const isNull = other.kind === 'number' && constantOf(other.num) === 0n;
    if (isNull && (op === JMP.JEQ || op === JMP.JNE) && nearBase(pointer)) {
      return op === JMP.JEQ ? { taken: null, next: state } : { taken: state, next: null };
    }
  }
  return refuse(
    step,
    `it compares ${describeValue(left)} with ${describeValue(right)}; pointers can be compared with pointers into the same memory, and with 0, as long as they stay near it`,
  );
}

/** Null where the outcome depends on where the memory is. */
function offsetBranches({ insn, state }: Step, left: Pointer, right: Pointer): Branches | null {
  const op = SIGNED[insn.opcode & 0xf0] ?? insn.opcode & 0xf0;
  const equality = op === JMP.JEQ || op === JMP.JNE;
  if (op === JMP.JSET || !(equality || (nearBase(left) && nearBase(right)))) return null;
  const other = state.copy();
  const assume = (to: State, taken: boolean): State | null => {
    const pair = refine(op, 64, taken, left.offset, right.offset);
    if (pair === null || !learn(to, insn.dst, pair[0])) return null;
    const unchanged = (to.registers[insn.src] as Pointer).offset === right.offset;
    return !unchanged || learn(to, insn.src, pair[1]) ? to : null;
  };
  return { taken: assume(other, true), next: assume(state, false) };
}

/** Addresses are far from wrapping, so that their order is that of the signed offsets. */
const SIGNED: Readonly<Record<number, number>> = {
  [JMP.JGT]: JMP.JSGT,
  [JMP.JGE]: JMP.JSGE,
  [JMP.JLT]: JMP.JSLT,
  [JMP.JLE]: JMP.JSLE,
};

/** Behind the base, which itself is below 2^32: far less than what wraps, or looks negative. */
const FARTHEST = 1n << 62n;

/** Whether the address is surely above 0 and has not wrapped: the base is, and the stack goes a frame further down. */
function nearBase({ kind, offset }: Pointer): boolean {
  const { slo, shi } = offset.wide;
  return slo >= (kind === 'stack' ? BigInt(-STACK_SIZE) : 0n) && shi <= FARTHEST;
}
