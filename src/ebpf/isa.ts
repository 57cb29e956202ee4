/**
 * The eBPF instruction set (RFC 9669): the fields of an instruction and the names of their values.
 *
 * ```
 *   byte 0        byte 1          bytes 2-3   bytes 4-7
 *   opcode        src | dst       offset      imm          little-endian, 8 bytes
 *   ccccc|ccc     high  low       signed      signed
 *   code  class   nibble nibble
 * ```
 * A `lddw` (opcode 0x18) takes two such slots; the second holds the high 32 bits of the immediate in its imm.
 */

/** Instruction classes: the low three bits of the opcode. */
export const CLASS = { LD: 0, LDX: 1, ST: 2, STX: 3, ALU: 4, JMP: 5, JMP32: 6, ALU64: 7 } as const;

/** ALU operations: the high four bits of the opcode in the classes ALU and ALU64. */
export const ALU = {
  ADD: 0x00,
  SUB: 0x10,
  MUL: 0x20,
  DIV: 0x30,
  OR: 0x40,
  AND: 0x50,
  LSH: 0x60,
  RSH: 0x70,
  NEG: 0x80,
  MOD: 0x90,
  XOR: 0xa0,
  MOV: 0xb0,
  ARSH: 0xc0,
  END: 0xd0,
} as const;

/** Jump operations: the high four bits of the opcode in the classes JMP and JMP32. */
export const JMP = {
  JA: 0x00,
  JEQ: 0x10,
  JGT: 0x20,
  JGE: 0x30,
  JSET: 0x40,
  JNE: 0x50,
  JSGT: 0x60,
  JSGE: 0x70,
  CALL: 0x80,
  EXIT: 0x90,
  JLT: 0xa0,
  JLE: 0xb0,
  JSLT: 0xc0,
  JSLE: 0xd0,
} as const;

/** Source of the second operand of ALU and jump instructions. */
export const SRC = { K: 0x00, X: 0x08 } as const;

/** Access sizes of loads and stores: bits 3 and 4 of the opcode. */
export const SIZE = { W: 0x00, H: 0x08, B: 0x10, DW: 0x18 } as const;

/** Modes of loads and stores: the high three bits of the opcode. */
export const MODE = { IMM: 0x00, ABS: 0x20, IND: 0x40, MEM: 0x60, MEMSX: 0x80, ATOMIC: 0xc0 } as const;

/** The imm of an atomic instruction. FETCH is or-ed to the first four; XCHG and CMPXCHG include it. */
export const ATOMIC = {
  ADD: 0x00,
  OR: 0x40,
  AND: 0x50,
  XOR: 0xa0,
  FETCH: 0x01,
  XCHG: 0xe1,
  CMPXCHG: 0xf1,
} as const;

/** The src register of a CALL says what its imm is: a helper's id, an offset to a local function, a helper's BTF id. */
export const CALL = { HELPER: 0, LOCAL: 1, BTF: 2 } as const;

export const STACK_SIZE = 512;
export const FRAME_POINTER = 10;
export const MAX_CALL_DEPTH = 8;
export const INSN_BYTES = 8;
