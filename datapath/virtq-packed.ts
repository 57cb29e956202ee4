/**
 * Packed virtqueues, device side: where chains are found, and how they are given back.
 *
 * ```
 *   position   0              num            2 num ≙ 0      index = position mod num, wrap counter 1 | 0
 *              |-- counter 1 --|-- counter 0 --|
 *
 *   descriptor area   [ addr len id flags ] …     a chain takes slots that follow each other; the last one has its id
 *   AVAIL, USED       1 0 | 0 1 available from CONS on;  1 1 | 0 0 used: written over the chain's first slot, marked in the others
 *   driver area       event: when the driver wants an interrupt      device area       event: when we want a kick
 * ```
 * Each side hands over by storing flags, the first slot's last. An event is a position, "always" or "never". The number of descriptors is any.
 *
 * Drivers look at a used chain's first slot only. All are marked, the last one first, and IN_ORDER's single entry for many chains is not used, so that
 * the ring tells where it stands (virtq-packed-resume.ts).
 */
import { dirty_mark } from './dirty';
import * as L from './layout';
import { addAlone, addDescriptor, BAD, endChain, FULL, GOOD, identify, MISSING, NONE } from './virtq-chain';
import { addTable } from './virtq-table';

export const META = 8; // u64: length, id, flags
const FLAGS = 14;
const KIND: u32 = L.VDESC_NEXT | L.VDESC_WRITE | L.VDESC_INDIRECT;
export const OWNER: u32 = L.VDESC_AVAIL | L.VDESC_USED;

/** What the first slot of those that are given back will hold: written by `packedPublish`. */
let firstUsed: u64 = 0;

/** Descriptors that wait: as many as have been made available, counted up to `most`; 0 from a queue with a fault. */
export function packedWaiting(queue: usize, most: u32): u32 {
  if (load<u32>(queue, L.QUEUE_FAULT) != L.FAULT_NONE) return 0;
  const num = load<u32>(queue, L.QUEUE_NUM);
  let at = load<u32>(queue, L.QUEUE_CONS);
  let n: u32 = 0;
  while (n < min(num, most) && isAvailable(queue, at, num)) {
    at = packedAfter(queue, at, 1);
    n++;
  }
  return n;
}

/** Whether the descriptor that many beyond the next one, fewer than the ring has, was made available. */
export function packedReaches(queue: usize, beyond: u32): bool {
  const num = load<u32>(queue, L.QUEUE_NUM);
  return isAvailable(queue, packedAfter(queue, load<u32>(queue, L.QUEUE_CONS), beyond), num);
}

/** The position so many descriptors, at most as many as the ring has, behind that one. */
export function packedAfter(queue: usize, at: u32, count: u32): u32 {
  return positionAfter(at, count, load<u32>(queue, L.QUEUE_NUM));
}

export function positionAfter(at: u32, count: u32, num: u32): u32 {
  const next = at + count;
  return next >= num << 1 ? next - (num << 1) : next;
}

/** Adds the chain at a position as a frame, `end` behind it, if there is one, and a usual one. Returns its bytes of payload, or 0. */
export function packedAlone(queue: usize, batch: usize, at: u32, end: u32): u32 {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const descriptor = slotAt(queue, at, num);
  const meta = atomic.load<u64>(descriptor, META);
  const flags = <u32>(meta >> 48);
  if ((flags & OWNER) != available(at, num)) return 0;
  identify(<u32>(meta >> 32) & 0xffff, 1);
  return addAlone(queue, batch, load<u64>(descriptor), <u32>meta, flags & KIND, end);
}

/** Adds the chain at a position, if there is one, to the frame that was begun. `payload`: it has to hold some. */
export function packedWalk(queue: usize, at: u32, payload: bool): u32 {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  let index = at >= num ? at - num : at;
  let descriptor = ring + ((<usize>index) << 4);
  let meta = atomic.load<u64>(descriptor, META); // everything else of the chain was written before
  if ((<u32>(meta >> 48) & OWNER) != available(at, num)) return NONE;
  let outcome: u32 = GOOD;
  let count: u32 = 0;
  while (true) {
    count++;
    const flags = <u32>(meta >> 48);
    const last = (flags & L.VDESC_NEXT) == 0;
    if (outcome == GOOD) {
      const gpa = load<u64>(descriptor);
      if ((flags & L.VDESC_INDIRECT) == 0) outcome = addDescriptor(queue, gpa, <u32>meta, flags);
      else outcome = last && count == 1 ? addTable(queue, gpa, <u32>meta) : BAD;
    }
    identify(<u32>(meta >> 32) & 0xffff, count);
    if (last) return outcome == GOOD ? endChain(payload) : outcome;
    if (outcome == MISSING || outcome == FULL) return outcome; // it stays: where it ends need not be known
    if (count == num) return BAD;
    index = index + 1 == num ? 0 : index + 1;
    descriptor = ring + ((<usize>index) << 4);
    meta = load<u64>(descriptor, META);
  }
}

