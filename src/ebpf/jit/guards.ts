/**
 * Bounds: which accesses are proved to stay inside the program's memory, and the guard for the others.
 *
 * ```
 *   register - context  >u  contextSize - bytes - offset      one subtraction, one comparison, seldom true
 *     if → check(address, context, bytes, pc)                 the stack and extra regions; faults when in none
 * ```
 * Guards that are confined to the context call a check that knows no other region.
 * Addresses are 64 bits wide when they are checked; what passed lies in memory, so its low 32 bits are the address.
 */
import { MAX_CALL_DEPTH, STACK_SIZE } from '../isa.js';
import type { Emitter, Pc } from './emitter.js';
import type { JitOptions } from './options.js';
import type { Provenance } from './provenance.js';
import { OP, TYPE } from './wasm-opcodes.js';

export const STACK_BYTES = STACK_SIZE * MAX_CALL_DEPTH;

/** A memory operand of an instruction. */
export interface Operand {
  readonly pc: number;
  readonly register: number;
  readonly off: number;
  readonly bytes: number;
  readonly provenance: Provenance;
}

/** What an address on the stack is relative to, and how far behind it the access starts. */
export interface Located {
  readonly base: 'context' | 'frame' | 'absolute' | 'register';
  readonly offset: number;
}

/** Where an access lies if it is proved to lie inside: an offset from the context, from the frame's start, or from 0. */
export function prove(
  provenance: Provenance,
  off: number,
  bytes: number,
  options: JitOptions,
): Located | null {
  if (provenance.offset === null) return null;
  const at = provenance.offset + off;
  switch (provenance.origin) {
    case 'context':
      return inside(at, bytes, 0, options.contextSize) ? { base: 'context', offset: at } : null;
    case 'frame':
      return inside(at, bytes, -STACK_SIZE, STACK_SIZE) ? { base: 'frame', offset: at + STACK_SIZE } : null;
    case 'number': {
      const regions = [{ base: options.stackBase, size: STACK_BYTES }, ...(options.extra ?? [])];
      const fits = regions.some(region => inside(at, bytes, region.base, region.size));
      return fits ? { base: 'absolute', offset: at } : null;
    }
    default:
      return null;
  }
}

/** Guards an access if need be and pushes an i32 address; the access starts `offset` bytes behind it. */
export function pushAddress(e: Emitter, operand: Operand): Located {
  const { options, counts } = e.plan;
  const located = prove(operand.provenance, operand.off, operand.bytes, options);
  if (located !== null) {
    counts.proved++;
    pushBase(e, located.base);
    return located;
  }
  if (options.unguarded?.has(operand.pc) === true) {
    counts.proved++;
  } else {
    counts.guards++;
    guard(e, operand);
  }
  e.pushLow(operand.register);
  if (operand.off !== 0) {
    e.i32(operand.off);
    e.op(OP.i32Add);
  }
  return { base: 'register', offset: 0 };
}

/** Calls one of the plan's checks. `pushSize` pushes an i64. */
export function emitCheck(
  e: Emitter,
  checkFunction: number,
  pushAddressWide: () => void,
  pushSize: () => void,
  pc: Pc,
): void {
  pushAddressWide();
  e.get(e.context);
  pushSize();
  e.pushPc(pc);
  e.call(checkFunction);
}

function pushBase(e: Emitter, base: Located['base']): void {
  if (base === 'context') e.get(e.local('context32', TYPE.I32));
  else if (base === 'frame') e.pushFrame();
  else e.i32(0);
}

function guard(e: Emitter, operand: Operand): void {
  const { options } = e.plan;
  const { register, off, bytes, provenance } = operand;
  const { confined = false } = options;
  // Provenance says only what to try first: a sum may look like a pointer to the stack and be one to the context.
  const stackFirst = !confined && (provenance.origin === 'stack' || provenance.origin === 'frame');
  const size = stackFirst ? STACK_BYTES : options.contextSize;
  const check = () => {
    const pushAddressWide = () => pushSum(e, register, off);
    emitCheck(e, e.plan.accessFunction, pushAddressWide, () => e.i64(bytes), operand.pc);
  };
  if (size < bytes) {
    check();
    return;
  }
  // The offset goes into the limit where that cannot make the limit negative or let an address below the region pass.
  const folded = off >= 0 && off <= size - bytes;
  pushSum(e, register, folded ? 0 : off);
  if (stackFirst) e.i64(options.stackBase);
  else e.get(e.context);
  e.op(OP.i64Sub);
  e.i64(size - bytes - (folded ? off : 0));
  e.op(OP.i64GtU);
  e.if();
  check();
  e.op(OP.end);
}

/** Pushes register + off as i64. */
function pushSum(e: Emitter, register: number, off: number): void {
  e.pushRegister(register);
  if (off === 0) return;
  e.i64(off);
  e.op(OP.i64Add);
}

function inside(at: number, bytes: number, base: number, size: number): boolean {
  return at >= base && at + bytes <= base + size;
}
