/**
 * Shared memory as a file: memfds, their seals, and what kind of memory a received fd is.
 *
 * Memory that another process can still shrink is a weapon: touching a page beyond the new end raises SIGBUS, which
 * kills us. F_SEAL_SHRINK takes that away for good, so look at `inspectMemory(fd).shrinkable` before mapping.
 */
import { fstatSync, statfsSync, writeSync } from 'node:fs';
import { check, EINVAL } from './errors.js';
import { OwnedFd } from './fd.js';
import * as libc from './libc.js';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_HUGETLB = 4;
const MFD_HUGE_SHIFT = 26;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const HUGETLBFS_MAGIC = 0x958458f6;

export const SEAL_SEAL = 1;
export const SEAL_SHRINK = 2;
export const SEAL_GROW = 4;
export const SEAL_WRITE = 8;

export interface MemfdOptions {
  /** Shown in /proc/PID/maps and fd tables. */
  name: string;
  /** Bytes; with huge pages a multiple of theirs. */
  size: number;
  /** Forbid any change of the size; default true. */
  sealed?: boolean;
  /** Use huge pages of this many bytes (a power of two that the machine offers and has reserved). */
  hugePageSize?: number;
}

/** A new memory file of zeros. Throws LinuxError: ENOMEM at the mapping when no huge pages are reserved. */
export function createMemfd(options: MemfdOptions): OwnedFd {
  const { name, size, sealed = true, hugePageSize } = options;
  let flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (hugePageSize) flags |= MFD_HUGETLB | (Math.log2(hugePageSize) << MFD_HUGE_SHIFT);
  const memory = new OwnedFd(libc.memfdCreate(name, flags), `memfd:${name}`, 'memfd_create');
  try {
    check(libc.ftruncate(memory.fd, size), 'ftruncate', memory.name);
    if (sealed) addSeals(memory.fd, SEAL_SHRINK | SEAL_GROW);
    return memory;
  } catch (error) {
    memory.close();
    throw error;
  }
}

/** A memory file with these bytes, which nobody can change any more. */
export function memfdOf(name: string, bytes: Uint8Array): OwnedFd {
  const memory = createMemfd({ name, size: bytes.length, sealed: false });
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(memory.fd, bytes, at, bytes.length - at, at);
    addSeals(memory.fd, SEAL_SHRINK | SEAL_GROW | SEAL_WRITE | SEAL_SEAL);
    return memory;
  } catch (error) {
    memory.close();
    throw error;
  }
}

/** Adds SEAL_* bits; they cannot be taken back. */
export function addSeals(fd: number, seals: number): void {
  check(libc.fcntl(fd, F_ADD_SEALS, seals), 'fcntl F_ADD_SEALS', `fd ${fd}`);
}

/** The SEAL_* bits, or null for a file that knows no seals. */
export function getSeals(fd: number): number | null {
  const seals = libc.fcntl(fd, F_GET_SEALS);
  return seals === -EINVAL ? null : check(seals, 'fcntl F_GET_SEALS', `fd ${fd}`);
}

export interface MemoryFacts {
  /** Bytes in the file now. */
  size: number;
  /** The unit in which it is mapped: 4096, or the huge page size on hugetlbfs. */
  pageSize: number;
  hugetlb: boolean;
  seals: number | null;
  /** Someone else may still cut it short under a mapping. */
  shrinkable: boolean;
}

/** What memory a file descriptor stands for. Throws LinuxError EBADF, or EINVAL for something without pages. */
export function inspectMemory(fd: number): MemoryFacts {
  const seals = getSeals(fd);
  const stat = fstatSync(fd);
  check(stat.isFile() ? 0 : -EINVAL, 'map', `fd ${fd}, which is no regular file`);
  const fileSystem = statfsSync(`/proc/self/fd/${fd}`);
  const hugetlb = fileSystem.type >>> 0 === HUGETLBFS_MAGIC;
  return {
    size: stat.size,
    pageSize: hugetlb ? fileSystem.bsize : libc.PAGE_SIZE,
    hugetlb,
    seals,
    shrinkable: ((seals ?? 0) & SEAL_SHRINK) === 0,
  };
}
