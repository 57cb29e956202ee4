/**
 * File descriptors with an owner.
 *
 * Whoever holds an OwnedFd closes it, once. Every open one is in a table of this thread, so a test, or the demo at its end, can prove
 * that none leaked: `openFds()` must be what it was before. A descriptor that belongs to another thread
 * (descriptors are the process's, tables are per thread) is passed as a plain number and never closed there.
 */
import { readdirSync } from 'node:fs';
import { check } from './errors.js';
import * as libc from './libc.js';

const F_GETFD = 1;
const F_SETFD = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;
const FD_CLOEXEC = 1;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;

const registry = new Set<OwnedFd>();

export class OwnedFd {
  /** The descriptor; -1 once closed, so that a late use fails with EBADF instead of hitting a stranger's file. */
  #fd: number;
  readonly name: string;

  /** Takes over `fd`, an open descriptor (or the `-errno` of the call that should have made it, which throws). */
  constructor(fd: number, name: string, call = 'adopt') {
    this.#fd = check(fd, call, name);
    this.name = name;
    registry.add(this);
  }

  get fd(): number {
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /** A second descriptor for the same open file, with its own owner. */
  dup(name = this.name): OwnedFd {
    return dupFd(this.#fd, name);
  }

  /** Closes it. Calling it again does nothing. */
  close(): void {
    if (this.#fd >= 0) libc.close(this.release());
  }

  /** Gives the descriptor away: the caller now owns the number. */
  release(): number {
    const fd = this.#fd;
    this.#fd = -1;
    registry.delete(this);
    return fd;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A second descriptor for the open file behind `fd`, which stays its owner's. */
export function dupFd(fd: number, name: string): OwnedFd {
  return new OwnedFd(libc.fcntl(fd, F_DUPFD_CLOEXEC, 3), name, 'dup');
}

/** Has the descriptor `target` stand for the open file behind `source` from now on: whoever uses its number, in whichever thread, uses that file. */
export function replaceFd(target: OwnedFd, source: OwnedFd): void {
  check(libc.dup3(source.fd, target.fd, O_CLOEXEC), 'dup3', source.name);
}

/** Opens the file behind `fd` once more, for reading, with a position of its own. Throws LinuxError EACCES. */
export function reopenFd(fd: number, name: string): OwnedFd {
  return new OwnedFd(libc.open(`/proc/self/fd/${fd}`, O_CLOEXEC), name, 'open');
}

/** Takes over a descriptor that the parent process left open for us; it will not reach our own children. */
export function inheritFd(fd: number, name: string): OwnedFd {
  check(libc.fcntl(fd, F_GETFD), 'inherit', `${name} (fd ${fd})`);
  setInheritable(fd, false);
  return new OwnedFd(fd, name);
}

/**
 * Whether programs started by this process get the descriptor under the same number. Everything opened in this
 * folder starts as "no". (`child_process.spawn` with the number in `stdio` hands it over without this.)
 */
export function setInheritable(fd: number, inheritable: boolean): void {
  check(libc.fcntl(fd, F_SETFD, inheritable ? 0 : FD_CLOEXEC), 'fcntl F_SETFD', `fd ${fd}`);
}

/** Sets or clears O_NONBLOCK. It belongs to the open file: everyone who shares the file sees the change. */
export function setNonblocking(fd: number, nonblocking: boolean): void {
  const flags = check(libc.fcntl(fd, F_GETFL), 'fcntl F_GETFL', `fd ${fd}`);
  const wanted = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  if (wanted !== flags) check(libc.fcntl(fd, F_SETFL, wanted), 'fcntl F_SETFL', `fd ${fd}`);
}

/** The descriptors that this thread owns now, oldest first. */
export function openFds(): { fd: number; name: string }[] {
  return [...registry].map(({ fd, name }) => ({ fd, name }));
}

/** How many descriptors the whole process has open, Node's own included. */
export function countProcessFds(): number {
  return readdirSync('/proc/self/fd').length - 1; // the listing itself holds one
}

/** Does something for which a descriptor has come, which is closed when that can't be done. */
export function owning<T>(fd: OwnedFd | null, action: () => T): T {
  try {
    return action();
  } catch (error) {
    fd?.close();
    throw error;
  }
}
