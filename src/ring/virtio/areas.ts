/** The three areas of guest memory that make a virtqueue: their sizes and alignments (virtio 1.2, 2.7 and 2.8). */

/** One value for each area. */
export interface Areas<T> {
  /** Descriptor table | descriptor ring. */
  readonly descriptor: T;
  /** What the driver writes: available ring | event suppression. */
  readonly driver: T;
  /** What the device writes: used ring | event suppression. */
  readonly device: T;
}

/** A size that no virtqueue can have. */
export class VirtqError extends Error {
  override readonly name = 'VirtqError';
  readonly code = 'VIRTQ_SIZE';
}

const MAX_SIZE = 32768;

/** Throws VirtqError when a ring can't have that many descriptors: 1 to 32768, powers of two where it is split. */
export function checkSize(num: number, packed: boolean): void {
  const allowed = Number.isInteger(num) && num > 0 && num <= MAX_SIZE && (packed || (num & (num - 1)) === 0);
  if (allowed) return;
  const rule = packed ? `1 to ${MAX_SIZE}` : `a power of two, at most ${MAX_SIZE}`;
  throw new VirtqError(`a ${packed ? 'packed' : 'split'} virtqueue can't have ${num} descriptors: ${rule}`);
}

/** Bytes of the areas for `num` descriptors. */
export function areaSizes(num: number, packed: boolean): Areas<number> {
  return packed
    ? { descriptor: 16 * num, driver: 4, device: 4 }
    : { descriptor: 16 * num, driver: 6 + 2 * num, device: 6 + 8 * num };
}

/** What their addresses have to be multiples of. */
export function areaAlignments(packed: boolean): Areas<number> {
  return packed ? { descriptor: 16, driver: 4, device: 4 } : { descriptor: 16, driver: 2, device: 4 };
}

/** Whether the device writes there. */
export function areaWritten(packed: boolean): Areas<boolean> {
  return { descriptor: packed, driver: false, device: true };
}
