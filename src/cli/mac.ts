/** Addresses of NICs: as users write them, and as nobody has written one. */
import { randomBytes } from 'node:crypto';
import { parseMac } from '../linux/ip-address.js';
import { UsageError } from './host.js';

/** 6 octets. Throws UsageError. */
export function macAddress(text: string): Uint8Array {
  try {
    return parseMac(text);
  } catch (error) {
    throw new UsageError(`--mac: ${(error as Error).message}`);
  }
}

/** A locally administered unicast address. */
export function randomMac(): Uint8Array {
  const mac = randomBytes(6);
  mac[0] = (mac[0]! & 0xfc) | 2;
  return mac;
}

/** The address that many further on, in its last three octets, which go round. */
export function macAfter(mac: Uint8Array, n: number): Uint8Array {
  const next = Uint8Array.from(mac);
  const number = (((mac[3]! << 16) | (mac[4]! << 8) | mac[5]!) + n) & 0xff_ffff;
  next.set([number >> 16, (number >> 8) & 0xff, number & 0xff], 3);
  return next;
}
