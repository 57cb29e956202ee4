/** One side is killed without warning, again and again, under traffic; the other stays, says so, and works again with the next one. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { Link } from './harness.js';
import { endFlow, repeat } from './restart.js';

const PACE = 10_000;
const BETWEEN = 100;

/** Kills the guest or the backend `times` times or until `deadline`. Prints how long until traffic flowed again. */
export async function kills(
  link: Link,
  t: TestContext,
  victim: 'guest' | 'serve',
  times: number,
  deadline = Number.POSITIVE_INFINITY,
): Promise<void> {
  const { guestEnd, hostEnd } = link;
  const flows = [
    await link.flow(guestEnd, hostEnd, { seed: 31, pace: PACE }),
    await link.flow(hostEnd, guestEnd, { seed: 32, pace: PACE }),
  ];
  const trafficFlows = () => Promise.all(flows.map(flow => flow.more(BETWEEN)));
  await trafficFlows();
  const recoveries: number[] = [];
  const strike = async (): Promise<void> => {
    const survivor = victim === 'guest' ? link.serve : link.guest;
    const after = survivor.stderr.length;
    assert.deepEqual(await link[victim].end('SIGKILL'), { code: null, signal: 'SIGKILL' });
    await survivor.says(victim === 'guest' ? /hypervisor (gone|lost)/ : /backend (gone|lost)/, { after });
    if (victim === 'serve') await link.carrier(false);
    assert.ok(survivor.alive);

    const start = performance.now();
    if (victim === 'guest') {
      link.spawnGuest();
      await link.guestReady();
    } else {
      link.spawnServe();
      await Promise.all([link.serveReady(), link.carrier(true)]);
    }
    await trafficFlows();
    recoveries.push(performance.now() - start);
  };
  await repeat(t, strike, times, deadline);
  for (const flow of flows) await endFlow(flow);
  recoveries.sort((a, b) => a - b);
  const ms = [recoveries[0]!, recoveries[recoveries.length >> 1]!, recoveries.at(-1)!].map(Math.round);
  t.diagnostic(
    `${recoveries.length} kills; from the new process's start to traffic: ${ms.join(' / ')} ms (least/median/most)`,
  );
}
