/** The same traffic in every way that serve and guest can be run. */
import assert from 'node:assert/strict';
import { type LinkOptions, linkTest } from './harness.js';
import { udpFlood } from './udp-flood.js';

const COUNT = 10_000;

const MODES: readonly (readonly [title: string, options: LinkOptions])[] = [
  ['the backend listens, the guest connects', { listener: 'serve' }],
  ['the backend spins', { serve: ['--spin'] }],
  ['both spin', { serve: ['--spin'], guest: ['--spin'] }],
  ['the backend sleeps 50 us after every turn', { serve: ['--sleep-us', '50'] }],
  ['16 buffers a queue', { guest: ['--bufs', '16'] }],
  ['8192 buffers a queue', { guest: ['--bufs', '8192'] }],
  ['2 queue pairs', { guest: ['--queues', '2'] }],
  [
    'as much as the backend allows',
    { guest: ['--bufs', '64', '--queues', '4'], serve: ['--bufs', '64', '--queues', '4'] },
  ],
];

for (const [title, options] of MODES) {
  // How fast is not the question here: spinning processes and the traffic share few cores.
  linkTest(`datagrams both ways: ${title}`, options, (link, t) => udpFlood(link, t, COUNT, 0));
}

linkTest(
  '--stats prints rates of both directions',
  { serve: ['--stats', '1'], guest: ['--stats', '1'] },
  async (link, t) => {
    const line =
      /^(tx|rx) \d+\.\d kpps {2}\d+\.\d Mbit\/s {2}\d+ kicks\/s {2}\d+ irqs\/s {2}\d+\.\d pkts\/batch {2}\d+\.\d bufs\/batch$/m;
    const flow = await link.flow(link.guestEnd, link.hostEnd, { seed: 51, pace: 2000 });
    await Promise.all([link.serve.says(/^tx [1-9]/m), link.guest.says(/^tx [1-9]/m)]);
    const { got } = await flow.stop();
    assert.ok(got.packets > 0);
    for (const side of [link.serve, link.guest]) {
      const printed = side.stdout.trimEnd().split('\n');
      t.diagnostic(printed.at(-2)!);
      for (const text of printed) assert.match(text, line);
    }
  },
);
