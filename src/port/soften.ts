/**
 * Softening: what happens to a frame that asks for more than who gets it has agreed to. Its checksum is finished, and it is cut into the frames
 * that would be on the wire, in software. Ports share it: an inlet is for what comes in by `get`, an outlet for what goes out by `put`.
 *
 * ```
 *   get:  outside ──► batch ─ asks for too much? ─► Inlet.take ──► the same batch, frame by frame; what it has no room for waits for
 *                                                                  the next call: Inlet.rest
 *   put:  batch ─ asks for too much? ─► Outlet.begin, then Outlet.fill until nothing is left ──► outlet.pieces ──► outside
 * ```
 * A port calls these only for frames that ask for something; the others pass at their former price. Neither allocates once it is made.
 * Each lane has its own: their state is part of the lane's, prepared by the main thread.
 */
import { randomBytes } from 'node:crypto';
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';
import { BATCH_BYTES, Batch } from '../ring/batch.js';
import type { DatapathExports } from '../ring/datapath.js';
import { add } from './counters.js';
import type { PortWorker } from './port.js';

/** Bytes of an inlet's state and of an outlet's, in the port's own, at a multiple of 64. */
export const INLET_BYTES = L.SEGMENTS_BYTES;
export const OUTLET_BYTES = L.SEGMENTS_BYTES + BATCH_BYTES;

/** Makes zeroed memory an inlet's state. */
export function prepareInlet(window: Window, address: number): void {
  window.bytes.set(randomBytes(8), address + L.SEGMENTS_KEY);
}

/** Makes zeroed memory an outlet's state. */
export function prepareOutlet(window: Window, address: number): void {
  prepareInlet(window, address);
  const pieces = Batch.place(window, address + L.SEGMENTS_BYTES);
  window.words[(address + L.SEGMENTS_PIECES) >>> 2] = pieces.address;
}

/** For frames on their way from a port into a batch. Counts in the port's state what it finishes or cuts, and what it has to drop. */
export class Inlet {
  readonly #worker: PortWorker;
  readonly #calls: DatapathExports;
  readonly #segments: number;
  readonly #state: number;

  /** @param state the port's */
  constructor(worker: PortWorker, segments: number, state: number) {
    this.#worker = worker;
    this.#calls = worker.calls;
    this.#segments = segments;
    this.#state = state;
  }

  /**
   * Softens frame `i` of the batch, whose length is set and whose end lies in the spill when it was longer than its room, for who has agreed to
   * `offloads`. Returns the index of the next frame to fill: behind what became of this one.
   */
  take(batch: Batch, i: number, offloads: number): number {
    const fits = batch.length(i) <= batch.room(i);
    if (fits && !batch.asks(i)) return i + 1;
    if (fits) {
      const bearable = this.#calls.offload_undo(batch.address, i, offloads) !== 0;
      if (bearable && !batch.asks(i)) this.#count(L.PORT_SOFTENED);
      if (bearable) return i + 1;
    }
    if (!batch.asks(i) || this.#calls.segment_begin(this.#segments, batch.address, i) === 0) {
      this.#count(fits ? L.PORT_DROPPED : L.PORT_TOO_LONG);
      return i;
    }
    this.#count(L.PORT_SOFTENED);
    return this.rest(batch, i);
  }

  /** Pieces of the frame that is being cut, into the batch from its frame `i` on. Returns the index behind them. */
  rest(batch: Batch, i: number): number {
    while (i < batch.count && this.#calls.segment_pending(this.#segments) !== 0) {
      if (this.#calls.segment_next(this.#segments, batch.address, i) !== 0) i++;
      else this.#count(L.PORT_TOO_LONG);
    }
    return i;
  }

  #count(field: number): void {
    add(this.#worker.window, this.#state, field, 1);
  }
}

/** For frames on their way out of a batch. The batch stays as it is. */
export class Outlet {
  /** What `fill` has filled: frames that ask for nothing. */
  readonly pieces: Batch;
  readonly #calls: DatapathExports;
  readonly #segments: number;

  constructor({ window, calls }: PortWorker, segments: number) {
    this.#calls = calls;
    this.#segments = segments;
    this.pieces = new Batch(window, window.words[(segments + L.SEGMENTS_PIECES) >>> 2]!);
  }

  /** Takes frame `i` of the batch, which asks for something. False when that makes no sense, would be too many pieces, or is out of reach. */
  begin(batch: Batch, i: number): boolean {
    return this.#calls.segment_begin(this.#segments, batch.address, i) !== 0;
  }

  /** Puts the next pieces of that frame into `pieces`. Returns how many; 0: that was all. */
  fill(): number {
    return this.#calls.segment_fill(this.#segments);
  }
}
