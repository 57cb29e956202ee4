/** What stops a program: accesses outside its memory, misaligned atomics, depth, budget, calls. Both engines must agree. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { assemble } from '../../src/ebpf/asm.js';
import type { HelperFunction, HelperSpec } from '../../src/ebpf/helpers.js';
import { interpret } from '../../src/ebpf/interpreter.js';
import { decodeProgram, EbpfFault } from '../../src/ebpf/program.js';
import { createRunner } from '../../src/ebpf/run.js';
import { type Sandbox, STACK_BYTES } from '../../src/ebpf/sandbox.js';

const STACK = 0x2000;
const TOP = STACK + STACK_BYTES;
const CONTEXT = 0x4000;
const CONTEXT_SIZE = 24;
const EXTRA = 0x6000;

const HELPERS: readonly HelperSpec[] = [
  { id: 1, name: 'context_only', args: [{ kind: 'context' }] },
  { id: 2, name: 'two_bytes', args: [{ kind: 'number' }, { kind: 'memory', size: 2, access: 'write' }] },
  {
    id: 3,
    name: 'sized',
    args: [{ kind: 'memory', size: { arg: 1 }, access: 'read' }, { kind: 'number' }],
  },
  { id: 4, name: 'barrier', args: [], inline: 'fence' },
  { id: -5, name: 'sum', args: new Array(5).fill({ kind: 'number' }) },
];

function sandbox(budget = 100_000): Sandbox {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const view = new DataView(memory.buffer);
  const one: HelperFunction = () => 1n;
  const writeTwoBytes: HelperFunction = (_, address) => {
    view.setUint16(Number(address), 0xbeef, true);
    return 2n;
  };
  const implementations = new Map<number, HelperFunction>([
    [1, one],
    [2, writeTwoBytes],
    [3, one],
    [-5, (a, b, c, d, e) => a + b + c + d + e],
  ]);
  return {
    memory,
    contextSize: CONTEXT_SIZE,
    stackBase: STACK,
    budget,
    helpers: new Map(HELPERS.map(spec => [spec.id, spec])),
    implementations,
    extra: [{ base: EXTRA, size: 16 }],
  };
}

/** Name, program, expected r0. */
const ALLOWED: readonly (readonly [name: string, asm: string, expected: bigint])[] = [
  ['the first and the last byte of the context', 'stb [r1], 1\nstb [r1+23], 2\nldxb r0, [r1+23]\nexit', 2n],
  [
    'the whole stack',
    `stdw [r10-8], 1\nstdw [r10-${STACK_BYTES}], 3\nldxdw r0, [r10-${STACK_BYTES}]\nexit`,
    3n,
  ],
  ['an extra region', `mov r2, ${EXTRA}\nstdw [r2+8], 7\nldxdw r0, [r2+8]\nexit`, 7n],
  ['an address that an offset brings back', 'mov r2, r1\nadd r2, 100\nldxb r0, [r2-100]\nexit', 0n],
  ['r10 is the top of the first frame', 'mov r0, r10\nexit', BigInt(TOP)],
  ['r10 of a callee is one frame lower', 'call local f\nexit\nf:\nmov r0, r10\nexit', BigInt(TOP - 512)],
  ['a helper gets the context', 'call 1\nexit', 1n],
  ['a helper writes to the stack', 'mov r2, r10\nadd r2, -2\ncall 2\nldxh r0, [r10-2]\nexit', 0xbeefn],
  ['a helper gets all of the context', `mov r2, ${CONTEXT_SIZE}\ncall 3\nexit`, 1n],
  ['size 0 passes with any address', 'mov r1, 0\nmov r2, 0\ncall 3\nexit', 1n],
  ['a barrier gives 0', 'mov r0, 1\ncall 4\nexit', 0n],
  [
    'five arguments, a negative id',
    'mov r1, 1\nmov r2, 2\nmov r3, 3\nmov r4, 4\nmov r5, 5\ncall -5\nexit',
    15n,
  ],
  [
    'a helper’s result is 64 bits',
    'mov r1, -1\nmov r2, 0\nmov r3, 0\nmov r4, 0\nmov r5, 0\ncall -5\nexit',
    (1n << 64n) - 1n,
  ],
  ['r6 to r9 survive a helper', 'mov r6, 6\nmov r9, 9\ncall 1\nmov r0, r6\nadd r0, r9\nexit', 15n],
];

