/** Assembly text: encodings compared with hand-made bytes, names and labels, errors. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { assemble } from '../../src/ebpf/asm.js';
import { disassemble, disassembleInsn } from '../../src/ebpf/disasm.js';
import { decodeProgram } from '../../src/ebpf/program.js';

const encode = (asm: string) => Buffer.from(assemble(asm)).toString('hex');

const ENCODINGS: readonly (readonly [asm: string, hex: string])[] = [
  ['mov %r0, 1', 'b700000001000000'],
  ['mov32 %r3, %r4', 'bc43000000000000'],
  ['add %r1, -1', '07010000ffffffff'],
  ['sdiv %r1, %r2', '3f21010000000000'],
  ['movsx1664 %r1, %r2', 'bf21100000000000'],
  ['be32 %r5', 'dc05000020000000'],
  ['swap64 %r5', 'd705000040000000'],
  ['neg32 %r5', '8405000000000000'],
  ['lddw %r1, 0x1122334455667788', '18010000887766550000000044332211'],
  ['lddw %r1, -1', '18010000ffffffff00000000ffffffff'],
  ['ldxw %r0, [%r1+2]', '6110020000000000'],
  ['ldxsh %r0, [%r1-2]', '8910feff00000000'],
  ['stb [%r10-1], 0xff', '720affffff000000'],
  ['stxdw [%r10-8], %r2', '7b2af8ff00000000'],
  ['lock fetch add32 [%r1+4], %r2', 'c321040001000000'],
  ['lock cmpxchg [%r1], %r2', 'db210000f1000000'],
  ['jne32 %r1, 5, +2', '5601020005000000'],
  ['jsgt %r1, %r2, -1', '6d21ffff00000000'],
  ['ja -1', '0500ffff00000000'],
  ['ja32 +70000', '0600000070110100'],
  ['call 5', '8500000005000000'],
  ['call helper 5', '8500000005000000'],
  ['call local +1', '8510000001000000'],
  ['call runtime 0x2a', '852000002a000000'],
  ['call %r2', '8d02000000000000'],
  ['callx %r2', '8d02000000000000'],
  ['exit', '9500000000000000'],
];

const ERRORS: readonly (readonly [asm: string, message: RegExp])[] = [
  ['mov %r0', /line 1: mov takes 2 operands, not 1/],
  ['exit\nfrob %r0', /line 2: there is no instruction frob/],
  ['mov %r16, 1', /%r16 is no register/],
  ['mov r0, 1x', /1x is no number/],
  ['lddw r0, 0x10000000000000000', /does not fit/],
  ['ldxw r0, [r1+40000000]', /does not fit/],
  ['ldxw r0, r1', /no memory operand/],
  ['ja nowhere', /there is no label nowhere/],
  ['a:\na:\nexit', /line 2: the label a is defined twice/],
  ['call', /call helper takes 1 operands, not 0/],
];

describe('eBPF: assembly text', () => {
  for (const [asm, hex] of ENCODINGS) it(asm, () => assert.equal(encode(asm), hex));

  for (const [asm, message] of ERRORS) {
    it(`refuses: ${asm.replaceAll('\n', ' / ')}`, () => {
      assert.throws(() => assemble(asm), { code: 'EBPF_ASM', message });
    });
  }

  it('takes registers without %, blanks in memory operands, comments and labels before instructions', () => {
    assert.equal(
      encode('  ldxw r0 , [ r1 + 2 ]   # first\n\nlabel: exit'),
      encode('ldxw %r0, [%r1+2]\nexit'),
    );
  });

  it('counts both slots of lddw in jumps', () => {
    assert.equal(encode('ja out\nlddw r0, 1\nout:\nexit'), encode('ja +2\nlddw r0, 1\nexit'));
  });

  it('means the first exit by the label exit, unless there is a label of that name', () => {
    assert.equal(encode('ja exit\nmov r0, 0\nexit\nexit'), encode('ja +1\nmov r0, 0\nexit\nexit'));
    assert.equal(encode('ja exit\nexit\nexit:\nexit'), encode('ja +1\nexit\nexit'));
  });

  it('refuses a label that 16 bits do not reach, which ja32 does', () => {
    const far = `${'mov r0, 0\n'.repeat(40000)}out:\nexit`;
    assert.throws(() => assemble(`ja out\n${far}`), { code: 'EBPF_ASM' });
    assert.equal(assemble(`ja32 out\n${far}`).length, 40002 * 8);
  });

  it('disassembles to labels and to one line for an instruction', () => {
    const program = decodeProgram(assemble('jeq r1, 0x12345678, out\nldxdw r0, [r1-8]\nout:\nexit'));
    assert.equal(disassemble(program), '  jeq %r1, 0x12345678, l2\n  ldxdw %r0, [%r1-8]\nl2:\n  exit\n');
    assert.equal(disassembleInsn(program.insns[1]!), 'ldxdw %r0, [%r1-8]');
  });
});
