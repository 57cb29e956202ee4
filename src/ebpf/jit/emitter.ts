/**
 * Writes the instructions of one WebAssembly function and hands out its locals. eBPF registers become locals when they
 * are first used, so that unused ones cost nothing.
 */
import { STACK_SIZE } from '../isa.js';
import { ByteWriter } from './byte-writer.js';
import type { FaultCode } from './faults.js';
import type { ModulePlan } from './plan.js';
import type { ValueType } from './wasm-encoder.js';
import { ATOMIC_OP, OP, TYPE } from './wasm-opcodes.js';

/** A slot known now, or the number of the i32 local that will hold it. */
export type Pc = number | { readonly local: number };

export interface EmitterOptions {
  readonly params: readonly ValueType[];
  /** Local that holds the context's address, i64. */
  readonly context: number;
  /** Where the own stack frame starts: an address, or the number of the i32 local that holds it. */
  readonly frame: number | { readonly local: number };
  /** Registers that are parameters: register, local. */
  readonly registers: ReadonlyMap<number, number>;
}

export class Emitter {
  readonly plan: ModulePlan;
  code = new ByteWriter(1024);
  readonly locals: ValueType[] = [];
  readonly context: number;
  readonly frame: EmitterOptions['frame'];
  readonly #firstLocal: number;
  readonly #registers: Map<number, number>;
  readonly #named = new Map<string, number>();

  constructor(plan: ModulePlan, options: EmitterOptions) {
    this.plan = plan;
    this.context = options.context;
    this.frame = options.frame;
    this.#firstLocal = options.params.length;
    this.#registers = new Map(options.registers);
  }

  /** What was written so far; the next instruction starts anew. */
  takeCode(): Uint8Array {
    const bytes = this.code.bytes();
    this.code = new ByteWriter(64);
    return bytes;
  }

  /** Instructions without immediates. */
  op(...opcodes: readonly number[]): void {
    for (const opcode of opcodes) this.code.byte(opcode);
  }

  /** An instruction with one unsigned immediate: a local, a function, a branch depth. */
  indexed(opcode: number, index: number): void {
    this.code.byte(opcode);
    this.code.u32(index);
  }

  /** Takes unsigned values for their signed twins. */
  i32(value: number): void {
    this.code.byte(OP.i32Const);
    this.code.s32(value | 0);
  }

  i64(value: number | bigint): void {
    this.code.byte(OP.i64Const);
    if (typeof value === 'number' && value === (value | 0)) this.code.s32(value);
    else this.code.s64(BigInt(value));
  }

  get(local: number): void {
    this.indexed(OP.localGet, local);
  }

  set(local: number): void {
    this.indexed(OP.localSet, local);
  }

  tee(local: number): void {
    this.indexed(OP.localTee, local);
  }

  call(index: number): void {
    this.indexed(OP.call, index);
  }

  /** `if` without results. */
  if(): void {
    this.op(OP.if, TYPE.EMPTY);
  }

  /** An access to memory; `align` is the exponent that atomics need, 0 promises nothing. */
  access(opcode: number, offset: number, align = 0): void {
    this.code.byte(opcode);
    this.code.u32(align);
    this.code.u32(offset);
  }

  /**
   * A full memory barrier. On x86-64 any locked instruction is one, and one that adds 0 to a word of the stack takes a
   * sixth of the time of the mfence that `atomic.fence` becomes. Elsewhere only `atomic.fence` orders all accesses.
   */
  fence(): void {
    if (process.arch !== 'x64') {
      this.op(OP.atomicPrefix, ATOMIC_OP.fence, 0);
      return;
    }
    this.i32(this.plan.options.stackBase);
    this.i32(0);
    this.op(OP.atomicPrefix);
    this.access(ATOMIC_OP.i32Add, 0, 2);
    this.op(OP.drop);
  }

  /** A local of the function's own, made when its name is first used. */
  local(name: string, type: ValueType): number {
    let local = this.#named.get(name);
    if (local === undefined) {
      local = this.#firstLocal + this.locals.push(type) - 1;
      this.#named.set(name, local);
    }
    return local;
  }

  /** Whether a register has got a local. */
  usesRegister(register: number): boolean {
    return this.#registers.has(register);
  }

  usesLocal(name: string): boolean {
    return this.#named.has(name);
  }

  /** The local of r0 … r9. */
  register(register: number): number {
    let local = this.#registers.get(register);
    if (local === undefined) {
      local = this.#firstLocal + this.locals.push(TYPE.I64) - 1;
      this.#registers.set(register, local);
    }
    return local;
  }

  /** Pushes a register, r10 included, as i64. */
  pushRegister(register: number): void {
    if (register < 10) {
      this.get(this.register(register));
    } else if (typeof this.frame === 'number') {
      this.i64(this.frame + STACK_SIZE);
    } else {
      this.get(this.frame.local);
      this.op(OP.i64ExtendI32U);
      this.i64(STACK_SIZE);
      this.op(OP.i64Add);
    }
  }

  /** Pushes the low half of a register as i32. */
  pushLow(register: number): void {
    this.pushRegister(register);
    this.op(OP.i32WrapI64);
  }

  setRegister(register: number): void {
    this.set(this.register(register));
  }

  /** Pushes the start of the own stack frame as i32. */
  pushFrame(): void {
    if (typeof this.frame === 'number') this.i32(this.frame);
    else this.get(this.frame.local);
  }

  pushPc(pc: Pc): void {
    if (typeof pc === 'number') this.i32(pc);
    else this.get(pc.local);
  }

  /** Stops the program; `pushAddress` pushes an i64. What follows is never reached. */
  fault(code: FaultCode, pc: Pc, pushAddress: () => void = () => this.i64(0)): void {
    this.i32(this.plan.faultNumber(code));
    this.pushPc(pc);
    pushAddress();
    this.call(this.plan.faultFunction);
    this.op(OP.unreachable);
  }
}
