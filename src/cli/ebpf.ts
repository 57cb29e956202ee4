/** `polynic ebpf`: look at eBPF programs, judge them, run and time them. Errors are thrown: who calls prints them. */
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { Command, InvalidArgumentError, Option } from '@commander-js/extra-typings';
import { disassemble } from '../ebpf/disasm.js';
import { isElf, loadObject } from '../ebpf/elf.js';
import { EbpfError } from '../ebpf/errors.js';
import { decodeProgram, type Program } from '../ebpf/program.js';
import { DEFAULT_BUDGET, parseHex, runOnce } from '../ebpf/run.js';
import { timeProgram } from '../ebpf/timing.js';
import { verify } from '../ebpf/verifier/index.js';
import { BPFHV_HELPERS } from '../guest/bpfhv/helpers.js';
import { promisesTo } from '../guest/bpfhv/registers.js';
import { warmUp } from '../guest/bpfhv/warm-up.js';

/** Bytes of the context of sring with 256 buffers. */
const DEFAULT_CONTEXT_SIZE = 8752;

export function ebpfCommand(): Command {
  // Set before there are subcommands, which inherit it: usage errors are thrown and not printed.
  const command = new Command('ebpf').exitOverride().configureOutput({ writeErr: () => {} });
  command.description('look at eBPF programs, judge them, run and time them');

  command
    .command('disasm')
    .description('print programs as assembly text')
    .argument('<file>', 'ELF object, or raw bytecode')
    .option('--section <name>', 'only this program of an object')
    .action(async (file, { section }) => {
      for (const program of await readPrograms(file, section)) {
        print(`# ${program.name}: ${program.slots} slots\n${disassemble(program)}`);
      }
    });

  command
    .command('verify')
    .description('judge every program of a file: accepted, with which guards, or refused, and why')
    .argument('<file>', 'ELF object, or raw bytecode')
    .option('--context-size <bytes>', 'length of the context', positiveInteger, DEFAULT_CONTEXT_SIZE)
    .option(
      '--budget',
      'accept as well what is not seen to end, but counts: a guest runs that under a budget',
    )
    .option('--json', 'print one array of verdicts')
    .addHelpText('after', VERIFY_HELP)
    .action(async (file, { contextSize, budget = false, json }) => {
      const programs = await readBytecode(file);
      warmUp(); // as a guest's driver has by then: times are its times
      const verdicts = [...programs].map(([section, bytes]) => judge(section, bytes, contextSize, budget));
      print(json ? `${JSON.stringify(verdicts)}\n` : verdicts.map(verdictLine).join(''));
      if (verdicts.some(({ verdict }) => verdict === 'refused')) process.exitCode = 1;
    });

  command
    .command('run')
    .description('run bytecode given as hex on stdin and print r0 in hex')
    .argument('[memory]', 'the context as hex; r1 points to it, r2 is its length', '')
    .addOption(new Option('--jit', 'compile to WebAssembly (the default)').conflicts('interpret'))
    .option('--interpret', 'use the interpreter')
    .option('--budget <n>', 'instructions that the run may take', positiveInteger, DEFAULT_BUDGET)
    .action(async (memory, { interpret, budget }) => {
      const context = parseHex(memory);
      const bytecode = parseHex(await text(process.stdin));
      const result = await runOnce(bytecode, context, interpret ? 'interpret' : 'jit', budget);
      print(`${result.toString(16)}\n`);
    });

  command
    .command('time')
    .description('time one run on a zeroed context, with helpers that return 0')
    .argument('<file>', 'ELF object, or raw bytecode')
    .option('--section <name>', 'the program of an object; all when not given')
    .option('--context-size <bytes>', 'length of the context', positiveInteger, DEFAULT_CONTEXT_SIZE)
    .option('--json', 'print one array of results')
    .action(async (file, { section, contextSize, json }) => {
      const results = (await readPrograms(file, section)).map(program => {
        const { result, jit, ...ns } = timeProgram(program, { contextSize });
        return { section: program.name, ...ns, r0: result.toString(16), ...jit };
      });
      print(json ? `${JSON.stringify(results)}\n` : results.map(timingLine).join(''));
    });

  return command;
}

