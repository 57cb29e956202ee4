/**
 * The memory of a process-local guest: a memfd that the driver fills with contexts and buffers, and that is handed to the device as the guest's
 * physical memory.
 *
 * ```
 *   guest physical   4 GiB ──────────────────── 4 GiB + size
 *   window           address ────────────────── address + size        contexts and buffers are given out from here
 * ```
 */
import type { OwnedFd } from '../linux/fd.js';
import { PAGE_SIZE } from '../linux/libc.js';
import { createMemfd } from '../linux/memfd.js';
import type { Mapping } from '../linux/mmap.js';
import { Arena } from '../memory/arena.js';
import { MemoryError, type Window } from '../memory/window.js';

/** Where the memory begins for the device: beyond 32 bits, so that nobody gets away with half an address. */
const GUEST_BASE = 0x1_0000_0000n;

export class GuestRam {
  readonly fd: OwnedFd;
  /** Bytes. */
  readonly size: number;
  /** Guest physical address of the first byte. */
  readonly guestPhysicalAddress = GUEST_BASE;
  readonly #mapping: Mapping;
  readonly #start: number;
  readonly #arena: Arena;

  /** `size` bytes, a multiple of the page size. Throws MemoryError MEMORY_FULL, LinuxError. */
  constructor(window: Window, size: number) {
    this.size = size;
    this.fd = createMemfd({ name: 'guest memory', size });
    try {
      const overlay = window.overlay({ fd: this.fd.fd, length: size, name: 'guest memory' }, PAGE_SIZE);
      if (!overlay) {
        throw new MemoryError('MEMORY_FULL', `no room in the window for ${size} bytes of guest memory`);
      }
      this.#mapping = overlay.mapping;
      this.#start = overlay.address;
      this.#arena = new Arena(window, overlay.address, overlay.address + size);
    } catch (error) {
      this.fd.close();
      throw error;
    }
  }

  /** Window address of `size` zeroed bytes at the start of a cache line. Throws MemoryError MEMORY_FULL. */
  allocate(size: number): number {
    return this.#arena.allocate(size);
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
