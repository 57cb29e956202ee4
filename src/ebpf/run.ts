/**
 * Runs single programs, for the command line, for tests and for conformance runners: hex in, r0 out. The helpers there are a
 * handful that such programs call.
 *
 * ```
 *   0            64 KiB        + stack        + context, page-aligned
 *   │ never valid │ stack, 4 KiB │ … │ context │
 * ```
 */
import { EbpfError } from './errors.js';
import { type HelperFunction, type HelperSpec, RUNTIME_KEY } from './helpers.js';
import { interpret } from './interpreter.js';
import type { JitOptions } from './jit/index.js';
import { decodeProgram, type Program } from './program.js';
import { type Sandbox, STACK_BYTES } from './sandbox.js';

export type Engine = 'interpret' | 'jit';

/** A program made ready: runs it on the context at an address and gives r0. */
export type Runner = (context: number) => bigint;

export const DEFAULT_BUDGET = 10_000_000;

const PAGE = 65536;
const STACK_BASE = PAGE;
const CONTEXT = STACK_BASE + STACK_BYTES;

/** What conformance programs call: the clock that Linux gives programs, and a runtime function that only exists. */
const FUNCTIONS: readonly (HelperSpec & { readonly run: HelperFunction })[] = [
  { id: 5, name: 'ktime_get_ns', args: [], run: () => process.hrtime.bigint() },
  { id: RUNTIME_KEY + 42, name: 'runtime_nop', args: [], run: () => 0n },
];

/**
 * Makes a program ready to run in a sandbox. The JIT is loaded only when it is asked for.
 * @throws EbpfError when it does not compile
 */
export async function createRunner(program: Program, sandbox: Sandbox, engine: Engine): Promise<Runner> {
  if (engine === 'interpret') return context => interpret(program, sandbox, context);
  const { compile, hostHelpers, instantiate } = await import('./jit/index.js');
  const { memory, implementations } = sandbox;
  const compiled = compile(program, jitOptions(sandbox));
  const instance = instantiate(compiled, memory, hostHelpers(implementations));
  return context => {
    try {
      return BigInt.asUintN(64, instance.run(BigInt(context)));
    } catch (error) {
      throw instance.fault(error) ?? error;
    }
  };
}

/** What the JIT is told about a sandbox whose memory does not grow. */
export function jitOptions(sandbox: Sandbox): JitOptions {
  const { buffer } = sandbox.memory;
  return {
    ...sandbox,
    sharedMemory: buffer instanceof SharedArrayBuffer,
    memoryPages: buffer.byteLength / PAGE,
  };
}

/**
 * Runs bytecode once on a context of its own.
 * @throws EbpfError when it is refused, EbpfFault when it is stopped
 */
export async function runOnce(
  bytecode: Uint8Array,
  contextBytes: Uint8Array,
  engine: Engine,
  budget = DEFAULT_BUDGET,
): Promise<bigint> {
  const { sandbox, context } = placeContext(contextBytes, budget);
  const run = await createRunner(decodeProgram(bytecode), sandbox, engine);
  return run(context);
}

/** A sandbox with these bytes as the context, and the address of the context. */
export function placeContext(
  bytes: Uint8Array,
  budget = DEFAULT_BUDGET,
): { sandbox: Sandbox; context: number } {
  const pages = Math.ceil((CONTEXT + bytes.length) / PAGE);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  new Uint8Array(memory.buffer).set(bytes, CONTEXT);
  const sandbox: Sandbox = {
    memory,
    contextSize: bytes.length,
    stackBase: STACK_BASE,
    budget,
    helpers: new Map(FUNCTIONS.map(spec => [spec.id, spec])),
    implementations: new Map(FUNCTIONS.map(({ id, run }) => [id, run])),
  };
  return { sandbox, context: CONTEXT };
}

/**
 * Bytes from hex text: pairs of digits, with or without white space between them.
 * @throws EbpfError `EBPF_HEX`
 */
export function parseHex(text: string): Uint8Array {
  const digits = text.replace(/\s+/g, '');
  if (!/^([0-9a-fA-F]{2})*$/.test(digits)) throw new EbpfError('EBPF_HEX', 'not a sequence of hex bytes');
  return Uint8Array.from(digits.match(/../g) ?? [], pair => Number.parseInt(pair, 16));
}
