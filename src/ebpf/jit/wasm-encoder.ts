/**
 * Puts a WebAssembly module together: the caller declares types, imports, globals, functions and exports and gets the
 * bytes. Only what the JIT needs is there.
 *
 * ```
 *   \0asm 1 | type | import | function | global | export | code        each section: id, length, vector of entries
 * ```
 */
import { ByteWriter } from './byte-writer.js';
import { OP, TYPE } from './wasm-opcodes.js';

const SECTION = { TYPE: 1, IMPORT: 2, FUNCTION: 3, GLOBAL: 6, EXPORT: 7, CODE: 10 } as const;
const KIND = { FUNCTION: 0, MEMORY: 2, GLOBAL: 3 } as const;

export type ValueType = typeof TYPE.I32 | typeof TYPE.I64;

export interface FunctionBody {
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
  /** Types of the locals that follow the parameters. */
  readonly locals: readonly ValueType[];
  /** Instructions without the final `end`. */
  readonly code: Uint8Array;
}

/** Imported functions must be declared before the first own one, because both share one index space. */
export class ModuleBuilder {
  readonly #types: string[] = [];
  readonly #imports: ByteWriter[] = [];
  readonly #functions: number[] = [];
  readonly #bodies: (FunctionBody | null)[] = [];
  readonly #globals: ByteWriter[] = [];
  readonly #exports: ByteWriter[] = [];
  #importedFunctions = 0;

  importMemory(module: string, name: string, pages: number, shared: boolean): void {
    const entry = importEntry(module, name, KIND.MEMORY);
    entry.byte(shared ? 3 : 1); // has a maximum; 2: shared
    entry.u32(shared ? pages : 0);
    entry.u32(pages);
    this.#imports.push(entry);
  }

  /** @returns the index of the function */
  importFunction(
    module: string,
    name: string,
    params: readonly ValueType[],
    results: readonly ValueType[],
  ): number {
    const entry = importEntry(module, name, KIND.FUNCTION);
    entry.u32(this.#type(params, results));
    this.#imports.push(entry);
    return this.#importedFunctions++;
  }

  /** Declares a function whose body comes later, so that others can call it. @returns its index */
  declareFunction(params: readonly ValueType[], results: readonly ValueType[]): number {
    this.#functions.push(this.#type(params, results));
    this.#bodies.push(null);
    return this.#importedFunctions + this.#functions.length - 1;
  }

  defineFunction(index: number, body: FunctionBody): void {
    this.#bodies[index - this.#importedFunctions] = body;
  }

  /** Adds a mutable global that starts as 0. @returns its index */
  addGlobal(type: ValueType): number {
    const entry = new ByteWriter(8);
    entry.byte(type);
    entry.byte(1);
    entry.byte(type === TYPE.I32 ? OP.i32Const : OP.i64Const);
    entry.byte(0);
    entry.byte(OP.end);
    return this.#globals.push(entry) - 1;
  }

  exportFunction(name: string, index: number): void {
    this.#exports.push(exportEntry(name, KIND.FUNCTION, index));
  }

  exportGlobal(name: string, index: number): void {
    this.#exports.push(exportEntry(name, KIND.GLOBAL, index));
  }

  finish(): Uint8Array {
    const out = new ByteWriter(4096);
    out.append(Uint8Array.of(0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
    section(out, SECTION.TYPE, this.#types.map(encodeType));
    section(out, SECTION.IMPORT, this.#imports);
    section(out, SECTION.FUNCTION, this.#functions.map(encodeIndex));
    section(out, SECTION.GLOBAL, this.#globals);
    section(out, SECTION.EXPORT, this.#exports);
    section(out, SECTION.CODE, this.#bodies.map(encodeBody));
    return out.bytes().slice();
  }

  /** Types are kept as strings of their bytes, which makes equal ones share an index. */
  #type(params: readonly ValueType[], results: readonly ValueType[]): number {
    const key = String.fromCharCode(TYPE.FUNCTION, params.length, ...params, results.length, ...results);
    const known = this.#types.indexOf(key);
    return known >= 0 ? known : this.#types.push(key) - 1;
  }
}

function section(out: ByteWriter, id: number, entries: readonly ByteWriter[]): void {
  if (entries.length === 0) return;
  const content = new ByteWriter(1024);
  content.u32(entries.length);
  for (const entry of entries) content.append(entry.bytes());
  out.byte(id);
  out.vector(content.bytes());
}

function importEntry(module: string, name: string, kind: number): ByteWriter {
  const entry = new ByteWriter(32);
  entry.name(module);
  entry.name(name);
  entry.byte(kind);
  return entry;
}

function exportEntry(name: string, kind: number, index: number): ByteWriter {
  const entry = new ByteWriter(32);
  entry.name(name);
  entry.byte(kind);
  entry.u32(index);
  return entry;
}

function encodeType(key: string): ByteWriter {
  const entry = new ByteWriter(key.length);
  for (let i = 0; i < key.length; i++) entry.byte(key.charCodeAt(i));
  return entry;
}

function encodeIndex(index: number): ByteWriter {
  const entry = new ByteWriter(4);
  entry.u32(index);
  return entry;
}

function encodeBody(body: FunctionBody | null): ByteWriter {
  if (body === null) throw new Error('a declared function was never defined');
  const content = new ByteWriter(body.code.length + 32);
  const groups: { type: ValueType; count: number }[] = [];
  for (const type of body.locals) {
    const last = groups.at(-1);
    if (last?.type === type) last.count++;
    else groups.push({ type, count: 1 });
  }
  content.u32(groups.length);
  for (const { type, count } of groups) {
    content.u32(count);
    content.byte(type);
  }
  content.append(body.code);
  content.byte(OP.end);
  const entry = new ByteWriter(content.length + 8);
  entry.vector(content.bytes());
  return entry;
}
