/**
 * The plugin for conformance runners as a process; `polynic ebpf` in a process that says what it throws, which the
 * command line as a whole turns into one line and an exit code.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { assemble } from '../../src/ebpf/asm.js';
import { code, writeObject } from './ebpf-elf-writer.js';

const plugin = fileURLToPath(new URL('../../../bin/polynic-bpf-plugin', import.meta.url));
const command = new URL('../../src/cli/ebpf.js', import.meta.url).href;
const DRIVER = `
  const { ebpfCommand } = await import('${command}');
  try {
    await ebpfCommand().parseAsync(process.argv.slice(1), { from: 'user' });
  } catch (error) {
    process.stderr.write(error.code + ': ' + error.message + '\\n');
    process.exitCode = 1;
  }`;
const directory = mkdtempSync(join(tmpdir(), 'polynic-ebpf-'));
after(() => rmSync(directory, { recursive: true }));

const SUM = assemble('ldxb r0, [r1]\nldxb r2, [r1+1]\nadd r0, r2\nexit');
const object = writeObject([code('txp', SUM), code('rxp', assemble('mov r0, -1\nexit'))]);
writeFileSync(join(directory, 'two.o'), object);
writeFileSync(join(directory, 'raw'), SUM);
writeFileSync(join(directory, 'odd'), 'not bytecode');

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number;
}

function run(file: string, args: readonly string[], stdin = ''): Promise<Outcome> {
  return new Promise(resolve => {
    const child = execFile(file, args, { cwd: directory }, (error, stdout, stderr) => {
      resolve({ stdout, stderr, status: error === null ? 0 : Number(error.code) });
    });
    child.stdin!.on('error', () => {}); // it may end before it reads
    child.stdin!.end(stdin);
  });
}

describe('polynic-bpf-plugin', () => {
  for (const options of [[], ['--jit'], ['--interpret'], ['--debug']]) {
    it(`runs bytecode from stdin ${options.join(' ')}`, async () => {
      const outcome = await run(plugin, ['0a  f0  ', ...options], `${hex(SUM)}\n`);
      assert.deepEqual(outcome, { stdout: 'fa\n', stderr: '', status: 0 });
    });
  }

  it('takes the program as an option, and no memory', async () => {
    const outcome = await run(plugin, ['--program', hex(assemble('mov r0, -1\nexit'))]);
    assert.deepEqual(outcome, { stdout: 'ffffffffffffffff\n', stderr: '', status: 0 });
  });

  it('passes over empty arguments', async () => {
    const outcome = await run(plugin, ['', '0a  f0  ', '', '--interpret'], hex(SUM));
    assert.deepEqual(outcome, { stdout: 'fa\n', stderr: '', status: 0 });
  });

  it('takes an object with one program', async () => {
    const one = writeObject([code('.text', SUM)]);
    assert.equal((await run(plugin, ['0102', '--elf'], hex(one))).stdout, '3\n');
    const two = await run(plugin, ['0102', '--elf'], hex(object));
    assert.match(two.stderr, /2 programs, not one/);
  });

  for (const [name, args, stdin, status, stderr] of [
    ['an unknown option', ['--frob'], '', 2, /unknown option --frob/],
    ['memory given twice', ['0a f0', 'f0'], '', 2, /memory is given twice/],
    ['bytecode that is no hex', [], '95 0x', 1, /not a sequence of hex bytes/],
    ['memory that is no hex', ['zz'], hex(SUM), 1, /not a sequence of hex bytes/],
    ['a malformed program', [], '00'.repeat(8), 1, /insn 0: there is no opcode 0x00/],
    ['a fault', ['01'], hex(SUM), 1, /insn 1: access outside .* at 0x11001/],
    ['a fault of the interpreter', ['01', '--interpret'], hex(SUM), 1, /insn 1: access of 1 bytes outside/],
  ] as const) {
    it(`says in one line: ${name}`, async () => {
      const outcome = await run(plugin, args, stdin);
      assert.equal(outcome.status, status);
      assert.equal(outcome.stdout, '');
      assert.match(outcome.stderr, /^polynic-bpf-plugin: [^\n]*\n$/);
      assert.match(outcome.stderr, stderr);
    });
  }
});

describe('polynic ebpf', () => {
  const ebpf = (args: readonly string[], stdin?: string) =>
    run(process.execPath, ['--input-type=module', '--eval', DRIVER, '--', ...args], stdin);

  it('disassembles all programs of an object, or one', async () => {
    const all = await ebpf(['disasm', 'two.o']);
    assert.equal(all.stderr, '');
    assert.match(all.stdout, /^# txp: 4 slots\n {2}ldxb %r0, \[%r1\+0\]\n[^#]*# rxp: 2 slots\n/);
    const one = await ebpf(['disasm', 'two.o', '--section', 'rxp']);
    assert.equal(one.stdout, '# rxp: 2 slots\n  mov %r0, -1\n  exit\n');
  });

  it('disassembles raw bytecode to text that assembles to it', async () => {
    const { stdout } = await ebpf(['disasm', 'raw']);
    assert.deepEqual(assemble(stdout), SUM);
  });

  it('runs bytecode with either engine', async () => {
    assert.equal((await ebpf(['run', '0102', '--interpret'], hex(SUM))).stdout, '3\n');
    assert.equal((await ebpf(['run', '0102'], hex(SUM))).stdout, '3\n');
  });

  it('stops a run at its budget', async () => {
    const outcome = await ebpf(['run', '--interpret', '--budget', '1000'], hex(assemble('l:\nja l')));
    assert.deepEqual([outcome.status, outcome.stdout], [1, '']);
    assert.match(outcome.stderr, /the budget of 1000 instructions is spent/);
  });

  it('times programs', async () => {
    const { stdout } = await ebpf(['time', 'two.o', '--context-size', '64', '--json']);
    const results = JSON.parse(stdout) as {
      section: string;
      interpretNs: number;
      jitNs: number;
      r0: string;
    }[];
    assert.deepEqual(
      results.map(({ section, r0 }) => [section, r0]),
      [
        ['txp', '0'],
        ['rxp', 'ffffffffffffffff'],
      ],
    );
    for (const { interpretNs, jitNs } of results) assert.ok(interpretNs > 0 && jitNs > 0);
  });

  for (const [name, args, stderr] of [
    ['no such file', ['disasm', 'none.o'], /^ENOENT: .*none\.o/],
    ['no such section', ['disasm', 'two.o', '--section', 'x'], /^EBPF_SECTION: two\.o has no program x/],
    ['a section of raw bytecode', ['disasm', 'raw', '--section', 'x'], /^EBPF_SECTION: raw is raw bytecode/],
    ['a file that is no program', ['disasm', 'odd'], /^EBPF_LENGTH: odd: 12 bytes/],
    ['both engines', ['run', '--jit', '--interpret'], /^commander\..*cannot be used with/],
    ['a bad number', ['run', '--budget', '1e3'], /^commander\..*Not a positive whole number/],
    ['an unknown command', ['frob'], /^commander\..*unknown command/],
  ] as const) {
    it(`throws for ${name}, and prints nothing`, async () => {
      const outcome = await ebpf(args);
      assert.deepEqual([outcome.status, outcome.stdout], [1, '']);
      assert.match(outcome.stderr, stderr);
    });
  }
});
