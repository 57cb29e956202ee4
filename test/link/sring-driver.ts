/**
 * A guest's driver for sring, by hand, from the layout alone: no program of ours runs here, so that both halves can't be wrong together.
 *
 * ```
 *   opaque + 0     prod u32          the guest has posted so many
 *          + 4     intr_at (tx) | intr_enabled (rx) u32
 *          + 128   cons u32          the device has done so many
 *          + 132   kick_enabled u32
 *          + 256   qmask u32
 *          + 384   clear u32         the guest has taken back so many
 *          + 512   descriptors of 24 bytes: cookie u64, paddr u64, len u32, pad u32
 * ```
 */
const HEAD = 2096;
const PROD = 0;
const INTR = 4;
const CONS = 128;
const KICK_ENABLED = 132;
const QMASK = 256;
const CLEAR = 384;
const DESCRIPTORS = 512;
const DESCRIPTOR = 24;

export interface Completion {
  readonly cookie: bigint;
  readonly paddr: bigint;
  readonly length: number;
}

export class SringQueue {
  readonly #view: DataView;
  readonly #words: Int32Array;

  /** `memory` from byte `context` on is the queue's context. */
  constructor(memory: ArrayBufferLike, context: number, size: number) {
    this.#view = new DataView(memory, context + HEAD, size - HEAD);
    this.#words = new Int32Array(memory, context + HEAD, DESCRIPTORS / 4);
  }

  /** What the device has set up. */
  get setUp(): { qmask: number; kickEnabled: number; intr: number; prod: number; cons: number } {
    const [qmask, kickEnabled, intr, prod, cons] = [QMASK, KICK_ENABLED, INTR, PROD, CONS].map(at =>
      this.#load(at),
    );
    return { qmask: qmask!, kickEnabled: kickEnabled!, intr: intr!, prod: prod!, cons: cons! };
  }

  /** Posts a buffer. True: the device wants a kick. */
  post(cookie: bigint, paddr: bigint, length: number): boolean {
    const prod = this.#load(PROD);
    const at = this.#descriptor(prod);
    this.#view.setBigUint64(at, cookie, true);
    this.#view.setBigUint64(at + 8, paddr, true);
    this.#view.setUint32(at + 16, length, true);
    this.#store(PROD, prod + 1);
    return this.#load(KICK_ENABLED) !== 0;
  }

  /** Takes the oldest completed buffer back; null: there is none. */
  take(): Completion | null {
    const clear = this.#load(CLEAR);
    if (clear === this.#load(CONS)) return null;
    const at = this.#descriptor(clear);
    const cookie = this.#view.getBigUint64(at, true);
    const paddr = this.#view.getBigUint64(at + 8, true);
    const length = this.#view.getUint32(at + 16, true);
    this.#store(CLEAR, clear + 1);
    return { cookie, paddr, length };
  }

  /** Receive: interrupts on or off. */
  setInterrupts(on: boolean): void {
    this.#store(INTR, on ? 1 : 0);
  }

  /** Transmit: an interrupt when the device has done `n` more than were taken back. */
  interruptAfter(n: number): void {
    this.#store(INTR, this.#load(CLEAR) + n - 1);
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
