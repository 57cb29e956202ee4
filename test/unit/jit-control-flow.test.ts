/** The JIT's control flow: dominators, loops of every shape, and programs made to be awkward. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { assemble } from '../../src/ebpf/asm.js';
import { EbpfError } from '../../src/ebpf/errors.js';
import { buildGraphs, type FunctionGraph } from '../../src/ebpf/jit/cfg.js';
import { dominatorTree } from '../../src/ebpf/jit/dominators.js';
import { loopCharges } from '../../src/ebpf/jit/loops.js';
import { structure } from '../../src/ebpf/jit/structure.js';
import { DEFAULT_MAX_SLOTS, decodeProgram, type Program } from '../../src/ebpf/program.js';
import { runInterpreter, runJit } from './jit-harness.js';

const setting = { contextSize: 64, budget: 1_000_000, pattern: 7 };
/** Processor time, so that a busy machine changes little. Up to 300 are needed; quadratic work takes far more. */
const MAX_COMPILE_MS = 2_000;

function program(text: string): Program {
  return decodeProgram(assemble(text));
}

function same(text: string) {
  const decoded = program(text);
  const before = process.cpuUsage();
  const { stats, ...jit } = runJit(decoded, setting);
  const { user, system } = process.cpuUsage(before);
  assert.deepEqual(jit, runInterpreter(decoded, setting));
  return { stats, ...jit, milliseconds: (user + system) / 1000 };
}

/** One slot per entry: a branch to that slot, or an exit for null. */
function graphOf(targets: readonly (number | null)[]): FunctionGraph {
  const lines = targets.map((target, slot) =>
    target === null ? 'exit' : `jeq %r1, 0, ${target - slot - 1 >= 0 ? '+' : ''}${target - slot - 1}`,
  );
  return buildGraphs(program([...lines, 'exit'].join('\n')))[0]!;
}

/** By definition: b is dominated by a when it cannot be reached around a. */
function dominatorSets(graph: FunctionGraph): readonly ReadonlySet<number>[] {
  const all = graph.blocks.map((_, block) => block);
  return all.map(block => {
    const around = (avoided: number) => {
      const seen = new Set<number>();
      const pending = avoided === 0 ? [] : [0];
      for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
        if (seen.has(at)) continue;
        seen.add(at);
        pending.push(...graph.blocks[at]!.successors.filter(next => next !== avoided));
      }
      return seen;
    };
    return new Set(all.filter(other => other === block || !around(other).has(block)));
  });
}

const graphs = fc
  .array(fc.option(fc.nat(), { freq: 6 }), { minLength: 1, maxLength: 16 })
  .map(list => graphOf(list.map(target => (target === null ? null : target % (list.length + 1)))));

test('the dominator tree is that of the definition', () => {
  fc.assert(
    fc.property(graphs, graph => {
      const sets = dominatorSets(graph);
      const tree = dominatorTree(graph);
      const forward = graph.blocks.map((block, source) =>
        block.successors.filter(target => !(sets[source]!.has(target) && target <= source)),
      );
      // Reducible: without the edges to dominators no cycle is left, so every edge goes ahead.
      assert.equal(
        tree.reducible,
        forward.every((list, source) => list.every(target => target > source)),
      );
      if (!tree.reducible) return;
      sets.forEach((dominators, block) => {
        const strict = [...dominators].filter(other => other !== block);
        assert.equal(tree.idom[block], block === 0 ? 0 : Math.max(...strict));
        assert.equal(tree.size[block], sets.filter(set => set.has(block)).length);
      });
    }),
    { numRuns: 500 },
  );
});

test('every cycle meets a charge', () => {
  fc.assert(
    fc.property(graphs, graph => {
      const charges = loopCharges(graph, dominatorTree(graph).reducible);
      // Without the blocks that charge, what is left must have an order: take away blocks that nothing leads to.
      const left = new Set(graph.blocks.map((_, block) => block).filter(block => charges[block] === 0));
      for (let taken = true; taken; ) {
        taken = false;
        for (const block of left) {
          if (graph.predecessors[block]!.some(from => left.has(from))) continue;
          left.delete(block);
          taken = true;
        }
      }
      assert.deepEqual([...left], []);
    }),
    { numRuns: 500 },
  );
});

