/**
 * TCP segmentation in software: cuts a large frame, which its header asks to be cut, into frames for who can't be asked.
 *
 * ```
 *   frame     │ Ethernet │ IPv4 or v6 │ TCP │ payload ……………………………………………………………… │       copied out of the batch first: whoever owns
 *             0          L3           L4    HEADERS                        LENGTH            its buffers can't change what was looked at
 *
 *   segments  │ headers │ SIZE bytes │   │ headers │ SIZE bytes │   │ headers │ rest │       lengths, IPv4 id, sequence, flags, checksums new
 * ```
 * State is a SEGMENTS_* structure; `segment_next` is called as long as `segment_pending` says so, with any batch.
 */
import { frameAt } from './batch';
import * as L from './layout';
import { bufferAt, bufferLength, inWindow, sound, sumOf } from './offload';

const ETHERTYPE: u32 = 12;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const VLAN: u32 = 0x8100;
const SERVICE_VLAN: u32 = 0x88a8;
const V4_LENGTH: u32 = 2;
const V4_ID: u32 = 4;
const V4_CHECKSUM: u32 = 10;
const V4_ADDRESSES: u32 = 12;
const V4_MIN: u32 = 20;
const V6_LENGTH: u32 = 4;
const V6_ADDRESSES: u32 = 8;
const V6_SIZE: u32 = 40;
const TCP: u32 = 6;
const TCP_SEQUENCE: u32 = 4;
const TCP_OFFSET: u32 = 12;
const TCP_FLAGS: u32 = 13;
const TCP_CHECKSUM: u32 = 16;
const TCP_MIN: u32 = 20;
const FIN_PSH: u32 = 0x09; // of the last segment only
const CWR: u32 = 0x80; // of the first segment only

/** Takes the batch's frame, whose end may lie in the spill, to be cut. False when it can't be. */
export function segment_begin(segments: usize, batch: usize, index: u32): bool {
  store<u32>(segments, 0, L.SEGMENTS_LENGTH);
  const frame = frameAt(batch, index);
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  const length = load<u32>(frame, L.FRAME_LENGTH);
  const offloads = L.OFFLOAD_CSUM | L.OFFLOAD_TSO4 | L.OFFLOAD_TSO6;
  if (
    length > <u32>L.LARGE_FRAME ||
    load<u8>(header, L.VNET_GSO_TYPE) == 0 ||
    !sound(header, length, offloads)
  )
    return false;
  if (!inWindow(frame)) return false;

  // Out of the buffers, and of the spill behind them.
  const data = segments + L.SEGMENTS_FRAME;
  const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
  let copied: u32 = 0;
  for (let b: u32 = 0; b < buffers && copied < length; b++) {
    const n = min(bufferLength(frame, b), length - copied);
    memory.copy(data + copied, bufferAt(frame, b), n);
    copied += n;
  }
  memory.copy(data + copied, <usize>load<u32>(batch, L.BATCH_SPILL), length - copied);

  const l4 = <u32>load<u16>(header, L.VNET_CSUM_START);
  if (load<u16>(header, L.VNET_CSUM_OFFSET) != <u16>TCP_CHECKSUM) return false;
  const headers = parse(segments, l4, length);
  if (headers == 0) return false;
  store<u32>(segments, l4, L.SEGMENTS_L4);
  store<u32>(segments, headers, L.SEGMENTS_HEADERS);
  store<u32>(segments, load<u16>(header, L.VNET_GSO_SIZE), L.SEGMENTS_SIZE);
  store<u32>(segments, headers, L.SEGMENTS_NEXT);
  store<u32>(segments, 0, L.SEGMENTS_COUNT);
  store<u32>(segments, length, L.SEGMENTS_LENGTH);
  return true;
}

/** Finds IP and TCP, the latter at `l4`. Returns the bytes of all headers; 0: this is something else, or there is no payload. */
function parse(segments: usize, l4: u32, length: u32): u32 {
  const data = segments + L.SEGMENTS_FRAME;
  if (l4 + TCP_MIN > length) return 0;
  let l3: u32 = ETHERTYPE + 2;
  let type = get16(data + ETHERTYPE);
  while ((type == VLAN || type == SERVICE_VLAN) && l3 + 4 <= l4) {
    type = get16(data + l3 + 2);
    l3 += 4;
  }
  if (type == IPV4) {
    const size = (<u32>load<u8>(data + l3) & 15) * 4;
    if (size < V4_MIN || l3 + size != l4 || load<u8>(data + l3, 9) != <u8>TCP) return 0;
  } else if (type != IPV6 || l3 + V6_SIZE > l4) return 0;
  const headers = l4 + ((<u32>load<u8>(data + l4, TCP_OFFSET) >> 4) << 2);
  if (headers < l4 + TCP_MIN || headers >= length || headers > <u32>L.SEGMENTS_MAX_HEADERS) return 0;
  store<u32>(segments, l3, L.SEGMENTS_L3);
  store<u32>(segments, type == IPV6 ? 1 : 0, L.SEGMENTS_V6);
  return headers;
}

