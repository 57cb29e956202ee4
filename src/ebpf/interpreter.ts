/**
 * The reference engine: one instruction at a time, registers as unsigned 64-bit BigInts, every access guarded, every
 * instruction charged to the budget. Written to be read; the JIT is what runs.
 *
 * ```
 *   r0        result of calls and of the program
 *   r1 … r5   arguments: r1 = context, r2 = its size; a call leaves them as the callee did
 *   r6 … r9   kept over local calls
 *   r10       top of the frame: [r10 - 512, r10)
 * ```
 */
import { arithmetic, branches, signExtend, swapBytes } from './alu.js';
import { EbpfFault } from './errors.js';
import { type HelperSpec, helperKey } from './helpers.js';
import {
  ALU,
  ATOMIC,
  CALL,
  CLASS,
  FRAME_POINTER,
  JMP,
  MAX_CALL_DEPTH,
  MODE,
  SIZE,
  SRC,
  STACK_SIZE,
} from './isa.js';
import { type Insn, type Program, targetOf } from './program.js';
import { type Sandbox, SandboxMemory, STACK_BYTES } from './sandbox.js';

export type { Region, Sandbox } from './sandbox.js';

/** Bytes of an access by the size bits of its opcode. */
const ACCESS_BYTES: Readonly<Record<number, number>> = {
  [SIZE.B]: 1,
  [SIZE.H]: 2,
  [SIZE.W]: 4,
  [SIZE.DW]: 8,
};

/**
 * Runs a program to its exit.
 * @param context address of the context, the value of r1
 * @returns r0, unsigned 64 bits
 * @throws EbpfFault `EBPF_ACCESS`, `EBPF_MISALIGNED`, `EBPF_BUDGET`, `EBPF_DEPTH`, `EBPF_CALL`;
 *   EbpfError `EBPF_SANDBOX`; and whatever a helper's implementation throws
 */
export function interpret(program: Program, sandbox: Sandbox, context: number): bigint {
  const machine = new Machine(sandbox, context);
  let pc = 0;
  for (let left = sandbox.budget; pc >= 0; left--) {
    if (left <= 0)
      throw new EbpfFault('EBPF_BUDGET', `the budget of ${sandbox.budget} instructions is spent`, pc);
    pc = machine.step(program.bySlot[pc]!);
  }
  return machine.result;
}

/** Where a local call continues, and what it must put back. */
interface Frame {
  readonly pc: number;
  readonly saved: readonly bigint[];
}

class Machine {
  readonly #sandbox: Sandbox;
  readonly #memory: SandboxMemory;
  readonly #context: bigint;
  readonly #r: bigint[] = new Array(11).fill(0n);
  readonly #frames: Frame[] = [];

  constructor(sandbox: Sandbox, context: number) {
    this.#sandbox = sandbox;
    this.#memory = new SandboxMemory(sandbox, context);
    this.#context = BigInt(context);
    this.#r[1] = this.#context;
    this.#r[2] = BigInt(sandbox.contextSize);
    this.#r[FRAME_POINTER] = BigInt(sandbox.stackBase + STACK_BYTES);
  }

  get result(): bigint {
    return this.#r[0]!;
  }

  /** Executes one instruction and gives the slot of the next one, -1 after the last exit. */
  step(insn: Insn): number {
    switch (insn.opcode & 7) {
      case CLASS.ALU:
        this.#alu(insn, 32);
        break;
      case CLASS.ALU64:
        this.#alu(insn, 64);
        break;
      case CLASS.JMP:
        return this.#jump(insn, 64);
      case CLASS.JMP32:
        return this.#jump(insn, 32);
      case CLASS.LD:
        this.#r[insn.dst] = insn.imm64!;
        break;
      case CLASS.LDX:
        this.#load(insn);
        break;
      default:
        this.#store(insn);
    }
    return insn.pc + insn.slots;
  }

