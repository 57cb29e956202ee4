/**
 * Whether a loop of which no bound is seen at least counts towards its end. What a register, or a word on the stack, holds is followed through
 * one round as "what it held when the round started, plus n":
 *
 * ```
 *   head:  r2 = r2 + 0
 *          r3 = r2            r3 = r2 + 0
 *          r3 += 1            r3 = r2 + 1
 *          if r3 ≥ [r1] exit  a test that leaves the loop looks at what moves
 *          r2 = r3            r2 = r2 + 1       ← on every way back to the head: r2 moves
 * ```
 * That proves no end: the step may jump over it, the other side may move it away. It tells loops over what is there from those that only wait,
 * and a budget stops both.
 */
import { CALL_OPCODE, CALLX_OPCODE, EXIT_OPCODE, GOTOL_OPCODE, JA_OPCODE } from '../forms.js';
import { ALU, ATOMIC, CLASS, FRAME_POINTER, MODE, SIZE, SRC } from '../isa.js';
import type { Insn } from '../program.js';
import type { Activation, Span } from './activation.js';
import { constantOf } from './domain/number.js';
import type { Value } from './domain/value.js';
import type { State } from './state.js';

/** A register by its number, or a word of the own frame by its offset, which is below 0. */
type Place = number;

type Moved =
  | { readonly kind: 'constant'; readonly value: bigint }
  | {
      readonly kind: 'moved';
      /** Whose value at the start of the round. */
      readonly from: Place;
      /** By how much at least and at most; Infinity where ways differ. */
      readonly least: number;
      readonly most: number;
      /** Bits that it is shifted up by, on the way to being cut off. */
      readonly shift: number;
    };

/** What is not in it is not known. */
type Places = Map<Place, Moved>;

/** @param starts of the latest rounds: what is the same constant in all of them does not move */
export function countsToItsEnd(
  { graph, order }: Activation,
  { head, end }: Span,
  starts: readonly State[],
): boolean {
  const members = order.blocks.slice(head, end);
  const within = new Set(members);
  const first = members[0]!;
  const entered = members.some(
    block => block !== first && graph.predecessors[block]!.some(from => !within.has(from)),
  );
  if (entered) return false; // in two places: what a round is cannot be said

  const before = new Map<number, Places>([[first, placesAtStart(starts)]]);
  const ends: Places[] = [];
  const tests: Moved[] = [];
  const pending = new Set(members);
  for (const block of pending) {
    pending.delete(block);
    const places = before.get(block);
    if (places === undefined) continue;
    const after = new Map(places);
    const { insns, successors } = graph.blocks[block]!;
    for (const insn of insns) {
      if (isTest(insn)) {
        if (successors.some(to => !within.has(to))) tests.push(...operands(after, insn));
      } else step(after, insn);
    }
    for (const successor of successors) {
      if (successor === first) ends.push(after);
      else if (within.has(successor) && flow(before, successor, after)) pending.add(successor);
    }
  }
  const moves = (place: Place) => ends.length > 0 && ends.every(places => hasMoved(places.get(place), place));
  return tests.some(test => test.kind === 'moved' && moves(test.from));
}

function placesAtStart(starts: readonly State[]): Places {
  const places: Places = new Map();
  const add = (place: Place, valueIn: (state: State) => Value | undefined) => {
    const constants = new Set(starts.map(state => signedConstant(valueIn(state))));
    const [value = null] = constants;
    if (constants.size === 1 && value !== null) places.set(place, { kind: 'constant', value });
    else places.set(place, { kind: 'moved', from: place, least: 0, most: 0, shift: 0 });
  };
  for (let register = 0; register < FRAME_POINTER; register++)
    add(register, state => state.registers[register]);
  for (const at of starts[0]!.frames.at(-1)!.keys()) add(at, state => state.frames.at(-1)!.get(at)?.value);
  return places;
}

function signedConstant(value: Value | undefined): bigint | null {
  const known = value?.kind === 'number' ? constantOf(value.num) : null;
  return known === null ? null : BigInt.asIntN(64, known);
}

function hasMoved(moved: Moved | undefined, place: Place): boolean {
  if (moved?.kind !== 'moved' || moved.from !== place || moved.shift !== 0) return false;
  return moved.least > 0 || moved.most < 0;
}

function isTest({ opcode }: Insn): boolean {
  const cls = opcode & 7;
  const isJump = cls === CLASS.JMP || cls === CLASS.JMP32;
  return isJump && !NO_TESTS.has(opcode);
}
const NO_TESTS: ReadonlySet<number> = new Set([
  CALL_OPCODE,
  CALLX_OPCODE,
  EXIT_OPCODE,
  JA_OPCODE,
  GOTOL_OPCODE,
]);

