/**
 * sring_gso, device side: sring with packets of several descriptors, and a virtio-net header in the last of them.
 *
 * ```
 *                  cons                                    prod        indices run free, slot = index & (num - 1)
 *   ───────────────┼───────────────────────────────────────┼──────►
 *       completed  │ [ ][ ][EOP]  [EOP]  [ ][ ][EOP]       │  free
 *                  └─ one packet  ┘
 * ```
 * To transmit, descriptors are gathered up to EOP; one packet has 64 at most. To receive, they are collected until they hold the largest frame there
 * may be; those that the frame did not need stay posted. Where the next frame's begin is known only then, so a frame of several buffers ends a batch.
 *
 * As in sring, the number of descriptors and cons are the queue's own, and of the guest's fields each is read once.
 */
import { addBuffer, beginFrame, clear, count, endFrame, endRoom, frameAt, hasRoom } from './batch';
import * as L from './layout';
import { account, endOf, refuse } from './queue';
import {
  append,
  ask,
  at,
  DESC_GSO,
  DESC_LEN,
  DESC_PADDR,
  DESC_SIZE,
  DESCRIPTORS,
  deliver,
  EOP,
  giveBack,
} from './sring-gso-desc';

const PROD = 0; // u32, guest
const INTR = 4; // u32, guest: intr_at (tx) | intr_enabled (rx)
const CONS = 128; // u32, device
const KICK_ENABLED = 132; // u32, device
const QMASK = 256; // u32, device, never read back

/** Bytes of the opaque part. */
export function sring_gso_size(num: u32): u32 {
  return DESCRIPTORS + num * DESC_SIZE;
}

/** A new context: the opaque part as the programs expect to find it. */
export function sring_gso_init(queue: usize, receive: bool): void {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const num = load<u32>(queue, L.QUEUE_NUM);
  memory.fill(ring, 0, sring_gso_size(num));
  store<u32>(ring, num - 1, QMASK);
  store<u32>(ring, 1, KICK_ENABLED);
  store<u32>(ring, receive ? 1 : 0, INTR);
  moveTo(queue, 0);
  store<u32>(queue, L.FAULT_NONE, L.QUEUE_FAULT);
}

/** The first start, or a start after a stop in which the guest has reclaimed what it had posted: cons is what the guest left. */
export function sring_gso_resume(queue: usize): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const cons = atomic.load<u32>(ring, CONS);
  moveTo(queue, cons);
  const sane = atomic.load<u32>(ring, PROD) - cons <= load<u32>(queue, L.QUEUE_NUM);
  store<u32>(queue, sane ? L.FAULT_NONE : L.FAULT_INDEX, L.QUEUE_FAULT);
  return sane;
}

/** Descriptors that the device could use; 0 while they are known to be too few for one packet, and from a queue with a fault. */
export function sring_gso_pending(queue: usize): u32 {
  if (load<u32>(queue, L.QUEUE_FAULT) != L.FAULT_NONE) return 0;
  const prod = atomic.load<u32>(<usize>load<u32>(queue, L.QUEUE_RING), PROD);
  const pending = prod - load<u32>(queue, L.QUEUE_CONS);
  if (pending <= load<u32>(queue, L.QUEUE_NUM))
    return pending <= load<u32>(queue, L.QUEUE_SHORT) ? 0 : pending;
  store<u32>(queue, L.FAULT_INDEX, L.QUEUE_FAULT);
  refuse(queue);
  return 0;
}

/** Fills the batch with packets to transmit; begins none beyond `budget` descriptors. Returns the frames. */
export function sring_gso_tx_pop(queue: usize, batch: usize, budget: u32): u32 {
  clear(batch);
  const first = load<u32>(queue, L.QUEUE_CONS);
  const end = first + sring_gso_pending(queue);
  let index = first;
  while (index != end && index - first < budget && hasRoom(batch, 1)) {
    const next = gather(queue, batch, index, end);
    if (next == index) break;
    index = next;
  }
  store<u32>(queue, index, L.QUEUE_SEEN);
  return load<u32>(batch, L.BATCH_COUNT);
}

/** The first `n` frames of the batch have left. Returns true when the guest wants an interrupt. */
export function sring_gso_tx_complete(queue: usize, batch: usize, n: u32): bool {
  const old = load<u32>(queue, L.QUEUE_CONS);
  const cons = endOf(queue, batch, n);
  if (cons == old) return false;
  account(queue, batch, n, cons - old);
  return cons - publish(queue, cons) - 1 < cons - old;
}

/** Fills the batch with room to receive into; begins no frame beyond `budget` descriptors. Returns the frames. */
export function sring_gso_rx_room(queue: usize, batch: usize, budget: u32): u32 {
  clear(batch);
  const first = load<u32>(queue, L.QUEUE_CONS);
  const end = first + sring_gso_pending(queue);
  let index = first;
  while (index != end && index - first < budget && hasRoom(batch, 1)) {
    const next = collect(queue, batch, index, end);
    const several = next - index > 1;
    if (next == index) break;
    index = next;
    if (several) break;
  }
  store<u32>(queue, index, L.QUEUE_SEEN);
  return load<u32>(batch, L.BATCH_COUNT);
}

