/**
 * A program → assembly text that `assemble` turns back into the same bytes. Jump targets become labels named after
 * their slot: `l12:` stands before the instruction in slot 12.
 */
import { SRC } from './isa.js';
import { MNEMONICS, type Mnemonic, type Operands } from './mnemonics.js';
import { type Insn, type Program, targetOf } from './program.js';

/** By opcode, for the few opcodes of several names further fields decide. */
const BY_OPCODE = new Map<number, Mnemonic[]>();
for (const mnemonic of MNEMONICS) {
  const opcodes = mnemonic.operands.startsWith('dst, value')
    ? [mnemonic.opcode | SRC.K, mnemonic.opcode | SRC.X]
    : [mnemonic.opcode];
  for (const opcode of opcodes) BY_OPCODE.set(opcode, [...(BY_OPCODE.get(opcode) ?? []), mnemonic]);
}

/** The whole program, one instruction a line, with labels; ends with a newline. */
export function disassemble(program: Program): string {
  const targets = new Set(program.insns.map(targetOf));
  let text = '';
  for (const insn of program.insns) {
    if (targets.has(insn.pc)) text += `l${insn.pc}:\n`;
    text += `  ${disassembleInsn(insn)}\n`;
  }
  return text;
}

/** One instruction, for listings and error messages. */
export function disassembleInsn(insn: Insn): string {
  const mnemonic = BY_OPCODE.get(insn.opcode)!.find(
    ({ src = insn.src, off = insn.off, imm = insn.imm }) =>
      src === insn.src && off === insn.off && imm === insn.imm,
  )!;
  const operands = OPERANDS[mnemonic.operands](insn);
  return operands === '' ? mnemonic.name : `${mnemonic.name} ${operands}`;
}

const OPERANDS: Readonly<Record<Operands, (insn: Insn) => string>> = {
  none: () => '',
  dst: ({ dst }) => `%r${dst}`,
  'dst, src': ({ dst, src }) => `%r${dst}, %r${src}`,
  'dst, value': insn => `%r${insn.dst}, ${value(insn)}`,
  'dst, value, target': insn => `%r${insn.dst}, ${value(insn)}, ${target(insn)}`,
  target: target,
  target32: target,
  imm: ({ imm }) => constant(imm),
  'dst, imm64': ({ dst, imm64 }) => `%r${dst}, 0x${imm64!.toString(16)}`,
  'dst, [src+off]': ({ dst, src, off }) => `%r${dst}, ${memory(src, off)}`,
  '[dst+off], imm': ({ dst, off, imm }) => `${memory(dst, off)}, ${constant(imm)}`,
  '[dst+off], src': ({ dst, off, src }) => `${memory(dst, off)}, %r${src}`,
};

function value({ opcode, src, imm }: Insn): string {
  return (opcode & SRC.X) !== 0 ? `%r${src}` : constant(imm);
}

/** Small numbers in decimal, large ones, which are masks and identifiers, in hex. */
function constant(imm: number): string {
  return Math.abs(imm) < 0x10000 ? String(imm) : `0x${(imm >>> 0).toString(16)}`;
}

function memory(register: number, off: number): string {
  return off < 0 ? `[%r${register}${off}]` : `[%r${register}+${off}]`;
}

function target(insn: Insn): string {
  return `l${targetOf(insn)}`;
}
