/**
 * What the verifier says against what happens: random programs that it accepts are run on random contexts, which the other side
 * changes meanwhile, with helpers that hand back the numbers they are given. No fault but at a guard, no more steps than it said, no address
 * in what comes out; and the JIT without the guards does to the whole memory what the interpreter does, which guards everything.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { EbpfFault } from '../../src/ebpf/errors.js';
import type { HelperFunction } from '../../src/ebpf/helpers.js';
import { interpret } from '../../src/ebpf/interpreter.js';
import { compile, hostHelpers, instantiate } from '../../src/ebpf/jit/index.js';
import type { Program } from '../../src/ebpf/program.js';
import { type Accepted, type VerifyOptions, verify } from '../../src/ebpf/verifier/index.js';
import { EXTRA, FENCE, HELPERS } from './verifier-harness.js';
import { programs, unboundedPrograms } from './verifier-programs.js';

const RUNS = process.env.POLYNIC_LONG === 'hostile' ? 100_000 : 1_200;
const PAGE = 65536;
const CONTEXT_SIZE = 64;
const helpers = new Map(HELPERS.map(helper => [helper.id, helper]));

/** Where context and stack lie: in any order, close to each other and to the end of memory. */
const LAYOUTS = [
  { context: PAGE - CONTEXT_SIZE, stackBase: 0x8000 },
  { context: 0x8000 - CONTEXT_SIZE, stackBase: 0x8000 },
  { context: 0x9000, stackBase: 0x8000 },
  { context: 8, stackBase: 0x4000 },
] as const;
type Layout = { readonly context: number; readonly stackBase: number };

interface Ending {
  readonly result: bigint | null;
  readonly fault: { readonly code: string; readonly pc: number | null } | null;
  readonly memory: Buffer;
}

/** Numbers that are the same in every run, and spread over all widths. */
function numbers(seed: number): () => number {
  let state = seed | 1;
  return () => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x6d2b79f5;
    return (state ^ (state >>> 13)) >>> 0;
  };
}

class Bench {
  readonly memory: WebAssembly.Memory;
  readonly #bytes: Buffer;
  readonly implementations: ReadonlyMap<number, HelperFunction>;
  #context = 0;
  #random = numbers(1);

