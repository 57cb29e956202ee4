/** Device types whose packets are sealed on their way: another's ring, with programs that have the guest's driver encrypt (docs/sealing.md). */
import type { DeviceType } from './ring.js';

/** The sealed form of a device type. It has no offloads: what is encrypted can't be summed or cut any more. */
export function sealed(base: DeviceType): DeviceType {
  const programs = new URL(base.programs.href.replace(/\.o$/, '_seal.o'));
  return { ...base, name: `${base.name}+seal`, features: 0n, programs };
}
