/**
 * Virtqueues of a network card, device side: the calls of a ring, for the split and the packed format.
 *
 * ```
 *   virtq.ts ──► virtq-ring.ts ──► virtq-split.ts | virtq-packed.ts     where chains are, and how they go back
 *       │                              └──► virtq-chain.ts              buffers: guest addresses ──► a frame's
 *       └──► virtq-net.ts                                               the header in front of the payload
 *
 *   CONS                                                   a batch: chains in the order in which the guest made them available
 *   ─┼─[ chain ]──[ refused ]──[ chain ][ chain ][ chain ]─┼─►
 *     └frame 0┘                └──── frame 1, merged ─────┘
 * ```
 * To transmit, a chain is a frame. To receive it is room for one; where chains can be merged they are collected until they hold the largest frame
 * there may be, and those that the frame did not need stay where they are: so a merged frame ends a batch. Chains go back in order. One that makes no
 * sense goes back with length 0, counted; one whose address is not known yet stops the queue (VIRTQ_MISS) until somebody clears VIRTQ_MISS_LENGTH.
 */
import { beginFrame, clear, count, endFrame, endRoom, frameAt, hasRoom } from './batch';
import * as L from './layout';
import { account, refuse } from './queue';
import {
  BAD,
  beginChain,
  chainLooked,
  descriptorsOf,
  GOOD,
  MISSING,
  NONE,
  REFUSED,
  record,
  roomOf,
  withdraw,
} from './virtq-chain';
import { acceptHeader, deliverHeader, logPayload } from './virtq-net';
import { after, alone, begin, isPacked, publish, use, walk } from './virtq-ring';

/** Fills the batch with packets to transmit; begins none when `budget` chains, sixteen descriptors each, are spent. Returns the frames. */
export function virtq_tx_pop(queue: usize, batch: usize, budget: u32): u32 {
  clear(batch);
  const waiting = begin(queue);
  let at = load<u32>(queue, L.QUEUE_CONS);
  let chains: u32 = 0;
  for (let spent: u32 = 0; chains < waiting && spent < budget && hasRoom(batch, 1); ) {
    if (alone(queue, batch, at, chains + 1) != 0) {
      record(queue, chains, 0);
      at = after(queue, at, chains++);
      spent++;
      continue;
    }
    const frame = beginFrame(batch);
    beginChain(queue, batch, frame, true);
    const outcome = walk(queue, at, true);
    if (outcome > BAD) break;
    record(queue, chains, outcome == GOOD ? 0 : REFUSED);
    at = after(queue, at, chains++);
    spent += 1 + (chainLooked() >> 4);
    if (outcome == BAD) refuse(queue);
    else if (acceptHeader(queue, frame)) endFrame(batch, frame, chains);
    else count(queue + L.QUEUE_STATS, L.STAT_DROPPED, 1);
  }
  store<u32>(queue, chains, L.QUEUE_SEEN);
  return load<u32>(batch, L.BATCH_COUNT);
}

/** The first `n` frames of the batch have left. Returns true when the guest wants an interrupt. */
export function virtq_tx_complete(queue: usize, batch: usize, n: u32): bool {
  const old = load<u32>(queue, L.QUEUE_CONS);
  const chains = chainsOf(queue, batch, n);
  if (chains == 0) return false;
  const atOnce = (load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_IN_ORDER) != 0 && !isPacked(queue);
  let at = old;
  for (let c: u32 = 0; c < chains; c++) {
    if (!atOnce) use(queue, at, c, 0);
    at = after(queue, at, c);
  }
  if (atOnce) use(queue, old, chains - 1, 0); // stands for all before it
  account(queue, batch, n, chains);
  return publish(queue, old, at);
}

