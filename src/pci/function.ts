/**
 * A PCI function as whoever connects it to a guest sees it: regions that are read and written, interrupts that are connected to eventfds, memory that it
 * may reach. The seam between `src/control/vfio-user/` (messages) and `src/pci/` (devices); a test can stand on either side.
 *
 * ```
 *   vfio-user server ── read, write, connect, setMemory, reset ──► PciFunction: bpfhv, virtio-net
 *                    ◄───────────── eventfds ────────────────────
 * ```
 */
import type { OwnedFd } from '../linux/fd.js';
import type { MemoryRegionSpec } from '../nic/control.js';

/** What can be seen of a region from outside. Size 0: the function has no such region. */
export interface RegionShape {
  /** Bytes. */
  readonly size: number;
  readonly readable: boolean;
  readonly writable: boolean;
}

/** Writing `size` bytes anywhere at `offset` of a region is the same as signalling the eventfd. */
export interface RegionDoorbell {
  readonly offset: number;
  /** Bytes. */
  readonly size: number;
  /** Stays the function's. */
  readonly fd: OwnedFd;
}

/**
 * Calls come one at a time, each after the former one's end: that is for the caller to see to. Nothing that a guest writes makes them throw; what can't be
 * done shows in registers, as each device's rules say. Ownership of fds passes to the function, also on failure.
 */
export interface PciFunction {
  /** By number (REGION), NUM_REGIONS of them. */
  readonly regions: readonly RegionShape[];
  /** How many interrupts there are of each kind (IRQ), NUM_IRQS of them. */
  readonly irqs: readonly number[];
  /** Fills `into` from `offset` of a region. The range lies inside the region: the caller has checked it. */
  read(region: number, offset: number, into: Uint8Array): void | Promise<void>;
  /** Writes to a region; the range was checked as for `read`. */
  write(region: number, offset: number, bytes: Uint8Array): void | Promise<void>;
  /** Connects an interrupt to an eventfd, in place of what it was connected to; null: to nothing. Throws LinuxError when it is no eventfd. */
  connect(kind: number, index: number, fd: OwnedFd | null): void | Promise<void>;
  /** Holds an interrupt back, or no longer: what has come meanwhile comes then. */
  mask(kind: number, index: number, masked: boolean): void | Promise<void>;
  /** Raises an interrupt, as the device itself would. */
  raise(kind: number, index: number): void | Promise<void>;
  /** Doorbells in a region that have an eventfd of their own. */
  doorbells(region: number): readonly RegionDoorbell[];
  /**
   * All memory that the function may reach from now on, in place of what there was; addresses are the bus's. Resolves when the former memory is not used any
   * more. Throws MemoryError or LinuxError, and keeps what it had.
   */
  setMemory(regions: readonly MemoryRegionSpec[]): Promise<void>;
  /** As after power-on, with the memory and the eventfds that it has. */
  reset(): Promise<void>;
  /** Whoever connected it is gone: reset, without memory and eventfds. */
  disconnect(): Promise<void>;
}
