/**
 * The names of instructions in assembly text, as one table that both the assembler and the disassembler read.
 * The syntax is that of the public BPF conformance suite: `add32 %r0, 1`, `ldxw %r0, [%r1+2]`, `jeq %r0, 1, label`.
 */
import { CALL_OPCODE, CALLX_OPCODE, EXIT_OPCODE, GOTOL_OPCODE, JA_OPCODE, LDDW } from './forms.js';
import { ALU, ATOMIC, CALL, CLASS, JMP, MODE, SIZE, SRC } from './isa.js';

/** The operands that follow a mnemonic. `value` is a register or a constant and chooses between SRC.X and SRC.K. */
export type Operands =
  | 'none'
  | 'dst'
  | 'dst, src'
  | 'dst, value'
  | 'dst, value, target'
  | 'target'
  | 'target32' // the distance stands in imm instead of off
  | 'imm'
  | 'dst, imm64'
  | 'dst, [src+off]'
  | '[dst+off], imm'
  | '[dst+off], src';

export interface Mnemonic {
  readonly name: string;
  readonly opcode: number;
  readonly operands: Operands;
  /** Fields that the name itself fixes. */
  readonly src?: number;
  readonly off?: number;
  readonly imm?: number;
}

const ALU_NAMES: readonly [string, number, number][] = [
  ['add', ALU.ADD, 0],
  ['sub', ALU.SUB, 0],
  ['mul', ALU.MUL, 0],
  ['div', ALU.DIV, 0],
  ['sdiv', ALU.DIV, 1],
  ['or', ALU.OR, 0],
  ['and', ALU.AND, 0],
  ['lsh', ALU.LSH, 0],
  ['rsh', ALU.RSH, 0],
  ['mod', ALU.MOD, 0],
  ['smod', ALU.MOD, 1],
  ['xor', ALU.XOR, 0],
  ['mov', ALU.MOV, 0],
  ['arsh', ALU.ARSH, 0],
];

const JUMP_NAMES: readonly [string, number][] = [
  ['jeq', JMP.JEQ],
  ['jgt', JMP.JGT],
  ['jge', JMP.JGE],
  ['jset', JMP.JSET],
  ['jne', JMP.JNE],
  ['jsgt', JMP.JSGT],
  ['jsge', JMP.JSGE],
  ['jlt', JMP.JLT],
  ['jle', JMP.JLE],
  ['jslt', JMP.JSLT],
  ['jsle', JMP.JSLE],
];

const SIZE_NAMES: readonly [string, number][] = [
  ['b', SIZE.B],
  ['h', SIZE.H],
  ['w', SIZE.W],
  ['dw', SIZE.DW],
];

const ATOMIC_NAMES: readonly [string, number][] = [
  ['add', ATOMIC.ADD],
  ['or', ATOMIC.OR],
  ['and', ATOMIC.AND],
  ['xor', ATOMIC.XOR],
  ['fetch add', ATOMIC.ADD | ATOMIC.FETCH],
  ['fetch or', ATOMIC.OR | ATOMIC.FETCH],
  ['fetch and', ATOMIC.AND | ATOMIC.FETCH],
  ['fetch xor', ATOMIC.XOR | ATOMIC.FETCH],
  ['xchg', ATOMIC.XCHG],
  ['cmpxchg', ATOMIC.CMPXCHG],
];

function* rows(): Generator<Mnemonic> {
  for (const [suffix, cls] of [
    ['', CLASS.ALU64],
    ['32', CLASS.ALU],
  ] as const) {
    for (const [name, op, off] of ALU_NAMES) {
      yield { name: name + suffix, opcode: cls | op, operands: 'dst, value', off };
    }
    yield { name: `neg${suffix}`, opcode: cls | ALU.NEG, operands: 'dst' };
    for (const bits of cls === CLASS.ALU ? [8, 16] : [8, 16, 32]) {
      const opcode = cls | ALU.MOV | SRC.X;
      yield { name: `movsx${bits}${suffix || '64'}`, opcode, operands: 'dst, src', off: bits };
    }
  }
  for (const bits of [16, 32, 64]) {
    yield { name: `le${bits}`, opcode: CLASS.ALU | ALU.END | SRC.K, operands: 'dst', imm: bits };
    yield { name: `be${bits}`, opcode: CLASS.ALU | ALU.END | SRC.X, operands: 'dst', imm: bits };
    yield { name: `swap${bits}`, opcode: CLASS.ALU64 | ALU.END, operands: 'dst', imm: bits };
  }

  for (const [name, op] of JUMP_NAMES) {
    yield { name, opcode: CLASS.JMP | op, operands: 'dst, value, target' };
    yield { name: `${name}32`, opcode: CLASS.JMP32 | op, operands: 'dst, value, target' };
  }
  yield { name: 'ja', opcode: JA_OPCODE, operands: 'target' };
  yield { name: 'ja32', opcode: GOTOL_OPCODE, operands: 'target32' };
  yield { name: 'call helper', opcode: CALL_OPCODE, operands: 'imm', src: CALL.HELPER };
  yield { name: 'call local', opcode: CALL_OPCODE, operands: 'target32', src: CALL.LOCAL };
  yield { name: 'call runtime', opcode: CALL_OPCODE, operands: 'imm', src: CALL.BTF };
  yield { name: 'callx', opcode: CALLX_OPCODE, operands: 'dst' };
  yield { name: 'exit', opcode: EXIT_OPCODE, operands: 'none' };

  yield { name: 'lddw', opcode: LDDW, operands: 'dst, imm64' };
  for (const [name, size] of SIZE_NAMES) {
    yield { name: `ldx${name}`, opcode: CLASS.LDX | MODE.MEM | size, operands: 'dst, [src+off]' };
    yield { name: `st${name}`, opcode: CLASS.ST | MODE.MEM | size, operands: '[dst+off], imm' };
    yield { name: `stx${name}`, opcode: CLASS.STX | MODE.MEM | size, operands: '[dst+off], src' };
    if (size === SIZE.DW) continue;
    yield { name: `ldxs${name}`, opcode: CLASS.LDX | MODE.MEMSX | size, operands: 'dst, [src+off]' };
  }
  for (const [suffix, size] of [
    ['', SIZE.DW],
    ['32', SIZE.W],
  ] as const) {
    for (const [name, imm] of ATOMIC_NAMES) {
      const opcode = CLASS.STX | MODE.ATOMIC | size;
      yield { name: `lock ${name}${suffix}`, opcode, operands: '[dst+off], src', imm };
    }
  }
}

/** Every mnemonic; words of one name are separated by one space. */
export const MNEMONICS: readonly Mnemonic[] = [...rows()];
