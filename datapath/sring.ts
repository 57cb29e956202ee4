/**
 * sring, device side: the simplest ring there is. One buffer per packet, no offloads.
 *
 * ```
 *                     clear        cons           prod            indices run free, slot = index & (num - 1)
 *   ──────────────────┼────────────┼──────────────┼──────────►
 *      taken back     │ completed, │  posted, the │  free
 *      by the guest   │ guest may  │  device may  │
 *                     │ take back  │  use         │
 * ```
 * The guest stores prod and clear, the device cons. The mask, the number of descriptors and cons are kept in the queue, out of the guest's
 * reach; of the guest's fields only prod, intr_at | intr_enabled and the descriptors are read, each once.
 */
import { clear, frameAt, hasRoom } from './batch';
import * as L from './layout';
import { account, endOf, refuse, take } from './queue';

const PROD = 0; // u32, guest
const INTR = 4; // u32, guest: intr_at (tx) | intr_enabled (rx)
const CONS = 128; // u32, device
const KICK_ENABLED = 132; // u32, device
const QMASK = 256; // u32, device, never read back
const DESCRIPTORS = 512;
const DESC_PADDR = 8; // u64
const DESC_LEN = 16; // u32
const DESC_SIZE = 24;

/** Bytes of the opaque part. */
export function sring_size(num: u32): u32 {
  return DESCRIPTORS + num * DESC_SIZE;
}

/** A new context: the opaque part as the programs expect to find it. */
export function sring_init(queue: usize, receive: bool): void {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const num = load<u32>(queue, L.QUEUE_NUM);
  memory.fill(ring, 0, sring_size(num));
  store<u32>(ring, num - 1, QMASK);
  store<u32>(ring, 1, KICK_ENABLED);
  store<u32>(ring, receive ? 1 : 0, INTR);
  store<u32>(queue, 0, L.QUEUE_CONS);
  store<u32>(queue, L.FAULT_NONE, L.QUEUE_FAULT);
}

/** The first start, or a start after a stop in which the guest has reclaimed what it had posted: cons is what the guest left. */
export function sring_resume(queue: usize): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const cons = atomic.load<u32>(ring, CONS);
  store<u32>(queue, cons, L.QUEUE_CONS);
  const sane = atomic.load<u32>(ring, PROD) - cons <= load<u32>(queue, L.QUEUE_NUM);
  store<u32>(queue, sane ? L.FAULT_NONE : L.FAULT_INDEX, L.QUEUE_FAULT);
  return sane;
}

/** Descriptors that the guest has posted and the device has not used; 0 from a queue with a fault. */
export function sring_pending(queue: usize): u32 {
  if (load<u32>(queue, L.QUEUE_FAULT) != L.FAULT_NONE) return 0;
  const prod = atomic.load<u32>(<usize>load<u32>(queue, L.QUEUE_RING), PROD);
  const pending = prod - load<u32>(queue, L.QUEUE_CONS);
  if (pending <= load<u32>(queue, L.QUEUE_NUM)) return pending;
  store<u32>(queue, L.FAULT_INDEX, L.QUEUE_FAULT);
  refuse(queue);
  return 0;
}

/** Fills the batch with packets to transmit; looks at `budget` descriptors at most, bad ones included. Returns the frames. */
export function sring_tx_pop(queue: usize, batch: usize, budget: u32): u32 {
  return gather(queue, batch, budget, false);
}

/** Fills the batch with buffers to receive into. Returns the frames. */
export function sring_rx_room(queue: usize, batch: usize, budget: u32): u32 {
  return gather(queue, batch, budget, true);
}

/** The first `n` frames of the batch have left. Returns true when the guest wants an interrupt. */
export function sring_tx_complete(queue: usize, batch: usize, n: u32): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const old = load<u32>(queue, L.QUEUE_CONS);
  const cons = endOf(queue, batch, n);
  if (cons == old) return false;
  account(queue, batch, n, cons - old);

  store<u32>(queue, cons, L.QUEUE_CONS);
  atomic.store<u32>(ring, cons, CONS);
  const intrAt = atomic.load<u32>(ring, INTR);
  return cons - intrAt - 1 < cons - old;
}

/** The first `n` frames of the batch have been filled, each with its length. Returns true when the guest wants an interrupt. */
export function sring_rx_push(queue: usize, batch: usize, n: u32): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const mask = load<u32>(queue, L.QUEUE_NUM) - 1;
  const old = load<u32>(queue, L.QUEUE_CONS);
  let slot = old;
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const own = load<u32>(frame, L.FRAME_END) - 1;
    while (slot != own) setLength(ring, slot++ & mask, 0); // a bad buffer goes back empty
    setLength(ring, slot++ & mask, load<u32>(frame, L.FRAME_LENGTH));
  }
  const cons = endOf(queue, batch, n);
  while (slot != cons) setLength(ring, slot++ & mask, 0);
  if (cons == old) return false;
  account(queue, batch, n, cons - old);

  store<u32>(queue, cons, L.QUEUE_CONS);
  atomic.store<u32>(ring, cons, CONS);
  return atomic.load<u32>(ring, INTR) != 0;
}

/** Switches the guest's kicks on or off. Returns true when descriptors are waiting all the same, so that none is missed. */
export function sring_kicks(queue: usize, on: bool): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  atomic.store<u32>(ring, on ? 1 : 0, KICK_ENABLED); // sequentially consistent: the load of prod can't overtake it
  return sring_pending(queue) != 0;
}

function gather(queue: usize, batch: usize, budget: u32, receive: bool): u32 {
  clear(batch);
  const pending = sring_pending(queue);
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const mask = load<u32>(queue, L.QUEUE_NUM) - 1;
  let index = load<u32>(queue, L.QUEUE_CONS);
  const stop = index + min(pending, budget);

  while (index != stop && hasRoom(batch, 1)) {
    const descriptor = ring + DESCRIPTORS + <usize>(index & mask) * DESC_SIZE;
    const gpa = load<u64>(descriptor, DESC_PADDR);
    const length = load<u32>(descriptor, DESC_LEN);
    index++;
    take(queue, batch, gpa, length, receive, index);
  }
  store<u32>(queue, index, L.QUEUE_SEEN);
  return load<u32>(batch, L.BATCH_COUNT);
}

function setLength(ring: usize, slot: u32, length: u32): void {
  store<u32>(ring + DESCRIPTORS + <usize>slot * DESC_SIZE, length, DESC_LEN);
}
