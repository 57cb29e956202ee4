/** The verifier on the programs of test/data/verifier, and on the shipped ones. The README there says how cases are written. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { assemble } from '../../src/ebpf/asm.js';
import { loadObject } from '../../src/ebpf/elf.js';
import { compile } from '../../src/ebpf/jit/index.js';
import { decodeProgram, type Program } from '../../src/ebpf/program.js';
import { type Verdict, type VerifyOptions, verify } from '../../src/ebpf/verifier/index.js';
import { BPFHV_HELPERS } from '../../src/guest/bpfhv/helpers.js';
import { EXTRA, HELPERS } from './verifier-harness.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const DATA = join(ROOT, 'test/data/verifier');
const helpers = new Map([...BPFHV_HELPERS, ...HELPERS.map(helper => [helper.id, helper] as const)]);

interface Case {
  readonly name: string;
  readonly program: Program;
  readonly options: VerifyOptions;
  readonly refused: { readonly insn: number; readonly fragment: string } | null;
  readonly guards: readonly number[];
}

function parseCase(text: string): Case {
  const [name, ...lines] = text.split('\n') as [string, ...string[]];
  const directives = new Map(
    lines
      .filter(line => line.startsWith('! '))
      .map(line => {
        const [, word, rest] = /^! (\w+) ?(.*)$/.exec(line)!;
        return [word!, rest!];
      }),
  );
  const refused = directives.get('refused');
  const [, insn, fragment] = /^(\d+) (.+)$/.exec(refused ?? '0 accepted')!;
  const accepted = directives.get('accepted');
  assert.ok((refused === undefined) !== (accepted === undefined), `${name}: one of refused, accepted`);
  const source = lines.filter(line => !line.startsWith('! ')).join('\n');
  return {
    name,
    program: decodeProgram(assemble(source), name),
    options: {
      contextSize: Number(directives.get('context') ?? 64),
      helpers,
      extra: [EXTRA],
      guarded: directives.get('guarded') === 'context' ? 'context' : 'any',
    },
    refused: refused === undefined ? null : { insn: Number(insn), fragment: fragment! },
    guards: (accepted ?? '').split(' ').filter(Boolean).map(Number),
  };
}

function casesOf(file: string): Case[] {
  const [, ...cases] = readFileSync(join(DATA, file), 'utf8').split(/^=== /m);
  return cases.map(parseCase);
}

const files = readdirSync(DATA)
  .filter(name => name.endsWith('.asm'))
  .sort();
const counts = { refused: 0, accepted: 0 };

function assertVerdict(verdict: Verdict, { refused, guards, program }: Case): void {
  if (refused === null) {
    assert.ok(verdict.accepted, verdict.accepted ? '' : verdict.reason);
    assert.deepEqual(verdict.guards, guards);
    const accesses = program.insns.filter(({ opcode }) => [1, 2, 3].includes(opcode & 7)).map(({ pc }) => pc);
    for (const pc of verdict.unguarded) assert.ok(accesses.includes(pc) && !guards.includes(pc), `${pc}`);
  } else {
    assert.ok(!verdict.accepted, 'it was accepted');
    assert.ok(verdict.reason.includes(refused.fragment), verdict.reason);
    assert.equal(verdict.insn, refused.insn, verdict.reason);
    assert.match(verdict.reason, /^insn \d+ \([^\n]+\) is refused: [^\n]+\.$/);
  }
}

for (const file of files) {
  describe(file, () => {
    for (const one of casesOf(file)) {
      counts[one.refused === null ? 'accepted' : 'refused']++;
      test(one.name, () => assertVerdict(verify(one.program, one.options), one));
    }
  });
}

test('the corpus has its size', () => {
  assert.ok(counts.refused >= 60 && counts.accepted >= 40, JSON.stringify(counts));
});

describe('the shipped programs', () => {
  const { programs } = loadObject(readFileSync(join(ROOT, 'programs/sring/sring.o')));
  const contextSize = 2096 + 512 + 24 * 256;
  /** Guarded are the accesses to descriptors alone, whose index is masked with what shared memory says. */
  const GUARDS: Readonly<Record<string, readonly number[]>> = {
    rxp: [22, 24, 26],
    rxc: [10, 12, 16],
    rxi: [],
    rxr: [32, 34, 37],
    txp: [22, 30, 37, 44, 51, 63, 67, 70, 74, 76, 78],
    txc: [10, 12, 16],
    txi: [],
    txr: [15, 17, 21],
  };

  for (const [section, bytes] of programs) {
    test(`sring's ${section} is accepted, with guards where shared memory gives the index`, () => {
      const verdict = verify(decodeProgram(bytes, section), { contextSize, helpers: BPFHV_HELPERS });
      assert.ok(verdict.accepted, verdict.accepted ? '' : verdict.reason);
      assert.deepEqual(verdict.guards, GUARDS[section]);
      assert.ok(verdict.steps < 65_536, `${verdict.steps} instructions of a run`);
    });
  }

  test('their accesses but those get no guard from the JIT', () => {
    for (const [section, bytes] of programs) {
      const program = decodeProgram(bytes, section);
      const verdict = verify(program, { contextSize, helpers: BPFHV_HELPERS });
      assert.ok(verdict.accepted);
      const { stats } = compile(program, {
        contextSize,
        stackBase: 0x1000,
        helpers: BPFHV_HELPERS,
        budget: verdict.steps,
        unguarded: verdict.unguarded,
        sharedMemory: true,
        memoryPages: 1,
      });
      assert.equal(stats.guards, GUARDS[section]!.length, section);
    }
  });

  test('all of a device take less than 20 ms', () => {
    const decoded = [...programs].map(([section, bytes]) => decodeProgram(bytes, section));
    const times = Array.from({ length: 5 }, () =>
      decoded.reduce(
        (sum, program) => sum + verify(program, { contextSize, helpers: BPFHV_HELPERS }).milliseconds,
        0,
      ),
    );
    assert.ok(Math.min(...times) < 20, `${times.map(time => time.toFixed(1)).join(', ')} ms`);
  });

  test('a context that is too short for them is refused', () => {
    const program = decodeProgram(programs.get('rxp')!, 'rxp');
    const verdict = verify(program, { contextSize: 2096, helpers: BPFHV_HELPERS });
    assert.ok(!verdict.accepted);
    assert.match(verdict.reason, /of the context, which is 2096 bytes long/);
  });
});
