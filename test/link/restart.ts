/** Interfaces that go down and up, and guests that come and go, with traffic on the cable; what stays must not grow. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { Link } from './harness.js';
import type { Holdings, Program } from './program.js';
import type { UdpFlow } from './traffic.js';

const PACE = 5_000;
/** Datagrams that must get through before the next blow. */
const BETWEEN = 50;

/** Sets the guest's interface down and up again, `times` times or until `deadline` (performance.now()). Both processes stay and must not hold more in the end. */
export async function downAndUp(
  link: Link,
  t: TestContext,
  times: number,
  deadline = Number.POSITIVE_INFINITY,
): Promise<void> {
  const { guestEnd, hostEnd } = link;
  const flows = [
    await link.flow(guestEnd, hostEnd, { seed: 21, pace: PACE }),
    await link.flow(hostEnd, guestEnd, { seed: 22, pace: PACE }),
  ];
  const cycle = async (): Promise<void> => {
    await link.setInterface(false);
    await link.setInterface(true);
    for (const flow of flows) await flow.more(BETWEEN);
  };
  await cycle(); // what is made only once is made now
  const before = [held(link.guest), held(link.serve)];
  await repeat(t, cycle, times, deadline);
  assert.deepEqual([held(link.guest), held(link.serve)], before, 'what the processes hold');
  for (const flow of flows) await endFlow(flow);
  assertNoBuffersLost(link.guest);
}

/** Ends the guest process and starts another, `times` times or until `deadline`. The backend stays and must not hold more in the end. */
export async function guestRestarts(
  link: Link,
  t: TestContext,
  times: number,
  deadline = Number.POSITIVE_INFINITY,
): Promise<void> {
  const { guestEnd, hostEnd } = link;
  const flows = [
    await link.flow(guestEnd, hostEnd, { seed: 23, pace: PACE }),
    await link.flow(hostEnd, guestEnd, { seed: 24, pace: PACE }),
  ];
  const restart = async (): Promise<void> => {
    const { guest } = link;
    assert.deepEqual(await guest.end('SIGTERM'), { code: 0, signal: null });
    assertNoBuffersLost(guest);
    link.spawnGuest();
    await link.guestReady();
    for (const flow of flows) await flow.more(BETWEEN);
  };
  await restart();
  const before = held(link.serve);
  await repeat(t, restart, times, deadline);
  assert.deepEqual(held(link.serve), before, 'what the backend holds');
  for (const flow of flows) await endFlow(flow);
}

/** Does something `times` times; after the deadline no more, which it says. */
export async function repeat(
  t: TestContext,
  action: () => Promise<void>,
  times: number,
  deadline: number,
): Promise<void> {
  for (let i = 0; i < times; i++) {
    if (performance.now() > deadline) {
      t.diagnostic(`out of time after ${i}${Number.isFinite(times) ? ` of ${times}` : ''}`);
      return;
    }
    await action();
  }
}

/** What arrived must have been right, whatever was lost meanwhile. */
export async function endFlow(flow: UdpFlow): Promise<void> {
  const { packets, corrupt, repeated, late } = (await flow.stop()).got;
  assert.ok(packets > 0);
  assert.deepEqual({ corrupt, repeated, late }, { corrupt: 0, repeated: 0, late: 0 });
}

/** The driver says when a stop leaves buffers with the device. */
export function assertNoBuffersLost(guest: Program): void {
  assert.doesNotMatch(guest.output, /did not give back/);
}

/** Descriptors and shared mappings, counted by what they are. */
function held(program: Program): Record<string, number> {
  const { fds, mappings }: Holdings = program.holdings();
  const count: Record<string, number> = {};
  for (const what of [...fds, ...mappings]) count[what] = (count[what] ?? 0) + 1;
  return count;
}
