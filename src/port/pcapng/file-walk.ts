/**
 * A walk through a file of any size with 64 KiB of memory: look at what lies at the position, step on.
 *
 * ```
 *   file   ─────────────┬──── piece in memory ────┬───────────
 *                       start    position ─►      start + filled
 * ```
 * It reads by position and leaves the descriptor's own offset alone. A step costs nothing; only a look outside the piece reads.
 */
import { readSync } from 'node:fs';

/** Bytes that can be looked at in one go. */
export const PIECE = 0x1_0000;

export class FileWalk {
  /** Offset in the file. */
  position = 0;
  /** How multi-byte numbers are read. */
  littleEndian = true;
  /** Set when reading failed, and not just ended: the system's words. */
  failure = '';
  readonly #fd: number;
  readonly #piece = new Uint8Array(PIECE);
  readonly #view = new DataView(this.#piece.buffer);
  #start = 0;
  #filled = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** True when the `n` bytes (at most PIECE) at the position can be looked at. */
  has(n: number): boolean {
    const at = this.position - this.#start;
    return (at >= 0 && at + n <= this.#filled) || this.#fill(n);
  }

  /** After `has` said no: how many bytes there are before the file ends. */
  get left(): number {
    return Math.max(0, this.#start + this.#filled - this.position);
  }

  u8(offset: number): number {
    return this.#view.getUint8(this.position - this.#start + offset);
  }
  u16(offset: number): number {
    return this.#view.getUint16(this.position - this.#start + offset, this.littleEndian);
  }
  u32(offset: number): number {
    return this.#view.getUint32(this.position - this.#start + offset, this.littleEndian);
  }
  i64(offset: number): bigint {
    return this.#view.getBigInt64(this.position - this.#start + offset, this.littleEndian);
  }

  #fill(n: number): boolean {
    this.#start = this.position;
    this.#filled = 0;
    try {
      while (this.#filled < n) {
        const got = readSync(
          this.#fd,
          this.#piece,
          this.#filled,
          PIECE - this.#filled,
          this.#start + this.#filled,
        );
        if (got === 0) return false;
        this.#filled += got;
      }
    } catch (error) {
      this.failure = (error as Error).message;
      return false;
    }
    return true;
  }
}
