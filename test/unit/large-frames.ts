/** Large frames of all shapes, with the headers that ask for them to be cut, as kernels hand them over. */
import fc from 'fast-check';
import { internetChecksum } from './internet-checksum.js';
import type { Ask } from './segment-model.js';

export const GSO = { TCPV4: 1, UDP: 3, TCPV6: 4, UDP_L4: 5 } as const;

export interface Shape {
  readonly kind: 'tcp' | 'datagrams' | 'fragments';
  readonly v6: boolean;
  readonly vlans: number;
  /** IPv4: words of options. */
  readonly options: number;
  /** IPv6: types of extension headers, and words of 8 bytes beyond the first of each. */
  readonly extensions: readonly { readonly type: number; readonly more: number }[];
  /** TCP: words of options. */
  readonly tcp: number;
  readonly payload: number;
  readonly size: number;
  readonly flags: number;
  readonly sequence: number;
  readonly id: number;
  readonly dontFragment: boolean;
}

const extension = (type: number) =>
  fc.record({ type: fc.constant(type), more: fc.integer({ min: 0, max: 3 }) });

/** In the order that RFC 8200 recommends: hop-by-hop, destination options, routing, destination options. */
const extensions = fc
  .tuple(...[0, 60, 43, 60].map(type => fc.tuple(fc.boolean(), extension(type))))
  .map(all => all.filter(([there]) => there).map(([, header]) => header));

export const shape: fc.Arbitrary<Shape> = fc.record({
  kind: fc.constantFrom('tcp', 'datagrams', 'fragments'),
  v6: fc.boolean(),
  vlans: fc.integer({ min: 0, max: 2 }),
  options: fc.integer({ min: 0, max: 10 }),
  extensions,
  tcp: fc.integer({ min: 0, max: 10 }),
  payload: fc.oneof(fc.integer({ min: 1, max: 20_000 }), fc.integer({ min: 1, max: 65_000 })),
  size: fc.integer({ min: 136, max: 3000 }),
  flags: fc.integer({ min: 0, max: 255 }),
  sequence: fc.integer({ min: 0, max: 0xffff_ffff }),
  id: fc.integer({ min: 0, max: 0xffff }),
  dontFragment: fc.boolean(),
});

export const plain: Shape = {
  ...{ kind: 'tcp', v6: false, vlans: 0, options: 0, extensions: [], tcp: 3, payload: 5000, size: 1448 },
  ...{ flags: 0x18, sequence: 1, id: 77, dontFragment: false },
};

/** Addresses and ports of the frame; default: some. */
export interface Route {
  readonly ethernet: Uint8Array;
  readonly source: Uint8Array;
  readonly target: Uint8Array;
  readonly port: number;
}

const filler = (length: number, seed: number): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 31) ^ (i >> 8) ^ seed));

function someRoute(v6: boolean): Route {
  const bytes = v6 ? 16 : 4;
  return {
    ethernet: filler(12, 0x5a),
    source: filler(bytes, 0x0a),
    target: filler(bytes, 0x77),
    port: 7000,
  };
}

/** What the datagrams or the stream carry. */
export const payloadOf = ({ payload, sequence }: Shape): Buffer => filler(payload, sequence & 0xff);

/** The frame: lengths those of the whole, the checksum that of the pseudo-header, as it was when the kernel asked. */
export function largeFrame(shape: Shape, route = someRoute(shape.v6)): { frame: Buffer; ask: Ask } {
  const tcp = shape.kind === 'tcp';
  const protocol = tcp ? 6 : 17;
  const payload = payloadOf(shape);
  const transport = Buffer.alloc((tcp ? 20 + 4 * shape.tcp : 8) + payload.length);
  const headerSize = transport.length - payload.length;
  transport.fill(0x42, 20, headerSize);
  transport.set(payload, headerSize);
  transport.writeUInt16BE(5, 0);
  transport.writeUInt16BE(route.port, 2);
  if (tcp) {
    transport.writeUInt32BE(shape.sequence, 4);
    transport[12] = (5 + shape.tcp) << 4;
    transport[13] = shape.flags;
  } else transport.writeUInt16BE(transport.length, 4);
  const pseudo = Buffer.concat([route.source, route.target, Buffer.alloc(8)]);
  pseudo.writeUInt32BE(transport.length, pseudo.length - 8);
  pseudo.writeUInt32BE(protocol, pseudo.length - 4);
  const offset = tcp ? 16 : 6;
  transport.writeUInt16BE(0xffff - internetChecksum(pseudo), offset);

  const tags = Array.from({ length: shape.vlans }, (_, i) => [i === 0 ? 0x88a8 : 0x8100, 100 + i]).flat();
  const link = Buffer.concat([route.ethernet, Buffer.alloc(2 * tags.length + 2)]);
  for (const [i, word] of [...tags, shape.v6 ? 0x86dd : 0x800].entries()) {
    link.writeUInt16BE(word, 12 + 2 * i);
  }
  const ip = shape.v6 ? ipv6(shape, route, protocol, transport.length) : ipv4(shape, route, protocol);
  if (!shape.v6) {
    ip.writeUInt16BE(Math.min(0xffff, ip.length + transport.length), 2);
    ip.writeUInt16BE(internetChecksum(ip), 10);
  }
  const start = link.length + ip.length;
  const frame = Buffer.concat([link, ip, transport]);
  const type = tcp ? (shape.v6 ? GSO.TCPV6 : GSO.TCPV4) : shape.kind === 'fragments' ? GSO.UDP : GSO.UDP_L4;
  const ask = { flags: 1, type, hdrLen: start + headerSize, gsoSize: shape.size, start, offset };
  return { frame, ask };
}

function ipv4(shape: Shape, { source, target }: Route, protocol: number): Buffer {
  const ip = Buffer.alloc(20 + 4 * shape.options);
  ip[0] = 0x45 + shape.options;
  ip.writeUInt16BE(shape.id, 4);
  ip.writeUInt16BE(shape.dontFragment ? 0x4000 : 0, 6);
  ip[8] = 64;
  ip[9] = protocol;
  ip.set(source, 12);
  ip.set(target, 16);
  // Options of four bytes each, one for all fragments and one for the first in turns.
  for (let i = 0; i < shape.options; i++) ip.writeUInt32BE(i % 2 === 0 ? 0x94040000 : 0x1e04abcd, 20 + 4 * i);
  return ip;
}

function ipv6(shape: Shape, { source, target }: Route, protocol: number, bytes: number): Buffer {
  const headers = shape.extensions.map(({ type, more }) => {
    const header = Buffer.alloc(8 * (more + 1));
    header[1] = more;
    // One option, PadN; of a routing header: type 0, no segments left.
    if (type !== 43) header.set([1, header.length - 4], 2);
    return header;
  });
  const types = [...shape.extensions.map(({ type }) => type), protocol];
  for (const [i, header] of headers.entries()) header[0] = types[i + 1]!;
  const ip = Buffer.alloc(40);
  ip[0] = 0x60;
  ip.writeUInt16BE(Math.min(0xffff, bytes + headers.reduce((sum, { length }) => sum + length, 0)), 4);
  ip[6] = types[0]!;
  ip[7] = 64;
  ip.set(source, 8);
  ip.set(target, 24);
  return Buffer.concat([ip, ...headers]);
}
