/**
 * Appends the frames of a batch to a pcapng file, one writev for all of them. Runs in a worker; never throws.
 *
 * ```
 *   slot 0         frame 0    slot 1                               frame 1    slot 2
 *   │ header of 0 │ payload … │ padding, end of 0 │ header of 1 │ payload … │ padding, end of 1 │
 * ```
 * A slot is what stands between two payloads, 16 words of our own memory, used from somewhere to somewhere:
 *
 * ```
 *   word  0      1-6                       7      8          9-15
 *         0      comment: mark             0      length     header of the next frame
 *         └ pad  4: 0, pad │ 5-6: flags    └ end of options, or pad when there are none
 * ```
 * A frame that came with a stamp (batch.metadata) has that as its time, and its mark in a comment: "flow mark 0x00c0ffee".
 * A block that the disk took only in part is cut off again, so that what follows can be read. A process that is killed leaves at most one
 * unfinished block, at the end.
 */
import { fstatSync } from 'node:fs';
import { EINTR } from '../../linux/errors.js';
import { addressOf, ftruncate, writev } from '../../linux/libc.js';
import { WallClock } from '../../linux/wall-clock.js';
import type { Batch } from '../../ring/batch.js';
import { Iovecs } from './iovecs.js';
import * as L from './layout.js';

const SLOT_WORDS = 16;
const SLOT_SIZE = SLOT_WORDS * 4;
const PAD_BEFORE_COMMENT = 0; // words of a slot
const COMMENT = 1;
const PAD_BEFORE_FLAGS = 4;
const FLAGS = 5;
const PAD = 7;
const LENGTH = 8;
const HEADER = 9;
const HEADER_SIZE = L.PACKET_BYTES;
const FLAGS_SIZE = 12; // option, and end of options
const COMMENT_SIZE = 28;
const COMMENT_TEXT = new Uint32Array(new TextEncoder().encode('flow mark 0x').buffer);

const MAX_FRAMES = 128;
/** Buffers of a frame that are written; a frame of more is cut. */
const MAX_BUFFERS = 512;

/** Frames that go neither in nor out, as far as the file says. */
export const UNDIRECTED = 0;

export class PcapWriter {
  /** Calls that could not write all they were given. */
  errors = 0;
  readonly #fd: number;
  readonly #windowWords: Uint32Array;
  readonly #base: number;
  readonly #iovecs = new Iovecs();
  readonly #clock = new WallClock();
  readonly #slots = new Uint32Array((MAX_FRAMES + 1) * SLOT_WORDS);
  readonly #slotsAddress = addressOf(this.#slots);
  #broken = false;

  /** Borrows `fd`, made by `createCapture`; nobody else writes there. `window` is where batches live. */
  constructor(fd: number, window: { readonly words: Uint32Array; readonly base: number }) {
    this.#fd = fd;
    this.#windowWords = window.words;
    this.#base = window.base;
  }

  /**
   * Appends `n` frames of the batch from `first` on, all with the present time; undirected ones with their own, if they came with one. Returns how many are in the file: fewer than `n` when the disk
   * is full or fails; the file then ends behind the last of them. `direction`: INBOUND, OUTBOUND or UNDIRECTED.
   */
  capture(batch: Batch, n: number, direction: number, first = 0): number {
    if (n === 0) return 0;
    this.#clock.read();
    let done = 0;
    while (done < n && !this.#broken) {
      const gathered = this.#gather(batch, first + done, first + n, direction);
      const written = this.#write(gathered);
      done += written;
      if (written < gathered) break;
    }
    if (done < n) this.errors++;
    return done;
  }

