/** Every arithmetic instruction and every condition of the JIT against the interpreter's functions, at the edges of numbers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { disassemble } from '../../src/ebpf/disasm.js';
import { FORMS } from '../../src/ebpf/forms.js';
import { interpret } from '../../src/ebpf/interpreter.js';
import { CLASS, SRC } from '../../src/ebpf/isa.js';
import { compile, instantiate } from '../../src/ebpf/jit/index.js';
import { decodeProgram, type Program } from '../../src/ebpf/program.js';

const CONTEXT = 0x4000;
const options = {
  contextSize: 16,
  stackBase: 0x1000,
  helpers: new Map(),
  budget: 100,
  sharedMemory: true,
  memoryPages: 1,
};
const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
const view = new DataView(memory.buffer);

const EDGES = [
  0n,
  1n,
  2n,
  7n,
  31n,
  32n,
  63n,
  64n,
  0x7fn,
  0x80n,
  0xffn,
  0x8000n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  0x0123_4567_89ab_cdefn,
  0x7fff_ffff_ffff_ffffn,
  0x8000_0000_0000_0000n,
  0xffff_ffff_8000_0000n,
  0xffff_ffff_ffff_fffen,
  0xffff_ffff_ffff_ffffn,
];
const IMMEDIATES = EDGES.map(edge => Number(BigInt.asIntN(32, edge)));

/** r3 and r4 from the context, then the given instructions, then exit. */
function program(
  ...slots: readonly (readonly [opcode: number, registers: number, off: number, imm: number])[]
): Program {
  const load = CLASS.LDX | 0x60 | 0x18;
  const all = [[load, 0x13, 0, 0], [load, 0x14, 8, 0], [0xb7, 0, 0, 0], ...slots, [0x95, 0, 0, 0]] as const;
  const bytes = new DataView(new ArrayBuffer(all.length * 8));
  all.forEach(([opcode, registers, off, imm], slot) => {
    bytes.setUint8(slot * 8, opcode);
    bytes.setUint8(slot * 8 + 1, registers);
    bytes.setInt16(slot * 8 + 2, off, true);
    bytes.setInt32(slot * 8 + 4, imm, true);
  });
  return decodeProgram(new Uint8Array(bytes.buffer));
}

function compare(decoded: Program, operands: readonly bigint[]): void {
  const { run } = instantiate(compile(decoded, options), memory, new Map());
  for (const a of EDGES) {
    for (const b of operands) {
      view.setBigUint64(CONTEXT, a, true);
      view.setBigUint64(CONTEXT + 8, b, true);
      const result = BigInt.asUintN(64, run(BigInt(CONTEXT)));
      const expected = interpret(decoded, { ...options, memory, implementations: new Map() }, CONTEXT);
      assert.equal(result, expected, `0x${a.toString(16)}, 0x${b.toString(16)}\n${disassemble(decoded)}`);
    }
  }
}

const forms = [...FORMS].map(([opcode, form]) => ({ opcode, form, cls: opcode & 7 }));

test('arithmetic', () => {
  const operations = forms.filter(({ cls }) => cls === CLASS.ALU || cls === CLASS.ALU64);
  assert.ok(operations.length > 50);
  const move = [0xbf, 0x30, 0, 0] as const; // r0 = r3
  for (const { opcode, form } of operations) {
    for (const off of Array.isArray(form.off) ? form.off : [0]) {
      if (form.src === 'read') {
        compare(program(move, [opcode, 0x40, off, 0]), EDGES);
      } else {
        const immediates = form.imm === 'value' ? IMMEDIATES : Array.isArray(form.imm) ? form.imm : [0];
        for (const imm of immediates) compare(program(move, [opcode, 0x00, off, imm]), [0n]);
      }
    }
  }
});

test('conditions', () => {
  const branches = forms.filter(
    ({ form, cls }) => form.off === 'jump' && form.dst === 'read' && cls !== CLASS.STX,
  );
  assert.ok(branches.length > 40);
  const taken = [0xb7, 0, 0, 1] as const; // r0 = 1, jumped over when the condition holds
  for (const { opcode } of branches) {
    if ((opcode & SRC.X) !== 0) compare(program([opcode, 0x43, 1, 0], taken), EDGES);
    else for (const imm of IMMEDIATES) compare(program([opcode, 0x03, 1, imm], taken), [0n]);
  }
});
