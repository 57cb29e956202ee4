/**
 * A backend process ends, and another one with other offloads takes its place: what the guest's interface shows meanwhile, and that the driver takes what
 * is offered now, more or less than before.
 */
import assert from 'node:assert/strict';
import { linkInfo } from '../../src/linux/link.js';
import { kernelStats, type Link, linkTest } from './harness.js';
import { tcpTransfer } from './traffic.js';

const BYTES = 10e6;

linkTest(
  'a backend with more offloads, then one with fewer',
  { serve: ['--device', 'sring'] },
  async link => {
    await checkTraffic(link, false);
    for (const [device, large] of [
      ['sring_gso', true],
      ['vring_packed', false],
      ['sring_gso', true],
    ] as const) {
      const before = kernelStats(link.guestEnd);
      const after = link.guest.stderr.length;
      assert.deepEqual(await link.serve.end(), { code: 0, signal: null });
      await link.carrier(false);
      const { interface: name, netns } = link.guestEnd;
      assert.equal(linkInfo(name, netns).up, true, 'the interface is as its owner has set it');
      const gap = kernelStats(link.guestEnd);
      for (const counter of ['rxPackets', 'rxBytes', 'txPackets', 'txBytes'] as const) {
        assert.ok(gap[counter] >= before[counter] && before[counter] > 0, `${counter} starts again`);
      }
      const { hostEnd } = link;
      const port = `tap:${hostEnd.interface},netns=${hostEnd.path},mac=${hostEnd.mac}`;
      link.serve = link.spawnAnother(['--device', device, '--port', port]);
      await Promise.all([link.serveReady(), link.carrier(true)]);
      await link.guest.says(/device running/, { after });
      await checkTraffic(link, large);
    }
  },
);

/** TCP both ways, in large frames or not; both kernels' counters move with it. */
async function checkTraffic({ guestEnd, hostEnd }: Link, large: boolean): Promise<void> {
  for (const [seed, from, to] of [
    [91, guestEnd, hostEnd],
    [92, hostEnd, guestEnd],
  ] as const) {
    const before = [kernelStats(from), kernelStats(to)] as const;
    const { sent, got } = await tcpTransfer(from, to, { seed, bytes: BYTES });
    assert.equal(got.sha256, sent.sha256);
    const after = [kernelStats(from), kernelStats(to)] as const;
    const bytes = after[0].txBytes - before[0].txBytes;
    assert.ok(bytes >= BYTES && after[1].rxBytes - before[1].rxBytes >= BYTES, 'the counters have not moved');
    const size = bytes / (after[0].txPackets - before[0].txPackets);
    assert.ok(large ? size > 4000 : size <= 1514, `${Math.round(size)} bytes a frame from ${from.interface}`);
  }
}