/** Gives the chain at a position back, of so many descriptors; the driver sees it, and all behind the first one, after `packedPublish`. */
export function packedUse(queue: usize, at: u32, id: u32, length: u32, descriptors: u32): void {
  const num = load<u32>(queue, L.QUEUE_NUM);
  for (let i = descriptors - 1; i != 0; i--) {
    const behind = positionAfter(at, i, num);
    const descriptor = slotAt(queue, behind, num);
    store<u16>(descriptor, <u16>((<u32>load<u16>(descriptor, FLAGS) & ~OWNER) | used(behind, num)), FLAGS);
  }
  const flags = used(at, num) | (length != 0 ? L.VDESC_WRITE : 0);
  const meta = <u64>length | ((<u64>id) << 32) | ((<u64>flags) << 48);
  if (at == load<u32>(queue, L.QUEUE_CONS)) firstUsed = meta;
  else store<u64>(slotAt(queue, at, num), meta, META);
}

/** Hands over what was given back between two positions. Returns true when the driver wants an interrupt. */
export function packedPublish(queue: usize, old: u32, now: u32): bool {
  const num = load<u32>(queue, L.QUEUE_NUM);
  store<u32>(queue, now, L.QUEUE_CONS);
  atomic.store<u64>(slotAt(queue, old, num), firstUsed, META);
  if (load<u32>(queue, L.VIRTQ_LOG) != 0) logUsed(queue, old, now, num);

  const event = atomic.load<u32>(<usize>load<u32>(queue, L.VIRTQ_DRIVER));
  const flags = event >> 16;
  const fresh = load<u32>(queue, L.VIRTQ_FRESH) != 0;
  store<u32>(queue, 0, L.VIRTQ_FRESH);
  if (flags == L.VEVENT_DISABLE) return false;
  const eventIndex = (load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_EVENT_IDX) != 0;
  if (flags != L.VEVENT_DESC || !eventIndex || fresh) return true;
  const index = event & 0x7fff;
  const wanted = (event & 0x8000) != 0 ? index : index + num;
  return index >= num || distance(old, wanted, num) < distance(old, now, num);
}

/** Switches kicks on, from the first descriptor that is not known yet, or off. The caller looks at what waits after that. */
export function packedKicks(queue: usize, on: bool): void {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const eventIndex = (load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_EVENT_IDX) != 0;
  let event: u32 = on ? L.VEVENT_ENABLE : L.VEVENT_DISABLE;
  if (on && eventIndex) {
    const at = packedAfter(queue, load<u32>(queue, L.QUEUE_CONS), load<u32>(queue, L.QUEUE_SHORT));
    event = offWrap(at, num) | (L.VEVENT_DESC << 16);
  } else event <<= 16;
  atomic.store<u32>(<usize>load<u32>(queue, L.VIRTQ_DEVICE), event);
  dirty_mark(queue, load<u64>(queue, L.VIRTQ_LOG_EVENT), 4);
}

/** A position as index and wrap counter in 16 bits, and back; the latter is at least 2 num when there is no such index. */
export function offWrap(at: u32, num: u32): u32 {
  return at < num ? at | 0x8000 : at - num;
}

export function positionOf(offWrap: u32, num: u32): u32 {
  const index = offWrap & 0x7fff;
  if (index >= num) return num << 1;
  return (offWrap & 0x8000) != 0 ? index : index + num;
}

/** Steps from one position to another. */
export function distance(from: u32, to: u32, num: u32): u32 {
  return to >= from ? to - from : to + (num << 1) - from;
}

/** AVAIL and USED of a descriptor that was made available at this position. */
export function available(at: u32, num: u32): u32 {
  return at < num ? L.VDESC_AVAIL : L.VDESC_USED;
}

/** … that was given back there. */
export function used(at: u32, num: u32): u32 {
  return at < num ? OWNER : 0;
}

function isAvailable(queue: usize, at: u32, num: u32): bool {
  return (<u32>(atomic.load<u64>(slotAt(queue, at, num), META) >> 48) & OWNER) == available(at, num);
}

export function slotAt(queue: usize, at: u32, num: u32): usize {
  const index = at >= num ? at - num : at;
  return <usize>load<u32>(queue, L.QUEUE_RING) + ((<usize>index) << 4);
}

/** Marks the slots between two positions as dirty: two runs at most. */
function logUsed(queue: usize, old: u32, now: u32, num: u32): void {
  const ring = load<u64>(queue, L.VIRTQ_LOG_RING);
  const first = old >= num ? old - num : old;
  const count = distance(old, now, num);
  const run = min(count, num - first);
  dirty_mark(queue, ring + <u64>first * L.VDESC_SIZE, <u64>run * L.VDESC_SIZE);
  dirty_mark(queue, ring, <u64>(count - run) * L.VDESC_SIZE);
}
