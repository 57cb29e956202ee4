/** Has an eventfd of the slot's, which outlives functions, ring a doorbell of the one that is in the slot. */
import { EventFd } from '../../linux/eventfd.js';
import { type OwnedFd, replaceFd } from '../../linux/fd.js';
import type { PciAccess } from './access.js';

/** What is to be written, and where. */
export interface Doorbell {
  readonly region: number;
  readonly offset: number;
  readonly value: number;
  /** Bytes. */
  readonly size: 1 | 2 | 4;
}

/** The function's own eventfd takes the place of `eventfd`, or signals of it are turned into writes. Rejects with PciError, LinuxError. */
export async function wireDoorbell(access: PciAccess, bell: Doorbell, eventfd: OwnedFd): Promise<void> {
  const { region, offset, value, size } = bell;
  const own = access.doorbell?.(region, offset);
  using fresh = EventFd.create(eventfd.name); // what it stood for before may be another function's
  replaceFd(eventfd, own ?? fresh.owner);
  if (!own) await access.wire(region, offset, value, size, eventfd);
}
