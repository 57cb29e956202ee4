/** Calls: of local functions, and of helpers with the checks that their signatures ask for. */
import { type HelperSpec, helperKey } from '../helpers.js';
import { CALL, STACK_SIZE } from '../isa.js';
import { type Insn, targetOf } from '../program.js';
import type { Emitter, Pc } from './emitter.js';
import { emitCheck, prove } from './guards.js';
import { registersIn } from './liveness.js';
import type { RegisterState } from './provenance.js';
import { OP } from './wasm-opcodes.js';

/** A call instruction with a constant target. */
export function emitCall(e: Emitter, insn: Insn, state: RegisterState): void {
  if (insn.src === CALL.LOCAL) {
    emitLocalCall(e, insn);
    return;
  }
  const spec = e.plan.options.helpers.get(helperKey(insn));
  if (spec === undefined) {
    e.fault('EBPF_CALL', insn.pc);
    return;
  }
  pushHelperResult(e, spec, insn.pc, state);
  e.setRegister(0);
}

/** A call of the helper whose id is in the register dst. */
export function emitCallx(e: Emitter, insn: Insn): void {
  e.pushRegister(insn.dst);
  e.get(e.context);
  for (let register = 1; register <= 5; register++) e.pushRegister(register);
  e.i32(insn.pc);
  e.call(e.plan.callxFunction!);
  e.setRegister(0);
}

/** Checks the arguments in r1 …, calls the helper and leaves its result on the stack. */
export function pushHelperResult(e: Emitter, spec: HelperSpec, pc: Pc, state: RegisterState): void {
  for (const index of spec.args.keys()) checkArgument(e, spec, index, pc, state);
  if (spec.inline === 'fence') {
    e.fence();
    e.i64(0);
    return;
  }
  for (const index of spec.args.keys()) e.pushRegister(1 + index);
  e.call(e.plan.helperFunctions.get(spec.id)!);
}

function checkArgument(e: Emitter, spec: HelperSpec, index: number, pc: Pc, state: RegisterState): void {
  const arg = spec.args[index]!;
  const register = 1 + index;
  const provenance = state[register]!;
  const { counts, options } = e.plan;
  if (arg.kind === 'number' || arg.kind === 'ignored') return;
  const isDirect = typeof pc === 'number';
  if (isDirect && options.guardedArguments !== undefined) {
    if (((options.guardedArguments.get(pc) ?? 0) & (1 << index)) === 0) {
      counts.proved++;
      return;
    }
  }
  if (arg.kind === 'context') {
    if (provenance.origin === 'context' && provenance.offset === 0) {
      counts.proved++;
      return;
    }
    counts.guards++;
    e.pushRegister(register);
    e.get(e.context);
    e.op(OP.i64Ne);
    e.if();
    e.fault('EBPF_ACCESS', pc, () => e.pushRegister(register));
    e.op(OP.end);
    return;
  }
  const { size } = arg;
  if (typeof size === 'number' && prove(provenance, 0, size, options) !== null) {
    counts.proved++;
    return;
  }
  counts.guards++;
  emitCheck(
    e,
    isDirect ? e.plan.accessFunction : e.plan.checkFunction,
    () => e.pushRegister(register),
    () => (typeof size === 'number' ? e.i64(size) : e.pushRegister(1 + size.arg)),
    pc,
  );
}

/** Passes the registers that the callee reads and takes back those that it leaves for somebody to read. */
function emitLocalCall(e: Emitter, insn: Insn): void {
  const callee = e.plan.callees.get(targetOf(insn)!)!;
  if (e.plan.checkDepth && typeof e.frame !== 'number') {
    e.pushFrame();
    e.i32(e.plan.options.stackBase);
    e.op(OP.i32Eq);
    e.if();
    e.fault('EBPF_DEPTH', insn.pc);
    e.op(OP.end);
  }
  e.get(e.context);
  e.pushFrame();
  e.i32(STACK_SIZE);
  e.op(OP.i32Sub);
  for (const register of registersIn(callee.interface.params)) e.pushRegister(register);
  e.call(callee.index);
  for (const register of registersIn(callee.interface.results).toReversed()) e.setRegister(register);
}
