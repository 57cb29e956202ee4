/**
 * What software segmentation has to give, said once more and as plainly as can be: headers are taken apart into lists of bytes and put together again.
 * Nothing of it is shared with the datapath. And a receiver, who trusts nobody: it checks every length and checksum, and puts fragments together.
 */
import assert from 'node:assert/strict';
import { internetChecksum } from './internet-checksum.js';

/** A virtio-net header. */
export interface Ask {
  readonly flags: number;
  readonly type: number;
  readonly hdrLen: number;
  readonly gsoSize: number;
  readonly start: number;
  readonly offset: number;
}

const MOST_HEADERS = 224;
const MOST_PIECES = 1366;
const TCP = 6;
const UDP = 17;

interface Packet {
  /** Ethernet and VLANs. */
  readonly link: Buffer;
  /** The IP header, with options. */
  readonly ip: Buffer;
  readonly extensions: readonly { readonly type: number; readonly bytes: Buffer }[];
  readonly transport: Buffer;
  readonly v6: boolean;
}

const concat = (...parts: readonly Uint8Array[]): Buffer => Buffer.concat(parts);
const complement = (sum: number): number => 0xffff - sum;
const udpSum = (sum: number): number => sum || 0xffff;

/** The frames that `frame` stands for; null: it has to be refused. `id`: the identification of its fragments, where the sender has chosen none. */
export function cutPlainly(frame: Buffer, ask: Ask, id: number): Buffer[] | null {
  const { flags, type, start, offset, gsoSize } = ask;
  const sums = (flags & 1) !== 0;
  if (frame.length === 0 || frame.length > 65536) return null;
  if (sums && start + offset + 2 > frame.length) return null;
  const whole = Buffer.from(frame);
  if (sums) {
    whole.writeUInt16BE(udpSum(internetChecksum(frame.subarray(start))), start + offset);
  }
  if (type === 0) return [whole];
  if (!sums || gsoSize === 0 || ask.hdrLen > frame.length) return null;
  const packet = takeApart(frame, start, [1, 4, 0x81, 0x84].includes(type) ? TCP : UDP);
  if (!packet) return null;
  switch (type) {
    case 1:
    case 0x81:
      return packet.v6 ? null : segments(packet, ask);
    case 4:
    case 0x84:
      return packet.v6 ? segments(packet, ask) : null;
    case 5:
      return datagrams(packet, ask);
    case 3: {
      if (offset !== 6 || packet.transport.length < 8) return null;
      const finished = takeApart(whole, start, UDP)!;
      return fragments(finished, gsoSize, id, whole);
    }
    default:
      return null;
  }
}

/** The packet whose transport header is at `start`. Null: there is none of that protocol, or it is a fragment. */
function takeApart(frame: Buffer, start: number, protocol: number): Packet | null {
  if (start < 34 || start > MOST_HEADERS || start >= frame.length) return null;
  let l3 = 14;
  while ([0x8100, 0x88a8].includes(frame.readUInt16BE(l3 - 2)) && l3 + 4 <= start) l3 += 4;
  const link = frame.subarray(0, l3);
  const transport = frame.subarray(start);
  const type = frame.readUInt16BE(l3 - 2);
  if (type === 0x800) {
    const ip = frame.subarray(l3, start);
    if (ip.length < 20 || ip[0] !== 0x40 + ip.length / 4 || ip[9] !== protocol) return null;
    if ((ip.readUInt16BE(6) & 0xbfff) !== 0) return null;
    return { link, ip, extensions: [], transport, v6: false };
  }
  if (type !== 0x86dd || l3 + 40 > start || frame[l3]! >> 4 !== 6) return null;
  const ip = frame.subarray(l3, l3 + 40);
  const extensions: { type: number; bytes: Buffer }[] = [];
  let next = ip[6]!;
  let at = l3 + 40;
  while (at < start) {
    if (![0, 43, 60].includes(next) || (next === 0 && extensions.length > 0)) return null;
    const bytes = frame.subarray(at, at + 8 * (frame[at + 1]! + 1));
    extensions.push({ type: next, bytes });
    next = bytes[0]!;
    at += 8 * (bytes[1]! + 1);
  }
  return at === start && next === protocol ? { link, ip, extensions, transport, v6: true } : null;
}

/** An IP packet with this behind its IP header. */
function ipPacket({ link, ip, v6 }: Packet, rest: Buffer, change: (ip: Buffer) => void): Buffer {
  const header = Buffer.from(ip);
  change(header);
  if (v6) header.writeUInt16BE(rest.length, 4);
  else {
    header.writeUInt16BE(header.length + rest.length, 2);
    header.writeUInt16BE(0, 10);
    header.writeUInt16BE(internetChecksum(header), 10);
  }
  return concat(link, header, rest);
}

function chunks(bytes: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
    bytes.subarray(i * size, (i + 1) * size),
  );
}

