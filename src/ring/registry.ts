/** The device types there are. A new one is an entry here, or a module of its own, which is named by its path. */
import { isModule, moduleType } from './module.js';
import type { DeviceType } from './ring.js';
import { sealed } from './sealed.js';
import { sring } from './sring.js';
import { sringGso } from './sring-gso.js';
import { vringPacked } from './vring-packed.js';

const TYPES: readonly DeviceType[] = [sring, sringGso, vringPacked];
const SEALED: readonly DeviceType[] = [sring, sringGso, vringPacked].map(sealed);

/** The ring formats by themselves. */
export const deviceTypeNames: readonly string[] = TYPES.map(type => type.name);
/** Those whose packets the guest seals: another guest with the same key can make sense of them, and nothing else. */
export const sealedTypeNames: readonly string[] = SEALED.map(type => type.name);

/** The type of that name, undefined when there is none. A path of a module: the type that it exports. Throws DeviceTypeError when that is none. */
export function deviceType(name: string): DeviceType | undefined {
  if (isModule(name)) return moduleType(name, deviceTypeNames);
  return [...TYPES, ...SEALED].find(type => type.name === name);
}
