/**
 * Guest memory as the host sees it: region tables made from file descriptors.
 *
 * ```
 *   region table (what a peer sent)         backing (one for each file)              window | flat
 *   gpa 0x0…      size  fd 7 @ 0       ──►  inode 12, bytes 0…512 MiB       ──►      0x0800_0000 …
 *   gpa 0x10_0000 size  fd 7 @ 1 MiB   ──►  the same
 * ```
 * A VMM sends the same memory again and again, cut differently while its guest boots; files that are mapped already are not mapped
 * again. A new table is complete before the old one goes: build it, let every worker change over, then close the old one.
 *
 * A file that fits is in the window as a whole. One that does not is mapped flat, which is enough for system calls; what the datapath itself
 * must touch, such as a queue's context, is brought into the window with `pin`.
 */
import { fstatSync } from 'node:fs';
import * as L from '../../datapath/layout.js';
import type { OwnedFd } from '../linux/fd.js';
import { inspectMemory } from '../linux/memfd.js';
import type { Arena } from './arena.js';
import { Backing, type FileSpan, type Part } from './backing.js';
import type { Chunk, GiveWay } from './chunks.js';
import { countUpTo } from './sorted.js';
import { MemoryError, type Window } from './window.js';

/** One region as a peer describes it. Sizes and offsets in bytes. */
export interface RegionSpec {
  readonly guestPhysicalAddress: bigint;
  readonly size: bigint;
  readonly mmapOffset: bigint;
  readonly fd: OwnedFd;
  /** False: nothing may be written there. Default true. */
  readonly writable?: boolean;
}

export interface GuestMemoryOptions {
  /** Map files as a whole where they fit into the window: for peers that describe the same file bit by bit. */
  readonly wholeFiles?: boolean;
  /** Refuse memory that its owner can still shrink. */
  readonly requireSealed?: boolean;
  /** How memory larger than the window makes room there for that of others: by `RegionTable.trim`, as soon as nobody uses any table. Default: not at all. */
  readonly giveWay?: GiveWay;
  /** Called with a sentence about memory that could kill this process. */
  readonly note?: (message: string) => void;
}

interface Region {
  readonly gpa: bigint;
  readonly size: bigint;
  readonly backing: Backing;
  /** Bytes from the backing's first byte. */
  readonly offset: number;
  /** DENY_* */
  readonly denied: number;
}

/** What becomes an entry of the table. */
interface Entry extends Part {
  readonly region: Region;
}

/** A part of a table under other addresses. */
export interface Alias {
  readonly address: bigint;
  readonly size: bigint;
  /** Where it is in the table. */
  readonly target: bigint;
  /** DENY_* */
  readonly denied: number;
}

/** Bytes at an address of this process. */
export type FlatSpan = readonly [flat: bigint, length: number];

const U64 = 1n << 64n;

/** Makes region tables for one NIC, and keeps one mapping for each file among them. */
export class GuestMemory {
  readonly #window: Window;
  readonly #arena: Arena;
  readonly #options: GuestMemoryOptions;
  readonly #backings = new Set<Backing>();

  constructor(window: Window, arena: Arena, options: GuestMemoryOptions = {}) {
    this.#window = window;
    this.#arena = arena;
    this.#options = options;
  }

