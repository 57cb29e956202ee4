/**
 * The functions that come with every compiled program.
 *
 * ```
 *   fault(number: i32, pc: i32, address: i64)                      leaves word of a fault and traps
 *   check(address: i64, context: i64, size: i64, pc: i32)          faults unless the bytes lie in one region, or in the context
 *   callx(id: i64, context: i64, r1 … r5: i64, pc: i32) → i64      calls a helper by its id
 * ```
 */
import { pushHelperResult } from './calls.js';
import { Emitter } from './emitter.js';
import { STACK_BYTES } from './guards.js';
import type { ModulePlan } from './plan.js';
import type { RegisterState } from './provenance.js';
import type { FunctionBody, ValueType } from './wasm-encoder.js';
import { OP, TYPE } from './wasm-opcodes.js';

const { I32, I64 } = TYPE;

export const FAULT_PARAMS: readonly ValueType[] = [I32, I32, I64];
export const CHECK_PARAMS: readonly ValueType[] = [I64, I64, I64, I32];
export const CALLX_PARAMS: readonly ValueType[] = [I64, I64, I64, I64, I64, I64, I64, I32];
export const CALLX_RESULTS: readonly ValueType[] = [I64];

/** @param globals those of number, pc and address */
export function faultBody(plan: ModulePlan, globals: readonly number[]): FunctionBody {
  const e = new Emitter(plan, { params: FAULT_PARAMS, context: 0, frame: 0, registers: new Map() });
  for (const [local, global] of globals.entries()) {
    e.get(local);
    e.indexed(OP.globalSet, global);
  }
  e.op(OP.unreachable);
  return { params: FAULT_PARAMS, results: [], locals: [], code: e.takeCode() };
}

/** @param regions where the bytes may lie */
export function checkBody(plan: ModulePlan, regions: 'all' | 'context'): FunctionBody {
  const [address, context, size, pc] = [0, 1, 2, 3];
  const e = new Emitter(plan, { params: CHECK_PARAMS, context, frame: 0, registers: new Map() });
  const { contextSize, stackBase, extra = [] } = plan.options;
  const distance = e.local('distance', I64);

  e.get(size);
  e.op(OP.i64Eqz);
  e.if();
  e.op(OP.return, OP.end);
  /** Returns when the bytes lie in a region: distance ≤ length and size ≤ length - distance. */
  const tryRegion = (pushBase: () => void, length: number) => {
    e.get(address);
    pushBase();
    e.op(OP.i64Sub);
    e.tee(distance);
    e.i64(length);
    e.op(OP.i64LeU);
    e.if();
    e.get(size);
    e.i64(length);
    e.get(distance);
    e.op(OP.i64Sub, OP.i64LeU);
    e.if();
    e.op(OP.return, OP.end, OP.end);
  };
  tryRegion(() => e.get(context), contextSize);
  if (regions === 'all') {
    tryRegion(() => e.i64(stackBase), STACK_BYTES);
    for (const region of extra) tryRegion(() => e.i64(region.base), region.size);
  }
  e.fault('EBPF_ACCESS', { local: pc }, () => e.get(address));
  return { params: CHECK_PARAMS, results: [], locals: e.locals, code: e.takeCode() };
}

export function callxBody(plan: ModulePlan): FunctionBody {
  const [id, context, firstArgument, pc] = [0, 1, 2, 7];
  const registers = new Map([1, 2, 3, 4, 5].map((register, index) => [register, firstArgument + index]));
  const e = new Emitter(plan, { params: CALLX_PARAMS, context, frame: 0, registers });
  const nothingKnown: RegisterState = new Array(11).fill({ origin: 'unknown', offset: null });
  for (const spec of plan.options.helpers.values()) {
    e.get(id);
    e.i64(spec.id);
    e.op(OP.i64Eq);
    e.if();
    pushHelperResult(e, spec, { local: pc }, nothingKnown);
    e.op(OP.return, OP.end);
  }
  e.fault('EBPF_CALL', { local: pc });
  return { params: CALLX_PARAMS, results: CALLX_RESULTS, locals: e.locals, code: e.takeCode() };
}
