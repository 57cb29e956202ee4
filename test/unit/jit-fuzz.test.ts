/**
 * The JIT against the interpreter on random programs: any control flow, any memory access, local calls, helpers. Both have
 * to end alike: same r0, same memory, same fault at the same instruction.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { disassemble } from '../../src/ebpf/disasm.js';
import {
  CALL_OPCODE,
  CALLX_OPCODE,
  EXIT_OPCODE,
  FORMS,
  GOTOL_OPCODE,
  JA_OPCODE,
  LDDW,
} from '../../src/ebpf/forms.js';
import { ALU, ATOMIC, CLASS, JMP, MODE, SIZE, SRC } from '../../src/ebpf/isa.js';
import { decodeProgram, type Program } from '../../src/ebpf/program.js';
import { EXTRA, FENCE, HELPERS, runInterpreter, runJit, type Setting, STACK_BASE } from './jit-harness.js';

const RUNS = process.env.POLYNIC_LONG === 'hostile' ? 100_000 : 3_000;
const INTERPRETER_BUDGET = 2_000;

/** An instruction whose jump target, if any, is still a share of the program's length. */
interface Draft {
  readonly opcode: number;
  readonly dst?: number;
  readonly src?: number;
  readonly off?: number;
  readonly imm?: number;
  readonly high?: number;
  readonly target?: number;
}

// Pointers live in r6 … r8, so that most programs keep some; the other registers are changed more often.
const scratch = fc.integer({ min: 0, max: 5 });
const writable = fc.oneof(
  { weight: 6, arbitrary: scratch },
  { weight: 1, arbitrary: fc.integer({ min: 6, max: 9 }) },
);
const readable = fc.oneof(
  { weight: 2, arbitrary: writable },
  { weight: 1, arbitrary: fc.integer({ min: 6, max: 10 }) },
);
const target = fc.nat({ max: 9999 });

const INTERESTING = [0, 1, -1, 2, 7, 8, 31, 32, 63, 64, 255, 0x7fff, 0x8000, 0xffff, 0x7fffffff, -0x80000000];
const value = fc.oneof(fc.constantFrom(...INTERESTING), fc.integer({ min: -0x80000000, max: 0x7fffffff }));

const opcodes = (accept: (opcode: number) => boolean) => fc.constantFrom(...[...FORMS.keys()].filter(accept));
const isAlu = (opcode: number) => (opcode & 7) === CLASS.ALU || (opcode & 7) === CLASS.ALU64;
const isBranch = (opcode: number) =>
  FORMS.get(opcode)!.off === 'jump' && opcode !== JA_OPCODE && opcode !== GOTOL_OPCODE;

const alu = fc
  .record({ opcode: opcodes(isAlu), dst: writable, src: readable, imm: value, pick: fc.nat() })
  .map(({ opcode, dst, src, imm, pick }): Draft => {
    const form = FORMS.get(opcode)!;
    const among = (list: readonly number[]) => list[pick % list.length]!;
    return {
      opcode,
      dst,
      src: form.src === 'read' ? src : 0,
      off: Array.isArray(form.off) ? among(form.off) : 0,
      imm: form.imm === 'value' ? imm : Array.isArray(form.imm) ? among(form.imm) : 0,
    };
  });

const branch = fc
  .record({ opcode: opcodes(isBranch), dst: readable, src: readable, imm: value, target })
  .map(
    ({ opcode, src, imm, ...rest }): Draft =>
      (opcode & SRC.X) !== 0 ? { opcode, src, ...rest } : { opcode, imm, ...rest },
  );

const jump = fc
  .record({ opcode: fc.constantFrom(JA_OPCODE, GOTOL_OPCODE), target })
  .map((draft): Draft => draft);

