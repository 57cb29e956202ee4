/**
 * Which registers may still be read at the start of each block. What the others hold is forgotten there: it would only keep
 * states apart that go on alike.
 */
import { CALL_OPCODE, CALLX_OPCODE, EXIT_OPCODE, GOTOL_OPCODE, JA_OPCODE } from '../forms.js';
import { ALU, ATOMIC, CLASS, MODE, SRC } from '../isa.js';
import { type FunctionGraph, isLocalCall } from '../jit/cfg.js';
import type { Insn } from '../program.js';

/** Sets of registers: bit n for rn. r10 is in none. */
const RESULT = 1;
const ARGUMENTS = 0b11_1110;
const CALL_CHANGES = RESULT | ARGUMENTS;
const ALL = 0b11_1111_1111;

/** @returns by block: the set */
export function liveRegisters({ blocks, predecessors }: FunctionGraph): Int32Array {
  const live = new Int32Array(blocks.length);
  const reads = new Int32Array(blocks.length);
  const writes = new Int32Array(blocks.length);
  for (let number = 0; number < blocks.length; number++) {
    const { insns } = blocks[number]!;
    for (let index = insns.length - 1; index >= 0; index--) {
      const set = written(insns[index]!);
      writes[number]! |= set;
      reads[number] = (reads[number]! & ~set) | read(insns[index]!);
    }
  }
  const pending = blocks.map((_, number) => number); // from the last one on, which others depend on
  const waits = new Uint8Array(blocks.length).fill(1);
  for (let number = pending.pop(); number !== undefined; number = pending.pop()) {
    waits[number] = 0;
    let after = 0;
    for (const successor of blocks[number]!.successors) after |= live[successor]!;
    const before = ((after & ~writes[number]!) | reads[number]!) & ALL;
    if (before === live[number]) continue;
    live[number] = before;
    for (const predecessor of predecessors[number]!) {
      if (waits[predecessor] === 1) continue;
      waits[predecessor] = 1;
      pending.push(predecessor);
    }
  }
  return live;
}

function read(insn: Insn): number {
  const { opcode, dst, src, imm } = insn;
  const source = (opcode & SRC.X) !== 0 ? 1 << src : 0;
  switch (opcode & 7) {
    case CLASS.LD:
      return 0;
    case CLASS.LDX:
      return 1 << src;
    case CLASS.ST:
      return 1 << dst;
    case CLASS.STX:
      return (1 << dst) | (1 << src) | (isAtomic(opcode) && imm === ATOMIC.CMPXCHG ? RESULT : 0);
    case CLASS.ALU:
    case CLASS.ALU64: {
      const op = opcode & 0xf0;
      // The bit for a register as the operand tells byte orders apart in END.
      if (op === ALU.END || op === ALU.NEG) return 1 << dst;
      return op === ALU.MOV ? source : source | (1 << dst);
    }
    default:
      if (isLocalCall(insn)) return ALL; // what the callee reads is not looked up
      if (opcode === CALL_OPCODE) return ARGUMENTS;
      if (opcode === CALLX_OPCODE) return ARGUMENTS | (1 << dst);
      if (opcode === EXIT_OPCODE) return RESULT;
      return opcode === JA_OPCODE || opcode === GOTOL_OPCODE ? 0 : source | (1 << dst);
  }
}

function written({ opcode, dst, src, imm }: Insn): number {
  switch (opcode & 7) {
    case CLASS.ST:
      return 0;
    case CLASS.STX:
      if (!isAtomic(opcode) || (imm & ATOMIC.FETCH) === 0) return 0;
      return imm === ATOMIC.CMPXCHG ? RESULT : 1 << src;
    case CLASS.JMP:
    case CLASS.JMP32:
      return opcode === CALL_OPCODE || opcode === CALLX_OPCODE ? CALL_CHANGES : 0;
    default:
      return 1 << dst;
  }
}

function isAtomic(opcode: number): boolean {
  return (opcode & 0xe0) === MODE.ATOMIC;
}
