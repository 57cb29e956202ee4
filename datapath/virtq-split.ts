/**
 * Split virtqueues, device side: where chains are found, and how they are given back.
 *
 * ```
 *   descriptor area   [ addr len flags next ][ … ]        linked by next; one with INDIRECT stands for a table of them
 *   driver area       flags idx [ head ][ head ] …  used_event       CONS ─────► idx      chains that wait
 *   device area       flags idx [ id len ][ id len ] …  avail_event  idx = CONS           chains given back
 * ```
 * Indices run free in 16 bits, slot = index & (num - 1). Chains are given back in the order in which they came, so one position says how far we are.
 * flags and the events say who wants to be told: w/o EVENT_IDX flags = 1 means no; with it, who passes the event tells the other.
 */
import { dirty_mark } from './dirty';
import * as L from './layout';
import { refuse } from './queue';
import { addAlone, addDescriptor, BAD, endChain, GOOD, identify } from './virtq-chain';
import { addTable } from './virtq-table';

const FLAGS = 0; // u16
const INDEX = 2; // u16
const RING = 4; // u16 head[num] | { u32 id, u32 len }[num]
const QUIET: u16 = 1; // in flags
const KIND: u32 = L.VDESC_NEXT | L.VDESC_WRITE | L.VDESC_INDIRECT;

/** Chains that wait; 0 from a queue with a fault. */
export function splitWaiting(queue: usize): u32 {
  if (load<u32>(queue, L.QUEUE_FAULT) != L.FAULT_NONE) return 0;
  const index = <u32>atomic.load<u16>(<usize>load<u32>(queue, L.VIRTQ_DRIVER), INDEX);
  const waiting = (index - load<u32>(queue, L.QUEUE_CONS)) & 0xffff;
  if (waiting <= load<u32>(queue, L.QUEUE_NUM)) return waiting;
  store<u32>(queue, L.FAULT_INDEX, L.QUEUE_FAULT);
  refuse(queue);
  return 0;
}

/** Adds the chain at a position as a frame, `end` behind it, if it is a usual one. Returns its bytes of payload, or 0. */
export function splitAlone(queue: usize, batch: usize, at: u32, end: u32): u32 {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const slot = at & (num - 1);
  const head = <u32>load<u16>(<usize>load<u32>(queue, L.VIRTQ_DRIVER) + ((<usize>slot) << 1), RING);
  if (head >= num) return 0;
  const descriptor = <usize>load<u32>(queue, L.QUEUE_RING) + ((<usize>head) << 4);
  const meta = load<u64>(descriptor, 8);
  identify(head, 1);
  return addAlone(queue, batch, load<u64>(descriptor), <u32>meta, <u32>(meta >> 32) & KIND, end);
}

/** Adds the chain at a position, one of those that wait, to the frame that was begun. `payload`: it has to hold some. */
export function splitWalk(queue: usize, at: u32, payload: bool): u32 {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const slot = at & (num - 1);
  const table = <usize>load<u32>(queue, L.QUEUE_RING);
  let index = <u32>load<u16>(<usize>load<u32>(queue, L.VIRTQ_DRIVER) + ((<usize>slot) << 1), RING);
  identify(index, 1);
  const bound = min(num, L.VIRTQ_MAX_DESCRIPTORS);
  for (let i: u32 = 0; i < bound && index < num; i++) {
    const descriptor = table + ((<usize>index) << 4);
    const gpa = load<u64>(descriptor);
    const meta = load<u64>(descriptor, 8); // length, flags, next
    const flags = <u32>(meta >> 32) & 0xffff;
    const last = (flags & L.VDESC_NEXT) == 0;
    let outcome: u32 = BAD;
    if ((flags & L.VDESC_INDIRECT) == 0) outcome = addDescriptor(queue, gpa, <u32>meta, flags);
    else if (last) outcome = addTable(queue, gpa, <u32>meta);
    if (outcome != GOOD) return outcome;
    if (last) return endChain(payload);
    index = <u32>(meta >> 48);
  }
  return BAD; // beyond the ring, or it goes round
}

/** Gives a chain back at a position; the driver sees it after `splitPublish`. */
export function splitUse(queue: usize, at: u32, id: u32, length: u32): void {
  const slot = at & (load<u32>(queue, L.QUEUE_NUM) - 1);
  const entry = <usize>load<u32>(queue, L.VIRTQ_DEVICE) + ((<usize>slot) << 3);
  store<u32>(entry, id, RING);
  store<u32>(entry, length, RING + 4);
}

/** Shows the driver what was given back between two positions. Returns true when it wants an interrupt. */
export function splitPublish(queue: usize, old: u32, now: u32): bool {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const driver = <usize>load<u32>(queue, L.VIRTQ_DRIVER);
  const device = <usize>load<u32>(queue, L.VIRTQ_DEVICE);
  store<u32>(queue, now, L.QUEUE_CONS);
  atomic.store<u16>(device, <u16>now, INDEX); // sequentially consistent: what is loaded below can't overtake it
  if (load<u32>(queue, L.VIRTQ_LOG) != 0) logUsed(queue, old, now);

  if ((load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_EVENT_IDX) == 0)
    return (atomic.load<u16>(driver, FLAGS) & QUIET) == 0;
  const event = <u32>atomic.load<u16>(driver + ((<usize>num) << 1), RING);
  const fresh = load<u32>(queue, L.VIRTQ_FRESH) != 0;
  store<u32>(queue, 0, L.VIRTQ_FRESH);
  return fresh || ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
}

/** Switches kicks on, from the first chain that is not known yet, or off. The caller looks at what waits after that. */
export function splitKicks(queue: usize, on: bool): void {
  const device = <usize>load<u32>(queue, L.VIRTQ_DEVICE);
  const num = load<u32>(queue, L.QUEUE_NUM);
  const eventIndex = (load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_EVENT_IDX) != 0;
  const cons = load<u32>(queue, L.QUEUE_CONS);
  const at = eventIndex ? <usize>RING + ((<usize>num) << 3) : <usize>FLAGS;
  // An event right behind us is passed only after another 2^16 chains.
  if (eventIndex)
    atomic.store<u16>(device + at, <u16>(on ? cons + load<u32>(queue, L.QUEUE_SHORT) : cons - 1));
  else atomic.store<u16>(device + at, on ? 0 : QUIET);
  dirty_mark(queue, load<u64>(queue, L.VIRTQ_LOG_RING) + <u64>at, 2);
}

/** Where the used ring says that we are; false when the driver can't have got there. */
export function splitResume(queue: usize): bool {
  const cons = <u32>atomic.load<u16>(<usize>load<u32>(queue, L.VIRTQ_DEVICE), INDEX);
  const index = <u32>atomic.load<u16>(<usize>load<u32>(queue, L.VIRTQ_DRIVER), INDEX);
  store<u32>(queue, cons, L.QUEUE_CONS);
  return ((index - cons) & 0xffff) <= load<u32>(queue, L.QUEUE_NUM);
}

/** Marks what was written of the used ring as dirty: entries of two runs at most, and the index. */
function logUsed(queue: usize, old: u32, now: u32): void {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const ring = load<u64>(queue, L.VIRTQ_LOG_RING);
  const slot = old & (num - 1);
  const count = (now - old) & 0xffff;
  const run = min(count, num - slot);
  dirty_mark(queue, ring + RING + <u64>slot * 8, <u64>run * 8);
  dirty_mark(queue, ring + RING, <u64>(count - run) * 8);
  dirty_mark(queue, ring + INDEX, 2);
}
