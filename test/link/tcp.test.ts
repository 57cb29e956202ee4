/** TCP through the cable, in a bounded form; the full gigabyte is in test/soak. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { type End, linkTest } from './harness.js';
import { tcpStreams } from './tcp-streams.js';

const MEGABYTES = 100;

linkTest(`streams of ${MEGABYTES} MB keep their checksum, both ways at once as well`, {}, (link, t) =>
  tcpStreams(link, t, MEGABYTES * 1e6),
);

linkTest('iperf3 agrees that the link carries TCP both ways', {}, async (link, t) => {
  if (spawnSync('iperf3', ['--version']).error) {
    return t.skip('iperf3 is not installed: npm run setup:system');
  }
  const server = spawn('nsenter', inside(link.hostEnd, ['iperf3', '-s', '--forceflush']));
  const listening = new Promise<void>(resolve => {
    server.stdout.on('data', text => /listening/.test(String(text)) && resolve());
  });
  const ended = new Promise(resolve => server.once('close', resolve));
  try {
    await listening;
    for (const way of ['guest to host', 'host to guest'] as const) {
      const words = ['iperf3', '-c', link.hostEnd.ip, '-n', '100M', '-J'];
      const { end } = await iperf(link.guestEnd, way === 'host to guest' ? [...words, '-R'] : words);
      t.diagnostic(`${way}: ${(end.sum_received.bits_per_second / 1e9).toFixed(2)} Gbit/s`);
      // What is still under way when the sender has done its part does not count at the receiver.
      const { sum_sent: sent, sum_received: received } = end;
      assert.ok(sent.bytes >= 100 * 2 ** 20, `${way}: ${sent.bytes} bytes sent`);
      assert.ok(received.bytes >= sent.bytes / 2, `${way}: ${received.bytes} of ${sent.bytes} bytes arrived`);
    }
  } finally {
    server.kill();
    await ended;
  }
});

interface Sum {
  readonly bytes: number;
  readonly bits_per_second: number;
}

interface IperfReport {
  readonly end: { readonly sum_sent: Sum; readonly sum_received: Sum };
}

async function iperf(end: End, words: string[]): Promise<IperfReport> {
  const client = spawn('nsenter', inside(end, words));
  let output = '';
  client.stdout.on('data', text => {
    output += text;
  });
  const code = await new Promise(resolve => client.once('close', resolve));
  assert.equal(code, 0, output);
  return JSON.parse(output) as IperfReport;
}

function inside(end: End, words: string[]): string[] {
  return [`--net=${end.path}`, ...words];
}
