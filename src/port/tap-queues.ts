/**
 * The queues of a TAP interface: one descriptor each, all of them one interface.
 *
 * ```
 *                          ┌─ queue 0 ◄──► descriptor 0
 *   kernel ── interface ───┼─ queue 1 ◄──► descriptor 1
 *                          └─ queue 2      descriptor 2      out of service: the kernel sends nothing there
 * ```
 * The kernel sends the frames of a flow on the queue on which that flow's frames came in last; those of a flow that it has not heard
 * from, on the one that a hash of its addresses names. Address, carrier and offloads are the interface's.
 */
import { EINVAL, ERRNO, LinuxError } from '../linux/errors.js';
import { openTap, type Tap, type TapOptions } from '../linux/tun.js';
import { tapDescriptors } from '../linux/tun-info.js';

export class TapQueues {
  readonly all: readonly Tap[];
  #used: number;

  /** All are of one interface, and in service. They are its own from now on. */
  constructor(all: readonly Tap[]) {
    this.all = all;
    this.#used = all.length;
  }

  /**
   * Opens `count` queues of an interface, which it makes when there is none. One that exists decides by itself whether it can have several: fewer
   * are opened then, one at least. Throws LinuxError as `openTap`; EBUSY also when somebody else has a queue of it: two who share an interface
   * would each see half of it.
   */
  static open(options: Pick<TapOptions, 'name' | 'netns'>, count: number): TapQueues {
    const { tap: first, multiQueue } = openFirst(options, count > 1);
    const all = [first];
    try {
      if ((tapDescriptors(first.name, options.netns) ?? 1) > 1) {
        throw new LinuxError('ioctl TUNSETIFF', ERRNO.EBUSY!, first.name);
      }
      while (multiQueue && all.length < count) {
        all.push(openTap({ ...options, name: first.name, multiQueue }));
      }
    } catch (error) {
      if (isErrno(error, ERRNO.E2BIG!)) return new TapQueues(all); // others have the rest of what an interface can have
      for (const tap of all) tap.close();
      throw error;
    }
    return new TapQueues(all);
  }

  get first(): Tap {
    return this.all[0]!;
  }

  /** Takes all but the first `n` queues out of service, and those into it. What waits in a queue that goes out is lost. */
  use(n: number): void {
    const wanted = Math.max(1, Math.min(n, this.all.length));
    try {
      // The kernel numbers queues as they come: the last one goes first, so that all others keep their numbers.
      while (this.#used > wanted) this.all[--this.#used]!.setQueueAttached(false);
      while (this.#used < wanted) this.all[this.#used++]!.setQueueAttached(true);
    } catch (error) {
      if (!(error instanceof LinuxError)) throw error; // the interface is gone
    }
  }

  close(): void {
    for (const tap of this.all) tap.close();
  }
}

/** An interface of several queues can't be opened as one of a single queue, nor the other way round. */
function openFirst(options: Pick<TapOptions, 'name' | 'netns'>, multiQueue: boolean) {
  try {
    return { tap: openTap({ ...options, multiQueue }), multiQueue };
  } catch (error) {
    if (!isErrno(error, EINVAL)) throw error;
    return { tap: openTap({ ...options, multiQueue: !multiQueue }), multiQueue: !multiQueue };
  }
}

function isErrno(error: unknown, errno: number): boolean {
  return error instanceof LinuxError && error.errno === errno;
}
