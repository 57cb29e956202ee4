/**
 * Which lane of a port a frame goes to: that of its flow, so that frames of one flow stay in order.
 *
 * A flow is what has the same addresses, protocol and ports (TCP, UDP, SCTP; fragments have none). Of what is no IP: the Ethernet addresses.
 * Only bytes that are there are looked at, each once; whoever changes them meanwhile chooses another lane and nothing else.
 */
import { get16 } from './checksum';

const ETHERNET: u32 = 14;
const MAX_TAGS: u32 = 2;
const FACTOR: u64 = ((<u64>0x9e37_79b9) << 32) | 0x7f4a_7c15; // 2^64 divided by the golden ratio

/** A number for the flow of the frame that begins with these bytes. */
export function flowOf(at: usize, bytes: u32): u32 {
  let type = get16(at + 12);
  let l3 = ETHERNET;
  for (let tags: u32 = 0; tags < MAX_TAGS && (type == 0x8100 || type == 0x88a8) && bytes >= l3 + 4; tags++) {
    type = get16(at + l3 + 2);
    l3 += 4;
  }
  const ip = at + l3;
  if (type == 0x0800 && bytes >= l3 + 20) {
    const hash = mix(load<u64>(ip, 12), 0);
    if ((get16(ip + 6) & 0x3fff) != 0) return finish(hash); // a fragment
    return withPorts(hash, load<u8>(ip, 9), at, l3 + ((load<u8>(ip) & 15) << 2), bytes);
  }
  if (type == 0x86dd && bytes >= l3 + 40) {
    const source = mix(load<u64>(ip, 16), mix(load<u64>(ip, 8), 0));
    const hash = mix(load<u64>(ip, 32), mix(load<u64>(ip, 24), source));
    return withPorts(hash, load<u8>(ip, 6), at, l3 + 40, bytes);
  }
  return finish(mix(<u64>load<u32>(at, 8), mix(load<u64>(at), 0)));
}

function withPorts(hash: u64, protocol: u32, at: usize, l4: u32, bytes: u32): u32 {
  const hasPorts = protocol == 6 || protocol == 17 || protocol == 132;
  return finish(mix(hasPorts && bytes >= l4 + 4 ? <u64>load<u32>(at + l4) : 0, hash ^ protocol));
}

function mix(value: u64, hash: u64): u64 {
  const product = (hash ^ value) * FACTOR;
  return product ^ (product >> 32);
}

function finish(hash: u64): u32 {
  return <u32>((hash * FACTOR) >> 32);
}
