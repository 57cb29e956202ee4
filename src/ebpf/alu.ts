/**
 * What the arithmetic of eBPF computes, as functions on unsigned 64-bit numbers. The reference for every engine.
 *
 * 32-bit operations use the low halves of their operands and clear the high half of the result. Division by
 * zero gives 0, the remainder of it the dividend; shift counts use their low 5 or 6 bits; all else wraps.
 */
import { ALU, JMP } from './isa.js';

/**
 * Binary operation `op` (a value of ALU, other than NEG and END) in 32 or 64 bits; `signed` is for DIV and MOD.
 */
export function arithmetic(op: number, bits: 32 | 64, a: bigint, b: bigint, signed: boolean): bigint {
  const x = BigInt.asUintN(bits, a);
  const y = BigInt.asUintN(bits, b);
  const count = y & BigInt(bits - 1);
  const result = (value: bigint) => BigInt.asUintN(bits, value);
  switch (op) {
    case ALU.ADD:
      return result(x + y);
    case ALU.SUB:
      return result(x - y);
    case ALU.MUL:
      return result(x * y);
    case ALU.DIV:
      if (y === 0n) return 0n;
      return signed ? result(BigInt.asIntN(bits, x) / BigInt.asIntN(bits, y)) : x / y;
    case ALU.MOD:
      if (y === 0n) return x;
      return signed ? result(BigInt.asIntN(bits, x) % BigInt.asIntN(bits, y)) : x % y;
    case ALU.OR:
      return x | y;
    case ALU.AND:
      return x & y;
    case ALU.XOR:
      return x ^ y;
    case ALU.MOV:
      return y;
    case ALU.LSH:
      return result(x << count);
    case ALU.RSH:
      return x >> count;
    case ALU.ARSH:
      return result(BigInt.asIntN(bits, x) >> count);
    default:
      throw new RangeError(`no arithmetic operation 0x${op.toString(16)}`);
  }
}

/** The low `from` bits of a value, sign-extended to `bits` bits. */
export function signExtend(value: bigint, from: number, bits: 32 | 64): bigint {
  return BigInt.asUintN(bits, BigInt.asIntN(from, value));
}

/** The low `bits` bits of a value with their bytes reversed; the rest is cleared. */
export function swapBytes(value: bigint, bits: number): bigint {
  let swapped = 0n;
  for (let shift = 0n; shift < bits; shift += 8n) swapped = (swapped << 8n) | ((value >> shift) & 0xffn);
  return swapped;
}

/** Whether the branch `op` (a value of JMP) is taken. */
export function branches(op: number, bits: 32 | 64, a: bigint, b: bigint): boolean {
  const x = BigInt.asUintN(bits, a);
  const y = BigInt.asUintN(bits, b);
  const sx = BigInt.asIntN(bits, a);
  const sy = BigInt.asIntN(bits, b);
  switch (op) {
    case JMP.JEQ:
      return x === y;
    case JMP.JNE:
      return x !== y;
    case JMP.JSET:
      return (x & y) !== 0n;
    case JMP.JGT:
      return x > y;
    case JMP.JGE:
      return x >= y;
    case JMP.JLT:
      return x < y;
    case JMP.JLE:
      return x <= y;
    case JMP.JSGT:
      return sx > sy;
    case JMP.JSGE:
      return sx >= sy;
    case JMP.JSLT:
      return sx < sy;
    case JMP.JSLE:
      return sx <= sy;
    default:
      throw new RangeError(`no branch 0x${op.toString(16)}`);
  }
}
