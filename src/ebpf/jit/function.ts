/**
 * One eBPF function → one WebAssembly function.
 *
 * ```
 *   main function    (context: i64) → r0
 *   local function   (context: i64, frame: i32, registers that it reads …) → r0, registers that a caller reads …
 * ```
 */
import { CALLX_OPCODE, EXIT_OPCODE, GOTOL_OPCODE, JA_OPCODE } from '../forms.js';
import { CLASS, JMP, MAX_CALL_DEPTH, STACK_SIZE } from '../isa.js';
import type { Insn } from '../program.js';
import { emitAlu } from './alu.js';
import { emitCondition } from './branches.js';
import { emitCall, emitCallx } from './calls.js';
import type { FunctionGraph } from './cfg.js';
import { dispatchLoop } from './dispatch.js';
import { dominatorTree } from './dominators.js';
import { Emitter } from './emitter.js';
import { type Interface, registersIn } from './liveness.js';
import { loopCharges } from './loops.js';
import { emitLoad, emitStore } from './memory.js';
import type { ModulePlan } from './plan.js';
import { type Provenance, type RegisterState, step } from './provenance.js';
import { type ControlOp, structure } from './structure.js';
import type { FunctionBody, ValueType } from './wasm-encoder.js';
import { OP, TYPE } from './wasm-opcodes.js';

/** Compilers' time grows faster than the nesting; beyond this a dispatch loop is better for everybody. */
const MAX_NESTING = 500;

const CONTEXT = 0;
const FRAME = 1;

export const MAIN_PARAMS: readonly ValueType[] = [TYPE.I64];
export const MAIN_RESULTS: readonly ValueType[] = [TYPE.I64];

export function localParams(shape: Interface): readonly ValueType[] {
  return [TYPE.I64, TYPE.I32, ...registersIn(shape.params).map(() => TYPE.I64)];
}

export function localResults(shape: Interface): readonly ValueType[] {
  return registersIn(shape.results).map(() => TYPE.I64);
}

/** The main function: it starts with r1 = context, r2 = its size and all else 0. */
export function compileMain(
  plan: ModulePlan,
  graph: FunctionGraph,
  states: readonly RegisterState[],
): FunctionBody {
  const { stackBase, contextSize } = plan.options;
  const frame = stackBase + (MAX_CALL_DEPTH - 1) * STACK_SIZE;
  const e = new Emitter(plan, { params: MAIN_PARAMS, context: CONTEXT, frame, registers: new Map() });
  emitControl(e, graph, states, [0]);

  const body = e.takeCode();
  if (e.usesRegister(1)) {
    e.get(CONTEXT);
    e.setRegister(1);
  }
  if (e.usesRegister(2)) {
    e.i64(contextSize);
    e.setRegister(2);
  }
  emitBudgetStart(e);
  emitContext32(e);
  e.code.append(body);
  return { params: MAIN_PARAMS, results: MAIN_RESULTS, locals: e.locals, code: e.takeCode() };
}

export function compileLocal(
  plan: ModulePlan,
  graph: FunctionGraph,
  states: readonly RegisterState[],
  shape: Interface,
): FunctionBody {
  const params = localParams(shape);
  const registers = new Map(
    registersIn(shape.params).map((register, index) => [register, FRAME + 1 + index]),
  );
  const e = new Emitter(plan, { params, context: CONTEXT, frame: { local: FRAME }, registers });
  emitControl(e, graph, states, registersIn(shape.results));

  const body = e.takeCode();
  emitCharge(e, graph.size, graph.pc); // calls can multiply without any loop
  emitContext32(e);
  e.code.append(body);
  return { params, results: localResults(shape), locals: e.locals, code: e.takeCode() };
}