function operands(places: Places, { opcode, dst, src }: Insn): Moved[] {
  const registers = (opcode & SRC.X) !== 0 ? [dst, src] : [dst];
  return registers.flatMap(register => places.get(register) ?? []);
}

/** @returns whether less is known at the block than before */
function flow(before: Map<number, Places>, block: number, places: Places): boolean {
  const known = before.get(block);
  if (known === undefined) {
    before.set(block, new Map(places));
    return true;
  }
  let changed = false;
  for (const [place, a] of known) {
    const both = join(a, places.get(place));
    if (both === a) continue;
    changed = true;
    if (both === null) known.delete(place);
    else known.set(place, both);
  }
  return changed;
}

function join(a: Moved, b: Moved | undefined): Moved | null {
  if (b === undefined || a.kind !== b.kind) return null;
  if (a.kind === 'constant') return a.value === (b as typeof a).value ? a : null;
  const { from, least, most, shift } = b as typeof a;
  if (a.from !== from || a.shift !== shift) return null;
  if (a.least <= least && a.most >= most) return a;
  // As far as it goes, so that this comes to an end in loops within the loop.
  return { ...a, least: least < a.least ? -Infinity : a.least, most: most > a.most ? Infinity : a.most };
}

function step(places: Places, insn: Insn): void {
  const { opcode, dst, src, off, imm } = insn;
  switch (opcode & 7) {
    case CLASS.ALU:
    case CLASS.ALU64:
      set(places, dst, computed(places, insn));
      break;
    case CLASS.LD:
      set(places, dst, { kind: 'constant', value: BigInt.asIntN(64, insn.imm64!) });
      break;
    case CLASS.LDX:
      set(places, dst, src === FRAME_POINTER && isWord(opcode) ? places.get(off) : undefined);
      break;
    case CLASS.ST:
      if (dst === FRAME_POINTER) set(places, off, { kind: 'constant', value: BigInt(imm) });
      break;
    case CLASS.STX:
      if ((opcode & 0xe0) === MODE.ATOMIC) {
        if ((imm & ATOMIC.FETCH) !== 0) places.delete(imm === ATOMIC.CMPXCHG ? 0 : src);
      } else if (dst === FRAME_POINTER) set(places, off, isWord(opcode) ? places.get(src) : undefined);
      break;
    default:
      if (opcode === CALL_OPCODE || opcode === CALLX_OPCODE) {
        for (let register = 0; register <= 5; register++) places.delete(register);
      }
  }
}

function set(places: Places, place: Place, moved: Moved | undefined): void {
  if (moved === undefined) places.delete(place);
  else places.set(place, moved);
}

/** Large enough to count in. */
function isWord(opcode: number): boolean {
  return (opcode & 0x18) !== SIZE.B;
}

function computed(places: Places, { opcode, dst, src, imm }: Insn): Moved | undefined {
  const op = opcode & 0xf0;
  const left = places.get(dst);
  const right: Moved | undefined =
    (opcode & SRC.X) !== 0 ? places.get(src) : { kind: 'constant', value: BigInt(imm) };
  if (op === ALU.MOV) return right;
  if (op === ALU.ADD && left?.kind === 'constant' && right?.kind === 'moved') return plus(right, left.value);
  if (left?.kind !== 'moved' || right?.kind !== 'constant') return undefined;
  const { value } = right;
  switch (op) {
    case ALU.ADD:
      return plus(left, value);
    case ALU.SUB:
      return plus(left, -value);
    case ALU.AND:
      return CUTS.has(value) ? left : undefined;
    case ALU.LSH:
      return left.shift === 0 ? { ...left, shift: Number(value) } : undefined;
    case ALU.RSH:
    case ALU.ARSH:
      return left.shift === Number(value) ? { ...left, shift: 0 } : undefined;
    default:
      return undefined;
  }
}

/** Masks that cut a counter to 8, 16 or 32 bits. */
const CUTS: ReadonlySet<bigint> = new Set([0xffn, 0xffffn, 0xffff_ffffn]);

function plus(moved: Extract<Moved, { kind: 'moved' }>, by: bigint): Moved | undefined {
  const steps = Number(by) / 2 ** moved.shift;
  if (!Number.isInteger(steps)) return undefined;
  return { ...moved, least: moved.least + steps, most: moved.most + steps };
}
