/**
 * What a port knows of a frame beside its bytes: when it came, and which flow it belongs to. Only for rings that carry it.
 *
 * ```
 *   ring.room ──► metadata_want ──► port.get: may set stamps ──► metadata_fill ──► ring.push
 *                 stamps are 0                                    the others' stamps, all marks
 * ```
 * The mark is FNV-1a, 32 bits, over these bytes as they stand in the packet: source address, destination address, protocol, source port,
 * destination port. Fragments and protocols without ports: without the ports. What is no IP: 0.
 */
import { frameAt } from './batch';
import * as L from './layout';

const FNV_OFFSET: u32 = 0x811c9dc5;
const FNV_PRIME: u32 = 0x01000193;
const ETHERNET: u32 = 14;
const MAX_TAGS: u32 = 2;

/** The frames of this batch are to have metadata: none of them has any yet. */
export function metadata_want(batch: usize): void {
  store<u32>(batch, 1, L.BATCH_METADATA);
  const n = load<u32>(batch, L.BATCH_COUNT);
  for (let i: u32 = 0; i < n; i++) store<u64>(frameAt(batch, i), 0, L.FRAME_STAMP);
}

/** Marks the first `n` frames, and stamps those that their port has not. The time comes in halves. */
export function metadata_fill(batch: usize, n: u32, low: u32, high: u32): void {
  const now = ((<u64>high) << 32) | low;
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    if (load<u64>(frame, L.FRAME_STAMP) == 0) store<u64>(frame, now, L.FRAME_STAMP);
    const payload = <usize>load<u32>(<usize>load<u32>(frame, L.FRAME_WIN));
    const first = <u32>load<u64>(<usize>load<u32>(frame, L.FRAME_IOV) + L.IOVEC_SIZE, L.IOVEC_LENGTH);
    const length = min(first, load<u32>(frame, L.FRAME_LENGTH));
    store<u32>(frame, payload == 0 ? 0 : flowMark(payload, length), L.FRAME_MARK);
  }
}

function flowMark(at: usize, length: u32): u32 {
  if (length < ETHERNET) return 0;
  let l3 = ETHERNET;
  let type = half(at + 12);
  for (let tags: u32 = 0; tags < MAX_TAGS && (type == 0x8100 || type == 0x88a8); tags++) {
    if (length < l3 + 4) return 0;
    type = half(at + l3 + 2);
    l3 += 4;
  }
  if (type == 0x0800 && length >= l3 + 20) {
    const ip = at + l3;
    const l4 = l3 + ((<u32>load<u8>(ip) & 15) << 2);
    const fragment = (half(ip + 6) & 0x3fff) != 0;
    return flowHash(ip + 12, 8, load<u8>(ip + 9), fragment ? 0 : portsAt(at, length, l4));
  }
  if (type == 0x86dd && length >= l3 + 40) {
    const ip = at + l3;
    return flowHash(ip + 8, 32, load<u8>(ip + 6), portsAt(at, length, l3 + 40));
  }
  return 0;
}

/** Where the ports would be, 0 when the frame ends before. */
function portsAt(at: usize, length: u32, l4: u32): usize {
  return length >= l4 + 4 ? at + l4 : 0;
}

function flowHash(addresses: usize, size: u32, protocol: u32, ports: usize): u32 {
  let hash = fnv(FNV_OFFSET, addresses, size);
  hash = (hash ^ protocol) * FNV_PRIME;
  const hasPorts = protocol == 6 || protocol == 17 || protocol == 132; // TCP, UDP, SCTP
  if (hasPorts && ports != 0) hash = fnv(hash, ports, 4);
  return hash == 0 ? 1 : hash;
}

function fnv(hash: u32, at: usize, size: u32): u32 {
  for (let i: u32 = 0; i < size; i++) hash = (hash ^ load<u8>(at + i)) * FNV_PRIME;
  return hash;
}

/** 16 bits in network byte order. */
function half(at: usize): u32 {
  return bswap<u16>(load<u16>(at));
}
