/**
 * What the device side of a ring is made of when it is written in TypeScript or JavaScript: the guest's part of a queue, the device's own, and the batch.
 *
 * ```
 *   queue   ── num, cons, fault …    the device's own memory: what is kept here, no guest can move
 *     └─► ring in guest memory       word, load: a new read each time, so read once into a local, check the local
 *   batch   ── take ──► frames       an address that the guest names becomes a buffer only here, looked up and checked
 * ```
 * All numbers are unsigned 32-bit unless said otherwise; offsets are bytes from the start of the context's opaque part, multiples of 4. Nothing
 * here allocates or throws. A ring keeps nothing in objects of its own: the main thread and the worker each have one, for the same queues.
 */
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';
import type { DatapathExports } from './datapath.js';

export class RingView {
  /** Bytes of a context before its opaque part. */
  readonly head = L.CTX_OPAQUE;
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;
  readonly #calls: DatapathExports;

  constructor(window: Window, calls: DatapathExports) {
    this.#words = window.words;
    this.#bytes = window.bytes;
    this.#calls = calls;
  }

  // ---- the device's own: authoritative

  /** Descriptors of the queue, a power of two. */
  num(queue: number): number {
    return this.#words[(queue + L.QUEUE_NUM) >>> 2]!;
  }

  /** The next descriptor to consume, by an index of the ring's own kind. */
  cons(queue: number): number {
    return this.#words[(queue + L.QUEUE_CONS) >>> 2]!;
  }
  setCons(queue: number, index: number): void {
    this.#words[(queue + L.QUEUE_CONS) >>> 2] = index;
  }

  /** The index behind the last descriptor that the present batch has looked at, bad ones included. */
  setSeen(queue: number, index: number): void {
    this.#words[(queue + L.QUEUE_SEEN) >>> 2] = index;
  }

  /** True: the guest broke the ring's rules, the queue stands still until it is set up again. */
  faulty(queue: number): boolean {
    return this.#words[(queue + L.QUEUE_FAULT) >>> 2] !== L.FAULT_NONE;
  }
  setFaulty(queue: number, faulty: boolean): void {
    this.#words[(queue + L.QUEUE_FAULT) >>> 2] = faulty ? L.FAULT_INDEX : L.FAULT_NONE;
  }

  /** Counts a descriptor that makes no sense. */
  refuse(queue: number): void {
    this.#calls.kit_refuse(queue);
  }

  /** Counts the first `n` frames of a batch, which took so many descriptors. */
  account(queue: number, batch: number, n: number, descriptors: number): void {
    this.#calls.kit_account(queue, batch, n, descriptors);
  }

  // ---- the ring, which the guest may change at any moment

  word(queue: number, offset: number): number {
    return this.#words[this.#at(queue, offset)]!;
  }
  setWord(queue: number, offset: number, value: number): void {
    this.#words[this.#at(queue, offset)] = value;
  }

  /** Sequentially consistent, as the guest's barriers need it: for indices and flags that the other side watches. */
  load(queue: number, offset: number): number {
    return Atomics.load(this.#words, this.#at(queue, offset));
  }
  store(queue: number, offset: number, value: number): void {
    Atomics.store(this.#words, this.#at(queue, offset), value);
  }

  /** Clears the first `size` bytes. */
  zero(queue: number, size: number): void {
    const start = this.#words[(queue + L.QUEUE_RING) >>> 2]!;
    this.#bytes.fill(0, start, start + size);
  }

  // ---- the batch

  clear(batch: number): void {
    this.#calls.kit_clear(batch);
  }

  /** True while one more frame of one buffer fits. */
  hasRoom(batch: number): boolean {
    return this.#calls.kit_has_room(batch, 1) !== 0;
  }

  /**
   * Appends the buffer that a descriptor names (guest physical address in halves, bytes) as a frame, or counts an error when there can be no
   * such buffer. `receive`: it waits to be filled. `end`: the ring's index behind the descriptor.
   */
  take(
    queue: number,
    batch: number,
    low: number,
    high: number,
    length: number,
    receive: boolean,
    end: number,
  ): void {
    this.#calls.kit_take(queue, batch, low, high, length, receive, end);
  }

  /** Frames in the batch. */
  count(batch: number): number {
    return this.#words[(batch + L.BATCH_COUNT) >>> 2]!;
  }

  /** Bytes of the batch's i-th frame. */
  length(batch: number, i: number): number {
    return this.#frame(batch, i, L.FRAME_LENGTH);
  }

  /** What `take` was given as `end`. */
  end(batch: number, i: number): number {
    return this.#frame(batch, i, L.FRAME_END);
  }

  /** When the frame came, nanoseconds since 1970 in halves, and which flow it belongs to. For types with `metadata`, in `push`. */
  stampLow(batch: number, i: number): number {
    return this.#frame(batch, i, L.FRAME_STAMP);
  }
  stampHigh(batch: number, i: number): number {
    return this.#frame(batch, i, L.FRAME_STAMP + 4);
  }
  mark(batch: number, i: number): number {
    return this.#frame(batch, i, L.FRAME_MARK);
  }

  /** The index behind the batch's first `n` frames, and behind bad descriptors that follow the last one. */
  endOf(queue: number, batch: number, n: number): number {
    return this.#calls.kit_end(queue, batch, n) >>> 0;
  }

  #at(queue: number, offset: number): number {
    return (this.#words[(queue + L.QUEUE_RING) >>> 2]! + offset) >>> 2;
  }

  #frame(batch: number, i: number, field: number): number {
    return this.#words[(this.#words[(batch + L.BATCH_FRAMES) >>> 2]! + i * L.FRAME_SIZE + field) >>> 2]!;
  }
}
