/** What loads, stores and atomics do to a state, and whether they stay inside the program's memory. */
import { CALLX_OPCODE } from '../forms.js';
import { ATOMIC, CLASS, MODE, SIZE, STACK_SIZE } from '../isa.js';
import { extendSign, truncate } from './domain/arithmetic.js';
import { keptBelow } from './domain/line.js';
import { constant, constantOf, loaded, meet, type Num, signedRange, unsignedRange } from './domain/number.js';
import {
  type ContextPointer,
  isPointer,
  numberIn,
  type Scalar,
  type StackPointer,
  scalar,
  unset,
  type Value,
} from './domain/value.js';
import { blur, find, forget, isSet, put, putUnknown, shake } from './frame.js';
import { describeValue } from './report.js';
import { learn, linkOf, type State } from './state.js';
import { guardArgument, readNumber, readValue, refuse, type Step } from './step.js';

const ACCESS_BYTES: Readonly<Record<number, number>> = {
  [SIZE.B]: 1,
  [SIZE.H]: 2,
  [SIZE.W]: 4,
  [SIZE.DW]: 8,
};

/** Memory that an access may touch. */
export type Place =
  | {
      readonly kind: 'shared';
      /** It may be the stack as well: not proved, and behind a check that lets it go there. */
      readonly anywhere: boolean;
    }
  | {
      readonly kind: 'stack';
      readonly frame: number;
      /** Offset of the first byte from the top of the frame: the least and the greatest one. */
      readonly lo: number;
      readonly hi: number;
    };

export function stepLoad(step: Step): void {
  const { insn, state, findings } = step;
  const bytes = ACCESS_BYTES[insn.opcode & 0x18]!;
  const signed = (insn.opcode & 0xe0) === MODE.MEMSX;
  findings.accesses.add(insn.pc);
  const place = locate(step, insn.src, insn.off, bytes);
  const value =
    place.kind === 'stack' ? loadStack(step, place, bytes) : scalar(loadShared(step, bytes, signed));
  if (!signed || value.kind === 'unset') state.registers[insn.dst] = value;
  else if (isPointer(value)) refuse(step, 'it takes the low part of a pointer');
  else state.registers[insn.dst] = scalar(extendSign((value as Scalar).num, 8 * bytes, 64));
}

/** What shared memory holds may be anything, but for what was promised. A load that is not always of the same field relies on nothing. */
function loadShared({ insn, state, findings }: Step, bytes: number, signed: boolean): Num {
  const { promised, plain, options } = findings;
  if (options.promises === undefined) return loaded(bytes, signed);
  const base = state.registers[insn.src]!;
  const at = base.kind === 'context' ? constantOf(base.offset) : null;
  const promise =
    at === null || signed
      ? undefined
      : options.promises.find(one => one.bytes === bytes && one.offset === Number(at) + insn.off);
  const before = promised.get(insn.pc);
  if (before !== undefined && before !== promise) {
    refuse(
      { insn, state, findings },
      'it loads, by one instruction, a field that was promised and other memory',
    );
  }
  if (promise === undefined || plain.has(insn.pc)) {
    plain.add(insn.pc);
    return loaded(bytes, signed);
  }
  promised.set(insn.pc, promise);
  findings.guards.add(insn.pc);
  return unsignedRange(BigInt(promise.least), BigInt(promise.most));
}

export function stepStore(step: Step): void {
  const { insn, state, findings } = step;
  const bytes = ACCESS_BYTES[insn.opcode & 0x18]!;
  findings.accesses.add(insn.pc);
  if ((insn.opcode & 0xe0) === MODE.ATOMIC) {
    stepAtomic(step, bytes);
    return;
  }
  const place = locate(step, insn.dst, insn.off, bytes);
  const isConstant = (insn.opcode & 7) === CLASS.ST;
  if (!isConstant && place.kind === 'stack' && place.lo === place.hi && isUnset(step, insn.src)) {
    state.frames[place.frame] = forget(state.frames[place.frame]!, place.lo, bytes);
    return;
  }
  const value = isConstant ? scalar(constant(BigInt(insn.imm))) : readValue(step, insn.src);
  if (isPointer(value)) storePointer(step, place, bytes, value);
  else storeNumber(step, place, bytes, value);
}

function isUnset({ state }: Step, register: number): boolean {
  return state.registers[register]!.kind === 'unset';
}

/**
 * Where an access goes. Refused when it cannot be allowed, noted when it has to be guarded.
 * @param least of accesses whose size is not constant: the least one; `bytes` is the greatest
 */
