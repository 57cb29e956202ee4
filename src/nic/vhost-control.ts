/**
 * What vhost-user may ask of a virtio NIC: the seam between `src/control/vhost-user/` and `virtio-nic.ts`, as control.ts is for bpfhv. Vrings are
 * numbered as virtio does: 0 receives and 1 transmits for the first queue pair, 2 and 3 for the second one.
 */
import type { OwnedFd } from '../linux/fd.js';
import type { MemoryRegionSpec } from './control.js';

/** Where the front end has a vring's three areas, in addresses of its own process (or I/O virtual ones, with ACCESS_PLATFORM). */
export interface VringAddresses {
  readonly descriptor: bigint;
  /** The available ring | the driver's event. */
  readonly driver: bigint;
  /** The used ring | the device's event. */
  readonly device: bigint;
  /** Guest physical address of what we write of a split ring, to be marked in the dirty log; null: it is not to be. */
  readonly log: bigint | null;
}

/** One region, named without its file. */
export type RegionName = Pick<MemoryRegionSpec, 'guestPhysicalAddress' | 'size' | 'hypervisorVirtualAddress'>;

/** By what an I/O virtual address is to be translated: part of the front end's process, and whether we may read and write there. */
export interface Translation {
  readonly iova: bigint;
  readonly size: bigint;
  readonly userspaceAddress: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
}

/** Asks the front end for the translation of an address that is about to be read, or written. */
export type AskTranslation = (iova: bigint, write: boolean) => void;

/** A doorbell: an eventfd, or none because the ring is to be looked at again and again. */
export type Kick = OwnedFd | 'polled';

/**
 * Every method either takes effect as a whole or throws NicError, MemoryError, VirtqError or LinuxError and changes nothing. Ownership of fds passes to the
 * NIC, also on failure.
 */
export interface VhostControl {
  readonly queuePairs: number;
  /** Regions that the memory may consist of. */
  readonly memorySlots: number;
  /** The feature bits that the NIC offers. */
  features(): bigint;
  /** `enabled`: all rings are enabled with it, since nobody is going to do so one by one. */
  setFeatures(accepted: bigint, enabled: boolean): Promise<void>;
  setMemoryTable(regions: readonly MemoryRegionSpec[]): Promise<void>;
  addRegion(region: MemoryRegionSpec): Promise<void>;
  removeRegion(region: RegionName): Promise<void>;
  setVringSize(index: number, num: number): Promise<void>;
  setVringAddresses(index: number, addresses: VringAddresses): Promise<void>;
  setVringBase(index: number, base: number): Promise<void>;
  /** Stops the ring. Returns where it stands. */
  stopVring(index: number): Promise<number>;
  /** Starts the ring, as soon as there is everything else. */
  setVringKick(index: number, kick: Kick): Promise<void>;
  setVringCall(index: number, fd: OwnedFd | null): Promise<void>;
  setVringError(index: number, fd: OwnedFd | null): Promise<void>;
  enableVring(index: number, enabled: boolean): Promise<void>;
  /** A bitmap of dirty pages: `size` bytes from `offset` of the file on. */
  setDirtyLog(size: bigint, offset: bigint, fd: OwnedFd): Promise<void>;
  /** The guest is here from now on: tells the network, for a guest that does not do it itself. `mac`: 6 octets. */
  announce(mac: Uint8Array): Promise<void>;
  setMtu(mtu: bigint): Promise<void>;
  /** Who can be asked for translations from now on. */
  setTranslator(ask: AskTranslation | null): Promise<void>;
  addTranslation(translation: Translation): Promise<void>;
  removeTranslation(iova: bigint, size: bigint): Promise<void>;
  /** The device is as it was at first, with the memory that it has. */
  reset(): Promise<void>;
  /** The peer is gone: stop, drop rings, memory and fds. */
  disconnect(): Promise<void>;
}
