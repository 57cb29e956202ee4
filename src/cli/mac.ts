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
