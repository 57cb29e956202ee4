/**
 * The memory that a client lets a device reach: its DMA maps, sorted by address, and the files behind them.
 *
 * ```
 *   iova 0x0…       640 KiB  @ 0      ─┐
 *   iova 0x10_0000  255 MiB  @ 1 MiB  ─┴─► inode 12: one fd, whatever number of them the client sent
 *   iova 0xfffc_0000 256 KiB          ───► nothing: firmware, a BAR; known, and not reachable
 * ```
 * A client behind an IOMMU has a map for every page that its guest pins, tens of thousands of them; what lies side by side in bus addresses and in the file
 * is one region to the device.
 */
import { fstatSync } from 'node:fs';
import { ERRNO } from '../../linux/errors.js';
import type { OwnedFd } from '../../linux/fd.js';
import type { MemoryRegionSpec } from '../../nic/control.js';
import { VfioUserError, type VfioUserErrorCode } from './errors.js';
import type { CommandValues } from './messages.js';
import { DMA, UNMAP_ALL } from './requests.js';

/** The page size that is agreed on. Bytes. */
const PAGE = 4096n;
const U64 = 1n << 64n;

interface SharedFile {
  readonly key: string;
  readonly fd: OwnedFd;
}

interface DmaMap {
  readonly iova: bigint;
  readonly end: bigint;
  /** Null: the device can't reach it. */
  readonly file: SharedFile | null;
  readonly offset: bigint;
  readonly writable: boolean;
}

/** What one command is to change; its fields are right, whether it fits the maps that there are shows when it is applied. */
export type DmaChange =
  | { readonly add: DmaMap }
  | { readonly remove: { readonly iova: bigint; readonly end: bigint } };

export interface DmaLimits {
  readonly maxDmaMaps: number;
  /** Different files behind them. */
  readonly maxFiles: number;
}

export class DmaTable {
  readonly #limits: DmaLimits;
  readonly #files = new Map<string, SharedFile>();
  #maps: DmaMap[] = [];

  constructor(limits: DmaLimits) {
    this.#limits = limits;
  }

  /** Maps that there are. */
  get size(): number {
    return this.#maps.length;
  }

  /**
   * Checks a DMA_MAP. Owns the fd from now on, and closes it unless it is the first one of its file.
   * @throws VfioUserError `VFIO_VALUE`, `VFIO_FDS`
   */
  toAdd(values: CommandValues<'DMA_MAP'>, fd: OwnedFd | null): DmaChange {
    try {
      const { flags, offset, address: iova, size } = values;
      if ((flags & ~(DMA.READ | DMA.WRITE)) !== 0 || flags === 0) {
        throw wrong('DMA_MAP', `flags 0x${flags.toString(16)}`);
      }
      const end = endOf('DMA_MAP', iova, size);
      if (offset % PAGE !== 0n) throw wrong('DMA_MAP', `offset 0x${offset.toString(16)} is inside a page`);
      const file = fd && this.#fileOf(fd, offset + size);
      return { add: { iova, end, file, offset, writable: (flags & DMA.WRITE) !== 0 } };
    } catch (error) {
      fd?.close();
      throw error;
    }
  }

  /** Checks a DMA_UNMAP. @throws VfioUserError `VFIO_VALUE` */
  toRemove({ flags, address, size }: CommandValues<'DMA_UNMAP'>): DmaChange {
    if ((flags & ~UNMAP_ALL) !== 0) throw wrong('DMA_UNMAP', `flags 0x${flags.toString(16)}`);
    if (flags === 0) return { remove: { iova: address, end: endOf('DMA_UNMAP', address, size) } };
    if (address !== 0n || size !== 0n) throw wrong('DMA_UNMAP', 'everything, and a range');
    return { remove: { iova: 0n, end: U64 } };
  }

  /**
   * Makes a change; says whether the device's memory is another one now.
   * @throws VfioUserError `VFIO_VALUE`: overlaps a map (EEXIST), too many maps (ENOSPC), no map there (ENOENT), a part of one
   */
  apply(change: DmaChange): boolean {
    return 'add' in change ? this.#add(change.add) : this.#remove(change.remove);
  }

  /** As it is now, for `restore`. */
  snapshot(): unknown {
    return this.#maps.slice();
  }

  restore(snapshot: unknown): void {
    this.#maps = snapshot as DmaMap[];
  }

