/**
 * A block of registers, little-endian, as a table: accesses may be of any size and begin anywhere. What is read is cut from a picture of the block; what is
 * written is put into one, and every register that it meets is written as a whole.
 *
 * ```
 *   write 6 bytes at 14:   │ 12 ──── │ 16 ─ │ 18 ─ │       the first register keeps its lower half, the last one is not met
 *                               ├─ ── ── ──┤
 * ```
 * Registers follow each other in the order of their offsets, and are written in that order, each after the former one's end.
 */
export interface Register {
  readonly offset: number;
  /** Bytes. */
  readonly size: 1 | 2 | 4;
  get(): number;
  /** Without it the register can't be written. Told a value of `size` bytes. */
  set?(value: number): void | Promise<void>;
}

/** Fills `into` with the block's bytes from `offset` on; 0 where there is no register. */
export function readRegisters(registers: readonly Register[], offset: number, into: Uint8Array): void {
  into.fill(0);
  for (const register of registers) {
    if (!meets(register, offset, into.length)) continue;
    const value = register.get();
    for (let i = 0; i < register.size; i++) {
      const at = register.offset + i - offset;
      if (at >= 0 && at < into.length) into[at] = value >>> (8 * i);
    }
  }
}

/** Writes bytes from `offset` on; what falls on no register, or on one that can't be written, is lost. */
export async function writeRegisters(
  registers: readonly Register[],
  offset: number,
  bytes: Uint8Array,
): Promise<void> {
  for (const register of registers) {
    if (!register.set || !meets(register, offset, bytes.length)) continue;
    const whole = offset <= register.offset && offset + bytes.length >= register.offset + register.size;
    let value = whole ? 0 : register.get();
    for (let i = 0; i < register.size; i++) {
      const byte = bytes[register.offset + i - offset];
      if (byte !== undefined) value = (value & ~(0xff << (8 * i))) | (byte << (8 * i));
    }
    await register.set(value >>> 0);
  }
}

function meets({ offset, size }: Register, from: number, length: number): boolean {
  return offset < from + length && from < offset + size;
}
