/**
 * Gets a device's programs through its registers, and makes them fit to run. The device is not trusted, so neither are they:
 *
 * ```
 *   read, all of them ──► decode ──► verify ──► compile, with guards where the verifier asks for them ──► WebAssembly.Module
 *                           │          │
 *                           └──────────┴─ refused: DriverError, and nothing of the device has run
 * ```
 */
import { setImmediate } from 'node:timers/promises';
import { CALL_OPCODE } from '../../ebpf/forms.js';
import { helperKey } from '../../ebpf/helpers.js';
import { CALL } from '../../ebpf/isa.js';
import { compile } from '../../ebpf/jit/index.js';
import { decodeProgram, type Program } from '../../ebpf/program.js';
import { verify } from '../../ebpf/verifier/index.js';
import { WINDOW_PAGES } from '../../memory/window.js';
import type { CompiledPrograms } from './commands.js';
import { BPFHV_HELPERS } from './helpers.js';
import { PROGRAMS, type ProgramSection, promisesTo, REG } from './registers.js';
import type { HelperCalls } from './seal-policy.js';
import { type BpfhvTransport, DriverError } from './transport.js';

/** Instructions of a program at most. */
const MAX_INSTRUCTIONS = 16384;
/** Instructions that one run may take, whether that is proved or counted: a loop over 64 buffers needs a few thousand. */
const RUN_BUDGET = 65536;

/** What an operator may want to know of a program. */
export interface ProgramReport {
  readonly section: ProgramSection;
  readonly instructions: number;
  /** Accesses and helper calls that are checked when they run. */
  readonly guards: number;
  /** It is not proved to end soon enough: it runs under a budget. */
  readonly budget: boolean;
  /** Instructions that the verifier has looked at, each once per state. */
  readonly states: number;
  readonly verifyMs: number;
  readonly compileMs: number;
}

export interface LoadedPrograms {
  /** For each stack area the same programs: they can run at the same time. */
  readonly programs: readonly CompiledPrograms[];
  readonly reports: readonly ProgramReport[];
  readonly calls: HelperCalls;
  /** All of that in one line. */
  readonly summary: string;
}

/** What programs are read from: of a transport, only its registers and program window. */
export type ProgramSource = Pick<BpfhvTransport, 'read' | 'write' | 'readProgram'>;

export interface ContextSizes {
  readonly rxContextSize: number;
  readonly txContextSize: number;
}

/**
 * Reads, verifies and compiles all programs, without keeping the event loop for longer than one program takes; several contracts may be loaded
 * at once.
 * @param stacks window addresses of stack areas for the programs, one for each worker that runs them
 * @throws DriverError DRIVER_PROGRAM when one is missing, too long, not well formed, or refused: then nothing of the device's has run
 */
export async function loadPrograms(
  source: ProgramSource,
  sizes: ContextSizes,
  stacks: readonly number[],
): Promise<LoadedPrograms> {
  const programs = stacks.map((): Partial<Record<ProgramSection, WebAssembly.Module>> => ({}));
  const reports: ProgramReport[] = [];
  const calls = new Map<ProgramSection, ReadonlySet<number>>();
  for (const [section, bytes] of await readPrograms(source)) {
    const contextSize = section.startsWith('rx') ? sizes.rxContextSize : sizes.txContextSize;
    await setImmediate();
    const { modules, report, helpers } = prepare(section, bytes, contextSize, stacks);
    for (const [i, module] of modules.entries()) programs[i]![section] = module;
    reports.push(report);
    calls.set(section, helpers);
  }
  return { programs, reports, calls, summary: summarise(reports) };
}

/** By source: resolves when nobody selects programs any more. The selection is a register that all share. */
const selecting = new WeakMap<ProgramSource, Promise<unknown>>();

async function readPrograms(source: ProgramSource): Promise<ReadonlyMap<ProgramSection, Uint8Array>> {
  const before = selecting.get(source);
  const reading = (before ?? Promise.resolve()).then(() => readAll(source));
  selecting.set(
    source,
    reading.catch(() => {}),
  );
  return reading;
}

async function readAll(source: ProgramSource): Promise<ReadonlyMap<ProgramSection, Uint8Array>> {
  const found = new Map<ProgramSection, Uint8Array>();
  for (const { number, section, optional } of PROGRAMS) {
    await source.write(REG.PROG_SELECT, number);
    const length = await source.read(REG.PROG_SIZE);
    if (length === 0) {
      if (optional) continue;
      throw new DriverError('DRIVER_PROGRAM', `the device has no program ${section}`);
    }
    if (length > MAX_INSTRUCTIONS) {
      const limit = `${length} instructions, ${MAX_INSTRUCTIONS} at most`;
      throw new DriverError('DRIVER_PROGRAM', `program ${section}: ${limit}`);
    }
    found.set(section, await source.readProgram(length));
  }
  return found;
}

/** From bytecode to what may run. */
function prepare(
  section: ProgramSection,
  bytes: Uint8Array,
  contextSize: number,
  stacks: readonly number[],
): {
  readonly modules: readonly WebAssembly.Module[];
  readonly report: ProgramReport;
  readonly helpers: ReadonlySet<number>;
} {
  const refused = (why: string, cause?: unknown) =>
    new DriverError('DRIVER_PROGRAM', `program ${section}: ${why}`, { cause });
  try {
    const program = decodeProgram(bytes, section);
    const memory = { contextSize, helpers: BPFHV_HELPERS };
    const verdict = verify(program, {
      ...{ ...memory, promises: promisesTo(section) },
      ...{ guarded: 'context', unbounded: 'budget' },
    });
    if (!verdict.accepted) throw refused(verdict.reason);
    const budget = verdict.steps > RUN_BUDGET;
    const compiled = stacks.map(stackBase =>
      compile(program, {
        ...memory,
        stackBase,
        budget: budget ? RUN_BUDGET : Number.POSITIVE_INFINITY,
        unguarded: verdict.unguarded,
        promised: verdict.promised,
        confined: true,
        sharedMemory: true,
        memoryPages: WINDOW_PAGES,
      }),
    );
    const report = {
      ...{ section, instructions: program.insns.length, guards: compiled[0]!.stats.guards, budget },
      ...{ states: verdict.states, verifyMs: verdict.milliseconds },
      compileMs: compiled.reduce((sum, { stats }) => sum + stats.milliseconds, 0),
    };
    return { modules: compiled.map(({ module }) => module), report, helpers: helpersOf(program) };
  } catch (error) {
    throw error instanceof DriverError ? error : refused((error as Error).message, error);
  }
}

/** All helpers that a call instruction names, whether it is ever reached or not. */
function helpersOf({ insns }: Program): ReadonlySet<number> {
  const calls = insns.filter(({ opcode, src }) => opcode === CALL_OPCODE && src !== CALL.LOCAL);
  return new Set(calls.map(helperKey));
}

function summarise(reports: readonly ProgramReport[]): string {
  const sum = (of: (report: ProgramReport) => number) => reports.reduce((total, one) => total + of(one), 0);
  const budgeted = reports.filter(({ budget }) => budget).map(({ section }) => section);
  return [
    `${reports.length} programs accepted: ${sum(one => one.instructions)} instructions`,
    `${sum(one => one.guards)} guards`,
    ...(budgeted.length > 0 ? [`${budgeted.join(', ')} under a budget`] : []),
    `verified in ${sum(one => one.verifyMs).toFixed(1)} ms`,
    `compiled in ${sum(one => one.compileMs).toFixed(1)} ms`,
  ].join(', ');
}
