/**
 * Control flow of any shape, as a loop around a switch: for irreducible graphs, which have no structured form without
 * copies of code, and for those whose structured form would nest too deep.
 *
 * ```
 *   loop                          next := 0 at entry (locals start as 0)
 *     block … block block         one for each group of 128 blocks
 *       switch next >> 7
 *     end
 *       block … block block       one for each block of the group
 *         switch next & 127
 *       end
 *       code of block 0   next := its successor   br loop
 *       end
 *       code of block 1 …
 * ```
 * Two levels keep the nesting below 260 for the longest program.
 */
import type { FunctionGraph } from './cfg.js';
import type { ControlOp } from './structure.js';

const GROUP_BITS = 7;
const GROUP_SIZE = 1 << GROUP_BITS;

export function dispatchLoop(graph: FunctionGraph): readonly ControlOp[] {
  const count = graph.blocks.length;
  const groups = Math.ceil(count / GROUP_SIZE);
  const ops: ControlOp[] = [{ op: 'loop' }];
  const open = (n: number): void => {
    for (let i = 0; i < n; i++) ops.push({ op: 'block' });
  };

  open(groups);
  ops.push({ op: 'dispatch', shift: GROUP_BITS, mask: -1, depths: range(groups) });
  for (let group = 0; group < groups; group++) {
    ops.push({ op: 'end' });
    const first = group * GROUP_SIZE;
    const members = Math.min(GROUP_SIZE, count - first);
    open(members);
    ops.push({ op: 'dispatch', shift: 0, mask: GROUP_SIZE - 1, depths: range(members) });
    for (let member = 0; member < members; member++) {
      ops.push({ op: 'end' });
      const around = members - 1 - member + (groups - 1 - group); // constructs between here and the loop
      pushBlock(ops, graph, first + member, around);
    }
  }
  ops.push({ op: 'end' }, { op: 'unreachable' });
  return ops;
}

function pushBlock(ops: ControlOp[], graph: FunctionGraph, block: number, loopDepth: number): void {
  ops.push({ op: 'code', block });
  const [first, second] = graph.blocks[block]!.successors;
  if (first === undefined) return;
  if (second !== undefined) {
    ops.push({ op: 'if' }, { op: 'next', block: first }, { op: 'br', depth: loopDepth + 1 }, { op: 'end' });
  }
  ops.push({ op: 'next', block: second ?? first }, { op: 'br', depth: loopDepth });
}

function range(count: number): readonly number[] {
  return Array.from({ length: count }, (_, i) => i);
}
