/**
 * A guest's memory as vhost describes it: regions that have a guest physical address and one in the front end's process, and come and go as a whole or
 * one by one.
 *
 * ```
 *   descriptors say      guest physical address ──► RegionTable ──► here
 *   SET_VRING_ADDR says  front end's address ──► guest physical address ──► …
 * ```
 * A change is built first, beside what there is; whoever uses the memory moves over; then it is taken, or dropped.
 *
 * QEMU before 8.0 adds and removes each region once for every queue pair: what is there already, or gone already, is as it should be.
 */
import { fstatSync } from 'node:fs';
import type { Arena } from '../memory/arena.js';
import { GuestMemory, type GuestMemoryOptions, type RegionTable } from '../memory/guest-memory.js';
import { countUpTo } from '../memory/sorted.js';
import { MemoryError, type Window } from '../memory/window.js';
import type { MemoryRegionSpec } from './control.js';
import type { RegionName } from './vhost-control.js';

/** Regions at most: what QEMU's own limit of 512 leaves to others. */
export const MEMORY_SLOTS = 509;

const U64 = 1n << 64n;

/** Memory as it is going to be. */
export interface NextMemory {
  readonly regions: readonly MemoryRegionSpec[];
  /** The same in the order of the front end's addresses. */
  readonly sorted: readonly MemoryRegionSpec[];
  /** Null: there are no regions. */
  readonly table: RegionTable | null;
}

export interface VhostMemoryOptions extends GuestMemoryOptions {
  /** Regions at most; default: MEMORY_SLOTS. */
  readonly slots?: number;
}

export class VhostMemory {
  readonly #memory: GuestMemory;
  readonly slots: number;
  #regions: readonly MemoryRegionSpec[] = [];
  #sorted: readonly MemoryRegionSpec[] = [];
  #table: RegionTable | null = null;

  constructor(window: Window, arena: Arena, { slots = MEMORY_SLOTS, ...options }: VhostMemoryOptions) {
    this.slots = slots;
    this.#memory = new GuestMemory(window, arena, { ...options, wholeFiles: true });
  }

  /** Null: there is no memory. */
  get table(): RegionTable | null {
    return this.#table;
  }

  get regions(): readonly MemoryRegionSpec[] {
    return this.#regions;
  }

  /** Other memory in place of this. Throws MemoryError, LinuxError, and leaves things as they are. The new fds stay the caller's until `take`. */
  replaced(regions: readonly MemoryRegionSpec[]): NextMemory {
    if (regions.length > this.slots) {
      throw new MemoryError('MEMORY_REGION', `${regions.length} regions, ${this.slots} at most`);
    }
    const sorted = inOrder(regions);
    return { regions, sorted, table: regions.length === 0 ? null : this.#memory.build(regions) };
  }

  /** This memory and a region more; null when it is there already. */
  with(region: MemoryRegionSpec): NextMemory | null {
    if (this.#regions.some(known => sameName(known, region) && sameBytes(known, region))) return null;
    return this.replaced([...this.#regions, region]);
  }

  /** This memory without a region, which is found by its addresses; null when nothing is there. Throws MemoryError for a part of what is there. */
  without(name: RegionName): NextMemory | null {
    const rest = this.#regions.filter(region => !sameName(region, name));
    if (rest.length < this.#regions.length) return this.replaced(rest);
    if (!rest.some(region => overlaps(region, name))) return null;
    const where = `${name.size} bytes at guest address 0x${name.guestPhysicalAddress.toString(16)}`;
    throw new MemoryError('MEMORY_REGION', `${where}: there is no such region`);
  }

  /** This is the memory from now on. The returned function gives back what was before, when nobody uses it any more. */
  take({ regions, sorted, table }: NextMemory): () => void {
    const [formerRegions, formerTable] = [this.#regions, this.#table];
    this.#regions = regions;
    this.#sorted = sorted;
    this.#table = table;
    return () => {
      const kept = new Set(regions.map(({ fd }) => fd));
      for (const { fd } of formerRegions) if (!kept.has(fd)) fd.close();
      formerTable?.close();
    };
  }

  /** There is none. */
  clear(): void {
    for (const { fd } of this.#regions) fd.close();
    this.#table?.close();
    this.#regions = [];
    this.#sorted = [];
    this.#table = null;
  }

  /** The guest physical address of bytes in the front end's process. Throws MemoryError MEMORY_ADDRESS when they are in no region as a whole. */
  guestAddress(address: bigint, length: number): bigint {
    const region = lastFrom(this.#sorted, address);
    const within = region ? address - region.hypervisorVirtualAddress : 0n;
    if (region && within < region.size && BigInt(length) <= region.size - within) {
      return region.guestPhysicalAddress + within;
    }
    const where = `${length} bytes at the front end's address 0x${address.toString(16)}`;
    throw new MemoryError('MEMORY_ADDRESS', `${where} are in no region`);
  }
}

function sameName(a: RegionName, b: RegionName): boolean {
  return (
    a.guestPhysicalAddress === b.guestPhysicalAddress &&
    a.size === b.size &&
    a.hypervisorVirtualAddress === b.hypervisorVirtualAddress
  );
}

function sameBytes(a: MemoryRegionSpec, b: MemoryRegionSpec): boolean {
  const [one, other] = [fstatSync(a.fd.fd, { bigint: true }), fstatSync(b.fd.fd, { bigint: true })];
  return a.mmapOffset === b.mmapOffset && one.ino === other.ino && one.dev === other.dev;
}

/** Whether they have guest addresses in common. */
function overlaps(a: RegionName, b: RegionName): boolean {
  return (
    a.guestPhysicalAddress < b.guestPhysicalAddress + b.size &&
    b.guestPhysicalAddress < a.guestPhysicalAddress + a.size
  );
}

/** By the front end's addresses. Throws MemoryError MEMORY_REGION when they wrap or overlap there. (Guest addresses are the table's to check.) */
function inOrder(regions: readonly MemoryRegionSpec[]): readonly MemoryRegionSpec[] {
  const sorted = regions.toSorted((a, b) =>
    a.hypervisorVirtualAddress < b.hypervisorVirtualAddress
      ? -1
      : Number(a.hypervisorVirtualAddress > b.hypervisorVirtualAddress),
  );
  let end = 0n;
  for (const { hypervisorVirtualAddress: start, size } of sorted) {
    const where = `region at the front end's address 0x${start.toString(16)}`;
    if (start + size > U64) throw new MemoryError('MEMORY_REGION', `${where}: wraps`);
    if (start < end) throw new MemoryError('MEMORY_REGION', `${where}: overlaps another`);
    end = start + size;
  }
  return sorted;
}

/** The last of the sorted regions that begins at that address or before it. */
function lastFrom(sorted: readonly MemoryRegionSpec[], address: bigint): MemoryRegionSpec | undefined {
  return sorted[countUpTo(sorted, region => region.hypervisorVirtualAddress <= address) - 1];
}
