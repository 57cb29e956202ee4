/** What the decoder refuses, and that it refuses rather than crashes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { assemble } from '../../src/ebpf/asm.js';
import { disassemble } from '../../src/ebpf/disasm.js';
import { FORMS } from '../../src/ebpf/forms.js';
import { decodeProgram, EbpfError, targetOf } from '../../src/ebpf/program.js';
import { parseHex } from '../../src/ebpf/run.js';

const EXIT = '9500000000000000';

/** Name, bytecode as hex, code, slot at fault. */
const REFUSED: readonly (readonly [name: string, hex: string, code: string, pc: number | null])[] = [
  ['nothing', '', 'EBPF_LENGTH', null],
  ['half an instruction', `${EXIT}95000000`, 'EBPF_LENGTH', null],
  ['unknown opcode', `0000000000000000${EXIT}`, 'EBPF_OPCODE', 0],
  ['exit in the JMP32 class', `9600000000000000${EXIT}`, 'EBPF_OPCODE', 0],
  ['8-bit atomic', `d30a000000000000${EXIT}`, 'EBPF_OPCODE', 0],
  ['sign-extending 64-bit load', `9910000000000000${EXIT}`, 'EBPF_OPCODE', 0],
  ['neg with a register', `8f10000000000000${EXIT}`, 'EBPF_OPCODE', 0],
  ['legacy load, absolute', `2000000000000000${EXIT}`, 'EBPF_LEGACY', 0],
  ['legacy load, indirect', `5010000000000000${EXIT}`, 'EBPF_LEGACY', 0],
  ['dst r11', `b70b000000000000${EXIT}`, 'EBPF_REGISTER', 0],
  ['src r15', `bff0000000000000${EXIT}`, 'EBPF_REGISTER', 0],
  ['mov to r10', `b70a000000000000${EXIT}`, 'EBPF_FRAME_POINTER', 0],
  ['load into r10', `791a000000000000${EXIT}`, 'EBPF_FRAME_POINTER', 0],
  ['lddw into r10', `180a0000000000000000000000000000${EXIT}`, 'EBPF_FRAME_POINTER', 0],
  ['byte swap of r10', `d70a000010000000${EXIT}`, 'EBPF_FRAME_POINTER', 0],
  ['fetch into r10', `dba1000001000000${EXIT}`, 'EBPF_FRAME_POINTER', 0],
  ['xchg with r10', `dba10000e1000000${EXIT}`, 'EBPF_FRAME_POINTER', 0],
  ['mov constant with src', `b710000000000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['mov register with imm', `bf10000001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['add with offset', `0700010000000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['div with offset 2', `3700020001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['mov constant with offset 8', `b700080001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['32-bit movsx from 32 bits', `bc10200000000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['movsx from 24 bits', `bf10180000000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['swap of 8 bits', `d700000008000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['load with imm', `7910000001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['store of a constant with src', `7a1a000000000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['store of a register with imm', `7b1a000001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['ja with imm', `0500000001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['ja32 with offset', `0600010000000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['exit with dst', `9501000000000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['call with offset', `8500010001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['call of kind 3', `8530000001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['callx with imm', `8d01000001000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['branch on a constant with src', `1510000000000000${EXIT}`, 'EBPF_RESERVED', 0],
  ['atomic subtraction', `db1a000010000000${EXIT}`, 'EBPF_ATOMIC', 0],
  ['xchg without fetch', `db1a0000e0000000${EXIT}`, 'EBPF_ATOMIC', 0],
  ['lddw, cut off', `${EXIT}1800000000000000`, 'EBPF_LDDW', 1],
  ['lddw, second opcode', `18000000000000009500000000000000${EXIT}`, 'EBPF_LDDW', 0],
  ['lddw of a map', `18100000010000000000000000000000${EXIT}`, 'EBPF_LDDW', 0],
  ['jump before the start', `0500feff00000000${EXIT}`, 'EBPF_JUMP', 0],
  ['jump past the end', `0500010000000000${EXIT}`, 'EBPF_JUMP', 0],
  ['far jump past the end', `06000000ffffff7f${EXIT}`, 'EBPF_JUMP', 0],
  ['branch past the end', `1500020000000000${EXIT}`, 'EBPF_JUMP', 0],
  ['jump into a lddw', `050001000000000018000000000000000000000000000000${EXIT}`, 'EBPF_JUMP', 0],
  ['local call past the end', `8510000005000000${EXIT}`, 'EBPF_JUMP', 0],
  ['local call into a lddw', `851000000100000018000000000000000000000000000000${EXIT}`, 'EBPF_JUMP', 0],
  ['end without exit', `${EXIT}b700000000000000`, 'EBPF_FALL_OFF', 1],
  ['end with a branch', `${EXIT}1500feff00000000`, 'EBPF_FALL_OFF', 1],
  ['end with a call', `${EXIT}8500000001000000`, 'EBPF_FALL_OFF', 1],
];

describe('eBPF: decoding', () => {
  for (const [name, hex, code, pc] of REFUSED) {
    it(`refuses: ${name}`, () => {
      assert.throws(
        () => decodeProgram(parseHex(hex)),
        (error: unknown) => {
          assert.ok(error instanceof EbpfError);
          assert.deepEqual([error.code, error.pc], [code, pc]);
          return true;
        },
      );
    });
  }

  it('knows the 120 opcodes of the specification', () => {
    // 2 × (9 × 2 plain + 2 × 2 division + 2 mov + neg + end) + be; 2 × 22 branches, ja, ja32, call, callx, exit; lddw; 3 × 4 + 3 + 2 memory
    assert.equal(FORMS.size, 2 * 26 + 1 + 2 * 22 + 5 + 1 + 17);
  });

  it('gives lddw once and both its slots', () => {
    const program = decodeProgram(assemble('lddw r1, 0xfedcba9876543210\nexit'));
    assert.equal(program.slots, 3);
    assert.equal(program.insns.length, 2);
    assert.equal(program.insns[0]!.imm64, 0xfedc_ba98_7654_3210n);
    assert.equal(program.bySlot[1], undefined);
    assert.equal(program.bySlot[2], program.insns[1]);
  });

  it('reads signed fields', () => {
    const [store] = decodeProgram(assemble('stw [r10-4], -7\nexit')).insns;
    assert.deepEqual([store!.off, store!.imm, store!.dst], [-4, -7, 10]);
  });

  it('gives targets of near and far jumps and local calls, and of nothing else', () => {
    const { insns } = decodeProgram(assemble('ja32 +3\njeq r0, 0, +2\ncall local +1\ncall 7\nexit'));
    assert.deepEqual(insns.map(targetOf), [4, 4, 4, null, null]);
  });

  it('takes the limit of slots from its caller', () => {
    const bytes = assemble('mov r0, 0\nexit');
    assert.throws(() => decodeProgram(bytes, 'p', { maxSlots: 1 }), { code: 'EBPF_LENGTH' });
    assert.equal(decodeProgram(bytes, 'p', { maxSlots: 2 }).slots, 2);
  });

  it('decodes or refuses arbitrary bytes; what it decodes survives disassembly', () => {
    const opcode = fc.oneof(fc.constantFrom(...FORMS.keys()), fc.integer({ min: 0, max: 255 }));
    const small = fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom(0, 0, 0, 1, 8, 16, 32, 64, 0xe1, 0xf1) },
      fc.integer(),
    );
    const insn = fc.tuple(opcode, fc.integer({ min: 0, max: 255 }), small, small);
    let decoded = 0;
    fc.assert(
      fc.property(fc.array(insn, { maxLength: 4 }), insns => {
        const bytes = new Uint8Array((insns.length + 1) * 8);
        const view = new DataView(bytes.buffer);
        for (const [index, [op, registers, off, imm]] of insns.entries()) {
          view.setUint8(index * 8, op);
          view.setUint8(index * 8 + 1, registers);
          view.setInt16(index * 8 + 2, off, true);
          view.setInt32(index * 8 + 4, imm, true);
        }
        view.setUint8(insns.length * 8, 0x95);
        try {
          const program = decodeProgram(bytes);
          decoded++;
          assert.deepEqual(assemble(disassemble(program)), bytes);
        } catch (error) {
          if (!(error instanceof EbpfError) || error.code === 'EBPF_ASM') throw error;
        }
      }),
      { numRuns: 3000 },
    );
    assert.ok(decoded > 100, `only ${decoded} programs were well formed`);
  });
});
