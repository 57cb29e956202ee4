/**
 * The memory of a process-local guest: a memfd that the driver fills with contexts and buffers, and that is handed to the device as the guest's
 * physical memory.
 *
 * ```
 *   guest physical   4 GiB ──────────────────── 4 GiB + size
 *   window           address ────────────────── address + size        contexts and buffers are given out from here
 * ```
 */
import { isErrno } from '../linux/errors.js';
import type { OwnedFd } from '../linux/fd.js';
import { PAGE_SIZE } from '../linux/libc.js';
import { createMemfd } from '../linux/memfd.js';
import type { Mapping } from '../linux/mmap.js';
import { Arena } from '../memory/arena.js';
import { MemoryError, type Window } from '../memory/window.js';

/** Where the memory begins for the device: beyond 32 bits, so that nobody gets away with half an address. */
const GUEST_BASE = 0x1_0000_0000n;

/** Bytes of a page of the kind that an IOMMU maps in one piece. */
export const HUGE_PAGE = 0x20_0000;

export class GuestRam {
  readonly fd: OwnedFd;
  /** Bytes. */
  readonly size: number;
  /** Guest physical address of the first byte. */
  readonly guestPhysicalAddress = GUEST_BASE;
  /** Of the pages that it is made of, bytes. */
  readonly pageSize: number;
  readonly #mapping: Mapping;
  readonly #start: number;
  readonly #arena: Arena;

  /** `size` bytes, a multiple of the page size. Throws MemoryError MEMORY_FULL, LinuxError (ENOMEM: not so many huge pages are reserved). */
  constructor(window: Window, size: number, hugePageSize?: number) {
    this.size = size;
    this.pageSize = hugePageSize ?? PAGE_SIZE;
    this.fd = createMemfd({ name: 'guest memory', size, ...(hugePageSize ? { hugePageSize } : {}) });
    try {
      const overlay = window.overlay({ fd: this.fd.fd, length: size, name: 'guest memory' }, this.pageSize);
      if (!overlay) {
        throw new MemoryError('MEMORY_FULL', `no room in the window for ${size} bytes of guest memory`);
      }
      this.#mapping = overlay.mapping;
      this.#start = overlay.address;
      this.#arena = new Arena(window, overlay.address, overlay.address + size, 'guest memory');
    } catch (error) {
      this.fd.close();
      throw error;
    }
  }

  /** Of huge pages, where as many are reserved, else of others: `onSmall` then hears why. `size`: a multiple of 2 MiB. Throws MemoryError MEMORY_FULL, LinuxError. */
  static preferHuge(window: Window, size: number, onSmall: (reason: string) => void): GuestRam {
    try {
      return new GuestRam(window, size, HUGE_PAGE);
    } catch (error) {
      if (!isErrno(error, 'ENOMEM', 'ENODEV', 'EINVAL', 'ENOENT', 'ENOSYS')) throw error;
      onSmall(error.message);
      return new GuestRam(window, size);
    }
  }

  /** Where it begins in this process. */
  get address(): number {
    return this.#mapping.address;
  }

  /**
   * Window address of `size` zeroed bytes, at a multiple of `alignment`, or at the start of a cache line; in one page if they fit into one: of a guest behind an
   * IOMMU, a device may find each page somewhere else. Throws MemoryError MEMORY_FULL.
   */
  allocate(size: number, alignment?: number): number {
    return this.#arena.allocate(size, { ...(alignment && { alignment }), page: this.pageSize });
  }

  free(address: number): void {
    this.#arena.free(address);
  }

  /** What the device calls a window address. */
  toGuest(address: number): bigint {
    return GUEST_BASE + BigInt(address - this.#start);
  }

  /** Pieces that have not come back. */
  get live(): number {
    return this.#arena.live;
  }

  close(): void {
    this.#mapping.close();
    this.fd.close();
  }
}
