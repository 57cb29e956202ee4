/**
 * Where a packed ring stands: found in the ring itself. A front end may not know: QEMU keeps no position of its own when a backend has died, and names
 * the one that it named at the start.
 *
 * ```
 *             this lap                      the lap before
 *   slot      0       3       5             8                       used, available: with this lap's wrap counter
 *             [u][u][u][a][a][ ][ ][ ][u][u][u]                     [ ]: slots that the driver is writing, or has just written
 *                      │     └ the driver
 *                      └ the device: behind the last that was used
 *
 *   killed while a batch was given back        [u][a][u][u][a]      the first of the batch is handed over last: it is given back here,
 *                                                  └ hole           empty, as those behind it, whose frame may have begun in it
 * ```
 * All slots of a chain are marked when it is given back, so used slots end where the device is; a window of `num` slots shows at most two laps, the
 * later one at lower indices. Devices of others leave the slots behind a chain's first one as they were. A position that was told is believed where those,
 * which have the id of the used one before them, are all that lies between. What can't be told apart: a chain with the id of the one before it, at the very
 * place that a front end names wrongly; and a driver in the middle of a chain that fills the ring.
 *
 * The driver runs meanwhile. It may write what lies behind the window's end, and nothing else.
 */
import * as L from './layout';
import { available, distance, META, OWNER, positionAfter, slotAt, used } from './virtq-packed';

const NOT_FOUND: u32 = 0xffff_ffff;

/** Sets CONS, which holds what was told, to where the ring stands, and gives back what can't be finished. False: there is no such position. */
export function packedResume(queue: usize): bool {
  const num = load<u32>(queue, L.QUEUE_NUM);
  const told = load<u32>(queue, L.QUEUE_CONS);
  if (told >= num << 1) return false;
  const found = standsAt(queue, num);
  if (told != found && isBehindTail(queue, found, told, num)) return true;
  store<u32>(queue, found, L.QUEUE_CONS);
  fillHoles(queue, found, num);
  return true;
}

/** The position behind the last used slot; where all are available, that of the first. */
function standsAt(queue: usize, num: u32): u32 {
  let one: u32 = NOT_FOUND; // the last used index with wrap counter 1
  let zero: u32 = NOT_FOUND;
  let turn: u32 = 0; // where the first lap of those that are available ends
  const first = ownerOf(metaAt(queue, 0, num));
  for (let i: u32 = 0; i < num; i++) {
    const owner = ownerOf(metaAt(queue, i, num));
    if (owner == OWNER) one = i;
    else if (owner == 0) zero = i;
    if (turn == 0 && owner != first) turn = i;
  }
  if (one != NOT_FOUND || zero != NOT_FOUND) return positionAfter(one < zero ? one : zero + num, 1, num);
  return ownerOf(metaAt(queue, turn, num)) == L.VDESC_AVAIL ? turn : turn + num;
}

/** Whether the slots from `found` to `told` are what is left of the chain that was used last. */
function isBehindTail(queue: usize, found: u32, told: u32, num: u32): bool {
  const steps = distance(found, told, num);
  if (steps >= num) return false;
  const before = positionAfter(found, (num << 1) - 1, num);
  const head = metaAt(queue, before, num);
  if (ownerOf(head) != used(before, num)) return false;
  for (let i: u32 = 0; i < steps; i++) {
    const at = positionAfter(found, i, num);
    const meta = metaAt(queue, at, num);
    if (ownerOf(meta) != available(at, num) || idOf(meta) != idOf(head)) return false;
  }
  return true;
}

/** Gives back, empty, what is available before `end`, and empties what was used behind it. The driver sees the oldest, for which it waits, last. */
function fillHoles(queue: usize, end: u32, num: u32): void {
  let oldest: u32 = 0; // steps back from `end`; 0: there is none
  for (let back: u32 = 1; back <= num; back++) {
    const at = positionAfter(end, (num << 1) - back, num);
    if (ownerOf(metaAt(queue, at, num)) == available(at, num)) oldest = back;
  }
  let id: u32 = 0; // of the chain: the last slot's
  for (let back: u32 = 1; back <= oldest; back++) {
    const at = positionAfter(end, (num << 1) - back, num);
    const meta = metaAt(queue, at, num);
    if ((<u32>(meta >> 48) & L.VDESC_NEXT) == 0) id = idOf(meta);
    let empty = (meta >> 32) << 32;
    if (ownerOf(meta) == available(at, num)) empty = ((<u64>id) << 32) | ((<u64>used(at, num)) << 48);
    else if (ownerOf(meta) != used(at, num)) continue;
    atomic.cmpxchg<u64>(slotAt(queue, at, num), meta, empty, META);
  }
}

function metaAt(queue: usize, at: u32, num: u32): u64 {
  return atomic.load<u64>(slotAt(queue, at, num), META);
}

function ownerOf(meta: u64): u32 {
  return <u32>(meta >> 48) & OWNER;
}

function idOf(meta: u64): u32 {
  return <u32>(meta >> 32) & 0xffff;
}
