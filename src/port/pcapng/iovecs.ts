/** A list of struct iovec in this thread's memory, filled anew for each system call. Allocates nothing after it is made. */
import { addressOf } from '../../linux/libc.js';

/** IOV_MAX of Linux: what one readv or writev takes. */
const CAPACITY = 1024;
const WORDS = 4; // base u32 low, high │ length u32 low, high
const HIGH = 0x1_0000_0000;

export class Iovecs {
  /** For the system call. */
  readonly address: number;
  /** How many there are. */
  count = 0;
  /** Their bytes. */
  bytes = 0;
  readonly #words = new Uint32Array(CAPACITY * WORDS);

  constructor() {
    this.address = addressOf(this.#words);
  }

  /** Entries that may still be added. */
  get room(): number {
    return CAPACITY - this.count;
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
  }

  /** Adds `length` bytes at a process address. */
  add(address: number, length: number): void {
    const at = this.count++ * WORDS;
    const words = this.#words;
    words[at] = address >>> 0;
    words[at + 1] = Math.floor(address / HIGH);
    words[at + 2] = length;
    this.bytes += length;
  }

  /**
   * Adds the first `length` bytes of a list that lies elsewhere, its first entry at word `at` of `words`, `count` entries long. Returns
   * the bytes added, fewer when the list has fewer.
   */
  addPart(words: Uint32Array, at: number, count: number, length: number): number {
    let left = length;
    for (let i = 0; i < count && left > 0; i++, at += WORDS) {
      const size = Math.min(left, words[at + 2]!);
      const to = this.count++ * WORDS;
      this.#words[to] = words[at]!;
      this.#words[to + 1] = words[at + 1]!;
      this.#words[to + 2] = size;
      left -= size;
    }
    this.bytes += length - left;
    return length - left;
  }
}
