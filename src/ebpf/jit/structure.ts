/**
 * From a control-flow graph to WebAssembly's structured control flow, after Norman Ramsey, "Beyond Relooper" (2022).
 *
 * The code of a block X is followed by that of the blocks it dominates. A block M with several forward predecessors is
 * placed after a WebAssembly `block` that X opens: leaving that block reaches M. A loop header opens a `loop`.
 *
 * ```
 *      A            block $D          $D is placed by A, its immediate dominator
 *     / \             A
 *    B   C            if  B  br $D  end
 *     \ /             C
 *      D            end
 *                   D
 * ```
 *
 * Every piece ends by leaving, so the second arm of a branch need not be nested in an `else`: it follows the first. The
 * arm that dominates less is nested, so `if` alone never nests deeper than the logarithm of the number of blocks.
 * Nothing here recurses: a program of any shape fits the JavaScript stack.
 */
import type { FunctionGraph } from './cfg.js';
import type { DominatorTree } from './dominators.js';

/** A piece of structured code. Branch depths count enclosing `block`, `loop` and `if` from the inside. */
export type ControlOp =
  | { readonly op: 'block' | 'loop' | 'end' | 'unreachable' }
  /** The block's instructions but for a final jump; when it ends in a conditional jump, leaves the condition on the stack. */
  | { readonly op: 'code'; readonly block: number }
  | { readonly op: 'if' | 'not' }
  | { readonly op: 'br' | 'brIf'; readonly depth: number }
  /** Takes the next block's number from the local `next` and branches to `depths[(next >> shift) & mask]`. */
  | {
      readonly op: 'dispatch';
      readonly shift: number;
      readonly mask: number;
      readonly depths: readonly number[];
    }
  /** Sets the local `next`. */
  | { readonly op: 'next'; readonly block: number };

/** What is still to be done, the next thing last. */
type Task =
  | { readonly kind: 'tree' | 'code' | 'openBlock' | 'closeBlock' | 'closeLoop'; readonly block: number }
  | { readonly kind: 'go'; readonly from: number; readonly block: number }
  | { readonly kind: 'closeIf' };

/**
 * @returns the code of a reducible graph in order, or null when constructs would nest deeper than `maxNesting`
 */
export function structure(
  graph: FunctionGraph,
  tree: DominatorTree,
  maxNesting: number,
): readonly ControlOp[] | null {
  const { blocks, predecessors } = graph;
  const forwardEdges = predecessors.map((list, block) => list.filter(from => from < block).length);
  const isMerge = (block: number): boolean => forwardEdges[block]! > 1;
  const isHeader = predecessors.map((list, block) => list.some(from => from >= block));
  const merges: number[][] = blocks.map(() => []);
  for (let block = 1; block < blocks.length; block++) {
    if (isMerge(block)) merges[tree.idom[block]!]!.push(block);
  }

  const ops: ControlOp[] = [];
  const tasks: Task[] = [{ kind: 'tree', block: 0 }];
  let nesting = 0;
  let deepest = 0;
  // The nesting level inside which a branch to the block's construct is legal: depth = nesting - level.
  const blockLevel = new Int32Array(blocks.length);
  const loopLevel = new Int32Array(blocks.length);

  const open = (op: ControlOp): number => {
    ops.push(op);
    deepest = Math.max(deepest, ++nesting);
    return nesting;
  };
  const close = (): void => {
    ops.push({ op: 'end' });
    nesting--;
  };
  /** The branch that goes from one block to another, or null when the other's code belongs right here. */
  const branchDepth = (from: number, to: number): number | null => {
    if (to <= from) return nesting - loopLevel[to]!;
    return isMerge(to) ? nesting - blockLevel[to]! : null;
  };

  const finishBlock = (block: number): void => {
    ops.push({ op: 'code', block });
    const [first, second] = blocks[block]!.successors;
    if (first === undefined) return;
    if (second === undefined) {
      tasks.push({ kind: 'go', from: block, block: first });
      return;
    }
    const firstDepth = branchDepth(block, first);
    const secondDepth = branchDepth(block, second);
    if (firstDepth !== null) {
      ops.push({ op: 'brIf', depth: firstDepth });
      tasks.push({ kind: 'go', from: block, block: second });
    } else if (secondDepth !== null) {
      ops.push({ op: 'not' }, { op: 'brIf', depth: secondDepth });
      tasks.push({ kind: 'go', from: block, block: first });
    } else {
      const nestFirst = tree.size[first]! <= tree.size[second]!;
      if (!nestFirst) ops.push({ op: 'not' });
      open({ op: 'if' });
      tasks.push({ kind: 'tree', block: nestFirst ? second : first });
      tasks.push({ kind: 'closeIf' });
      tasks.push({ kind: 'tree', block: nestFirst ? first : second });
    }
  };

  for (let task = tasks.pop(); task !== undefined; task = tasks.pop()) {
    switch (task.kind) {
      case 'tree': {
        const { block } = task;
        if (isHeader[block]) {
          loopLevel[block] = open({ op: 'loop' });
          tasks.push({ kind: 'closeLoop', block });
        }
        // In ascending order the merges come after one another; so the last one's block is opened first.
        for (const merge of merges[block]!.toReversed()) {
          tasks.push({ kind: 'tree', block: merge }, { kind: 'closeBlock', block: merge });
        }
        tasks.push({ kind: 'code', block });
        for (const merge of merges[block]!) tasks.push({ kind: 'openBlock', block: merge });
        break;
      }
      case 'openBlock':
        blockLevel[task.block] = open({ op: 'block' });
        break;
      case 'code':
        finishBlock(task.block);
        break;
      case 'go': {
        const depth = branchDepth(task.from, task.block);
        if (depth === null) tasks.push({ kind: 'tree', block: task.block });
        else if (!endsAt(tasks.at(-1), task.block)) ops.push({ op: 'br', depth });
        break;
      }
      case 'closeBlock':
      case 'closeLoop':
      case 'closeIf':
        close();
        break;
    }
    if (deepest > maxNesting) return null;
  }
  ops.push({ op: 'unreachable' });
  return ops;
}

/** Whether running on reaches the block anyway, because its construct ends here. */
function endsAt(next: Task | undefined, block: number): boolean {
  return next?.kind === 'closeBlock' && next.block === block;
}
