/** Arithmetic of eBPF as WebAssembly. 32-bit operations work on the low halves and clear the high half of the result. */
import { ALU, CLASS, SRC } from '../isa.js';
import type { Insn } from '../program.js';
import type { Emitter } from './emitter.js';
import { OP, TYPE } from './wasm-opcodes.js';

/** Operations that WebAssembly has exactly so, shift counts modulo the width included. */
const DIRECT: Readonly<Record<number, { readonly i32: number; readonly i64: number }>> = {
  [ALU.ADD]: { i32: OP.i32Add, i64: OP.i64Add },
  [ALU.SUB]: { i32: OP.i32Sub, i64: OP.i64Sub },
  [ALU.MUL]: { i32: OP.i32Mul, i64: OP.i64Mul },
  [ALU.OR]: { i32: OP.i32Or, i64: OP.i64Or },
  [ALU.AND]: { i32: OP.i32And, i64: OP.i64And },
  [ALU.XOR]: { i32: OP.i32Xor, i64: OP.i64Xor },
  [ALU.LSH]: { i32: OP.i32Shl, i64: OP.i64Shl },
  [ALU.RSH]: { i32: OP.i32ShrU, i64: OP.i64ShrU },
  [ALU.ARSH]: { i32: OP.i32ShrS, i64: OP.i64ShrS },
};

/** One width: how its operands are made and which instructions divide. */
interface Width {
  readonly type: typeof TYPE.I32 | typeof TYPE.I64;
  readonly eqz: number;
  readonly eq: number;
  readonly sub: number;
  readonly divide: { readonly signed: number; readonly unsigned: number };
  readonly remainder: { readonly signed: number; readonly unsigned: number };
  constant(e: Emitter, value: number): void;
  push(e: Emitter, register: number): void;
}

const NARROW: Width = {
  type: TYPE.I32,
  eqz: OP.i32Eqz,
  eq: OP.i32Eq,
  sub: OP.i32Sub,
  divide: { signed: OP.i32DivS, unsigned: OP.i32DivU },
  remainder: { signed: OP.i32RemS, unsigned: OP.i32RemU },
  constant: (e, value) => e.i32(value),
  push: (e, register) => e.pushLow(register),
};

const WIDE: Width = {
  type: TYPE.I64,
  eqz: OP.i64Eqz,
  eq: OP.i64Eq,
  sub: OP.i64Sub,
  divide: { signed: OP.i64DivS, unsigned: OP.i64DivU },
  remainder: { signed: OP.i64RemS, unsigned: OP.i64RemU },
  constant: (e, value) => e.i64(value),
  push: (e, register) => e.pushRegister(register),
};

/** An instruction of the classes ALU and ALU64. */
export function emitAlu(e: Emitter, insn: Insn): void {
  const { opcode, dst, src, off, imm } = insn;
  const wide = (opcode & 7) === CLASS.ALU64;
  const op = opcode & 0xf0;
  if (op === ALU.END) {
    emitByteOrder(e, insn, wide || (opcode & SRC.X) !== 0);
    return;
  }
  const width = wide ? WIDE : NARROW;
  const pushOperand = () => ((opcode & SRC.X) !== 0 ? width.push(e, src) : width.constant(e, imm));
  switch (op) {
    case ALU.MOV:
      pushOperand();
      if (off !== 0) e.op(signExtension(wide, off));
      break;
    case ALU.NEG:
      width.constant(e, 0);
      width.push(e, dst);
      e.op(width.sub);
      break;
    case ALU.DIV:
    case ALU.MOD:
      emitDivision(e, insn, width, pushOperand);
      break;
    default:
      width.push(e, dst);
      pushOperand();
      e.op(wide ? DIRECT[op]!.i64 : DIRECT[op]!.i32);
  }
  if (!wide) e.op(OP.i64ExtendI32U);
  e.setRegister(dst);
}

function signExtension(wide: boolean, from: number): number {
  if (from === 8) return wide ? OP.i64Extend8S : OP.i32Extend8S;
  if (from === 16) return wide ? OP.i64Extend16S : OP.i32Extend16S;
  return OP.i64Extend32S;
}

/** Leaves quotient or remainder. Nothing traps: x / 0 = 0, x % 0 = x, and the smallest number / -1 is itself. */
function emitDivision(e: Emitter, insn: Insn, width: Width, pushDivisor: () => void): void {
  const { opcode, dst, imm } = insn;
  const signed = insn.off === 1 ? 'signed' : 'unsigned';
  const isDivision = (opcode & 0xf0) === ALU.DIV;
  const constant = (opcode & SRC.X) === 0 ? imm : null;
  const pushAtZero = () => (isDivision ? width.constant(e, 0) : width.push(e, dst));
  const divide = () => {
    width.push(e, dst);
    pushDivisor();
    e.op((isDivision ? width.divide : width.remainder)[signed]);
  };
  const negate = () => {
    width.constant(e, 0);
    width.push(e, dst);
    e.op(width.sub);
  };
  const overflows = isDivision && signed === 'signed'; // only at divisor -1, where negating does the same

  if (constant !== null) {
    if (constant === 0) pushAtZero();
    else if (constant === -1 && overflows) negate();
    else divide();
    return;
  }
  pushDivisor();
  e.op(width.eqz, OP.if, width.type);
  pushAtZero();
  e.op(OP.else);
  if (overflows) {
    pushDivisor();
    width.constant(e, -1);
    e.op(width.eq, OP.if, width.type);
    negate();
    e.op(OP.else);
    divide();
    e.op(OP.end);
  } else {
    divide();
  }
  e.op(OP.end);
}

/** To little-endian only cuts the value; to big-endian and bswap reverse the low 16, 32 or 64 bits. */
function emitByteOrder(e: Emitter, { dst, imm: bits }: Insn, swap: boolean): void {
  if (!swap) {
    if (bits === 64) return;
    e.pushRegister(dst);
    e.i64(bits === 16 ? 0xffff : 0xffffffff);
    e.op(OP.i64And);
  } else if (bits === 16) {
    exchange(e, dst, 0xffn, 8);
  } else if (bits === 32) {
    // The outer bytes go one way around, the inner ones the other.
    e.pushLow(dst);
    e.i32(8);
    e.op(OP.i32Rotl);
    e.i32(0x00ff00ff);
    e.op(OP.i32And);
    e.pushLow(dst);
    e.i32(24);
    e.op(OP.i32Rotl);
    e.i32(0xff00ff00);
    e.op(OP.i32And, OP.i32Or, OP.i64ExtendI32U);
  } else {
    exchange(e, dst, 0x00ff00ff00ff00ffn, 8);
    e.setRegister(dst);
    exchange(e, dst, 0x0000ffff0000ffffn, 16);
    e.i64(32);
    e.op(OP.i64Rotl);
  }
  e.setRegister(dst);
}

/** Pushes (x & mask) << n | (x >> n) & mask, with x in dst. */
function exchange(e: Emitter, dst: number, mask: bigint, n: number): void {
  e.pushRegister(dst);
  e.i64(mask);
  e.op(OP.i64And);
  e.i64(n);
  e.op(OP.i64Shl);
  e.pushRegister(dst);
  e.i64(n);
  e.op(OP.i64ShrU);
  e.i64(mask);
  e.op(OP.i64And, OP.i64Or);
}
