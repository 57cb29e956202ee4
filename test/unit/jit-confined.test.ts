/**
 * Guards that let an access go only into the context, for programs of which the verifier has proved the rest: an index that the other side
 * sends must not reach what the program keeps on its stack.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assemble } from '../../src/ebpf/asm.js';
import type { HelperSpec } from '../../src/ebpf/helpers.js';
import { compile, instantiate, type JitOptions } from '../../src/ebpf/jit/index.js';
import { decodeProgram } from '../../src/ebpf/program.js';
import { verify } from '../../src/ebpf/verifier/index.js';

const CONTEXT = 0x8000;
const STACK = 0x1000;
const FRAME_TOP = STACK + 4096;
const EXTRA = { base: 0xc000, size: 64 };
const NUMBER: HelperSpec = { id: 1, name: 'put', args: [{ kind: 'memory', size: 8, access: 'write' }] };
const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
const view = new DataView(memory.buffer);
const options: JitOptions = {
  contextSize: 64,
  stackBase: STACK,
  helpers: new Map([[1, NUMBER]]),
  budget: 1000,
  extra: [EXTRA],
  sharedMemory: true,
  memoryPages: 1,
};

/** Runs a program whose context starts with `index`. @returns r0, or the fault's code, slot and address */
function run(text: string, index: number, more: Partial<JitOptions> = {}) {
  const compiled = compile(decodeProgram(assemble(text)), { ...options, ...more });
  const helpers = new Map([
    [
      1,
      (address: bigint) => {
        view.setBigUint64(Number(address), 7n, true);
        return 0n;
      },
    ],
  ]);
  const instance = instantiate(compiled, memory, helpers);
  new Uint8Array(memory.buffer).fill(0);
  view.setBigInt64(CONTEXT, BigInt(index), true);
  try {
    return instance.run(BigInt(CONTEXT));
  } catch (error) {
    const fault = instance.fault(error);
    if (fault === null) throw error;
    return [fault.code, fault.pc, Number(fault.address)];
  }
}

/** All kinds of accesses behind a pointer in r3 that has moved by an index from the context, at slot 3. */
const ACCESSES = {
  load: 'ldxb %r0, [%r3+0]',
  'load with an offset': 'ldxb %r0, [%r3+8]',
  'load with an offset down': 'ldxb %r0, [%r3-8]',
  store: 'stxdw [%r3+0], %r2',
  'store of a constant': 'stb [%r3+0], 1',
  atomic: 'lock add [%r3+0], %r2',
};
/** The pointer, in three slots. */
const MOVED = 'mov %r3, %r1\nldxdw %r4, [%r1+0]\nadd %r3, %r4';
const offsetOf = (access: string) => Number(/r3([+-]\d+)/.exec(access)![1]);

