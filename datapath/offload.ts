/**
 * Offloads: what the virtio-net header of a frame asks of whoever gets it, whether it may, and the checksum done in software for those who
 * can't be asked.
 *
 * ```
 *   0              csum_start       csum_start + csum_offset         length
 *   ├── headers ──────┼── TCP or UDP ──┤ sum ├────── payload ──────────┤
 *                     └──────── summed, from the sum of the pseudo-header that the field holds ─┘
 * ```
 */
import { frameAt } from './batch';
import { sumOf, udpChecksum } from './checksum';
import * as L from './layout';

/** Whether the header of a frame of `length` bytes makes sense and asks for nothing but `offloads`. */
export function sound(header: usize, length: u32, offloads: u32): bool {
  const flags = <u32>load<u8>(header, L.VNET_FLAGS);
  const type = <u32>load<u8>(header, L.VNET_GSO_TYPE);
  if (flags == 0 && type == 0) return true;
  if ((offloads & L.OFFLOAD_CSUM) == 0) return false;
  const start = <u32>load<u16>(header, L.VNET_CSUM_START);
  const needsSum = (flags & L.VNET_NEEDS_CSUM) != 0;
  if (needsSum && start + load<u16>(header, L.VNET_CSUM_OFFSET) + 2 > length) return false;
  if (type == 0) return true;
  return (
    needsSum &&
    (offloads & segmentation(type)) != 0 &&
    load<u16>(header, L.VNET_GSO_SIZE) != 0 &&
    <u32>load<u16>(header, L.VNET_HDR_LEN) <= length
  );
}

/** The offload that a gso_type asks for, 0 for one that does not exist. */
function segmentation(type: u32): u32 {
  switch (type) {
    case L.VNET_GSO_TCPV4:
    case L.VNET_GSO_TCPV4 | L.VNET_GSO_ECN:
      return L.OFFLOAD_TSO4;
    case L.VNET_GSO_TCPV6:
    case L.VNET_GSO_TCPV6 | L.VNET_GSO_ECN:
      return L.OFFLOAD_TSO6;
    case L.VNET_GSO_UDP:
      return L.OFFLOAD_UFO;
    case L.VNET_GSO_UDP_L4:
      return L.OFFLOAD_USO;
    default:
      return 0;
  }
}

/**
 * Makes one frame bearable for who has agreed to `offloads` only: finishes its checksum in place. False when that is not enough, as for a frame
 * to be cut into segments, or can't be done because the frame is not in the window.
 */
export function offload_undo(batch: usize, index: u32, offloads: u32): bool {
  const frame = frameAt(batch, index);
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  if (sound(header, load<u32>(frame, L.FRAME_LENGTH), offloads)) return true;
  if (!sound(header, load<u32>(frame, L.FRAME_LENGTH), L.OFFLOAD_CSUM)) return false;
  if ((load<u8>(header) & L.VNET_NEEDS_CSUM) != 0 && !finish(frame)) return false;
  store<u64>(header, 0);
  store<u32>(header, 0, 8);
  return true;
}

/** Finishes the checksums of `n` frames from `first` on where they are still to be computed; `checksums_restore` undoes it. */
export function checksums_finish(batch: usize, n: u32, first: u32): void {
  for (let i = first; i < first + n; i++) {
    const frame = frameAt(batch, i);
    store<u32>(frame, NOT_SAVED, L.FRAME_SAVED);
    const header = <usize>load<u32>(frame, L.FRAME_HEADER);
    if ((load<u8>(header) & L.VNET_NEEDS_CSUM) != 0) finish(frame);
  }
}

/** Puts back what the checksum fields held before `checksums_finish`. */
export function checksums_restore(batch: usize, n: u32, first: u32): void {
  for (let i = first; i < first + n; i++) {
    const frame = frameAt(batch, i);
    const saved = load<u32>(frame, L.FRAME_SAVED);
    if (saved == NOT_SAVED) continue;
    const at = field(frame);
    storeByte(frame, at, saved >> 8);
    storeByte(frame, at + 1, saved);
  }
}

const NOT_SAVED: u32 = 0xffff_ffff;

/** Offset of the checksum in the frame. */
function field(frame: usize): u32 {
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  return <u32>load<u16>(header, L.VNET_CSUM_START) + <u32>load<u16>(header, L.VNET_CSUM_OFFSET);
}

/** Computes the checksum and stores it, the former field into the frame. False when it does not fit, or a buffer is not in the window. */
function finish(frame: usize): bool {
  const at = field(frame);
  const start = <u32>load<u16>(<usize>load<u32>(frame, L.FRAME_HEADER), L.VNET_CSUM_START);
  const length = load<u32>(frame, L.FRAME_LENGTH);
  if (at + 2 > length || !inWindow(frame)) return false;
  const former = (loadByte(frame, at) << 8) | loadByte(frame, at + 1);
  const done = udpChecksum(sumFrom(frame, start, length));
  store<u32>(frame, former, L.FRAME_SAVED);
  storeByte(frame, at, done >> 8);
  storeByte(frame, at + 1, done);
  return true;
}

/** Sum of big-endian 16-bit words of bytes [start, length) of the frame, not folded: at most 2^16 words. */
function sumFrom(frame: usize, start: u32, length: u32): u64 {
  const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
  let sum: u64 = 0;
  let offset: u32 = 0; // of the buffer in the frame
  for (let b: u32 = 0; b < buffers && offset < length; b++) {
    const end = min(offset + bufferLength(frame, b), length);
    const at = bufferAt(frame, b) - offset;
    let i = max(offset, start);
    if (i < end && ((i - start) & 1) != 0) sum += load<u8>(at + i++); // the second half of a word
    if (i < end) sum += sumOf(at + i, end - i);
    offset = end;
  }
  return sum;
}

export function inWindow(frame: usize): bool {
  const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
  for (let b: u32 = 0; b < buffers; b++) {
    if (bufferAt(frame, b) == 0 && bufferLength(frame, b) != 0) return false;
  }
  return true;
}

export function bufferAt(frame: usize, b: u32): usize {
  return <usize>load<u32>(<usize>load<u32>(frame, L.FRAME_WIN) + ((<usize>b) << 2));
}

export function bufferLength(frame: usize, b: u32): u32 {
  return <u32>load<u64>(iovec(frame, b), L.IOVEC_LENGTH);
}

/** The buffer's address in this process. */
export function bufferFlat(frame: usize, b: u32): u64 {
  return load<u64>(iovec(frame, b), L.IOVEC_BASE);
}

function iovec(frame: usize, b: u32): usize {
  return <usize>load<u32>(frame, L.FRAME_IOV) + (<usize>b + 1) * L.IOVEC_SIZE;
}

/** Window address of the byte at `offset` of the frame, which is shorter than its buffers. */
function locate(frame: usize, offset: u32): usize {
  let b: u32 = 0;
  while (offset >= bufferLength(frame, b)) offset -= bufferLength(frame, b++);
  return bufferAt(frame, b) + offset;
}

function loadByte(frame: usize, offset: u32): u32 {
  return <u32>load<u8>(locate(frame, offset));
}

function storeByte(frame: usize, offset: u32, value: u32): void {
  store<u8>(locate(frame, offset), <u8>value);
}
