/**
 * A whole program → the bytes of a WebAssembly module.
 *
 * ```
 *   imports   env.memory, helper.ID for each helper that is called
 *   exports   run: (context: i64) → i64; fault_code, fault_pc, fault_address
 * ```
 */

import { CALL_OPCODE, CALLX_OPCODE } from '../forms.js';
import { type HelperSpec, helperKey } from '../helpers.js';
import { MAX_CALL_DEPTH } from '../isa.js';
import { EbpfError, type Program, targetOf } from '../program.js';
import { buildGraphs, type FunctionGraph, isLocalCall } from './cfg.js';
import { FAULT_EXPORTS, faultNumber } from './faults.js';
import {
  compileLocal,
  compileMain,
  localParams,
  localResults,
  MAIN_PARAMS,
  MAIN_RESULTS,
} from './function.js';
import { analyseInterfaces } from './liveness.js';
import type { JitOptions } from './options.js';
import type { ModulePlan } from './plan.js';
import { analyseProvenance } from './provenance.js';
import {
  CALLX_PARAMS,
  CALLX_RESULTS,
  CHECK_PARAMS,
  callxBody,
  checkBody,
  FAULT_PARAMS,
  faultBody,
} from './runtime.js';
import { ModuleBuilder } from './wasm-encoder.js';
import { TYPE } from './wasm-opcodes.js';

export const RUN = 'run';
export const MEMORY = { module: 'env', name: 'memory' } as const;
export const HELPER_MODULE = 'helper';

export interface CompiledBytes {
  readonly bytes: Uint8Array;
  readonly counts: ModulePlan['counts'];
}

export function compileModule(program: Program, options: JitOptions): CompiledBytes {
  checkOptions(options);
  const graphs = buildGraphs(program);
  const interfaces = analyseInterfaces(graphs);
  const states = analyseProvenance(graphs, options.contextSize);

  const builder = new ModuleBuilder();
  builder.importMemory(MEMORY.module, MEMORY.name, options.memoryPages, options.sharedMemory);
  const helperFunctions = new Map<number, number>();
  for (const spec of calledHelpers(program, options)) {
    const params = spec.args.map(() => TYPE.I64);
    helperFunctions.set(spec.id, builder.importFunction(HELPER_MODULE, String(spec.id), params, [TYPE.I64]));
  }
  const faultGlobals = [TYPE.I32, TYPE.I32, TYPE.I64].map(type => builder.addGlobal(type));
  [FAULT_EXPORTS.code, FAULT_EXPORTS.pc, FAULT_EXPORTS.address].forEach((name, index) => {
    builder.exportGlobal(name, faultGlobals[index]!);
  });

  const usesCallx = program.insns.some(insn => insn.opcode === CALLX_OPCODE);
  const main = builder.declareFunction(MAIN_PARAMS, MAIN_RESULTS);
  const checkFunction = builder.declareFunction(CHECK_PARAMS, []);
  const accessFunction = options.confined ? builder.declareFunction(CHECK_PARAMS, []) : checkFunction;
  const plan: ModulePlan = {
    options,
    faultNumber,
    faultFunction: builder.declareFunction(FAULT_PARAMS, []),
    checkFunction,
    accessFunction,
    callxFunction: usesCallx ? builder.declareFunction(CALLX_PARAMS, CALLX_RESULTS) : null,
    helperFunctions,
    callees: new Map(
      graphs.slice(1).map((graph, index) => {
        const shape = interfaces[index + 1]!;
        const declared = builder.declareFunction(localParams(shape), localResults(shape));
        return [graph.pc, { index: declared, graph, interface: shape }];
      }),
    ),
    checkDepth: nestsTooDeep(graphs),
    budget: budgetPlace(builder, graphs, options),
    counts: { guards: 0, proved: 0, structured: true },
  };

  builder.defineFunction(main, compileMain(plan, graphs[0]!, states[0]!));
  builder.defineFunction(plan.faultFunction, faultBody(plan, faultGlobals));
  builder.defineFunction(checkFunction, checkBody(plan, 'all'));
  if (options.confined) builder.defineFunction(accessFunction, checkBody(plan, 'context'));
  if (plan.callxFunction !== null) builder.defineFunction(plan.callxFunction, callxBody(plan));
  [...plan.callees.values()].forEach((callee, index) => {
    const body = compileLocal(plan, callee.graph, states[index + 1]!, callee.interface);
    builder.defineFunction(callee.index, body);
  });
  builder.exportFunction(RUN, main);
  return { bytes: builder.finish(), counts: plan.counts };
}

function checkOptions({ stackBase, contextSize, budget, extra = [] }: JitOptions): void {
  const whole = (value: number) => Number.isSafeInteger(value) && value >= 0;
  const regions = [{ base: stackBase, size: 1 }, ...extra];
  if (!whole(contextSize) || regions.some(({ base, size }) => !whole(base) || !whole(size) || base === 0)) {
    throw new EbpfError(
      'EBPF_SANDBOX',
      'sizes and bases of memory regions must be whole numbers, bases not 0',
    );
  }
  if (stackBase % 8 !== 0) throw new EbpfError('EBPF_SANDBOX', 'the stack is not aligned to 8 bytes');
  if (!(budget === Number.POSITIVE_INFINITY || whole(budget))) {
    throw new EbpfError('EBPF_SANDBOX', 'the budget must be a whole number or Infinity');
  }
}

/** Those with an implementation that the program may call: all of them when an id comes from a register. */
function calledHelpers(program: Program, { helpers }: JitOptions): readonly HelperSpec[] {
  const anyOfThem = program.insns.some(insn => insn.opcode === CALLX_OPCODE);
  const keys = new Set(
    program.insns.filter(insn => insn.opcode === CALL_OPCODE && !isLocalCall(insn)).map(helperKey),
  );
  return [...helpers.values()].filter(spec => spec.inline === undefined && (anyOfThem || keys.has(spec.id)));
}

/** Whether some chain of calls, taken or not, is longer than there are frames; recursion always is. */
function nestsTooDeep(graphs: readonly FunctionGraph[]): boolean {
  const byPc = new Map(graphs.slice(1).map(graph => [graph.pc, graph]));
  let level: ReadonlySet<FunctionGraph> = new Set([graphs[0]!]);
  for (let depth = 1; depth <= MAX_CALL_DEPTH; depth++) {
    const next = new Set<FunctionGraph>();
    for (const graph of level) {
      for (const call of graph.calls) next.add(byPc.get(targetOf(call)!)!);
    }
    level = next;
  }
  return level.size > 0;
}

function budgetPlace(
  builder: ModuleBuilder,
  graphs: readonly FunctionGraph[],
  options: JitOptions,
): ModulePlan['budget'] {
  if (options.budget === Number.POSITIVE_INFINITY) return 'none';
  return graphs.length === 1 ? 'local' : { global: builder.addGlobal(TYPE.I64) };
}
