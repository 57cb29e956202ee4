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
  readonly budget: boolean;
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
  const promise = directives.get('promise')?.split(' ').map(Number);
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
      unbounded: directives.get('unbounded') === 'budget' ? 'budget' : 'refuse',
      ...(promise
        ? { promises: [{ offset: promise[0]!, bytes: 4, least: promise[1]!, most: promise[2]! }] }
        : {}),
    },
    refused: refused === undefined ? null : { insn: Number(insn), fragment: fragment! },
    guards: (accepted ?? '').split(' ').filter(Boolean).map(Number),
    budget: directives.has('budget'),
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

function assertVerdict(verdict: Verdict, { refused, guards, budget, program }: Case): void {
  if (refused === null) {
    assert.ok(verdict.accepted, verdict.accepted ? '' : verdict.reason);
    assert.deepEqual(verdict.guards, guards);
    assert.equal(verdict.budget, budget);
    assert.equal(verdict.steps === Number.POSITIVE_INFINITY, budget);
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

/** What a guest is to run: guards that let an access go only into the context, and contexts for 256 buffers. */
const DEVICES = {
  sring: 2096 + 512 + 24 * 256,
  sring_gso: 2096 + 512 + 32 * 256,
  vring_packed: 2096 + 320 + 32 * 256,
};

for (const [device, contextSize] of Object.entries(DEVICES)) {
  test(`the programs of ${device} are accepted`, () => {
    const { programs } = loadObject(readFileSync(join(ROOT, `programs/${device}/${device}.o`)));
    assert.ok(programs.size >= 8);
    for (const [section, bytes] of programs) {
      const verdict = verify(decodeProgram(bytes, section), {
        ...{ contextSize, helpers: BPFHV_HELPERS, guarded: 'context' },
      });
      assert.ok(verdict.accepted, verdict.accepted ? '' : verdict.reason);
      assert.ok(verdict.steps < 65_536, `${section}: ${verdict.steps} instructions of a run`);
    }
  });
}

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

  test('a context that is too short for them is refused', () => {
    const program = decodeProgram(programs.get('rxp')!, 'rxp');
    const verdict = verify(program, { contextSize: 2096, helpers: BPFHV_HELPERS });
    assert.ok(!verdict.accepted);
    assert.match(verdict.reason, /of the context, which is 2096 bytes long/);
  });
});

describe('programs made to keep the verifier busy', () => {
  const lines = (count: number, line: (index: number) => string) =>
    Array.from({ length: count }, (_, i) => line(i)).join('\n');
  const branches = (count: number) =>
    lines(count, i => `ldxb r2, [r1+${i % 60}]\njeq r2, ${i % 200}, +1\nadd r0, ${i}`);
  const bytes = lines(512, i => `stb [r10-${i + 1}], ${i % 100}`);
  const BUSY: Readonly<Record<string, string>> = {
    'paths that never meet alike': `mov r0, 0\n${branches(4000)}\nexit`,
    'a stack of single bytes': `mov r0, 0\n${bytes}\n${branches(3000)}\nexit`,
    'a stack of single bytes and of words, in a loop': `mov r0, 0\n${bytes}\nl:\nldxb r2, [r1]\njeq r2, 5, a\n${lines(64, i => `stxdw [r10-${8 * i + 8}], r2`)}\nja b\na:\n${bytes}\nb:\nadd r0, 1\njlt r0, 100000, l\nexit`,
    'loops that cross': `mov r0, 0\n${lines(30, i => `l${i}: add r0, 1`)}\n${lines(30, i => `ldxb r2, [r1]\njeq r2, ${i}, l${29 - i}`)}\nexit`,
    'loops within too many loops': `mov r0, 0\n${lines(40, i => `l${i}: add r0, 1`)}\n${lines(40, i => `ldxb r2, [r1]\njeq r2, ${i}, l${39 - i}`)}\nexit`,
    'a small loop in a large one': `mov r0, 0\nmov r3, 0\nl:\nadd r3, 3\njeq r3, 0, big\nback:\nldxdw r2, [r1]\njne r2, r3, l\nexit\nbig:\n${branches(5000)}\nja back`,
    'calls that multiply': `call local f0\nexit\n${lines(6, i => `f${i}:\n${lines(300, () => `call local f${i + 1}`)}\nexit`)}\nf6:\nmov r0, 0\nexit`,
    'many loops': `mov r0, 0\n${lines(3000, i => `mov r2, 0\nl${i}: add r2, 1\njlt r2, 64, l${i}`)}\nexit`,
    'numbers that get no simpler': `ldxdw r0, [r1]\n${lines(16000, i => `mul r0, ${0x7fffffff - i}`)}\nexit`,
  };
  for (const [name, source] of Object.entries(BUSY)) {
    test(`${name}: a verdict in bounded time`, () => {
      const program = decodeProgram(assemble(source));
      const verdict = verify(program, { contextSize: 64, helpers });
      assert.ok(verdict.states <= (1 << 16) + 1, `${verdict.states} states`);
      // Ten times what it takes where nothing else runs.
      assert.ok(verdict.milliseconds < 10_000, `${verdict.milliseconds} ms`);
    });
  }

  test('a program of too many slots', () => {
    const program = decodeProgram(assemble(`${lines(17_000, () => 'mov r0, 0')}\nexit`), 'long', {
      maxSlots: 20_000,
    });
    const verdict = verify(program, { contextSize: 64, helpers });
    assert.ok(!verdict.accepted);
    assert.match(verdict.reason, /has 17001 slots, at most 16384/);
  });

  test('local functions that share too much code', () => {
    const text = `${lines(300, i => `call local f${i}`)}\nexit\n${lines(300, i => `f${i}: mov r0, ${i}`)}\nexit`;
    const verdict = verify(decodeProgram(assemble(text)), { contextSize: 64, helpers });
    assert.ok(!verdict.accepted);
    assert.match(verdict.reason, /share too much code/);
  });

  test('r0 may be unset where nothing is returned, but never a pointer', () => {
    const judge = (source: string) =>
      verify(decodeProgram(assemble(source)), { contextSize: 64, helpers, returns: 'nothing' });
    assert.ok(judge('exit').accepted);
    assert.ok(!judge('mov r0, r1\nexit').accepted);
  });
});
