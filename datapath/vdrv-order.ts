/**
 * With IN_ORDER: the chains that the device has, in the order in which they were offered. It gives chains back in that order, and may name only the last
 * one of many.
 *
 * ```
 *   VDRV_ORDER   … [first, id][first, id][first, id] …        a ring of as many entries as the queue's ring has descriptors: VDRV_OUT of them are in use
 *                  └ the oldest           │          └ VDRV_OFFERED
 *                                         └ named: VDRV_BACK of them are back, all but the last filled as far as they go
 * ```
 * Chains of a split ring take descriptors that follow each other, from the table's first one on and round; their id is the first one's number.
 */
import * as L from './layout';

/** All are taken; the next one has to be named by the device. */
export function nothingBack(driver: usize): bool {
  return load<u32>(driver, L.VDRV_BACK) == 0;
}

export function isInOrder(driver: usize): bool {
  return (load<u32>(driver, L.VDRV_FLAGS) & L.VIRTQ_IN_ORDER) != 0;
}

/** The queue's ring is empty. */
export function clearOrder(driver: usize): void {
  store<u32>(driver, 0, L.VDRV_NEXT);
  store<u32>(driver, 0, L.VDRV_OFFERED);
  store<u32>(driver, 0, L.VDRV_OUT);
  store<u32>(driver, 0, L.VDRV_BACK);
}

/** The next descriptor of a split ring. */
export function nextDescriptor(driver: usize): u32 {
  return load<u32>(driver, L.VDRV_NEXT);
}

/** The one behind it is the next from now on; returns that. */
export function advanceDescriptor(driver: usize): u32 {
  const next = wrapped(driver, load<u32>(driver, L.VDRV_NEXT) + 1);
  store<u32>(driver, next, L.VDRV_NEXT);
  return next;
}

/** The descriptor that a chain began with which takes the last `count`. */
export function headDescriptor(driver: usize, count: u32): u32 {
  return wrapped(driver, load<u32>(driver, L.VDRV_NEXT) + load<u32>(driver, L.VDRV_RING) - count);
}

/** A chain was offered: its first buffer, and what the device will call it. */
export function noteOffered(driver: usize, first: u32, id: u32): void {
  const at = load<u32>(driver, L.VDRV_OFFERED);
  store<u32>(entryAt(driver, at), first | (id << 16));
  store<u32>(driver, wrapped(driver, at + 1), L.VDRV_OFFERED);
  store<u32>(driver, load<u32>(driver, L.VDRV_OUT) + 1, L.VDRV_OUT);
}

/** The device has named a chain, and wrote so many bytes into it: all up to that one are back, if there are that many. Returns how many; 0: nonsense. */
export function noteNamed(driver: usize, id: u32, length: u32, most: u32): u32 {
  const out = min(load<u32>(driver, L.VDRV_OUT), most);
  for (let n: u32 = 0; n < out; n++) {
    if (load<u32>(entryAt(driver, oldest(driver) + n)) >> 16 != id) continue;
    store<u32>(driver, n + 1, L.VDRV_BACK);
    store<u32>(driver, length, L.VDRV_BACK_LENGTH);
    return n + 1;
  }
  return 0;
}

/** The first buffer of the oldest chain, which is back, and nobody's now. */
export function takeOldest(driver: usize): u32 {
  const first = load<u32>(entryAt(driver, oldest(driver))) & 0xffff;
  store<u32>(driver, load<u32>(driver, L.VDRV_OUT) - 1, L.VDRV_OUT);
  store<u32>(driver, load<u32>(driver, L.VDRV_BACK) - 1, L.VDRV_BACK);
  return first;
}

/** Bytes in the chain that was taken last: those that the device told, or, before the one that it named, all that there is room for. */
export function lengthOfTaken(driver: usize): u32 {
  if (nothingBack(driver)) return load<u32>(driver, L.VDRV_BACK_LENGTH);
  return load<u32>(driver, L.VDRV_HEADER) + load<u32>(driver, L.DRIVER_ROOM);
}

function oldest(driver: usize): u32 {
  const ring = load<u32>(driver, L.VDRV_RING);
  return wrapped(driver, load<u32>(driver, L.VDRV_OFFERED) + ring - load<u32>(driver, L.VDRV_OUT));
}

function entryAt(driver: usize, at: u32): usize {
  return <usize>load<u32>(driver, L.VDRV_ORDER) + ((<usize>wrapped(driver, at)) << 2);
}

function wrapped(driver: usize, at: u32): u32 {
  const ring = load<u32>(driver, L.VDRV_RING);
  return at >= ring ? at - ring : at;
}