/** The programs of a file: of an object all, or the one of that section; else the file itself is bytecode. */
async function readPrograms(file: string, section: string | undefined): Promise<Program[]> {
  const bytes = await readFile(file);
  if (!isElf(bytes)) {
    if (section !== undefined)
      throw new EbpfError('EBPF_SECTION', `${file} is raw bytecode without sections`);
    return [named(file, () => decodeProgram(bytes, file))];
  }
  const { programs } = named(file, () => loadObject(bytes));
  const names = section === undefined ? [...programs.keys()] : [section];
  return names.map(name => {
    const bytecode = programs.get(name);
    if (bytecode === undefined) throw new EbpfError('EBPF_SECTION', `${file} has no program ${name}`);
    return named(`${file}, section ${name}`, () => decodeProgram(bytecode, name));
  });
}

/** The bytecode of all programs of a file, by section; raw bytecode by the name of the file. `.text` is linked to those that call it. */
async function readBytecode(file: string): Promise<ReadonlyMap<string, Uint8Array>> {
  const bytes = await readFile(file);
  if (!isElf(bytes)) return new Map([[file, bytes]]);
  const { programs } = named(file, () => loadObject(bytes));
  return programs.size === 1 ? programs : new Map([...programs].filter(([name]) => name !== '.text'));
}

/** What `verify --json` prints of a program. */
interface Judgement {
  readonly section: string;
  readonly verdict: 'accepted' | 'refused';
  /** Slots that keep a check. */
  readonly guards: readonly number[];
  /** It is not seen to end, but counts: a guest runs it all the same, under a budget. */
  readonly budget?: true;
  readonly states: number;
  readonly ms: number;
  /** Of a refusal: the slot, null when it is none of a single instruction, and why. */
  readonly insn?: number | null;
  readonly reason?: string;
}

const VERIFY_HELP = `
Accepted is what is seen to end, to touch nothing but its context and its stack, to read nothing that was not set, and to hand out no address.
Accesses behind an index that shared memory gives keep a check when they run, a guard: their slots are printed.

Exit status: 0 when all programs are accepted, 1 when one is refused, 2 when the command line is wrong.`;

/** What is no well-formed program is refused as one that does harm. */
function judge(section: string, bytes: Uint8Array, contextSize: number, budget: boolean): Judgement {
  const refused = (insn: number | null, reason: string, states: number, ms: number): Judgement => {
    return { section, verdict: 'refused', guards: [], states, ms, insn, reason };
  };
  try {
    const program = decodeProgram(bytes, section);
    const options = {
      ...{ contextSize, helpers: BPFHV_HELPERS, promises: promisesTo(section) },
      guarded: 'context',
    } as const;
    const verdict = verify(program, { ...options, unbounded: budget ? 'budget' : 'refuse' });
    const { states, milliseconds: ms } = verdict;
    if (verdict.accepted) {
      const { guards } = verdict;
      return {
        section,
        verdict: 'accepted',
        guards,
        ...(verdict.budget ? { budget: true } : {}),
        states,
        ms,
      };
    }
    const again = budget ? verdict : verify(program, { ...options, unbounded: 'budget' });
    const judgement = refused(verdict.insn, verdict.reason, states, ms);
    return again.accepted ? { ...judgement, guards: again.guards, budget: true } : judgement;
  } catch (error) {
    if (error instanceof EbpfError) return refused(error.pc, error.message, 0, 0);
    throw error;
  }
}

function verdictLine({ section, verdict, guards, budget, states, ms, reason }: Judgement): string {
  const effort = `${states} states, ${ms.toFixed(1)} ms`;
  const kept = guards.length === 0 ? 'no guards' : `guards at ${guards.join(', ')}`;
  const needs = budget ? `${kept}, under a budget` : kept;
  if (verdict === 'accepted') return `${section}: accepted, ${needs} (${effort})\n`;
  const instead = budget ? ` A guest runs it with ${needs}: see --budget.` : '';
  return `${section}: refused (${effort}): ${reason}${instead}\n`;
}

/** Says in a refusal what was refused. */
function named<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof EbpfError) error.message = `${what}: ${error.message}`;
    throw error;
  }
}

function timingLine(timing: { section: string; interpretNs: number; jitNs: number }): string {
  const { section, interpretNs, jitNs } = timing;
  const ratio = Math.round(interpretNs / jitNs);
  return `${section}: interpreter ${interpretNs.toFixed(0)} ns, JIT ${jitNs.toFixed(1)} ns, ${ratio} times faster\n`;
}

function print(output: string): void {
  process.stdout.write(output);
}

function positiveInteger(value: string): number {
  const number = Number(value);
  if (!/^\d+$/.test(value) || number < 1 || !Number.isSafeInteger(number)) {
    throw new InvalidArgumentError('Not a positive whole number.');
  }
  return number;
}
