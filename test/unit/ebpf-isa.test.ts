/** One case or more per instruction, as data, each run by both engines. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { assemble } from '../../src/ebpf/asm.js';
import { parseHex, runOnce } from '../../src/ebpf/run.js';

/** Name, program, expected r0; and what r1 points to, as hex. */
type Case = readonly [name: string, asm: string, expected: bigint, memory?: string];

/** A program that loads r0 and r2 with constants of 64 bits, does one thing and exits. */
const op = (insn: string, a: bigint, b = 0n) => `lddw r0, 0x${hex(a)}\nlddw r2, 0x${hex(b)}\n${insn}\nexit`;
const hex = (value: bigint) => BigInt.asUintN(64, value).toString(16);
/** 1 when the branch is taken with a in r1 and b in r2, else 0. */
const branch = (insn: string, a: bigint, b: bigint) =>
  `lddw r1, 0x${hex(a)}\nlddw r2, 0x${hex(b)}\nmov r0, 1\n${insn}, +1\nmov r0, 0\nexit`;

const ONES = 0xffff_ffff_ffff_ffffn;
const MIN64 = 1n << 63n;
const MIN32 = 1n << 31n;

const ALU: readonly Case[] = [
  ['add wraps', op('add r0, r2', ONES, 2n), 1n],
  ['add, constant is sign-extended', op('add r0, -1', 5n), 4n],
  ['add32 clears the high half', op('add32 r0, r2', ONES, 2n), 1n],
  ['sub borrows', op('sub r0, r2', 1n, 2n), ONES],
  ['sub32 borrows in 32 bits', op('sub32 r0, 2', 1n), 0xffff_ffffn],
  ['mul keeps the low half', op('mul r0, r2', 0x1_0000_0001n, 0x1_0000_0001n), 0x2_0000_0001n],
  ['mul32', op('mul32 r0, -3', 7n), 0xffff_ffebn],
  ['div is unsigned', op('div r0, 2', -2n), 0x7fff_ffff_ffff_ffffn],
  ['div by a sign-extended constant', op('div r0, -1', ONES), 1n],
  ['div by zero is 0', op('div r0, r2', 7n, 0n), 0n],
  ['div by constant zero is 0', op('div r0, 0', 7n), 0n],
  ['div32 looks at low halves only', op('div32 r0, r2', 0x5_0000_0006n, 0x7_0000_0002n), 3n],
  ['div32 by a zero low half is 0', op('div32 r0, r2', 9n, 1n << 32n), 0n],
  ['sdiv rounds to zero', op('sdiv r0, 2', -7n), BigInt.asUintN(64, -3n)],
  ['sdiv INT_MIN / -1', op('sdiv r0, r2', MIN64, -1n), MIN64],
  ['sdiv by zero is 0', op('sdiv r0, r2', -7n, 0n), 0n],
  ['sdiv32', op('sdiv32 r0, r2', 0xffff_fff9n, 2n), 0xffff_fffdn],
  ['sdiv32 INT_MIN / -1', op('sdiv32 r0, -1', MIN32), MIN32],
  ['mod is unsigned', op('mod r0, 10', ONES), 5n],
  ['mod by zero keeps the dividend', op('mod r0, r2', MIN64, 0n), MIN64],
  ['mod32 by zero keeps the low half', op('mod32 r0, r2', 0x5_0000_0006n, 0n), 6n],
  ['smod has the sign of the dividend', op('smod r0, 3', -7n), ONES],
  ['smod INT_MIN % -1', op('smod r0, -1', MIN64), 0n],
  ['smod32 INT_MIN % -1', op('smod32 r0, -1', MIN32), 0n],
  ['smod32, negative divisor', op('smod32 r0, r2', 7n, -3n), 1n],
  ['or', op('or r0, -256', 1n), 0xffff_ffff_ffff_ff01n],
  ['or32', op('or32 r0, r2', 0xf_0000_0001n, 2n), 3n],
  ['and', op('and r0, -16', ONES), 0xffff_ffff_ffff_fff0n],
  ['and32', op('and32 r0, -16', ONES), 0xffff_fff0n],
  ['xor', op('xor r0, -1', 0xffn), 0xffff_ffff_ffff_ff00n],
  ['xor32', op('xor32 r0, r2', ONES, 1n), 0xffff_fffen],
  ['lsh uses 6 bits of the count', op('lsh r0, r2', 1n, 65n), 2n],
  ['lsh32 uses 5 bits of the count', op('lsh32 r0, r2', 1n, 33n), 2n],
  ['rsh', op('rsh r0, 63', ONES), 1n],
  ['rsh32 does not see the high half', op('rsh32 r0, 4', 0xf_0000_0010n), 1n],
  ['arsh keeps the sign', op('arsh r0, 60', MIN64), 0xffff_ffff_ffff_fff8n],
  ['arsh32 keeps the sign of 32 bits', op('arsh32 r0, r2', MIN32, 28n), 0xffff_fff8n],
  ['neg', op('neg r0', 1n), ONES],
  ['neg32', op('neg32 r0', 1n), 0xffff_ffffn],
  ['mov, constant is sign-extended', op('mov r0, -1', 0n), ONES],
  ['mov32, constant is not', op('mov32 r0, -1', 0n), 0xffff_ffffn],
  ['mov32 register', op('mov32 r0, r2', 0n, ONES), 0xffff_ffffn],
  ['movsx 8 to 64', op('movsx864 r0, r2', 0n, 0x180n), 0xffff_ffff_ffff_ff80n],
  ['movsx 16 to 64', op('movsx1664 r0, r2', 0n, 0x1_7fffn), 0x7fffn],
  ['movsx 32 to 64', op('movsx3264 r0, r2', 0n, MIN32), 0xffff_ffff_8000_0000n],
  ['movsx 8 to 32', op('movsx832 r0, r2', 0n, 0x80n), 0xffff_ff80n],
  ['movsx 16 to 32', op('movsx1632 r0, r2', 0n, 0x8000n), 0xffff_8000n],
  ['le16 cuts', op('le16 r0', 0x1122_3344_5566_7788n), 0x7788n],
  ['le32 cuts', op('le32 r0', 0x1122_3344_5566_7788n), 0x5566_7788n],
  ['le64 does nothing', op('le64 r0', 0x1122_3344_5566_7788n), 0x1122_3344_5566_7788n],
  ['be16', op('be16 r0', 0x1122_3344_5566_7788n), 0x8877n],
  ['be32', op('be32 r0', 0x1122_3344_5566_7788n), 0x8877_6655n],
  ['be64', op('be64 r0', 0x1122_3344_5566_7788n), 0x8877_6655_4433_2211n],
  ['swap16', op('swap16 r0', 0x1122_3344_5566_7788n), 0x8877n],
  ['swap32', op('swap32 r0', 0x1122_3344_5566_7788n), 0x8877_6655n],
  ['swap64', op('swap64 r0', 0x1122_3344_5566_7788n), 0x8877_6655_4433_2211n],
];

