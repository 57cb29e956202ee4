/**
 * The dominator tree of a control-flow graph, and whether the graph is reducible.
 *
 * Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm": a block's immediate dominator is the nearest common
 * ancestor, in the tree built so far, of its predecessors. Two changes:
 * - Only forward edges are looked at, in one pass. For a reducible graph back edges change no dominator; for others
 *   nobody needs the tree.
 * - Ancestors are found over skip links in O(log n), so that no program makes this quadratic.
 */
import type { FunctionGraph } from './cfg.js';

export interface DominatorTree {
  /** By block; the entry is its own. */
  readonly idom: Int32Array;
  /** By block: how many blocks it dominates, itself included. */
  readonly size: Int32Array;
  /** Every back edge goes to a block that dominates its source: each loop has one entry. */
  readonly reducible: boolean;
}

export function dominatorTree(graph: FunctionGraph): DominatorTree {
  const count = graph.blocks.length;
  const idom = new Int32Array(count);
  const depth = new Int32Array(count);
  const skip = new Int32Array(count); // some ancestor, far above: a skew-binary chain

  const ancestor = (block: number, level: number): number => {
    let at = block;
    while (depth[at]! > level) at = depth[skip[at]!]! >= level ? skip[at]! : idom[at]!;
    return at;
  };
  const nearestCommon = (a: number, b: number): number => {
    const level = Math.min(depth[a]!, depth[b]!);
    let left = ancestor(a, level);
    let right = ancestor(b, level);
    while (left !== right) {
      const far = skip[left] !== skip[right];
      left = far ? skip[left]! : idom[left]!;
      right = far ? skip[right]! : idom[right]!;
    }
    return left;
  };

  for (let block = 1; block < count; block++) {
    let parent = -1;
    for (const predecessor of graph.predecessors[block]!) {
      if (predecessor >= block) break; // ascending: the rest are back edges
      parent = parent < 0 ? predecessor : nearestCommon(parent, predecessor);
    }
    idom[block] = parent;
    depth[block] = depth[parent]! + 1;
    const up = skip[parent]!;
    const even = depth[parent]! - depth[up]! === depth[up]! - depth[skip[up]!]!;
    skip[block] = even ? skip[up]! : parent;
  }

  const size = new Int32Array(count).fill(1);
  for (let block = count - 1; block > 0; block--) size[idom[block]!]! += size[block]!;

  let reducible = true;
  graph.blocks.forEach((block, source) => {
    for (const target of block.successors) {
      if (target <= source && ancestor(source, depth[target]!) !== target) reducible = false;
    }
  });
  return { idom, size, reducible };
}
