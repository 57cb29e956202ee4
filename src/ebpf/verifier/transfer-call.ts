/** What a call of a helper asks of the arguments, by the one table of signatures, and what it leaves. */
import { CALLX_OPCODE } from '../forms.js';
import { type HelperArg, type HelperSpec, helperKey } from '../helpers.js';
import { ANY, constantOf, contains } from './domain/number.js';
import { scalar, unset, type Value, ZERO } from './domain/value.js';
import { describeValue } from './report.js';
import { guardArgument, readNumber, readValue, refuse, type Step } from './step.js';
import { locate, readStack, setUnknown, shakeIfAnywhere } from './transfer-memory.js';

const CLOBBERED = unset('a call has left undefined');

/** A call that is not of a local function. */
export function stepHelperCall(step: Step): void {
  const { insn, state, findings } = step;
  const key = insn.opcode === CALLX_OPCODE ? keyInRegister(step) : helperKey(insn);
  const spec = findings.options.helpers.get(key);
  if (spec === undefined) refuse(step, `there is no helper ${key}`);
  findings.accesses.add(insn.pc);
  for (const index of spec.args.keys()) checkArgument(step, spec, index);
  state.registers[0] = scalar(spec.inline === 'fence' ? ZERO : ANY);
  clobberArguments(state.registers);
}

/** After a call nobody may rely on r1 … r5. */
export function clobberArguments(registers: Value[]): void {
  registers.fill(CLOBBERED, 1, 6);
}

function keyInRegister(step: Step): number {
  const { num } = readNumber(step, step.insn.dst, 'calls the helper whose number is in');
  const known = constantOf(num);
  if (known === null) refuse(step, `it calls a helper by r${step.insn.dst}, of which the value is not known`);
  return Number(BigInt.asIntN(64, known));
}

function checkArgument(step: Step, spec: HelperSpec, index: number): void {
  const arg = spec.args[index]!;
  const value = readValue(step, 1 + index);
  if (arg.kind === 'context') checkContext(step, spec, index, value);
  else if (arg.kind === 'memory') checkMemory(step, spec, index, arg);
  // What a helper makes of an address may get out: into its result, its memory, or to whoever it works for.
  else if (arg.kind === 'number')
    readNumber(step, 1 + index, `passes to ${spec.name} as argument ${index + 1}`);
}

function checkContext(step: Step, spec: HelperSpec, index: number, value: Value): void {
  if (value.kind !== 'context' || !contains(value.offset, 0n)) {
    refuse(
      step,
      `${spec.name} wants the context as argument ${index + 1}, and r${index + 1} is ${describeValue(value)}`,
    );
  }
  if (constantOf(value.offset) === null) guardArgument(step.findings, step.insn.pc, index);
}

function checkMemory(
  step: Step,
  spec: HelperSpec,
  index: number,
  { size, access }: Extract<HelperArg, { kind: 'memory' }>,
): void {
  const register = 1 + index;
  const { least, most } = sizeOf(step, spec, size);
  if (most === 0) return;
  const place = locate(step, register, 0, most, least);
  if (place.kind === 'shared') {
    if (access === 'write') shakeIfAnywhere(step, place);
    return;
  }
  if (access === 'read') readStack(step, place, most);
  else setUnknown(step.state, place, most, least);
}

/** Bytes: constant, or in another argument. */
function sizeOf(
  step: Step,
  spec: HelperSpec,
  size: number | { readonly arg: number },
): { readonly least: number; readonly most: number } {
  if (typeof size === 'number') return { least: size, most: size };
  const { num } = readNumber(step, 1 + size.arg, `passes to ${spec.name} as a size`);
  const { ulo, uhi } = num.wide;
  return { least: Number(ulo), most: Number(uhi) };
}
