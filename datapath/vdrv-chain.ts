/**
 * The guest driver's chains in a virtqueue, whatever its format: buffers ──► descriptors, and back.
 *
 * ```
 *   buffer   ├──── 16 ────┼──── DRIVER_ROOM ────┤        links   buffer 2: next 5, 2 descriptors    who begins a chain has their number, all
 *                    header│payload                              buffer 5: no next, 0               others 0: no id that the device may name
 * ```
 * The header stands right in front of the first buffer's payload. Buffers and links are private; the device is believed only an id of a chain that it
 * has, once, and no more bytes than were lent to it.
 */
import { bufferAt, setFree } from './buffers';
import * as L from './layout';
import {
  advanceDescriptor,
  headDescriptor,
  isInOrder,
  lengthOfTaken,
  nextDescriptor,
  noteNamed,
  noteOffered,
  nothingBack,
  takeOldest,
} from './vdrv-order';
import { packedDescribe, packedLength, packedShow, packedTake, packedTaken } from './vdrv-packed';
import {
  splitDescribe,
  splitLength,
  splitOffer,
  splitReady,
  splitShow,
  splitTake,
  splitTaken,
} from './vdrv-split';

const NO_NEXT: u32 = 0xffff;
export const NOTHING: i32 = -1;
export const NONSENSE: i32 = -2;

export function isPacked(driver: usize): bool {
  return (load<u32>(driver, L.VDRV_FLAGS) & L.VIRTQ_PACKED) != 0;
}

/** Guest physical address of a buffer's header. */
export function headerGpa(driver: usize, buffer: u32): u64 {
  const offset = <u64>buffer * load<u32>(driver, L.DRIVER_STRIDE) + L.VDRV_HEADROOM;
  return load<u64>(driver, L.DRIVER_BUFFERS_GPA) + offset - load<u32>(driver, L.VDRV_HEADER);
}

/** Window address of a buffer's payload. */
export function payloadAt(driver: usize, buffer: u32): usize {
  return bufferAt(driver, buffer) + L.VDRV_HEADROOM;
}

/**
 * Makes a chain of `count` buffers, listed downwards before `at`, that hold header and `length` bytes of payload. The places on the free stack that
 * were not its own are filled from the top (picture in driver.ts).
 */
export function offerFrame(driver: usize, at: usize, top: usize, count: u32, length: u32): void {
  const room = load<u32>(driver, L.DRIVER_ROOM);
  const first = load<u32>(at - 4);
  const table = count > 1 ? <usize>load<u32>(driver, L.VDRV_TABLES) : 0;
  store<u64>(sentAt(driver, first), <u64>length | ((<u64>load<u32>(driver, L.VDRV_AVAIL)) << 32));
  let before = first;
  for (let b: u32 = 0; b < count; b++) {
    at -= 4;
    top -= 4;
    const buffer = load<u32>(at);
    store<u32>(at, load<u32>(top));
    const last = b + 1 == count;
    const part = last ? length : min(length, room);
    describePart(driver, table, first, b, buffer, part, last ? NO_NEXT : load<u32>(at - 4));
    lendBuffer(driver, buffer, 0);
    if (b != 0) setLink(driver, before, buffer, 0);
    before = buffer;
    length -= part;
  }
  endFrame(driver, table, first, count);
}

/** Makes the chain of a frame that the device had before its ring was cleared. Its buffers, and what they hold, are as they were. */
export function offerAgain(driver: usize, first: u32): void {
  const room = load<u32>(driver, L.DRIVER_ROOM);
  const sent = sentAt(driver, first);
  const more = nextOf(driver, first) != NO_NEXT;
  const table = more ? <usize>load<u32>(driver, L.VDRV_TABLES) : 0;
  let length = load<u32>(sent);
  store<u32>(sent, load<u32>(driver, L.VDRV_AVAIL), 4);
  let count: u32 = 0;
  for (let buffer = first; buffer != NO_NEXT; ) {
    const next = nextOf(driver, buffer);
    const part = next == NO_NEXT ? length : min(length, room);
    describePart(driver, table, first, count++, buffer, part, next);
    length -= part;
    buffer = next;
  }
  endFrame(driver, table, first, count);
}

/** Makes a chain of one buffer to receive into: room for a header, and all of its payload. */
export function offerRoom(driver: usize, buffer: u32): void {
  const bytes = load<u32>(driver, L.VDRV_HEADER) + load<u32>(driver, L.DRIVER_ROOM);
  describe(driver, buffer, buffer, headerGpa(driver, buffer), bytes, L.VDESC_WRITE, 0);
  lendBuffer(driver, buffer, 1);
  offered(driver, buffer);
}

/** Shows the device what was offered since the position `old`, if anything. Returns 1 when it wants a kick, else 0. */
export function show(driver: usize, old: u32): i32 {
  if (load<u32>(driver, L.VDRV_AVAIL) == old) return 0;
  const kick = isPacked(driver) ? packedShow(driver, old) : splitShow(driver, old);
  return kick ? 1 : 0;
}

/** The next chain that came back, by its first buffer; NOTHING, or NONSENSE. It is nobody's now: the caller has to free or use its buffers. */
export function takeChain(driver: usize): i32 {
  const packed = isPacked(driver);
  const back = isInOrder(driver)
    ? nextInOrder(driver, packed)
    : packed
      ? packedTake(driver)
      : splitTake(driver);
  if (back < 0) return <i32>back;
  if (<u64>back >= load<u32>(driver, L.DRIVER_NUM)) return NONSENSE;
  const buffer = <u32>back;
  const descriptors = load<u32>(linkOf(driver, buffer)) >> 16;
  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER) + buffer;
  if (descriptors == 0 || load<u8>(owner) != L.OWNER_DEVICE) return NONSENSE;
  if (packed) packedTaken(driver, descriptors);
  else splitTaken(driver);
  setLink(driver, buffer, nextOf(driver, buffer), 0);
  return <i32>buffer;
}

