/**
 * Sockets inside a network namespace: what demo traffic and tests need. Blocking unless told otherwise, with a
 * time limit (`setTimeouts`), for use in a worker or in a test that knows its answer is there.
 *
 * `send`, `recv` and friends return a count or `-errno` and take any memory; the rest throws LinuxError.
 */
import { check, EAGAIN, EINTR } from './errors.js';
import { OwnedFd } from './fd.js';
import { AF_INET, AF_INET6, formatIp, parseIp } from './ip-address.js';
import * as libc from './libc.js';
import { linkInfo } from './link.js';
import { inNetns } from './netns.js';

const AF_PACKET = 17;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const IPPROTO_ICMP = 1;
const IPPROTO_TCP = 6;
const IPPROTO_ICMPV6 = 58;
const ETH_P_ALL = 0x0003;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_ERROR = 4;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_RCVTIMEO = 20;
const SO_SNDTIMEO = 21;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SO_MAX_PACING_RATE = 47;
const SO_MEMINFO = 55;
const SOL_PACKET = 263;
const PACKET_IGNORE_OUTGOING = 23;
const TCP_NODELAY = 1;
const TCP_INFO = 11;
/** struct tcp_info, <linux/tcp.h>: where tcpi_total_retrans and tcpi_dsack_dups are, and the bytes up to the end of the latter. */
const TOTAL_RETRANS = 100;
const DSACK_DUPS = 216;
const TCP_INFO_BYTES = 220;
/** Words of SO_MEMINFO, <linux/sock_diag.h>. */
const MEMINFO_RCVBUF = 1;
const MEMINFO_DROPS = 8;
const MEMINFO_WORDS = 9;
const SHUT_WR = 1;
const MSG_NOSIGNAL = 0x4000;

export interface Endpoint {
  /** IPv4 or IPv6. */
  ip: string;
  port: number;
}

export interface SocketOptions {
  /** Where to open it; default: the calling thread's namespace. */
  netns?: OwnedFd;
  nonblocking?: boolean;
}

/** A socket with its owner; see `openUdp`, `openTcp`, `listenTcp`, `openPing`, `openPacket`. */
export class Socket {
  readonly owner: OwnedFd;

  constructor(owner: OwnedFd) {
    this.owner = owner;
  }

  get fd(): number {
    return this.owner.fd;
  }

  get name(): string {
    return this.owner.name;
  }

  bind(at: Endpoint): this {
    check(libc.bind(this.fd, socketAddress(at)), 'bind', this.#with(at));
    return this;
  }

  /** Throws LinuxError: ECONNREFUSED, ETIMEDOUT, EINPROGRESS (nonblocking: see `pendingError` once writable). */
  connect(to: Endpoint): this {
    check(libc.connect(this.fd, socketAddress(to)), 'connect', this.#with(to));
    return this;
  }

  /** Its own address, e.g. the port that the kernel picked. */
  localEndpoint(): Endpoint {
    const address = new Uint8Array(28);
    const length = new Uint32Array([address.length]);
    check(libc.getsockname(this.fd, address, length), 'getsockname', this.name);
    const v4 = address[0] === AF_INET;
    const ip = formatIp(v4 ? address.subarray(4, 8) : address.subarray(8, 24));
    return { ip, port: (address[2]! << 8) | address[3]! };
  }

  /** The next connection of a listening socket, or null when it is nonblocking and none waits. */
  accept({ nonblocking = false } = {}): Socket | null {
    const flags = SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
    let fd: number;
    do fd = libc.accept4(this.fd, 0, 0, flags);
    while (fd === -EINTR);
    if (fd === -EAGAIN) return null;
    return new Socket(new OwnedFd(fd, `connection to ${this.name}`, 'accept'));
  }

  /** Sends `length` bytes. Returns how many went, or `-errno` (-EAGAIN after the time limit). */
  send(bytes: libc.Pointer, length: number): number {
    return libc.send(this.fd, bytes, length, MSG_NOSIGNAL);
  }

  /** Receives at most `length` bytes. Returns how many came (0: the end of a stream), or `-errno`. */
  recv(bytes: libc.Pointer, length: number): number {
    return libc.recv(this.fd, bytes, length, 0);
  }

  /** Says that nothing more will be sent. */
  endSending(): void {
    check(libc.shutdown(this.fd, SHUT_WR), 'shutdown', this.name);
  }

  /** How a connection attempt in the background ended: 0 or a positive errno. */
  pendingError(): number {
    const value = new Int32Array(1);
    this.#get(SOL_SOCKET, SO_ERROR, value, 'SO_ERROR');
    return value[0]!;
  }

  /** Limits how long a blocking call may take; 0: for ever. */
  setTimeouts(ms: number): this {
    const timeval = new BigInt64Array([
      BigInt(Math.floor(ms / 1000)),
      BigInt(Math.floor((ms % 1000) * 1000)),
    ]);
    this.#set(SOL_SOCKET, SO_RCVTIMEO, timeval, 'SO_RCVTIMEO');
    this.#set(SOL_SOCKET, SO_SNDTIMEO, timeval, 'SO_SNDTIMEO');
    return this;
  }

  /** Asks for buffers of these sizes: beyond the system's limit where we have the right, up to it elsewhere. */
  setBuffers({ receive, send }: { receive?: number; send?: number }): this {
    if (receive !== undefined) this.#setBuffer(receive, SO_RCVBUFFORCE, SO_RCVBUF, 'SO_RCVBUF');
    if (send !== undefined) this.#setBuffer(send, SO_SNDBUFFORCE, SO_SNDBUF, 'SO_SNDBUF');
    return this;
  }

  /** TCP: send small pieces at once. */
  setNoDelay(on = true): this {
    this.#set(IPPROTO_TCP, TCP_NODELAY, new Int32Array([on ? 1 : 0]), 'TCP_NODELAY');
    return this;
  }

  /** What it may hold of received packets, in bytes of the kernel's memory, and how many it had to drop. */
  receiveMemory(): { readonly limit: number; readonly dropped: number } {
    const words = new Uint32Array(MEMINFO_WORDS);
    this.#get(SOL_SOCKET, SO_MEMINFO, words, 'SO_MEMINFO');
    return { limit: words[MEMINFO_RCVBUF]!, dropped: words[MEMINFO_DROPS]! };
  }

  /**
   * TCP: how many segments were sent again since the connection was made, and how many the other end has told us (RFC 2883) that it has got
   * more than once. A kernel that does not count those says 0.
   */
  retransmissions(): { readonly sent: number; readonly cameTwice: number } {
    const info = new DataView(new ArrayBuffer(TCP_INFO_BYTES));
    this.#get(IPPROTO_TCP, TCP_INFO, info, 'TCP_INFO');
    return { sent: info.getUint32(TOTAL_RETRANS, true), cameTwice: info.getUint32(DSACK_DUPS, true) };
  }

  /** TCP: the kernel sends no more than so many bytes a second, evenly, though there be more to send and room for it. */
  setPace(bytesPerSecond: number): this {
    this.#set(SOL_SOCKET, SO_MAX_PACING_RATE, new Uint32Array([bytesPerSecond]), 'SO_MAX_PACING_RATE');
    return this;
  }

  close(): void {
    this.owner.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #setBuffer(bytes: number, force: number, polite: number, name: string): void {
    const value = new Int32Array([bytes]);
    if (libc.setsockopt(this.fd, SOL_SOCKET, force, value) < 0) this.#set(SOL_SOCKET, polite, value, name);
  }

  #set(level: number, option: number, value: NodeJS.ArrayBufferView, name: string): void {
    check(libc.setsockopt(this.fd, level, option, value), `setsockopt ${name}`, this.name);
  }

  #get(level: number, option: number, value: NodeJS.ArrayBufferView, name: string): void {
    const length = new Uint32Array([value.byteLength]);
    check(libc.getsockopt(this.fd, level, option, value, length), `getsockopt ${name}`, this.name);
  }

