/**
 * What a frame to be cut is: where its headers are, how it is cut, and the headers that all its pieces begin with.
 *
 * ```
 *   │ Ethernet, VLANs │ IPv4, options │ TCP, options │ payload
 *   │ Ethernet, VLANs │ IPv6 │ hop-by-hop, routing │ destination options … │ UDP │ payload
 *                     L3                           END                     L4
 *                            └─ of every fragment ─┘  └─ of the first one ─┘
 * ```
 * The frame has been copied and is as long as its header's fields were checked against. Only bytes in front of L4 and of the transport
 * header, which lie in the frame, are looked at. What is a fragment already, or anything else than this picture, is refused.
 */
import { get16, put16, sumOf, udpChecksum } from './checksum';
import * as L from './layout';
import { fragmentTemplate } from './segment-fragment';

const ETHERTYPE: u32 = 12;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const VLAN: u32 = 0x8100;
const SERVICE_VLAN: u32 = 0x88a8;
const V4_FRAGMENT: u32 = 6; // offset and flags
const V4_PROTOCOL: u32 = 9;
const V4_MIN: u32 = 20;
const V6_NEXT_HEADER: u32 = 6;
const V6_SIZE: u32 = 40;
const HOP_BY_HOP: u32 = 0; // IPv6 extension headers
const ROUTING: u32 = 43;
const DESTINATION: u32 = 60;
const TCP: u32 = 6;
const UDP: u32 = 17;
const TCP_OFFSET: u32 = 12;
const TCP_CHECKSUM: u32 = 16;
const TCP_MIN: u32 = 20;
const UDP_CHECKSUM: u32 = 6;
const UDP_SIZE: u32 = 8;

/** Fills all that does not change from piece to piece. False when the frame is not what its header says. */
export function parse(segments: usize, header: usize, length: u32): bool {
  const type = <u32>load<u8>(header, L.VNET_GSO_TYPE) & ~L.VNET_GSO_ECN;
  const size = <u32>load<u16>(header, L.VNET_GSO_SIZE);
  const start = <u32>load<u16>(header, L.VNET_CSUM_START);
  const offset = <u32>load<u16>(header, L.VNET_CSUM_OFFSET);
  if (type == 0) {
    if ((load<u8>(header) & L.VNET_NEEDS_CSUM) != 0) finish(segments, start, offset, length);
    return whole(segments, length);
  }
  const tcp = type != L.VNET_GSO_UDP && type != L.VNET_GSO_UDP_L4;
  if (offset != (tcp ? TCP_CHECKSUM : UDP_CHECKSUM)) return false;
  if (start + (tcp ? TCP_MIN : UDP_SIZE) > length) return false;
  const end = internet(segments, start, tcp ? TCP : UDP);
  if (end == 0) return false;
  const v6 = load<u32>(segments, L.SEGMENTS_V6) != 0;
  if (tcp && v6 != (type == L.VNET_GSO_TCPV6)) return false;

  if (type == L.VNET_GSO_UDP) {
    finish(segments, start, offset, length);
    if (length - end <= size) return whole(segments, length);
    // The first fragment has to hold the UDP header: nobody could filter the datagram otherwise.
    const most = size & ~7;
    if (most < start - end + UDP_SIZE) return false;
    fragmentTemplate(segments, end);
    return cut(segments, L.SEGMENT_FRAGMENT, end, most);
  }
  const data = segments + L.SEGMENTS_FRAME;
  const bytes = tcp ? (<u32>load<u8>(data + start, TCP_OFFSET) >> 4) << 2 : UDP_SIZE;
  if (tcp && bytes < TCP_MIN) return false;
  const headers = start + bytes;
  if (headers >= length || headers > <u32>L.SEGMENTS_MAX_HEADERS) return false;
  // The field holds the sum of the pseudo-header, with the length of all: that comes off again.
  const pseudo = get16(data + start + offset) + ((length - start) ^ 0xffff);
  store<u32>(segments, pseudo, L.SEGMENTS_PSEUDO);
  memory.copy(segments + L.SEGMENTS_TEMPLATE, data, headers);
  store<u32>(segments, headers, L.SEGMENTS_HEADERS);
  return cut(segments, tcp ? L.SEGMENT_TCP : L.SEGMENT_DATAGRAM, headers, size);
}

/** The frame is one piece, and its own header. */
function whole(segments: usize, length: u32): bool {
  store<u32>(segments, 0, L.SEGMENTS_HEADERS);
  return cut(segments, L.SEGMENT_WHOLE, 0, length);
}

function cut(segments: usize, kind: u32, start: u32, size: u32): bool {
  store<u32>(segments, kind, L.SEGMENTS_KIND);
  store<u32>(segments, start, L.SEGMENTS_START);
  store<u32>(segments, size, L.SEGMENTS_SIZE);
  return true;
}

/** Finishes the checksum of all from `start` on. */
function finish(segments: usize, start: u32, offset: u32, length: u32): void {
  const from = segments + L.SEGMENTS_FRAME + start;
  put16(from + offset, udpChecksum(sumOf(from, length - start)));
}

/** Finds the IP header that `protocol` at `l4` belongs to. Returns where the headers end that every fragment has; 0: there is no such thing. */
function internet(segments: usize, l4: u32, protocol: u32): u32 {
  if (l4 < ETHERTYPE + 2 + V4_MIN || l4 > <u32>L.SEGMENTS_MAX_HEADERS) return 0;
  const data = segments + L.SEGMENTS_FRAME;
  let l3: u32 = ETHERTYPE + 2;
  let type = get16(data + ETHERTYPE);
  while ((type == VLAN || type == SERVICE_VLAN) && l3 + 4 <= l4) {
    type = get16(data + l3 + 2);
    l3 += 4;
  }
  store<u32>(segments, l3, L.SEGMENTS_L3);
  store<u32>(segments, l4, L.SEGMENTS_L4);
  store<u32>(segments, type == IPV6 ? 1 : 0, L.SEGMENTS_V6);
  if (type == IPV4) return isV4(data + l3, l3, l4, protocol) ? l4 : 0;
  return type == IPV6 && l3 + V6_SIZE <= l4 ? throughV6(segments, l3, l4, protocol) : 0;
}

function isV4(ip: usize, l3: u32, l4: u32, protocol: u32): bool {
  if (l3 + V4_MIN > l4) return false;
  const first = <u32>load<u8>(ip);
  const dontFragment: u32 = 0x4000;
  return (
    first >> 4 == 4 &&
    l3 + (first & 15) * 4 == l4 &&
    <u32>load<u8>(ip, V4_PROTOCOL) == protocol &&
    (get16(ip + V4_FRAGMENT) & ~dontFragment) == 0
  );
}

/** Walks the extension headers: each is at least eight bytes long, so the way to `l4` has few steps whatever they say. */
function throughV6(segments: usize, l3: u32, l4: u32, protocol: u32): u32 {
  const data = segments + L.SEGMENTS_FRAME;
  let link = l3 + V6_NEXT_HEADER; // the field that names what comes next
  let at = l3 + V6_SIZE;
  let end = at;
  if (load<u8>(data + l3) >> 4 != 6) return 0;
  while (at < l4) {
    const type = <u32>load<u8>(data + link);
    const first = at == l3 + V6_SIZE;
    if (type != ROUTING && type != DESTINATION && !(type == HOP_BY_HOP && first)) return 0;
    link = at;
    at += (<u32>load<u8>(data + at, 1) + 1) * 8;
    if (type != DESTINATION) end = at;
  }
  return at == l4 && <u32>load<u8>(data + link) == protocol ? end : 0;
}
