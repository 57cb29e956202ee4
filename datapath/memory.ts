/**
 * Guest physical addresses: the look-up that every descriptor goes through.
 *
 * A buffer is good when it is not empty and lies in one region as a whole. Written so that nothing can wrap: the address is compared with the
 * region's start first, and only differences are compared after that.
 */
import * as L from './layout';

/** The table entry that holds [gpa, gpa + length), 0 when there is none. `hint` is the address of a u32 that remembers the last hit. */
export function findRegion(table: usize, hint: usize, gpa: u64, length: u64): usize {
  const last = <usize>load<u32>(hint);
  if (last != 0 && holds(last, gpa, length)) return last;

  // Binary search for the last region that starts at or below gpa.
  let low: u32 = 0;
  let high = load<u32>(table, L.REGIONS_COUNT);
  while (low < high) {
    const middle = (low + high) >> 1;
    if (load<u64>(entry(table, middle), L.REGION_GPA) <= gpa) low = middle + 1;
    else high = middle;
  }
  if (low == 0) return 0;
  const candidate = entry(table, low - 1);
  if (!holds(candidate, gpa, length)) return 0;
  store<u32>(hint, <u32>candidate);
  return candidate;
}

/** Window address of [gpa, gpa + length), 0 when it is in no region or its region is not in the window. */
export function windowAddress(table: usize, hint: usize, gpa: u64, length: u64): usize {
  const region = findRegion(table, hint, gpa, length);
  if (region == 0) return 0;
  const window = <usize>load<u32>(region, L.REGION_WINDOW);
  return window == 0 ? 0 : window + <usize>(gpa - load<u64>(region, L.REGION_GPA));
}

/** Whether the device may write into a region. */
export function mayWrite(region: usize): bool {
  return (load<u32>(region, L.REGION_DENIED) & L.DENY_WRITE) == 0;
}

function entry(table: usize, index: u32): usize {
  return table + L.REGIONS_HEAD + <usize>index * L.REGION_SIZE;
}

function holds(region: usize, gpa: u64, length: u64): bool {
  const offset = gpa - load<u64>(region, L.REGION_GPA); // below the start: wraps to a huge number, and is refused
  const size = load<u64>(region, L.REGION_LENGTH);
  return offset < size && length != 0 && length <= size - offset;
}
