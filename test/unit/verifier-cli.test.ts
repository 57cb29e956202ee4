/** `polynic ebpf verify` as a process. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { assemble } from '../../src/ebpf/asm.js';
import { code, writeObject } from './ebpf-elf-writer.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const directory = mkdtempSync(join(tmpdir(), 'polynic-verify-'));
after(() => rmSync(directory, { recursive: true }));

const GOOD = assemble('ldxdw r2, [r1]\nadd r1, r2\nldxb r0, [r1]\nexit');
const BAD = assemble('mov r0, 0\nstxdw [r1+8], r10\nexit');
const MALFORMED = new Uint8Array(8).fill(0xff);
writeFileSync(join(directory, 'good'), GOOD);
writeFileSync(
  join(directory, 'counting'),
  assemble('mov r0, 0\nldxw r2, [r1]\nl: add r0, 1\njlt r0, r2, l\nexit'),
);
writeFileSync(join(directory, 'waiting'), assemble('mov r0, 0\nl: ldxw r2, [r1]\njne r2, 0, l\nexit'));
writeFileSync(
  join(directory, 'mixed.o'),
  writeObject([code('txp', GOOD), code('rxp', BAD), code('txc', MALFORMED)]),
);
writeFileSync(join(directory, 'broken.o'), '\x7fELF and no more');

function verify(...args: string[]): Promise<{ stdout: string; stderr: string; status: number }> {
  return new Promise(resolve => {
    const file = join(root, 'bin/polynic.js');
    execFile(
      process.execPath,
      [file, 'ebpf', 'verify', ...args],
      { cwd: directory },
      (error, stdout, stderr) => {
        resolve({ stdout, stderr, status: error === null ? 0 : Number(error.code) });
      },
    );
  });
}

describe('polynic ebpf verify', () => {
  it('accepts all programs of sring, and says which guards they need', async () => {
    const { stdout, stderr, status } = await verify(join(root, 'programs/sring/sring.o'));
    assert.deepEqual([status, stderr], [0, '']);
    const lines = stdout.trim().split('\n');
    assert.equal(lines.length, 8);
    for (const line of lines)
      assert.match(
        line,
        /^[rt]x[pcir]: accepted, (no guards|guards at \d+(, \d+)*) \(\d+ states, [\d.]+ ms\)$/,
      );
  });

  it('judges every section, and ends with 1 when one is refused', async () => {
    const { stdout, status } = await verify('mixed.o', '--json', '--context-size', '64');
    assert.equal(status, 1);
    const [first, second, third] = JSON.parse(stdout) as Record<string, unknown>[];
    assert.deepEqual(
      { ...first, states: 0, ms: 0 },
      { section: 'txp', verdict: 'accepted', guards: [2], states: 0, ms: 0 },
    );
    assert.deepEqual([second!.section, second!.verdict, second!.insn], ['rxp', 'refused', 1]);
    assert.match(String(second!.reason), /stores a pointer.*r10 = frame 0\+0/);
    assert.deepEqual([third!.section, third!.verdict, third!.insn], ['txc', 'refused', 0]);
    assert.match(String(third!.reason), /no opcode 0xff/);
    for (const entry of [first, second, third])
      assert.ok(Number(entry!.ms) >= 0 && Number(entry!.states) >= 0);
  });

  it('refuses what is not seen to end, and says that a guest runs it under a budget; --budget accepts it', async () => {
    const strict = await verify('counting');
    assert.equal(strict.status, 1);
    assert.match(
      strict.stdout,
      /^counting: refused \(.*not seen to end.* A guest runs it with no guards, under a budget: see --budget\.\n$/,
    );
    const [refused] = JSON.parse((await verify('counting', '--json')).stdout) as Record<string, unknown>[];
    assert.deepEqual([refused!.verdict, refused!.budget, refused!.insn], ['refused', true, 2]);
    const allowed = await verify('counting', '--budget');
    assert.equal(allowed.status, 0);
    assert.match(allowed.stdout, /^counting: accepted, no guards, under a budget \(/);
    const waiting = await verify('waiting', '--budget');
    assert.equal(waiting.status, 1);
    assert.match(waiting.stdout, /may never end/);
    assert.doesNotMatch(waiting.stdout, /--budget/);
  });

  it('explains itself', async () => {
    const { stdout, status } = await verify('--help');
    assert.equal(status, 0);
    for (const word of ['--budget', '--context-size', 'guard', 'Exit status'])
      assert.ok(stdout.includes(word));
  });

  it('judges by the size of the context', async () => {
    assert.equal((await verify('good', '--context-size', '8')).status, 0);
    const { stdout, status } = await verify('good', '--context-size', '7');
    assert.equal(status, 1);
    assert.match(stdout, /^good: refused \(.*which is 7 bytes long/);
  });

  it('says in one line what it cannot read', async () => {
    for (const file of ['none.o', 'broken.o']) {
      const { stdout, stderr, status } = await verify(file);
      assert.deepEqual([stdout, status], ['', 1]);
      assert.match(stderr, /^[^\n]+\n$/);
    }
    assert.equal((await verify('good', '--context-size', '-1')).status, 2);
  });
});
