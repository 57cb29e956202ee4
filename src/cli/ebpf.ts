/** `polynic ebpf`: look at eBPF programs, run and time them. */
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { Command, InvalidArgumentError, Option } from '@commander-js/extra-typings';
import { disassemble } from '../ebpf/disasm.js';
import { isElf, loadObject } from '../ebpf/elf.js';
import { EbpfError } from '../ebpf/errors.js';
import { decodeProgram, type Program } from '../ebpf/program.js';
import { DEFAULT_BUDGET, parseHex, runOnce } from '../ebpf/run.js';

/** Bytes of the context of sring with 256 buffers. */
const DEFAULT_CONTEXT_SIZE = 8752;

export function ebpfCommand(): Command {
  const command = new Command('ebpf').description('look at eBPF programs, run and time them');

  command
    .command('disasm')
    .description('print programs as assembly text')
    .argument('<file>', 'ELF object, or raw bytecode')
    .option('--section <name>', 'only this program of an object')
    .action(async function (this: Command, file, { section }) {
      await report(this, async () => {
        for (const program of await readPrograms(file, section)) {
          process.stdout.write(`# ${program.name}: ${program.slots} slots\n${disassemble(program)}`);
        }
      });
    });

  command
    .command('run')
    .description('run bytecode given as hex on stdin and print r0 in hex')
    .argument('[memory]', 'the context as hex; r1 points to it, r2 is its length', '')
    .addOption(new Option('--jit', 'compile to WebAssembly (the default)').conflicts('interpret'))
    .option('--interpret', 'use the interpreter')
    .option('--budget <n>', 'instructions that the run may take', positiveInteger, DEFAULT_BUDGET)
    .action(async function (this: Command, memory, { interpret, budget }) {
      await report(this, async () => {
        const context = parseHex(memory);
        const bytecode = parseHex(await text(process.stdin));
        const result = await runOnce(bytecode, context, interpret ? 'interpret' : 'jit', budget);
        process.stdout.write(`${result.toString(16)}\n`);
      });
    });

  command
    .command('time')
    .description('time one run on a zeroed context, with helpers that return 0')
    .argument('<file>', 'ELF object, or raw bytecode')
    .option('--section <name>', 'the program of an object; all when not given')
    .option('--context-size <bytes>', 'length of the context', positiveInteger, DEFAULT_CONTEXT_SIZE)
    .option('--json', 'print one array of results')
    .action(async function (this: Command, file, { section, contextSize, json }) {
      await report(this, async () => {
        const { timeProgram } = await import('../ebpf/timing.js');
        const results = (await readPrograms(file, section)).map(program => {
          const { interpretNs, jitNs, result, jit } = timeProgram(program, { contextSize });
          return { section: program.name, interpretNs, jitNs, r0: result.toString(16), ...jit };
        });
        if (json) {
          process.stdout.write(`${JSON.stringify(results)}\n`);
          return;
        }
        for (const { section, interpretNs, jitNs } of results) {
          const ratio = (interpretNs / jitNs).toFixed(0);
          process.stdout.write(
            `${section}: interpreter ${interpretNs.toFixed(0)} ns, JIT ${jitNs.toFixed(1)} ns (${ratio} times faster)\n`,
          );
        }
      });
    });

  return command as unknown as Command;
}

/** The programs of a file: of an object all, or the one of that section; else the file itself is bytecode. */
async function readPrograms(file: string, section: string | undefined): Promise<Program[]> {
  const bytes = await readFile(file);
  if (!isElf(bytes)) {
    if (section !== undefined)
      throw new EbpfError('EBPF_SECTION', `${file} is raw bytecode, it has no sections`);
    return [named(file, () => decodeProgram(bytes, file))];
  }
  const { programs } = loadObject(bytes);
  const names = section === undefined ? [...programs.keys()] : [section];
  return names.map(name => {
    const bytecode = programs.get(name);
    if (bytecode === undefined) throw new EbpfError('EBPF_SECTION', `${file} has no program ${name}`);
    return named(`${file}, section ${name}`, () => decodeProgram(bytecode, name));
  });
}

/** Says in a refusal what was refused. */
function named<T>(what: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof EbpfError) error.message = `${what}: ${error.message}`;
    throw error;
  }
}

/** Failures of the program or the file are one line and exit code 1. */
async function report(command: Command, action: () => Promise<void>): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof EbpfError) && !isSystemError(error)) throw error;
    command.error(`polynic ebpf ${command.name()}: ${error.message}`, {
      exitCode: 1,
      code: 'polynic.failure',
    });
  }
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error;
}

function positiveInteger(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('Not a positive whole number.');
  }
  return value;
}
