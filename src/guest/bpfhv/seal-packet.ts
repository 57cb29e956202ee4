/**
 * What sealing has to know of a frame: where its IP header is, what of it nobody changes on the way, and how it is put right again.
 *
 * ```
 *   0          14    tags of 4 bytes, two at most    header                 payload             end        length
 *   ├─ MACs, type ─┼─ 802.1Q, 802.1ad ─────────────────┼─ IPv4 20…60, IPv6 40 ─┼─ what follows it ─┼─ padding ─┤
 * ```
 * One object looks at one frame after the other: nothing is allocated for a packet.
 */

/** What a frame is. `find` returns one of these. */
export const OTHER = 0; // anything that is neither IP nor ARP, or no whole packet of these
export const ARP = 1;
export const IPV4 = 4;
export const IPV6 = 6;

const ETHERNET = 14;
const MAX_TAGS = 2;
const ARP_BYTES = 28;
/** Ethernet and IPv4, addresses of 6 and 4 bytes: the only ARP there is. */
const ARP_FIXED = [0, 1, 8, 0, 6, 4, 0];
const MAX_HEADER = 60;

export class IpPacket {
  kind: typeof OTHER | typeof ARP | typeof IPV4 | typeof IPV6 = OTHER;
  /** Where the header, what follows it, and what follows that begin. */
  header = 0;
  payload = 0;
  end = 0;
  /** The header as it is authenticated: with zeros for what may change on the way. */
  readonly #fixed = new Uint8Array(MAX_HEADER);

  /** Looks at the frame of `length` bytes at `at`; the fields hold until the next. */
  find(bytes: Uint8Array, at: number, length: number): number {
    this.kind = OTHER;
    const limit = at + length;
    let type = at + 12;
    for (let tags = 0; tags < MAX_TAGS && type + 2 <= limit && isTag(u16(bytes, type)); tags++) type += 4;
    const header = type + 2;
    if (length < ETHERNET || header > limit) return OTHER;
    const left = limit - header;
    switch (u16(bytes, type)) {
      case 0x0800:
        return this.#version4(bytes, header, left);
      case 0x86dd:
        return this.#version6(bytes, header, left);
      case 0x0806:
        return this.#arp(bytes, header, left);
      default:
        return OTHER;
    }
  }

  /** The protocol that follows the header. */
  protocol(bytes: Uint8Array): number {
    return bytes[this.header + (this.kind === IPV4 ? 9 : 6)]!;
  }

  /** The packet has another protocol, and ends elsewhere: puts lengths and checksum right. */
  rewrite(bytes: Uint8Array, protocol: number, end: number): void {
    const { header } = this;
    this.end = end;
    if (this.kind === IPV6) {
      bytes[header + 6] = protocol;
      setU16(bytes, header + 4, end - this.payload);
      return;
    }
    bytes[header + 9] = protocol;
    setU16(bytes, header + 2, end - header);
    setU16(bytes, header + 10, 0);
    let sum = 0;
    for (let i = header; i < this.payload; i += 2) sum += u16(bytes, i);
    sum = (sum & 0xffff) + (sum >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    setU16(bytes, header + 10, ~sum & 0xffff);
  }

  /**
   * The header without what routers and switches may change: in IPv4 type of service, time to live and checksum; in IPv6 traffic class, flow label
   * and hop limit. Good until the next call.
   */
  fixed(bytes: Uint8Array): Uint8Array {
    const length = this.payload - this.header;
    const fixed = this.#fixed;
    for (let i = 0; i < length; i++) fixed[i] = bytes[this.header + i]!;
    if (this.kind === IPV4) {
      fixed[1] = fixed[8] = fixed[10] = fixed[11] = 0;
    } else {
      fixed[0]! &= 0xf0;
      fixed[1] = fixed[2] = fixed[3] = fixed[7] = 0;
    }
    return fixed.subarray(0, length);
  }

  #version4(bytes: Uint8Array, header: number, left: number): number {
    if (left < 20 || bytes[header]! >> 4 !== 4) return OTHER;
    const length = (bytes[header]! & 15) * 4;
    const total = u16(bytes, header + 2);
    if (length < 20 || total < length || total > left) return OTHER;
    return this.#is(IPV4, header, length, total);
  }

  #version6(bytes: Uint8Array, header: number, left: number): number {
    if (left < 40 || bytes[header]! >> 4 !== 6) return OTHER;
    const total = 40 + u16(bytes, header + 4);
    if (total > left) return OTHER;
    return this.#is(IPV6, header, 40, total);
  }

  #arp(bytes: Uint8Array, header: number, left: number): number {
    if (left < ARP_BYTES) return OTHER;
    for (let i = 0; i < ARP_FIXED.length; i++) if (bytes[header + i] !== ARP_FIXED[i]) return OTHER;
    return this.#is(ARP, header, ARP_BYTES, ARP_BYTES);
  }

  #is(kind: IpPacket['kind'], header: number, length: number, total: number): number {
    this.kind = kind;
    this.header = header;
    this.payload = header + length;
    this.end = header + total;
    return kind;
  }
}

function isTag(type: number): boolean {
  return type === 0x8100 || type === 0x88a8;
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

function setU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