export function locate(step: Step, register: number, off: number, bytes: number, least = bytes): Place {
  const pointer = readValue(step, register);
  switch (pointer.kind) {
    case 'context':
      return locateInContext(step, register, pointer, off, bytes, least);
    case 'stack':
      return locateOnStack(step, register, pointer, off, bytes);
    default:
      return locateInExtra(step, register, pointer.num, off, bytes);
  }
}

function locateInContext(
  step: Step,
  register: number,
  pointer: ContextPointer,
  off: number,
  bytes: number,
  least: number,
): Place {
  const { contextSize, guarded = 'any' } = step.findings.options;
  const { slo, shi } = pointer.offset.wide;
  const lo = slo + BigInt(off);
  const hi = shi + BigInt(off);
  if (lo >= 0n && hi + BigInt(bytes) <= BigInt(contextSize)) return { kind: 'shared', anywhere: false };
  const last = BigInt(contextSize - least);
  if (hi < 0n || lo > last) {
    const where = lo === hi ? `at offset ${lo}` : `at offsets ${lo}…${hi}`;
    refuse(step, `it accesses ${least} bytes ${where} of the context, which is ${contextSize} bytes long`);
  }
  guard(step, register);
  if (guarded === 'any') return { kind: 'shared', anywhere: true };
  // What passed a guard that allows only the context lies in it, unless it is empty; of a pointer that moves along in a loop that bounds the rounds.
  const inside = least === 0 ? null : meet(pointer.offset, signedRange(BigInt(-off), last - BigInt(off)));
  if (inside !== null) learn(step.state, register, inside);
  return { kind: 'shared', anywhere: false };
}

/** Notes that an access, or what a helper is given in a register, was not proved. */
function guard(step: Step, register: number): void {
  const { insn, findings } = step;
  if ((insn.opcode & 7) !== CLASS.JMP) {
    findings.guards.add(insn.pc);
    return;
  }
  if (insn.opcode === CALLX_OPCODE && findings.options.guarded === 'context') {
    // Which helper that is is looked up when it runs, by code that does not know what was proved of its arguments.
    refuse(
      step,
      `it gives r${register} to a helper by r${insn.dst}, and that is not surely inside the context`,
    );
  }
  guardArgument(findings, insn.pc, register - 1);
}

/** The stack needs no guards: what is not bounded is refused. */
function locateOnStack(
  step: Step,
  register: number,
  pointer: StackPointer,
  off: number,
  bytes: number,
): Place {
  const lo = pointer.offset.wide.slo + BigInt(off);
  const hi = pointer.offset.wide.shi + BigInt(off);
  if (lo < BigInt(-STACK_SIZE) || hi > BigInt(-bytes)) {
    refuse(
      step,
      `it accesses ${bytes} bytes at r${register}${off < 0 ? '' : '+'}${off}, and r${register} is ${describeValue(pointer)}: not surely inside the frame, which is the ${STACK_SIZE} bytes below its top`,
    );
  }
  return { kind: 'stack', frame: pointer.frame, lo: Number(lo), hi: Number(hi) };
}

function locateInExtra(step: Step, register: number, address: Num, off: number, bytes: number): Place {
  const { ulo, uhi } = address.wide;
  const lo = ulo + BigInt(off);
  const hi = uhi + BigInt(off + bytes);
  for (const { base, size } of step.findings.options.extra ?? []) {
    if (lo >= BigInt(base) && hi <= BigInt(base + size)) return { kind: 'shared', anywhere: false };
  }
  return refuse(
    step,
    `it uses r${register}, which is a number (${describeValue(scalar(address))}), as an address`,
  );
}

/** What a store does that may have gone to the stack: nothing that is there can be relied upon. */
export function shakeIfAnywhere({ state }: Step, place: Place): void {
  if (place.kind !== 'shared' || !place.anywhere) return;
  for (const [depth, frame] of state.frames.entries()) state.frames[depth] = shake(frame);
}

/** Compilers load ahead of a test what only one way needs: what was not set stays unset in the register. */
function loadStack(step: Step, place: Extract<Place, { kind: 'stack' }>, bytes: number): Value {
  if (place.lo === place.hi && !isSet(step.state.frames[place.frame]!, place.lo, bytes)) return NOT_SET;
  const found = readStack(step, place, bytes);
  return found ?? scalar(loaded(bytes, false));
}

const NOT_SET = unset('was loaded from a place on the stack that nothing has set');

