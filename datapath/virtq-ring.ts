/**
 * A virtqueue as one ring, whatever its format: where it stands, what waits, how chains are found and given back.
 *
 * ```
 *            start, virtq_base_set + virtq_resume                 virtq_base_get
 *   stopped ──────────────────────────────────────► CONS at … ──────────────────► stopped
 *                                 ▲                    │
 *                                 │  FAULT_INDEX: the guest's index is ahead by more than the ring holds
 * ```
 */
import * as L from './layout';
import { descriptorsOf, idOf } from './virtq-chain';
import {
  offWrap,
  packedAfter,
  packedAlone,
  packedKicks,
  packedPublish,
  packedReaches,
  packedUse,
  packedWaiting,
  packedWalk,
  positionOf,
} from './virtq-packed';
import { packedResume } from './virtq-packed-resume';
import {
  splitAlone,
  splitKicks,
  splitPublish,
  splitResume,
  splitUse,
  splitWaiting,
  splitWalk,
} from './virtq-split';

/** What waits for the device: chains (split) or descriptors (packed). 0 while they are known to be too few, for a miss, and from a queue with a fault. */
export function virtq_pending(queue: usize): u32 {
  const short = load<u32>(queue, L.QUEUE_SHORT);
  const waiting = isPacked(queue) ? packedWaiting(queue, 0xffff) : splitWaiting(queue);
  return waiting <= short || load<u32>(queue, L.VIRTQ_MISS_LENGTH) != 0 ? 0 : waiting;
}

/** Switches the guest's kicks on or off. Returns true when the device could go on all the same, so that none is missed. */
export function virtq_kicks(queue: usize, on: bool): bool {
  const short = load<u32>(queue, L.QUEUE_SHORT);
  const packed = isPacked(queue);
  if (packed) packedKicks(queue, on);
  else splitKicks(queue, on);
  const waiting = packed ? packedWaiting(queue, short + 1) : splitWaiting(queue);
  return waiting > short && load<u32>(queue, L.VIRTQ_MISS_LENGTH) == 0;
}

/** A new ring, all zero in guest memory: nothing was made available or given back. */
export function virtq_init(queue: usize): void {
  start(queue, 0);
}

/**
 * The ring goes on where it stood: where it says so itself, whatever `virtq_base_set` was told, unless that fits too. Returns false, with a fault, when
 * that can't be.
 */
export function virtq_resume(queue: usize): bool {
  const sane = isPacked(queue) ? packedResume(queue) : splitResume(queue);
  if (sane) start(queue, load<u32>(queue, L.QUEUE_CONS));
  else store<u32>(queue, L.FAULT_INDEX, L.QUEUE_FAULT);
  return sane;
}

/** Where the ring stands, as vhost tells it: the index (split), or twice index and wrap counter in 16 bits (packed): available low, used high. */
export function virtq_base_get(queue: usize): u32 {
  const cons = load<u32>(queue, L.QUEUE_CONS);
  if (!isPacked(queue)) return cons & 0xffff;
  const half = offWrap(cons, load<u32>(queue, L.QUEUE_NUM));
  return half | (half << 16);
}

/** Where the ring is to go on. Of a packed one without an upper half, the lower says both. Returns false when there is no such position. */
export function virtq_base_set(queue: usize, base: u32): bool {
  if (!isPacked(queue)) {
    store<u32>(queue, base & 0xffff, L.QUEUE_CONS);
    return base <= 0xffff;
  }
  const num = load<u32>(queue, L.QUEUE_NUM);
  const at = positionOf(base >> 16 == 0 ? base : base >> 16, num);
  store<u32>(queue, at, L.QUEUE_CONS);
  return at < num << 1;
}

function start(queue: usize, at: u32): void {
  store<u32>(queue, at, L.QUEUE_CONS);
  store<u32>(queue, 0, L.QUEUE_SHORT);
  store<u32>(queue, 0, L.VIRTQ_POSTED);
  store<u32>(queue, 0, L.VIRTQ_MISS_LENGTH);
  store<u32>(queue, 1, L.VIRTQ_FRESH);
  store<u32>(queue, L.FAULT_NONE, L.QUEUE_FAULT);
  virtq_kicks(queue, true);
}

/** A batch begins. Returns how many chains there may be: exactly, or more (packed: the walk says when there is none). */
export function begin(queue: usize): u32 {
  store<u32>(queue, 0, L.VIRTQ_MISS_LENGTH);
  const posted = load<u32>(queue, L.VIRTQ_POSTED);
  if (isPacked(queue)) {
    if (load<u32>(queue, L.QUEUE_FAULT) != L.FAULT_NONE) return 0;
    const probe = min(posted << 1, load<u32>(queue, L.QUEUE_NUM) - 1);
    if (probe > posted && packedReaches(queue, probe)) store<u32>(queue, probe, L.VIRTQ_POSTED);
    return L.VIRTQ_MAX_CHAINS;
  }
  const waiting = splitWaiting(queue);
  if (waiting > posted) store<u32>(queue, waiting, L.VIRTQ_POSTED);
  return min(waiting, L.VIRTQ_MAX_CHAINS);
}

export function publish(queue: usize, old: u32, now: u32): bool {
  store<u32>(queue, 0, L.QUEUE_SHORT);
  return isPacked(queue) ? packedPublish(queue, old, now) : splitPublish(queue, old, now);
}

export function isPacked(queue: usize): bool {
  return (load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_PACKED) != 0;
}

/** The usual chain at one go, if it is one. Returns its bytes of payload, or 0. */
export function alone(queue: usize, batch: usize, at: u32, end: u32): u32 {
  return isPacked(queue) ? packedAlone(queue, batch, at, end) : splitAlone(queue, batch, at, end);
}

export function walk(queue: usize, at: u32, payload: bool): u32 {
  return isPacked(queue) ? packedWalk(queue, at, payload) : splitWalk(queue, at, payload);
}

/** The position behind the batch's n-th chain, which is at `at`. */
export function after(queue: usize, at: u32, n: u32): u32 {
  return isPacked(queue) ? packedAfter(queue, at, descriptorsOf(queue, n)) : (at + 1) & 0xffff;
}

/** Gives the batch's n-th chain, which is at `at`, back; the guest sees it after `publish`. */
export function use(queue: usize, at: u32, n: u32, length: u32): void {
  if (isPacked(queue)) packedUse(queue, at, idOf(queue, n), length, descriptorsOf(queue, n));
  else splitUse(queue, at, idOf(queue, n), length);
}
