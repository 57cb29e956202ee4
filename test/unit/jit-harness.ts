/** Runs one program in both engines on equal memory and says how each ended; for the tests of the JIT. */
import { EbpfFault } from '../../src/ebpf/errors.js';
import type { HelperFunction, HelperSpec } from '../../src/ebpf/helpers.js';
import { interpret } from '../../src/ebpf/interpreter.js';
import {
  compile,
  hostHelpers,
  instantiate,
  type JitOptions,
  type JitStats,
} from '../../src/ebpf/jit/index.js';
import type { Program } from '../../src/ebpf/program.js';

export const STACK_BASE = 0x8000;
export const EXTRA = { base: 0xc000, size: 24 };
export const FENCE = -5;
const PAGE = 65536;

type Helper = HelperSpec & {
  readonly run: (memory: WebAssembly.Memory, ...args: Parameters<HelperFunction>) => bigint;
};

/** One helper of each kind of argument. */
export const HELPERS: readonly Helper[] = [
  {
    id: 1,
    name: 'mix',
    args: [{ kind: 'context' }, { kind: 'number' }],
    run: (_, context, number) => BigInt.asUintN(64, context * 3n + number),
  },
  {
    id: 2,
    name: 'sum',
    args: [{ kind: 'memory', size: 16, access: 'read' }],
    run: (memory, address) => {
      const bytes = new Uint8Array(memory.buffer, Number(address), 16);
      return bytes.reduce((sum, byte) => sum + BigInt(byte), 0n);
    },
  },
  {
    id: 0x4b8f0003,
    name: 'fill',
    args: [{ kind: 'number' }, { kind: 'memory', size: { arg: 2 }, access: 'write' }, { kind: 'number' }],
    run: (memory, value, address, size) => {
      if (size > 0n) new Uint8Array(memory.buffer, Number(address), Number(size)).fill(Number(value & 0xffn));
      return value;
    },
  },
  { id: FENCE, name: 'fence', args: [], inline: 'fence', run: () => 0n },
];

export interface Setting {
  readonly contextSize: number;
  /** Address of the context; by default the last bytes of memory, so that nothing lies behind it. */
  readonly context?: number;
  readonly budget: number;
  /** What memory starts with, repeated. */
  readonly pattern: number;
}

export interface Ending {
  /** r0, unsigned, or null after a fault. */
  readonly result: bigint | null;
  readonly fault: {
    readonly code: string;
    readonly pc: number | null;
    readonly address: bigint | null;
  } | null;
  readonly memory: Buffer;
}

const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });

function settingOf({ contextSize, budget }: Setting): JitOptions {
  const helpers = new Map(HELPERS.map(helper => [helper.id, helper]));
  return {
    contextSize,
    stackBase: STACK_BASE,
    helpers,
    budget,
    extra: [EXTRA],
    sharedMemory: true,
    memoryPages: 1,
  };
}

const implementations = new Map<number, HelperFunction>(
  HELPERS.map(({ id, run }) => [id, (...args) => run(memory, ...args)]),
);

export function runInterpreter(program: Program, setting: Setting): Ending {
  const options = settingOf(setting);
  return ending(
    setting,
    error => (error instanceof EbpfFault ? error : null),
    context => interpret(program, { ...options, memory, implementations }, context),
  );
}

export function runJit(program: Program, setting: Setting): Ending & { readonly stats: JitStats } {
  const compiled = compile(program, settingOf(setting));
  const instance = instantiate(compiled, memory, hostHelpers(implementations));
  const result = ending(
    setting,
    error => instance.fault(error),
    context => instance.run(BigInt(context)),
  );
  return { ...result, stats: compiled.stats };
}

function ending(
  { contextSize, context = PAGE - contextSize, pattern }: Setting,
  faultOf: (error: unknown) => EbpfFault | null,
  run: (context: number) => bigint,
): Ending {
  const bytes = Buffer.from(memory.buffer);
  for (let i = 0; i < PAGE; i++) bytes[i] = (i * pattern) ^ (i >> 8);
  const copy = () => Buffer.from(bytes);
  try {
    const result = BigInt.asUintN(64, run(context));
    return { result, fault: null, memory: copy() };
  } catch (error) {
    const fault = faultOf(error);
    if (fault === null) throw error;
    return {
      result: null,
      fault: { code: fault.code, pc: fault.pc, address: fault.address },
      memory: copy(),
    };
  }
}
