/**
 * Eventfds: the doorbells and interrupts of queues. A counter in the kernel that one side adds to and the other reads
 * to zero; any thread or process with the descriptor can do either.
 *
 * The functions that take a plain fd are for datapath workers: they allocate nothing. Their 8-byte operands sit at
 * addresses fixed when the module loads, one pair per thread.
 */
import { readlinkSync } from 'node:fs';
import { check, EAGAIN, EINVAL, LinuxError } from './errors.js';
import { OwnedFd, setNonblocking } from './fd.js';
import { addressOf, eventfd, read, write } from './libc.js';

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

// One buffer for both operands, a u64 1 and the u64 that is read: `drainEventFd` refers to it, which keeps it alive. (A buffer
// that only its address refers to is collected, even from a module's top level.)
const operands = new Uint32Array([1, 0, 0, 0]);
const oneAddress = addressOf(operands);
const counterAddress = oneAddress + 8;

/** Adds one. Returns 0, or `-errno` (-EAGAIN: the counter is full, so the other side is awake anyway). */
export function signalEventFd(fd: number): number {
  return Math.min(0, write(fd, oneAddress, 8));
}

/** Reads the counter to zero. Returns what it was: 0 when there was nothing; or `-errno`. */
export function drainEventFd(fd: number): number {
  const result = read(fd, counterAddress, 8);
  if (result < 0) return result === -EAGAIN ? 0 : result;
  return operands[3]! * 0x1_0000_0000 + operands[2]!;
}

/** An eventfd with its owner. */
export class EventFd {
  readonly owner: OwnedFd;

  private constructor(owner: OwnedFd) {
    this.owner = owner;
  }

  /** A new one, nonblocking unless told otherwise. */
  static create(name: string, { initial = 0, nonblocking = true } = {}): EventFd {
    const flags = EFD_CLOEXEC | (nonblocking ? EFD_NONBLOCK : 0);
    return new EventFd(new OwnedFd(eventfd(initial, flags), name, 'eventfd'));
  }

  /**
   * Takes over one that a peer sent. Throws LinuxError EINVAL, and closes it, when it is anything but an
   * eventfd: a pipe or a file in its place could block us. It is made nonblocking (for the peer as well).
   */
  static adopt(owner: OwnedFd): EventFd {
    try {
      const kind = readlinkSync(`/proc/self/fd/${owner.fd}`);
      if (kind !== 'anon_inode:[eventfd]') {
        throw new LinuxError('use as eventfd', EINVAL, `${owner.name}, which is ${kind}`);
      }
      setNonblocking(owner.fd, true);
      return new EventFd(owner);
    } catch (error) {
      owner.close();
      throw error;
    }
  }

  get fd(): number {
    return this.owner.fd;
  }

  get name(): string {
    return this.owner.name;
  }

  /** Adds one; a full counter counts as signalled. Throws LinuxError when the descriptor is gone. */
  signal(): void {
    const result = signalEventFd(this.owner.fd);
    if (result < 0 && result !== -EAGAIN) throw new LinuxError('write', -result, this.owner.name);
  }

  /** Reads the counter to zero and returns what it was. */
  drain(): number {
    return check(drainEventFd(this.owner.fd), 'read', this.owner.name);
  }

  close(): void {
    this.owner.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
