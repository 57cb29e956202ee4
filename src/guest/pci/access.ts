/**
 * How a driver in this process reaches a PCI function: the kernel's VFIO (`src/linux/vfio.ts`, inside a virtual machine or on bare metal), or a vfio-user
 * server (`src/control/vfio-user/`), for a guest that is a process. A driver's transport (bpfhv-pci.ts) is the same over both.
 */
import type { OwnedFd } from '../../linux/fd.js';

export interface PciAccess {
  /** Reads `size` bytes, 1, 2 or 4, little-endian, at `offset` of a region (REGION). Rejects with PciError when the function is gone. */
  read(region: number, offset: number, size: 1 | 2 | 4): Promise<number>;
  /** Reads `length` bytes as consecutive 32-bit words. `length` and `offset` are multiples of 4. */
  readWords(region: number, offset: number, length: number): Promise<Uint8Array>;
  write(region: number, offset: number, value: number, size: 1 | 2 | 4): Promise<void>;
  /** Bytes of a region, 0 when there is none. */
  regionSize(region: number): number;
  /** Has signals of this eventfd write `value`, `size` bytes of it, to `offset` of a region, without a way through this thread where that is possible. The fd stays the caller's. */
  wire(region: number, offset: number, value: number, size: 1 | 2 | 4, eventfd: OwnedFd): Promise<void>;
  /** An eventfd of the function's own: a signal there is the same as any write at `offset`, and takes no way through this thread. Null: there is none, use `wire`. It stays this access's. */
  doorbell?(region: number, offset: number): OwnedFd | null;
  /** MSI-X vectors that there are. */
  readonly vectors: number;
  /** Connects MSI-X vectors, from the first one on, to these eventfds, which stay the caller's, and enables MSI-X. */
  connect(eventfds: readonly OwnedFd[]): Promise<void>;
  /** Lets the function reach `size` bytes at `offset` of a file that is mapped here at `address` (of this process), as bus address `iova`. */
  map(region: { iova: bigint; size: number; fd: OwnedFd; offset: number; address: number }): Promise<void>;
  unmap(iova: bigint, size: number): Promise<void>;
  /** Called once when the function is gone. */
  onGone: (reason: Error | null) => void;
  /** Gives the function back: no interrupt comes, no memory is reached any more. */
  close(): Promise<void>;
}

/** A PCI function that can't be had, or is gone. */
export class PciError extends Error {
  override readonly name = 'PciError';
  readonly code: 'PCI_ADDRESS' | 'PCI_IOMMU' | 'PCI_BUSY' | 'PCI_GONE' | 'PCI_DEVICE';

  constructor(code: PciError['code'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
