/**
 * Unix stream sockets with file descriptors: what control protocols run on.
 *
 * Everything is nonblocking. Sending never loses a message: what the kernel does not take at once is queued (descriptors
 * included) and follows when the peer reads, up to a limit. Receiving is the caller's loop:
 *
 *     socket.onReadable(() => {
 *       for (let got; (got = socket.receive(buffer)); ) {
 *         if (got.bytes === 0) return socket.close();      // the peer is gone
 *         …                                                // got.fds are ours to close
 *       }
 *     });
 */
import { statSync } from 'node:fs';
import { check, EAGAIN, ECONNREFUSED, LinuxError } from './errors.js';
import { dupFd, OwnedFd } from './fd.js';
import { MAX_FDS, receiveWithFds, sendWithFds } from './fd-passing.js';
import * as libc from './libc.js';
import { type Watch, watch } from './watch.js';

export const AF_UNIX = 1;
export const SOCK_STREAM_FLAGS = 1 | 0o4000 | 0o2000000; // SOCK_STREAM, nonblocking, close on exec
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const PATH_MAX = 107;
const DEFAULT_QUEUE_LIMIT = 1 << 20;

/** A use of a socket that cannot work; kernel errors are LinuxErrors. */
export class SocketError extends Error {
  override readonly name = 'SocketError';
  readonly code:
    | 'ERR_SOCKET_CLOSED'
    | 'ERR_SOCKET_QUEUE_FULL'
    | 'ERR_SOCKET_TOO_MANY_FDS'
    | 'ERR_SOCKET_PATH'
    | 'ERR_SOCKET_IN_USE';

