/**
 * Our virtio driver and our vhost-user backend between two kernels: every ring, with and without offloads, one queue pair and several; interfaces that
 * go down, guests that come and go, and backends that end, in good order and in none, under traffic.
 */
import assert from 'node:assert/strict';
import { assertNothingLost, backendEnds, backendKills, keepHostTap } from './backend-restarts.js';
import { kernelStats, type LinkOptions, linkTest } from './harness.js';
import { ManyFlows } from './many-flows.js';
import { downAndUp, guestRestarts } from './restart.js';
import { tcpTransfer } from './traffic.js';
import { udpFlood } from './udp-flood.js';

const TCP_BYTES = 10e6;
const DATAGRAMS = 10_000;

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
  ['split', [], 4, 2],
  ['packed', ['--packed', '--queues', '2'], 2, 4],
] as const) {
  linkTest(
    `the backend ends and another comes, ${ends} times under traffic, ${format}: no frame is lost or sent twice`,
    { ...over(words), before: keepHostTap },
    (link, t) => backendEnds(link, t, { times: ends }),
  );

  linkTest(
    `kill -9 of the backend, ${kills} times under traffic, ${format}: what may be sent twice is one batch`,
    { ...over(words), before: keepHostTap },
    (link, t) => backendKills(link, t, { times: kills }),
  );
}
