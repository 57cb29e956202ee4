/** A NIC's capture: every frame of its queues, with checksums as they will be on the wire, in one file that one worker writes. */
import type { Window } from '../memory/window.js';
import { PcapWriter } from '../port/pcapng/index.js';
import type { Batch } from '../ring/batch.js';
import type { DatapathExports } from '../ring/datapath.js';

export class FrameCapture {
  readonly #writer: PcapWriter;
  readonly #calls: DatapathExports;
  readonly #emit: (message: string) => void;
  #lacks = false;

  /** `emit` tells the operator, once, when frames are missing. */
  constructor(fd: number, window: Window, calls: DatapathExports, emit: (message: string) => void) {
    this.#writer = new PcapWriter(fd, window);
    this.#calls = calls;
    this.#emit = emit;
  }

  /** Writes the first `n` frames of the batch. */
  record(batch: Batch, n: number, direction: number): void {
    this.#calls.checksums_finish(batch.address, n);
    const written = this.#writer.capture(batch, n, direction);
    if (written < n && !this.#lacks) {
      this.#lacks = true; // said once, not for every batch
      this.#emit('the capture lacks frames: its disk is full or fails');
    }
    this.#calls.checksums_restore(batch.address, n);
  }
}
