/** What arithmetic does to a state: with numbers everything, with pointers moves, sums and differences. */
import { ALU, CLASS, SRC } from '../isa.js';
import type { Insn } from '../program.js';
import { compute, extendSign, negate, swap, truncate } from './domain/arithmetic.js';
import { combineLines, keptBelow } from './domain/line.js';
import { constant, constantOf, type Num, zeroExtended } from './domain/number.js';
import {
  isPointer,
  type Link,
  type Pointer,
  type Scalar,
  sameBase,
  scalar,
  type Value,
  ZERO,
} from './domain/value.js';
import { describeValue } from './report.js';
import { linkOf } from './state.js';
import { operandValue, readNumber, readValue, refuse, type Step } from './step.js';

export function stepAlu(step: Step): void {
  const { insn, state } = step;
  state.registers[insn.dst] = result(step);
}

function result(step: Step): Value {
  const { insn } = step;
  const width = (insn.opcode & 7) === CLASS.ALU64 ? 64 : 32;
  switch (insn.opcode & 0xf0) {
    case ALU.MOV:
      return moved(step, width);
    case ALU.NEG:
      return scalar(negate(width, readNumber(step, insn.dst, 'negates').num));
    case ALU.END:
      return reordered(step, width);
    default:
      return width === 64 ? combined(step) : combined32(step);
  }
}

function moved(step: Step, width: 32 | 64): Value {
  const { insn, state, findings } = step;
  const { opcode, src, off, imm } = insn;
  if ((opcode & SRC.X) === 0) {
    return scalar(constant(width === 64 ? BigInt(imm) : BigInt(imm >>> 0)));
  }
  // Compilers copy what was never set where they need not know it. It stays unset, so nothing can be done with it.
  if (off === 0 && state.registers[src]!.kind === 'unset') return state.registers[src]!;
  const value = readValue(step, src);
  if (width === 64 && off === 0) {
    return isPointer(value) ? value : scalar(value.num, linkOf(state, src, findings.fresh), value.line);
  }
  const whole = readNumber(step, src, 'takes a part of');
  const { num } = whole;
  if (off !== 0) {
    const link = off === 32 ? linkOf(state, src, findings.fresh) : null;
    return scalar(extendSign(num, off, width), inForm(link, 'signed'));
  }
  return scalar(zeroExtended(num), inForm(linkOf(state, src, findings.fresh), 'low'), keptBelow(whole, 32));
}

/** Byte order: to little-endian only cuts, since memory is little-endian. */
function reordered(step: Step, width: 32 | 64): Value {
  const { opcode, dst, imm } = step.insn;
  const { num } = readNumber(step, dst, 'reorders the bytes of');
  const known = constantOf(num);
  const toLittle = width === 32 && (opcode & SRC.X) === 0;
  if (toLittle) return scalar(truncate(num, imm));
  return scalar(known === null ? swap(num, imm) : swap(constant(known), imm));
}

function combined(step: Step): Value {
  const { insn } = step;
  const op = insn.opcode & 0xf0;
  const left = readValue(step, insn.dst);
  const right = operandValue(step);
  if (isPointer(left) || isPointer(right)) return pointerArithmetic(step, left, right);
  const num = computed(insn, 64, left.num, right.num);
  const link = linkOfResult(op, 64, left, constantOf(right.num));
  return scalar(num, link, combineLines(op, 64, left, right));
}

function combined32(step: Step): Value {
  const { insn } = step;
  const left = readNumber(step, insn.dst, 'computes with the low half of');
  const right = operandValue(step);
  if (isPointer(right)) refuse(step, `it computes with the low half of r${insn.src}, which is a pointer`);
  const op = insn.opcode & 0xf0;
  const num = computed(insn, 32, left.num, right.num);
  return scalar(num, linkOfResult(op, 32, left, constantOf(right.num)), combineLines(op, 32, left, right));
}

function computed({ opcode, dst, src, off }: Insn, width: 32 | 64, left: Num, right: Num): Num {
  const op = opcode & 0xf0;
  // A register with itself, which the domain cannot see: how compilers make a zero.
  if ((opcode & SRC.X) !== 0 && dst === src && (op === ALU.SUB || op === ALU.XOR)) return ZERO;
  return compute(op, width, left, right, off === 1);
}

/** What is kept of a link: moves by a constant, and shifts up by 32 and down again, which extend the low half. */
function linkOfResult(op: number, width: 32 | 64, { link }: Scalar, by: bigint | null): Link | null {
  if (link === null || by === null) return null;
  if (op === ALU.ADD || op === ALU.SUB) {
    const plus = BigInt.asIntN(64, op === ALU.ADD ? link.plus + by : link.plus - by);
    if (width === 64) return link.form === 'whole' ? { ...link, plus } : null;
    return inForm({ ...link, plus }, 'low');
  }
  if (width === 32 || by !== 32n) return null;
  if (op === ALU.LSH) return inForm(link, 'shifted');
  if (link.form !== 'shifted') return null;
  if (op === ALU.RSH) return { ...link, form: 'low' };
  return op === ALU.ARSH ? { ...link, form: 'signed' } : null;
}

/** The low half of X in another form; null where the value does not have that low half any more. */
function inForm(link: Link | null, form: Link['form']): Link | null {
  return link === null || link.form === 'shifted' ? null : { ...link, form };
}

function pointerArithmetic(
  step: Step,
  left: Exclude<Value, { kind: 'unset' }>,
  right: Exclude<Value, { kind: 'unset' }>,
): Value {
  const op = step.insn.opcode & 0xf0;
  if (op === ALU.ADD && !isPointer(right)) return movedBy(left as Pointer, op, right);
  if (op === ALU.ADD && !isPointer(left)) return movedBy(right as Pointer, op, left);
  if (op === ALU.SUB && isPointer(left)) {
    if (!isPointer(right)) return movedBy(left, op, right);
    if (sameBase(left, right)) return scalar(compute(op, 64, left.offset, right.offset, false));
  }
  const shown = `${describeValue(left)} and ${describeValue(right)}`;
  return refuse(
    step,
    `it computes with a pointer (${shown}); to a pointer only numbers can be added, or subtracted from it, and pointers into the same memory from each other`,
  );
}

function movedBy(pointer: Pointer, op: number, by: Scalar): Pointer {
  const offset = compute(op, 64, pointer.offset, by.num, false);
  const line = combineLines(op, 64, { num: pointer.offset, line: pointer.line }, by);
  return { ...pointer, offset, line };
}
