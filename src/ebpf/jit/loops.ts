/**
 * What the instruction budget is charged, and where: every cycle of the graph passes a block with a charge.
 *
 * In a reducible graph a loop's header pays for the whole body each time it is reached, except for what inner loops pay
 * themselves. So a trip that skips half of the body pays for it all the same: the budget bounds time, it does not count
 * instructions. In an irreducible graph every block pays for itself.
 */
import type { FunctionGraph } from './cfg.js';

/** By block: the instructions charged when it is entered, 0 for blocks that charge nothing. */
export function loopCharges(graph: FunctionGraph, reducible: boolean): Int32Array {
  const { blocks, predecessors } = graph;
  const charges = new Int32Array(blocks.length);
  if (!reducible) return charges.map((_, block) => blocks[block]!.insns.length);

  // Inner headers come after outer ones. A block that was given to a loop is stood for by that loop's header, so
  // that the walk through an outer loop steps over the whole inner one (Havlak's use of union-find).
  const stands = Int32Array.from(blocks, (_, block) => block);
  const find = (block: number): number => {
    let root = block;
    while (stands[root] !== root) root = stands[root]!;
    for (let at = block; at !== root; ) {
      const next = stands[at]!;
      stands[at] = root;
      at = next;
    }
    return root;
  };
  for (let header = blocks.length - 1; header >= 0; header--) {
    const latches = predecessors[header]!.filter(predecessor => predecessor >= header);
    if (latches.length === 0) continue;
    let charge = blocks[header]!.insns.length;
    const pending = latches.map(find);
    for (let block = pending.pop(); block !== undefined; block = pending.pop()) {
      if (find(block) === header) continue;
      stands[block] = header;
      if (charges[block] === 0) charge += blocks[block]!.insns.length;
      for (const predecessor of predecessors[block]!) pending.push(find(predecessor));
    }
    charges[header] = charge;
  }
  return charges;
}