/** With IN_ORDER, the same from the order in which they were offered. What the device has named before comes first. */
function nextInOrder(driver: usize, packed: bool): i64 {
  if (nothingBack(driver)) {
    const id = packed ? packedTake(driver) : splitTake(driver);
    if (id < 0) return id;
    const length = packed ? packedLength() : splitLength();
    const most = packed ? load<u32>(driver, L.VDRV_RING) : splitReady(driver); // a packed ring does not say how many
    if (noteNamed(driver, <u32>id, length, most) == 0) return <i64>NONSENSE;
  }
  return <i64>takeOldest(driver);
}

/** The bytes that the device says it wrote into the chain that was taken last. */
export function takenLength(driver: usize): u32 {
  if (isInOrder(driver)) return lengthOfTaken(driver);
  return isPacked(driver) ? packedLength() : splitLength();
}

/** The chain's buffers are free. Returns how many. */
export function freeChain(driver: usize, first: u32): u32 {
  let n: u32 = 0;
  for (let buffer = first; buffer != NO_NEXT; buffer = nextOf(driver, buffer)) {
    setFree(driver, buffer);
    n++;
  }
  store<u32>(driver, load<u32>(driver, L.DRIVER_POSTED) - n, L.DRIVER_POSTED);
  return n;
}

/** The buffer, a chain of its own, is in a batch. */
export function holdBuffer(driver: usize, buffer: u32): void {
  store<u8>(<usize>load<u32>(driver, L.DRIVER_OWNER) + buffer, L.OWNER_DRIVER);
  store<u32>(driver, load<u32>(driver, L.DRIVER_POSTED) - 1, L.DRIVER_POSTED);
}

function describe(driver: usize, id: u32, buffer: u32, gpa: u64, bytes: u32, flags: u32, next: u32): void {
  if (isPacked(driver)) packedDescribe(driver, id, gpa, bytes, flags);
  else if (isInOrder(driver)) {
    const index = nextDescriptor(driver);
    splitDescribe(driver, index, gpa, bytes, flags, advanceDescriptor(driver));
  } else splitDescribe(driver, buffer, gpa, bytes, flags, next);
}

/** Describes part `b` of a frame, in the table if it has one; `next` is the buffer behind it, or NO_NEXT. The header goes with the first. */
function describePart(
  driver: usize,
  table: usize,
  first: u32,
  b: u32,
  buffer: u32,
  part: u32,
  next: u32,
): void {
  const header = load<u32>(driver, L.VDRV_HEADER);
  const gpa = headerGpa(driver, buffer) + (b == 0 ? 0 : header);
  const bytes = b == 0 ? header + part : part;
  const flags: u32 = next == NO_NEXT ? 0 : L.VDESC_NEXT;
  if (table == 0) describe(driver, first, buffer, gpa, bytes, flags, flags == 0 ? 0 : next);
  else describeInTable(driver, table, first, b, gpa, bytes, flags);
}

/** The frame's parts are described: its chain is complete. */
function endFrame(driver: usize, table: usize, first: u32, count: u32): void {
  if (table != 0) {
    const gpa = load<u64>(driver, L.VDRV_TABLES_GPA) + <u64>first * load<u32>(driver, L.VDRV_TABLE_STRIDE);
    describe(driver, first, first, gpa, count << 4, L.VDESC_INDIRECT, 0);
  }
  setLink(driver, first, nextOf(driver, first), table != 0 ? 1 : count);
  offered(driver, first);
}

function describeInTable(
  driver: usize,
  tables: usize,
  first: u32,
  b: u32,
  gpa: u64,
  bytes: u32,
  flags: u32,
): void {
  const table = tables + <usize>first * load<u32>(driver, L.VDRV_TABLE_STRIDE);
  const entry = table + ((<usize>b) << 4);
  const meta = isPacked(driver) ? 0 : ((<u64>flags) << 32) | ((<u64>(b + 1)) << 48);
  store<u64>(entry, gpa);
  store<u64>(entry, <u64>bytes | meta, 8);
}

function offered(driver: usize, first: u32): void {
  const packed = isPacked(driver);
  const inOrder = isInOrder(driver);
  const id = inOrder && !packed ? headDescriptor(driver, load<u32>(linkOf(driver, first)) >> 16) : first;
  if (!packed) splitOffer(driver, id);
  if (inOrder) noteOffered(driver, first, id);
}

function sentAt(driver: usize, buffer: u32): usize {
  return <usize>load<u32>(driver, L.VDRV_SENT) + ((<usize>buffer) << 3);
}

function linkOf(driver: usize, buffer: u32): usize {
  return <usize>load<u32>(driver, L.VDRV_LINKS) + ((<usize>buffer) << 2);
}

function nextOf(driver: usize, buffer: u32): u32 {
  return load<u32>(linkOf(driver, buffer)) & 0xffff;
}

/** The buffer is the device's, in a chain. */
function lendBuffer(driver: usize, buffer: u32, descriptors: u32): void {
  store<u8>(<usize>load<u32>(driver, L.DRIVER_OWNER) + buffer, L.OWNER_DEVICE);
  setLink(driver, buffer, NO_NEXT, descriptors);
}

function setLink(driver: usize, buffer: u32, next: u32, descriptors: u32): void {
  store<u32>(linkOf(driver, buffer), next | (descriptors << 16));
}
