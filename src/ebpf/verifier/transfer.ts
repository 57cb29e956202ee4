/** What one instruction does to a state, calls of local functions and conditional jumps aside. */
import { CALL_OPCODE, CALLX_OPCODE } from '../forms.js';
import { CLASS } from '../isa.js';
import type { Insn } from '../program.js';
import { constant } from './domain/number.js';
import { isPointer, scalar } from './domain/value.js';
import { describeValue } from './report.js';
import { refuse, type Step } from './step.js';
import { stepAlu } from './transfer-alu.js';
import { stepHelperCall } from './transfer-call.js';
import { stepLoad, stepStore } from './transfer-memory.js';

export function stepInsn(step: Step): void {
  const { insn, state } = step;
  switch (insn.opcode & 7) {
    case CLASS.ALU:
    case CLASS.ALU64:
      stepAlu(step);
      break;
    case CLASS.LD:
      state.registers[insn.dst] = scalar(constant(insn.imm64!));
      break;
    case CLASS.LDX:
      stepLoad(step);
      break;
    case CLASS.ST:
    case CLASS.STX:
      stepStore(step);
      break;
    default:
      stepHelperCall(step);
  }
}

/** Jumps and exits; calls go on behind themselves. */
export function endsBlock({ opcode }: Insn): boolean {
  const cls = opcode & 7;
  return (cls === CLASS.JMP || cls === CLASS.JMP32) && opcode !== CALL_OPCODE && opcode !== CALLX_OPCODE;
}

/** What the program hands back: an address would tell where its memory is. */
export function checkResult(step: Step): void {
  const { returns = 'number' } = step.findings.options;
  const value = step.state.registers[0]!;
  if (isPointer(value)) refuse(step, `it returns a pointer, r0 = ${describeValue(value)}`);
  if (value.kind === 'unset' && returns === 'number') refuse(step, `it returns r0, which ${value.why}`);
}