function emitControl(
  e: Emitter,
  graph: FunctionGraph,
  states: readonly RegisterState[],
  results: readonly number[],
): void {
  const tree = dominatorTree(graph);
  const charges = loopCharges(graph, tree.reducible);
  const structured = tree.reducible ? structure(graph, tree, MAX_NESTING) : null;
  if (structured === null) e.plan.counts.structured = false;
  for (const item of structured ?? dispatchLoop(graph)) emitControlOp(e, item);

  function emitControlOp(e: Emitter, item: ControlOp): void {
    switch (item.op) {
      case 'block':
        e.op(OP.block, TYPE.EMPTY);
        break;
      case 'loop':
        e.op(OP.loop, TYPE.EMPTY);
        break;
      case 'if':
        e.if();
        break;
      case 'end':
        e.op(OP.end);
        break;
      case 'unreachable':
        e.op(OP.unreachable);
        break;
      case 'not':
        e.op(OP.i32Eqz);
        break;
      case 'br':
        e.indexed(OP.br, item.depth);
        break;
      case 'brIf':
        e.indexed(OP.brIf, item.depth);
        break;
      case 'next':
        e.i32(item.block);
        e.set(e.local('next', TYPE.I32));
        break;
      case 'dispatch':
        emitDispatch(e, item);
        break;
      case 'code': {
        const block = graph.blocks[item.block]!;
        const state = [...states[item.block]!];
        emitCharge(e, charges[item.block]!, block.pc);
        for (const insn of block.insns) {
          emitInsn(e, insn, state, block.successors.length, results);
          step(state, insn);
        }
      }
    }
  }
}

function emitInsn(
  e: Emitter,
  insn: Insn,
  state: Provenance[],
  successors: number,
  results: readonly number[],
): void {
  switch (insn.opcode & 7) {
    case CLASS.ALU:
    case CLASS.ALU64:
      emitAlu(e, insn);
      break;
    case CLASS.LD:
      e.i64(insn.imm64!);
      e.setRegister(insn.dst);
      break;
    case CLASS.LDX:
      emitLoad(e, insn, state);
      break;
    case CLASS.ST:
    case CLASS.STX:
      emitStore(e, insn, state);
      break;
    default:
      if (insn.opcode === EXIT_OPCODE) {
        for (const register of results) e.pushRegister(register);
        e.op(OP.return);
      } else if (insn.opcode === CALLX_OPCODE) {
        emitCallx(e, insn);
      } else if ((insn.opcode & 0xf0) === JMP.CALL) {
        emitCall(e, insn, state);
      } else if (insn.opcode !== JA_OPCODE && insn.opcode !== GOTOL_OPCODE && successors === 2) {
        emitCondition(e, insn);
      }
  }
}

function emitDispatch(e: Emitter, item: Extract<ControlOp, { op: 'dispatch' }>): void {
  e.get(e.local('next', TYPE.I32));
  if (item.shift !== 0) {
    e.i32(item.shift);
    e.op(OP.i32ShrU);
  }
  if (item.mask !== -1) {
    e.i32(item.mask);
    e.op(OP.i32And);
  }
  e.indexed(OP.brTable, item.depths.length - 1);
  for (const depth of item.depths) e.code.u32(depth); // the last one is the default
}

/** Sets the context's address as i32, when accesses asked for it. */
function emitContext32(e: Emitter): void {
  if (!e.usesLocal('context32')) return;
  e.get(e.context);
  e.op(OP.i32WrapI64);
  e.set(e.local('context32', TYPE.I32));
}

function emitBudgetStart(e: Emitter): void {
  const { budget, options } = e.plan;
  if (budget === 'none') return;
  if (budget === 'local') {
    if (!e.usesLocal('budget')) return;
    e.i64(options.budget);
    e.set(e.local('budget', TYPE.I64));
  } else {
    e.i64(options.budget);
    e.indexed(OP.globalSet, budget.global);
  }
}

function emitCharge(e: Emitter, amount: number, pc: number): void {
  const { budget } = e.plan;
  if (amount === 0 || budget === 'none') return;
  const read = () => {
    if (budget === 'local') e.get(e.local('budget', TYPE.I64));
    else e.indexed(OP.globalGet, budget.global);
  };
  read();
  e.i64(amount);
  e.op(OP.i64Sub);
  if (budget === 'local') {
    e.tee(e.local('budget', TYPE.I64));
  } else {
    e.indexed(OP.globalSet, budget.global);
    read();
  }
  e.i64(0);
  e.op(OP.i64LtS);
  e.if();
  e.fault('EBPF_BUDGET', pc);
  e.op(OP.end);
}
