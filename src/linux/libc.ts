/**
 * The C library, bound once per thread. No other file calls the FFI library.
 *
 * Every binding is declared when the module loads and none later: a thread that is stopped while it declares one
 * takes the process down with it. So a worker reports "ready" after its imports, and only then may be stopped.
 *
 * Conventions
 *   result    a non-negative number, or `-errno`. No call here throws.
 *   Pointer   a Number (an address; user space ends below 2^53), a typed array (its memory, in place) or null.
 *   layouts   64-bit Linux, little-endian: the same for x86-64 and arm64, glibc and musl. The variadic
 *             functions (ioctl, fcntl, prctl) are declared with fixed arguments, which both ABIs pass alike.
 */
import koffi from 'koffi';

export type Pointer = number | NodeJS.ArrayBufferView | null;

const lib = koffi.load(null);
const errno: () => number = koffi.errno;

const c = {
  readv: lib.func('intptr_t readv(int fd, void *iov, int count)'),
  writev: lib.func('intptr_t writev(int fd, void *iov, int count)'),
  read: lib.func('intptr_t read(int fd, void *bytes, size_t length)'),
  write: lib.func('intptr_t write(int fd, void *bytes, size_t length)'),
  ppoll: lib.func('int ppoll(void *fds, unsigned long count, void *timeout, void *mask)'),
  clock_gettime: lib.func('int clock_gettime(int clock, void *timespec)'),

  open: lib.func('int open(const char *path, int flags, unsigned int mode)'),
  close: lib.func('int close(int fd)'),
  dup3: lib.func('int dup3(int from, int to, int flags)'),
  pread: lib.func('intptr_t pread(int fd, void *bytes, size_t length, int64_t offset)'),
  pwrite: lib.func('intptr_t pwrite(int fd, void *bytes, size_t length, int64_t offset)'),
  fcntl: lib.func('int fcntl(int fd, int command, intptr_t argument)'),
  ioctl: lib.func('int ioctl(int fd, unsigned long request, void *argument)'),
  ioctlValue: lib.func('ioctl', 'int', ['int', 'unsigned long', 'uintptr_t']),
  ftruncate: lib.func('int ftruncate(int fd, int64_t length)'),
  memfd_create: lib.func('int memfd_create(const char *name, unsigned int flags)'),
  mmap: lib.func('intptr_t mmap(void *at, size_t length, int protection, int flags, int fd, int64_t offset)'),
  munmap: lib.func('int munmap(void *at, size_t length)'),
  memcpy: lib.func('void memcpy(uintptr_t to, uintptr_t from, size_t length)'),
  eventfd: lib.func('int eventfd(unsigned int initial, int flags)'),

  socket: lib.func('int socket(int domain, int type, int protocol)'),
  socketpair: lib.func('int socketpair(int domain, int type, int protocol, void *fds)'),
  bind: lib.func('int bind(int fd, void *address, unsigned int length)'),
  listen: lib.func('int listen(int fd, int backlog)'),
  accept4: lib.func('int accept4(int fd, void *address, void *length, int flags)'),
  connect: lib.func('int connect(int fd, void *address, unsigned int length)'),
  shutdown: lib.func('int shutdown(int fd, int how)'),
  getsockname: lib.func('int getsockname(int fd, void *address, void *length)'),
  getsockopt: lib.func('int getsockopt(int fd, int level, int name, void *value, void *length)'),
  setsockopt: lib.func('int setsockopt(int fd, int level, int name, void *value, unsigned int length)'),
  send: lib.func('intptr_t send(int fd, void *bytes, size_t length, int flags)'),
  recv: lib.func('intptr_t recv(int fd, void *bytes, size_t length, int flags)'),
  sendmsg: lib.func('intptr_t sendmsg(int fd, void *message, int flags)'),
  recvmsg: lib.func('intptr_t recvmsg(int fd, void *message, int flags)'),
  sendmmsg: lib.func('int sendmmsg(int fd, void *messages, unsigned int count, int flags)'),
  recvmmsg: lib.func('int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout)'),

  sysconf: lib.func('long sysconf(int name)'),
  unshare: lib.func('int unshare(int flags)'),
  setns: lib.func('int setns(int fd, int type)'),
  prctl: lib.func('int prctl(int option, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d)'),
  sched_setscheduler: lib.func('int sched_setscheduler(int tid, int policy, const void *param)'),
  sched_setaffinity: lib.func('int sched_setaffinity(int tid, size_t length, void *mask)'),
  sched_getaffinity: lib.func('int sched_getaffinity(int tid, size_t length, void *mask)'),
};

