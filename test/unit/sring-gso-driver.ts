/**
 * A guest's driver for sring_gso, by hand, from the layout alone, as test/link/sring-driver.ts is for sring: packets of several buffers, no offloads
 * asked for.
 *
 * ```
 *   opaque + 0, 4, 128, 132, 256, 384    as in sring
 *          + 512   descriptors of 32 bytes: cookie u64, paddr u64, len u16, flags u16 (1: end of packet), sums u32, gso u64
 * ```
 */
const HEAD = 2096;
const PROD = 0;
const CONS = 128;
const KICK_ENABLED = 132;
const QMASK = 256;
const CLEAR = 384;
const DESCRIPTORS = 512;
const DESCRIPTOR = 32;
const EOP = 1;

export interface GsoCompletion {
  readonly paddr: bigint;
  readonly length: number;
  readonly last: boolean;
}

export class SringGsoQueue {
  readonly #view: DataView;
  readonly #words: Int32Array;

  /** `memory` from byte `context` on is the queue's context. */
  constructor(memory: ArrayBufferLike, context: number, size: number) {
    this.#view = new DataView(memory, context + HEAD, size - HEAD);
    this.#words = new Int32Array(memory, context + HEAD, DESCRIPTORS / 4);
  }

  /** Descriptors that may be posted. */
  get free(): number {
    return this.#load(QMASK) + 1 - ((this.#load(PROD) - this.#load(CLEAR)) >>> 0);
  }

  /** Posts one packet. True: the device wants a kick. */
  post(pieces: readonly { readonly gpa: bigint; readonly length: number }[]): boolean {
    const prod = this.#load(PROD);
    for (const [i, { gpa, length }] of pieces.entries()) {
      const at = this.#descriptor(prod + i);
      this.#view.setBigUint64(at + 8, gpa, true);
      this.#view.setUint16(at + 16, length, true);
      this.#view.setUint16(at + 18, i === pieces.length - 1 ? EOP : 0, true);
      this.#view.setUint32(at + 20, 0, true);
      this.#view.setBigUint64(at + 24, 0n, true);
    }
    this.#store(PROD, prod + pieces.length);
    return this.#load(KICK_ENABLED) !== 0;
  }

  /** Takes the oldest completed buffer back; null: there is none. */
  take(): GsoCompletion | null {
    const clear = this.#load(CLEAR);
    if (clear === this.#load(CONS)) return null;
    const at = this.#descriptor(clear);
    const paddr = this.#view.getBigUint64(at + 8, true);
    const length = this.#view.getUint16(at + 16, true);
    const last = (this.#view.getUint16(at + 18, true) & EOP) !== 0;
    this.#store(CLEAR, clear + 1);
    return { paddr, length, last };
  }

  #descriptor(index: number): number {
    return DESCRIPTORS + (index & this.#load(QMASK)) * DESCRIPTOR;
  }

  #load(at: number): number {
    return Atomics.load(this.#words, at / 4) >>> 0;
  }

  #store(at: number, value: number): void {
    Atomics.store(this.#words, at / 4, value | 0);
  }
}