describe('a guard that is confined', () => {
  for (const [kind, access] of Object.entries(ACCESSES)) {
    const text = `${MOVED}\n${access}\nmov %r0, 0\nexit`;
    const by = (address: number) => address - CONTEXT - offsetOf(access);

    test(`${kind}: what lies in the context passes`, () => {
      for (const address of [CONTEXT, CONTEXT + 8, CONTEXT + 56]) {
        assert.equal(run(text, by(address), { confined: true }), 0n, `${address}`);
      }
    });

    test(`${kind}: stack, extra memory, and all else is outside`, () => {
      const bytes = access.includes('b ') ? 1 : 8;
      const outside = [
        CONTEXT - 8,
        CONTEXT + 64,
        CONTEXT + 65 - bytes,
        STACK,
        FRAME_TOP - 8,
        EXTRA.base,
        8,
        0,
      ];
      for (const address of outside) {
        const fault = ['EBPF_ACCESS', 3, address];
        assert.deepEqual(run(text, by(address), { confined: true }), fault, `${address}`);
      }
      assert.equal(run(text, by(FRAME_TOP - 8)), 0n, 'else the stack is open');
      assert.equal(run(text, by(EXTRA.base)), 0n, 'else the extra region is open');
    });
  }

  // r3 = (r10 - a pointer into the frame) + a pointer to the context, both by way of the stack: it looks like one to the stack.
  const DISGUISED = `
    stxdw [%r10-8], %r1
    mov %r2, %r10
    add %r2, -16
    stxdw [%r10-16], %r2
    ldxdw %r5, [%r10-16]
    mov %r3, %r10
    sub %r3, %r5
    ldxdw %r5, [%r10-8]
    add %r3, %r5
    ldxdw %r4, [%r1+0]
    add %r3, %r4
    stdw [%r3-16], 99
    ldxdw %r0, [%r10-8]
    ldxdw %r0, [%r0+0]
    exit`;

  test('a sum that looks like a pointer to the stack is confined as well', () => {
    const program = decodeProgram(assemble(DISGUISED));
    const verdict = verify(program, { contextSize: 64, helpers: new Map(), guarded: 'context' });
    assert.ok(verdict.accepted, verdict.accepted ? '' : verdict.reason);
    assert.deepEqual(verdict.guards, [11]);
    const { unguarded } = verdict;
    const spilled = FRAME_TOP - 8 - CONTEXT; // where the program keeps its pointer to the context
    assert.deepEqual(run(DISGUISED, spilled, { unguarded, confined: true }), [
      'EBPF_ACCESS',
      11,
      FRAME_TOP - 8,
    ]);
    assert.equal(run(DISGUISED, 8, { unguarded, confined: true }), 8n);
    // What would come of it: the load after it goes where the other side wants.
    assert.deepEqual(run(DISGUISED, spilled), ['EBPF_ACCESS', 13, 99]);
    assert.equal(run(DISGUISED, spilled, { unguarded }), 0n, 'it was not checked');
  });

  test('nothing but the context passes where an access is longer than the context', () => {
    const text = `${MOVED}\nldxdw %r0, [%r3+0]\nexit`;
    assert.deepEqual(run(text, -1, { confined: true, contextSize: 4, unguarded: new Set([1]) }), [
      'EBPF_ACCESS',
      3,
      CONTEXT - 1,
    ]);
  });

  test('what a helper is given is confined as well, but for what is proved', () => {
    const text = `mov %r6, %r1\n${MOVED}\nmov %r1, %r3\ncall helper 1\nldxdw %r0, [%r6+8]\nexit`;
    const guardedArguments = new Map([[5, 1]]);
    assert.equal(run(text, 8, { confined: true, guardedArguments }), 7n);
    for (const address of [FRAME_TOP - 8, STACK, EXTRA.base, CONTEXT + 60]) {
      const fault = ['EBPF_ACCESS', 5, address];
      assert.deepEqual(run(text, address - CONTEXT, { confined: true, guardedArguments }), fault);
      assert.deepEqual(run(text, address - CONTEXT, { confined: true }), fault, 'nothing is proved');
      const proved = { confined: true, guardedArguments: new Map() };
      assert.equal(run(text, address - CONTEXT, proved), 0n, 'it is not checked');
    }
    const open = run(text, FRAME_TOP - 8 - CONTEXT, { guardedArguments });
    assert.equal(open, 0n, 'else the stack is open');
  });

  // The other side knows where the stack is, has a helper read a pointer there, and another one write it where numbers may be read.
  const TOLD = `
    mov %r6, %r1
    stxdw [%r10-8], %r1
    ldxdw %r2, [%r1+0]
    add %r1, %r2
    call helper 2
    mov %r1, %r10
    add %r1, -16
    call helper 3
    ldxdw %r0, [%r10-16]
    stxdw [%r6+8], %r0
    ldxdw %r1, [%r10-8]
    mov %r0, 0
    exit`;

  test('so no helper takes a pointer from the stack and hands it back as a number', () => {
    const helpers = new Map<number, HelperSpec>([
      [2, { id: 2, name: 'keep', args: [{ kind: 'memory', size: 8, access: 'read' }] }],
      [3, { id: 3, name: 'tell', args: [{ kind: 'memory', size: 8, access: 'write' }] }],
    ]);
    let kept = 0n;
    const program = decodeProgram(assemble(TOLD));
    const told = { contextSize: 64, helpers };
    const attack = (guarded: 'any' | 'context') => {
      const verdict = verify(program, { ...told, guarded });
      assert.ok(verdict.accepted, verdict.accepted ? '' : verdict.reason);
      assert.deepEqual(verdict.guards, [4]);
      assert.deepEqual([...verdict.guardedArguments], [[4, 1]]);
      const { unguarded, guardedArguments } = verdict;
      const confined = guarded === 'context';
      const compiled = compile(program, { ...options, ...told, unguarded, guardedArguments, confined });
      const instance = instantiate(
        compiled,
        memory,
        new Map([
          [2, (from: bigint) => (kept = view.getBigUint64(Number(from), true))],
          [
            3,
            (to: bigint) => {
              view.setBigUint64(Number(to), kept, true);
              return 0n;
            },
          ],
        ]),
      );
      new Uint8Array(memory.buffer).fill(0);
      view.setBigInt64(CONTEXT, BigInt(FRAME_TOP - 8 - CONTEXT), true);
      try {
        instance.run(BigInt(CONTEXT));
        return Number(view.getBigUint64(CONTEXT + 8, true));
      } catch (error) {
        const fault = instance.fault(error);
        return [fault?.code, fault?.pc];
      }
    };
    assert.deepEqual(attack('context'), ['EBPF_ACCESS', 4]);
    assert.equal(attack('any'), CONTEXT, 'what would come of it: the other side learns where the context is');
  });

  test('a local function that gets the pointer is confined as well', () => {
    const text = `${MOVED}\nmov %r1, %r3\ncall local f\nexit\nf:\nldxdw %r0, [%r1+0]\nexit`;
    assert.equal(run(text, 0, { confined: true }), 0n);
    assert.deepEqual(run(text, STACK - CONTEXT, { confined: true }), ['EBPF_ACCESS', 6, STACK]);
  });

  test('in a dispatch loop as well', () => {
    const text = `
      mov %r3, %r1
      ldxdw %r4, [%r1+0]
      ldxdw %r5, [%r1+8]
      mov %r2, 3
      jne %r5, 0, b
    a:
      add %r2, -1
    b:
      add %r3, %r4
      ldxb %r0, [%r3+0]
      jne %r2, 0, a
      exit`;
    const compiled = compile(decodeProgram(assemble(text)), { ...options, confined: true });
    assert.equal(compiled.stats.structured, false);
    assert.equal(run(text, 1, { confined: true }), 0n);
    assert.deepEqual(run(text, EXTRA.base - CONTEXT, { confined: true }), ['EBPF_ACCESS', 7, EXTRA.base]);
  });
});

