/**
 * Our virtio driver and our vhost-user backend between two kernels: every ring, with and without offloads, one queue pair and several; interfaces that
 * go down, guests that come and go, and backends that end, in good order and in none, under traffic.
 *
 * The host's TAP outlives backends here, so that its kernel's counters say of each frame whether it got through.
 */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { ioctlValue } from '../../src/linux/libc.js';
import { setNeighbour } from '../../src/linux/route.js';
import { openTap } from '../../src/linux/tun.js';
import { kernelStats, type Link, type LinkOptions, linkTest } from './harness.js';
import { ManyFlows } from './many-flows.js';
import { assertNoBuffersLost, downAndUp, guestRestarts, repeat } from './restart.js';
import { tcpTransfer, type UdpFlow } from './traffic.js';
import { udpFlood } from './udp-flood.js';

const TUNSETPERSIST = 0x400454cb;
const TCP_BYTES = 10e6;
const DATAGRAMS = 10_000;
const PACE = 10_000;
const BETWEEN = 100;
/** Frames that a device takes at once: what it may have sent when it is killed, and not said. */
const BATCH = 128;

const over = (guest: readonly string[] = [], serve: readonly string[] = []): LinkOptions => ({
  protocol: 'vhost-user',
  guest,
  serve,
});

for (const format of ['split', 'packed'])
  for (const offloads of ['all', 'none'])
    for (const queues of [1, 4]) {
      const words = [
        ...(format === 'packed' ? ['--packed'] : []),
        ...['--offload', offloads, '--queues', String(queues), '--workers', String(Math.min(2, queues))],
      ];
      linkTest(`${format}, offloads ${offloads}, ${queues} queue pairs`, over(words), async (link, t) => {
        const { guestEnd, hostEnd } = link;
        await link.guest.says(new RegExp(`${queues} queue pair\\(s\\), 256 descriptors, ${format}`));
        await udpFlood(link, t, DATAGRAMS, 0);
        const flows = new ManyFlows(guestEnd, hostEnd, 32, 9000);
        try {
          await flows.exchange(5);
        } finally {
          flows.close();
        }
        for (const [from, to, seed] of [
          [guestEnd, hostEnd, 61],
          [hostEnd, guestEnd, 62],
        ] as const) {
          const before = kernelStats(from);
          const { sent, got } = await tcpTransfer(from, to, { seed, bytes: TCP_BYTES });
          assert.equal(got.sha256, sent.sha256);
          const after = kernelStats(from);
          const size = (after.txBytes - before.txBytes) / (after.txPackets - before.txPackets);
          assert.ok(offloads === 'all' ? size > 4000 : size <= 1514, `${size} bytes a frame`);
        }
        assertNothingLost(link);
      });
    }

linkTest('the interface goes down and up 5 times under traffic, and nothing leaks', over(), (link, t) =>
  downAndUp(link, t, 5),
);

linkTest(
  '3 guests come and go under traffic, packed, and the backend leaks nothing',
  over(['--packed']),
  (link, t) => guestRestarts(link, t, 3),
);

linkTest('the backend listens', { ...over(), listener: 'serve' }, (link, t) =>
  udpFlood(link, t, DATAGRAMS, 0),
);

linkTest('it never sleeps', over(['--spin', '--packed'], ['--spin']), (link, t) =>
  udpFlood(link, t, DATAGRAMS, 0),
);

