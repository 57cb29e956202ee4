/**
 * Which registers a local function takes and hands back. eBPF functions share one register file: a callee may read any
 * of r0 … r9 as its caller left them, and after its exit r0 … r5 are as the callee left them. Compiled functions pass
 * only those that somebody reads, which for compilers' output are a few of r1 … r5 in and r0 out.
 *
 * A backward data-flow analysis on sets of registers, held as bits, over all functions at once.
 */
import { CALL_OPCODE, CALLX_OPCODE, EXIT_OPCODE, FORMS } from '../forms.js';
import { ALU, ATOMIC, CLASS, FRAME_POINTER, MODE } from '../isa.js';
import { type Insn, targetOf } from '../program.js';
import { type FunctionGraph, isLocalCall } from './cfg.js';
import { type Place, Worklist } from './worklist.js';

/** Sets of registers: bit n for rn. */
export interface Interface {
  /** Read before they are written. */
  readonly params: number;
  /** Read by a caller afterwards; r0 always. */
  readonly results: number;
}

const RESULT = 1 << 0;
const ARGUMENTS = 0b11_1110; // r1 … r5
const HANDED_BACK = RESULT | ARGUMENTS;
const KEPT = 0b11_1100_0000; // r6 … r9
const ALL = HANDED_BACK | KEPT;

/** @returns by function */
export function analyseInterfaces(graphs: readonly FunctionGraph[]): readonly Interface[] {
  const params = graphs.map(() => 0);
  const results = graphs.map(() => RESULT);
  if (graphs.length === 1) return [{ params: ALL, results: RESULT }];

  const liveIn = graphs.map(graph => new Int32Array(graph.blocks.length));
  const calleeOf = new Map(graphs.slice(1).map((graph, index) => [graph.pc, index + 1]));
  const exits = graphs.map(graph => blocksWith(graph, insn => insn.opcode === EXIT_OPCODE));
  const callSites = graphs.map((): Place[] => []);
  graphs.forEach((graph, index) => {
    graph.blocks.forEach(({ insns }, block) => {
      for (const insn of insns) {
        if (isLocalCall(insn)) callSites[calleeOf.get(targetOf(insn)!)!]!.push({ graph: index, block });
      }
    });
  });

  const pending = new Worklist(graphs, 'backward');
  graphs.forEach((graph, index) => {
    for (const block of graph.blocks.keys()) pending.push(index, block);
  });
  for (let item = pending.pop(); item !== undefined; item = pending.pop()) {
    const { graph, block } = item;
    const { insns, successors } = graphs[graph]!.blocks[block]!;
    let live = successors.reduce((set, successor) => set | liveIn[graph]![successor]!, 0);
    for (const insn of insns.toReversed()) {
      if (insn.opcode === EXIT_OPCODE) {
        live = results[graph]!;
      } else if (isLocalCall(insn)) {
        const callee = calleeOf.get(targetOf(insn)!)!;
        const wanted = live & HANDED_BACK & ~results[callee]!;
        if (wanted !== 0) {
          results[callee]! |= wanted;
          for (const exit of exits[callee]!) pending.push(callee, exit);
        }
        live = (live & KEPT) | params[callee]!;
      } else {
        live = (live & ~written(insn)) | read(insn);
      }
    }
    if (live === liveIn[graph]![block]) continue;
    liveIn[graph]![block] = live;
    for (const predecessor of graphs[graph]!.predecessors[block]!) pending.push(graph, predecessor);
    if (block === 0) {
      params[graph] = live;
      for (const site of callSites[graph]!) pending.push(site.graph, site.block);
    }
  }
  return graphs.map((_, index) => ({ params: params[index]! & ALL, results: results[index]! }));
}

/** The registers of a set, in ascending order. */
export function registersIn(set: number): readonly number[] {
  return Array.from({ length: FRAME_POINTER }, (_, register) => register).filter(
    register => set & (1 << register),
  );
}

function blocksWith(graph: FunctionGraph, test: (insn: Insn) => boolean): readonly number[] {
  return graph.blocks.flatMap((block, number) => (block.insns.some(test) ? [number] : []));
}

function read({ opcode, dst, src, imm }: Insn): number {
  if (opcode === CALL_OPCODE) return ARGUMENTS; // a helper; which of them it takes does not matter here
  const form = FORMS.get(opcode)!;
  let set = opcode === CALLX_OPCODE ? ARGUMENTS : 0;
  if (form.src === 'read') set |= 1 << src;
  const isAlu = (opcode & 7) === CLASS.ALU || (opcode & 7) === CLASS.ALU64;
  const combines = isAlu && (opcode & 0xf0) !== ALU.MOV;
  if (form.dst === 'read' || combines) set |= 1 << dst;
  if (isAtomic(opcode) && imm === ATOMIC.CMPXCHG) set |= RESULT;
  return set;
}

function written({ opcode, dst, src, imm }: Insn): number {
  if (opcode === CALL_OPCODE || opcode === CALLX_OPCODE) return RESULT;
  if (isAtomic(opcode)) {
    if (imm === ATOMIC.CMPXCHG) return RESULT;
    return (imm & ATOMIC.FETCH) !== 0 ? 1 << src : 0;
  }
  return FORMS.get(opcode)!.dst === 'write' ? 1 << dst : 0;
}

function isAtomic(opcode: number): boolean {
  return (opcode & 7) === CLASS.STX && (opcode & 0xe0) === MODE.ATOMIC;
}