/** From libc's "-1, see errno" to "-errno". */
function result(value: number): number {
  return value < 0 ? -errno() : value;
}

// ---- hot: called per batch; addresses as Numbers, no allocation ----

/** `iovec` is the address of `count` structs {u64 base, u64 length}. */
export function readv(fd: number, iovec: number, count: number): number {
  return result(c.readv(fd, iovec, count));
}
/** `iovec` is the address of `count` structs {u64 base, u64 length}. */
export function writev(fd: number, iovec: number, count: number): number {
  return result(c.writev(fd, iovec, count));
}
export function read(fd: number, bytes: Pointer, length: number): number {
  return result(c.read(fd, bytes, length));
}
export function write(fd: number, bytes: Pointer, length: number): number {
  return result(c.write(fd, bytes, length));
}
/** `fds`: address of `count` structs pollfd; `timeout`: address of a timespec, or 0 to wait without limit. */
export function ppoll(fds: number, count: number, timeout: number): number {
  return result(c.ppoll(fds, count, timeout, 0));
}
/** `timespec`: address of {i64 seconds, i64 nanoseconds}. */
export function clockGettime(clock: number, timespec: number): number {
  return result(c.clock_gettime(clock, timespec));
}
export function sendmmsg(fd: number, messages: number, count: number, flags: number): number {
  return result(c.sendmmsg(fd, messages, count, flags));
}
export function recvmmsg(fd: number, messages: number, count: number, flags: number): number {
  return result(c.recvmmsg(fd, messages, count, flags, 0));
}
export function send(fd: number, bytes: Pointer, length: number, flags: number): number {
  return result(c.send(fd, bytes, length, flags));
}
export function recv(fd: number, bytes: Pointer, length: number, flags: number): number {
  return result(c.recv(fd, bytes, length, flags));
}

// ---- files and memory ----

export const open = (path: string, flags: number, mode = 0): number => result(c.open(path, flags, mode));
export const close = (fd: number): number => result(c.close(fd));
export const dup3 = (from: number, to: number, flags: number): number => result(c.dup3(from, to, flags));
export const pread = (fd: number, bytes: Pointer, length: number, offset: number): number =>
  result(c.pread(fd, bytes, length, offset));
export const pwrite = (fd: number, bytes: Pointer, length: number, offset: number): number =>
  result(c.pwrite(fd, bytes, length, offset));
export const fcntl = (fd: number, command: number, argument = 0): number =>
  result(c.fcntl(fd, command, argument));
/** An ioctl whose argument points to a struct. */
export const ioctl = (fd: number, request: number, argument: Pointer): number =>
  result(c.ioctl(fd, request, argument));
/** An ioctl whose argument is a plain number. */
export const ioctlValue = (fd: number, request: number, argument: number): number =>
  result(c.ioctlValue(fd, request, argument));
export const ftruncate = (fd: number, length: number): number => result(c.ftruncate(fd, length));
export const memfdCreate = (name: string, flags: number): number => result(c.memfd_create(name, flags));
/** The address of the mapping, or `-errno`. */
export const mmap = (at: number, length: number, prot: number, flags: number, fd: number, offset: number) =>
  result(c.mmap(at, length, prot, flags, fd, offset));
