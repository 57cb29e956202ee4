/**
 * Translations of a guest behind an IOMMU: what its I/O virtual addresses are in the front end's process, as far as we have been told.
 *
 * ```
 *   I/O virtual address ──► here ──► front end's address ──► VhostMemory ──► guest physical address
 * ```
 * Entries do not overlap: an update takes the place of what it overlaps. When there are too many, or too much of them in pieces, those that came first
 * leave; they can be asked for again. So an update takes a bounded time: rings stand still meanwhile.
 */
import * as L from '../../datapath/layout.js';
import type { Alias, RegionTable } from '../memory/guest-memory.js';
import { countUpTo } from '../memory/sorted.js';
import { MemoryError } from '../memory/window.js';
import { type MemoryRegionSpec, NicError } from './control.js';
import type { Translation } from './vhost-control.js';
import type { VhostMemory } from './vhost-memory.js';

export const MAX_TRANSLATIONS = 2048;
/** Entries of the table that they make: a translation has one for each region, and each part of it in the window, that it reaches over. */
export const MAX_PIECES = 8192;

const U64 = 1n << 64n;

interface Entry extends Translation {
  /** Its place in the order in which they came. */
  readonly number: number;
  /** What it is in the memory of now; null: not looked up yet. */
  aliases: readonly Alias[] | null;
}

export class Iotlb {
  /** By their I/O virtual addresses. */
  #entries: Entry[] = [];
  #count = 0;
  #table: RegionTable | null = null;
  /** The memory's regions that the aliases are of, as the memory has them and by the front end's addresses. */
  #regions: readonly MemoryRegionSpec[] = [];
  #byAddress: readonly MemoryRegionSpec[] = [];

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
    if (this.#entries.length === MAX_TRANSLATIONS) this.#keepYoungest(MAX_TRANSLATIONS - 1);
    const at = this.#after(iova);
    this.#entries.splice(at, 0, { ...translation, number: this.#count++, aliases: null });
  }

  /** Forgets all that overlap. `rebuild` has to follow. */
  remove(iova: bigint, size: bigint): void {
    const { first, end } = this.#overlapping(iova, size);
    this.#entries.splice(first, end - first);
  }

  /** Whether any overlaps. */
  knows(iova: bigint, size: bigint): boolean {
    const { first, end } = this.#overlapping(iova, size);
    return first < end;
  }

  clear(): void {
    this.#entries = [];
    this.#table?.close();
    this.#table = null;
  }

  /**
   * Makes the table anew; where there is no room for all of it, the oldest translations are forgotten. Nobody uses the present one, or will: rings have to be
   * moved. Returns it, for its owner to close after that.
   */
  rebuild(memory: VhostMemory): RegionTable | null {
    const former = this.#table;
    this.#table = null;
    if (this.#regions !== memory.regions) {
      this.#regions = memory.regions;
      this.#byAddress = memory.regions.toSorted((a, b) =>
        a.hypervisorVirtualAddress < b.hypervisorVirtualAddress ? -1 : 1,
      );
      for (const entry of this.#entries) entry.aliases = null;
    }
    while (memory.table && !this.#table) {
      try {
        this.#table = memory.table.aliased(this.#aliases(), MAX_PIECES);
      } catch (error) {
        if (!(error instanceof MemoryError) || error.code !== 'MEMORY_FULL') throw error;
        if (this.#entries.length === 0) break;
        this.#keepYoungest(this.#entries.length >> 1);
      }
    }
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
    const end = iova + BigInt(length);
    let start: bigint | null = null;
    for (let at = iova; at < end || start === null; ) {
      const entry = this.#find(at);
      if (!entry) throw new MemoryError('MEMORY_ADDRESS', `I/O address 0x${at.toString(16)} is not known`);
      const next = min(end, entry.iova + entry.size);
      const address = memory.guestAddress(entry.userspaceAddress + (at - entry.iova), Number(next - at));
      start ??= address;
      if (address - start !== at - iova)
        throw new MemoryError('MEMORY_ADDRESS', `I/O address 0x${iova.toString(16)} is in pieces`);
      at = next;
    }
    return start;
  }

  #find(iova: bigint): Translation | undefined {
    const entry = this.#entries[this.#after(iova) - 1];
    return entry && iova - entry.iova < entry.size ? entry : undefined;
  }

  #overlapping(iova: bigint, size: bigint): { first: number; end: number } {
    const before = this.#entries[this.#after(iova) - 1];
    const first = this.#after(iova) - (before && iova - before.iova < before.size ? 1 : 0);
    return { first, end: countUpTo(this.#entries, entry => entry.iova < iova + size) };
  }

  /** How many begin at that address or before it. */
  #after(iova: bigint): number {
    return countUpTo(this.#entries, entry => entry.iova <= iova);
  }

  #keepYoungest(n: number): void {
    const numbers = this.#entries.map(({ number }) => number).sort((a, b) => b - a);
    const oldest = n === 0 ? this.#count : numbers[n - 1]!;
    this.#entries = this.#entries.filter(({ number }) => number >= oldest);
  }

  /** What all of them are in the memory, by address; throws MemoryError MEMORY_FULL when they are too many. */
  #aliases(): Alias[] {
    const all: Alias[] = [];
    for (const entry of this.#entries) {
      entry.aliases ??= aliasesOf(entry, this.#byAddress);
      if (all.length + entry.aliases.length > MAX_PIECES)
        throw new MemoryError('MEMORY_FULL', `more than ${MAX_PIECES} pieces of translations`);
      all.push(...entry.aliases);
    }
    return all;
  }
}

/** A translation may reach over several regions, which are sorted, and beyond all of them. */
function aliasesOf(
  { iova, size, userspaceAddress, readable, writable }: Translation,
  regions: readonly MemoryRegionSpec[],
): Alias[] {
  const denied = (readable ? 0 : L.DENY_READ) | (writable ? 0 : L.DENY_WRITE);
  const end = userspaceAddress + size;
  const aliases: Alias[] = [];
  let i = countUpTo(regions, region => region.hypervisorVirtualAddress + region.size <= userspaceAddress);
  for (; i < regions.length && regions[i]!.hypervisorVirtualAddress < end; i++) {
    const region = regions[i]!;
    const from = max(userspaceAddress, region.hypervisorVirtualAddress);
    const to = min(end, region.hypervisorVirtualAddress + region.size);
    aliases.push({
      address: iova + (from - userspaceAddress),
      size: to - from,
      target: region.guestPhysicalAddress + (from - region.hypervisorVirtualAddress),
      denied,
    });
  }
  return aliases;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
