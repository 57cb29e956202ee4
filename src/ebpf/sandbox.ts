/**
 * The memory that a program may touch, and nothing else. eBPF addresses are byte offsets into one WebAssembly.Memory.
 *
 * ```
 *   0 ─── never valid
 *   context    [r1, r1 + contextSize)
 *   stack      [stackBase, stackBase + 8 · 512)    frame 0 at the top: r10 = stackBase + 8 · 512,
 *                                                  each local call one frame further down
 *   extra      regions that the host adds
 * ```
 * An access must lie in one region as a whole. The stack is one region: a callee may use a pointer into its caller's frame.
 */
import { EbpfError, EbpfFault } from './errors.js';
import type { HelperImplementations, HelperTable } from './helpers.js';
import { ATOMIC, MAX_CALL_DEPTH, STACK_SIZE } from './isa.js';

export const STACK_BYTES = STACK_SIZE * MAX_CALL_DEPTH;

export interface Region {
  readonly base: number;
  /** Bytes. */
  readonly size: number;
}

export interface Sandbox {
  readonly memory: WebAssembly.Memory;
  /** Bytes of the context that r1 points to; also the value of r2. */
  readonly contextSize: number;
  /** Address of the stack area of STACK_BYTES, a multiple of 8. */
  readonly stackBase: number;
  /** Instructions that one run may execute. */
  readonly budget: number;
  readonly helpers: HelperTable;
  readonly implementations: HelperImplementations;
  readonly extra?: readonly Region[];
}

/** Guarded access to a sandbox. Every method takes an unsigned 64-bit address and throws EbpfFault when it is not allowed. */
export class SandboxMemory {
  readonly #memory: WebAssembly.Memory;
  readonly #regions: readonly Region[];

  /** @throws EbpfError `EBPF_SANDBOX` when a region starts at 0 or does not lie in the memory */
  constructor(sandbox: Sandbox, context: number) {
    this.#memory = sandbox.memory;
    const stack = { base: sandbox.stackBase, size: STACK_BYTES };
    this.#regions = [{ base: context, size: sandbox.contextSize }, stack, ...(sandbox.extra ?? [])];
    for (const { base, size } of this.#regions) {
      if (size === 0) continue;
      if (!(base > 0 && size > 0 && base + size <= sandbox.memory.buffer.byteLength)) {
        throw new EbpfError(
          'EBPF_SANDBOX',
          `the region [${base}, ${base + size}) does not lie in the memory`,
        );
      }
    }
    if (stack.base % 8 !== 0) throw new EbpfError('EBPF_SANDBOX', 'the stack is not aligned to 8 bytes');
  }

  /** Checks that `size` bytes may be touched and gives the address as a number. */
  guard(address: bigint, size: bigint, pc: number): number {
    for (const region of this.#regions) {
      const base = BigInt(region.base);
      if (address >= base && address + size <= base + BigInt(region.size)) return Number(address);
    }
    throw new EbpfFault('EBPF_ACCESS', `access of ${size} bytes outside the program's memory`, pc, address);
  }

  /** Loads 1, 2, 4 or 8 bytes, zero-extended; no alignment is needed. */
  load(address: bigint, bytes: number, pc: number): bigint {
    const at = this.guard(address, BigInt(bytes), pc);
    const view = this.#view();
    if (bytes === 8) return view.getBigUint64(at, true);
    return BigInt(
      bytes === 4 ? view.getUint32(at, true) : bytes === 2 ? view.getUint16(at, true) : view.getUint8(at),
    );
  }

  /** Stores the low 1, 2, 4 or 8 bytes of a value; no alignment is needed. */
  store(address: bigint, bytes: number, value: bigint, pc: number): void {
    const at = this.guard(address, BigInt(bytes), pc);
    const view = this.#view();
    if (bytes === 8) view.setBigUint64(at, BigInt.asUintN(64, value), true);
    else if (bytes === 4) view.setUint32(at, Number(BigInt.asUintN(32, value)), true);
    else if (bytes === 2) view.setUint16(at, Number(BigInt.asUintN(16, value)), true);
    else view.setUint8(at, Number(BigInt.asUintN(8, value)));
  }

  /**
   * One atomic operation (a value of ATOMIC, FETCH or not) on 4 or 8 bytes; gives the old value, zero-extended.
   * @param expected what CMPXCHG compares with
   */
  atomic(
    operation: number,
    address: bigint,
    bytes: number,
    operand: bigint,
    expected: bigint,
    pc: number,
  ): bigint {
    const at = this.guard(address, BigInt(bytes), pc);
    if (at % bytes !== 0)
      throw new EbpfFault('EBPF_MISALIGNED', `misaligned atomic of ${bytes} bytes`, pc, address);
    if (bytes === 8) {
      const cell = new BigUint64Array(this.#memory.buffer, at, 1);
      return update(operation, cell, BigInt.asUintN(64, operand), BigInt.asUintN(64, expected));
    }
    const cell = new Uint32Array(this.#memory.buffer, at, 1);
    return BigInt(
      update(operation, cell, Number(BigInt.asUintN(32, operand)), Number(BigInt.asUintN(32, expected))),
    );
  }

  /** A full memory barrier: a read-modify-write that changes nothing. */
  fence(stackBase: number): void {
    Atomics.or(new Int32Array(this.#memory.buffer, stackBase, 1), 0, 0);
  }

  /** Fetched anew each time: a memory that has grown has another buffer. */
  #view(): DataView {
    return new DataView(this.#memory.buffer);
  }
}

/** What Atomics offers, seen with one type of number: that of the cell. */
interface CellAtomics<Cell, Value> {
  add(cell: Cell, index: number, value: Value): Value;
  or(cell: Cell, index: number, value: Value): Value;
  and(cell: Cell, index: number, value: Value): Value;
  xor(cell: Cell, index: number, value: Value): Value;
  exchange(cell: Cell, index: number, value: Value): Value;
  compareExchange(cell: Cell, index: number, expected: Value, value: Value): Value;
}

function update(operation: number, cell: BigUint64Array, operand: bigint, expected: bigint): bigint;
function update(operation: number, cell: Uint32Array, operand: number, expected: number): number;
function update<Cell, Value>(operation: number, cell: Cell, operand: Value, expected: Value): Value {
  const atomics = Atomics as unknown as CellAtomics<Cell, Value>;
  if (operation === ATOMIC.XCHG) return atomics.exchange(cell, 0, operand);
  if (operation === ATOMIC.CMPXCHG) return atomics.compareExchange(cell, 0, expected, operand);
  switch (operation & ~ATOMIC.FETCH) {
    case ATOMIC.ADD:
      return atomics.add(cell, 0, operand);
    case ATOMIC.OR:
      return atomics.or(cell, 0, operand);
    case ATOMIC.AND:
      return atomics.and(cell, 0, operand);
    case ATOMIC.XOR:
      return atomics.xor(cell, 0, operand);
    default:
      throw new RangeError(`no atomic operation 0x${operation.toString(16)}`);
  }
}
