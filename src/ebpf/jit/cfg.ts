/**
 * The control-flow graph of one function: basic blocks in reverse postorder, so that `blocks[0]` is the entry and an
 * edge to a block of a smaller or the same number goes back.
 *
 * A function is what can be reached from its first slot by jumps: the program's first slot for the main function, the
 * target of a local call for all others. Functions may share instructions; each gets blocks of its own.
 */
import { CALL_OPCODE, EXIT_OPCODE, GOTOL_OPCODE, JA_OPCODE } from '../forms.js';
import { CALL } from '../isa.js';
import { EbpfError, type Insn, isJumpClass, type Program, targetOf } from '../program.js';

export interface Block {
  /** Slot of the first instruction. */
  readonly pc: number;
  /** Not empty; the last one is the jump or exit that ends the block, if there is one. */
  readonly insns: readonly Insn[];
  /**
   * Numbers of the blocks that follow: none after an exit, one after a jump or when the next block is run into, two
   * after a conditional jump: taken, not taken. Two successors are never the same block.
   */
  readonly successors: readonly number[];
}

export interface FunctionGraph {
  /** Slot of the first instruction. */
  readonly pc: number;
  readonly blocks: readonly Block[];
  /** By block, in ascending order. */
  readonly predecessors: readonly (readonly number[])[];
  /** The local calls in it. */
  readonly calls: readonly Insn[];
  /** Number of instructions. */
  readonly size: number;
}

/**
 * Functions may overlap, so their sizes can add up to the square of the program's; beyond this multiple of the
 * program's length it is refused.
 */
const MAX_OVERLAP = 8;

/**
 * The functions of a program, the main function first. One that calls its own first slot has it twice: as the main
 * function and as a local one.
 * @throws EbpfError `EBPF_OVERLAP` when functions share so much code that compiling each would take too long
 */
export function buildGraphs(program: Program): readonly FunctionGraph[] {
  const before = built.get(program);
  if (before !== undefined) return before;
  const graphs = build(program);
  built.set(program, graphs);
  return graphs;
}

/** A program is verified, then compiled, and either way wants them. */
const built = new WeakMap<Program, readonly FunctionGraph[]>();

function build(program: Program): readonly FunctionGraph[] {
  const finder = new BlockFinder(program);
  const main = finder.graph(0);
  const graphs = [main];
  const callees = new Set(main.calls.map(call => targetOf(call)!));
  let total = main.size;
  for (const entry of callees) {
    const graph = finder.graph(entry);
    total += graph.size;
    if (total > MAX_OVERLAP * program.insns.length) {
      throw new EbpfError('EBPF_OVERLAP', 'the local functions share too much code', entry);
    }
    for (const call of graph.calls) callees.add(targetOf(call)!);
    graphs.push(graph);
  }
  return graphs;
}

export function isLocalCall(insn: Insn): boolean {
  return insn.opcode === CALL_OPCODE && insn.src === CALL.LOCAL;
}

interface RawBlock {
  readonly insns: Insn[];
  readonly successors: readonly number[];
}

/** Finds blocks by walking the code; the marks carry the number of the walk, so that none needs clearing. */
class BlockFinder {
  readonly #bySlot: Program['bySlot'];
  readonly #reached: Uint32Array;
  readonly #leader: Uint32Array;
  #walk = 0;

  constructor(program: Program) {
    this.#bySlot = program.bySlot;
    this.#reached = new Uint32Array(program.slots);
    this.#leader = new Uint32Array(program.slots);
  }

  graph(entry: number): FunctionGraph {
    this.#walk++;
    const calls = this.#markLeaders(entry);
    const raw = new Map<number, RawBlock>();
    const order = reversePostorder(entry, pc => {
      const block = this.#block(pc);
      raw.set(pc, block);
      return block.successors;
    });
    const numbers = new Map(order.map((pc, number) => [pc, number]));
    const blocks = order.map(pc => {
      const { insns, successors } = raw.get(pc)!;
      return { pc, insns, successors: successors.map(target => numbers.get(target)!) };
    });
    const predecessors: number[][] = blocks.map(() => []);
    blocks.forEach((block, number) => {
      for (const successor of block.successors) predecessors[successor]!.push(number);
    });
    const size = blocks.reduce((sum, block) => sum + block.insns.length, 0);
    return { pc: entry, blocks, predecessors, calls, size };
  }

  #markLeaders(entry: number): readonly Insn[] {
    const walk = this.#walk;
    const calls: Insn[] = [];
    const pending = [entry];
    this.#leader[entry] = walk;
    for (let start = pending.pop(); start !== undefined; start = pending.pop()) {
      for (let pc = start; this.#reached[pc] !== walk; ) {
        this.#reached[pc] = walk;
        const insn = this.#bySlot[pc]!;
        if (isLocalCall(insn)) calls.push(insn);
        const next = nextSlots(insn);
        if (next === null) {
          pc += insn.slots;
          continue;
        }
        for (const target of next) {
          if (this.#leader[target] !== walk) pending.push(target);
          this.#leader[target] = walk;
        }
        break;
      }
    }
    return calls;
  }

  #block(start: number): RawBlock {
    const insns: Insn[] = [];
    for (let pc = start; ; ) {
      const insn = this.#bySlot[pc]!;
      insns.push(insn);
      const next = nextSlots(insn);
      if (next !== null) return { insns, successors: next };
      pc += insn.slots;
      if (this.#leader[pc] === this.#walk) return { insns, successors: [pc] };
    }
  }
}

/** Where a jump or exit goes: taken first; null for instructions that always run into the next one. */
function nextSlots(insn: Insn): readonly number[] | null {
  if (!isJumpClass(insn.opcode)) return null;
  if (insn.opcode === EXIT_OPCODE) return [];
  if (insn.opcode === CALL_OPCODE) return null;
  const target = targetOf(insn);
  if (target === null) return null;
  const unconditional = insn.opcode === JA_OPCODE || insn.opcode === GOTOL_OPCODE;
  const next = insn.pc + insn.slots;
  return unconditional || target === next ? [target] : [target, next];
}

/** Depth-first without recursion; asks for the successors of each node once. */
function reversePostorder(entry: number, successorsOf: (pc: number) => readonly number[]): readonly number[] {
  const seen = new Set([entry]);
  const finished: number[] = [];
  const path = [{ pc: entry, successors: successorsOf(entry), next: 0 }];
  for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
    const successor = top.successors[top.next++];
    if (successor === undefined) {
      finished.push(top.pc);
      path.pop();
    } else if (!seen.has(successor)) {
      seen.add(successor);
      path.push({ pc: successor, successors: successorsOf(successor), next: 0 });
    }
  }
  return finished.reverse();
}
