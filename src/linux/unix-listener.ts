/**
 * A listening Unix stream socket and the life of its file.
 *
 *     path is free ──────────────────────────────► bind, listen
 *     path is taken: by no socket, or a symlink ─► refuse
 *                    by another user's socket ───► refuse
 *                    by one that accepts ────────► refuse: in use
 *                    by one that nobody serves ──► remove it, bind, listen
 *
 * The file is removed at close, if it is still the one that was made here.
 */
import { chmodSync, fchmodSync, lstatSync, type Stats, unlinkSync } from 'node:fs';
import { check, EADDRINUSE, EAGAIN, ECONNREFUSED, LinuxError } from './errors.js';
import { OwnedFd } from './fd.js';
import * as libc from './libc.js';
import { AF_UNIX, SOCK_STREAM_FLAGS, SocketError, UnixSocket, unixAddress } from './unix-socket.js';
import { type Watch, watchReadable } from './watch.js';

const ACCEPT_FLAGS = 0o4000 | 0o2000000;

export interface ListenOptions {
  /** Permissions of the socket's file, never wider even for a moment. Default 0o600: this user alone. */
  mode?: number;
  /** Connections that may wait to be accepted. */
  backlog?: number;
}

export class UnixListener {
  readonly owner: OwnedFd;
  readonly path: string;
  readonly #file: Stats;
  #watch: Watch | null = null;

  private constructor(owner: OwnedFd, path: string) {
    this.owner = owner;
    this.path = path;
    this.#file = lstatSync(path);
  }

  /** Throws SocketError (ERR_SOCKET_PATH, ERR_SOCKET_IN_USE) or LinuxError (EACCES, ENOENT: no such folder, …). */
  static listen(path: string, { mode = 0o600, backlog = 8 }: ListenOptions = {}): UnixListener {
    const address = unixAddress(path);
    const owner = new OwnedFd(libc.socket(AF_UNIX, SOCK_STREAM_FLAGS, 0), `listener ${path}`, 'socket');
    let bound = false;
    try {
      fchmodSync(owner.fd, mode); // the file gets the socket's mode, less the umask
      let result = libc.bind(owner.fd, address);
      if (result === -EADDRINUSE) {
        removeStale(path, address);
        result = libc.bind(owner.fd, address);
      }
      check(result, 'bind', path);
      bound = true;
      if ((lstatSync(path).mode & 0o777) !== mode) chmodSync(path, mode);
      check(libc.listen(owner.fd, backlog), 'listen', path);
      return new UnixListener(owner, path);
    } catch (error) {
      owner.close();
      if (bound) unlinkSync(path);
      throw error;
    }
  }

  /** The next connection, or null when none waits. */
  accept(): UnixSocket | null {
    const fd = libc.accept4(this.owner.fd, 0, 0, ACCEPT_FLAGS);
    if (fd === -EAGAIN) return null;
    return new UnixSocket(new OwnedFd(fd, `connection to ${this.path}`, 'accept'));
  }

  /** Calls back with each connection; what a failed accept threw goes to `onError`, and comes again. */
  onConnection(callback: (socket: UnixSocket) => void, onError: (error: unknown) => void): void {
    this.#watch?.close();
    this.#watch = watchReadable(this.owner.fd, () => {
      let socket: UnixSocket | null;
      try {
        socket = this.accept();
      } catch (error) {
        onError(error);
        return;
      }
      if (socket) callback(socket);
    });
  }

  /** Stops listening and removes the file. Calling it again does nothing. */
  close(): void {
    if (this.owner.closed) return;
    this.#watch?.close();
    this.owner.close();
    const now = lstatSync(this.path, { throwIfNoEntry: false });
    if (now && now.ino === this.#file.ino && now.dev === this.#file.dev) unlinkSync(this.path);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Removes a socket file that nobody serves; throws SocketError for anything else. */
function removeStale(path: string, address: Uint8Array): void {
  const file = lstatSync(path, { throwIfNoEntry: false });
  if (!file) return;
  const refusal = file.isSymbolicLink()
    ? 'is a symbolic link'
    : !file.isSocket()
      ? 'exists and is not a socket'
      : file.uid !== process.geteuid!()
        ? `is a socket of user ${file.uid}`
        : null;
  if (refusal) throw new SocketError('ERR_SOCKET_PATH', `${path} ${refusal}; not touching it`);
  const probe = new OwnedFd(libc.socket(AF_UNIX, SOCK_STREAM_FLAGS, 0), `probe of ${path}`, 'socket');
  const result = libc.connect(probe.fd, address);
  probe.close();
  if (result === 0 || result === -EAGAIN) {
    throw new SocketError('ERR_SOCKET_IN_USE', `${path} is in use: another process is listening on it`);
  }
  if (result !== -ECONNREFUSED) throw new LinuxError('connect', -result, path);
  unlinkSync(path);
}
