/**
 * Inboxes: how a frame gets from the worker of one switch port to that of another. Each lane of a port has one; any worker puts frames in, the
 * lane's own takes them out.
 *
 * ```
 *              HEAD                         TAIL
 *   ──┬────────┼─────────────┬──────────────┼─────────────┬──   blocks of 64 bytes, in a ring
 *     │  free  │ header│frame … │ header│frame … │  free  │
 *     └────────┴─────────────┴──────────────┴─────────────┘
 *   marks   0     98  0  0      0   0          0   0            a word for each block: bytes of the frame that begins there,
 *                  └ there        └ still being copied          0 until all of it is there
 * ```
 * A producer reserves blocks (compare and exchange of TAIL), copies, then sets the mark. It never waits: a full inbox costs it nothing but the
 * frame. The consumer takes frames in the order of their reservation, clears marks, then moves HEAD.
 *
 * Waking:
 *
 * ```
 *   consumer   ARMED := 1, then looks at the mark at HEAD          one of the two sees what the other has done:
 *   producer   mark := n, then looks at ARMED; takes it: signals   sequentially consistent stores and loads
 * ```
 * So the eventfd is written once for each time that the consumer has found nothing. The consumer counts how often ARMED was taken from it: as
 * many signals it has to read, and it makes no system call when there are none. What it does after reading is to look at the mark again.
 */
import * as L from './layout';
import { bufferAt, bufferLength } from './offload';

/** Compare and exchange fails only when another producer has got on; so many times in a row it does not. */
const ATTEMPTS: u32 = 64;
const FULL: i64 = -1;

// --- Producers

/**
 * Copies a frame of `length` bytes, the first twelve of which are `low` and `high`, and its header. It has as many bytes, all in the window. False:
 * the inbox is full, which is counted.
 */
export function deposit(inbox: usize, frame: usize, length: u32, low: u64, high: u32): bool {
  const position = reserve(inbox, blocksOf(length));
  if (position == FULL) {
    atomic.add<u64>(inbox, 1, L.INBOX_MISSED);
    return false;
  }
  const size = load<u32>(inbox, L.INBOX_BLOCKS);
  const block = <u32>position & (size - 1);
  const data = <usize>load<u32>(inbox, L.INBOX_DATA);
  const start = data + <usize>block * L.INBOX_BLOCK;
  copyHeader(start, <usize>load<u32>(frame, L.FRAME_HEADER));
  copyIn(data, <usize>size * L.INBOX_BLOCK, start + L.INBOX_PREFIX, frame, length);
  // The owner of the buffers may have changed them meanwhile: what was looked up is what arrives.
  store<u64>(start, low, L.INBOX_PREFIX);
  store<u32>(start, high, L.INBOX_PREFIX + 8);
  atomic.store<u32>(<usize>load<u32>(inbox, L.INBOX_MARKS) + ((<usize>block) << 2), length);
  return true;
}

/** Whether the consumer has to be woken; whoever is told so has to do it. */
export function takeArmed(inbox: usize): bool {
  return atomic.load<u32>(inbox, L.INBOX_ARMED) != 0 && atomic.xchg<u32>(inbox, 0, L.INBOX_ARMED) != 0;
}

function blocksOf(length: u32): u32 {
  return (length + L.INBOX_PREFIX + L.INBOX_BLOCK - 1) / L.INBOX_BLOCK;
}

/** Position of so many blocks that are ours now, or FULL. */
function reserve(inbox: usize, blocks: u32): i64 {
  const size = load<u32>(inbox, L.INBOX_BLOCKS);
  for (let attempt: u32 = 0; attempt < ATTEMPTS; attempt++) {
    // In this order: a head that is out of date makes the inbox look fuller than it is, never emptier.
    const head = atomic.load<u32>(inbox, L.INBOX_HEAD);
    const tail = atomic.load<u32>(inbox, L.INBOX_TAIL);
    if (tail + blocks - head > size) {
      if (atomic.load<u32>(inbox, L.INBOX_HEAD) == head) return FULL;
    } else if (atomic.cmpxchg<u32>(inbox, tail, tail + blocks, L.INBOX_TAIL) == tail) return <i64>tail;
  }
  return FULL;
}

