/** Kernel settings of a network namespace: files below /proc/sys/net. */

import { readFileSync, writeFileSync } from 'node:fs';
import { asLinuxError, EINVAL, isErrno, LinuxError } from './errors.js';
import type { OwnedFd } from './fd.js';
import { inNetns } from './netns.js';

/** Reads e.g. `net/ipv4/ip_forward` in `netns`, without the final newline. Throws LinuxError ENOENT. */
export function readSysctl(key: string, netns?: OwnedFd): string {
  return access('read', key, netns, path => readFileSync(path, 'utf8').trimEnd());
}

/** Writes e.g. `net/ipv4/ip_forward` in `netns`. Throws LinuxError: ENOENT, EPERM, EINVAL. */
export function writeSysctl(key: string, value: string | number, netns?: OwnedFd): void {
  access('write', key, netns, path => writeFileSync(path, String(value)));
}

/**
 * Turns IPv6 off on the interfaces that are in `netns` and on those to come, so that a cable under test carries no
 * neighbour and router solicitations. Does nothing on a kernel without IPv6.
 */
export function silenceIpv6(netns?: OwnedFd): void {
  for (const which of ['all', 'default']) {
    try {
      writeSysctl(`net/ipv6/conf/${which}/disable_ipv6`, 1, netns);
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
    }
  }
}

function access<T>(call: string, key: string, netns: OwnedFd | undefined, action: (path: string) => T): T {
  const path = `/proc/sys/${key}`;
  if (!key.startsWith('net/') || key.split('/').includes('..')) throw new LinuxError(call, EINVAL, path);
  try {
    return inNetns(netns, () => action(path));
  } catch (error) {
    throw asLinuxError(error, call, path);
  }
}
