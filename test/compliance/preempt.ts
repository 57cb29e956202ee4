/**
 * Stops at every access to memory: WebAssembly modules, ours and those that the JIT makes of programs, rewritten so that a function is called right
 * before each load and each store. What it does then is what another thread could have done at that moment.
 *
 * ```
 *   i32.atomic.store (p, v)   ──►   store (before_store(id, p), before_value(id, v))      the compiler's own tool does that: Binaryen, which comes
 *   i32.atomic.load (p)       ──►   load (before_load(id, p))                              with AssemblyScript; pass "instrument-memory"
 * ```
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Window } from '../../src/memory/window.js';
import type { DatapathExports } from '../../src/ring/datapath.js';

interface BinaryenModule {
  setFeatures(features: number): void;
  runPasses(passes: string[]): void;
  emitBinary(): Uint8Array;
  dispose(): void;
}
interface Binaryen {
  readonly Features: { readonly All: number };
  readBinary(bytes: Uint8Array): BinaryenModule;
}

const fromHere = createRequire(import.meta.url);
const fromCompiler = createRequire(fromHere.resolve('assemblyscript/package.json'));
const { default: binaryen } = (await import(fromCompiler.resolve('binaryen'))) as { default: Binaryen };

/** Called right before an access to that address. */
export type OnAccess = (address: number) => void;

const instrumented = new Map<string, Uint8Array>();

/** The module with calls at every access; `importsFor` has what it calls. */
export function withCalls(bytes: Uint8Array): WebAssembly.Module {
  const key = Buffer.from(bytes).toString('latin1');
  let result = instrumented.get(key);
  if (!result) {
    const module = binaryen.readBinary(bytes);
    module.setFeatures(binaryen.Features.All);
    module.runPasses(['instrument-memory']);
    instrumented.set(key, (result = module.emitBinary()));
    module.dispose();
  }
  return new WebAssembly.Module(result);
}

/** What such a module imports beside what it has always imported. */
export function importsFor(module: WebAssembly.Module, onAccess: OnAccess): Record<string, unknown> {
  const stores = new Map<number, number>();
  const pass = (_id: number, value: unknown) => value;
  const beforeValue = (id: number, value: unknown) => {
    onAccess(stores.get(id)!);
    return value;
  };
  const known: Record<string, unknown> = {
    load_ptr(_id: number, _bytes: number, offset: number, address: number) {
      onAccess((address + offset) >>> 0);
      return address;
    },
    store_ptr(id: number, _bytes: number, offset: number, address: number) {
      stores.set(id, (address + offset) >>> 0);
      return address;
    },
    ...{ store_val_i32: beforeValue, store_val_i64: beforeValue },
  };
  const names = WebAssembly.Module.imports(module)
    .filter(({ module: from, kind }) => from === 'env' && kind === 'function')
    .map(({ name }) => name);
  return Object.fromEntries(names.map(name => [name, known[name] ?? pass]));
}

/** The datapath module, for a device that may be stopped at every access. */
export function preemptedDatapath(window: Window, onAccess: OnAccess): DatapathExports {
  const module = withCalls(readFileSync(new URL('../../datapath.wasm', import.meta.url)));
  const table = new WebAssembly.Table({ element: 'anyfunc', initial: 1 });
  const never = () => {
    throw new Error('no test of rings softens frames');
  };
  const instance = new WebAssembly.Instance(module, {
    env: { ...importsFor(module, onAccess), memory: window.memory, table },
    process: { copyIn: never, copyOut: never },
  });
  return instance.exports as unknown as DatapathExports;
}
