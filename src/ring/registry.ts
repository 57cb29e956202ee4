/** The device types there are. A new one is an entry here. */
import type { DeviceType } from './ring.js';
import { sring } from './sring.js';
import { sringGso } from './sring-gso.js';
import { vringPacked } from './vring-packed.js';

const TYPES: readonly DeviceType[] = [sring, sringGso, vringPacked];

export const deviceTypeNames: readonly string[] = TYPES.map(type => type.name);

/** The type of that name, undefined when there is none. */
export function deviceType(name: string): DeviceType | undefined {
  return TYPES.find(type => type.name === name);
}