test('a loop pays for its body, an outer loop not for the inner one again', () => {
  const [graph] = buildGraphs(
    program(`
      mov %r0, 0
    outer:
      mov %r2, 3
    inner:
      add %r0, %r2
      sub %r2, 1
      jne %r2, 0, inner
      add %r1, -1
      jne %r1, 0, outer
      exit`),
  );
  const charges = loopCharges(graph!, true);
  const byPc = Object.fromEntries(graph!.blocks.map((block, number) => [block.pc, charges[number]]));
  assert.deepEqual(byPc, { 0: 0, 1: 1 + 2, 2: 3, 5: 0, 7: 0 });
});

test('the budget stops a loop at its header', () => {
  const endless = program('mov %r0, 1\nl:\nadd %r0, 1\nja l\nexit');
  const { fault } = runJit(endless, { ...setting, budget: 100 });
  assert.deepEqual(fault, { code: 'EBPF_BUDGET', pc: 1, address: null });
  const bounded = program('mov %r0, 50\nl:\nadd %r0, -1\njne %r0, 0, l\nexit');
  assert.equal(runJit(bounded, { ...setting, budget: 100 }).result, 0n);
  assert.equal(runJit(bounded, { ...setting, budget: 99 }).fault?.code, 'EBPF_BUDGET');
});

test('the budget stops calls that multiply without any loop', () => {
  const levels = [1, 2, 3, 4, 5, 6, 7].map(
    level => `f${level}:\n${`call local f${Math.min(level + 1, 7)}\n`.repeat(level === 7 ? 0 : 60)}exit`,
  );
  const decoded = program(`call local f1\nexit\n${levels.join('\n')}`);
  assert.equal(runJit(decoded, setting).fault?.code, 'EBPF_BUDGET');
});

test('a loop with two entries runs as a dispatch loop', () => {
  const { stats, result } = same(`
    mov %r0, 0
    mov %r3, 5
    ldxb %r4, [%r1+3]
    jgt %r4, 10, second
  first:
    add %r0, 100
    jeq %r3, 0, out
  second:
    sub %r3, 1
    add %r0, 1
    ja first
  out:
    exit`);
  assert.equal(stats.structured, false);
  assert.equal(result, 505n);
});

test('both arms of a branch may be the same block', () => {
  assert.equal(same('mov %r0, 1\njeq %r1, 0, +0\nadd %r0, 1\nexit').result, 2n);
});

test('thousands of diamonds in a row do not nest', () => {
  const diamond = (i: number) =>
    `jset %r1, ${1 << (i % 16)}, a${i}\nadd %r0, ${i}\nja b${i}\na${i}:\nxor %r0, ${i}\nb${i}:`;
  const text = `mov %r0, 0\n${Array.from({ length: 4000 }, (_, i) => diamond(i)).join('\n')}\nexit`;
  const { stats, milliseconds } = same(text);
  assert.equal(stats.structured, true);
  assert.ok(milliseconds < MAX_COMPILE_MS, `${milliseconds} ms`);
});

test('thousands of early exits do not nest', () => {
  const check = (i: number) => `jne %r2, ${i + 100}, n${i}\nmov %r0, ${i}\nexit\nn${i}:`;
  const { stats } = same(`${Array.from({ length: 4000 }, (_, i) => check(i)).join('\n')}\nmov %r0, 7\nexit`);
  assert.equal(stats.structured, true);
});

