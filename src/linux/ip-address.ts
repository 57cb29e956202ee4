/** IP addresses and Ethernet addresses between text and bytes. */
import { isIPv4, isIPv6 } from 'node:net';

export const AF_INET = 2;
export const AF_INET6 = 10;

/** Text that is no address of the kind wanted. */
export class AddressError extends Error {
  override readonly name = 'AddressError';
  readonly code = 'ERR_ADDRESS';
}

export interface IpAddress {
  family: typeof AF_INET | typeof AF_INET6;
  /** 4 or 16 bytes, network order. */
  bytes: Uint8Array;
}

/** Parses an IPv4 or IPv6 address (without zone). */
export function parseIp(text: string): IpAddress {
  if (isIPv4(text)) return { family: AF_INET, bytes: Uint8Array.from(text.split('.'), Number) };
  if (!isIPv6(text) || text.includes('%')) throw new AddressError(`"${text}" is no IP address`);
  // The last 32 bits may be written as an IPv4 address.
  const dotted = /[\d.]*$/.exec(text)![0];
  const plain = dotted.includes('.')
    ? text.slice(0, -dotted.length) + hexGroups(Uint8Array.from(dotted.split('.'), Number)).join(':')
    : text;
  const [head, tail] = plain.split('::').map(half => (half === '' ? [] : half.split(':')));
  const zeros = tail ? new Array<string>(8 - head!.length - tail.length).fill('0') : [];
  const groups = [...head!, ...zeros, ...(tail ?? [])].map(group => Number.parseInt(group, 16));
  return { family: AF_INET6, bytes: Uint8Array.from(groups.flatMap(group => [group >> 8, group & 0xff])) };
}

/** Parses `ADDRESS/LENGTH`; without a length, one that covers the single address. */
export function parsePrefix(text: string): IpAddress & { prefixLength: number } {
  const [address, length, more] = text.split('/');
  const ip = parseIp(address!);
  const bits = ip.bytes.length * 8;
  const prefixLength = length === undefined ? bits : Number(length);
  const good = more === undefined && length !== '' && Number.isInteger(prefixLength);
  if (!good || prefixLength < 0 || prefixLength > bits) throw new AddressError(`"${text}" is no IP prefix`);
  return { ...ip, prefixLength };
}

/** Bytes to text; IPv6 without abbreviations beyond leading zeros of a group. */
export function formatIp(bytes: Uint8Array): string {
  return bytes.length === 4 ? bytes.join('.') : hexGroups(bytes).join(':');
}

/** Parses `02:00:00:00:00:01`, the address of an interface: neither a group's nor zero, which the kernel refuses as well. */
export function parseMac(text: string): Uint8Array {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text))
    throw new AddressError(`"${text}" is no Ethernet address`);
  const mac = Uint8Array.from(text.split(':'), byte => Number.parseInt(byte, 16));
  if ((mac[0]! & 1) !== 0) throw new AddressError(`${text} is the address of a group, not of an interface`);
  if (mac.every(byte => byte === 0)) throw new AddressError(`${text} is no interface's address`);
  return mac;
}

/** Bytes to `02:00:00:00:00:01`. */
export function formatMac(bytes: Uint8Array): string {
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join(':');
}

function hexGroups(bytes: Uint8Array): string[] {
  const groups: string[] = [];
  for (let i = 0; i < bytes.length; i += 2) groups.push(((bytes[i]! << 8) | bytes[i + 1]!).toString(16));
  return groups;
}