/** Cuts what is behind a transport header of `size` bytes; `change` makes that of a piece of it. */
function share(
  packet: Packet,
  { gsoSize }: Ask,
  size: number,
  change: (header: Buffer, i: number, last: boolean) => void,
  finish: (header: Buffer, sum: number) => void,
): Buffer[] | null {
  const { transport, extensions, ip, link, v6 } = packet;
  const payload = transport.subarray(size);
  const between = concat(...extensions.map(({ bytes }) => bytes));
  const headers = link.length + ip.length + between.length + size;
  if (transport.length <= size || headers > MOST_HEADERS) return null;
  const parts = chunks(payload, gsoSize);
  if (parts.length > MOST_PIECES) return null;
  const field = size === 8 ? 6 : 16;
  // What the field says of the pseudo-header, less the length that is in it.
  const pseudo = transport.readUInt16BE(field) + complement(transport.length);
  return parts.map((part, i) => {
    const header = Buffer.from(transport.subarray(0, size));
    change(header, i, i === parts.length - 1);
    if (size === 8) header.writeUInt16BE(8 + part.length, 4);
    header.writeUInt16BE(0, field);
    finish(header, internetChecksum(concat(header, part), pseudo + size + part.length));
    return ipPacket(packet, concat(between, header, part), ip => {
      if (!v6) ip.writeUInt16BE((ip.readUInt16BE(4) + i) & 0xffff, 4);
    });
  });
}

function segments(packet: Packet, ask: Ask): Buffer[] | null {
  const { transport } = packet;
  if (ask.offset !== 16 || transport.length < 20) return null;
  const size = (transport[12]! >> 4) * 4;
  if (size < 20) return null;
  const sequence = transport.readUInt32BE(4);
  return share(
    packet,
    ask,
    size,
    (header, i, last) => {
      header.writeUInt32BE((sequence + i * ask.gsoSize) % 2 ** 32, 4);
      if (!last) header[13]! &= ~0x09; // FIN, PSH
      if (i > 0) header[13]! &= ~0x80; // CWR
    },
    (header, sum) => header.writeUInt16BE(sum, 16),
  );
}

function datagrams(packet: Packet, ask: Ask): Buffer[] | null {
  if (ask.offset !== 6 || packet.transport.length < 8) return null;
  return share(
    packet,
    ask,
    8,
    () => {},
    (header, sum) => header.writeUInt16BE(udpSum(sum), 6),
  );
}

function fragments(packet: Packet, gsoSize: number, id: number, whole: Buffer): Buffer[] | null {
  const { extensions, transport, v6, ip } = packet;
  const routing = extensions.findLastIndex(({ type }) => type !== 60) + 1;
  const every = extensions.slice(0, routing);
  const once = concat(...extensions.slice(routing).map(({ bytes }) => bytes));
  const rest = concat(once, transport);
  if (rest.length <= gsoSize) return [whole];
  const size = gsoSize - (gsoSize % 8);
  if (size < once.length + 8) return null;
  const parts = chunks(rest, size);
  if (parts.length > MOST_PIECES) return null;
  return parts.map((part, i) => {
    const more = i < parts.length - 1;
    if (!v6) {
      return ipPacket(packet, part, header => {
        const atomic = header.readUInt16BE(6) === 0x4000 && header.readUInt16BE(4) === 0;
        if (atomic) header.writeUInt16BE(id & 0xffff, 4);
        header.writeUInt16BE((i * size) / 8 + (more ? 0x2000 : 0), 6);
        if (i > 0) withoutOptions(header);
      });
    }
    const fragment = Buffer.alloc(8);
    fragment[0] = (every.at(-1)?.bytes ?? ip.subarray(6))[0]!;
    fragment.writeUInt16BE(i * size + (more ? 1 : 0), 2);
    fragment.writeUInt32LE(id, 4);
    const chain = every.map(({ bytes }) => Buffer.from(bytes));
    if (chain.length > 0) chain.at(-1)![0] = 44;
    return ipPacket(packet, concat(...chain, fragment, part), header => {
      if (chain.length === 0) header[6] = 44;
    });
  });
}

/** Options that are not for every fragment become "no operation". */
function withoutOptions(ip: Buffer): void {
  for (let at = 20; at < ip.length; ) {
    const type = ip[at]!;
    if (type === 0) return;
    if (type === 1) {
      at++;
      continue;
    }
    const length = Math.min(ip[at + 1] ?? 0, ip.length - at);
    if (length < 2) return;
    if (type < 128) ip.fill(1, at, at + length);
    at += length;
  }
}

/** What a host sees of a frame. */
export interface Received {
  readonly v6: boolean;
  readonly protocol: number;
  readonly id: number;
  /** TCP or UDP, header included; of a fragment its part. */
  readonly transport: Buffer;
  /** Offset of the part; 0 and not `more`: no fragment. */
  readonly at: number;
  readonly more: boolean;
}

