/**
 * What the demo makes of TCP segments that are sent again: a loss is the NIC's fault, unless the kernel had no room for them. In the NIC's place there is a
 * cable, from TAP to TAP, that does what it is told to.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { reportTcp, tcpFlow } from '../../src/demo/flows.js';
import { Network } from '../../src/demo/network.js';
import { type DemoReport, emptyReport } from '../../src/demo/report.js';
import { TrafficEnds } from '../../src/demo/traffic/ends.js';
import { addressOf, read, write } from '../../src/linux/libc.js';
import { changeLink } from '../../src/linux/link.js';
import { rootTest } from '../../src/linux/testing.js';
import { openTap, type Tap } from '../../src/linux/tun.js';

const FLOW_MS = 400;
/** Of a segment with as much payload as there can be. */
const FRAME = 1514;

interface Cable {
  /** Whether this segment, of those that are full, gets lost. */
  readonly loses?: (n: number) => boolean;
  /** Behind this one nothing moves for a while. */
  readonly stops?: { readonly behind: number; readonly ms: number };
  /** Frames that the sender's interface holds. */
  readonly queueLength?: number;
}

/** What is reported of TCP from the guest to the host. */
async function over({ loses, stops, queueLength }: Cable): Promise<DemoReport> {
  const report = emptyReport('cable', false);
  const network = Network.create();
  const { guest, host } = network;
  const [near, far] = [guest, host].map(({ interfaceName: name, netns }) =>
    openTap({ name, netns, vnetHeader: false }),
  ) as [Tap, Tap];
  near.setCarrier(false); // the kernel calls an interface up that was plugged in, not one that always was
  near.setCarrier(true);
  const ends = new TrafficEnds(network);
  const frame = Buffer.alloc(65536);
  const address = addressOf(frame);
  let full = 0;
  let standsUntil = 0;
  let done = false;
  const copy = async (from: Tap, to: Tap, judge: () => boolean) => {
    while (!done) {
      const length = performance.now() < standsUntil ? 0 : read(from.fd, address, frame.length);
      if (length <= 0) await nextTurn();
      else if (length !== FRAME || judge()) write(to.fd, address, length);
    }
  };
  const judge = () => {
    const n = full++;
    if (n === stops?.behind) standsUntil = performance.now() + stops.ms;
    return !loses?.(n);
  };
  const copying = [copy(near, far, judge), copy(far, near, () => true)];
  try {
    await network.bringUp(AbortSignal.timeout(10_000));
    if (queueLength) changeLink(guest.interfaceName, { queueLength }, guest.netns);
    await ends.start();
    const kernel = network.watchTcp('host');
    const result = await tcpFlow(ends, network, 'guest_to_host', FLOW_MS);
    reportTcp(report, 'guest_to_host', result, kernel());
    return report;
  } finally {
    done = true;
    await Promise.all(copying);
    await ends.close();
    for (const tap of [near, far]) tap.close();
    network.close();
    frame.fill(0); // the address kept nothing alive: this reference does
  }
}

const counts = ({ tcp_retransmissions, tcp_spurious, tcp_dropped_by_kernel, failures }: DemoReport) => ({
  again: tcp_retransmissions.guest_to_host!,
  spurious: tcp_spurious.guest_to_host!,
  dropped: tcp_dropped_by_kernel.guest_to_host!,
  failures,
});

rootTest('segments that are lost on the way: the demo fails and says how many', async () => {
  const { again, spurious, dropped, failures } = counts(await over({ loses: n => n === 100 || n === 300 }));
  assert.ok(again - spurious >= 2, `${again} sent again, ${spurious} for nothing`);
  assert.equal(dropped, 0);
  assert.deepEqual(failures, [
    `TCP guest to host: ${again - spurious} segments lost (the kernel itself dropped 0 frames)`,
  ]);
});

rootTest('segments that the kernel has no room for: the demo does not fail', async () => {
  // The queue overflows while the cable stands still; the NIC could take nothing then.
  const result = counts(await over({ stops: { behind: 100, ms: 100 }, queueLength: 8 }));
  assert.ok(result.dropped > 0 && result.again > result.spurious, JSON.stringify(result));
  assert.deepEqual(result.failures, []);
});

rootTest('segments that are late, and sent again for nothing: the demo does not fail', async () => {
  const result = counts(await over({ stops: { behind: 200, ms: 450 } }));
  assert.ok(result.spurious > 0 && result.dropped === 0, JSON.stringify(result));
  assert.deepEqual(result.failures, []);
});

test('without retransmissions, with bytes missing: the demo fails', () => {
  const report = emptyReport('cable', false);
  const received = { bytes: 1000, seconds: 1, corruptAt: null };
  const sent = { bytes: 1001, retransmissions: 0, cameTwice: 0 };
  reportTcp(report, 'guest_to_host', [received, sent], { cameTwice: 0, dropped: 0 });
  assert.deepEqual(report.failures, ['TCP guest to host: 1000 of 1001 bytes arrived']);
});
