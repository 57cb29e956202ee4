/** Datagrams of random sizes and content, one direction after the other: nothing lost, nothing changed, nothing out of order. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { CpuShare } from './cpu.js';
import type { Link } from './harness.js';

/** Under way at most: less than a TAP's queue holds, so that only the cable itself could lose one. */
const WINDOW = 512;
/** A machine of which others use more than this has no rate of ours to tell. */
const MOST_FOR_OTHERS = 0.2;

/** Sends `count` datagrams each way. Demands `pps` a second; 0: any rate. */
export async function udpFlood(link: Link, t: TestContext, count: number, pps: number): Promise<void> {
  const { guestEnd, hostEnd } = link;
  for (const [way, from, to, seed] of [
    ['guest to host', guestEnd, hostEnd, 1],
    ['host to guest', hostEnd, guestEnd, 2],
  ] as const) {
    const cpu = new CpuShare([link.guest.pid, link.serve.pid]);
    const flow = await link.flow(from, to, { seed, count, window: WINDOW });
    const { sent, got } = await flow.finished();
    const rate = Math.round(got.packets / got.seconds);
    const { packets, bytes, corrupt, repeated, late } = got;
    const others = cpu.others();
    const megabits = Math.round((bytes * 8) / got.seconds / 1e6);
    const each = ((cpu.seconds() / packets) * 1e6).toFixed(1);
    t.diagnostic(`${way}: ${packets} packets, ${rate} a second, ${megabits} Mbit/s, ${each} us of CPU each`);
    assert.deepEqual(
      { packets, bytes, corrupt, repeated, late },
      { packets: count, bytes: sent.bytes, corrupt: 0, repeated: 0, late: 0 },
      way,
    );
    if (pps === 0) continue;
    if (others <= MOST_FOR_OTHERS) assert.ok(rate >= pps, `${way}: ${rate} packets a second, ${pps} are due`);
    else t.diagnostic(`the rate is not judged: others used ${Math.round(others * 100)} % of the machine`);
  }
}