export const munmap = (at: number, length: number): number => result(c.munmap(at, length));
/** Both are addresses, of bytes that do not overlap. */
export const memcpy = (to: number, from: number, length: number): void => c.memcpy(to, from, length);
export const eventfd = (initial: number, flags: number): number => result(c.eventfd(initial, flags));

// ---- sockets ----

export const socket = (domain: number, type: number, protocol: number): number =>
  result(c.socket(domain, type, protocol));
export const socketpair = (domain: number, type: number, protocol: number, fds: Int32Array): number =>
  result(c.socketpair(domain, type, protocol, fds));
export const bind = (fd: number, address: Uint8Array): number =>
  result(c.bind(fd, address, address.byteLength));
export const listen = (fd: number, backlog: number): number => result(c.listen(fd, backlog));
export const accept4 = (fd: number, address: Pointer, length: Pointer, flags: number): number =>
  result(c.accept4(fd, address, length, flags));
export const connect = (fd: number, address: Uint8Array): number =>
  result(c.connect(fd, address, address.byteLength));
export const shutdown = (fd: number, how: number): number => result(c.shutdown(fd, how));
export const getsockname = (fd: number, address: Uint8Array, length: Uint32Array): number =>
  result(c.getsockname(fd, address, length));
export const getsockopt = (fd: number, level: number, name: number, value: Pointer, length: Uint32Array) =>
  result(c.getsockopt(fd, level, name, value, length));
export const setsockopt = (fd: number, level: number, name: number, value: NodeJS.ArrayBufferView): number =>
  result(c.setsockopt(fd, level, name, value, value.byteLength));
export const sendmsg = (fd: number, message: Pointer, flags: number): number =>
  result(c.sendmsg(fd, message, flags));
export const recvmsg = (fd: number, message: Pointer, flags: number): number =>
  result(c.recvmsg(fd, message, flags));

// ---- threads and namespaces ----

export const unshare = (flags: number): number => result(c.unshare(flags));
export const setns = (fd: number, type: number): number => result(c.setns(fd, type));
export const prctl = (option: number, argument: number): number => result(c.prctl(option, argument, 0, 0, 0));
export const schedSetaffinity = (tid: number, mask: Uint8Array): number =>
  result(c.sched_setaffinity(tid, mask.byteLength, mask));
export const schedSetscheduler = (tid: number, policy: number, param: Int32Array): number =>
  result(c.sched_setscheduler(tid, policy, param));
export const schedGetaffinity = (tid: number, mask: Uint8Array): number =>
  result(c.sched_getaffinity(tid, mask.byteLength, mask));

// ---- addresses ----

const SC_PAGESIZE = 30;

/** Bytes in a page of memory: 4096 on x86-64, up to 65536 elsewhere. */
export const PAGE_SIZE: number = c.sysconf(SC_PAGESIZE);

/**
 * The address of the first byte of `bytes`. It stays valid while the underlying buffer is referenced: an address
 * keeps nothing alive. (The buffer of a small typed array moves out of the JavaScript heap here, once.)
 */
export function addressOf(bytes: NodeJS.ArrayBufferView): number {
  if (bytes.byteLength === 0) throw new RangeError('an empty view has no address');
  return Number(koffi.address(bytes));
}

export interface PollHandle {
  start(events: { readable: boolean; writable: boolean }, callback: PollCallback): void;
  close(): void;
  ref(): void;
  unref(): void;
}
/** `status` is 0 or a negative errno, after which the handle is stopped. */
export type PollCallback = (status: number, events: { readable: boolean; writable: boolean }) => void;

/** Watches an fd on this thread's event loop; used by `watch.ts` only. */
export const pollOnLoop = koffi.node.poll as unknown as (
  fd: number,
  events: { readable: boolean; writable: boolean },
  callback: PollCallback,
) => PollHandle;