const JUMPS: readonly Case[] = [
  ['jeq taken', branch('jeq r1, r2', 5n, 5n), 1n],
  ['jeq sees all 64 bits', branch('jeq r1, 5', 0x1_0000_0005n, 0n), 0n],
  ['jeq32 sees the low half', branch('jeq32 r1, 5', 0x1_0000_0005n, 0n), 1n],
  ['jeq, constant is sign-extended', branch('jeq r1, -1', ONES, 0n), 1n],
  ['jne', branch('jne r1, r2', 5n, 5n), 0n],
  ['jne32', branch('jne32 r1, r2', 0x1_0000_0005n, 5n), 0n],
  ['jgt is unsigned', branch('jgt r1, 1', -1n, 0n), 1n],
  ['jgt, equal', branch('jgt r1, r2', 7n, 7n), 0n],
  ['jgt32', branch('jgt32 r1, r2', 0x1_0000_0000n, 5n), 0n],
  ['jge, equal', branch('jge r1, r2', 7n, 7n), 1n],
  ['jge32 is unsigned', branch('jge32 r1, 1', 0x8000_0000n, 0n), 1n],
  ['jlt is unsigned', branch('jlt r1, r2', -1n, 1n), 0n],
  ['jlt32', branch('jlt32 r1, r2', 0x1_0000_0001n, 2n), 1n],
  ['jle, equal', branch('jle r1, 7', 7n, 0n), 1n],
  ['jle32', branch('jle32 r1, 7', 0x1_0000_0008n, 0n), 0n],
  ['jset, one common bit', branch('jset r1, 6', 12n, 0n), 1n],
  ['jset, none', branch('jset r1, r2', 12n, 3n), 0n],
  ['jset, constant is sign-extended', branch('jset r1, -1', MIN64, 0n), 1n],
  ['jset32', branch('jset32 r1, -1', MIN64, 0n), 0n],
  ['jsgt', branch('jsgt r1, r2', 0n, -1n), 1n],
  ['jsgt32', branch('jsgt32 r1, 0', MIN32, 0n), 0n],
  ['jsge', branch('jsge r1, -1', -1n, 0n), 1n],
  ['jsge32', branch('jsge32 r1, r2', MIN32, 0n), 0n],
  ['jslt', branch('jslt r1, 0', MIN64, 0n), 1n],
  ['jslt32 of a positive 64-bit number', branch('jslt32 r1, 0', MIN32, 0n), 1n],
  ['jsle', branch('jsle r1, r2', -1n, -1n), 1n],
  ['jsle32', branch('jsle32 r1, r2', 1n, 0xffff_ffffn), 0n],
  ['ja', 'mov r0, 1\nja done\nmov r0, 2\ndone:\nexit', 1n],
  ['ja32', 'mov r0, 1\nja32 done\nmov r0, 2\ndone:\nexit', 1n],
  ['a loop', 'mov r0, 0\nmov r1, 10\nl:\nadd r0, r1\nsub r1, 1\njne r1, 0, l\nexit', 55n],
];

