/**
 * Stopping transmit queues with what the guest has published so far sent, also from buffers that are not in the window yet.
 *
 * ```
 *   stop, drain ──► all sent, or the port takes no more ──────────────────────────► done
 *      ▲      └───► a queue waits for memory ──► is it to be had? ── no ──────────► done; what is left stays in its ring
 *      └──────────── queues run again ◄────────── yes
 * ```
 * Meanwhile nobody else is heard: what has to be asked of a front end, such as a translation, is not to be had.
 */
import type { Missed, Workers } from './workers.js';

/** A guest that goes on publishing is stopped all the same, and so is one whose port is full in every round. */
const ROUNDS = 128;
const LIMIT_MS = 2000;

/**
 * `queues`: addresses of the transmit queues. `reach` has the memory brought in and them run again, or leaves them be and comes to false. Comes to the
 * descriptors that were left.
 */
export async function drain(
  workers: Workers,
  queues: Iterable<number>,
  reach: (misses: readonly Missed[]) => Promise<boolean>,
): Promise<number> {
  const own = new Set(queues);
  const end = performance.now() + LIMIT_MS;
  for (let round = 1; ; round++) {
    const { left, misses } = await workers.drain(own);
    const over = round === ROUNDS || performance.now() > end;
    if (left === 0 || misses.length === 0 || over) return left;
    const reached = await reach(misses).catch((error: Error) => {
      if (!workers.failure) throw error;
      return false; // nothing runs any more
    });
    if (!reached) return left;
  }
}

/** For the operator. */
export function leftBehind(left: number): string {
  return `${left} packets could not be sent before the stop: the port takes no more, or their memory is out of reach`;
}