  /** Lines up as many frames of [first, end) as one writev takes, at least one. */
  #gather(batch: Batch, first: number, end: number, direction: number): number {
    const iovecs = this.#iovecs;
    const plainSize = direction === UNDIRECTED ? 0 : FLAGS_SIZE;
    const plainPad = direction === UNDIRECTED ? PAD : PAD_BEFORE_FLAGS;
    const stamps = direction === UNDIRECTED && batch.metadata;
    iovecs.clear();
    let frames = 0;
    let from = HEADER * 4; // where the slot before the frame is used from
    for (let i = first; i < end && frames < MAX_FRAMES; i++) {
      const buffers = Math.min(batch.iovs(i) - 1, MAX_BUFFERS);
      if (iovecs.room < buffers + 2) break;
      iovecs.add(this.#slotsAddress + frames * SLOT_SIZE + from, SLOT_SIZE - from);
      const original = batch.length(i);
      const source = (batch.iovAddress(i) - this.#base) / 4 + 4; // behind the virtio-net header
      const captured = iovecs.addPart(this.#windowWords, source, buffers, Math.min(original, L.MAX_FRAME));
      const padding = L.padded(captured) - captured;
      const stamped = stamps && (batch.stampLow(i) | batch.stampHigh(i)) !== 0;
      const length = HEADER_SIZE + captured + padding + (stamped ? COMMENT_SIZE : plainSize) + 4;
      this.#begin(frames, length, captured, original);
      if (stamped) this.#stamp(frames, batch.stampHigh(i), batch.stampLow(i));
      this.#end(++frames, length, direction);
      if (stamped) this.#comment(frames, batch.mark(i));
      from = (stamped ? PAD_BEFORE_COMMENT : plainPad) * 4 + 4 - padding;
    }
    iovecs.add(this.#slotsAddress + frames * SLOT_SIZE + from, HEADER * 4 - from);
    return frames;
  }

  /** The header of a packet, in the slot before it. */
  #begin(slot: number, length: number, captured: number, original: number): void {
    const slots = this.#slots;
    const at = slot * SLOT_WORDS + HEADER;
    slots[at] = L.BLOCK_PACKET;
    slots[at + 1] = length;
    slots[at + 2] = 0; // the interface
    slots[at + 3] = this.#clock.high;
    slots[at + 4] = this.#clock.low;
    slots[at + 5] = captured;
    slots[at + 6] = original;
  }

  /** The packet's own time. */
  #stamp(slot: number, high: number, low: number): void {
    const at = slot * SLOT_WORDS + HEADER;
    this.#slots[at + 3] = high;
    this.#slots[at + 4] = low;
  }

  /** In the place of flags, in the slot behind the packet. */
  #comment(slot: number, mark: number): void {
    const at = slot * SLOT_WORDS + COMMENT;
    const slots = this.#slots;
    slots[at] = (20 << 16) | L.OPTION_COMMENT;
    slots[at + 1] = COMMENT_TEXT[0]!;
    slots[at + 2] = COMMENT_TEXT[1]!;
    slots[at + 3] = COMMENT_TEXT[2]!;
    slots[at + 4] = hexDigits(mark >>> 16);
    slots[at + 5] = hexDigits(mark & 0xffff);
  }

  /** The end of a packet, in the slot behind it. */
  #end(slot: number, length: number, direction: number): void {
    const at = slot * SLOT_WORDS;
    this.#slots[at + PAD_BEFORE_FLAGS] = 0;
    this.#slots[at + FLAGS] = (4 << 16) | L.OPTION_PACKET_FLAGS;
    this.#slots[at + FLAGS + 1] = direction;
    this.#slots[at + LENGTH] = length;
  }

  /** Writes what is lined up; returns how many of its `frames` are in the file. */
  #write(frames: number): number {
    let wrote: number;
    do wrote = writev(this.#fd, this.#iovecs.address, this.#iovecs.count);
    while (wrote === -EINTR);
    if (wrote === this.#iovecs.bytes) return frames;
    let whole = 0;
    let part = Math.max(0, wrote);
    for (; whole < frames; whole++) {
      const length = this.#slots[(whole + 1) * SLOT_WORDS + LENGTH]!;
      if (part < length) break;
      part -= length;
    }
    if (part > 0) this.#cut(part);
    return whole;
  }

  /** Takes the last `bytes` off the file. If even that fails, nothing more is written: the damage stays at the end. */
  #cut(bytes: number): void {
    try {
      this.#broken = ftruncate(this.#fd, fstatSync(this.#fd).size - bytes) < 0;
    } catch {
      this.#broken = true;
    }
  }
}

/** 16 bits as four hexadecimal digits of text, in a word. */
function hexDigits(value: number): number {
  let text = 0;
  for (let i = 0; i < 4; i++) {
    const digit = (value >>> (12 - 4 * i)) & 15;
    text |= (digit + (digit > 9 ? 87 : 48)) << (8 * i);
  }
  return text;
}
