/**
 * How a control socket gets its path, and loses it, while others start and end at the same time.
 *
 * ```
 *   listen at FOLDER/.NAME.PID ──link──► FOLDER/NAME.sock        so whoever finds a path finds somebody who listens
 *                                   │
 *            it exists: somebody answers there ─► taken
 *                       nobody does ────────────► link it to FOLDER/.NAME.dead.INODE: who can may remove it; link again
 * ```
 * Only a dead socket is ever removed, and by one process, since no other can make that second link to the same file.
 */
import { linkSync, lstatSync, type Stats, unlinkSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { isErrno } from '../../linux/errors.js';
import { UnixListener } from '../../linux/unix-listener.js';
import { connectUnix, SocketError } from '../../linux/unix-socket.js';

const TRIES = 16;
const BACKLOG = 16;
/** Removing a socket takes so long at most. */
const ABANDONED_MS = 2000;

/** A listening socket at a path. */
export interface Claim {
  readonly path: string;
  readonly listener: UnixListener;
  /** Removes the path, if it is still this socket's, and stops listening. Calling it again does nothing. */
  release(): void;
}

/**
 * Listens at `path`, mode 0600. Null: a living process does so already. Throws SocketError ERR_SOCKET_PATH when something else is there, LinuxError or
 * Node's error when it can't be.
 */
export function claim(path: string): Claim | null {
  const listener = UnixListener.listen(hidden(path, String(process.pid)), { mode: 0o600, backlog: BACKLOG });
  try {
    for (let i = 0; i < TRIES; i++) {
      if (tryLink(listener.path, path)) return held(listener, path);
      if (isServed(path)) break;
      removeDead(path);
    }
  } catch (error) {
    listener.close();
    throw error;
  }
  listener.close();
  return null;
}

/** Whether somebody listens at that path, or something else than a socket of ours is there, which throws SocketError ERR_SOCKET_PATH. */
export function isServed(path: string): boolean {
  const file = lstatSync(path, { throwIfNoEntry: false });
  if (!file) return false;
  const why = file.isSymbolicLink()
    ? 'is a symbolic link'
    : !file.isSocket()
      ? 'exists and is not a socket'
      : file.uid !== process.geteuid!()
        ? `is a socket of user ${file.uid}`
        : null;
  if (why) throw new SocketError('ERR_SOCKET_PATH', `${path} ${why}; not touching it`);
  try {
    connectUnix(path).close();
    return true;
  } catch (error) {
    if (isErrno(error, 'EAGAIN')) return true; // more wait there than fit
    if (isErrno(error, 'ECONNREFUSED', 'ENOENT')) return false;
    throw error;
  }
}

/** Removes a socket at which nobody listens; or lets another process that has begun to do so, unless that was killed more than `abandonedMs` ago. */
export function removeDead(path: string, abandonedMs = ABANDONED_MS): void {
  const dead = lstatSync(path, { throwIfNoEntry: false });
  if (!dead || isServed(path)) return;
  const right = hidden(path, `dead.${dead.ino}`);
  try {
    if (!tryLink(path, right)) {
      const { ctimeMs } = lstatSync(right);
      if (Date.now() - ctimeMs > abandonedMs) unlinkSync(right); // the next look removes the socket
      return;
    }
    // What is at the path now may be another one, which lives; even one with the same number.
    if (isSame(lstatSync(right), dead) && !isServed(right)) unlinkSync(path);
    unlinkSync(right);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOENT') throw error; // somebody was faster
  }
}

function held(listener: UnixListener, path: string): Claim {
  const own = lstatSync(listener.path);
  unlinkSync(listener.path);
  let released = false;
  return {
    path,
    listener,
    release() {
      if (released) return;
      released = true;
      const now = lstatSync(path, { throwIfNoEntry: false });
      if (now && isSame(now, own)) unlinkSync(path);
      listener.close();
    },
  };
}

/** False: the path is taken. */
function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === 'EEXIST') return false;
    throw error;
  }
}

/** A name beside `path` that no listing shows. */
function hidden(path: string, what: string): string {
  return join(dirname(path), `.${basename(path)}.${what}`);
}

function isSame(a: Stats, b: Stats): boolean {
  return a.ino === b.ino && a.dev === b.dev;
}
