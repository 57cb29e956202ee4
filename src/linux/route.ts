/**
 * IP addresses, routes and neighbours of interfaces by route netlink. Every function takes the namespace to act in as its
 * last argument; without one it acts in the calling thread's.
 */
import type { OwnedFd } from './fd.js';
import { AF_INET, parseIp, parseMac, parsePrefix } from './ip-address.js';
import { linkInfo } from './link.js';
import {
  type AttributeValue,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  netlinkRequest,
} from './netlink.js';

const RTM_NEWADDR = 20;
const RTM_DELADDR = 21;
const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
const RTM_NEWNEIGH = 28;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_F_NODAD = 0x02;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RT_TABLE_MAIN = 254;
const RTPROT_STATIC = 4;
const RT_SCOPE_UNIVERSE = 0;
const RT_SCOPE_LINK = 253;
const RTN_UNICAST = 1;
const NDA_DST = 1;
const NDA_LLADDR = 2;
const NUD_PERMANENT = 0x80;

/**
 * Gives an interface an address, e.g. `10.0.0.1/24` or `fd00::1/64` (usable at once: no duplicate detection). Throws
 * LinuxError: EEXIST, ENODEV.
 */
export function addAddress(interfaceName: string, prefix: string, netns?: OwnedFd): void {
  changeAddress(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, interfaceName, prefix, netns);
}

/** Takes an address away. Throws LinuxError EADDRNOTAVAIL when it was not there. */
export function removeAddress(interfaceName: string, prefix: string, netns?: OwnedFd): void {
  changeAddress(RTM_DELADDR, 0, interfaceName, prefix, netns);
}

export interface Route {
  /** `10.1.0.0/16`; `0.0.0.0/0` and `::/0` are the default routes. */
  to: string;
  /** The next router; without one the destinations are on the cable. */
  via?: string;
  /** The interface; needed without `via`. */
  device?: string;
}

/** Adds a route to the main table. Throws LinuxError: EEXIST, ENETUNREACH (`via` is not on a cable), ENODEV. */
export function addRoute(route: Route, netns?: OwnedFd): void {
  changeRoute(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route, netns);
}

/** Removes a route. Throws LinuxError ESRCH when it was not there. */
export function removeRoute(route: Route, netns?: OwnedFd): void {
  changeRoute(RTM_DELROUTE, 0, route, netns);
}

/** Notes for good which Ethernet address an IP address on an interface has, so that nobody needs to ask for it. */
export function setNeighbour(interfaceName: string, ip: string, mac: string, netns?: OwnedFd): void {
  const { family, bytes } = parseIp(ip);
  const struct = new DataView(new ArrayBuffer(12)); // struct ndmsg
  struct.setUint8(0, family);
  struct.setInt32(4, linkInfo(interfaceName, netns).index, true);
  struct.setUint16(8, NUD_PERMANENT, true);
  const what = { call: 'set neighbour', object: `${ip} on ${interfaceName}` };
  const flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
  netlinkRequest(netns, what, RTM_NEWNEIGH, flags, new Uint8Array(struct.buffer), [
    [NDA_DST, bytes],
    [NDA_LLADDR, parseMac(mac)],
  ]);
}

function changeAddress(type: number, flags: number, device: string, prefix: string, netns?: OwnedFd): void {
  const { family, bytes, prefixLength } = parsePrefix(prefix);
  const struct = new DataView(new ArrayBuffer(8)); // struct ifaddrmsg
  struct.setUint8(0, family);
  struct.setUint8(1, prefixLength);
  struct.setUint8(2, family === AF_INET ? 0 : IFA_F_NODAD);
  struct.setUint32(4, linkInfo(device, netns).index, true);
  const call = type === RTM_NEWADDR ? 'add address' : 'remove address';
  const what = { call, object: `${prefix} on ${device}` };
  netlinkRequest(netns, what, type, NLM_F_ACK | flags, new Uint8Array(struct.buffer), [
    [IFA_LOCAL, bytes],
    [IFA_ADDRESS, bytes],
  ]);
}

function changeRoute(type: number, flags: number, { to, via, device }: Route, netns?: OwnedFd): void {
  const { family, bytes, prefixLength } = parsePrefix(to);
  const struct = new Uint8Array(12); // struct rtmsg
  struct.set([family, prefixLength, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC]);
  struct[6] = via || family !== AF_INET ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
  struct[7] = RTN_UNICAST;
  const attributes: [number, AttributeValue][] = [[RTA_DST, bytes]];
  if (via) attributes.push([RTA_GATEWAY, parseIp(via).bytes]);
  if (device) attributes.push([RTA_OIF, linkInfo(device, netns).index]);
  const call = type === RTM_NEWROUTE ? 'add route' : 'remove route';
  const object = `${to}${via ? ` via ${via}` : ''}${device ? ` dev ${device}` : ''}`;
  netlinkRequest(netns, { call, object }, type, NLM_F_ACK | flags, struct, attributes);
}
