/** How much memory a guest needs for a device's contexts and buffers. */
import { BUFFER_PAIR } from './contract.js';

const UNIT = 0x20_0000;
/** What the ends of pages, and of aligned pieces, leave unused for each pair. */
const ENDS = 0x2_0000;

export interface RamWish {
  readonly queuePairs: number;
  /** Descriptors of each queue. */
  readonly bufs: number;
  /** Bytes, where that is known. */
  readonly contextSize?: number;
  /** The most descriptors that an upgrade may bring; default: as many as there are. */
  readonly maxBufs?: number;
}

/** Bytes, whole units of 2 MiB. An upgrade has old and new queues at once, and the next one may find them where the ones before the old have left a hole. */
export function bpfhvRamSize({ queuePairs, bufs, contextSize = 0, maxBufs = bufs }: RamWish): number {
  const queues = (num: number) => {
    const context = Math.max(contextSize, 65536 + 64 * num);
    return queuePairs * (num * BUFFER_PAIR + 2 * context + ENDS);
  };
  const bytes = maxBufs > bufs ? queues(bufs) + 2 * queues(maxBufs) : 2 * queues(bufs);
  return Math.ceil(bytes / UNIT) * UNIT + UNIT;
}
