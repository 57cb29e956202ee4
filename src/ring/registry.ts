/** The device types there are. A new one is an entry here, or a module of its own, which is named by its path. */
import { isModule, moduleType } from './module.js';
import type { DeviceType } from './ring.js';
import { sring } from './sring.js';
import { sringGso } from './sring-gso.js';
import { vringPacked } from './vring-packed.js';

const TYPES: readonly DeviceType[] = [sring, sringGso, vringPacked];

export const deviceTypeNames: readonly string[] = TYPES.map(type => type.name);

/** The type of that name, undefined when there is none. A path of a module: the type that it exports. Throws DeviceTypeError when that is none. */
export function deviceType(name: string): DeviceType | undefined {
  if (isModule(name)) return moduleType(name, deviceTypeNames);
  return TYPES.find(type => type.name === name);
}