  constructor(code: SocketError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

export interface Received {
  /** Bytes put into the buffer; 0 when the peer has closed its side. */
  bytes: number;
  /** Descriptors that came along, at most 16; the caller closes them. */
  fds: OwnedFd[];
  /** More descriptors came than could be received; none were kept. */
  truncatedControl: boolean;
  /** Descriptors beyond the 16th, closed. */
  surplusFds: number;
}

export interface Credentials {
  pid: number;
  uid: number;
  gid: number;
}

interface Pending {
  bytes: Uint8Array;
  fds: OwnedFd[];
}

export class UnixSocket {
  readonly owner: OwnedFd;
  /** Bytes that may wait for a slow peer before `send` refuses. */
  queueLimit = DEFAULT_QUEUE_LIMIT;
  #queue: Pending[] = [];
  #queuedBytes = 0;
  #watch: Watch | null = null;
  #onReadable: (() => void) | null = null;
  #onSent: (() => void) | null = null;
  #failure: LinuxError | null = null;

  /** Takes over a connected, nonblocking stream socket. */
  constructor(owner: OwnedFd) {
    this.owner = owner;
  }

  get name(): string {
    return this.owner.name;
  }

  get closed(): boolean {
    return this.owner.closed;
  }

  /** Bytes accepted by `send` that the kernel has not taken yet. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /**
   * Sends all of `bytes` (at least one), with up to 16 descriptors beside its first byte. The caller keeps the descriptors
   * and the buffer and may close or change them at once. Returns whether the kernel took everything; if not,
   * the rest is queued. Throws LinuxError (EPIPE, ECONNRESET: the peer is gone) or SocketError.
   */
  send(bytes: Uint8Array, fds: readonly number[] = []): boolean {
    this.#checkSend(bytes, fds);
    let sent = 0;
    if (this.#queue.length === 0) {
      const result = sendWithFds(this.owner.fd, bytes, fds);
      if (result !== -EAGAIN) sent = check(result, 'sendmsg', this.name);
      if (sent === bytes.length) return true;
    }
    const owned = sent === 0 ? this.#duplicate(fds) : [];
    this.#queue.push({ bytes: bytes.slice(sent), fds: owned });
    this.#queuedBytes += bytes.length - sent;
    this.#updateWatch();
    return false;
  }

  /** What has arrived, or null when nothing has. Throws LinuxError, e.g. ECONNRESET. */
  receive(buffer: Uint8Array): Received | null {
    const { result, fds, truncatedControl, surplusFds } = receiveWithFds(this.owner.fd, buffer);
    if (result === -EAGAIN) return null;
    check(result, 'recvmsg', this.name);
    const owned = fds.map(fd => new OwnedFd(fd, `received on ${this.name}`));
    return { bytes: result, fds: owned, truncatedControl, surplusFds };
  }

  /** Calls back while there is something to receive (data, or the peer's end). Null stops. */
  onReadable(callback: (() => void) | null): void {
    this.#onReadable = callback;
    this.#updateWatch();
  }

  /** Calls back when the kernel has taken what was queued, or never will: the next send says which. Null stops. */
  onSent(callback: (() => void) | null): void {
    this.#onSent = callback;
  }

  /** Who is at the other end, as the kernel noted it when the connection was made. */
  peerCredentials(): Credentials {
    const value = new Int32Array(3);
    const length = new Uint32Array([value.byteLength]);
    const result = libc.getsockopt(this.owner.fd, SOL_SOCKET, SO_PEERCRED, value, length);
    check(result, 'getsockopt SO_PEERCRED', this.name);
    return { pid: value[0]!, uid: value[1]!, gid: value[2]! };
  }

  /** Closes it; what is still queued is dropped. Calling it again does nothing. */
  close(): void {
    this.#watch?.close();
    this.#watch = null;
    this.#onReadable = null;
    this.#onSent = null;
    this.#dropQueue();
    this.owner.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #checkSend(bytes: Uint8Array, fds: readonly number[]): void {
    if (this.closed) throw new SocketError('ERR_SOCKET_CLOSED', `${this.name}: the socket is closed`);
    if (this.#failure) throw this.#failure;
    if (bytes.length === 0) throw new RangeError('a message has at least one byte');
    if (fds.length > MAX_FDS) {
      const message = `${this.name}: ${fds.length} descriptors in one message, at most ${MAX_FDS} can go`;
      throw new SocketError('ERR_SOCKET_TOO_MANY_FDS', message);
    }
    if (this.#queue.length > 0 && this.#queuedBytes + bytes.length > this.queueLimit) {
      const message = `${this.name}: the peer does not read; ${this.#queuedBytes} bytes wait already`;
      throw new SocketError('ERR_SOCKET_QUEUE_FULL', message);
    }
  }

  #duplicate(fds: readonly number[]): OwnedFd[] {
    const owned: OwnedFd[] = [];
    try {
      for (const fd of fds) owned.push(dupFd(fd, `queued on ${this.name}`));
      return owned;
    } catch (error) {
      for (const fd of owned) fd.close();
      throw error;
    }
  }

  #flush(): void {
    for (let head = this.#queue[0]; head; head = this.#queue[0]) {
      const result = sendWithFds(
        this.owner.fd,
        head.bytes,
        head.fds.map(owned => owned.fd),
      );
      if (result === -EAGAIN) return;
      if (result < 0) {
        // The next send reports it; the reader sees the end of the connection by itself.
        this.#failure = new LinuxError('sendmsg', -result, this.name);
        this.#dropQueue();
        break;
      }
      for (const fd of head.fds) fd.close();
      head.fds = [];
      head.bytes = head.bytes.subarray(result);
      this.#queuedBytes -= result;
      if (head.bytes.length === 0) this.#queue.shift();
    }
    this.#updateWatch();
    this.#onSent?.();
  }

  #dropQueue(): void {
    for (const { fds } of this.#queue) for (const fd of fds) fd.close();
    this.#queue = [];
    this.#queuedBytes = 0;
  }

  #updateWatch(): void {
    const events = { readable: this.#onReadable !== null, writable: this.#queue.length > 0 };
    if (!events.readable && !events.writable) {
      this.#watch?.close();
      this.#watch = null;
    } else if (this.#watch) this.#watch.setEvents(events);
    else if (!this.closed) this.#watch = watch(this.owner.fd, events, this.#onReady);
  }

  #onReady = (readable: boolean, writable: boolean): void => {
    if (writable && this.#queue.length > 0) this.#flush();
    if (readable && !this.closed) this.#onReadable?.();
  };
}

/** A connected pair, for tests and for child processes. */
export function socketPair(name: string): [UnixSocket, UnixSocket] {
  const fds = new Int32Array(2);
  check(libc.socketpair(AF_UNIX, SOCK_STREAM_FLAGS, 0, fds), 'socketpair', name);
  return [
    new UnixSocket(new OwnedFd(fds[0]!, `${name} (a)`)),
    new UnixSocket(new OwnedFd(fds[1]!, `${name} (b)`)),
  ];
}

/**
 * Connects to a listening socket. Throws LinuxError: ENOENT, ECONNREFUSED (nobody listens any more), EACCES, or EAGAIN (backlog
 * full); SocketError ERR_SOCKET_PATH for a path that leads to something else, or to nothing ever.
 */
export function connectUnix(path: string): UnixSocket {
  const address = unixAddress(path);
  const owner = new OwnedFd(libc.socket(AF_UNIX, SOCK_STREAM_FLAGS, 0), path, 'socket');
  const result = libc.connect(owner.fd, address);
  if (result === 0) return new UnixSocket(owner);
  owner.close();
  // The kernel refuses in the same words when there is no socket at all.
  if (result === -ECONNREFUSED && statSync(path, { throwIfNoEntry: false })?.isSocket() === false) {
    throw new SocketError('ERR_SOCKET_PATH', `${path} is not a socket`);
  }
  throw new LinuxError('connect', -result, path);
}

/** struct sockaddr_un. Throws SocketError for a path that does not fit into its 107 bytes. */
export function unixAddress(path: string): Uint8Array {
  const encoded = new TextEncoder().encode(path);
  if (encoded.length === 0 || encoded.length > PATH_MAX || encoded.includes(0)) {
    const message = `socket path ${JSON.stringify(path)} has ${encoded.length} bytes; it can have 1 to ${PATH_MAX}`;
    throw new SocketError('ERR_SOCKET_PATH', message);
  }
  const address = new Uint8Array(2 + encoded.length + 1);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(encoded, 2);
  return address;
}
