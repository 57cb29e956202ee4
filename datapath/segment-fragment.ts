/**
 * Headers of IP fragments, of a UDP datagram that was handed over whole.
 *
 * ```
 *   IPv4 (RFC 791)    │ Ethernet │ IPv4: length, offset, more, checksum │ SIZE bytes │
 *   IPv6 (RFC 8200)   │ Ethernet │ IPv6, … │ next 0 offset, more identification │ SIZE bytes │
 *                                          └ inserted: the fragment header ─────┘
 * ```
 * All fragments of a datagram have one identification. An IPv4 sender has chosen it, unless it left it 0 in a datagram that must not be fragmented
 * on its way (RFC 6864); "don't fragment" is gone then, as it is from fragments that a kernel makes. For IPv6 it is ours, and as it should be (RFC 7739):
 * not guessed by anybody, and not used again before all others were.
 */
import { get16, put16 } from './checksum';
import * as L from './layout';
import { setV4Length, setV6Length } from './segment-transport';

const V4_ID: u32 = 4;
const V4_FRAGMENT: u32 = 6;
const V4_DONT_FRAGMENT: u32 = 0x4000;
const V4_MORE: u32 = 0x2000;
const V4_OPTIONS: u32 = 20;
const OPTION_COPIED: u32 = 0x80; // in its type: it is in every fragment
const OPTION_END: u32 = 0;
const OPTION_NOTHING: u32 = 1;
const FRAGMENT: u32 = 44;
const FRAGMENT_OFFSET: u32 = 2;
const FRAGMENT_ID: u32 = 4;
const FRAGMENT_SIZE: u32 = 8;
const V6_NEXT_HEADER: u32 = 6;
const V6_SIZE: u32 = 40;

/** Makes the template: the headers that every fragment has, which end at `end`, and for IPv6 a fragment header. */
export function fragmentTemplate(segments: usize, end: u32): void {
  const template = segments + L.SEGMENTS_TEMPLATE;
  const l3 = load<u32>(segments, L.SEGMENTS_L3);
  const ip = template + l3;
  memory.copy(template, segments + L.SEGMENTS_FRAME, end);
  if (load<u32>(segments, L.SEGMENTS_V6) == 0) {
    store<u32>(segments, end, L.SEGMENTS_HEADERS);
    if ((get16(ip + V4_FRAGMENT) & V4_DONT_FRAGMENT) != 0 && get16(ip + V4_ID) == 0)
      put16(ip + V4_ID, identification(segments));
    return;
  }
  let link = ip + V6_NEXT_HEADER; // of the last header in front
  for (let at = ip + V6_SIZE; at < template + end; at += (<u32>load<u8>(at, 1) + 1) * 8) link = at;
  const header = template + end;
  store<u64>(header, 0);
  store<u8>(header, load<u8>(link));
  store<u8>(link, <u8>FRAGMENT);
  store<u32>(header, identification(segments), FRAGMENT_ID);
  store<u32>(segments, end + FRAGMENT_SIZE, L.SEGMENTS_HEADERS);
}

/** Makes the copied template the headers of the next fragment, with `n` bytes. */
export function fragmentHeaders(segments: usize, copy: usize, n: u32, last: bool): void {
  const l3 = load<u32>(segments, L.SEGMENTS_L3);
  const headers = load<u32>(segments, L.SEGMENTS_HEADERS);
  const offset = load<u32>(segments, L.SEGMENTS_NEXT) - load<u32>(segments, L.SEGMENTS_START); // a multiple of eight
  const ip = copy + l3;
  if (load<u32>(segments, L.SEGMENTS_V6) != 0) {
    setV6Length(ip, headers - l3 + n);
    put16(copy + headers - FRAGMENT_SIZE + FRAGMENT_OFFSET, offset | (last ? 0 : 1));
    return;
  }
  put16(ip + V4_FRAGMENT, (offset >> 3) | (last ? 0 : V4_MORE));
  if (offset != 0) leaveOut(ip + V4_OPTIONS, copy + headers);
  setV4Length(ip, headers - l3, n);
}

/** Overwrites the options in [at, end) that belong into the first fragment only. */
function leaveOut(at: usize, end: usize): void {
  while (at < end) {
    const type = <u32>load<u8>(at);
    if (type == OPTION_END) return;
    let length: usize = 1;
    if (type != OPTION_NOTHING) {
      if (at + 1 == end) return;
      length = min(<usize>load<u8>(at, 1), end - at);
      if (length < 2) return; // no option; let the receiver see that
      if ((type & OPTION_COPIED) == 0) memory.fill(at, <u8>OPTION_NOTHING, length);
    }
    at += length;
  }
}

/**
 * The next identification: a running number, permuted by the key. Four rounds of a Feistel network over its two halves, so that different numbers
 * stay different.
 */
function identification(segments: usize): u32 {
  const n = load<u32>(segments, L.SEGMENTS_DATAGRAMS);
  store<u32>(segments, n + 1, L.SEGMENTS_DATAGRAMS);
  let left = n >> 16;
  let right = n & 0xffff;
  for (let round: u32 = 0; round < 4; round++) {
    const key = load<u32>(segments + ((<usize>(round & 1)) << 2), L.SEGMENTS_KEY) + round;
    let mixed = (right ^ key) * 0x85eb_ca6b;
    mixed = (mixed ^ (mixed >> 15) ^ key) * 0xc2b2_ae35;
    const other = left ^ (mixed >> 16);
    left = right;
    right = other;
  }
  return (left << 16) | right;
}