/** The value of the cell that is read, or null when it is a number that is not known. */
export function readStack(
  step: Step,
  { frame, lo, hi }: Extract<Place, { kind: 'stack' }>,
  bytes: number,
): Value | null {
  const found = find(step.state.frames[frame]!, lo, hi - lo + bytes);
  if ('problem' in found) {
    const what = `${hi - lo + bytes} bytes at ${lo} from the top of frame ${frame}`;
    if (found.problem === 'nothing has set') refuse(step, `it reads ${what}, not all of which were set`);
    refuse(step, `it reads ${what}, which ${found.problem}`);
  }
  if ('unknown' in found) return null;
  if (lo === hi) return found.value;
  if (isPointer(found.value)) refuse(step, 'it reads a part of a pointer');
  return null;
}

function storePointer(step: Step, place: Place, bytes: number, value: Value): void {
  const { state, insn } = step;
  const shown = `r${insn.src} (${describeValue(value)})`;
  if (place.kind !== 'stack') {
    refuse(
      step,
      `it stores a pointer, ${shown}, where others can read it; pointers may only be kept on the stack`,
    );
  }
  if (bytes !== 8) refuse(step, `it stores a part of a pointer, ${shown}`);
  if (place.lo !== place.hi) refuse(step, `it stores a pointer, ${shown}, at an offset that is not constant`);
  state.frames[place.frame] = put(state.frames[place.frame]!, place.lo, bytes, value);
}

function storeNumber(step: Step, place: Place, bytes: number, value: Scalar): void {
  const { state, insn, findings } = step;
  if (place.kind === 'shared') {
    shakeIfAnywhere(step, place);
    return;
  }
  const frame = state.frames[place.frame]!;
  if (place.lo !== place.hi) {
    state.frames[place.frame] = blur(frame, place.lo, place.hi - place.lo + bytes);
    return;
  }
  const fromRegister = (insn.opcode & 7) === CLASS.STX;
  const link = fromRegister && bytes >= 4 ? linkOf(state, insn.src, findings.fresh) : null;
  const kept =
    bytes === 8 || link === null ? link : link.form === 'shifted' ? null : { ...link, form: 'low' as const };
  state.frames[place.frame] = put(
    frame,
    place.lo,
    bytes,
    scalar(truncate(value.num, 8 * bytes), kept, bytes === 8 ? value.line : keptBelow(value, 8 * bytes)),
  );
}

function stepAtomic(step: Step, bytes: number): void {
  const { insn, state } = step;
  readNumber(step, insn.src, 'stores with an atomic instruction');
  if (insn.imm === ATOMIC.CMPXCHG) readNumber(step, 0, 'compares with');
  const base = readValue(step, insn.dst);
  const place = locate(step, insn.dst, insn.off, bytes);
  checkAlignment(step, base, bytes);
  if (place.kind === 'stack') updateStack(step, place, bytes);
  else shakeIfAnywhere(step, place);
  const old = scalar(loaded(bytes, false));
  if (insn.imm === ATOMIC.CMPXCHG) state.registers[0] = old;
  else if ((insn.imm & ATOMIC.FETCH) !== 0) state.registers[insn.src] = old;
}

/** Context and frames start at multiples of 8. Where the low bits are not known, an address in the context is checked when it runs. */
function checkAlignment(step: Step, base: Exclude<Value, { kind: 'unset' }>, bytes: number): void {
  const { insn, findings } = step;
  const { bits } = numberIn(base);
  const ones = BigInt(bytes - 1);
  const known = (bits.mask & ones) === 0n;
  if (!known && base.kind === 'context') findings.guards.add(insn.pc);
  else if (!known || ((bits.value + BigInt(insn.off)) & ones) !== 0n) {
    refuse(
      step,
      `it updates ${bytes} bytes atomically at an address that is ${known ? 'no' : 'not surely a'} multiple of ${bytes}`,
    );
  }
}

function updateStack(step: Step, place: Extract<Place, { kind: 'stack' }>, bytes: number): void {
  const { state } = step;
  const old = readStack(step, place, bytes);
  if (old !== null && isPointer(old)) refuse(step, 'it updates a pointer on the stack atomically');
  setUnknown(state, place, bytes);
}

/** Bytes on the stack that get a number which is not known; all of them only if place and size are constant. */
export function setUnknown(
  state: State,
  { frame, lo, hi }: Extract<Place, { kind: 'stack' }>,
  bytes: number,
  least = bytes,
): void {
  const cells = state.frames[frame]!;
  const exact = lo === hi && least === bytes;
  state.frames[frame] = exact ? putUnknown(cells, lo, bytes) : blur(cells, lo, hi - lo + bytes);
}
