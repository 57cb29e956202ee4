/** The kernel's devices as files: small texts to read and write, links, folders. */
import { closeSync, constants, openSync, readdirSync, readFileSync, readlinkSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { asLinuxError, isErrno } from './errors.js';

/** A tree of such files. Paths are relative to its root. */
export class Sysfs {
  readonly root: string;

  constructor(root = '/sys') {
    this.root = root;
  }

  /** A file's text without the final newline; null: there is none. Throws LinuxError for one that can't be read. */
  read(path: string): string | null {
    return this.#try('read', path, full => readFileSync(full, 'utf8').trimEnd());
  }

  /** The last word of where a link leads, which is the name of what it leads to; null: there is none. */
  link(path: string): string | null {
    return this.#try('readlink', path, full => basename(readlinkSync(full)));
  }

  /** Names in a folder; empty where there is none. */
  list(path: string): readonly string[] {
    return this.#try('read', path, full => readdirSync(full)) ?? [];
  }

  /** Writes to a file that is there. Returns when the kernel has done what that means. Throws LinuxError. */
  write(path: string, text: string): void {
    const full = join(this.root, path);
    try {
      const fd = openSync(full, constants.O_WRONLY); // many of them can't be read
      try {
        writeSync(fd, text);
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      throw asLinuxError(error, 'write', full);
    }
  }

  #try<T>(call: string, path: string, action: (full: string) => T): T | null {
    const full = join(this.root, path);
    try {
      return action(full);
    } catch (error) {
      const linux = asLinuxError(error, call, full);
      if (isErrno(linux, 'ENOENT', 'ENODEV')) return null;
      throw linux;
    }
  }
}
