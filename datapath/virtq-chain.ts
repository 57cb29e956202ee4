/**
 * From a chain of descriptors to a frame: what virtqueues of both formats do with a buffer once they have found its descriptor.
 *
 * ```
 *   chain    [ header │ payload ][ payload ]           or any other cut: the header may be alone, or in twelve pieces
 *                 │         │          │
 *   transmit      ▼         ▼          ▼
 *   frame    iov[0], ours  iov[1]     iov[2]           the header is copied, once, and checked after that
 *   receive       ▲
 *            VIRTQ_PIECES                              where the header will be written when the frame is complete
 * ```
 * A buffer may lie in several regions that follow each other. Everything here was written by the guest: a chain that makes no sense is BAD; one that
 * can't be looked at now is MISSING, and stays where it is. What is known of the chain under way is kept in globals: an instance belongs to one
 * worker.
 */
import { addBuffer, addFrame, hasRoom } from './batch';
import * as L from './layout';
import { findRegion } from './memory';

export const GOOD: u32 = 0;
export const BAD: u32 = 1; // goes back unused, and is counted
export const NONE: u32 = 2; // there is no chain
export const MISSING: u32 = 3; // VIRTQ_MISS says what
export const FULL: u32 = 4; // the batch has no room for it

const MERGING: u32 = L.VIRTQ_RECEIVE | L.VIRTQ_MERGE;

let batch: usize = 0;
let frame: usize = 0;
let most: u32 = 0; // bytes of a frame
let headerLeft: u32 = 0; // bytes of the header still to come
let piece: usize = 0; // receive: the next piece of the header
let id: u32 = 0;
let descriptors: u32 = 0; // of the ring
let looked: u32 = 0; // descriptors looked at, those of a table included

/** A chain is about to be looked at whose payload is added to `target`. `header`: it begins with one. */
export function beginChain(queue: usize, to: usize, target: usize, header: bool): void {
  batch = to;
  frame = target;
  most = load<u32>(queue, L.QUEUE_MAX_FRAME);
  headerLeft = header ? load<u32>(queue, L.VIRTQ_HEADER) : 0;
  piece = queue + L.VIRTQ_PIECES + <usize>load<u32>(to, L.BATCH_COUNT) * L.VIRTQ_SLOT_SIZE;
  looked = 0;
}

/** How the chain is called, and how many descriptors of the ring it takes. */
export function identify(name: u32, count: u32): void {
  id = name;
  descriptors = count;
}

export function chainLooked(): u32 {
  return looked;
}

/** Notes the chain as the batch's n-th, with the bytes of payload that it holds, or REFUSED. */
export function record(queue: usize, n: u32, room: u32): void {
  const at = queue + L.VIRTQ_CHAINS + <usize>n * L.VIRTQ_CHAIN_SIZE;
  store<u64>(at, <u64>id | ((<u64>descriptors) << 16) | ((<u64>room) << 32));
}

/** The batch's n-th chain is refused after all. */
export function withdraw(queue: usize, n: u32): void {
  store<u32>(queue + L.VIRTQ_CHAINS + <usize>n * L.VIRTQ_CHAIN_SIZE, REFUSED, 4);
}

export const REFUSED: u32 = 0xffff_ffff;

export function idOf(queue: usize, n: u32): u32 {
  return <u32>load<u16>(queue + L.VIRTQ_CHAINS + <usize>n * L.VIRTQ_CHAIN_SIZE);
}

export function descriptorsOf(queue: usize, n: u32): u32 {
  return <u32>load<u16>(queue + L.VIRTQ_CHAINS + <usize>n * L.VIRTQ_CHAIN_SIZE, 2);
}

export function roomOf(queue: usize, n: u32): u32 {
  return load<u32>(queue + L.VIRTQ_CHAINS + <usize>n * L.VIRTQ_CHAIN_SIZE, 4);
}

/**
 * The usual chain at one go: a single descriptor, in one region and in the window as a whole, a header that asks for nothing, and as a frame complete.
 * Returns its bytes of payload; 0, and nothing is done, when it is not like that: then it has to be looked at the long way.
 */
export function addAlone(queue: usize, to: usize, gpa: u64, length: u32, kind: u32, end: u32): u32 {
  const flags = load<u32>(queue, L.VIRTQ_FLAGS);
  const receive = (flags & L.VIRTQ_RECEIVE) != 0;
  const header = load<u32>(queue, L.VIRTQ_HEADER);
  const limit = load<u32>(queue, L.QUEUE_MAX_FRAME);
  const wanted: u32 = receive ? L.VDESC_WRITE : 0;
  if (kind != wanted || length <= header) return 0;
  const payload = receive ? min(length - header, limit) : length - header;
  if (payload > limit || (payload != limit && (flags & (L.VIRTQ_RECEIVE | L.VIRTQ_MERGE)) == MERGING))
    return 0;
  const region = findRegion(<usize>load<u32>(queue, L.QUEUE_REGIONS), queue + L.QUEUE_HINT, gpa, <u64>length);
  if (region == 0 || load<u32>(region, L.REGION_DENIED) != 0) return 0;
  const base = <usize>load<u32>(region, L.REGION_WINDOW);
  if (base == 0) return 0;
  const offset = gpa - load<u64>(region, L.REGION_GPA);
  const flat = load<u64>(region, L.REGION_FLAT) + offset;
  const window = base + <usize>offset;
  if (receive) {
    piece = queue + L.VIRTQ_PIECES + <usize>load<u32>(to, L.BATCH_COUNT) * L.VIRTQ_SLOT_SIZE;
    notePiece(flat, window, header);
  } else if (load<u16>(window) != 0) return 0; // flags and gso_type; the other fields mean nothing without them
  addFrame(to, flat + header, window + <usize>header, payload, receive, end);
  return payload;
}