  /** What the device may reach; the fds in it, one for each file, are the caller's. Throws LinuxError EMFILE. */
  specs(): MemoryRegionSpec[] {
    const fds = new Map<SharedFile, OwnedFd>();
    try {
      for (const { file } of this.#maps) if (file && !fds.has(file)) fds.set(file, file.fd.dup());
    } catch (error) {
      for (const fd of fds.values()) fd.close();
      throw error;
    }
    const specs: MemoryRegionSpec[] = [];
    for (let i = 0, next = 0; i < this.#maps.length; i = next) {
      const first = this.#maps[i]!;
      let { end } = first;
      for (next = i + 1; next < this.#maps.length && follows(first, end, this.#maps[next]!); next++) {
        end = this.#maps[next]!.end;
      }
      if (first.file === null) continue;
      specs.push({
        guestPhysicalAddress: first.iova,
        hypervisorVirtualAddress: first.iova,
        size: end - first.iova,
        mmapOffset: first.offset,
        fd: fds.get(first.file)!,
        writable: first.writable,
      });
    }
    return specs;
  }

  /** Closes files that no map needs, and no change that is still to be applied. */
  sweep(): void {
    const used = new Set(this.#maps.map(({ file }) => file));
    for (const file of this.#files.values()) {
      if (used.has(file)) continue;
      file.fd.close();
      this.#files.delete(file.key);
    }
  }

  close(): void {
    this.#maps = [];
    this.sweep();
  }

  #fileOf(fd: OwnedFd, end: bigint): SharedFile {
    const stat = fstatSync(fd.fd, { bigint: true });
    if (!stat.isFile()) throw wrong('DMA_MAP', 'a file descriptor that is no memory', 'VFIO_FDS');
    if (end > stat.size) {
      throw wrong('DMA_MAP', `byte ${end} of a file of ${stat.size}`);
    }
    const key = `${stat.dev}:${stat.ino}`;
    const known = this.#files.get(key);
    if (known) {
      fd.close();
      return known;
    }
    if (this.#files.size >= this.#limits.maxFiles) {
      throw full(`more than ${this.#limits.maxFiles} files`);
    }
    const file = { key, fd };
    this.#files.set(key, file);
    return file;
  }

  #add(map: DmaMap): boolean {
    const at = this.#firstEndingAfter(map.iova);
    const there = this.#maps[at];
    if (there !== undefined && there.iova < map.end) {
      const text = `DMA_MAP: 0x${map.iova.toString(16)} is mapped already`;
      throw new VfioUserError('VFIO_VALUE', text, { errno: ERRNO.EEXIST! });
    }
    if (this.#maps.length >= this.#limits.maxDmaMaps) throw full(`more than ${this.#limits.maxDmaMaps} maps`);
    this.#maps.splice(at, 0, map);
    return map.file !== null;
  }

  /** Takes away all maps that lie in the range: clients unmap more than they have mapped. What cuts a map in two is no range. */
  #remove({ iova, end }: { iova: bigint; end: bigint }): boolean {
    const at = this.#firstEndingAfter(iova);
    let next = at;
    for (; next < this.#maps.length && this.#maps[next]!.iova < end; next++) {
      const map = this.#maps[next]!;
      if (map.iova < iova || map.end > end) {
        throw wrong('DMA_UNMAP', `a part of the map at 0x${map.iova.toString(16)}`);
      }
    }
    if (next === at && end - iova !== U64) {
      const text = `DMA_UNMAP: nothing is mapped at 0x${iova.toString(16)}`;
      throw new VfioUserError('VFIO_VALUE', text, { errno: ERRNO.ENOENT! });
    }
    return this.#maps.splice(at, next - at).some(({ file }) => file !== null);
  }

  /** The first map that reaches beyond an address. */
  #firstEndingAfter(iova: bigint): number {
    let [low, high] = [0, this.#maps.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#maps[middle]!.end > iova) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** `map` goes on where a region that began with `first` ends, in bus addresses and in the file. */
function follows(first: DmaMap, end: bigint, map: DmaMap): boolean {
  return (
    map.iova === end &&
    map.file === first.file &&
    map.writable === first.writable &&
    map.offset - first.offset === map.iova - first.iova
  );
}

function endOf(name: string, iova: bigint, size: bigint): bigint {
  const where = `0x${iova.toString(16)} and ${size} bytes`;
  if (size === 0n || iova + size > U64) throw wrong(name, `${where}: nothing, or wraps`);
  if (iova % PAGE !== 0n || size % PAGE !== 0n) throw wrong(name, `${where}: not in whole pages`);
  return iova + size;
}

function wrong(name: string, what: string, code: VfioUserErrorCode = 'VFIO_VALUE'): VfioUserError {
  return new VfioUserError(code, `${name}: ${what}`);
}

function full(what: string): VfioUserError {
  return new VfioUserError('VFIO_VALUE', `DMA_MAP: ${what}`, { errno: ERRNO.ENOSPC! });
}