  /**
   * Maps what is not mapped yet and makes the table. Throws MemoryError (a region that is empty, wraps, overlaps another or
   * lies beyond its file; no address space; unsealed) or LinuxError, and leaves nothing behind. The fds stay the caller's.
   */
  build(specs: readonly RegionSpec[]): RegionTable {
    if (specs.length > L.MAX_REGIONS) {
      throw new MemoryError('MEMORY_REGION', `${specs.length} regions, ${L.MAX_REGIONS} at most`);
    }
    const { files, fileOf } = groupByFile(specs);
    const backings = new Map<FileSpan, Backing>();
    try {
      for (const [key, file] of files) backings.set(file, this.#hold(key, file));
      const regions = specs.map((spec, i) => {
        const backing = backings.get(fileOf[i]!)!;
        return {
          gpa: spec.guestPhysicalAddress,
          size: spec.size,
          backing,
          offset: Number(spec.mmapOffset) - backing.start,
          denied: spec.writable === false ? L.DENY_WRITE : 0,
        };
      });
      return new RegionTable(this.#window, this.#arena, join(regions), () => this.#drop(backings.values()));
    } catch (error) {
      this.#drop(backings.values());
      throw error;
    }
  }

  #hold(key: string, file: FileSpan): Backing {
    for (const backing of this.#backings) {
      if (backing.key === key && backing.start <= file.start && backing.end >= file.end) {
        backing.users++;
        return backing;
      }
    }
    if (file.facts.shrinkable) {
      const message = `${file.fd.name} can be shrunk by its owner, which would kill this process`;
      if (this.#options.requireSealed) throw new MemoryError('MEMORY_UNSEALED', message);
      this.#options.note?.(message);
    }
    const { wholeFiles: whole = false, giveWay = stay } = this.#options;
    const backing = new Backing(this.#window, key, file, { whole, giveWay });
    this.#backings.add(backing);
    return backing;
  }

  #drop(backings: Iterable<Backing>): void {
    for (const backing of backings) {
      if (--backing.users > 0) continue;
      backing.close();
      this.#backings.delete(backing);
    }
  }
}

async function stay(): Promise<void> {}

/** The files behind regions, by device and inode, and which is whose. */
interface Files {
  readonly files: Map<string, FileSpan>;
  readonly fileOf: readonly FileSpan[];
}

/** Checks every region against its file; the span of a file is what all its regions need, in whole pages. */
function groupByFile(specs: readonly RegionSpec[]): Files {
  const files = new Map<string, FileSpan>();
  const known = new Map<OwnedFd, FileSpan>(); // thousands of regions may come with one descriptor
  const fileOf = specs.map(({ guestPhysicalAddress: gpa, size, mmapOffset, fd }) => {
    let file = known.get(fd) ?? files.get(fileKey(fd.fd));
    const facts = file?.facts ?? inspectMemory(fd.fd);
    const where = () => `region at 0x${gpa.toString(16)}, ${size} bytes at ${mmapOffset} of ${fd.name}`;
    if (size === 0n || gpa + size > U64)
      throw new MemoryError('MEMORY_REGION', `${where()}: empty, or wraps`);
    if (mmapOffset + size > BigInt(facts.size)) {
      throw new MemoryError('MEMORY_REGION', `${where()}: reaches beyond the file's ${facts.size} bytes`);
    }
    // The file's size bounds both, and is a safe integer.
    const start = Math.floor(Number(mmapOffset) / facts.pageSize) * facts.pageSize;
    const end = Math.ceil(Number(mmapOffset + size) / facts.pageSize) * facts.pageSize;
    if (end > facts.size) {
      throw new MemoryError('MEMORY_REGION', `${where()}: the file ends within a page of ${facts.pageSize}`);
    }
    if (!file) files.set(fileKey(fd.fd), (file = { fd, facts, start, end }));
    file.start = Math.min(file.start, start);
    file.end = Math.max(file.end, end);
    known.set(fd, file);
    return file;
  });
  return { files, fileOf };
}

function fileKey(fd: number): string {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return `${dev}:${ino}`;
}

/** Sorts by address and joins neighbours that are neighbours in the file too. Throws when two regions overlap. */
function join(regions: Region[]): Region[] {
  const sorted = regions.toSorted((a, b) => (a.gpa < b.gpa ? -1 : a.gpa > b.gpa ? 1 : 0));
  const joined: Region[] = [];
  for (const region of sorted) {
    const last = joined.at(-1);
    const gap = last === undefined ? 1n : region.gpa - (last.gpa + last.size);
    if (gap < 0n) {
      throw new MemoryError('MEMORY_REGION', `regions overlap at 0x${region.gpa.toString(16)}`);
    }
    const follows =
      last?.backing === region.backing &&
      last.denied === region.denied &&
      last.offset + Number(last.size) === region.offset;
    if (gap === 0n && follows) joined[joined.length - 1] = { ...last!, size: last!.size + region.size };
    else joined.push(region);
  }
  return joined;
}

/** A finished table. `address` is where the datapath finds it. */
export class RegionTable {
  readonly #window: Window;
  readonly #arena: Arena;
  /** By address; none overlaps another. */
  readonly #regions: readonly Region[];
  readonly #release: () => void;
  readonly #most: number;
  #backings: readonly Backing[] | null = null;
  #address = 0;
  #closed = false;

  /** `most` entries, where they are cut into parts included. Throws MemoryError MEMORY_FULL. */
  constructor(
    window: Window,
    arena: Arena,
    regions: readonly Region[],
    release: () => void,
    most = Number.POSITIVE_INFINITY,
  ) {
    this.#window = window;
    this.#arena = arena;
    this.#regions = regions;
    this.#release = release;
    this.#most = most;
    this.refresh();
  }

  get address(): number {
    return this.#address;
  }

  /** All of it is in the window: what the datapath touches needs no `reach`. */
  get inWindow(): boolean {
    return this.#regions.every(({ backing }) => backing.window !== 0);
  }

  /**
   * Writes the table anew, at another address, with what has come into the window, or left it, since. Nobody may be using it. Throws MemoryError
   * MEMORY_FULL, and nothing is found in it any more.
   */
  refresh(): void {
    const { words, longs } = this.#window;
    let parts: Entry[];
    let address: number;
    try {
      parts = this.#parts();
      address = this.#arena.allocate(L.REGIONS_HEAD + parts.length * L.REGION_SIZE);
    } catch (error) {
      // What it names may have left the window, and something else come there.
      if (this.#address !== 0) words[(this.#address + L.REGIONS_COUNT) >>> 2] = 0;
      throw error;
    }
    words[(address + L.REGIONS_COUNT) >>> 2] = parts.length;
    parts.forEach(({ region, offset, length, window }, i) => {
      const entry = address + L.REGIONS_HEAD + i * L.REGION_SIZE;
      longs[(entry + L.REGION_GPA) / 8] = region.gpa + BigInt(offset - region.offset);
      longs[(entry + L.REGION_LENGTH) / 8] = BigInt(length);
      longs[(entry + L.REGION_FLAT) / 8] = BigInt(region.backing.flat + offset);
      words[(entry + L.REGION_WINDOW) >>> 2] = window;
      words[(entry + L.REGION_DENIED) >>> 2] = region.denied;
    });
    if (this.#address !== 0) this.#arena.free(this.#address);
    this.#address = address;
  }

  /**
   * Brings [gpa, gpa + length), as far as there are regions without a gap, into the window; what was brought there long ago may have to leave. It shows after
   * `refresh`, of this table and of all others of that memory, which nobody may be using meanwhile. Throws MemoryError MEMORY_FULL when there is no room.
   */
  reach(gpa: bigint, length: number): void {
    this.#window.chunks.call++;
    for (let done = 0; done < length; ) {
      const region = this.#find(gpa + BigInt(done), 1);
      if (!region) return;
      const offset = region.offset + Number(gpa + BigInt(done) - region.gpa);
      const part = Math.min(length - done, region.offset + Number(region.size) - offset);
      if (!region.backing.reach(offset, part, true)) throw noRoom(`${length} bytes at once`);
      done += part;
    }
  }

  /** The same for buffers, by their addresses in this process: those that are `needed` all at once, and of the others what there is room for. */
  reachBuffers(needed: readonly FlatSpan[], others: readonly FlatSpan[]): void {
    this.#window.chunks.call++;
    for (const buffer of needed)
      if (!this.#reachFlat(buffer, true)) throw noRoom(`the ${needed.length} buffers of a frame`);
    for (const buffer of others) if (!this.#reachFlat(buffer, false)) return;
  }

  /** Makes room for others, where this memory has more than its share of the window. It shows after `refresh`; nobody may be using any table. */
  trim(): void {
    for (const backing of this.#files) backing.trim();
  }

  /**
   * Parts of this table under other addresses, `most` entries; it must be closed before this one. Throws MemoryError: MEMORY_ADDRESS when a part is not in
   * one region, MEMORY_FULL.
   */
  aliased(aliases: readonly Alias[], most?: number): RegionTable {
    const regions = aliases.map(({ address, size, target, denied }) => {
      const region = this.#find(target, Number(size));
      if (!region) throw notThere(target, Number(size));
      const offset = region.offset + Number(target - region.gpa);
      return { gpa: address, size, backing: region.backing, offset, denied };
    });
    regions.sort((a, b) => (a.gpa < b.gpa ? -1 : Number(a.gpa > b.gpa)));
    return new RegionTable(this.#window, this.#arena, regions, () => {}, most);
  }

  /**
   * Window address of [gpa, gpa + length), which must lie in one region, a writable one unless `write` is false; it stays valid until as many `unpin` or the last table of
   * that memory is closed. Throws MemoryError MEMORY_ADDRESS when it does not, or when the address is no multiple of `alignment`
   * (WASM atomics trap on those); MEMORY_FULL.
   */
  pin(gpa: bigint, length: number, alignment: number, write = true): number {
    const region = this.#find(gpa, length);
    if (!region) throw notThere(gpa, length);
    if (write && (region.denied & L.DENY_WRITE) !== 0) {
      const where = `${length} bytes at guest address 0x${gpa.toString(16)}`;
      throw new MemoryError('MEMORY_ADDRESS', `${where} may not be written`);
    }
    const offset = region.offset + Number(gpa - region.gpa);
    // Backings begin with a page, here as in their file.
    if (offset % alignment !== 0) {
      const where = `${length} bytes at guest address 0x${gpa.toString(16)}`;
      throw new MemoryError('MEMORY_ADDRESS', `${where} are not aligned to ${alignment}`);
    }
    return region.backing.pin(offset, length);
  }

  /** The bytes that `pin` brought in are not needed any more. */
  unpin(gpa: bigint, length: number): void {
    const region = this.#find(gpa, length);
    region?.backing.unpin(region.offset + Number(gpa - region.gpa), length);
  }

  /** What lies in no region any more is not missed. */
  #reachFlat([flat, length]: FlatSpan, needed: boolean): boolean {
    const at = Number(flat);
    const backing = lastFrom(this.#files, at);
    const offset = at - (backing?.flat ?? 0);
    if (!backing || offset + length > backing.end - backing.start) return true;
    return backing.reach(offset, length, needed);
  }

  /** Each once, by their addresses in this process. */
  get #files(): readonly Backing[] {
    this.#backings ??= [...new Set(this.#regions.map(({ backing }) => backing))].sort(
      (a, b) => a.flat - b.flat,
    );
    return this.#backings;
  }

  /** Its entries: regions, cut where chunks in the window begin and end. */
  #parts(): Entry[] {
    const chunks = new Map<Backing, readonly Chunk[]>();
    const parts: Entry[] = [];
    for (const region of this.#regions) {
      const { backing, offset, size } = region;
      const inOrder = chunks.get(backing) ?? backing.chunks;
      chunks.set(backing, inOrder);
      for (const part of backing.parts(offset, Number(size), inOrder)) parts.push({ region, ...part });
      if (parts.length > this.#most)
        throw new MemoryError('MEMORY_FULL', `a table of more than ${this.#most} entries`);
    }
    return parts;
  }

  /** The region that holds [gpa, gpa + length) as a whole. */
  #find(gpa: bigint, length: number): Region | undefined {
    let [low, high] = [0, this.#regions.length]; // the last one that starts at or below gpa
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#regions[middle]!.gpa <= gpa) low = middle + 1;
      else high = middle;
    }
    const region = this.#regions[low - 1];
    if (!region || gpa - region.gpa >= region.size) return undefined;
    return BigInt(length) <= region.size - (gpa - region.gpa) ? region : undefined;
  }

  /** Nobody uses the table any more: unmaps what no other table needs. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#arena.free(this.#address);
    this.#release();
  }
}

/** The last of the backings, which are sorted, that begins at that address or before it. */
function lastFrom(sorted: readonly Backing[], flat: number): Backing | undefined {
  return sorted[countUpTo(sorted, ({ flat: at }) => at <= flat) - 1];
}

function noRoom(what: string): MemoryError {
  return new MemoryError('MEMORY_FULL', `no room in the window for ${what}`);
}

function notThere(gpa: bigint, length: number): MemoryError {
  return new MemoryError(
    'MEMORY_ADDRESS',
    `${length} bytes at guest address 0x${gpa.toString(16)} are in no region`,
  );
}