const MEMORY: readonly Case[] = [
  ['lddw', 'lddw r0, 0x8877665544332211\nexit', 0x8877_6655_4433_2211n],
  ['ldxb', 'ldxb r0, [r1+1]\nexit', 0x80n, '0080'],
  ['ldxh', 'ldxh r0, [r1]\nexit', 0x8001n, '0180'],
  ['ldxw, misaligned', 'ldxw r0, [r1+1]\nexit', 0x8403_0201n, '0001020384'],
  ['ldxdw, misaligned', 'ldxdw r0, [r1+1]\nexit', 0x8807_0605_0403_0201n, '000102030405060788'],
  ['ldxsb', 'ldxsb r0, [r1+1]\nexit', 0xffff_ffff_ffff_ff80n, '0080'],
  ['ldxsh', 'ldxsh r0, [r1]\nexit', 0xffff_ffff_ffff_8001n, '0180'],
  ['ldxsw', 'ldxsw r0, [r1]\nexit', 0xffff_ffff_8000_0001n, '01000080'],
  ['ldxsw, positive', 'ldxsw r0, [r1]\nexit', 1n, '01000000'],
  ['negative offset', 'add r1, 4\nldxb r0, [r1-4]\nexit', 7n, '07'],
  ['stb', 'stb [r1], 0x1ff\nldxh r0, [r1]\nexit', 0x00ffn, '0000'],
  ['sth', 'sth [r1], -2\nldxw r0, [r1]\nexit', 0xfffen, '00000000'],
  ['stw', 'stw [r1], -2\nldxdw r0, [r1]\nexit', 0xffff_fffen, '0000000000000000'],
  ['stdw, constant is sign-extended', 'stdw [r10-8], -2\nldxdw r0, [r10-8]\nexit', ONES - 1n],
  ['stxb', 'mov r2, 0x1234\nstxb [r1], r2\nldxh r0, [r1]\nexit', 0x34n, '0000'],
  ['stxh', 'mov r2, 0x123456\nstxh [r1], r2\nldxw r0, [r1]\nexit', 0x3456n, '00000000'],
  ['stxw', 'mov r2, -1\nstxw [r1], r2\nldxdw r0, [r1]\nexit', 0xffff_ffffn, '0000000000000000'],
  ['stxdw', 'mov r2, -1\nstxdw [r10-8], r2\nldxdw r0, [r10-8]\nexit', ONES],
  ['r2 is the length of the context', 'mov r0, r2\nexit', 5n, '0102030405'],
];

/** r0 after the operation on [r10-8] = a with r2 = b; the cell, then r2, then r0 are folded into it by the tail. */
const atomic = (insn: string, a: bigint, b: bigint, tail: string, r0 = 0n) =>
  `lddw r3, 0x${hex(a)}\nstxdw [r10-8], r3\nlddw r2, 0x${hex(b)}\nlddw r0, 0x${hex(r0)}\n${insn} [r10-8], r2\n${tail}\nexit`;
const CELL = 'ldxdw r0, [r10-8]';
const R2 = 'mov r0, r2';
const R0 = 'mov r0, r0';
const A = 0xffff_ffff_ffff_fff0n;