/** Fills the batch with room to receive into; begins no frame when `budget` is spent, as above. Returns the frames. */
export function virtq_rx_room(queue: usize, batch: usize, budget: u32): u32 {
  clear(batch);
  const waiting = begin(queue);
  const merge = (load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_MERGE) != 0;
  const most = load<u32>(queue, L.QUEUE_MAX_FRAME);
  let at = load<u32>(queue, L.QUEUE_CONS);
  let chains: u32 = 0;
  for (let spent: u32 = 0; chains < waiting && spent < budget && hasRoom(batch, 1); ) {
    const whole = alone(queue, batch, at, chains + 1);
    if (whole != 0) {
      record(queue, chains, whole);
      at = after(queue, at, chains++);
      spent++;
      continue;
    }
    const frame = beginFrame(batch);
    const first = chains;
    let behind = at;
    let outcome = NONE;
    while (chains < waiting && spent < budget + L.VIRTQ_MAX_CHAINS) {
      const iovs = load<u32>(frame, L.FRAME_IOVS);
      const room = load<u32>(frame, L.FRAME_LENGTH);
      beginChain(queue, batch, frame, chains == first);
      outcome = walk(queue, behind, !merge);
      spent += 1 + (chainLooked() >> 4);
      const more = load<u32>(frame, L.FRAME_LENGTH) - room;
      if (outcome == GOOD && chains != first && more == 0) outcome = BAD;
      if (outcome != GOOD) {
        store<u32>(frame, iovs, L.FRAME_IOVS);
        store<u32>(frame, room, L.FRAME_LENGTH);
        break;
      }
      record(queue, chains, more);
      behind = after(queue, behind, chains++);
      if (!merge || room + more == most || load<u32>(frame, L.FRAME_IOVS) > <u32>L.CTX_MAX_BUFS) break;
      outcome = NONE; // what it is when no more are waiting
    }
    const empty = load<u32>(frame, L.FRAME_LENGTH) == 0; // then it has one chain at most, with room for a header only
    if (outcome == BAD && empty) {
      if (chains == first) record(queue, chains++, REFUSED);
      else withdraw(queue, first);
      at = after(queue, at, first);
      refuse(queue);
      continue;
    }
    const none = outcome == NONE && (chains == first || tooFew(queue, first, chains, empty));
    if (none || outcome >= MISSING) {
      chains = first;
      break;
    }
    endRoom(batch, frame, chains);
    at = behind;
    if (chains - first > 1) break;
  }
  store<u32>(queue, chains, L.QUEUE_SEEN);
  return load<u32>(batch, L.BATCH_COUNT);
}

/** The first `n` frames of the batch have been filled, each with its length. Returns true when the guest wants an interrupt. */
export function virtq_rx_push(queue: usize, batch: usize, n: u32): bool {
  const header = load<u32>(queue, L.VIRTQ_HEADER);
  const logs = load<u32>(queue, L.VIRTQ_LOG) != 0;
  const old = load<u32>(queue, L.QUEUE_CONS);
  let at = old;
  let c: u32 = 0;
  let whole = true; // the last frame needed all that was collected for it
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const end = load<u32>(frame, L.FRAME_END);
    for (; roomOf(queue, c) == REFUSED; at = after(queue, at, c++)) use(queue, at, c, 0);
    const first = c;
    let left = load<u32>(frame, L.FRAME_LENGTH);
    do {
      const part = min(left, roomOf(queue, c));
      use(queue, at, c, c == first ? header + part : part);
      at = after(queue, at, c++);
      left -= part;
    } while (left != 0 && c != end);
    whole = c == end;
    deliverHeader(queue, frame, i, c - first);
    if (logs) logPayload(queue, frame);
  }
  if (whole && n == load<u32>(batch, L.BATCH_COUNT)) {
    const end = load<u32>(queue, L.QUEUE_SEEN);
    for (; c != end; at = after(queue, at, c++)) use(queue, at, c, 0);
  }
  if (c == 0) return false;
  account(queue, batch, n, c);
  return publish(queue, old, at);
}

/**
 * All that is posted holds less than the largest frame. Whether to wait for more: there was more than twice as much before. (Drivers post again before
 * half of their buffers are gone, but not all of them fill the ring, so nothing is waited for that may never come.)
 */
function tooFew(queue: usize, first: u32, chains: u32, empty: bool): bool {
  let posted = chains - first;
  if (isPacked(queue)) {
    posted = 0;
    for (let c = first; c < chains; c++) posted += descriptorsOf(queue, c);
  }
  const before = load<u32>(queue, L.VIRTQ_POSTED);
  store<u32>(queue, max(posted, before), L.VIRTQ_POSTED);
  if (posted << 1 >= before && !empty) return false;
  if (first == 0) store<u32>(queue, posted, L.QUEUE_SHORT);
  return true;
}

/** How many chains the first `n` frames of a batch stand for; those refused behind the last one belong to it. */
function chainsOf(queue: usize, batch: usize, n: u32): u32 {
  if (n == load<u32>(batch, L.BATCH_COUNT)) return load<u32>(queue, L.QUEUE_SEEN);
  return n == 0 ? 0 : load<u32>(frameAt(batch, n - 1), L.FRAME_END);
}
