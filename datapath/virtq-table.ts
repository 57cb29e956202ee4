/**
 * Indirect tables: a descriptor with INDIRECT stands for a table of descriptors elsewhere in guest memory.
 *
 * ```
 *   [ addr len INDIRECT ] ──► [ addr len flags next ][ … ][ … ]      len / 16 of them: linked by next (split), or one behind the other (packed)
 * ```
 * One level only. A table may lie in several regions, as long as each descriptor lies in one.
 */
import * as L from './layout';
import { findRegion } from './memory';
import { addDescriptor, BAD, GOOD, missing, notInWindow } from './virtq-chain';

/** Adds the buffers of the table of `length` bytes at `gpa` to the frame that was begun. */
export function addTable(queue: usize, gpa: u64, length: u32): u32 {
  const flags = load<u32>(queue, L.VIRTQ_FLAGS);
  const size = length >> 4;
  if ((flags & L.VIRTQ_INDIRECT) == 0 || (length & 15) != 0) return BAD;
  if (size == 0 || size > <u32>L.VIRTQ_MAX_DESCRIPTORS || gpa + <u64>length < gpa) return BAD;
  const packed = (flags & L.VIRTQ_PACKED) != 0;
  let index: u32 = 0;
  for (let i: u32 = 0; i < size; i++) {
    const region = findRegion(
      <usize>load<u32>(queue, L.QUEUE_REGIONS),
      queue + L.QUEUE_HINT,
      gpa + <u64>index * L.VDESC_SIZE,
      L.VDESC_SIZE,
    );
    if (region == 0) return notInOne(queue, gpa + <u64>index * L.VDESC_SIZE);
    if ((load<u32>(region, L.REGION_DENIED) & L.DENY_READ) != 0) return BAD;
    const window = <usize>load<u32>(region, L.REGION_WINDOW);
    const offset = gpa + <u64>index * L.VDESC_SIZE - load<u64>(region, L.REGION_GPA);
    if (window == 0) return notInWindow(queue, gpa, length);
    const descriptor = window + <usize>offset;
    const buffer = load<u64>(descriptor);
    const meta = load<u64>(descriptor, 8);
    const its = packed ? <u32>(meta >> 48) : <u32>(meta >> 32) & 0xffff;
    if ((its & L.VDESC_INDIRECT) != 0) return BAD; // a table in a table
    const outcome = addDescriptor(queue, buffer, <u32>meta, its);
    if (outcome != GOOD) return outcome;
    if (packed) {
      index++;
      continue;
    }
    if ((its & L.VDESC_NEXT) == 0) return GOOD;
    index = <u32>(meta >> 48);
    if (index >= size) return BAD;
  }
  return packed ? GOOD : BAD; // BAD: it goes round
}

/** No region has all of the descriptor: what of it is in none is missing; one in two regions that are no neighbours is a mistake. */
function notInOne(queue: usize, at: u64): u32 {
  const table = <usize>load<u32>(queue, L.QUEUE_REGIONS);
  const last = at + L.VDESC_SIZE - 1;
  if (findRegion(table, queue + L.QUEUE_HINT, at, 1) == 0) return missing(queue, at, L.VDESC_SIZE, false);
  if (findRegion(table, queue + L.QUEUE_HINT, last, 1) == 0) return missing(queue, last, 1, false);
  return BAD;
}
