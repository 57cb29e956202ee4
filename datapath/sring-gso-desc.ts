/**
 * Descriptors of sring_gso, and how a frame's buffers and header get out of them and into them.
 *
 * ```
 *   0        8       16    18      20           22            24                       28         30
 *   cookie   paddr   len   flags   csum_start   csum_offset   tx hdr_len, gso_size     gso_type   0
 *                                                             rx gso_size, hdr_len
 *   └──── of every descriptor ──┘  └──── of the one with EOP, which ends the packet ─────────────┘
 * ```
 */
import { addBuffer } from './batch';
import * as L from './layout';
import { findRegion, mayWrite } from './memory';
import { sound } from './offload';

export const DESCRIPTORS = 512;
export const DESC_PADDR = 8; // u64
export const DESC_LEN = 16; // u64: len, flags, csum_start, csum_offset, u16 each
export const DESC_GSO = 24; // u64: tx hdr_len, gso_size | rx gso_size, hdr_len; gso_type, 0, u16 each
export const DESC_SIZE = 32;
export const EOP: u32 = 1;
export const NEEDS_CSUM: u32 = 2;

/** The descriptor with that index. */
export function at(queue: usize, index: u32): usize {
  const slot = index & (load<u32>(queue, L.QUEUE_NUM) - 1);
  return <usize>load<u32>(queue, L.QUEUE_RING) + DESCRIPTORS + <usize>slot * DESC_SIZE;
}

/** Adds a buffer to the frame, cut to `most` bytes, to be written to or read. False when there can be no such buffer. */
export function append(queue: usize, frame: usize, gpa: u64, length: u32, most: u32, receive: bool): bool {
  const region = findRegion(<usize>load<u32>(queue, L.QUEUE_REGIONS), queue + L.QUEUE_HINT, gpa, <u64>length);
  if (region == 0 || (receive && !mayWrite(region))) return false;
  const offset = gpa - load<u64>(region, L.REGION_GPA);
  const window = <usize>load<u32>(region, L.REGION_WINDOW);
  const flat = load<u64>(region, L.REGION_FLAT) + offset;
  addBuffer(frame, flat, window == 0 ? 0 : window + <usize>offset, min(length, most));
  return true;
}

/** Fills the frame's header with what the guest asks for. False when that makes no sense, or was not agreed on. */
export function ask(queue: usize, frame: usize, meta: u64, gso: u64): bool {
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  const needsSum = ((<u32>meta >> 16) & NEEDS_CSUM) != 0;
  const type = <u32>(gso >> 32) & 0xffff;
  if (!needsSum && type == 0) return true;
  if (type > 0xff) return false;
  store<u8>(header, needsSum ? L.VNET_NEEDS_CSUM : 0, L.VNET_FLAGS);
  store<u8>(header, <u8>type, L.VNET_GSO_TYPE);
  if (type != 0) store<u32>(header, <u32>gso, L.VNET_HDR_LEN);
  store<u32>(header, <u32>(meta >> 32), L.VNET_CSUM_START);
  return sound(header, load<u32>(frame, L.FRAME_LENGTH), load<u32>(queue, L.QUEUE_OFFLOADS));
}

/** Writes lengths over the descriptors from `index` on that the frame takes, and into the last one its header. Returns the index behind them. */
export function deliver(queue: usize, frame: usize, index: u32): u32 {
  const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
  let iov = <usize>load<u32>(frame, L.FRAME_IOV);
  let left = load<u32>(frame, L.FRAME_LENGTH);
  for (let b: u32 = 1; b < buffers; b++) {
    iov += L.IOVEC_SIZE;
    const room = <u32>load<u64>(iov, L.IOVEC_LENGTH);
    if (left <= room) break;
    store<u32>(at(queue, index++), room, DESC_LEN); // no flags
    left -= room;
  }
  const last = at(queue, index);
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  const flags: u32 = (load<u8>(header) & L.VNET_NEEDS_CSUM) != 0 ? EOP | NEEDS_CSUM : EOP;
  const sums = <u64>load<u32>(header, L.VNET_CSUM_START);
  store<u64>(last, <u64>left | ((<u64>flags) << 16) | (sums << 32), DESC_LEN);
  const gso = rotl<u32>(load<u32>(header, L.VNET_HDR_LEN), 16); // this way round when receiving
  store<u64>(last, <u64>gso | ((<u64>load<u8>(header, L.VNET_GSO_TYPE)) << 32), DESC_GSO);
  return index + 1;
}

/** Bad buffers [index, end) go back as empty packets. Returns `end`. */
export function giveBack(queue: usize, index: u32, end: u32): u32 {
  for (; index != end; index++) {
    store<u64>(at(queue, index), (<u64>EOP) << 16, DESC_LEN);
    store<u64>(at(queue, index), 0, DESC_GSO);
  }
  return end;
}
