/**
 * Split virtqueues, driver side: how chains are made available, and how they come back. Buffer i is always described by descriptor i, so that no
 * descriptor has to be looked for; with IN_ORDER by the next one (vdrv-order.ts).
 *
 * ```
 *   descriptors   [0] [1] [2]──►[5] [3] …          a chain: the first buffer's, linked to the next one's
 *   available     [2][0]│                          VDRV_AVAIL ──┘          used   │[2 len]…     └── VDRV_USED
 * ```
 * Nothing is read back of what the driver has written, and of what the device writes each field once.
 */
import * as L from './layout';

const FLAGS = 0; // u16
const INDEX = 2; // u16
const RING = 4;
const QUIET: u16 = 1;

/** The length of what `splitTake` returned. */
let length: u32 = 0;

export function splitLength(): u32 {
  return length;
}

/** Describes a buffer by that descriptor; `next` is the one behind it when flags have NEXT. */
export function splitDescribe(driver: usize, index: u32, gpa: u64, bytes: u32, flags: u32, next: u32): void {
  const descriptor = <usize>load<u32>(driver, L.VDRV_DESCRIPTOR) + ((<usize>index) << 4);
  store<u64>(descriptor, gpa);
  store<u64>(descriptor, <u64>bytes | ((<u64>flags) << 32) | ((<u64>next) << 48), 8);
}

/** The chain that begins with that descriptor is complete; the device sees it after `splitShow`. */
export function splitOffer(driver: usize, head: u32): void {
  const at = load<u32>(driver, L.VDRV_AVAIL);
  const slot = at & (load<u32>(driver, L.VDRV_RING) - 1);
  store<u16>(<usize>load<u32>(driver, L.VDRV_DRIVER) + ((<usize>slot) << 1), <u16>head, RING);
  store<u32>(driver, (at + 1) & 0xffff, L.VDRV_AVAIL);
}

/** Shows the device what was offered since that position. Returns true when it wants a kick. */
export function splitShow(driver: usize, old: u32): bool {
  const now = load<u32>(driver, L.VDRV_AVAIL);
  const device = <usize>load<u32>(driver, L.VDRV_DEVICE);
  atomic.store<u16>(<usize>load<u32>(driver, L.VDRV_DRIVER), <u16>now, INDEX); // what is loaded below can't overtake it
  if ((load<u32>(driver, L.VDRV_FLAGS) & L.VIRTQ_EVENT_IDX) == 0)
    return (atomic.load<u16>(device, FLAGS) & QUIET) == 0;
  const event = <u32>atomic.load<u16>(device + ((<usize>load<u32>(driver, L.VDRV_RING)) << 3), RING);
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
}

/** The next chain that came back. Returns its id, the device's word; -1 when there is none, -2 when the index makes no sense. It is taken with `splitTaken`. */
export function splitTake(driver: usize): i64 {
  const at = load<u32>(driver, L.VDRV_USED);
  const num = load<u32>(driver, L.VDRV_RING);
  const ready = splitReady(driver);
  if (ready == 0) return -1;
  if (ready > num) return -2;
  const entry = <usize>load<u32>(driver, L.VDRV_DEVICE) + ((<usize>(at & (num - 1))) << 3);
  const id = load<u32>(entry, RING);
  length = load<u32>(entry, RING + 4);
  return <i64>id;
}

export function splitTaken(driver: usize): void {
  store<u32>(driver, (load<u32>(driver, L.VDRV_USED) + 1) & 0xffff, L.VDRV_USED);
}

/** Chains that have come back and were not taken. */
export function splitReady(driver: usize): u32 {
  const index = <u32>atomic.load<u16>(<usize>load<u32>(driver, L.VDRV_DEVICE), INDEX);
  return (index - load<u32>(driver, L.VDRV_USED)) & 0xffff;
}

/** Asks for an interrupt when `minimum` more chains have come back, where there is an event index, or the next one; 0: for none. */
export function splitArm(driver: usize, minimum: u32): void {
  const area = <usize>load<u32>(driver, L.VDRV_DRIVER);
  if ((load<u32>(driver, L.VDRV_FLAGS) & L.VIRTQ_EVENT_IDX) == 0) {
    atomic.store<u16>(area, minimum == 0 ? QUIET : 0);
    return;
  }
  const event = area + ((<usize>load<u32>(driver, L.VDRV_RING)) << 1);
  atomic.store<u16>(event, <u16>(load<u32>(driver, L.VDRV_USED) + minimum - 1), RING); // 0: right behind us
}
