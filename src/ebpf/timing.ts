/** How long one run of a program takes, per engine. Helpers are stubs that return 0; the context starts as zeros and is kept between runs. */
import { CALL_OPCODE } from './forms.js';
import { type HelperFunction, type HelperSpec, helperKey } from './helpers.js';
import { interpret } from './interpreter.js';
import { CALL } from './isa.js';
import { compile, instantiate, type JitStats } from './jit/index.js';
import type { Program } from './program.js';
import { jitOptions, placeContext } from './run.js';

export interface Timing {
  /** Nanoseconds per run of the interpreter. */
  readonly interpretNs: number;
  /** Nanoseconds per run of the compiled program, the call from JavaScript included. */
  readonly jitNs: number;
  /** r0 of the first run. */
  readonly result: bigint;
  readonly jit: JitStats;
}

export interface TimingOptions {
  /** Bytes. */
  readonly contextSize: number;
  /** Time spent on each engine, in milliseconds. Default 200. */
  readonly milliseconds?: number;
}

/**
 * Times a program with both engines.
 * @throws EbpfError when it does not compile, EbpfFault when a run is stopped
 */
export function timeProgram(program: Program, options: TimingOptions): Timing {
  const { contextSize, milliseconds = 200 } = options;
  const stubs = new Map(calledHelpers(program).map(key => [key, stub(key)]));
  const place = () => {
    const { sandbox, context } = placeContext(new Uint8Array(contextSize));
    const implementations = new Map<number, HelperFunction>([...stubs.keys()].map(key => [key, () => 0n]));
    return { context, sandbox: { ...sandbox, helpers: stubs, implementations } };
  };

  const reference = place();
  const result = interpret(program, reference.sandbox, reference.context);
  const interpretNs = nsPerRun(() => interpret(program, reference.sandbox, reference.context), milliseconds);

  const { sandbox, context } = place();
  const compiled = compile(program, jitOptions(sandbox));
  const { run, fault } = instantiate(compiled, sandbox.memory, sandbox.implementations);
  const address = BigInt(context);
  try {
    return { interpretNs, jitNs: nsPerRun(() => run(address), milliseconds), result, jit: compiled.stats };
  } catch (error) {
    throw fault(error) ?? error;
  }
}

function calledHelpers(program: Program): number[] {
  const calls = program.insns.filter(({ opcode, src }) => opcode === CALL_OPCODE && src !== CALL.LOCAL);
  return [...new Set(calls.map(helperKey))];
}

function stub(key: number): HelperSpec {
  return { id: key, name: `stub_${key.toString(16)}`, args: [] };
}

/** Doubles the number of runs until they take long enough; the shorter rounds before warm the code up. */
function nsPerRun(run: () => bigint, milliseconds: number): number {
  for (let runs = 1; ; runs *= 2) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < runs; i++) run();
    const ns = Number(process.hrtime.bigint() - start);
    if (ns >= milliseconds * 5e5) return ns / runs;
  }
}