/** Name, program, code, slot, address if any. */
const STOPPED: readonly (readonly [
  name: string,
  asm: string,
  code: string,
  pc: number,
  address: bigint | null,
])[] = [
  ['a byte behind the context', 'ldxb r0, [r1+24]\nexit', 'EBPF_ACCESS', 0, BigInt(CONTEXT + 24)],
  ['a byte before the context', 'ldxb r0, [r1-1]\nexit', 'EBPF_ACCESS', 0, BigInt(CONTEXT - 1)],
  ['half out of the context', 'stdw [r1+20], 0\nexit', 'EBPF_ACCESS', 0, BigInt(CONTEXT + 20)],
  ['a byte above the stack', 'mov r0, 0\nstb [r10], 1\nexit', 'EBPF_ACCESS', 1, BigInt(TOP)],
  ['half above the stack', 'stdw [r10-4], 1\nexit', 'EBPF_ACCESS', 0, BigInt(TOP - 4)],
  ['a byte below the stack', `ldxb r0, [r10-${STACK_BYTES + 1}]\nexit`, 'EBPF_ACCESS', 0, BigInt(STACK - 1)],
  ['address 0', 'mov r1, 0\nldxb r0, [r1]\nexit', 'EBPF_ACCESS', 1, 0n],
  ['memory that nobody gave', 'mov r1, 0x7000\nldxb r0, [r1]\nexit', 'EBPF_ACCESS', 1, 0x7000n],
  ['the end of the address space', 'mov r1, -1\nldxb r0, [r1]\nexit', 'EBPF_ACCESS', 1, (1n << 64n) - 1n],
  ['an access that wraps', 'mov r1, -4\nldxdw r0, [r1]\nexit', 'EBPF_ACCESS', 1, (1n << 64n) - 4n],
  ['an offset that wraps below 0', 'mov r1, 0\nldxb r0, [r1-1]\nexit', 'EBPF_ACCESS', 1, (1n << 64n) - 1n],
  [
    'the context plus 4 GiB',
    'lddw r2, 0x100000000\nadd r1, r2\nldxb r0, [r1]\nexit',
    'EBPF_ACCESS',
    3,
    (1n << 32n) + BigInt(CONTEXT),
  ],
  [
    'the context plus 2^63',
    'lddw r2, 0x8000000000000000\nadd r1, r2\nstb [r1], 0\nexit',
    'EBPF_ACCESS',
    3,
    (1n << 63n) + BigInt(CONTEXT),
  ],
  [
    'behind an extra region',
    `mov r2, ${EXTRA}\nldxw r0, [r2+13]\nexit`,
    'EBPF_ACCESS',
    1,
    BigInt(EXTRA + 13),
  ],
  ['an atomic outside', 'lock add [r1+24], r0\nexit', 'EBPF_ACCESS', 0, BigInt(CONTEXT + 24)],
  ['a misaligned 64-bit atomic', 'lock add [r1+4], r0\nexit', 'EBPF_MISALIGNED', 0, BigInt(CONTEXT + 4)],
  [
    'a misaligned 32-bit atomic',
    'mov r0, 0\nlock xchg32 [r10-6], r0\nexit',
    'EBPF_MISALIGNED',
    1,
    BigInt(TOP - 6),
  ],
  ['a helper without the context', 'add r1, 8\ncall 1\nexit', 'EBPF_ACCESS', 1, BigInt(CONTEXT + 8)],
  [
    'a helper that would write above the stack',
    'mov r2, r10\nadd r2, -1\ncall 2\nexit',
    'EBPF_ACCESS',
    2,
    BigInt(TOP - 1),
  ],
  [
    'a helper with one byte too many',
    `mov r2, ${CONTEXT_SIZE + 1}\ncall 3\nexit`,
    'EBPF_ACCESS',
    1,
    BigInt(CONTEXT),
  ],
  ['a helper with a negative size', 'mov r2, -1\ncall 3\nexit', 'EBPF_ACCESS', 1, BigInt(CONTEXT)],
  ['an unknown helper', 'call 99\nexit', 'EBPF_CALL', 0, null],
  ['an unknown helper by register', 'mov r3, 99\ncallx r3\nexit', 'EBPF_CALL', 1, null],
  ['an unknown runtime function', 'call runtime 1\nexit', 'EBPF_CALL', 0, null],
  ['a ninth frame', 'call local f\nexit\nf:\ncall local f\nexit', 'EBPF_DEPTH', 2, null],
];

