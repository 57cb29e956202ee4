/**
 * The command behind `polynic-bpf-plugin`: one program, run once, in the form that public BPF conformance runners call.
 *
 *   polynic-bpf-plugin [MEMORY-HEX] [--jit | --interpret] [--elf] [--program HEX] [--debug]
 *
 * The bytecode comes as hex on stdin unless --program gives it; with --elf it is an object file with one program. r1 points to the memory,
 * r2 is its length. Prints r0 in lower-case hex; an error is one line on stderr and exit code 1, or 2 for bad arguments. Empty arguments
 * mean nothing: runners make them of absent memory and of double spaces in their own options.
 */
import { text } from 'node:stream/consumers';
import { loadObject } from './elf.js';
import { EbpfError } from './errors.js';
import { type Engine, parseHex, runOnce } from './run.js';

interface PluginOptions {
  readonly memory: string | null;
  readonly program: string | null;
  readonly engine: Engine;
  readonly elf: boolean;
}

/** Runs the plugin and gives its exit code. */
export async function runPlugin(
  argv: readonly string[],
  stdin: NodeJS.ReadableStream,
  stdout: { write(text: string): unknown },
  stderr: { write(text: string): unknown },
): Promise<number> {
  try {
    const options = parseOptions(argv);
    const input = parseHex(options.program ?? (await text(stdin)));
    const bytecode = options.elf ? onlyProgram(input) : input;
    const result = await runOnce(bytecode, parseHex(options.memory ?? ''), options.engine);
    stdout.write(`${result.toString(16)}\n`);
    return 0;
  } catch (error) {
    if (!(error instanceof EbpfError)) throw error;
    stderr.write(`polynic-bpf-plugin: ${error.message}\n`);
    return error.code === 'EBPF_USAGE' ? 2 : 1;
  }
}

function parseOptions(argv: readonly string[]): PluginOptions {
  const options = {
    memory: null as string | null,
    program: null as string | null,
    engine: 'jit' as Engine,
    elf: false,
  };
  const rest = [...argv];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === '' || word === '--debug') continue;
    if (word === '--jit') options.engine = 'jit';
    else if (word === '--interpret') options.engine = 'interpret';
    else if (word === '--elf') options.elf = true;
    else if (word === '--program') options.program = rest.shift() ?? '';
    else if (word.startsWith('-')) throw new EbpfError('EBPF_USAGE', `unknown option ${word}`);
    else if (options.memory !== null) throw new EbpfError('EBPF_USAGE', 'the memory is given twice');
    else options.memory = word;
  }
  return options;
}

function onlyProgram(input: Uint8Array): Uint8Array {
  const { programs } = loadObject(input);
  const [bytecode] = programs.values();
  if (bytecode === undefined || programs.size > 1) {
    throw new EbpfError('EBPF_ELF', `the object has ${programs.size} programs, not one`);
  }
  return bytecode;
}