  #with({ ip, port }: Endpoint): string {
    return `${this.name} ${ip}:${port}`;
  }
}

/** An unbound UDP socket for the family of `ip`. For many datagrams per call see `UdpBatch`. */
export function openUdp(ip: string, options: SocketOptions = {}): Socket {
  return open('udp', parseIp(ip).family, SOCK_DGRAM, 0, options);
}

/** An unconnected TCP socket for the family of `ip`. */
export function openTcp(ip: string, options: SocketOptions = {}): Socket {
  return open('tcp', parseIp(ip).family, SOCK_STREAM, 0, options);
}

/** A listening TCP socket; port 0 picks a free one. */
export function listenTcp(at: Endpoint, options: SocketOptions & { backlog?: number } = {}): Socket {
  const socket = openTcp(at.ip, options);
  try {
    libc.setsockopt(socket.fd, SOL_SOCKET, SO_REUSEADDR, new Int32Array([1]));
    socket.bind(at);
    check(libc.listen(socket.fd, options.backlog ?? 16), 'listen', `${at.ip}:${at.port}`);
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/**
 * A raw socket for echo requests and replies. What is sent begins with the ICMP header (with its checksum; for IPv6
 * the kernel fills that in). What is received begins with the IP header in IPv4 and without one in IPv6. It
 * needs CAP_NET_RAW, and hears all ICMP of the namespace.
 */
export function openPing(ip: string, options: SocketOptions = {}): Socket {
  const { family } = parseIp(ip);
  return open('ping', family, SOCK_RAW, family === AF_INET6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, options);
}

/**
 * A socket that sends and receives whole Ethernet frames on one interface: what is sent leaves through the device, what
 * is received came in from it. Throws LinuxError: ENODEV, EPERM (needs CAP_NET_RAW).
 */
export function openPacket(interfaceName: string, options: SocketOptions = {}): Socket {
  const { index } = linkInfo(interfaceName, options.netns);
  // Protocol 0: it hears nothing before it is bound to its interface.
  const socket = open(`packet socket on ${interfaceName}`, AF_PACKET, SOCK_RAW, 0, options);
  try {
    const ignore = libc.setsockopt(socket.fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, new Int32Array([1]));
    check(ignore, 'setsockopt PACKET_IGNORE_OUTGOING', socket.name);
    const address = new DataView(new ArrayBuffer(20)); // struct sockaddr_ll
    address.setUint16(0, AF_PACKET, true);
    address.setUint16(2, ETH_P_ALL, false);
    address.setInt32(4, index, true);
    check(libc.bind(socket.fd, new Uint8Array(address.buffer)), 'bind', socket.name);
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

function open(name: string, family: number, type: number, protocol: number, options: SocketOptions): Socket {
  const flags = SOCK_CLOEXEC | (options.nonblocking ? SOCK_NONBLOCK : 0);
  const fd = inNetns(options.netns, () => libc.socket(family, type | flags, protocol));
  return new Socket(new OwnedFd(fd, name, 'socket'));
}

/** struct sockaddr_in or sockaddr_in6. */
function socketAddress({ ip, port }: Endpoint): Uint8Array {
  const { family, bytes } = parseIp(ip);
  const address = new DataView(new ArrayBuffer(family === AF_INET ? 16 : 28));
  address.setUint16(0, family, true);
  address.setUint16(2, port, false);
  const joined = new Uint8Array(address.buffer);
  joined.set(bytes, family === AF_INET ? 4 : 8);
  return joined;
}
