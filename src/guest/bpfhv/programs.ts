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
import type { Contract } from './contract.js';
import { BPFHV_HELPERS } from './helpers.js';
import { PROGRAMS, type ProgramSection, promisesTo, REG } from './registers.js';
import type { HelperCalls } from './seal-policy.js';
import { type BpfhvTransport, DriverError } from './transport.js';

/** Instructions of a program at most. */
const MAX_INSTRUCTIONS = 16384;
/**
 * Instructions that one run may take, whether that is proved or counted. A loop over 64 buffers needs a few thousand; but programs may also walk through the whole
 * ring to arm or to reclaim, so large rings allow more. The verifier's own limit on a run is twice what the largest ring allows.
 */
export function runBudget(descriptors: number): number {
  return Math.max(65536, 64 * descriptors);
}

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

/** What of a contract its programs are judged by. */
export type QueueSizes = Pick<Contract, `${'rx' | 'tx'}ContextSize` | `num${'Rx' | 'Tx'}Bufs`>;

/**
 * Reads, verifies and compiles all programs, without keeping the event loop for longer than one program takes; several contracts may be loaded
 * at once.
 * @param stacks window addresses of stack areas for the programs, one for each worker that runs them
 * @throws DriverError DRIVER_PROGRAM when one is missing, too long, not well formed, or refused: then nothing of the device's has run
 */
export async function loadPrograms(
  source: ProgramSource,
  sizes: QueueSizes,
  stacks: readonly number[],
): Promise<LoadedPrograms> {
  const programs = stacks.map((): Partial<Record<ProgramSection, WebAssembly.Module>> => ({}));
  const reports: ProgramReport[] = [];
  const calls = new Map<ProgramSection, ReadonlySet<number>>();
  const done: Done[] = [];
  for (const [section, bytes] of await readPrograms(source)) {
    const limits = section.startsWith('rx')
      ? { contextSize: sizes.rxContextSize, budget: runBudget(sizes.numRxBufs) }
      : { contextSize: sizes.txContextSize, budget: runBudget(sizes.numTxBufs) };
    await setImmediate();
    // Both directions often arm alike.
    const same = done.find(one => isSame(one, section, bytes, limits));
    const prepared =
      same === undefined ? prepareProgram(section, bytes, limits, stacks) : again(same.prepared, section);
    if (same === undefined) done.push({ section, bytes, limits, prepared });
    for (const [i, module] of prepared.modules.entries()) programs[i]![section] = module;
    reports.push(prepared.report);
    calls.set(section, prepared.helpers);
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

/** What a program has to keep to. */
interface Limits {
  readonly contextSize: number;
  /** Instructions of a run. */
  readonly budget: number;
}

interface PreparedProgram {
  /** By stack. */
  readonly modules: readonly WebAssembly.Module[];
  readonly report: ProgramReport;
  readonly helpers: ReadonlySet<number>;
}

interface Done {
  readonly section: ProgramSection;
  readonly bytes: Uint8Array;
  readonly limits: Limits;
  readonly prepared: PreparedProgram;
}

/** Whether all that a verdict depends on is the same. */
function isSame(before: Done, section: ProgramSection, bytes: Uint8Array, limits: Limits): boolean {
  return (
    before.limits.contextSize === limits.contextSize &&
    before.limits.budget === limits.budget &&
    promisesTo(before.section) === promisesTo(section) &&
    Buffer.compare(before.bytes, bytes) === 0
  );
}

function again(prepared: PreparedProgram, section: ProgramSection): PreparedProgram {
  return { ...prepared, report: { ...prepared.report, section, verifyMs: 0, compileMs: 0 } };
}

/** From bytecode to what may run. Throws DriverError DRIVER_PROGRAM. */
export function prepareProgram(
  section: ProgramSection,
  bytes: Uint8Array,
  { contextSize, budget }: Limits,
  stacks: readonly number[],
): PreparedProgram {
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
    const counted = verdict.steps > budget;
    const compiled = stacks.map(stackBase =>
      compile(program, {
        ...memory,
        stackBase,
        budget: counted ? budget : Number.POSITIVE_INFINITY,
        unguarded: verdict.unguarded,
        guardedArguments: verdict.guardedArguments,
        promised: verdict.promised,
        confined: true,
        sharedMemory: true,
        memoryPages: WINDOW_PAGES,
      }),
    );
    const report = {
      ...{ section, instructions: program.insns.length, guards: compiled[0]!.stats.guards },
      ...{ budget: counted, states: verdict.states, verifyMs: verdict.milliseconds },
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
