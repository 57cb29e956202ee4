/**
 * Frames of guests that are larger than the window: before a port reads or writes their payload there, it has to be there.
 *
 * ```
 *   batch   frame 0 ✓   frame 1 ✓   frame 2 ✗   frame 3      the port gets 0 and 1; what 2 and 3 lack is told, once for the whole batch
 * ```
 * Ports that only hand addresses to the kernel need nothing of it.
 */
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';
import type { Batch } from '../ring/batch.js';
import type { Lack } from './commands.js';

/** Kinds of port that pass buffers on by their addresses in this process. */
const BY_ADDRESS: ReadonlySet<string> = new Set(['tap']);

/** Whether that kind of port touches payload. */
export function touches(kind: string): boolean {
  return !BY_ADDRESS.has(kind);
}

/** How many frames at the front of the batch are in the window as a whole. */
export function reachable({ words }: Window, batch: Batch, frames: number): number {
  for (let i = 0; i < frames; i++) {
    const win = frameField(words, batch, i, L.FRAME_WIN) >>> 2;
    const buffers = batch.iovs(i) - 1;
    for (let b = 0; b < buffers; b++) if (words[win + b] === 0) return i;
  }
  return frames;
}

/** The buffers of the batch that are not in the window. */
export function lacking({ words, longs }: Window, batch: Batch, frames: number): Lack[] {
  const lacks: Lack[] = [];
  for (let i = 0; i < frames; i++) {
    const win = frameField(words, batch, i, L.FRAME_WIN) >>> 2;
    const iov = frameField(words, batch, i, L.FRAME_IOV) + L.IOVEC_SIZE;
    for (let b = 0; b < batch.iovs(i) - 1; b++) {
      if (words[win + b] !== 0) continue;
      const at = iov + b * L.IOVEC_SIZE;
      lacks.push([longs[(at + L.IOVEC_BASE) / 8]!, Number(longs[(at + L.IOVEC_LENGTH) / 8]!)]);
    }
  }
  return lacks;
}

/** The batch has only so many frames, for a port that must not see the others; returns how many it had. */
export function cutTo({ words }: Window, batch: Batch, frames: number): number {
  const { count } = batch;
  words[(batch.address + L.BATCH_COUNT) >>> 2] = frames;
  return count;
}

function frameField(words: Uint32Array, batch: Batch, i: number, field: number): number {
  const frames = words[(batch.address + L.BATCH_FRAMES) >>> 2]!;
  return words[(frames + i * L.FRAME_SIZE + field) >>> 2]!;
}