/** Takes in one frame as a host does, checking all lengths, and checksums except in fragments. Throws when something is wrong. */
export function receive(frame: Buffer): Received {
  let l3 = 14;
  while ([0x8100, 0x88a8].includes(frame.readUInt16BE(l3 - 2))) l3 += 4;
  const v6 = frame.readUInt16BE(l3 - 2) === 0x86dd;
  const packet = frame.subarray(l3);
  let got: Received;
  let addresses: Buffer;
  if (v6) {
    assert.equal(packet.readUInt16BE(4), packet.length - 40, 'IPv6 length');
    addresses = packet.subarray(8, 40);
    let [protocol, at, start, more, id] = [packet[6]!, 0, 40, false, 0];
    while (protocol !== TCP && protocol !== UDP) {
      const header = packet.subarray(start);
      if (protocol === 44) {
        at = header.readUInt16BE(2) & 0xfff8;
        more = (header[3]! & 1) !== 0;
        id = header.readUInt32LE(4);
        start += 8;
        protocol = header[0]!;
        if (at > 0) break;
      } else {
        assert.ok([0, 43, 60].includes(protocol), `IPv6 header ${protocol}`);
        protocol = header[0]!;
        start += 8 * (header[1]! + 1);
      }
    }
    got = { v6, protocol, id, transport: packet.subarray(start), at, more };
  } else {
    const size = (packet[0]! & 15) * 4;
    assert.equal(internetChecksum(packet.subarray(0, size)), 0, 'checksum of the IPv4 header');
    assert.equal(packet.readUInt16BE(2), packet.length, 'IPv4 length');
    addresses = packet.subarray(12, 20);
    const word = packet.readUInt16BE(6);
    const fragment = { at: (word & 0x1fff) * 8, more: (word & 0x2000) !== 0 };
    got = {
      ...{ v6, protocol: packet[9]!, id: packet.readUInt16BE(4), transport: packet.subarray(size) },
      ...fragment,
    };
  }
  if (got.at === 0 && !got.more) checkTransport(got, addresses);
  return got;
}

function checkTransport({ protocol, transport }: Received, addresses: Buffer): void {
  const pseudo = Buffer.alloc(8);
  pseudo.writeUInt32BE(transport.length);
  pseudo[7] = protocol;
  const sum = internetChecksum(transport, complement(internetChecksum(concat(addresses, pseudo))));
  assert.equal(sum, 0, `checksum of ${transport.length} bytes of protocol ${protocol}`);
  if (protocol !== UDP) return;
  assert.equal(transport.readUInt16BE(4), transport.length, 'UDP length');
  assert.notEqual(transport.readUInt16BE(6), 0, 'UDP without checksum');
}

/** The datagram that these fragments make, or this one frame is: for `receive`. Throws when one is missing, too much, or not like the others. */
export function reassemble(frames: readonly Buffer[]): Buffer {
  const parts = frames.map(receive);
  if (frames.length === 1 && !parts[0]!.more) return frames[0]!;
  const rest: Buffer[] = [];
  let at = 0;
  for (const [i, part] of parts.entries()) {
    assert.equal(part.at, at, `offset of fragment ${i}`);
    assert.equal(part.id, parts[0]!.id, `identification of fragment ${i}`);
    assert.equal(part.more, i < parts.length - 1, `fragment ${i} of ${parts.length}`);
    const start = frames[i]!.length - part.transport.length;
    // Of the first one, destination options belong to the part as well.
    const bytes = part.v6 ? frames[i]!.subarray(fragmentEnd(frames[i]!)) : frames[i]!.subarray(start);
    if (part.more) assert.equal(bytes.length % 8, 0, `${bytes.length} bytes in fragment ${i}`);
    rest.push(bytes);
    at += bytes.length;
  }
  return join(frames[0]!, concat(...rest));
}

/** Where the fragment header of an IPv6 frame ends. */
function fragmentEnd(frame: Buffer): number {
  return fragmentLink(frame).end;
}

function fragmentLink(frame: Buffer): { link: number; end: number } {
  let l3 = 14;
  while ([0x8100, 0x88a8].includes(frame.readUInt16BE(l3 - 2))) l3 += 4;
  let link = l3 + 6;
  let at = l3 + 40;
  while (frame[link] !== 44) {
    link = at;
    at += 8 * (frame[at + 1]! + 1);
  }
  return { link, end: at + 8 };
}

/** The first fragment's headers before all of the datagram, no longer fragments. */
function join(first: Buffer, rest: Buffer): Buffer {
  const { v6, transport } = receive(first);
  let l3 = 14;
  while ([0x8100, 0x88a8].includes(first.readUInt16BE(l3 - 2))) l3 += 4;
  if (v6) {
    const { link, end } = fragmentLink(first);
    const frame = concat(first.subarray(0, end - 8), rest);
    frame[link] = first[end - 8]!;
    frame.writeUInt16BE(frame.length - l3 - 40, l3 + 4);
    return frame;
  }
  const frame = concat(first.subarray(0, first.length - transport.length), rest);
  const ip = frame.subarray(l3, first.length - transport.length);
  ip.writeUInt16BE(frame.length - l3, 2);
  ip.writeUInt16BE(0, 6);
  ip.writeUInt16BE(0, 10);
  ip.writeUInt16BE(internetChecksum(ip), 10);
  return frame;
}