  #alu(insn: Insn, bits: 32 | 64): void {
    const { opcode, dst, off } = insn;
    const op = opcode & 0xf0;
    const a = this.#r[dst]!;
    if (op === ALU.NEG) {
      this.#r[dst] = arithmetic(ALU.SUB, bits, 0n, a, false);
    } else if (op === ALU.END) {
      const toLittle = bits === 32 && (opcode & SRC.X) === 0; // memory is little-endian, so this one only cuts
      this.#r[dst] = toLittle ? BigInt.asUintN(insn.imm, a) : swapBytes(a, insn.imm);
    } else if (op === ALU.MOV && off !== 0) {
      this.#r[dst] = signExtend(this.#r[insn.src]!, off, bits);
    } else {
      this.#r[dst] = arithmetic(op, bits, a, this.#operand(insn), off === 1);
    }
  }

  #jump(insn: Insn, bits: 32 | 64): number {
    const next = insn.pc + 1;
    switch (insn.opcode & 0xf0) {
      case JMP.JA:
        return targetOf(insn)!;
      case JMP.EXIT:
        return this.#exit();
      case JMP.CALL:
        return this.#call(insn);
      default: {
        const taken = branches(insn.opcode & 0xf0, bits, this.#r[insn.dst]!, this.#operand(insn));
        return taken ? targetOf(insn)! : next;
      }
    }
  }

  #load({ opcode, dst, src, off, pc }: Insn): void {
    const bytes = ACCESS_BYTES[opcode & 0x18]!;
    const value = this.#memory.load(this.#address(src, off), bytes, pc);
    this.#r[dst] = (opcode & 0xe0) === MODE.MEMSX ? signExtend(value, bytes * 8, 64) : value;
  }

  #store(insn: Insn): void {
    const { opcode, dst, src, off, imm, pc } = insn;
    const bytes = ACCESS_BYTES[opcode & 0x18]!;
    const address = this.#address(dst, off);
    if ((opcode & 0xe0) !== MODE.ATOMIC) {
      this.#memory.store(address, bytes, (opcode & 7) === CLASS.ST ? BigInt(imm) : this.#r[src]!, pc);
      return;
    }
    const old = this.#memory.atomic(imm, address, bytes, this.#r[src]!, this.#r[0]!, pc);
    if (imm === ATOMIC.CMPXCHG) this.#r[0] = old;
    else if ((imm & ATOMIC.FETCH) !== 0) this.#r[src] = old;
  }

  #call(insn: Insn): number {
    const next = insn.pc + 1;
    if ((insn.opcode & SRC.X) !== 0) {
      this.#callHelper(Number(BigInt.asIntN(64, this.#r[insn.dst]!)), insn.pc);
      return next;
    }
    if (insn.src !== CALL.LOCAL) {
      this.#callHelper(helperKey(insn), insn.pc);
      return next;
    }
    if (this.#frames.length + 1 >= MAX_CALL_DEPTH) {
      throw new EbpfFault('EBPF_DEPTH', `local calls nest deeper than ${MAX_CALL_DEPTH} frames`, insn.pc);
    }
    this.#frames.push({ pc: next, saved: this.#r.slice(6, 10) });
    this.#r[FRAME_POINTER]! -= BigInt(STACK_SIZE);
    return targetOf(insn)!;
  }

  #exit(): number {
    const frame = this.#frames.pop();
    if (frame === undefined) return -1;
    for (const [index, value] of frame.saved.entries()) this.#r[6 + index] = value;
    this.#r[FRAME_POINTER]! += BigInt(STACK_SIZE);
    return frame.pc;
  }

  #callHelper(key: number, pc: number): void {
    const spec = this.#sandbox.helpers.get(key);
    if (spec === undefined) throw new EbpfFault('EBPF_CALL', `there is no helper ${key}`, pc);
    this.#checkArguments(spec, pc);
    if (spec.inline === 'fence') {
      this.#memory.fence(this.#sandbox.stackBase);
      this.#r[0] = 0n;
      return;
    }
    const implementation = this.#sandbox.implementations.get(spec.id);
    if (implementation === undefined)
      throw new EbpfFault('EBPF_CALL', `helper ${spec.name} is not implemented`, pc);
    const [, a, b, c, d, e] = this.#r as [bigint, bigint, bigint, bigint, bigint, bigint];
    this.#r[0] = BigInt.asUintN(64, implementation(a, b, c, d, e));
  }

  #checkArguments(spec: HelperSpec, pc: number): void {
    for (const [index, arg] of spec.args.entries()) {
      const value = this.#r[1 + index]!;
      if (arg.kind === 'context' && value !== this.#context) {
        throw new EbpfFault(
          'EBPF_ACCESS',
          `${spec.name} wants the context as argument ${index + 1}`,
          pc,
          value,
        );
      }
      if (arg.kind === 'memory') {
        const size = typeof arg.size === 'number' ? BigInt(arg.size) : this.#r[1 + arg.size.arg]!;
        if (size > 0n) this.#memory.guard(value, size, pc);
      }
    }
  }

  #operand({ opcode, src, imm }: Insn): bigint {
    return (opcode & SRC.X) !== 0 ? this.#r[src]! : BigInt.asUintN(64, BigInt(imm));
  }

  #address(register: number, off: number): bigint {
    return BigInt.asUintN(64, this.#r[register]! + BigInt(off));
  }
}
