/**
 * Network interfaces by route netlink: look at one, change it, make a veth pair, delete it. Every function takes the
 * namespace to act in as its last argument; without one it acts in the calling thread's.
 */
import { EINVAL, LinuxError } from './errors.js';
import type { OwnedFd } from './fd.js';
import { formatMac, parseMac } from './ip-address.js';
import {
  type Attributes,
  concat,
  decodeAttributes,
  encodeAttributes,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLM_F_EXCL,
  netlinkRequest,
} from './netlink.js';

const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_GETLINK = 18;
const RTM_SETLINK = 19;
const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_TXQLEN = 13;
const IFLA_OPERSTATE = 16;
const IFLA_LINKINFO = 18;
const IFLA_STATS64 = 23;
const IFLA_NET_NS_FD = 28;
const IFLA_CARRIER = 33;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const VETH_INFO_PEER = 1;

export const IFF_UP = 0x1;
export const IFF_RUNNING = 0x40;
export const IFF_PROMISC = 0x100;

const OPERSTATES = ['unknown', 'notpresent', 'down', 'lowerlayerdown', 'testing', 'dormant', 'up'] as const;
export type OperationalState = (typeof OPERSTATES)[number];

const STATS = [
  'rxPackets',
  'txPackets',
  'rxBytes',
  'txBytes',
  'rxErrors',
  'txErrors',
  'rxDropped',
  'txDropped',
] as const;
/** Counters since the interface was made, as the kernel sees it: rx came in from the device. */
export type LinkStats = Record<(typeof STATS)[number], number>;

export interface LinkInfo {
  name: string;
  index: number;
  /** IFF_* bits. */
  flags: number;
  up: boolean;
  /** The cable is plugged in. */
  carrier: boolean;
  operationalState: OperationalState;
  mtu: number;
  mac: string;
  stats: LinkStats;
}

/** Looks an interface up by name. Throws LinuxError ENODEV. */
export function linkInfo(name: string, netns?: OwnedFd): LinkInfo {
  const what = { call: 'look up interface', object: name };
  const body = netlinkRequest(netns, what, RTM_GETLINK, 0, ifinfo(), [[IFLA_IFNAME, name]]);
  if (body.length < 16) throw new LinuxError(what.call, EINVAL, name);
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const attributes = decodeAttributes(body, 16);
  const first = (type: number) => attributes.get(type)?.[0] ?? 0;
  const mtu = attributes.get(IFLA_MTU);
  const flags = view.getUint32(8, true);
  return {
    name,
    index: view.getInt32(4, true),
    flags,
    up: (flags & IFF_UP) !== 0,
    carrier: first(IFLA_CARRIER) === 1,
    operationalState: OPERSTATES[first(IFLA_OPERSTATE)] ?? 'unknown',
    mtu: mtu ? viewOf(mtu).getUint32(0, true) : 0,
    mac: formatMac(attributes.get(IFLA_ADDRESS) ?? new Uint8Array(6)),
    stats: decodeStats(attributes.get(IFLA_STATS64)),
  };
}

export interface LinkChange {
  up?: boolean;
  mtu?: number;
  /** `02:00:00:00:00:01`. */
  mac?: string;
  /** Frames that may wait to be sent; of a TAP, for us to read them. */
  queueLength?: number;
  /** Move the interface into this namespace (it goes down and loses its addresses). */
  moveTo?: OwnedFd;
}

/** Changes an interface. Throws LinuxError: ENODEV, EINVAL (MTU out of range), EPERM. */
export function changeLink(name: string, change: LinkChange, netns?: OwnedFd): void {
  const attributes: [number, Uint8Array | number | string][] = [[IFLA_IFNAME, name]];
  if (change.mtu !== undefined) attributes.push([IFLA_MTU, change.mtu]);
  if (change.mac !== undefined) attributes.push([IFLA_ADDRESS, parseMac(change.mac)]);
  if (change.queueLength !== undefined) attributes.push([IFLA_TXQLEN, change.queueLength]);
  if (change.moveTo) attributes.push([IFLA_NET_NS_FD, change.moveTo.fd]);
  const struct = ifinfo(
    change.up === undefined ? undefined : { flags: change.up ? IFF_UP : 0, mask: IFF_UP },
  );
  netlinkRequest(
    netns,
    { call: 'change interface', object: name },
    RTM_SETLINK,
    NLM_F_ACK,
    struct,
    attributes,
  );
}

/** Makes a pair of interfaces joined by a cable; `peer` may be in another namespace. Both are down. */
export function createVeth(name: string, peer: { name: string; netns?: OwnedFd }, netns?: OwnedFd): void {
  const peerAttributes: Attributes = [
    [IFLA_IFNAME, peer.name],
    ...(peer.netns ? [[IFLA_NET_NS_FD, peer.netns.fd] as const] : []),
  ];
  const peerValue = concat([ifinfo(), encodeAttributes(peerAttributes)]);
  const info: Attributes = [
    [IFLA_INFO_KIND, 'veth'],
    [IFLA_INFO_DATA, { nested: [[VETH_INFO_PEER, peerValue]] }],
  ];
  const what = { call: 'create veth', object: `${name} - ${peer.name}` };
  netlinkRequest(netns, what, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, ifinfo(), [
    [IFLA_IFNAME, name],
    [IFLA_LINKINFO, { nested: info }],
  ]);
}

/** Deletes an interface; a veth takes its peer with it. Throws LinuxError ENODEV, EOPNOTSUPP (hardware). */
export function deleteLink(name: string, netns?: OwnedFd): void {
  const what = { call: 'delete interface', object: name };
  netlinkRequest(netns, what, RTM_DELLINK, NLM_F_ACK, ifinfo(), [[IFLA_IFNAME, name]]);
}

/** struct ifinfomsg: u8 family, u8, u16 type, i32 index (0: by name), u32 flags, u32 which flags to change. */
function ifinfo(change?: { flags: number; mask: number }): Uint8Array {
  const struct = new DataView(new ArrayBuffer(16));
  struct.setUint32(8, change?.flags ?? 0, true);
  struct.setUint32(12, change?.mask ?? 0, true);
  return new Uint8Array(struct.buffer);
}

/** struct rtnl_link_stats64: u64 counters in the order of STATS (and more behind them). */
function decodeStats(bytes: Uint8Array | undefined): LinkStats {
  const view = bytes && bytes.length >= STATS.length * 8 ? viewOf(bytes) : undefined;
  const entries = STATS.map((name, i) => [name, view ? Number(view.getBigUint64(i * 8, true)) : 0]);
  return Object.fromEntries(entries) as LinkStats;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
