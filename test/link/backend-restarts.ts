/**
 * vhost-user backends that end and are started anew under traffic, in good order and in none; the guest, and what it has published, stays.
 *
 * ```
 *   guest's TAP ── polynic guest ── rings ── polynic serve, one after the other ── a TAP that stays
 *   ──► numbered datagrams ◄──
 * ```
 * The host's TAP outlives backends here, so that its kernel's counters say of each frame whether it got through.
 */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { ioctlValue } from '../../src/linux/libc.js';
import { setNeighbour } from '../../src/linux/route.js';
import { openTap } from '../../src/linux/tun.js';
import { kernelStats, type Link } from './harness.js';
import { assertNoBuffersLost, repeat } from './restart.js';
import type { UdpFlow } from './traffic.js';
import { Waits } from './waits.js';

const TUNSETPERSIST = 0x400454cb;
const PACE = 10_000;
/** Datagrams that must get through before the next blow: more than can come once more after one. */
const BETWEEN = 256;
/** Frames that a device takes at once: what it may have sent when it is killed, and not said. */
const BATCH = 128;
/** From the moment that a backend can be talked to until frames go both ways. */
const SOON_MS = 1000;
/** What a backend says at that moment, whoever listens. */
export const READY = /listening on|hypervisor connected/;

export interface RestartPlan {
  /** How many times at most. */
  readonly times: number;
  /** Begin none after this (performance.now()). */
  readonly deadline?: number;
  /** How long each lives at least. */
  readonly everyMs?: number;
}

/** Makes the host's TAP one that stays when nobody has it open. */
export function keepHostTap({ hostEnd }: Pick<Link, 'hostEnd'>): void {
  const tap = openTap({ name: hostEnd.interface, netns: hostEnd.netns, multiQueue: true });
  ioctlValue(tap.fd, TUNSETPERSIST, 1);
  tap.close();
}

/** SIGTERM: no frame is lost, or sent twice. */
export async function backendEnds(link: Link, t: TestContext, plan: RestartPlan): Promise<void> {
  const flows = await bothWays(link);
  await restarts(link, t, 'SIGTERM', plan, flows);
  const [there, back] = await tallies(flows);
  for (const { packets, corrupt, repeated } of [there!, back!]) {
    assert.ok(packets > BETWEEN);
    assert.deepEqual({ corrupt, repeated }, { corrupt: 0, repeated: 0 });
  }
  // To the guest the host's kernel lets frames overtake those that waited until it knew the guest again.
  assert.equal(there!.late, 0, 'datagrams to the host out of order');
  await settled(link);
  assertNothingLost(link);
}

/** SIGKILL: none is corrupted or lost; what was taken and not yet said to be, a batch at most, goes out once more. */
export async function backendKills(link: Link, t: TestContext, plan: RestartPlan): Promise<void> {
  const flows = await bothWays(link);
  const twice = await restarts(link, t, 'SIGKILL', plan, flows);
  assert.ok(
    twice.every(n => n <= BATCH),
    `datagrams that came twice, by kill: ${twice}`,
  );
  const [there, back] = await tallies(flows);
  await settled(link);
  assert.ok(there!.corrupt === 0 && back!.corrupt === 0, 'corrupt datagrams');
  assert.equal(back!.repeated, 0, 'to the guest none can');
  assert.equal(
    there!.repeated,
    twice.reduce((sum, n) => sum + n, 0),
  );
  const [own, host] = [kernelStats(link.guestEnd), kernelStats(link.hostEnd)];
  const frames = host.rxPackets - own.txPackets;
  t.diagnostic(`datagrams that came twice, by kill: ${twice}; frames: ${frames}`);
  assert.ok(frames >= 0 && frames <= twice.length * BATCH, `${frames} frames more than were sent`);
  assert.ok(own.rxPackets <= host.txPackets);
}

/** A flow each way that goes on whatever happens: from the guest, and to it. */
function bothWays(link: Link): Promise<UdpFlow[]> {
  const { guestEnd, hostEnd } = link;
  return Promise.all([
    link.flow(guestEnd, hostEnd, { seed: 71, pace: PACE }),
    link.flow(hostEnd, guestEnd, { seed: 72, pace: PACE }),
  ]);
}

const tallies = (flows: readonly UdpFlow[]) => Promise.all(flows.map(async flow => (await flow.stop()).got));

/** Ends the backend and starts another, again and again. Returns how many of the guest's datagrams came once more, each time. */
async function restarts(
  link: Link,
  t: TestContext,
  signal: 'SIGTERM' | 'SIGKILL',
  { times, deadline = Number.POSITIVE_INFINITY, everyMs = 0 }: RestartPlan,
  flows: readonly UdpFlow[],
): Promise<number[]> {
  const traffic = (n: number) => Promise.all(flows.map(flow => flow.more(n)));
  const twice: number[] = [];
  const waits = new Waits();
  const restart = async (): Promise<void> => {
    const { guest, serve } = link;
    const begun = performance.now();
    const [after, before] = [guest.stderr.length, flows[0]!.repeated];
    const ending = await serve.end(signal);
    assert.deepEqual(ending, signal === 'SIGTERM' ? { code: 0, signal: null } : { code: null, signal });
    await guest.says(/device stopped/, { after });
    link.spawnServe();
    const ready = link.serve.says(READY);
    await waits.measure([guest.pid, link.serve.pid], ready, async () => {
      // Its kernel knows nobody now.
      setNeighbour(link.hostEnd.interface, link.guestEnd.ip, link.guestEnd.mac, link.hostEnd.netns);
      await traffic(1);
    });
    await traffic(BETWEEN);
    twice.push(flows[0]!.repeated - before);
    await pause(everyMs - (performance.now() - begun));
  };
  await traffic(BETWEEN);
  await repeat(t, restart, times, deadline);
  waits.judge(t, 'from a backend that is ready to traffic both ways', SOON_MS);
  const offered = link.guest.stderr.matchAll(/(\d+) frames that were not sent are offered again/g);
  t.diagnostic(
    `${[...offered].reduce((sum, [, n]) => sum + Number(n), 0)} frames that one left went to the next`,
  );
  return twice;
}

/** Waits until no frame moves any more. */
async function settled({ guestEnd, hostEnd }: Link): Promise<void> {
  const counts = () => JSON.stringify([kernelStats(guestEnd), kernelStats(hostEnd)]);
  for (let before = '', now = counts(); before !== now; now = counts()) {
    before = now;
    await pause(100);
  }
}

/** What either kernel gave us, the other one got, and nothing else. */
export function assertNothingLost({ guest, guestEnd, hostEnd }: Link): void {
  const [own, host] = [kernelStats(guestEnd), kernelStats(hostEnd)];
  assert.equal(host.rxPackets, own.txPackets, 'frames from the guest');
  assert.equal(own.rxPackets, host.txPackets, 'frames to the guest');
  assertNoBuffersLost(guest);
}