describe('eBPF: the sandbox', () => {
  for (const engine of ['interpret', 'jit'] as const) {
    for (const [name, asm, expected] of ALLOWED) {
      it(`allows ${name} (${engine})`, async () => {
        const run = await createRunner(decodeProgram(assemble(asm)), sandbox(), engine);
        assert.equal(run(CONTEXT), expected);
      });
    }
    for (const [name, asm, code, pc, address] of STOPPED) {
      it(`stops ${name} (${engine})`, async () => {
        const run = await createRunner(decodeProgram(assemble(asm)), sandbox(), engine);
        assert.throws(
          () => run(CONTEXT),
          (error: unknown) => {
            assert.ok(error instanceof EbpfFault, String(error));
            assert.deepEqual([error.code, error.pc, error.address], [code, pc, address]);
            return true;
          },
        );
      });
    }
    it(`stops an endless loop (${engine})`, async () => {
      const run = await createRunner(decodeProgram(assemble('l:\nadd r0, 1\nja l')), sandbox(), engine);
      assert.throws(() => run(CONTEXT), { code: 'EBPF_BUDGET' });
    });
    it(`runs again after a fault (${engine})`, async () => {
      const program = decodeProgram(
        assemble('ldxb r0, [r1]\njeq r0, 0, fine\nldxb r0, [r1+24]\nfine:\nexit'),
      );
      const place = sandbox();
      const run = await createRunner(program, place, engine);
      const bytes = new Uint8Array(place.memory.buffer);
      bytes[CONTEXT] = 1;
      assert.throws(() => run(CONTEXT), { code: 'EBPF_ACCESS' });
      bytes[CONTEXT] = 0;
      assert.equal(run(CONTEXT), 0n);
    });
  }

  it('charges the budget exactly: the interpreter, per instruction', () => {
    const program = decodeProgram(assemble('lddw r0, 7\nmov r1, 1\nexit'));
    assert.equal(interpret(program, sandbox(3), CONTEXT), 7n);
    assert.throws(() => interpret(program, sandbox(2), CONTEXT), { code: 'EBPF_BUDGET', pc: 3 });
  });

  it('touches nothing outside the memory of a program that is stopped', () => {
    const place = sandbox();
    const program = decodeProgram(assemble('stdw [r1+20], -1\nexit'));
    assert.throws(() => interpret(program, place, CONTEXT), { code: 'EBPF_ACCESS' });
    assert.ok(new Uint8Array(place.memory.buffer).every(byte => byte === 0));
  });

  it('refuses regions that are not in the memory', () => {
    const program = decodeProgram(assemble('exit'));
    const place = sandbox();
    assert.throws(() => interpret(program, place, 65536 - 8), { code: 'EBPF_SANDBOX' });
    assert.throws(() => interpret(program, place, 0), { code: 'EBPF_SANDBOX' });
    assert.throws(() => interpret(program, { ...place, stackBase: STACK + 4 }, CONTEXT), {
      code: 'EBPF_SANDBOX',
    });
    const extra = [{ base: 65530, size: 8 }];
    assert.throws(() => interpret(program, { ...place, extra }, CONTEXT), { code: 'EBPF_SANDBOX' });
  });
});
