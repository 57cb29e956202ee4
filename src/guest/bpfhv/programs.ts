/** Gets a device's programs through its registers, and compiles them for the sizes of its contexts. */
import { compile } from '../../ebpf/jit/index.js';
import { decodeProgram } from '../../ebpf/program.js';
import { WINDOW_PAGES } from '../../memory/window.js';
import type { CompiledPrograms } from './commands.js';
import { BPFHV_HELPERS } from './helpers.js';
import { PROGRAMS, REG } from './registers.js';
import { type BpfhvTransport, DriverError } from './transport.js';

/** Instructions of a program at most. */
const MAX_INSTRUCTIONS = 16384;
/** Instructions that one run may take: a loop over 64 buffers needs a few thousand. */
const RUN_BUDGET = 65536;

/**
 * Reads and compiles all programs. Throws DriverError DRIVER_PROGRAM when one is missing, too long or not well formed: then nothing of the
 * device's has run.
 * @param stack window address of the programs' stack area
 */
export async function loadPrograms(
  transport: BpfhvTransport,
  sizes: { rxContextSize: number; txContextSize: number },
  stack: number,
): Promise<CompiledPrograms> {
  const programs: Partial<Record<(typeof PROGRAMS)[number]['section'], WebAssembly.Module>> = {};
  for (const { number, section, optional } of PROGRAMS) {
    await transport.write(REG.PROG_SELECT, number);
    const length = await transport.read(REG.PROG_SIZE);
    if (length === 0) {
      if (optional) continue;
      throw new DriverError('DRIVER_PROGRAM', `the device has no program ${section}`);
    }
    if (length > MAX_INSTRUCTIONS) {
      throw new DriverError(
        'DRIVER_PROGRAM',
        `program ${section}: ${length} instructions, ${MAX_INSTRUCTIONS} at most`,
      );
    }
    try {
      const program = decodeProgram(await transport.readProgram(length), section);
      const { module } = compile(program, {
        contextSize: section.startsWith('rx') ? sizes.rxContextSize : sizes.txContextSize,
        stackBase: stack,
        helpers: BPFHV_HELPERS,
        budget: RUN_BUDGET,
        sharedMemory: true,
        memoryPages: WINDOW_PAGES,
      });
      programs[section] = module;
    } catch (error) {
      throw new DriverError('DRIVER_PROGRAM', `program ${section}: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }
  return programs;
}
