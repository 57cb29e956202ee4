/**
 * One side is about to sleep while the other has something for it: each does its part whole at every single access of the other's to the ring. One of the two
 * has to see what the other has done, or both sleep.
 *
 * ```
 *   going to sleep   ── 1 ── 2 ── 3 ──  …  then: has it seen something?  ─┐
 *   the other's part       ▲ at 1, at 2, …        has it been told to wake it? ─┴─ one of them, whenever
 * ```
 */
import assert from 'node:assert/strict';
import { ReceiveFlow, TransmitFlow } from './actors.js';
import type { Testbed } from './testbed.js';

/** Two parts that meet. Each returns whether its side is safe: it has seen something, or is about to tell the other one. */
interface Meeting {
  readonly what: string;
  readonly device: () => boolean;
  readonly guest: () => boolean;
}

/** Both parts of every meeting that there is, of a pair of queues that is new and empty. */
function meetings(bed: Testbed): readonly ((n: number) => Meeting)[] {
  const { ring, tx, rx, datapath } = bed;
  const { calls } = datapath;
  return [
    () => {
      const flow = new TransmitFlow(bed);
      ring.kicks(tx.queue.address, false);
      return {
        what: 'the device waits for frames, the guest sends one',
        device: () => ring.kicks(tx.queue.address, true),
        guest: () => flow.publish(1).kick,
      };
    },
    () => {
      const flow = new ReceiveFlow(bed);
      ring.kicks(rx.queue.address, false);
      return {
        what: 'the device waits for buffers, the guest posts some',
        device: () => ring.kicks(rx.queue.address, true),
        guest: () => flow.refill(),
      };
    },
    n => {
      const flow = new TransmitFlow(bed);
      const wanted = 1 + (n % bed.num);
      flow.publish(wanted);
      return {
        what: `the guest waits until ${wanted} frames have left`,
        device: () => flow.drain(bed.num).interrupt,
        guest: () => calls.driver_arm(tx.driver, wanted) > 0,
      };
    },
    () => {
      const flow = new ReceiveFlow(bed);
      flow.refill();
      calls.driver_arm(rx.driver, 0);
      return {
        what: 'the guest waits for a frame, the device has one',
        device: () => flow.fill(1, 1).interrupt,
        guest: () => calls.driver_arm(rx.driver, 1) > 0,
      };
    },
  ];
}

/**
 * Runs every meeting with every stop of either side. `restart` makes both queues new, always in the same way; `n`: which meetings, where there are several
 * of a kind. Returns how many runs that took, and how many stops each side's part has at least.
 */
export function interleave(
  bed: Testbed,
  n: number,
  restart: () => void,
): { runs: number; stops: Record<'device' | 'guest', number> } {
  let runs = 0;
  const stops = { device: Number.POSITIVE_INFINITY, guest: Number.POSITIVE_INFINITY };
  for (const make of meetings(bed)) {
    for (const side of ['device', 'guest'] as const) {
      let stop = 0;
      for (let stopped = true; stopped; runs++) {
        restart();
        const meeting = make(n);
        const [safe, reached] = meet(bed, meeting, side, ++stop);
        stopped = reached;
        assert.ok(safe, `${meeting.what}: both sleep when the ${side} is stopped at access ${stop}`);
      }
      stops[side] = Math.min(stops[side], stop - 1);
    }
  }
  return { runs, stops };
}

/** Does one part, and at its n-th access the other one; behind it, if there are not so many. Whether somebody is safe, and whether there were. */
function meet(bed: Testbed, meeting: Meeting, side: 'device' | 'guest', n: number): [boolean, boolean] {
  const other = side === 'device' ? 'guest' : 'device';
  const hook = side === 'device' ? 'onAccess' : 'onBarrier';
  let [accesses, reached, safe] = [0, false, false];
  bed[hook] = () => {
    if (++accesses !== n) return;
    bed[hook] = () => {};
    reached = true;
    safe = meeting[other]();
  };
  const own = meeting[side]();
  bed[hook] = () => {};
  if (!reached) safe = meeting[other]();
  return [own || safe, reached];
}
