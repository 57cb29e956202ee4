/**
 * Which instructions exist, and what each of their fields may hold (RFC 9669). One row per opcode; everything that is
 * not in the table does not exist, every field that a row does not name must be zero.
 */
import { ALU, ATOMIC, CALL, CLASS, JMP, MODE, SIZE, SRC } from './isa.js';

export interface Form {
  /** `write`: the instruction changes the register, so it must not be the frame pointer. */
  readonly dst?: 'read' | 'write';
  /** A list: the field is no register but one of these numbers. */
  readonly src?: 'read' | readonly number[];
  readonly off?: 'jump' | 'address' | readonly number[];
  readonly imm?: 'value' | 'jump' | readonly number[];
}

/** The imm values of an atomic instruction; those with FETCH change the src register (CMPXCHG changes r0 instead). */
export const ATOMIC_OPERATIONS: readonly number[] = [
  ATOMIC.ADD,
  ATOMIC.OR,
  ATOMIC.AND,
  ATOMIC.XOR,
  ATOMIC.ADD | ATOMIC.FETCH,
  ATOMIC.OR | ATOMIC.FETCH,
  ATOMIC.AND | ATOMIC.FETCH,
  ATOMIC.XOR | ATOMIC.FETCH,
  ATOMIC.XCHG,
  ATOMIC.CMPXCHG,
];

export const LDDW = CLASS.LD | MODE.IMM | SIZE.DW;
export const CALL_OPCODE = CLASS.JMP | JMP.CALL | SRC.K;
export const CALLX_OPCODE = CLASS.JMP | JMP.CALL | SRC.X;
export const EXIT_OPCODE = CLASS.JMP | JMP.EXIT;
export const JA_OPCODE = CLASS.JMP | JMP.JA;
export const GOTOL_OPCODE = CLASS.JMP32 | JMP.JA;

const PLAIN_ALU = [ALU.ADD, ALU.SUB, ALU.MUL, ALU.OR, ALU.AND, ALU.LSH, ALU.RSH, ALU.XOR, ALU.ARSH];
const SIGNED_ALU = [ALU.DIV, ALU.MOD]; // off 1 asks for the signed operation
const BRANCHES = [
  JMP.JEQ,
  JMP.JGT,
  JMP.JGE,
  JMP.JSET,
  JMP.JNE,
  JMP.JSGT,
  JMP.JSGE,
  JMP.JLT,
  JMP.JLE,
  JMP.JSLT,
  JMP.JSLE,
];

function* rows(): Generator<[opcode: number, form: Form]> {
  for (const cls of [CLASS.ALU, CLASS.ALU64]) {
    for (const op of PLAIN_ALU) {
      yield [cls | op | SRC.K, { dst: 'write', imm: 'value' }];
      yield [cls | op | SRC.X, { dst: 'write', src: 'read' }];
    }
    for (const op of SIGNED_ALU) {
      yield [cls | op | SRC.K, { dst: 'write', imm: 'value', off: [0, 1] }];
      yield [cls | op | SRC.X, { dst: 'write', src: 'read', off: [0, 1] }];
    }
    yield [cls | ALU.MOV | SRC.K, { dst: 'write', imm: 'value' }];
    const extensions = cls === CLASS.ALU ? [0, 8, 16] : [0, 8, 16, 32]; // sign extension from so many bits
    yield [cls | ALU.MOV | SRC.X, { dst: 'write', src: 'read', off: extensions }];
    yield [cls | ALU.NEG, { dst: 'write' }];
    yield [cls | ALU.END, { dst: 'write', imm: [16, 32, 64] }]; // ALU: to little-endian; ALU64: swap
  }
  yield [CLASS.ALU | ALU.END | SRC.X, { dst: 'write', imm: [16, 32, 64] }]; // to big-endian

  for (const cls of [CLASS.JMP, CLASS.JMP32]) {
    for (const op of BRANCHES) {
      yield [cls | op | SRC.K, { dst: 'read', imm: 'value', off: 'jump' }];
      yield [cls | op | SRC.X, { dst: 'read', src: 'read', off: 'jump' }];
    }
  }
  yield [JA_OPCODE, { off: 'jump' }];
  yield [GOTOL_OPCODE, { imm: 'jump' }];
  yield [CALL_OPCODE, { src: [CALL.HELPER, CALL.LOCAL, CALL.BTF], imm: 'value' }];
  yield [CALLX_OPCODE, { dst: 'read' }];
  yield [EXIT_OPCODE, {}];

  yield [LDDW, { dst: 'write', imm: 'value' }];
  for (const size of [SIZE.W, SIZE.H, SIZE.B, SIZE.DW]) {
    yield [CLASS.LDX | MODE.MEM | size, { dst: 'write', src: 'read', off: 'address' }];
    yield [CLASS.ST | MODE.MEM | size, { dst: 'read', off: 'address', imm: 'value' }];
    yield [CLASS.STX | MODE.MEM | size, { dst: 'read', src: 'read', off: 'address' }];
  }
  for (const size of [SIZE.W, SIZE.H, SIZE.B]) {
    yield [CLASS.LDX | MODE.MEMSX | size, { dst: 'write', src: 'read', off: 'address' }];
  }
  for (const size of [SIZE.W, SIZE.DW]) {
    yield [
      CLASS.STX | MODE.ATOMIC | size,
      { dst: 'read', src: 'read', off: 'address', imm: ATOMIC_OPERATIONS },
    ];
  }
}

/** Every instruction there is, by opcode. */
export const FORMS: ReadonlyMap<number, Form> = new Map(rows());
