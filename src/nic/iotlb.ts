/**
 * Translations of a guest behind an IOMMU: what its I/O virtual addresses are in the front end's process, as far as we have been told.
 *
 * ```
 *   I/O virtual address ──► here ──► front end's address ──► VhostMemory ──► guest physical address
 * ```
 * Entries do not overlap: an update takes the place of what it overlaps. When there are too many, the one that came first leaves; it can be asked for
 * again.
 */
import * as L from '../../datapath/layout.js';
import type { Alias, RegionTable } from '../memory/guest-memory.js';
import { MemoryError } from '../memory/window.js';
import { NicError } from './control.js';
import type { Translation } from './vhost-control.js';
import type { VhostMemory } from './vhost-memory.js';

export const MAX_TRANSLATIONS = 2048;

const U64 = 1n << 64n;

export class Iotlb {
  /** In the order in which they came. */
  #entries: readonly Translation[] = [];
  #table: RegionTable | null = null;

  /** By which descriptors are looked up; null: nothing is known. */
  get table(): RegionTable | null {
    return this.#table;
  }

  /** Throws NicError NIC_TRANSLATION for one that is empty or wraps. `rebuild` has to follow. */
  add(translation: Translation): void {
    const { iova, size, userspaceAddress } = translation;
    if (size === 0n || iova + size > U64 || userspaceAddress + size > U64) {
      throw new NicError(
        'NIC_TRANSLATION',
        `${size} bytes at I/O address 0x${iova.toString(16)}: empty, or wraps`,
      );
    }
    this.remove(iova, size);
    this.#entries = [...this.#entries, translation].slice(-MAX_TRANSLATIONS);
  }

  /** Forgets all that overlap. `rebuild` has to follow. */
  remove(iova: bigint, size: bigint): void {
    this.#entries = this.#entries.filter(
      entry => entry.iova >= iova + size || entry.iova + entry.size <= iova,
    );
  }

  clear(): void {
    this.#entries = [];
    this.#table?.close();
    this.#table = null;
  }

  /** Makes the table anew. Nobody uses the present one, or will: rings have to be moved. Returns it, for its owner to close after that. */
  rebuild(memory: VhostMemory): RegionTable | null {
    const former = this.#table;
    this.#table = memory.table?.aliased(this.#entries.flatMap(entry => aliases(entry, memory))) ?? null;
    return former;
  }

  /** The first address of these bytes that is not known, or may not be written where that is wanted; null: all are. */
  missing(iova: bigint, length: number, write: boolean): bigint | null {
    const end = iova + BigInt(length);
    let at = iova;
    while (at < end) {
      const entry = this.#find(at);
      if (!entry || (write ? !entry.writable : !entry.readable)) return at;
      at = entry.iova + entry.size;
    }
    return null;
  }

  /** The guest physical address of bytes. Throws MemoryError MEMORY_ADDRESS when they are not known, or not in one piece. */
  guestAddress(iova: bigint, length: number, memory: VhostMemory): bigint {
    const entry = this.#find(iova);
    if (!entry || iova + BigInt(length) > entry.iova + entry.size) {
      throw new MemoryError('MEMORY_ADDRESS', `I/O address 0x${iova.toString(16)} is not known`);
    }
    return memory.guestAddress(entry.userspaceAddress + (iova - entry.iova), length);
  }

  #find(iova: bigint): Translation | undefined {
    return this.#entries.find(entry => iova >= entry.iova && iova - entry.iova < entry.size);
  }
}

/** A translation may reach over several regions, and beyond all of them. */
function aliases(
  { iova, size, userspaceAddress, readable, writable }: Translation,
  memory: VhostMemory,
): Alias[] {
  const denied = (readable ? 0 : L.DENY_READ) | (writable ? 0 : L.DENY_WRITE);
  return memory.regions.flatMap(region => {
    const from = max(userspaceAddress, region.hypervisorVirtualAddress);
    const to = min(userspaceAddress + size, region.hypervisorVirtualAddress + region.size);
    if (from >= to) return [];
    return {
      address: iova + (from - userspaceAddress),
      size: to - from,
      target: region.guestPhysicalAddress + (from - region.hypervisorVirtualAddress),
      denied,
    };
  });
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
