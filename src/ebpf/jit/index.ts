/**
 * eBPF → WebAssembly: `compile` once, `instantiate` in each thread that runs the program.
 */
import type { HelperImplementations } from '../helpers.js';
import { EbpfError, type EbpfFault, type Program } from '../program.js';
import { readFault } from './faults.js';
import { compileModule, HELPER_MODULE, MEMORY, RUN } from './module.js';
import type { JitOptions, JitStats } from './options.js';

export type { JitOptions, JitStats } from './options.js';

/** What WebAssembly can import as helpers, by id. */
// biome-ignore lint/complexity/noBannedTypes: any callable will do
export type RawHelpers = ReadonlyMap<number, Function>;

export interface CompiledProgram {
  /** Can be posted to other threads. */
  readonly module: WebAssembly.Module;
  readonly bytes: Uint8Array;
  readonly stats: JitStats;
}

export interface ProgramInstance {
  /**
   * The WebAssembly function itself, (i64) → i64: context address in, r0 out. It can be put into a WebAssembly.Table.
   * The caller answers for the context: [context, context + contextSize) must lie in the memory.
   * @throws WebAssembly.RuntimeError when the program is stopped: see `fault`
   */
  readonly run: (context: bigint) => bigint;
  /** The fault behind an error that `run` threw, or null when it is none of this program's. Ask once, and at once. */
  fault(error: unknown): EbpfFault | null;
}

/**
 * Compiles a decoded program.
 * @throws EbpfError `EBPF_OVERLAP` (local functions share too much code), `EBPF_SANDBOX` (bad options)
 */
export function compile(program: Program, options: JitOptions): CompiledProgram {
  const start = performance.now();
  const { bytes, counts } = compileModule(program, options);
  const module = new WebAssembly.Module(bytes);
  const milliseconds = performance.now() - start;
  return { module, bytes, stats: { ...counts, bytes: bytes.length, milliseconds } };
}

/**
 * Binds a compiled program to memory and helpers. A helper takes as many i64 as its signature has arguments and returns
 * an i64: another module's export, or a JavaScript function that sees signed BigInts (`hostHelpers` makes them unsigned).
 * @throws EbpfError `EBPF_CALL` when a helper that the program calls has no implementation
 */
export function instantiate(
  compiled: Pick<CompiledProgram, 'module'>,
  memory: WebAssembly.Memory,
  helperImplementations: RawHelpers,
): ProgramInstance {
  const helpers: Record<string, unknown> = {};
  for (const { module, name } of WebAssembly.Module.imports(compiled.module)) {
    if (module !== HELPER_MODULE) continue;
    const implementation = helperImplementations.get(Number(name));
    if (implementation === undefined) throw new EbpfError('EBPF_CALL', `helper ${name} is not implemented`);
    helpers[name] = implementation;
  }
  const { exports } = new WebAssembly.Instance(compiled.module, {
    [MEMORY.module]: { [MEMORY.name]: memory },
    [HELPER_MODULE]: helpers,
  });
  return { run: exports[RUN], fault: error => readFault(exports, error) };
}

/** Helpers written for the interpreter, with unsigned arguments, in the form that `instantiate` takes. */
export function hostHelpers(implementations: HelperImplementations): RawHelpers {
  return new Map(
    [...implementations].map(([id, helper]) => [
      id,
      (...args: readonly bigint[]) => {
        const [a = 0n, b = 0n, c = 0n, d = 0n, e = 0n] = args.map(arg => BigInt.asUintN(64, arg));
        return helper(a, b, c, d, e);
      },
    ]),
  );
}
