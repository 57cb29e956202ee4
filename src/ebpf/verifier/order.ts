/**
 * The order in which the blocks of a function are looked at: what comes before, before; each loop in one piece, its head first
 * (a weak topological order). So all rounds of a loop are over before the code behind it is reached.
 *
 * ```
 *   0  1 ( 2  3 ( 4  5 )  6 )  7        every edge back leads to the head of a loop around its start
 *          └─ head, end ──┘
 * ```
 * A loop is a strongly connected component; its inner loops are those of what is left without its head.
 */
import type { FunctionGraph } from '../jit/cfg.js';
import { liveRegisters } from './live.js';

export interface Order {
  /** Block numbers, by position. */
  readonly blocks: readonly number[];
  /** By block: its position. */
  readonly positions: Int32Array;
  /** By position: where the loop that starts there ends (the position behind it), 0 when none does. */
  readonly ends: Int32Array;
  /** By block: the registers that may still be read, see live.ts. */
  readonly live: Int32Array;
}

/** Loops within loops deeper than this are refused: compilers make a few, and each level costs a pass. */
const MAX_NESTING = 32;

/** @returns null when loops are nested too deeply */
export function orderBlocks(graph: FunctionGraph): Order | null {
  const count = graph.blocks.length;
  const blocks: number[] = [];
  const ends = new Int32Array(count);
  const search = new ComponentSearch(graph);

  const place = (members: readonly number[], nesting: number): boolean => {
    for (const component of search.components(members)) {
      const head = component.reduce((a, b) => Math.min(a, b)); // in reverse postorder: where a reducible loop is entered
      const position = blocks.push(head) - 1;
      if (component.length === 1 && !graph.blocks[head]!.successors.includes(head)) continue;
      if (nesting === MAX_NESTING) return false;
      const rest = component.filter(block => block !== head).sort((a, b) => a - b);
      if (!place(rest, nesting + 1)) return false;
      ends[position] = blocks.length;
    }
    return true;
  };
  if (!place([...graph.blocks.keys()], 0)) return null;

  const positions = new Int32Array(count);
  for (const [position, block] of blocks.entries()) positions[block] = position;
  return { blocks, positions, ends, live: liveRegisters(graph) };
}

/** Tarjan's search, without recursion. The arrays are by block and serve all searches. */
class ComponentSearch {
  readonly #graph: FunctionGraph;
  /** The search that a block takes part in. */
  readonly #member: Int32Array;
  /** Order of discovery, 0 before it. */
  readonly #index: Int32Array;
  /** The earliest block on the stack that is reached from here. */
  readonly #low: Int32Array;
  readonly #stacked: Uint8Array;
  #searches = 0;

  constructor(graph: FunctionGraph) {
    const count = graph.blocks.length;
    this.#graph = graph;
    this.#member = new Int32Array(count);
    this.#index = new Int32Array(count);
    this.#low = new Int32Array(count);
    this.#stacked = new Uint8Array(count);
  }

  /** The strongly connected components of some blocks, in topological order. */
  components(members: readonly number[]): readonly (readonly number[])[] {
    const search = ++this.#searches;
    for (const block of members) {
      this.#member[block] = search;
      this.#index[block] = 0;
    }
    const found: number[][] = [];
    let discovered = 0;
    const stack: number[] = [];
    for (const root of members) {
      if (this.#index[root] !== 0) continue;
      const path: { block: number; next: number }[] = [];
      const enter = (block: number): void => {
        this.#index[block] = this.#low[block] = ++discovered;
        this.#stacked[block] = 1;
        stack.push(block);
        path.push({ block, next: 0 });
      };
      enter(root);
      for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
        const { block } = top;
        const successor = this.#graph.blocks[block]!.successors[top.next++];
        if (successor === undefined) {
          path.pop();
          const below = path.at(-1);
          if (below !== undefined) this.#lower(below.block, this.#low[block]!);
          if (this.#low[block] === this.#index[block]) found.push(this.#unstack(stack, block));
        } else if (this.#member[successor] === search) {
          if (this.#index[successor] === 0) enter(successor);
          else if (this.#stacked[successor] === 1) this.#lower(block, this.#index[successor]!);
        }
      }
    }
    return found.reverse();
  }

  #lower(block: number, to: number): void {
    if (to < this.#low[block]!) this.#low[block] = to;
  }

  #unstack(stack: number[], until: number): number[] {
    const component: number[] = [];
    for (;;) {
      const block = stack.pop()!;
      this.#stacked[block] = 0;
      component.push(block);
      if (block === until) return component;
    }
  }
}
