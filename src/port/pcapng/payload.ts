/**
 * Carries frames from a capture file straight into a batch's buffers, wherever those are: the kernel copies, by process address.
 *
 * ```
 *   file   ── gap ──┬─ frame ─┬── gap ──┬── frame ──┬──      one readv for all of it
 *                   │         │         │           │
 *   iovecs    bin ◄─┘  batch◄─┘    bin ◄┘    batch ◄┘        what lies between frames goes into the bin
 * ```
 * Where frames are is the CaptureReader's knowledge. This is a second walk through the same file, by the descriptor's own offset, one
 * step behind: if the file changes in between, a frame has other bytes, but never a longer or shorter place.
 */
import { addressOf, read, readv } from '../../linux/libc.js';
import type { Batch } from '../../ring/batch.js';
import { Iovecs } from './iovecs.js';

const BIN = 0x1_0000;
/** Pieces of a long gap that one `approach` goes through: 4 MiB. */
const STRIDE = 64;
const MAX_FRAMES = 128;

export class PayloadReader {
  /** Offset of `fd`: all before it has been read. */
  position: number;
  /** Reading failed, or the file is shorter than it was. */
  failed = false;
  readonly #fd: number;
  readonly #words: Uint32Array;
  readonly #base: number;
  readonly #bin = new Uint8Array(BIN);
  readonly #binAddress = addressOf(this.#bin);
  readonly #iovecs = new Iovecs();
  readonly #ends = new Uint32Array(MAX_FRAMES);
  #frames = 0;

  /** Borrows `fd`, whose offset is `position`. `window` is where batches live. */
  constructor(fd: number, position: number, window: { readonly words: Uint32Array; readonly base: number }) {
    this.#fd = fd;
    this.position = position;
    this.#words = window.words;
    this.#base = window.base;
  }

  /**
   * Reads on until a frame at `target` could be added. False when it can't yet: `flush` what was added and come again, or, for a long
   * gap, just come again.
   */
  approach(target: number, buffers: number): boolean {
    if (this.#frames > 0) {
      const gap = target - this.position - this.#iovecs.bytes;
      return gap <= BIN && this.#frames < MAX_FRAMES && this.#iovecs.room > buffers;
    }
    for (let i = 0; target - this.position > BIN && i < STRIDE && !this.failed; i++) {
      const got = read(this.#fd, this.#binAddress, Math.min(BIN, target - this.position));
      if (got <= 0) this.failed = true;
      else this.position += got;
    }
    return target - this.position <= BIN;
  }

  /** Adds a frame of `length` bytes at `target` for buffers of frame `i` of the batch, which have room for it. Call `approach` first. */
  add(target: number, length: number, batch: Batch, i: number): void {
    const gap = target - this.position - this.#iovecs.bytes;
    if (gap > 0) this.#iovecs.add(this.#binAddress, gap);
    const first = (batch.iovAddress(i) - this.#base) / 4 + 4; // behind the virtio-net header
    this.#iovecs.addPart(this.#words, first, batch.iovs(i) - 1, length);
    this.#ends[this.#frames++] = this.#iovecs.bytes;
  }

  /** Reads what was added; returns how many frames are whole. Fewer than were added: `failed`. */
  flush(): number {
    const added = this.#frames;
    if (added === 0) return 0;
    const got = readv(this.#fd, this.#iovecs.address, this.#iovecs.count);
    let whole = added;
    if (got < this.#iovecs.bytes) {
      this.failed = true;
      for (whole = 0; this.#ends[whole]! <= got; ) whole++;
    }
    this.position += Math.max(0, got);
    this.#iovecs.clear();
    this.#frames = 0;
    return whole;
  }
}
