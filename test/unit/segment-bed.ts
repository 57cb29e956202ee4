/** Runs the datapath's segmentation on a frame, both ways: pieces copied into frames with room, and pieces referred to. */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { Bench } from '../../src/port/pcapng/testing.js';
import { OUTLET_BYTES, prepareOutlet } from '../../src/port/soften.js';
import type { Batch } from '../../src/ring/batch.js';
import { type DatapathExports, loadDatapath } from '../../src/ring/datapath.js';
import { getHeader, pieces, setHeader } from '../compliance/packets.js';
import { arena, window } from '../compliance/testbed.js';
import type { Ask } from './segment-model.js';

const NOTHING: Ask = { flags: 0, type: 0, hdrLen: 0, gsoSize: 0, start: 0, offset: 0 };

export interface CutOptions {
  /** Bytes that the large frame's buffers hold; the rest is in the spill. */
  readonly room?: number;
  /** Bytes that a piece may have. */
  readonly outRoom?: number;
}

export class SegmentBed {
  readonly calls: DatapathExports = loadDatapath(window).calls;
  readonly segments = arena.allocate(OUTLET_BYTES);
  readonly #bench = new Bench({ window, arena });
  readonly #from: Batch = this.#bench.batch();
  readonly #to: Batch = this.#bench.batch();
  readonly #space = arena.allocate(1 << 18);

  constructor() {
    prepareOutlet(window, this.segments);
  }

  close(): void {
    this.#bench.close();
    for (const address of [this.segments, this.#from.address, this.#to.address, this.#space])
      arena.free(address);
  }

  get pending(): boolean {
    return this.calls.segment_pending(this.segments) !== 0;
  }

  /** What is in the state behind a frame of `length` bytes, or of former ones, must not matter: fills it. */
  litter(length: number, byte: number): void {
    const frame = this.segments + L.SEGMENTS_FRAME;
    window.bytes.fill(byte, frame + length, frame + L.LARGE_FRAME);
    window.bytes.fill(byte, this.segments + L.SEGMENTS_TEMPLATE, frame);
  }

  /** Puts the frame into two buffers, its last bytes into the spill when they hold less, and begins to cut it. Whoever has the buffers overwrites them then. */
  begin(frame: Uint8Array, ask: Ask, room = frame.length): boolean {
    const half = room >> 1;
    const buffers = [this.#at(0, half), this.#at(half + 5, room - half)];
    this.#bench.fill(this.#from, [buffers], true);
    buffers[0]!.set(frame.subarray(0, half));
    buffers[1]!.set(frame.subarray(half, room));
    window.bytes.set(frame.subarray(room), window.words[(this.#from.address + L.BATCH_SPILL) >>> 2]!);
    this.#from.setLength(0, frame.length);
    setHeader(this.#from, 0, ask);
    const begun = this.calls.segment_begin(this.segments, this.#from.address, 0) !== 0;
    for (const buffer of buffers) buffer.fill(0xee);
    assert.equal(this.pending, begun);
    return begun;
  }

  /** All pieces, copied one by one into buffers; null: refused. Those that do not fit end it. */
  copied(frame: Uint8Array, ask: Ask, { room, outRoom = L.LARGE_FRAME }: CutOptions = {}): Buffer[] | null {
    if (!this.begin(frame, ask, room)) return null;
    const out: Buffer[] = [];
    while (this.pending) {
      const buffers = [this.#at(1 << 17, 100), this.#at((1 << 17) + 101, outRoom - 100)];
      this.#bench.fill(this.#to, [buffers], true);
      setHeader(this.#to, 0, { flags: 1, type: 1, gsoSize: 7 });
      const fitted = this.calls.segment_next(this.segments, this.#to.address, 0) !== 0;
      assert.deepEqual(getHeader(this.#to, 0), NOTHING);
      if (fitted) out.push(Buffer.concat(pieces(this.#to, 0, this.#to.length(0))));
    }
    return out;
  }

  /** All pieces, as batches that refer to them; null: refused. */
  referred(frame: Uint8Array, ask: Ask): Buffer[] | null {
    if (!this.begin(frame, ask)) return null;
    return this.#filled();
  }

  #filled(): Buffer[] {
    const batch = window.words[(this.segments + L.SEGMENTS_PIECES) >>> 2]!;
    const out: Buffer[] = [];
    for (let n = this.calls.segment_fill(this.segments); n > 0; n = this.calls.segment_fill(this.segments)) {
      assert.ok(n <= L.MAX_BATCH);
      out.push(...framesOf(batch, n));
    }
    return out;
  }

  #at(offset: number, length: number): Uint8Array {
    return window.bytes.subarray(this.#space + offset, this.#space + offset + length);
  }
}

/** The bytes of a batch's frames as the kernel would take them, by their flat addresses; their headers ask for nothing. */
function framesOf(batch: number, n: number): Buffer[] {
  const word = (address: number) => window.words[address >>> 2]!;
  return Array.from({ length: n }, (_, i) => {
    const frame = word(batch + L.BATCH_FRAMES) + i * L.FRAME_SIZE;
    const iov = word(frame + L.FRAME_IOV) / 8;
    const parts = Array.from({ length: word(frame + L.FRAME_IOVS) }, (_, b) => {
      const at = Number(window.longs[iov + 2 * b]!) - window.base;
      return Buffer.from(window.bytes.slice(at, at + Number(window.longs[iov + 2 * b + 1]!)));
    });
    assert.deepEqual([...parts.shift()!], new Array(L.VNET_HEADER_SIZE).fill(0));
    const bytes = Buffer.concat(parts);
    assert.equal(bytes.length, word(frame + L.FRAME_LENGTH));
    return bytes;
  });
}
