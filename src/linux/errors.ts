/**
 * How a failed system call becomes an error.
 *
 * Kernel calls in this folder come in two kinds. Hot ones return the result, or `-errno`, and never throw.
 * All others go through `check`, which throws a LinuxError that says what was tried on what:
 *
 *     open /dev/net/tun: EPERM (operation not permitted)
 *     call object        code   meaning
 */
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

/** errno values by name, as this machine numbers them. */
export const ERRNO: Readonly<Record<string, number>> = constants.errno;

export const { EAGAIN, EINTR, EINVAL, ENOENT, EEXIST, EPERM, EACCES, EADDRINUSE, ECONNREFUSED } =
  constants.errno;
export const { ENOBUFS, EIO, ETIMEDOUT, EPIPE, EBADF, EINPROGRESS, ENOLINK } = constants.errno;
/** Of a TAP whose interface was deleted; Node does not know it. */
export const EBADFD = 77;

const nameOf = new Map<number, string>();
for (const [name, value] of Object.entries(ERRNO)) if (!nameOf.has(value)) nameOf.set(value, name);
nameOf.set(EBADFD, 'EBADFD');
// Two names share one number; these are the ones that the manual pages lead with.
for (const name of ['EAGAIN', 'EOPNOTSUPP', 'EDEADLK']) nameOf.set(ERRNO[name]!, name);

/** The symbolic name of an errno value, `E123` for one that Node does not know. */
export function errnoName(errno: number): string {
  return nameOf.get(errno) ?? `E${errno}`;
}

/** A system call that failed. `code` is the errno's name and is stable. */
export class LinuxError extends Error {
  override readonly name = 'LinuxError';
  readonly code: string;
  /** Positive errno value. */
  readonly errno: number;
  /** The system call, e.g. `open` or `ioctl TUNSETIFF`. */
  readonly call: string;
  /** What it was tried on: a path, an interface name, the name of a file descriptor; may be empty. */
  readonly object: string;

  constructor(call: string, errno: number, object = '') {
    const code = errnoName(errno);
    const meaning = getSystemErrorMap().get(-errno)?.[1];
    super(`${call}${object && ` ${object}`}: ${code}${meaning ? ` (${meaning})` : ''}`);
    this.code = code;
    this.errno = errno;
    this.call = call;
    this.object = object;
  }
}

/** Passes a non-negative result through; throws a LinuxError for `-errno`. */
export function check(result: number, call: string, object = ''): number {
  if (result < 0) throw new LinuxError(call, -result, object);
  return result;
}

/** True for a LinuxError with one of these codes. */
export function isErrno(error: unknown, ...codes: string[]): error is LinuxError {
  return error instanceof LinuxError && codes.includes(error.code);
}

/** What Node's `fs` threw, as a LinuxError of that call; anything else passes through. */
export function asLinuxError(error: unknown, call: string, object: string): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  const errno = code && ERRNO[code];
  return errno && !(error instanceof LinuxError) ? new LinuxError(call, errno, object) : error;
}
