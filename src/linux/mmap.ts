/**
 * Mapping memory files into this process, in two ways:
 *
 *     mapFlat   anywhere, the whole of it; the address goes into scatter lists that the kernel reads and writes
 *     mapOnto   over a part of a WebAssembly.Memory, so that WASM code and typed arrays see it in place
 *
 *     WebAssembly.Memory, 4 GiB     │ private zero pages │ memfd, shared │ private zero pages │
 *                                   0                    memoryOffset    + length
 *
 * What is over a WebAssembly.Memory is never unmapped, which would leave a hole: closing puts private zero pages back.
 * Closing does not ask who still uses the memory; touching a closed flat mapping is a segmentation fault. Open
 * mappings are in a table of this thread (`openMappings()`), so leaks can be counted.
 */
import { LinuxError } from './errors.js';
import { addressOf, mmap, munmap } from './libc.js';
import { inspectMemory } from './memfd.js';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_POPULATE = 0x8000;

/** A request to map that cannot be right. */
export class MappingError extends Error {
  override readonly name = 'MappingError';
  readonly code: 'ERR_MAPPING_RANGE' | 'ERR_MAPPING_ALIGNMENT' | 'ERR_MAPPING_BEYOND_FILE';

  constructor(code: MappingError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

/** What is needed of a WebAssembly.Memory. */
export interface WasmMemory {
  readonly buffer: ArrayBufferLike;
}

/** A live mapping; `close()` once nobody uses its addresses any more. */
export interface Mapping {
  readonly name: string;
  /** Where the mapping begins in this process. */
  readonly address: number;
  readonly length: number;
  readonly closed: boolean;
  close(): void;
}

export interface FileRange {
  fd: number;
  /** Where in the file to begin; a multiple of the file's page size. Default 0. */
  fileOffset?: number;
  length: number;
  /** For tables and messages. */
  name?: string;
  /** Map without the right to write. */
  readOnly?: boolean;
  /** Fault all pages in now, not at the first touch. */
  populate?: boolean;
}

const registry = new Set<Mapping>();

/** The mappings that this thread holds now, oldest first. */
export function openMappings(): { name: string; address: number; length: number }[] {
  return [...registry].map(({ name, address, length }) => ({ name, address, length }));
}

class LiveMapping implements Mapping {
  readonly name: string;
  readonly address: number;
  readonly length: number;
  /** The memory below an overlay: were it collected, the overlay would go with it. */
  #below: WasmMemory | null;
  #closed = false;

  constructor(name: string, address: number, length: number, below: WasmMemory | null) {
    this.name = name;
    this.address = address;
    this.length = length;
    this.#below = below;
    registry.add(this);
  }

  get closed(): boolean {
    return this.#closed;
  }

  close(): void {
    if (this.#closed) return;
    if (this.#below) restore(this.address, this.length, this.name);
    else {
      const result = munmap(this.address, this.length);
      if (result < 0) throw new LinuxError('munmap', -result, this.name);
    }
    this.#closed = true;
    this.#below = null;
    registry.delete(this);
  }
}

/**
 * Maps a file range where the kernel likes. Throws MappingError when the range is not inside the file or not
 * in whole pages at its start, LinuxError when the kernel refuses.
 */
export function mapFlat(range: FileRange): Mapping {
  const pageSize = checkFileRange(range);
  const { fd, fileOffset = 0, name = `fd ${fd}` } = range;
  const length = Math.ceil(range.length / pageSize) * pageSize;
  const address = mmap(0, length, protection(range), MAP_SHARED | populate(range), fd, fileOffset);
  if (address < 0) throw new LinuxError('mmap', -address, name);
  return new LiveMapping(name, address, length, null);
}

/**
 * Maps a file range over `memory` from byte `memoryOffset`. Offset and length must be whole pages of the file and
 * inside the memory; for huge pages see `alignedOffset`. When the kernel refuses, private zero pages are there.
 */
export function mapOnto(memory: WasmMemory, memoryOffset: number, range: FileRange): Mapping {
  const pageSize = checkFileRange(range);
  const { fd, fileOffset = 0, length, name = `fd ${fd}` } = range;
  checkInside(memory, memoryOffset, length, name);
  const address = baseOf(memory) + memoryOffset;
  // The kernel rounds a length up to whole (huge) pages: an odd one would replace memory beyond the range.
  if (address % pageSize !== 0 || length % pageSize !== 0) {
    const where = `address 0x${address.toString(16)}, length 0x${length.toString(16)}`;
    throw new MappingError('ERR_MAPPING_ALIGNMENT', `${name}: ${where} is not in pages of ${pageSize} bytes`);
  }
  const flags = MAP_SHARED | MAP_FIXED | populate(range);
  const result = mmap(address, length, protection(range), flags, fd, fileOffset);
  if (result < 0) {
    // The kernel may have unmapped what was there before it failed (huge pages do), and would put anything else into the hole.
    restore(address, length, name);
    throw new LinuxError('mmap', -result, name);
  }
  return new LiveMapping(name, address, length, memory);
}

/** The address of the first byte of a WebAssembly.Memory. It does not change, not even when the memory grows. */
export function baseOf(memory: WasmMemory): number {
  return addressOf(new Uint8Array(memory.buffer, 0, 1));
}

/** The first offset at or after `offset` whose address is a multiple of `alignment` (a power of two). */
export function alignedOffset(memory: WasmMemory, offset: number, alignment: number): number {
  const address = baseOf(memory) + offset;
  return offset + ((alignment - (address % alignment)) % alignment);
}

function restore(address: number, length: number, name: string): void {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  const result = mmap(address, length, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (result < 0) throw new LinuxError('mmap', -result, `${name} (restore)`);
}

function protection(range: FileRange): number {
  return range.readOnly ? PROT_READ : PROT_READ | PROT_WRITE;
}

function populate(range: FileRange): number {
  return range.populate ? MAP_POPULATE : 0;
}

/** Checks a range against the file as it is now; returns the file's page size. */
function checkFileRange({ fd, fileOffset = 0, length, name = `fd ${fd}` }: FileRange): number {
  const { size, pageSize } = inspectMemory(fd);
  if (!Number.isSafeInteger(fileOffset) || !Number.isSafeInteger(length) || fileOffset < 0 || length <= 0) {
    throw new MappingError('ERR_MAPPING_RANGE', `${name}: no range: offset ${fileOffset}, length ${length}`);
  }
  if (fileOffset % pageSize !== 0) {
    const message = `${name}: file offset ${fileOffset} is not in pages of ${pageSize} bytes`;
    throw new MappingError('ERR_MAPPING_ALIGNMENT', message);
  }
  // The last page of a file is there as a whole, whatever the file has of it.
  if (fileOffset + length > Math.ceil(size / pageSize) * pageSize) {
    const message = `${name}: ${length} bytes from ${fileOffset} reach beyond the file's ${size}`;
    throw new MappingError('ERR_MAPPING_BEYOND_FILE', message);
  }
  return pageSize;
}

function checkInside(memory: WasmMemory, offset: number, length: number, name: string): void {
  const size = memory.buffer.byteLength;
  if (Number.isSafeInteger(offset) && offset >= 0 && offset + length <= size) return;
  const message = `${name}: ${length} bytes at ${offset} are not inside a memory of ${size}`;
  throw new MappingError('ERR_MAPPING_RANGE', message);
}