/** Whether there is something left of the frame. */
export function segment_pending(segments: usize): bool {
  return load<u32>(segments, L.SEGMENTS_LENGTH) != 0;
}

/** Fills the batch's frame with the next segment. False when it does not fit there, or can't be reached: what was left of the frame is lost. */
export function segment_next(segments: usize, batch: usize, index: u32): bool {
  const frame = frameAt(batch, index);
  const data = segments + L.SEGMENTS_FRAME;
  const headers = load<u32>(segments, L.SEGMENTS_HEADERS);
  const length = load<u32>(segments, L.SEGMENTS_LENGTH);
  const from = load<u32>(segments, L.SEGMENTS_NEXT);
  const n = min(load<u32>(segments, L.SEGMENTS_SIZE), length - from);
  const last = from + n == length;
  const copy = segments + L.SEGMENTS_SCRATCH;
  memory.copy(copy, data, headers);
  rewrite(segments, copy, data + from, n, from - headers, last);
  store<u32>(segments, from + n, L.SEGMENTS_NEXT);
  store<u32>(segments, load<u32>(segments, L.SEGMENTS_COUNT) + 1, L.SEGMENTS_COUNT);
  if (last) store<u32>(segments, 0, L.SEGMENTS_LENGTH);

  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  store<u64>(header, 0);
  store<u32>(header, 0, 8);
  if (headers + n > load<u32>(frame, L.FRAME_ROOM) || !inWindow(frame)) {
    store<u32>(segments, 0, L.SEGMENTS_LENGTH);
    return false;
  }
  scatter(frame, 0, copy, headers);
  scatter(frame, headers, data + from, n);
  store<u32>(frame, headers + n, L.FRAME_LENGTH);
  return true;
}

/** Makes the copied headers those of a segment: `n` bytes of payload, `before` bytes behind the first one. */
function rewrite(segments: usize, copy: usize, payload: usize, n: u32, before: u32, last: bool): void {
  const headers = load<u32>(segments, L.SEGMENTS_HEADERS);
  const l4 = load<u32>(segments, L.SEGMENTS_L4);
  const ip = copy + load<u32>(segments, L.SEGMENTS_L3);
  const tcp = copy + l4;
  const tcpBytes = headers - l4 + n;
  const first = load<u32>(segments, L.SEGMENTS_COUNT) == 0;
  let pseudo: u64 = <u64>(TCP + tcpBytes);
  if (load<u32>(segments, L.SEGMENTS_V6) != 0) {
    put16(ip + V6_LENGTH, <u32>(tcp - ip) - V6_SIZE + tcpBytes);
    pseudo += sumOf(ip + V6_ADDRESSES, 32);
  } else {
    const size = <u32>(tcp - ip);
    put16(ip + V4_LENGTH, size + tcpBytes);
    put16(ip + V4_ID, get16(ip + V4_ID) + load<u32>(segments, L.SEGMENTS_COUNT));
    put16(ip + V4_CHECKSUM, 0);
    put16(ip + V4_CHECKSUM, fold(sumOf(ip, size)) ^ 0xffff);
    pseudo += sumOf(ip + V4_ADDRESSES, 8);
  }
  store<u32>(tcp, bswap<u32>(bswap<u32>(load<u32>(tcp, TCP_SEQUENCE)) + before), TCP_SEQUENCE);
  let flags = <u32>load<u8>(tcp, TCP_FLAGS);
  if (!last) flags &= ~FIN_PSH;
  if (!first) flags &= ~CWR;
  store<u8>(tcp, <u8>flags, TCP_FLAGS);
  put16(tcp + TCP_CHECKSUM, 0);
  const sum = pseudo + sumOf(tcp, headers - l4) + sumOf(payload, n); // TCP headers are multiples of four bytes
  put16(tcp + TCP_CHECKSUM, fold(sum) ^ 0xffff);
}

/** Copies into the frame's buffers, which have room. */
function scatter(frame: usize, offset: u32, from: usize, n: u32): void {
  for (let b: u32 = 0; n != 0; b++) {
    const room = bufferLength(frame, b);
    if (offset >= room) {
      offset -= room;
      continue;
    }
    const part = min(room - offset, n);
    memory.copy(bufferAt(frame, b) + offset, from, part);
    offset = 0;
    from += part;
    n -= part;
  }
}

function fold(sum: u64): u32 {
  while (sum > 0xffff) sum = (sum >> 16) + (sum & 0xffff);
  return <u32>sum;
}

function get16(at: usize): u32 {
  return <u32>bswap<u16>(load<u16>(at));
}

function put16(at: usize, value: u32): void {
  store<u16>(at, bswap<u16>(<u16>value));
}