/** One descriptor of the chain that has a buffer. */
export function addDescriptor(queue: usize, gpa: u64, length: u32, flags: u32): u32 {
  const receive = (load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_RECEIVE) != 0;
  looked++;
  if (((flags & L.VDESC_WRITE) != 0) != receive || gpa + <u64>length < gpa) return BAD;
  const regions = <usize>load<u32>(queue, L.QUEUE_REGIONS);
  while (length != 0) {
    let region = findRegion(regions, queue + L.QUEUE_HINT, gpa, <u64>length);
    let part = length;
    if (region == 0) {
      // Not in one region: what the first one holds of it.
      region = findRegion(regions, queue + L.QUEUE_HINT, gpa, 1);
      if (region == 0) return missing(queue, gpa, length, receive);
      part = <u32>(load<u64>(region, L.REGION_GPA) + load<u64>(region, L.REGION_LENGTH) - gpa);
    }
    if ((load<u32>(region, L.REGION_DENIED) & (receive ? L.DENY_WRITE : L.DENY_READ)) != 0) return BAD;
    const offset = gpa - load<u64>(region, L.REGION_GPA);
    let flat = load<u64>(region, L.REGION_FLAT) + offset;
    const base = <usize>load<u32>(region, L.REGION_WINDOW);
    let window: usize = base == 0 ? 0 : base + <usize>offset;
    gpa += part;
    length -= part;
    if (headerLeft != 0) {
      if (window == 0) return notInWindow(queue, gpa - part, part);
      const n = min(headerLeft, part);
      if (receive) notePiece(flat, window, n);
      else copyHeader(queue, window, n);
      headerLeft -= n;
      part -= n;
      if (part == 0) continue;
      flat += n;
      window += <usize>n;
    }
    const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
    const room = most - load<u32>(frame, L.FRAME_LENGTH);
    // To transmit all or nothing; to receive into as much as a frame may have.
    const least: u32 = receive ? 1 : part;
    if (buffers == <u32>L.CTX_MAX_BUFS || room < least) return receive ? GOOD : BAD;
    if (!hasRoom(batch, buffers + 1)) return FULL;
    addBuffer(frame, flat, window, min(part, room));
    looked++;
  }
  return GOOD;
}

/** All of the chain has been looked at, and nothing was wrong so far. `payload`: it has to hold some. */
export function endChain(payload: bool): u32 {
  return headerLeft != 0 || (payload && load<u32>(frame, L.FRAME_LENGTH) == 0) ? BAD : GOOD;
}

function notePiece(flat: u64, window: usize, length: u32): void {
  store<u64>(piece, flat);
  store<u32>(piece, <u32>window, 8);
  store<u32>(piece, length, 12);
  piece += L.VIRTQ_PIECE_SIZE;
}

function copyHeader(queue: usize, window: usize, length: u32): void {
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  const done = load<u32>(queue, L.VIRTQ_HEADER) - headerLeft;
  if (done == 0 && length >= 10) {
    store<u64>(header, load<u64>(window)); // the two bytes behind it, num_buffers, say nothing when transmitting
    store<u16>(header, load<u16>(window, 8), 8);
  } else {
    for (let i: u32 = 0; i < length && done + i < 10; i++) store<u8>(header + done + i, load<u8>(window + i));
  }
}

/** No region holds what is to be read, or written: a mistake, unless translations come on demand. */
export function missing(queue: usize, gpa: u64, length: u32, write: bool): u32 {
  return (load<u32>(queue, L.VIRTQ_FLAGS) & L.VIRTQ_IOTLB) != 0
    ? miss(queue, gpa, length, write ? L.MISS_WRITE : L.MISS_READ)
    : BAD;
}

/** We have to read or write it ourselves, and can't. */
export function notInWindow(queue: usize, gpa: u64, length: u32): u32 {
  return miss(queue, gpa, length, L.MISS_WINDOW);
}

function miss(queue: usize, gpa: u64, length: u32, kind: u32): u32 {
  store<u64>(queue, gpa, L.VIRTQ_MISS);
  store<u32>(queue, length, L.VIRTQ_MISS_LENGTH);
  store<u32>(queue, kind, L.VIRTQ_MISS_KIND);
  return MISSING;
}