const ATOMICS: readonly Case[] = [
  ['add', atomic('lock add', A, 0x20n, CELL), 0x10n],
  ['add leaves its operand', atomic('lock add', A, 0x20n, R2), 0x20n],
  ['add32 stays in the low half', atomic('lock add32', A, 0x20n, CELL), 0xffff_ffff_0000_0010n],
  ['fetch add', atomic('lock fetch add', A, 0x20n, CELL), 0x10n],
  ['fetch add gives the old value', atomic('lock fetch add', A, 0x20n, R2), A],
  ['fetch add32 gives the low half', atomic('lock fetch add32', A, 0x20n, R2), 0xffff_fff0n],
  ['or', atomic('lock or', 1n, 6n, CELL), 7n],
  ['or32', atomic('lock or32', 1n << 32n, ONES, CELL), 0x1_ffff_ffffn],
  ['fetch or', atomic('lock fetch or', 1n, 6n, R2), 1n],
  ['fetch or32', atomic('lock fetch or32', A, 1n, R2), 0xffff_fff0n],
  ['and', atomic('lock and', 7n, 12n, CELL), 4n],
  ['and32', atomic('lock and32', ONES, 0n, CELL), 0xffff_ffff_0000_0000n],
  ['fetch and', atomic('lock fetch and', 7n, 12n, R2), 7n],
  ['fetch and32', atomic('lock fetch and32', A, 0n, R2), 0xffff_fff0n],
  ['xor', atomic('lock xor', 7n, 12n, CELL), 11n],
  ['xor32', atomic('lock xor32', ONES, ONES, CELL), 0xffff_ffff_0000_0000n],
  ['fetch xor', atomic('lock fetch xor', 7n, 12n, R2), 7n],
  ['fetch xor32', atomic('lock fetch xor32', A, 12n, R2), 0xffff_fff0n],
  ['xchg stores', atomic('lock xchg', A, 5n, CELL), 5n],
  ['xchg gives the old value', atomic('lock xchg', A, 5n, R2), A],
  ['xchg32 stores the low half', atomic('lock xchg32', A, ONES - 1n, CELL), 0xffff_ffff_ffff_fffen],
  ['xchg32 gives the low half', atomic('lock xchg32', A, 5n, R2), 0xffff_fff0n],
  ['cmpxchg, equal: stores', atomic('lock cmpxchg', A, 5n, CELL, A), 5n],
  ['cmpxchg, equal: r0', atomic('lock cmpxchg', A, 5n, R0, A), A],
  ['cmpxchg leaves its operand', atomic('lock cmpxchg', A, 5n, R2, A), 5n],
  ['cmpxchg, other: stores nothing', atomic('lock cmpxchg', A, 5n, CELL, 1n), A],
  ['cmpxchg, other: r0', atomic('lock cmpxchg', A, 5n, R0, 1n), A],
  [
    'cmpxchg32 compares low halves',
    atomic('lock cmpxchg32', A, 5n, CELL, 0xffff_fff0n),
    0xffff_ffff_0000_0005n,
  ],
  ['cmpxchg32 gives the low half', atomic('lock cmpxchg32', A, 5n, R0, A), 0xffff_fff0n],
];

const CALLS: readonly Case[] = [
  [
    'a local call keeps r6 to r9 and the frame',
    `mov r6, 6
     mov r9, 9
     stdw [r10-8], 100
     mov r1, 5
     call local f
     ldxdw r1, [r10-8]
     add r0, r1
     add r0, r6
     add r0, r9
     exit
     f:
     mov r6, 60
     mov r9, 90
     stdw [r10-8], 7
     ldxdw r0, [r10-8]
     add r0, r1
     exit`,
    127n,
  ],
  [
    'a callee writes through a pointer into its caller’s frame',
    'mov r1, r10\nadd r1, -8\ncall local f\nldxdw r0, [r10-8]\nexit\nf:\nstdw [r1], 42\nexit',
    42n,
  ],
  [
    'recursion to the last frame',
    'mov r1, 7\ncall local f\nexit\nf:\nmov r0, 0\njeq r1, 1, out\nmov r6, r1\nsub r1, 1\ncall local f\nadd r0, r6\nout:\nexit',
    27n,
  ],
  [
    'a function before the entry’s end',
    'ja start\nf:\nmov r0, 3\nexit\nstart:\ncall local f\nadd r0, 1\nexit',
    4n,
  ],
  ['callx calls the helper that the register names', 'mov r2, 5\ncallx r2\nmov r0, 1\nexit', 1n],
  ['a runtime function', 'mov r0, 1\ncall runtime 42\nexit', 0n],
];

for (const [group, cases] of Object.entries({ ALU, JUMPS, MEMORY, ATOMICS, CALLS })) {
  describe(`eBPF: ${group.toLowerCase()}`, () => {
    for (const [name, asm, expected, memory = ''] of cases) {
      for (const engine of ['interpret', 'jit'] as const) {
        it(`${name} (${engine})`, async () => {
          const result = await runOnce(assemble(asm), parseHex(memory), engine);
          assert.equal(result.toString(16), expected.toString(16));
        });
      }
    }
  });
}