  constructor(pages = 1) {
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.#bytes = Buffer.from(this.memory.buffer);
    this.implementations = new Map<number, HelperFunction>([
      [1, () => this.#otherSide()],
      [2, address => this.#write(address, 16n)],
      [3, () => this.#otherSide()],
      [4, (number, address, size) => this.#write(address, size) + number],
      [5, (_, number) => this.#otherSide() + number],
    ]);
  }

  run(
    layout: Layout,
    seed: number,
    program: (context: number) => bigint,
    faultOf: (error: unknown) => EbpfFault | null,
  ): Ending {
    this.#bytes.fill(0xa5);
    this.#context = layout.context;
    this.#random = numbers(seed);
    this.#otherSide();
    this.#bytes.fill(seed & 255, EXTRA.base, EXTRA.base + EXTRA.size);
    try {
      const result = BigInt.asUintN(64, program(layout.context));
      return { result, fault: null, memory: Buffer.from(this.#bytes) };
    } catch (error) {
      const fault = faultOf(error);
      if (fault === null) throw error;
      return { result: null, fault: { code: fault.code, pc: fault.pc }, memory: Buffer.from(this.#bytes) };
    }
  }

  /** Changes the context: all ones, anything, small low halves, or small numbers. */
  #otherSide(): bigint {
    const kind = this.#random() % 5;
    for (let at = 0; at < CONTEXT_SIZE; at++) {
      const byte = this.#random() & 255;
      const any = kind === 1 || (kind === 2 && at % 8 > 3);
      const small = at % 8 === 0 || at === 5 ? byte & 63 : 0;
      this.#bytes[this.#context + at] = kind === 0 ? 255 : any ? byte : small;
    }
    return BigInt(this.#random() & 127);
  }

  #write(address: bigint, size: bigint): bigint {
    for (let at = 0; at < Number(size); at++) this.#bytes[Number(address) + at] = this.#random() & 255;
    return this.#otherSide();
  }
}

function interpreted(bench: Bench, program: Program, layout: Layout, seed: number, budget: number): Ending {
  const { memory, implementations } = bench;
  const sandbox = {
    ...layout,
    contextSize: CONTEXT_SIZE,
    budget,
    helpers,
    implementations,
    memory,
    extra: [EXTRA],
  };
  return bench.run(
    layout,
    seed,
    context => interpret(program, sandbox, context),
    error => (error instanceof EbpfFault ? error : null),
  );
}

/** A fault is allowed where a guard was asked for, and only of the kind that a guard gives. */
function assertFault({ fault }: Ending, { guards }: Accepted, what: string): void {
  if (fault === null) return;
  assert.ok(
    fault.code === 'EBPF_ACCESS' || fault.code === 'EBPF_MISALIGNED',
    `${fault.code} at ${fault.pc}\n${what}`,
  );
  assert.ok(guards.includes(fault.pc!), `${fault.code} at ${fault.pc}, which was proved\n${what}`);
}

const seeds = fc.array(fc.nat(), { minLength: 3, maxLength: 3 });

test('accepted programs do what was proved of them, in both engines', () => {
  const bench = new Bench();
  const seen = { accepted: 0, refused: 0, runs: 0, faults: 0, results: 0, moved: 0, loops: 0 };
  const options: VerifyOptions = { contextSize: CONTEXT_SIZE, helpers, extra: [EXTRA] };
  fc.assert(
    fc.property(programs, seeds, fc.nat({ max: LAYOUTS.length - 1 }), ({ text, program }, chosen, first) => {
      const verdict = verify(program, options);
      if (!verdict.accepted) {
        seen.refused++;
        return;
      }
      seen.accepted++;
      if (verdict.steps > verdict.states) seen.loops++;
      const layout = LAYOUTS[first]!;
      const { module } = compile(program, {
        ...options,
        stackBase: layout.stackBase,
        budget: Number.POSITIVE_INFINITY,
        unguarded: verdict.unguarded,
        guardedArguments: verdict.guardedArguments,
        sharedMemory: true,
        memoryPages: 1,
      });
      const instance = instantiate({ module }, bench.memory, hostHelpers(bench.implementations));
      for (const seed of chosen) {
        const what: string = `guards ${verdict.guards}, steps ${verdict.steps}, layout ${first}, seed ${seed}\n${text}`;
        const reference: Ending = interpreted(bench, program, layout, seed, verdict.steps);
        seen.runs++;
        assertFault(reference, verdict, what);
        if (reference.fault === null) seen.results++;
        else seen.faults++;
        const compiled = bench.run(
          layout,
          seed,
          context => instance.run(BigInt(context)),
          error => instance.fault(error),
        );
        assert.deepEqual(compiled.fault, reference.fault, what);
        assert.equal(compiled.result, reference.result, what);
        assert.ok(compiled.memory.equals(reference.memory), `memory differs\n${what}`);
        if (verdict.guards.length > 0) continue;

        // Elsewhere in memory the same comes out: no address has got into it.
        const elsewhere = LAYOUTS[(first + 1) % LAYOUTS.length]!;
        const other = interpreted(bench, program, elsewhere, seed, verdict.steps);
        assert.equal(other.result, reference.result, `depends on addresses\n${what}`);
        const contextOf = ({ memory }: Ending, { context }: Layout) =>
          memory.subarray(context, context + CONTEXT_SIZE);
        assert.ok(
          contextOf(other, elsewhere).equals(contextOf(reference, layout)),
          `depends on addresses\n${what}`,
        );
        seen.moved++;
      }
    }),
    { numRuns: RUNS },
  );
  // A generator of which all is refused, or all is guarded, would prove nothing.
  assert.ok(seen.accepted > RUNS / 5, JSON.stringify(seen));
  assert.ok(seen.refused > RUNS / 50, JSON.stringify(seen));
  for (const kind of ['faults', 'results', 'moved', 'loops'] as const) {
    assert.ok(seen[kind] > RUNS / 50, JSON.stringify(seen));
  }
});

test('with guards that allow only the context, and under a budget where no end is seen, it holds as well', () => {
  // The stack is far from the context, so that in the interpreter, too, no guarded access meets it.
  const bench = new Bench(64);
  const layout = { context: 64 * PAGE - CONTEXT_SIZE, stackBase: 8 };
  const seen = { accepted: 0, faults: 0, bounded: 0, unbounded: 0, spent: 0 };
  const options: VerifyOptions = {
    ...{ contextSize: CONTEXT_SIZE, helpers, extra: [EXTRA] },
    ...{ guarded: 'context', unbounded: 'budget' },
  };
  fc.assert(
    fc.property(fc.oneof(programs, unboundedPrograms), fc.nat(), ({ text, program }, seed) => {
      const verdict = verify(program, options);
      if (!verdict.accepted) return;
      seen.accepted++;
      seen[verdict.budget ? 'unbounded' : 'bounded']++;
      const budget = verdict.budget ? 5000 : Number.POSITIVE_INFINITY;
      const what: string = `guards ${verdict.guards}, steps ${verdict.steps}, seed ${seed}\n${text}`;
      const reference = interpreted(bench, program, layout, seed, verdict.budget ? budget : verdict.steps);
      const { module } = compile(program, {
        ...{ contextSize: CONTEXT_SIZE, helpers, extra: [EXTRA], stackBase: layout.stackBase, budget },
        ...{ unguarded: verdict.unguarded, guardedArguments: verdict.guardedArguments, confined: true },
        ...{ sharedMemory: true, memoryPages: 64 },
      });
      const instance = instantiate({ module }, bench.memory, hostHelpers(bench.implementations));
      const compiled = bench.run(
        layout,
        seed,
        context => instance.run(BigInt(context)),
        error => instance.fault(error),
      );
      const isSpent = [reference, compiled].some(({ fault }) => fault?.code === 'EBPF_BUDGET');
      if (isSpent) {
        assert.ok(verdict.budget, what);
        seen.spent++;
        return; // the engines count differently
      }
      assertFault(reference, verdict, what);
      if (reference.fault !== null) seen.faults++;
      assert.deepEqual(compiled.fault, reference.fault, what);
      assert.equal(compiled.result, reference.result, what);
      assert.ok(compiled.memory.equals(reference.memory), `memory differs\n${what}`);
    }),
    { numRuns: Math.ceil(RUNS / 3) },
  );
  assert.ok(seen.accepted > RUNS / 25, JSON.stringify(seen));
  for (const kind of ['faults', 'bounded', 'unbounded', 'spent'] as const) {
    assert.ok(seen[kind] > 0, JSON.stringify(seen));
  }
});

test('a helper of every kind is called', () => {
  const called = new Set<number>();
  for (const { program } of fc.sample(programs, 300)) {
    for (const { opcode, src, imm } of program.insns) if (opcode === 0x85 && src === 0) called.add(imm);
  }
  assert.deepEqual(
    [...called].sort((a, b) => a - b),
    [FENCE, 1, 2, 3, 4, 5],
  );
});
