/**
 * The public BPF conformance suite against both engines, through the plugin that its runners call. Set
 * POLYNIC_BPF_CONFORMANCE to a directory of `.data` files (the suite's `tests`, searched with its subdirectories).
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { assemble } from '../../src/ebpf/asm.js';
import { disassemble } from '../../src/ebpf/disasm.js';
import { decodeProgram } from '../../src/ebpf/program.js';

const directory = process.env.POLYNIC_BPF_CONFORMANCE;
const plugin = fileURLToPath(new URL('../../../bin/polynic-bpf-plugin', import.meta.url));

interface Case {
  readonly bytecode: Uint8Array;
  readonly memory: string;
  readonly result: bigint;
}

describe('BPF conformance suite', () => {
  if (directory === undefined) {
    it('runs', { skip: 'POLYNIC_BPF_CONFORMANCE names no directory of .data files' }, () => {});
    return;
  }
  const files = readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter(name =>
    name.endsWith('.data'),
  );
  it('has cases', () => assert.notEqual(files.length, 0, `no .data files in ${directory}`));
  for (const file of files.sort()) {
    const parsed = parse(readFileSync(join(directory, file), 'utf8'));
    if (typeof parsed === 'string') {
      it(file, { skip: parsed }, () => {});
      continue;
    }
    it(`${file}: survives disassembly`, () => {
      assert.deepEqual(assemble(disassemble(decodeProgram(parsed.bytecode))), parsed.bytecode);
    });
    for (const engine of ['--interpret', '--jit']) {
      it(`${file} ${engine}`, async () => {
        assert.equal(BigInt(`0x${await runPlugin(parsed, engine)}`), parsed.result);
      });
    }
  }
});

/** A case, or why the suite's own runner passes it over. */
function parse(text: string): Case | string {
  const sections = new Map<string, string[]>();
  let lines: string[] = [];
  for (const line of text.split(/\r?\n/)) {
    const directive = /^-- *(.*?) *$/.exec(line);
    if (directive === null) lines.push(line);
    else sections.set(directive[1]!, (lines = []));
  }
  const known = ['asm', 'raw', 'mem', 'result', 'error', 'c', 'no register offset'];
  const unknown = [...sections.keys()].find(name => !known.includes(name));
  if (unknown !== undefined) return `the suite's runner knows no section "${unknown}"`;
  const content = (name: string) =>
    (sections.get(name) ?? []).map(line => line.replace(/#.*/, '').trim()).filter(line => line !== '');
  const result = content('result').at(-1);
  if (result === undefined) return 'it expects an error whose text is that of another runtime';
  const raw = content('raw');
  const bytecode = raw.length > 0 ? words(raw) : assemble(content('asm').join('\n'));
  return { bytecode, memory: content('mem').join(' '), result: BigInt.asUintN(64, BigInt(result)) };
}

function words(lines: readonly string[]): Uint8Array {
  const values = lines.flatMap(line => line.split(/\s+/)).map(BigInt);
  return new Uint8Array(new BigUint64Array(values).buffer);
}

function runPlugin({ bytecode, memory }: Case, engine: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const args = memory === '' ? [engine] : [memory, engine];
    const child = execFile(plugin, args, (error, stdout, stderr) => {
      if (error) reject(new Error(stderr || error.message));
      else resolve(stdout.trim());
    });
    // Two blanks between bytes, as the suite's runner writes them.
    child.stdin!.end(`${Array.from(bytecode, byte => byte.toString(16).padStart(2, '0')).join('  ')}\n`);
  });
}
