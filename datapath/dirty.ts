/**
 * The dirty bitmap of a migration: which pages of guest memory we have written.
 *
 * ```
 *   guest physical   0      4096    8192                           a bit a page, the lowest first; whoever reads the bitmap
 *   bitmap           bit 0  bit 1   bit 2 … bit 7 │ byte 1 …       takes bits away at the same time, so ours are set atomically
 * ```
 * A page is marked after it was written, and before the guest is told. The bitmap's size is its owner's word: what lies beyond is not marked.
 */
import * as L from './layout';

const PAGE_SHIFT = 12;

/** Marks what [gpa, gpa + length) touches, if a log is kept. */
export function dirty_mark(queue: usize, gpa: u64, length: u64): void {
  const log = <usize>load<u32>(queue, L.VIRTQ_LOG);
  if (log == 0 || length == 0) return;
  const pages = (<u64>load<u32>(queue, L.VIRTQ_LOG_SIZE)) << 3;
  const end = min(((gpa + length - 1) >> PAGE_SHIFT) + 1, pages);
  for (let page = gpa >> PAGE_SHIFT; page < end; page++) {
    const bit: u32 = 1 << (<u32>page & 7);
    atomic.or<u8>(log + <usize>(page >> 3), <u8>bit);
  }
}

/** The same for an address of this process: that of a buffer, which lies in one region as a whole. */
export function dirty_mark_flat(queue: usize, flat: u64, length: u64): void {
  if (load<u32>(queue, L.VIRTQ_LOG) == 0) return;
  const table = <usize>load<u32>(queue, L.VIRTQ_LOG_REGIONS);
  const hint = <usize>load<u32>(queue, L.VIRTQ_LOG_HINT);
  // Regions are sorted by the guest's addresses, not by ours. Most of what is written lies in the one or two that are large.
  if (hint != 0 && markIn(queue, table + hint, flat, length)) return;
  let region = table + L.REGIONS_HEAD;
  const end = region + <usize>load<u32>(table, L.REGIONS_COUNT) * L.REGION_SIZE;
  for (; region != end; region += L.REGION_SIZE) {
    if (!markIn(queue, region, flat, length)) continue;
    store<u32>(queue, <u32>(region - table), L.VIRTQ_LOG_HINT);
    return;
  }
}

/** Marks it if the region has it. */
function markIn(queue: usize, region: usize, flat: u64, length: u64): bool {
  const offset = flat - load<u64>(region, L.REGION_FLAT);
  if (offset >= load<u64>(region, L.REGION_LENGTH)) return false;
  dirty_mark(queue, load<u64>(region, L.REGION_GPA) + offset, length);
  return true;
}
