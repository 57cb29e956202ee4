/**
 * Network namespaces held by a descriptor: no name, no file, gone (with every device in them) when the last descriptor,
 * socket and process in them are. So a process that is killed leaves nothing behind.
 *
 * A namespace belongs to a thread. `inNetns` moves the calling thread into one, runs a function there and moves it
 * back; that must be synchronous, since in between nothing else may run on the thread. Sockets and devices stay in
 * the namespace where they were opened.
 */
import { check, LinuxError } from './errors.js';
import { OwnedFd } from './fd.js';
import * as libc from './libc.js';
import { haveNetAdmin } from './process.js';

const CLONE_NEWNET = 0x40000000;
const O_CLOEXEC = 0o2000000;
const OWN_NETNS = '/proc/thread-self/ns/net';

/** A new, empty namespace (only a loopback device, down). Throws LinuxError EPERM without CAP_SYS_ADMIN. */
export function createNetns(name = 'unnamed namespace'): OwnedFd {
  return away(
    () => check(libc.unshare(CLONE_NEWNET), 'unshare CLONE_NEWNET', name),
    () => openPath(OWN_NETNS, name),
  );
}

/** The namespace of the calling thread. */
export function currentNetns(): OwnedFd {
  return openPath(OWN_NETNS, 'own namespace');
}

/**
 * An existing namespace: by its name (`ip netns`: a file in /run/netns), or by a path such as /proc/PID/ns/net or
 * /proc/PID/fd/N. Throws LinuxError: ENOENT, EACCES.
 */
export function openNetns(nameOrPath: string): OwnedFd {
  const isPath = nameOrPath.includes('/');
  return openPath(isPath ? nameOrPath : `/run/netns/${nameOrPath}`, `netns ${nameOrPath}`);
}

/**
 * Runs `action` with the calling thread inside the namespace, and brings the thread back whatever happens. An
 * `action` that returns a promise is a mistake: its continuation runs outside. Without a namespace, runs it here.
 */
export function inNetns<T>(netns: OwnedFd | undefined, action: () => T): T {
  if (!netns) return action();
  return away(() => check(libc.setns(netns.fd, CLONE_NEWNET), 'setns', netns.name), action);
}

/** Whether network namespaces can be made here: tries it. */
export function canCreateNamespaces(): boolean {
  if (!haveNetAdmin()) return false;
  try {
    createNetns('trial').close();
    return true;
  } catch (error) {
    if (error instanceof LinuxError) return false;
    throw error;
  }
}

function openPath(path: string, name: string): OwnedFd {
  return new OwnedFd(check(libc.open(path, O_CLOEXEC), 'open', path), name);
}

/** Runs `action` between `leave`, which takes the thread out of its namespace (or throws), and the way back. */
function away<T>(leave: () => void, action: () => T): T {
  const home = currentNetns();
  try {
    leave();
    try {
      return action();
    } finally {
      // Carrying on in a stranger's namespace would send packets to the wrong network.
      check(libc.setns(home.fd, CLONE_NEWNET), 'setns', 'back to the own namespace');
    }
  } finally {
    home.close();
  }
}
