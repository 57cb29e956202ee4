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

/** A guest that goes on publishing is stopped all the same. */
const ROUNDS = 128;

/**
 * `reach` has the memory brought in and the transmit queues run again, or leaves them be and comes to false. Comes to the descriptors that were left.
 */
export async function drain(
  workers: Workers,
  reach: (misses: readonly Missed[]) => Promise<boolean>,
): Promise<number> {
  for (let round = 1; ; round++) {
    const { left, misses } = await workers.drain();
    if (left === 0 || misses.length === 0 || round === ROUNDS || !(await reach(misses))) return left;
  }
}

/** For the operator. */
export function leftBehind(left: number): string {
  return `${left} packets could not be sent before the stop: the port takes no more, or their memory is out of reach`;
}
