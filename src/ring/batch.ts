/**
 * A batch as TypeScript sees it: the array of frames that rings and ports hand to each other (picture in datapath/batch.ts).
 *
 * Ports use it so:
 *   put: for each frame, hand `iovAddress(i)`, `iovs(i)` to writev, or read its payload through the window
 *   get: for each frame, readv into `iovAddress(i)`, `iovs(i) + 1` (what runs into the spill was too long), then `setLength(i, …)`
 */
import * as L from '../../datapath/layout.js';
import type { Arena } from '../memory/arena.js';
import type { Window } from '../memory/window.js';

/** Enough for a full batch of one-buffer frames with header and spill, and for one more frame of 64 buffers. */
const IOV_CAPACITY = L.MAX_BATCH * 3 + L.CTX_MAX_BUFS + 2;

/** Of the structure and of what it points to. */
const SIZES = [
  L.BATCH_SIZE,
  L.MAX_BATCH * L.FRAME_SIZE,
  IOV_CAPACITY * L.IOVEC_SIZE,
  IOV_CAPACITY * 4,
  L.MAX_BATCH * L.VNET_HEADER_STRIDE,
  L.SPILL_SIZE,
];
export const BATCH_BYTES = Math.ceil(SIZES.reduce((sum, size) => sum + size) / 64) * 64;

export class Batch {
  /** Window address of the structure. */
  readonly address: number;
  readonly #window: Window;
  readonly #words: Uint32Array;
  readonly #frames: number;

  constructor(window: Window, address: number) {
    this.#window = window;
    this.#words = window.words;
    this.address = address;
    this.#frames = this.#words[(address + L.BATCH_FRAMES) >>> 2]!;
  }

  /** A new batch; `arena.free(batch.address)` ends it. */
  static allocate(window: Window, arena: Arena): Batch {
    return Batch.place(window, arena.allocate(BATCH_BYTES));
  }

  /** A new batch in BATCH_BYTES zeroed bytes at a window address that is a multiple of 64. */
  static place(window: Window, address: number): Batch {
    const at = SIZES.map((_, i) => SIZES.slice(0, i).reduce((sum, size) => sum + size, address));
    const set = (field: number, value: number) => {
      window.words[(address + field) >>> 2] = value;
    };
    set(L.BATCH_CAPACITY, L.MAX_BATCH);
    set(L.BATCH_IOV_CAPACITY, IOV_CAPACITY);
    set(L.BATCH_FRAMES, at[1]!);
    set(L.BATCH_IOV, at[2]!);
    set(L.BATCH_WIN, at[3]!);
    set(L.BATCH_HEADERS, at[4]!);
    set(L.BATCH_SPILL, at[5]!);
    window.longs[(address + L.BATCH_BASE) / 8] = BigInt(window.base);
    return new Batch(window, address);
  }

  /** Frames in the batch. */
  get count(): number {
    return this.#words[(this.address + L.BATCH_COUNT) >>> 2]!;
  }

  /** Address in this process of the frame's iovecs: virtio-net header, buffers, and behind them, for receiving, the spill. */
  iovAddress(i: number): number {
    return this.#window.base + this.#field(i, L.FRAME_IOV);
  }

  /** Iovecs of the frame, header included, spill not. */
  iovs(i: number): number {
    return this.#field(i, L.FRAME_IOVS);
  }

  /** Bytes of the frame, header not included. */
  length(i: number): number {
    return this.#field(i, L.FRAME_LENGTH);
  }

  setLength(i: number, bytes: number): void {
    this.#words[(this.#frames + i * L.FRAME_SIZE + L.FRAME_LENGTH) >>> 2] = bytes;
  }

  /** Receive: bytes that the frame's buffers can hold. */
  room(i: number): number {
    return this.#field(i, L.FRAME_ROOM);
  }

  /** Whether its frames have a stamp and a mark, or, on the way to be filled, are to have a stamp if that is known. */
  get metadata(): boolean {
    return this.#words[(this.address + L.BATCH_METADATA) >>> 2] !== 0;
  }

  /** When the frame came, nanoseconds since 1970 in halves; both 0: not known. */
  stampLow(i: number): number {
    return this.#field(i, L.FRAME_STAMP);
  }
  stampHigh(i: number): number {
    return this.#field(i, L.FRAME_STAMP + 4);
  }

  setStamp(i: number, high: number, low: number): void {
    const at = (this.#frames + i * L.FRAME_SIZE + L.FRAME_STAMP) >>> 2;
    this.#words[at] = low;
    this.#words[at + 1] = high;
  }

  /** Which flow the frame belongs to; 0: none (datapath/metadata.ts). */
  mark(i: number): number {
    return this.#field(i, L.FRAME_MARK);
  }

  /** Whether the frame's virtio-net header asks for anything. */
  asks(i: number): boolean {
    return (this.#words[this.#field(i, L.FRAME_HEADER) >>> 2]! & 0xffff) !== 0; // flags and gso_type
  }

  /** Whether it asks to be cut into pieces. */
  asksToBeCut(i: number): boolean {
    return (this.#words[this.#field(i, L.FRAME_HEADER) >>> 2]! & 0xff00) !== 0;
  }

  #field(i: number, field: number): number {
    return this.#words[(this.#frames + i * L.FRAME_SIZE + field) >>> 2]!;
  }
}
