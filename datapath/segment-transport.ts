/**
 * Headers of TCP segments, and of UDP datagrams that were handed over as one.
 *
 * ```
 *             IPv4 length, id + i, checksum │ IPv6 length
 *   TCP       sequence + i · SIZE; FIN and PSH in the last one only, CWR in the first one only; checksum
 *   UDP       length, checksum
 * ```
 */
import { fold, get16, put16, sumOf, udpChecksum } from './checksum';
import * as L from './layout';

const V4_LENGTH: u32 = 2;
const V4_ID: u32 = 4;
const V4_CHECKSUM: u32 = 10;
const V6_LENGTH: u32 = 4;
const V6_SIZE: u32 = 40;
const TCP_SEQUENCE: u32 = 4;
const TCP_FLAGS: u32 = 13;
const TCP_CHECKSUM: u32 = 16;
const UDP_LENGTH: u32 = 4;
const UDP_CHECKSUM: u32 = 6;
const FIN_PSH: u32 = 0x09;
const CWR: u32 = 0x80;

/** Makes the copied template the headers of the next piece, with `n` bytes of payload. */
export function transportHeaders(segments: usize, copy: usize, n: u32, last: bool): void {
  const l3 = load<u32>(segments, L.SEGMENTS_L3);
  const l4 = load<u32>(segments, L.SEGMENTS_L4);
  const count = load<u32>(segments, L.SEGMENTS_COUNT);
  const bytes = load<u32>(segments, L.SEGMENTS_HEADERS) - l4; // of the transport header
  const next = load<u32>(segments, L.SEGMENTS_NEXT);
  if (load<u32>(segments, L.SEGMENTS_V6) != 0) setV6Length(copy + l3, l4 - l3 + bytes + n);
  else {
    put16(copy + l3 + V4_ID, get16(copy + l3 + V4_ID) + count);
    setV4Length(copy + l3, l4 - l3, bytes + n);
  }

  const l4Header = copy + l4;
  const sum = <u64>load<u32>(segments, L.SEGMENTS_PSEUDO) + bytes + n;
  const payload = sumOf(segments + L.SEGMENTS_FRAME + next, n);
  if (load<u32>(segments, L.SEGMENTS_KIND) == L.SEGMENT_TCP) {
    const sequence = bswap<u32>(load<u32>(l4Header, TCP_SEQUENCE));
    const before = next - load<u32>(segments, L.SEGMENTS_START);
    store<u32>(l4Header, bswap<u32>(sequence + before), TCP_SEQUENCE);
    let flags = <u32>load<u8>(l4Header, TCP_FLAGS);
    if (!last) flags &= ~FIN_PSH;
    if (count != 0) flags &= ~CWR;
    store<u8>(l4Header, <u8>flags, TCP_FLAGS);
    put16(l4Header + TCP_CHECKSUM, 0);
    put16(l4Header + TCP_CHECKSUM, fold(sum + sumOf(l4Header, bytes) + payload) ^ 0xffff);
  } else {
    put16(l4Header + UDP_LENGTH, bytes + n);
    put16(l4Header + UDP_CHECKSUM, 0);
    put16(l4Header + UDP_CHECKSUM, udpChecksum(sum + sumOf(l4Header, bytes) + payload));
  }
}

/** Sets the length of an IPv4 packet with a header of `size` bytes, and its checksum, which is due whatever else was changed. */
export function setV4Length(ip: usize, size: u32, payload: u32): void {
  put16(ip + V4_LENGTH, size + payload);
  put16(ip + V4_CHECKSUM, 0);
  put16(ip + V4_CHECKSUM, fold(sumOf(ip, size)) ^ 0xffff);
}

/** Sets the length of an IPv6 packet of `size` bytes in all. */
export function setV6Length(ip: usize, size: u32): void {
  put16(ip + V6_LENGTH, size - V6_SIZE);
}