/** The first `n` frames of the batch have been filled, each with its length. Returns true when the guest wants an interrupt. */
export function sring_gso_rx_push(queue: usize, batch: usize, n: u32): bool {
  const old = load<u32>(queue, L.QUEUE_CONS);
  let index = old;
  let whole = true;
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const end = load<u32>(frame, L.FRAME_END);
    index = giveBack(queue, index, end - (load<u32>(frame, L.FRAME_IOVS) - 1));
    index = deliver(queue, frame, index);
    whole = index == end;
  }
  if (whole) index = giveBack(queue, index, endOf(queue, batch, n));
  if (index == old) return false;
  account(queue, batch, n, index - old);
  return publish(queue, index) != 0;
}

/** Switches the guest's kicks on or off. Returns true when descriptors are waiting all the same, so that none is missed. */
export function sring_gso_kicks(queue: usize, on: bool): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  atomic.store<u32>(ring, on ? 1 : 0, KICK_ENABLED); // sequentially consistent: the load of prod can't overtake it
  return sring_gso_pending(queue) != 0;
}

/** Gathers the packet that begins at `first` into a frame, or refuses it. Returns the index behind it, or `first` when it has to wait. */
function gather(queue: usize, batch: usize, first: u32, end: u32): u32 {
  const frame = beginFrame(batch);
  let good = true;
  let index = first;
  while (index != end) {
    if (index - first == <u32>L.CTX_MAX_BUFS) {
      refuse(queue);
      return index;
    }
    const descriptor = at(queue, index++);
    const gpa = load<u64>(descriptor, DESC_PADDR);
    const meta = load<u64>(descriptor, DESC_LEN);
    good = good && append(queue, frame, gpa, <u32>meta & 0xffff, 0xffff, false);
    if (((<u32>meta >> 16) & EOP) == 0) {
      if (good && !hasRoom(batch, index - first + 1)) return first;
      continue;
    }
    if (!good || load<u32>(frame, L.FRAME_LENGTH) > load<u32>(queue, L.QUEUE_MAX_FRAME)) refuse(queue);
    else if (!ask(queue, frame, meta, load<u64>(descriptor, DESC_GSO)))
      count(queue + L.QUEUE_STATS, L.STAT_DROPPED, 1);
    else endFrame(batch, frame, index);
    return index;
  }
  return wait(queue, first, end) ? first : giveUp(queue, end);
}

/** Collects buffers for one frame from `first` on. Returns the index behind them, or `first` when it has to wait. */
function collect(queue: usize, batch: usize, first: u32, end: u32): u32 {
  const most = load<u32>(queue, L.QUEUE_MAX_FRAME);
  const frame = beginFrame(batch);
  let index = first;
  let good = true;
  while (index != end) {
    const descriptor = at(queue, index++);
    const gpa = load<u64>(descriptor, DESC_PADDR);
    const room = most - load<u32>(frame, L.FRAME_LENGTH);
    if (!append(queue, frame, gpa, <u32>load<u16>(descriptor, DESC_LEN), room, true)) {
      if (good) refuse(queue); // one error a frame
      if (index - first == 1) return index;
      addBuffer(frame, 0, 0, 0); // a bad one in the middle keeps its place, and stays empty
      good = false;
    }
    if (load<u32>(frame, L.FRAME_LENGTH) == most || index - first == <u32>L.CTX_MAX_BUFS) break;
    if (!hasRoom(batch, index - first + 1)) return first;
    if (index == end && wait(queue, first, end)) return first;
  }
  endRoom(batch, frame, index);
  return index;
}

/** There are too few descriptors for one packet: whether more can come. */
function wait(queue: usize, first: u32, end: u32): bool {
  if (end - first == load<u32>(queue, L.QUEUE_NUM)) return false;
  if (first == load<u32>(queue, L.QUEUE_CONS)) store<u32>(queue, end - first, L.QUEUE_SHORT);
  return true;
}

/** The ring is full and has no end of packet: it will never have one. */
function giveUp(queue: usize, end: u32): u32 {
  refuse(queue);
  return end;
}

function moveTo(queue: usize, cons: u32): void {
  store<u32>(queue, cons, L.QUEUE_CONS);
  store<u32>(queue, 0, L.QUEUE_SHORT);
}

/** Shows the guest how far we are. Returns what it says about interrupts, loaded after that. */
function publish(queue: usize, cons: u32): u32 {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  moveTo(queue, cons);
  atomic.store<u32>(ring, cons, CONS);
  return atomic.load<u32>(ring, INTR);
}
