/**
 * vring_packed, device side: the packed ring of VirtIO 1.1 with event index. One buffer per packet, no offloads.
 *
 * ```
 *   position   0          num        2 num          counts descriptors and never goes back:
 *              |-- lap 1 --|-- lap 0 --|-- lap 1 ->     index = position mod num, wrap counter = lap
 *
 *   avail, used    lap 1    lap 0
 *   available       1 0      0 1      from CONS on, as far as the guest has got
 *   used            1 1      0 0      before CONS; behind what is available they are those of the lap before
 * ```
 * There is no shared index: each side hands a descriptor over by storing its flags last. An event says when its writer wants to be told:
 * always, never, or when the other side passes a position. Position and size are kept in the queue, out of the guest's reach; of what the guest
 * writes only descriptors and its event are read, each once, and its indices at a restart. Buffers are used in order.
 */
import { clear, frameAt, hasRoom } from './batch';
import * as L from './layout';
import { account, endOf, refuse, take } from './queue';

// The guest's part: u64 next_free_id u16, next_avail_idx u16, next_used_idx u16, wrap counters of both u8; flags u16.
const GUEST_FLAGS = 8;
// The device's, never read back: u64 both indices u16, wrap counters u8, flags of a used descriptor u16; the rest.
const HOST = 64;
const HOST_EVENT_FLAGS = 72; // u16
const STATE_OFFSET = 128; // u64
const NUM = 136; // u32
// Events: u32 off_wrap u16 (index, wrap counter in bit 15), flags u16.
const DRIVER_EVENT = 192; // guest
const DEVICE_EVENT = 256; // device
const DESCRIPTORS = 320;
const DESC_LEN = 8; // u32
const DESC_FLAGS = 14; // u16
const DESC_SIZE = 16;
const STATE_SIZE = 16;
const STATE_NEXT = 12; // u16

const WRITE: u32 = 2;
const AVAIL: u32 = 0x80;
const USED: u32 = 0x8000;
const KIND: u32 = 7; // next, write, indirect
const EVENT_ENABLE: u32 = 0;
const EVENT_DISABLE: u32 = 1;
const EVENT_DESC: u32 = 2;

/** Bytes of the opaque part. */
export function vring_packed_size(num: u32): u32 {
  return stateOffset(num) + roundUp(num * STATE_SIZE);
}

/** A new context: the opaque part as the programs expect to find it. */
export function vring_packed_init(queue: usize): void {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const num = load<u32>(queue, L.QUEUE_NUM);
  memory.fill(ring, 0, vring_packed_size(num));
  store<u64>(ring, 0x0101_0000_0000_0000); // both wrap counters
  store<u16>(ring, <u16>AVAIL, GUEST_FLAGS);
  store<u64>(ring, stateOffset(num), STATE_OFFSET);
  store<u32>(ring, num, NUM);
  store<u32>(ring, eventAt(0, num), DRIVER_EVENT);
  const states = ring + stateOffset(num);
  for (let i: u32 = 0; i + 1 < num; i++) store<u16>(states + <usize>i * STATE_SIZE, <u16>(i + 1), STATE_NEXT);
  start(queue, 0);
}

/** A start after a stop in which the guest may have reclaimed what it had posted: the device goes on where the guest does. */
export function vring_packed_resume(queue: usize): bool {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const guest = atomic.load<u64>(ring);
  const availIndex = <u32>(guest >> 16) & 0xffff;
  const usedIndex = <u32>(guest >> 32) & 0xffff;
  const availWrap = <u32>(guest >> 48) & 0xff;
  const usedWrap = <u32>(guest >> 56);
  const firstUsed = position(usedIndex, usedWrap, num);
  const posted = (position(availIndex, availWrap, num) - firstUsed) & (2 * num - 1);
  if (availIndex >= num || usedIndex >= num || (availWrap | usedWrap) > 1 || posted > num) {
    store<u32>(queue, L.FAULT_INDEX, L.QUEUE_FAULT);
    return false;
  }
  // A guest that has reclaimed nothing may not even have taken back what is used: that stays behind.
  let at = firstUsed;
  while (at != firstUsed + posted && flagsAt(ring, at, num) == used(at, num)) at++;
  start(queue, at);
  return true;
}

/** Descriptors that the guest has posted and the device has not used; 0 from a queue with a fault. */
export function vring_packed_pending(queue: usize): u32 {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const num = load<u32>(queue, L.QUEUE_NUM);
  const cons = load<u32>(queue, L.QUEUE_CONS);
  if (load<u32>(queue, L.QUEUE_FAULT) != L.FAULT_NONE) return 0;
  let n: u32 = 0;
  while (n < num && isAvailable(ring, cons + n, num)) n++;
  return n;
}

/** Fills the batch with packets to transmit, from `budget` descriptors at most. Returns the frames. */
export function vring_packed_tx_pop(queue: usize, batch: usize, budget: u32): u32 {
  return gather(queue, batch, budget, false);
}

/** Fills the batch with buffers to receive into. Returns the frames. */
export function vring_packed_rx_room(queue: usize, batch: usize, budget: u32): u32 {
  return gather(queue, batch, budget, true);
}

/**
 * The first `n` frames of the batch have left. True: the guest wants an interrupt. The first descriptor is made used last: the guest,
 * which looks at them in order, finds all or none.
 */