test('nested loops beyond the limit become a dispatch loop', () => {
  const depth = 2000;
  const heads = Array.from({ length: depth }, (_, i) => `l${i}:\nadd %r0, 1`).join('\n');
  const tails = Array.from({ length: depth }, (_, i) => `jlt %r0, ${2 * depth}, l${depth - 1 - i}`).join(
    '\n',
  );
  const { stats } = same(`mov %r0, 0\n${heads}\n${tails}\nexit`);
  assert.equal(stats.structured, false);
});

test('constructs that would nest deeper than the limit are given up', () => {
  // Both arms of the first branch reach each of the three blocks behind it: three blocks around it.
  const graph = graphOf([4, 5, 6, null, 5, 6, null]);
  const tree = dominatorTree(graph);
  assert.ok(tree.reducible);
  const depths = [0, 1, 2, 3, 4].map(limit => structure(graph, tree, limit) !== null);
  assert.deepEqual(depths, [false, false, false, true, true]);
});

test('a jump table of thousands of cases is compiled, one way or the other', () => {
  const cases = 3000;
  const tests = Array.from({ length: cases }, (_, i) => `jeq %r2, ${i + 60}, c${(i * 7) % cases}`).join('\n');
  const bodies = Array.from({ length: cases }, (_, i) => `c${i}:\nadd %r0, ${i}`).join('\n');
  const { milliseconds } = same(`mov %r0, 0\n${tests}\n${bodies}\nexit`);
  assert.ok(milliseconds < MAX_COMPILE_MS, `${milliseconds} ms`);
});

test('the longest programs compile quickly', () => {
  const straight = `${'add %r0, %r1\n'.repeat(DEFAULT_MAX_SLOTS - 1)}exit`;
  const loads = `${'ldxw %r0, [%r1+8]\nadd %r1, %r0\nsub %r1, %r0\n'.repeat(5461)}exit`;
  const branches = `${'jeq %r0, 5, +0\njne %r0, 1, +1\nadd %r0, 1\n'.repeat(5461)}exit`;
  for (const text of [straight, loads, branches]) {
    const { milliseconds } = same(text);
    assert.ok(milliseconds < MAX_COMPILE_MS, `${milliseconds} ms`);
  }
});

test('functions that share code are refused before they cost quadratic time', () => {
  const calls = Array.from({ length: 4000 }, () => 'call local +4000').join('\n');
  const decoded = program(`${calls}\n${'mov %r0, 1\n'.repeat(4100)}exit`);
  assert.throws(
    () => runJit(decoded, setting),
    (error: unknown) => error instanceof EbpfError && error.code === 'EBPF_OVERLAP',
  );
});

test('a function may call the first instruction of the program', () => {
  const { fault } = same('add %r0, 1\ncall local -2\nexit');
  assert.equal(fault?.code, 'EBPF_DEPTH');
  assert.equal(same('jeq %r0, 7, done\nmov %r0, 7\ncall local -3\nadd %r0, 1\ndone:\nexit').result, 8n);
});

test('a callee sees its caller’s registers and gives back r0 … r5', () => {
  const { result } = same(`
    mov %r6, 100
    mov %r0, 1
    mov %r4, 2
    call local f
    add %r0, %r4
    add %r0, %r6
    exit
  f:
    add %r0, %r6
    mov %r6, 5
    mov %r4, 1000
    exit`);
  assert.equal(result, 1n + 100n + 1000n + 100n);
});

test('registers pass through functions that do not use them', () => {
  const { result } = same(`
    mov %r7, 3
    mov %r3, 20
    call local outer
    add %r0, %r3
    exit
  outer:
    call local inner
    exit
  inner:
    mov %r0, %r7
    add %r0, %r3
    mov %r3, 1000
    exit`);
  assert.equal(result, 1023n);
});

test('a callee writes to its caller’s frame, not to its own', () => {
  const { result } = same(`
    mov %r1, %r10
    stdw [%r10-8], 1
    call local f
    ldxdw %r0, [%r10-8]
    exit
  f:
    stdw [%r1-8], 2
    stdw [%r10-8], 3
    exit`);
  assert.equal(result, 2n);
});
