/** The bitmap of dirty pages that a front end shares while it migrates its guest: mapped where the datapath can mark pages in it. */
import type { OwnedFd } from '../linux/fd.js';
import { inspectMemory } from '../linux/memfd.js';
import type { Mapping } from '../linux/mmap.js';
import { MemoryError, type Window } from '../memory/window.js';

export interface DirtyBitmap {
  /** Window address of its first byte. */
  readonly address: number;
  /** Bytes. */
  readonly size: number;
  close(): void;
}

export interface DirtyBitmapOptions {
  readonly requireSealed: boolean;
  readonly note: (message: string) => void;
}

/**
 * Maps `size` bytes from `offset` of the file on, which stays the caller's. Throws MemoryError (MEMORY_REGION: beyond the file, MEMORY_UNSEALED,
 * MEMORY_FULL) or LinuxError.
 */
export function mapDirtyBitmap(
  window: Window,
  { size, offset, fd }: { size: bigint; offset: bigint; fd: OwnedFd },
  { requireSealed, note }: DirtyBitmapOptions,
): DirtyBitmap {
  const facts = inspectMemory(fd.fd);
  const where = `log of ${size} bytes at ${offset} of ${fd.name}`;
  if (size === 0n || offset + size > BigInt(facts.size)) {
    throw new MemoryError('MEMORY_REGION', `${where}: empty, or beyond the file's ${facts.size} bytes`);
  }
  if (facts.shrinkable) {
    const message = `${fd.name} can be shrunk by its owner, which would kill this process`;
    if (requireSealed) throw new MemoryError('MEMORY_UNSEALED', message);
    note(message);
  }
  // The file's size bounds both.
  const start = Math.floor(Number(offset) / facts.pageSize) * facts.pageSize;
  const lead = Number(offset) - start;
  const range = { fd: fd.fd, fileOffset: start, length: lead + Number(size), name: fd.name };
  const overlay: { address: number; mapping: Mapping } | null = window.overlay(range, facts.pageSize);
  if (!overlay) throw new MemoryError('MEMORY_FULL', `${where}: no room in the window`);
  return { address: overlay.address + lead, size: Number(size), close: () => overlay.mapping.close() };
}