export function vring_packed_tx_complete(queue: usize, batch: usize, n: u32): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const num = load<u32>(queue, L.QUEUE_NUM);
  const old = load<u32>(queue, L.QUEUE_CONS);
  const cons = endOf(queue, batch, n);
  if (cons == old) return false;
  account(queue, batch, n, cons - old);

  for (let at = old + 1; at != cons; at++)
    store<u16>(descriptorAt(ring, at, num), <u16>used(at, num), DESC_FLAGS);
  atomic.store<u16>(descriptorAt(ring, old, num), <u16>used(old, num), DESC_FLAGS);
  moveTo(queue, cons);

  const event = atomic.load<u32>(ring, DRIVER_EVENT);
  const flags = event >> 16;
  if (flags != EVENT_DESC) return flags == EVENT_ENABLE;
  const wanted = position(event & 0x7fff, (event >> 15) & 1, num);
  return ((cons - wanted - 1) & (2 * num - 1)) < cons - old;
}

/** The first `n` frames of the batch have been filled, each with its length. True: the guest wants an interrupt. */
export function vring_packed_rx_push(queue: usize, batch: usize, n: u32): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const num = load<u32>(queue, L.QUEUE_NUM);
  let at = load<u32>(queue, L.QUEUE_CONS);
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const own = load<u32>(frame, L.FRAME_END) - 1;
    while (at != own) setLength(ring, at++, num, 0); // a bad buffer goes back empty
    setLength(ring, at++, num, load<u32>(frame, L.FRAME_LENGTH));
  }
  const end = endOf(queue, batch, n);
  while (at != end) setLength(ring, at++, num, 0);
  return vring_packed_tx_complete(queue, batch, n);
}

/** Switches kicks on, from the next descriptor, or off. True: it is there all the same, so that none is missed. */
export function vring_packed_kicks(queue: usize, on: bool): bool {
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const num = load<u32>(queue, L.QUEUE_NUM);
  const cons = load<u32>(queue, L.QUEUE_CONS);
  const event = on ? eventAt(cons, num) : EVENT_DISABLE << 16;
  store<u16>(ring, <u16>(event >> 16), HOST_EVENT_FLAGS);
  atomic.store<u32>(ring, event, DEVICE_EVENT); // sequentially consistent: the load of the flags can't overtake it
  return load<u32>(queue, L.QUEUE_FAULT) == L.FAULT_NONE && isAvailable(ring, cons, num);
}

function gather(queue: usize, batch: usize, budget: u32, receive: bool): u32 {
  clear(batch);
  const ring = <usize>load<u32>(queue, L.QUEUE_RING);
  const num = load<u32>(queue, L.QUEUE_NUM);
  const kind = receive ? WRITE : 0;
  let at = load<u32>(queue, L.QUEUE_CONS);
  const stop = load<u32>(queue, L.QUEUE_FAULT) == L.FAULT_NONE ? at + min(budget, num) : at;

  while (at != stop && hasRoom(batch, 1)) {
    const descriptor = descriptorAt(ring, at, num);
    const flags = <u32>atomic.load<u16>(descriptor, DESC_FLAGS);
    if ((flags & (AVAIL | USED)) != available(at, num)) break;
    const gpa = load<u64>(descriptor);
    const length = load<u32>(descriptor, DESC_LEN);
    at++;
    if ((flags & KIND) == kind) take(queue, batch, gpa, length, receive, at);
    else refuse(queue); // a chain, an indirect table, or of the other direction
  }
  store<u32>(queue, at, L.QUEUE_SEEN);
  return load<u32>(batch, L.BATCH_COUNT);
}

/** A sane queue at a position, with kicks on. */
function start(queue: usize, at: u32): void {
  store<u32>(queue, L.FAULT_NONE, L.QUEUE_FAULT);
  moveTo(queue, at);
  vring_packed_kicks(queue, true);
}

/** Moves the device's position, and shows it in the ring. */
function moveTo(queue: usize, at: u32): void {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const index = <u64>(at & (num - 1));
  const wrap = <u64>wrapOf(at, num);
  store<u32>(queue, at, L.QUEUE_CONS);
  store<u64>(
    <usize>load<u32>(queue, L.QUEUE_RING),
    index | (index << 16) | (wrap << 32) | (wrap << 40) | ((<u64>used(at, num)) << 48),
    HOST,
  );
}

function isAvailable(ring: usize, at: u32, num: u32): bool {
  return flagsAt(ring, at, num) == available(at, num);
}

/** The two bits of a descriptor that say whose it is. */
function flagsAt(ring: usize, at: u32, num: u32): u32 {
  return <u32>atomic.load<u16>(descriptorAt(ring, at, num), DESC_FLAGS) & (AVAIL | USED);
}

function descriptorAt(ring: usize, at: u32, num: u32): usize {
  return ring + DESCRIPTORS + <usize>(at & (num - 1)) * DESC_SIZE;
}

function setLength(ring: usize, at: u32, num: u32, length: u32): void {
  store<u32>(descriptorAt(ring, at, num), length, DESC_LEN);
}

function wrapOf(at: u32, num: u32): u32 {
  return (at & num) == 0 ? 1 : 0;
}

/** The inverse; less than 2·num where the index is less than num. */
function position(index: u32, wrap: u32, num: u32): u32 {
  return wrap == 0 ? index + num : index;
}

/** The two bits of a descriptor while it is available, and when it is used. */
function available(at: u32, num: u32): u32 {
  return (at & num) == 0 ? AVAIL : USED;
}

function used(at: u32, num: u32): u32 {
  return (at & num) == 0 ? AVAIL | USED : 0;
}

/** The event "tell me when you pass this". */
function eventAt(at: u32, num: u32): u32 {
  return (at & (num - 1)) | (wrapOf(at, num) << 15) | (EVENT_DESC << 16);
}

function stateOffset(num: u32): u32 {
  return DESCRIPTORS + roundUp(num * DESC_SIZE);
}

function roundUp(bytes: u32): u32 {
  return (bytes + 63) & ~63;
}
