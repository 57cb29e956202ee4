/** Loads, stores and atomics of eBPF as WebAssembly. */
import { ATOMIC, CLASS, MODE, SIZE } from '../isa.js';
import type { Insn } from '../program.js';
import type { Emitter } from './emitter.js';
import { type Located, type Operand, pushAddress } from './guards.js';
import type { RegisterState } from './provenance.js';
import { ATOMIC_OP, OP, TYPE } from './wasm-opcodes.js';

interface Access {
  readonly bytes: number;
  readonly load: number;
  readonly loadSigned: number;
  readonly store: number;
}

const ACCESS: Readonly<Record<number, Access>> = {
  [SIZE.B]: { bytes: 1, load: OP.i64Load8U, loadSigned: OP.i64Load8S, store: OP.i64Store8 },
  [SIZE.H]: { bytes: 2, load: OP.i64Load16U, loadSigned: OP.i64Load16S, store: OP.i64Store16 },
  [SIZE.W]: { bytes: 4, load: OP.i64Load32U, loadSigned: OP.i64Load32S, store: OP.i64Store32 },
  [SIZE.DW]: { bytes: 8, load: OP.i64Load, loadSigned: OP.i64Load, store: OP.i64Store },
};

const UPDATE: Readonly<Record<number, { readonly i32: number; readonly i64: number }>> = {
  [ATOMIC.ADD]: { i32: ATOMIC_OP.i32Add, i64: ATOMIC_OP.i64Add },
  [ATOMIC.OR]: { i32: ATOMIC_OP.i32Or, i64: ATOMIC_OP.i64Or },
  [ATOMIC.AND]: { i32: ATOMIC_OP.i32And, i64: ATOMIC_OP.i64And },
  [ATOMIC.XOR]: { i32: ATOMIC_OP.i32Xor, i64: ATOMIC_OP.i64Xor },
  [ATOMIC.XCHG]: { i32: ATOMIC_OP.i32Xchg, i64: ATOMIC_OP.i64Xchg },
  [ATOMIC.CMPXCHG]: { i32: ATOMIC_OP.i32Cmpxchg, i64: ATOMIC_OP.i64Cmpxchg },
};

/** An instruction of the class LDX. */
export function emitLoad(e: Emitter, insn: Insn, state: RegisterState): void {
  const { bytes, load, loadSigned } = ACCESS[insn.opcode & 0x18]!;
  const { offset } = pushAddress(e, operandOf(insn, insn.src, bytes, state));
  e.access((insn.opcode & 0xe0) === MODE.MEMSX ? loadSigned : load, offset);
  emitPromise(e, insn.pc);
  e.setRegister(insn.dst);
}

/** Of a loaded value that was promised to lie between two numbers: stops the program when it does not. */
function emitPromise(e: Emitter, pc: number): void {
  const promise = e.plan.options.promised?.get(pc);
  if (promise === undefined) return;
  const value = e.local('promised', TYPE.I64);
  e.tee(value);
  e.i64(promise.least);
  e.op(OP.i64Sub);
  e.i64(promise.most - promise.least);
  e.op(OP.i64GtU);
  e.if();
  e.fault('EBPF_PROMISE', pc);
  e.op(OP.end);
  e.get(value);
}

/** An instruction of the classes ST and STX, atomics included. */
export function emitStore(e: Emitter, insn: Insn, state: RegisterState): void {
  const { bytes, store } = ACCESS[insn.opcode & 0x18]!;
  const operand = operandOf(insn, insn.dst, bytes, state);
  if ((insn.opcode & 0xe0) === MODE.ATOMIC) {
    emitAtomic(e, insn, operand);
    return;
  }
  const { offset } = pushAddress(e, operand);
  if ((insn.opcode & 7) === CLASS.ST) e.i64(insn.imm);
  else e.pushRegister(insn.src);
  e.access(store, offset);
}

function emitAtomic(e: Emitter, insn: Insn, operand: Operand): void {
  const { src, imm, pc } = insn;
  const { bytes } = operand;
  const located = pushAddress(e, operand);
  if (!aligned(located, bytes)) {
    const address = e.local('address', TYPE.I32);
    e.tee(address);
    addOffset(e, located.offset);
    e.i32(bytes - 1);
    e.op(OP.i32And);
    e.if();
    e.fault('EBPF_MISALIGNED', pc, () => {
      e.get(address);
      addOffset(e, located.offset);
      e.op(OP.i64ExtendI32U);
    });
    e.op(OP.end);
    e.get(address);
  }

  const wide = bytes === 8;
  const push = (register: number) => (wide ? e.pushRegister(register) : e.pushLow(register));
  const exchanges = imm === ATOMIC.XCHG || imm === ATOMIC.CMPXCHG;
  const update = UPDATE[exchanges ? imm : imm & ~ATOMIC.FETCH]!;
  if (imm === ATOMIC.CMPXCHG) push(0);
  push(src);
  e.op(OP.atomicPrefix);
  e.access(wide ? update.i64 : update.i32, located.offset, wide ? 3 : 2);
  if ((imm & ATOMIC.FETCH) === 0) {
    e.op(OP.drop);
    return;
  }
  if (!wide) e.op(OP.i64ExtendI32U);
  e.setRegister(imm === ATOMIC.CMPXCHG ? 0 : src);
}

/** Frames start at multiples of 8; where the context lies is known only when the program runs. */
function aligned({ base, offset }: Located, bytes: number): boolean {
  return (base === 'frame' || base === 'absolute') && offset % bytes === 0;
}

/** Adds an offset to the i32 on the stack. */
function addOffset(e: Emitter, offset: number): void {
  if (offset === 0) return;
  e.i32(offset);
  e.op(OP.i32Add);
}

function operandOf({ pc, off }: Insn, register: number, bytes: number, state: RegisterState): Operand {
  return { pc, register, off, bytes, provenance: state[register]! };
}