describe('a budget beside what is proved', () => {
  const LOOP = 'mov %r2, 0\nl:\nldxdw %r0, [%r1+8]\nadd %r2, 1\njlt %r2, 500, l\nexit';
  const unguarded = new Set([1]);

  test('is charged as ever: proofs of accesses say nothing about the time', () => {
    assert.equal(run(LOOP, 0, { budget: 1500, unguarded, confined: true }), 0n);
    assert.deepEqual(run(LOOP, 0, { budget: 1499, unguarded, confined: true }), ['EBPF_BUDGET', 1, 0]);
  });

  test('of Infinity counts nothing, and makes the code shorter', () => {
    const build = (budget: number) =>
      compile(decodeProgram(assemble(LOOP)), { ...options, budget, unguarded, confined: true });
    assert.equal(run(LOOP, 0, { budget: Number.POSITIVE_INFINITY, unguarded, confined: true }), 0n);
    assert.ok(build(Number.POSITIVE_INFINITY).bytes.length < build(1500).bytes.length);
  });

  test('ends a loop in a dispatch loop as well', () => {
    const text =
      'mov %r2, 0\nldxdw %r5, [%r1+8]\njne %r5, 0, b\na:\nadd %r2, 1\nb:\nldxdw %r0, [%r1+8]\njeq %r0, 0, a\nexit';
    const fault = run(text, 0, { budget: 900, unguarded: new Set([1, 4]), confined: true });
    assert.ok(Array.isArray(fault) && fault[0] === 'EBPF_BUDGET');
  });
});

describe('a field of the context that was promised', () => {
  // Where the field is 0, r3 is not set: without the promise that is refused, and with it the load has to be checked.
  const text = `ldxw %r2, [%r1+0]\njeq %r2, 0, done\nmov %r3, %r1\ndone: stxb [%r3+16], %r2\nmov %r0, %r2\nexit`;
  const program = decodeProgram(assemble(text));
  const told = { contextSize: 64, helpers: options.helpers, guarded: 'context' } as const;
  const promises = [{ offset: 0, bytes: 4, least: 1, most: 64 }] as const;

  test('is checked where the program relies on it', () => {
    assert.equal(verify(program, told).accepted, false);
    const verdict = verify(program, { ...told, promises });
    assert.ok(verdict.accepted);
    assert.deepEqual([...verdict.promised.keys(), ...verdict.guards], [0, 0]);
    const more = { unguarded: verdict.unguarded, promised: verdict.promised, confined: true };
    for (const kept of [1, 2, 64]) assert.equal(run(text, kept, more), BigInt(kept));
    for (const broken of [0, 65, 0x8000_0000, -1]) {
      assert.deepEqual(run(text, broken, more), ['EBPF_PROMISE', 0, 0], `${broken}`);
    }
  });

  test('is not, where a program is sound without', () => {
    const sound = decodeProgram(assemble('ldxw %r2, [%r1+0]\nmov %r0, %r2\nexit'));
    const verdict = verify(sound, { ...told, promises });
    assert.ok(verdict.accepted);
    assert.equal(verdict.promised.size, 0);
  });
});
