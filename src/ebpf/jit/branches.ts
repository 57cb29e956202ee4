/** Conditions of jumps. */
import { CLASS, JMP, SRC } from '../isa.js';
import type { Insn } from '../program.js';
import type { Emitter } from './emitter.js';
import { OP } from './wasm-opcodes.js';

const COMPARISON: Readonly<Record<number, { readonly i32: number; readonly i64: number }>> = {
  [JMP.JEQ]: { i32: OP.i32Eq, i64: OP.i64Eq },
  [JMP.JNE]: { i32: OP.i32Ne, i64: OP.i64Ne },
  [JMP.JGT]: { i32: OP.i32GtU, i64: OP.i64GtU },
  [JMP.JGE]: { i32: OP.i32GeU, i64: OP.i64GeU },
  [JMP.JLT]: { i32: OP.i32LtU, i64: OP.i64LtU },
  [JMP.JLE]: { i32: OP.i32LeU, i64: OP.i64LeU },
  [JMP.JSGT]: { i32: OP.i32GtS, i64: OP.i64GtS },
  [JMP.JSGE]: { i32: OP.i32GeS, i64: OP.i64GeS },
  [JMP.JSLT]: { i32: OP.i32LtS, i64: OP.i64LtS },
  [JMP.JSLE]: { i32: OP.i32LeS, i64: OP.i64LeS },
};

/** Pushes whether a conditional jump is taken. */
export function emitCondition(e: Emitter, { opcode, dst, src, imm }: Insn): void {
  const wide = (opcode & 7) === CLASS.JMP;
  const op = opcode & 0xf0;
  if (wide) {
    e.pushRegister(dst);
    if ((opcode & SRC.X) !== 0) e.pushRegister(src);
    else e.i64(imm);
  } else {
    e.pushLow(dst);
    if ((opcode & SRC.X) !== 0) e.pushLow(src);
    else e.i32(imm);
  }
  if (op !== JMP.JSET) {
    e.op(wide ? COMPARISON[op]!.i64 : COMPARISON[op]!.i32);
  } else if (wide) {
    e.op(OP.i64And, OP.i64Eqz, OP.i32Eqz);
  } else {
    e.op(OP.i32And); // any bit is as good as true
  }
}
