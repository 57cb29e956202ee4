/**
 * A few words that the main thread and both ends of the traffic share, since an end in the middle of its work hears no messages.
 *
 * ```
 *   words    STOP │ OVER │ ARRIVED │ CAPACITY        amounts   SENT │ RECEIVED
 * ```
 */
/** Not 0: leave off, the demo is being stopped. Set by the main thread. */
export const STOP = 0;
/** Not 0: the other end has sent all it will. Set by the main thread. */
export const OVER = 1;
/** Datagrams that have arrived, modulo 2^32, for the sender, who waits on it. Set by the receiver. */
export const ARRIVED = 2;
/** Small datagrams that the receiver's socket can hold. Set by the receiver before it is ready. */
export const CAPACITY = 3;

/** Bytes, datagrams or echo requests in this phase, for whoever shows rates. */
export const SENT = 0;
export const RECEIVED = 1;

export class Shared {
  readonly buffer: SharedArrayBuffer;
  readonly words: Int32Array;
  readonly amounts: Float64Array;

  constructor(buffer = new SharedArrayBuffer(32)) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer, 0, 4);
    this.amounts = new Float64Array(buffer, 16, 2);
  }

  /** Before a phase. */
  reset(): void {
    Atomics.store(this.words, OVER, 0);
    Atomics.store(this.words, ARRIVED, 0);
    this.amounts.fill(0);
  }

  get stopped(): boolean {
    return Atomics.load(this.words, STOP) !== 0;
  }

  get over(): boolean {
    return Atomics.load(this.words, OVER) !== 0;
  }

  raise(word: typeof STOP | typeof OVER): void {
    Atomics.store(this.words, word, 1);
    Atomics.notify(this.words, word);
  }

  /** Blocks the calling thread. */
  sleep(ms: number): void {
    Atomics.wait(this.words, STOP, 0, ms);
  }
}
