/** Values, states and refusals as text. */
import { disassembleInsn } from '../disasm.js';
import type { Insn } from '../program.js';
import { constantOf, type Num } from './domain/number.js';
import type { Value } from './domain/value.js';
import type { State } from './state.js';

/** One paragraph: the instruction, why, and what the registers hold. */
export function describeRefusal(insn: Insn, why: string, state: State | null): string {
  const text = `insn ${insn.pc} (${disassembleInsn(insn)}) is refused: ${why}.`;
  if (state === null) return text;
  const frame = state.frames.length > 1 ? `, ${state.frames.length - 1} calls deep` : '';
  return `${text} Before it${frame}: ${describeState(state)}.`;
}

/** The registers that are set, and what was stored in the frame of the function that runs. */
export function describeState({ registers, frames }: State): string {
  const set = registers.flatMap((value, register) =>
    value.kind === 'unset' ? [] : [`r${register} = ${describeValue(value)}`],
  );
  const cells = [...frames.at(-1)!].sort(([a], [b]) => b - a);
  const shown = cells.slice(0, MAX_CELLS).map(([at, { value }]) => `[r10${at}] = ${describeValue(value)}`);
  const more = cells.length - shown.length;
  return [...set, ...shown, ...(more > 0 ? [`and ${more} more on the stack`] : [])].join(', ');
}

/** Of the frame, from its top: a program that fills its stack makes no long report. */
const MAX_CELLS = 8;

export function describeValue(value: Value): string {
  switch (value.kind) {
    case 'unset':
      return 'unset';
    case 'number':
      return describeNumber(value.num);
    case 'context':
      return `context${describeOffset(value.offset)}`;
    default:
      return `frame ${value.frame}${describeOffset(value.offset)}`;
  }
}

function describeNumber(number: Num): string {
  const known = constantOf(number);
  if (known !== null) return short(BigInt.asIntN(64, known));
  const { ulo, uhi, slo, shi } = number.wide;
  if (slo >= -0xffffffffn && shi <= 0xffffffffn) return range(slo, shi);
  return ulo > 0n || uhi < 2n ** 63n ? range(ulo, uhi) : 'any number';
}

function describeOffset(offset: Num): string {
  const known = constantOf(offset);
  const { slo, shi } = offset.wide;
  if (known === null)
    return slo < -(2n ** 62n) || shi > 2n ** 62n ? ' + any number' : ` + ${range(slo, shi)}`;
  const signed = BigInt.asIntN(64, known);
  return signed < 0n ? `${signed}` : `+${short(signed)}`;
}

function range(lo: bigint, hi: bigint): string {
  return `${short(lo)}…${short(hi)}`;
}

/** Small numbers in decimal, large ones in hex. */
function short(value: bigint): string {
  if (value > -0x10000n && value < 0x10000n) return value.toString();
  return value < 0n ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}
