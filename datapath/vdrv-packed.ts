/**
 * Packed virtqueues, driver side: how chains are made available, and how they come back. A chain's id is its first buffer.
 *
 * ```
 *   VDRV_USED              VDRV_AVAIL
 *   ─┼─[3][7 7][1]───────────┼──────────►     positions as in virtq-packed.ts
 *     └ the device's, in this order ┘         the first flags of all that is shown at once are stored last
 * ```
 */
import * as L from './layout';
import { available, distance, OWNER, offWrap, positionAfter, positionOf } from './virtq-packed';

const META = 8; // u64: length, id, flags

/** The first descriptor of those that were offered since the last `packedShow`: where it is, 0 = none, and what it will hold. */
let heldAt: usize = 0;
let held: u64 = 0;

/** The length of what `packedTake` returned. */
let length: u32 = 0;

export function packedLength(): u32 {
  return length;
}

/** Describes a buffer, or a table, by the next descriptor of the ring. */
export function packedDescribe(driver: usize, id: u32, gpa: u64, bytes: u32, flags: u32): void {
  const num = load<u32>(driver, L.VDRV_RING);
  const at = load<u32>(driver, L.VDRV_AVAIL);
  const descriptor = slotAt(driver, at, num);
  const meta = <u64>bytes | ((<u64>id) << 32) | ((<u64>(flags | available(at, num))) << 48);
  store<u64>(descriptor, gpa);
  if (heldAt == 0) {
    heldAt = descriptor;
    held = meta;
  } else store<u64>(descriptor, meta, META);
  store<u32>(driver, positionAfter(at, 1, num), L.VDRV_AVAIL);
}

/** Shows the device what was offered since that position. Returns true when it wants a kick. */
export function packedShow(driver: usize, old: u32): bool {
  const num = load<u32>(driver, L.VDRV_RING);
  const now = load<u32>(driver, L.VDRV_AVAIL);
  atomic.store<u64>(heldAt, held, META);
  heldAt = 0;
  const event = atomic.load<u32>(<usize>load<u32>(driver, L.VDRV_DEVICE));
  const flags = event >> 16;
  if (flags == L.VEVENT_DISABLE) return false;
  if (flags != L.VEVENT_DESC || (load<u32>(driver, L.VDRV_FLAGS) & L.VIRTQ_EVENT_IDX) == 0) return true;
  const wanted = positionOf(event, num);
  return wanted == num << 1 || distance(old, wanted, num) < distance(old, now, num);
}

/** The next chain that came back. Returns its id, the device's word; -1 when there is none. It is taken with `packedTaken`. */
export function packedTake(driver: usize): i64 {
  const num = load<u32>(driver, L.VDRV_RING);
  const at = load<u32>(driver, L.VDRV_USED);
  const meta = atomic.load<u64>(slotAt(driver, at, num), META);
  const used: u32 = at < num ? OWNER : 0;
  if ((<u32>(meta >> 48) & OWNER) != used || at == load<u32>(driver, L.VDRV_AVAIL)) return -1;
  length = <u32>meta;
  return <i64>(<u32>(meta >> 32) & 0xffff);
}

/** It had so many descriptors. */
export function packedTaken(driver: usize, descriptors: u32): void {
  const num = load<u32>(driver, L.VDRV_RING);
  store<u32>(driver, positionAfter(load<u32>(driver, L.VDRV_USED), descriptors, num), L.VDRV_USED);
}

/** Asks for an interrupt when `minimum` more descriptors have come back, where there is an event index, or the next chain; 0: for none. */
export function packedArm(driver: usize, minimum: u32): void {
  const num = load<u32>(driver, L.VDRV_RING);
  const eventIndex = (load<u32>(driver, L.VDRV_FLAGS) & L.VIRTQ_EVENT_IDX) != 0;
  let event: u32 = (minimum == 0 ? L.VEVENT_DISABLE : L.VEVENT_ENABLE) << 16;
  if (minimum != 0 && eventIndex) {
    const at = positionAfter(load<u32>(driver, L.VDRV_USED), min(minimum, num) - 1, num);
    event = offWrap(at, num) | (L.VEVENT_DESC << 16);
  }
  atomic.store<u32>(<usize>load<u32>(driver, L.VDRV_DRIVER), event);
}

function slotAt(driver: usize, at: u32, num: u32): usize {
  const index = at >= num ? at - num : at;
  return <usize>load<u32>(driver, L.VDRV_DESCRIPTOR) + ((<usize>index) << 4);
}