/** What the header asks for and nothing else: no word of a guest about a checksum that it calls good, or about buffers. */
function copyHeader(to: usize, header: usize): void {
  const flags = <u32>load<u8>(header) & L.VNET_NEEDS_CSUM;
  const asks = flags != 0 || load<u8>(header, L.VNET_GSO_TYPE) != 0;
  store<u64>(to, asks ? (load<u64>(header) & ~(<u64>0xff)) | <u64>flags : 0);
  store<u64>(to, asks ? <u64>load<u16>(header, 8) : 0, 8);
}

/** Copies the frame to `to`, and on from `data` where the blocks end. */
function copyIn(data: usize, bytes: usize, to: usize, frame: usize, length: u32): void {
  const end = data + bytes;
  let left = length;
  for (let b: u32 = 0; left != 0; b++) {
    let from = bufferAt(frame, b);
    let n = min(bufferLength(frame, b), left);
    left -= n;
    if (to + n > end) {
      const first = <u32>(end - to);
      memory.copy(to, from, first);
      from += first;
      n -= first;
      to = data;
    }
    memory.copy(to, from, n);
    to += n;
  }
}

// --- The consumer

/** Bytes of the frame at that position, 0: there is none yet. */
export function waiting(inbox: usize, head: u32): u32 {
  return atomic.load<u32>(markAt(inbox, head));
}

/** Copies the frame at that position into a batch's frame, all of whose buffers are in the window; what is beyond them goes into the spill. */
export function withdraw(inbox: usize, head: u32, batch: usize, frame: usize, length: u32): void {
  const size = load<u32>(inbox, L.INBOX_BLOCKS);
  const data = <usize>load<u32>(inbox, L.INBOX_DATA);
  const end = data + <usize>size * L.INBOX_BLOCK;
  const start = data + <usize>(head & (size - 1)) * L.INBOX_BLOCK;
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  store<u64>(header, load<u64>(start));
  store<u32>(header, load<u32>(start, 8), 8);
  const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
  let from = start + L.INBOX_PREFIX;
  let left = length;
  for (let b: u32 = 0; left != 0; b++) {
    const beyond = b == buffers;
    const to = beyond ? <usize>load<u32>(batch, L.BATCH_SPILL) : bufferAt(frame, b);
    const n = beyond ? left : min(bufferLength(frame, b), left);
    const first = min(n, <u32>(end - from));
    memory.copy(to, from, first);
    from += first;
    if (first != n) {
      memory.copy(to + first, data, n - first);
      from = data + (n - first);
    }
    left -= n;
  }
}

/** The frame at that position, of so many bytes, has been taken. Returns the position of the next; `free` tells the producers. */
export function clearMark(inbox: usize, head: u32, length: u32): u32 {
  store<u32>(markAt(inbox, head), 0);
  return head + blocksOf(length);
}

/** All blocks before `head` are free. */
export function free(inbox: usize, head: u32): void {
  atomic.store<u32>(inbox, head, L.INBOX_HEAD);
}

/** From now on the next frame brings a signal. Returns the signals that are still to be read; afterwards look whether something is `waiting`. */
export function arm(inbox: usize): i32 {
  if (load<u32>(inbox, L.INBOX_ASKED) != 0) {
    if (atomic.load<u32>(inbox, L.INBOX_ARMED) != 0) return load<i32>(inbox, L.INBOX_OWED);
    store<i32>(inbox, load<i32>(inbox, L.INBOX_OWED) + 1, L.INBOX_OWED);
  }
  store<u32>(inbox, 1, L.INBOX_ASKED);
  atomic.store<u32>(inbox, 1, L.INBOX_ARMED);
  return load<i32>(inbox, L.INBOX_OWED);
}

function markAt(inbox: usize, position: u32): usize {
  const block = position & (load<u32>(inbox, L.INBOX_BLOCKS) - 1);
  return <usize>load<u32>(inbox, L.INBOX_MARKS) + ((<usize>block) << 2);
}