/** A base register with offsets that mostly fit what it holds at the start: r6 and r1 context, r7 and r10 stack, r8 extra. */
const place = fc.oneof(
  { weight: 6, arbitrary: fc.record({ base: fc.constantFrom(1, 6), off: fc.integer({ min: -2, max: 62 }) }) },
  {
    weight: 4,
    arbitrary: fc.record({ base: fc.constantFrom(7, 10), off: fc.integer({ min: -70, max: 1 }) }),
  },
  { weight: 2, arbitrary: fc.record({ base: fc.constant(8), off: fc.integer({ min: -1, max: 20 }) }) },
  { weight: 1, arbitrary: fc.record({ base: readable, off: fc.integer({ min: -600, max: 600 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({ base: fc.constantFrom(6, 7), off: fc.constantFrom(-32768, 32767, -512, -513) }),
  },
);

const access = fc
  .record({
    opcode: opcodes(
      op => [CLASS.LDX, CLASS.ST, CLASS.STX].includes((op & 7) as 1) && (op & 0xe0) !== MODE.ATOMIC,
    ),
    place,
    other: writable,
    imm: value,
  })
  .map(({ opcode, place: { base, off }, other, imm }): Draft => {
    if ((opcode & 7) === CLASS.LDX) return { opcode, dst: other, src: base, off };
    return (opcode & 7) === CLASS.ST
      ? { opcode, dst: base, off, imm }
      : { opcode, dst: base, src: other, off };
  });

const ATOMICS = Object.values(ATOMIC).flatMap(imm => (imm === ATOMIC.FETCH ? [] : [imm, imm | ATOMIC.FETCH]));
const atomic = fc
  .record({
    size: fc.constantFrom(SIZE.W, SIZE.DW),
    place,
    src: scratch,
    imm: fc.constantFrom(...ATOMICS),
    align: fc.boolean(),
  })
  .map(({ size, place: { base, off }, src, imm, align }): Draft => {
    return { opcode: CLASS.STX | MODE.ATOMIC | size, dst: base, src, off: align ? off & ~7 : off, imm };
  });

const constant = fc
  .record({
    dst: writable,
    imm: fc.oneof(value, fc.constantFrom(STACK_BASE, STACK_BASE + 4090, EXTRA.base)),
    high: fc.oneof(fc.constant(0), value),
  })
  .map((draft): Draft => ({ opcode: LDDW, ...draft }));

const helperIds = [...HELPERS.map(helper => helper.id), FENCE, 77];
const call = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...helperIds).map((imm): Draft => ({ opcode: CALL_OPCODE, imm })) },
  { weight: 3, arbitrary: target.map((slot): Draft => ({ opcode: CALL_OPCODE, src: 1, target: slot })) },
  { weight: 1, arbitrary: readable.map((dst): Draft => ({ opcode: CALLX_OPCODE, dst })) },
);

const one = (draft: Draft) => [draft];
const exit: Draft = { opcode: EXIT_OPCODE };
const mov = (dst: number, src: number): Draft => ({ opcode: CLASS.ALU64 | ALU.MOV | SRC.X, dst, src });
const movImm = (dst: number, imm: number): Draft => ({ opcode: CLASS.ALU64 | ALU.MOV, dst, imm });
const addImm = (dst: number, imm: number): Draft => ({ opcode: CLASS.ALU64 | ALU.ADD, dst, imm });

/** A pointer into the context by a masked index. */
const indexed = fc
  .record({
    at: scratch,
    index: scratch,
    mask: fc.constantFrom(7, 31, 63),
    off: fc.integer({ min: -8, max: 8 }),
    dst: scratch,
  })
  .map(({ at, index, mask, off, dst }): Draft[] => [
    mov(at, index),
    { opcode: CLASS.ALU64 | ALU.AND, dst: at, imm: mask },
    { opcode: CLASS.ALU64 | ALU.ADD | SRC.X, dst: at, src: 6 },
    { opcode: CLASS.LDX | MODE.MEM | SIZE.W, dst, src: at, off },
  ]);

/** What makes a helper's call likely to pass its checks. */
const preparedCall = fc.constantFrom<Draft[]>(
  [mov(1, 6), { opcode: CALL_OPCODE, imm: 1 }],
  [mov(1, 7), addImm(1, -16), { opcode: CALL_OPCODE, imm: 2 }],
  [mov(1, 8), { opcode: CALL_OPCODE, imm: 2 }],
  [mov(2, 6), movImm(3, 9), { opcode: CALL_OPCODE, imm: 0x4b8f0003 }],
  [mov(2, 7), movImm(3, 4), { opcode: CALL_OPCODE, imm: 0x4b8f0003 }],
  [mov(1, 6), movImm(4, 1), { opcode: CALLX_OPCODE, dst: 4 }],
);

/** A jump over a function of its own, and a call of it. */
const localCall = fc.array(fc.oneof(access.map(one), alu.map(one)), { maxLength: 4 }).map((body): Draft[] => {
  const inner = body.flat();
  const callee: Draft = { opcode: CALL_OPCODE, src: 1, imm: -(inner.length + 2) };
  return [{ opcode: JA_OPCODE, off: inner.length + 1 }, ...inner, exit, callee];
});

/** Something done a few times; the count may be changed on the way. */
const loop = (body: fc.Arbitrary<Draft[]>) =>
  fc
    .record({
      counter: fc.constantFrom(0, 3, 9),
      count: fc.integer({ min: 1, max: 20 }),
      body: fc.array(body, { maxLength: 5 }),
    })
    .map(({ counter, count, body }): Draft[] => {
      const inner = body.flat();
      const back = inner.reduce((slots, draft) => slots + (draft.opcode === LDDW ? 2 : 1), 0) + 2;
      const again: Draft = { opcode: CLASS.JMP | JMP.JNE, dst: counter, imm: 0, off: -back };
      return [movImm(counter, count), ...inner, addImm(counter, -1), again];
    });

const simple = fc.oneof(
  { weight: 8, arbitrary: alu.map(one) },
  { weight: 6, arbitrary: access.map(one) },
  { weight: 2, arbitrary: atomic.map(one) },
  { weight: 2, arbitrary: constant.map(one) },
  { weight: 2, arbitrary: indexed },
  { weight: 2, arbitrary: preparedCall },
);
const piece = fc.oneof(
  { weight: 12, arbitrary: simple },
  { weight: 4, arbitrary: branch.map(one) },
  { weight: 1, arbitrary: jump.map(one) },
  { weight: 2, arbitrary: call.map(one) },
  { weight: 2, arbitrary: localCall },
  { weight: 2, arbitrary: loop(simple) },
  { weight: 1, arbitrary: fc.constant([exit]) },
);

const PROLOGUE: readonly Draft[] = [
  mov(6, 1),
  mov(7, 10),
  { opcode: LDDW, dst: 8, imm: EXTRA.base, high: 0 },
];

const programs = fc
  .record({ start: fc.boolean(), pieces: fc.array(piece, { minLength: 1, maxLength: 24 }) })
  .map(({ start, pieces }) => build([...(start ? PROLOGUE : []), ...pieces.flat(), exit]));

function build(drafts: readonly Draft[]): Program {
  const starts: number[] = [];
  let slots = 0;
  for (const draft of drafts) {
    starts.push(slots);
    slots += draft.opcode === LDDW ? 2 : 1;
  }
  const bytes = new DataView(new ArrayBuffer(slots * 8));
  for (const [index, { opcode, dst = 0, src = 0, off = 0, imm = 0, high = 0, target }] of drafts.entries()) {
    const at = starts[index]!;
    const distance = target === undefined ? null : starts[target % starts.length]! - at - 1;
    const inImm = opcode === GOTOL_OPCODE || opcode === CALL_OPCODE;
    bytes.setUint8(at * 8, opcode);
    bytes.setUint8(at * 8 + 1, (src << 4) | dst);
    bytes.setInt16(at * 8 + 2, distance !== null && !inImm ? distance : off, true);
    bytes.setInt32(at * 8 + 4, distance !== null && inImm ? distance : imm, true);
    if (opcode === LDDW) bytes.setInt32(at * 8 + 12, high, true);
  }
  return decodeProgram(new Uint8Array(bytes.buffer));
}

const settings = fc.record({
  contextSize: fc.constantFrom(64, 64, 64, 61, 8, 3, 0),
  context: fc.option(fc.constantFrom(0x4000, 0x4001, 0x4004, 0x20), { nil: undefined }),
  budget: fc.constant(INTERPRETER_BUDGET),
  pattern: fc.nat({ max: 255 }),
});

function describe(program: Program, setting: Setting): string {
  return `${JSON.stringify(setting)}\n${disassemble(program)}`;
}

test('both engines end alike on random programs', () => {
  const seen = new Map<string, number>();
  const count = (what: string): void => {
    seen.set(what, (seen.get(what) ?? 0) + 1);
  };
  fc.assert(
    fc.property(programs, settings, (program, setting) => {
      const reference = runInterpreter(program, setting);
      // The JIT's charges are coarser than one per instruction, so it gets room; it has to come to an end in any case.
      const jit = runJit(program, { ...setting, budget: INTERPRETER_BUDGET * program.slots });
      count(jit.stats.structured ? 'structured' : 'dispatch loop');
      if (reference.fault?.code === 'EBPF_BUDGET') return count('budget');
      count(reference.fault?.code ?? 'result');
      const { stats, memory, ...rest } = jit;
      const { memory: expectedMemory, ...expected } = reference;
      assert.deepEqual(rest, expected, describe(program, setting));
      assert.ok(memory.equals(expectedMemory), `memory differs\n${describe(program, setting)}`);
    }),
    { numRuns: RUNS },
  );
  // A generator that only makes programs of one kind would prove nothing.
  for (const kind of [
    'structured',
    'dispatch loop',
    'budget',
    'result',
    'EBPF_ACCESS',
    'EBPF_MISALIGNED',
    'EBPF_CALL',
    'EBPF_DEPTH',
  ]) {
    assert.ok((seen.get(kind) ?? 0) >= RUNS / 500, `${kind}: ${JSON.stringify([...seen])}`);
  }
});

test('the budget bounds what the JIT executes', () => {
  fc.assert(
    fc.property(programs, settings, fc.integer({ min: 0, max: 60 }), (program, setting, budget) => {
      const jit = runJit(program, { ...setting, budget });
      if (jit.fault?.code === 'EBPF_BUDGET') return;
      // Outside of loops and local functions an instruction of the main function runs once, and is not charged.
      const reference = runInterpreter(program, { ...setting, budget: budget + program.insns.length + 1 });
      assert.deepEqual(reference.fault, jit.fault, describe(program, setting));
      assert.equal(reference.result, jit.result, describe(program, setting));
    }),
    { numRuns: Math.ceil(RUNS / 3) },
  );
});
