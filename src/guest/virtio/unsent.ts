/**
 * Frames that a device has and did not complete. All of it stands in private memory: which buffers begin a frame (VDRV_LINKS), how long it is and
 * where in the ring it was offered (VDRV_SENT). So they can be offered to the next device in the same order, whatever the last one has done to the ring.
 */
import * as L from '../../../datapath/layout.js';
import type { Window } from '../../memory/window.js';
import type { DatapathExports } from '../../ring/datapath.js';
import type { VirtioQueue } from './commands.js';

/** The frames by their first buffers, the one that was offered first in front. */
export function unsentFrames(window: Window, { address, buffers }: VirtioQueue): number[] {
  const word = (at: number) => window.words[at >>> 2]!;
  const field = (offset: number) => word(address + offset);
  const [links, sent, owner] = [field(L.VDRV_LINKS), field(L.VDRV_SENT), field(L.DRIVER_OWNER)];
  const packed = (field(L.VDRV_FLAGS) & L.VIRTQ_PACKED) !== 0;
  const positions = packed ? 2 * field(L.VDRV_RING) : 0x1_0000;
  const now = field(L.VDRV_AVAIL);
  const frames: { first: number; age: number }[] = [];
  for (let first = 0; first < buffers; first++) {
    const begins = word(links + first * 4) >>> 16 !== 0;
    if (!begins || window.bytes[owner + first] !== L.OWNER_DEVICE) continue;
    const age = (now - word(sent + first * 8 + 4) + positions) % positions;
    frames.push({ first, age });
  }
  return frames.sort((a, b) => b.age - a.age).map(({ first }) => first);
}

/** Empties the ring and offers them again. No device runs. Returns how many. */
export function offerUnsent(window: Window, calls: DatapathExports, queue: VirtioQueue): number {
  const frames = unsentFrames(window, queue);
  calls.vdrv_tx_restart(queue.address);
  for (const first of frames) calls.vdrv_tx_again(queue.address, first);
  calls.vdrv_show(queue.address); // whether it is to be kicked, a device that does not run can't say
  return frames.length;
}