for (const [format, words, ends, kills] of [
  ['split', [], 10, 4],
  ['packed', ['--packed', '--queues', '2'], 4, 10],
] as const) {
  linkTest(
    `the backend ends and another comes, ${ends} times under traffic, ${format}: no frame is lost or sent twice`,
    { ...over(words), before: keepHostTap },
    async (link, t) => {
      const flows = await bothWays(link);
      const again = await restarts(link, t, 'SIGTERM', ends, flows);
      const tallies = await Promise.all(flows.map(async flow => (await flow.stop()).got));
      for (const { packets, corrupt, repeated, late } of tallies) {
        assert.ok(packets > ends * BETWEEN);
        assert.deepEqual({ corrupt, repeated, late }, { corrupt: 0, repeated: 0, late: 0 });
      }
      await settled(link);
      t.diagnostic(`${again} frames that one backend left went to the next one`);
      assertNothingLost(link);
    },
  );

  linkTest(
    `kill -9 of the backend, ${kills} times under traffic, ${format}: what may be sent twice is one batch`,
    { ...over(words), before: keepHostTap },
    async (link, t) => {
      const flows = await bothWays(link);
      const again = await restarts(link, t, 'SIGKILL', kills, flows);
      const [there, back] = await Promise.all(flows.map(async flow => (await flow.stop()).got));
      await settled(link);
      const twice = kernelStats(link.hostEnd).rxPackets - kernelStats(link.guestEnd).txPackets;
      t.diagnostic(`${again} frames were offered again, ${there!.repeated} datagrams came twice`);
      assert.ok(there!.corrupt === 0 && back!.corrupt === 0, 'corrupt datagrams');
      assert.ok(there!.repeated <= kills * BATCH, `${there!.repeated} came twice`);
      assert.equal(back!.repeated, 0, 'to the guest none can');
      assert.ok(twice >= 0 && twice <= kills * BATCH, `${twice} frames more than were sent`);
      assert.ok(kernelStats(link.guestEnd).rxPackets <= kernelStats(link.hostEnd).txPackets);
    },
  );
}

/** Makes the host's TAP one that stays when nobody has it open. */
function keepHostTap({ hostEnd }: Pick<Link, 'hostEnd'>): void {
  const tap = openTap({ name: hostEnd.interface, netns: hostEnd.netns, multiQueue: true });
  ioctlValue(tap.fd, TUNSETPERSIST, 1);
  tap.close();
}

/** A flow each way that goes on whatever happens. */
function bothWays(link: Link): Promise<UdpFlow[]> {
  const { guestEnd, hostEnd } = link;
  return Promise.all([
    link.flow(guestEnd, hostEnd, { seed: 71, pace: PACE }),
    link.flow(hostEnd, guestEnd, { seed: 72, pace: PACE }),
  ]);
}

/** Ends the backend and starts another, `times` times. Returns the frames that were offered again. */
async function restarts(
  link: Link,
  t: TestContext,
  signal: 'SIGTERM' | 'SIGKILL',
  times: number,
  flows: readonly UdpFlow[],
): Promise<number> {
  const traffic = () => Promise.all(flows.map(flow => flow.more(BETWEEN)));
  const restart = async (): Promise<void> => {
    await traffic();
    const { guest, serve } = link;
    const after = guest.stderr.length;
    const ending = await serve.end(signal);
    assert.deepEqual(ending, signal === 'SIGTERM' ? { code: 0, signal: null } : { code: null, signal });
    await guest.says(/device stopped/, { after });
    link.spawnServe();
    await guest.says(/device running/, { after });
    await link.carrier(true);
    setNeighbour(link.hostEnd.interface, link.guestEnd.ip, link.guestEnd.mac, link.hostEnd.netns);
  };
  await repeat(t, restart, times, Number.POSITIVE_INFINITY);
  await traffic();
  const offered = link.guest.stderr.matchAll(/(\d+) frames that were not sent are offered again/g);
  return [...offered].reduce((sum, [, n]) => sum + Number(n), 0);
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
function assertNothingLost({ guest, guestEnd, hostEnd }: Link): void {
  const [own, host] = [kernelStats(guestEnd), kernelStats(hostEnd)];
  assert.equal(host.rxPackets, own.txPackets, 'frames from the guest');
  assert.equal(own.rxPackets, host.txPackets, 'frames to the guest');
  assertNoBuffersLost(guest);
}
