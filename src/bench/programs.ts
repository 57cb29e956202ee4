/**
 * The programs of a device type, made fit to run in two ways:
 *
 * ```
 *   as the guest's driver does it    verified; guards only where the proof did not reach, a budget only where it did not see the end
 *   all guarded                      not verified: every access guarded, every instruction on a budget, as it had to be without a verifier
 * ```
 */
import { readFileSync } from 'node:fs';
import { loadObject } from '../ebpf/elf.js';
import { compile } from '../ebpf/jit/index.js';
import { decodeProgram } from '../ebpf/program.js';
import { BPFHV_HELPERS } from '../guest/bpfhv/helpers.js';
import { type LoadedPrograms, loadPrograms, type ProgramSource, runBudget } from '../guest/bpfhv/programs.js';
import { PROGRAMS, type ProgramSection, REG } from '../guest/bpfhv/registers.js';
import { WINDOW_PAGES } from '../memory/window.js';
import type { DeviceType } from '../ring/ring.js';

export type Modules = Readonly<Partial<Record<ProgramSection, WebAssembly.Module>>>;

/** What both ways need to know: bytes of the contexts, descriptors of a queue, and the window address of a stack area. */
export interface Place {
  readonly contextSize: number;
  readonly num: number;
  readonly stackBase: number;
}

/** By the driver's own function, through registers as a device has them. Throws DriverError. */
export function loadAsDriver(
  device: DeviceType,
  { contextSize, num, stackBase }: Place,
): Promise<LoadedPrograms> {
  const sizes = { rxContextSize: contextSize, txContextSize: contextSize, numRxBufs: num, numTxBufs: num };
  return loadPrograms(registersOf(device), sizes, [stackBase]);
}

/** Throws EbpfError. */
export function compileAllGuarded(
  device: DeviceType,
  place: Place,
): { readonly modules: Modules; readonly guards: number } {
  const options = {
    ...{ ...place, helpers: BPFHV_HELPERS, budget: runBudget(place.num) },
    ...{ sharedMemory: true, memoryPages: WINDOW_PAGES },
  };
  const modules: Partial<Record<ProgramSection, WebAssembly.Module>> = {};
  let guards = 0;
  for (const [section, bytes] of bytecodeOf(device)) {
    const { module, stats } = compile(decodeProgram(bytes, section), options);
    modules[section] = module;
    guards += stats.guards;
  }
  return { modules, guards };
}

function registersOf(device: DeviceType): ProgramSource {
  const bytecode = bytecodeOf(device);
  let selected: Uint8Array | undefined;
  return {
    async write(register, value) {
      const section = PROGRAMS.find(({ number }) => number === value)?.section;
      if (register === REG.PROG_SELECT) selected = section && bytecode.get(section);
    },
    read: async register => (register === REG.PROG_SIZE ? (selected?.length ?? 0) / 8 : 0),
    readProgram: async instructions => selected!.slice(0, instructions * 8),
  };
}

function bytecodeOf(device: DeviceType): ReadonlyMap<ProgramSection, Uint8Array> {
  const { programs } = loadObject(readFileSync(device.programs));
  return new Map(
    PROGRAMS.flatMap(({ section }) => {
      const bytes = programs.get(section);
      return bytes === undefined ? [] : [[section, bytes] as const];
    }),
  );
}
