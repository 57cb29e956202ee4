/** Changes of contract, of the port, and of the backend process, with the kernel's traffic on the cable. */
import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { eventually } from '../../src/linux/testing.js';
import { parseOffloads } from '../../src/ring/features.js';
import { type End, kernelStats, type Link, linkTest } from './harness.js';
import { PATIENCE_MS } from './program.js';
import { endFlow } from './restart.js';
import { type FlowOptions, tcpTransfer } from './traffic.js';

const PACE = 5_000;
const BETWEEN = 100;
/** Under way at most: less than a TAP's queue holds, so that only the cable itself could lose one. */
const WINDOW = 256;

async function flowsOf(link: Link, seed: number, options: Partial<FlowOptions> = { pace: PACE }) {
  const { guestEnd, hostEnd } = link;
  const flows = [
    await link.flow(guestEnd, hostEnd, { seed, ...options }),
    await link.flow(hostEnd, guestEnd, { seed: seed + 1, ...options }),
  ];
  const more = () => Promise.all(flows.map(flow => flow.more(BETWEEN)));
  await more();
  return { flows, more };
}

/** Every order of two of the three types, and back to the first. */
const ROUND = ['sring_gso', 'vring_packed', 'sring', 'vring_packed', 'sring_gso', 'sring'];

linkTest('every type to every other, with datagrams both ways: nothing is lost', {}, async (link, t) => {
  const { flows, more } = await flowsOf(link, 61, { window: WINDOW });
  const took: number[] = [];
  for (const device of ROUND) {
    const { ok, error } = (await link.serve.request({ op: 'upgrade', device })) as {
      ok: { to: string; ms: number };
      error?: object;
    };
    assert.equal(error, undefined, JSON.stringify(error));
    assert.equal(ok.to, device);
    took.push(Math.round(ok.ms));
    await more();
  }
  for (const flow of flows) {
    const { sent, got } = await flow.stop();
    const { packets, corrupt, repeated, late } = got;
    assert.deepEqual(
      { packets, corrupt, repeated, late },
      { packets: sent.packets, corrupt: 0, repeated: 0, late: 0 },
    );
    assert.equal(sent.refused, 0);
  }
  for (const end of [link.guestEnd, link.hostEnd]) assert.equal(kernelStats(end).txDropped, 0);
  t.diagnostic(`from request to swap: ${took.join(', ')} ms`);
});

linkTest('offloads come and go under a TCP transfer', { serve: ['--device', 'sring_gso'] }, async link => {
  const { guestEnd, hostEnd } = link;
  let over = false;
  /** One after the other, until all changes are made. */
  const transfers = async (from: End, to: End, seed: number) => {
    do {
      const { sent, got } = await tcpTransfer(from, to, { seed, bytes: 20e6 });
      assert.deepEqual([got.bytes, got.sha256], [sent.bytes, sent.sha256]);
    } while (!over);
  };
  const flows = [transfers(guestEnd, hostEnd, 63), transfers(hostEnd, guestEnd, 64)];
  const changes = async () => {
    try {
      for (const offload of ['none', 'csum', 'tso', 'lro', 'ufo', 'all']) {
        const { error } = await link.serve.request({ op: 'upgrade', offload });
        assert.equal(error, undefined, JSON.stringify(error));
        const { ok } = (await link.serve.request({ op: 'info' })) as { ok: { features: string } };
        assert.equal(BigInt(ok.features), parseOffloads(offload), offload);
        const before = kernelStats(hostEnd).rxBytes;
        await eventually(() => kernelStats(hostEnd).rxBytes > before + 200_000, PATIENCE_MS);
      }
    } finally {
      over = true;
    }
  };
  await Promise.all([...flows, changes()]);
});

linkTest('the port: TAP, then a file, then the TAP again', {}, async link => {
  const { guestEnd, hostEnd } = link;
  const file = join(link.folder, 'out.pcap');
  const flow = await link.flow(guestEnd, hostEnd, { seed: 65, pace: PACE });
  await flow.more(BETWEEN);
  const { ok, error } = await link.serve.request({ op: 'upgrade', port: `pcap:out=${file}` });
  assert.equal(error, undefined, JSON.stringify(error));
  assert.equal((ok as { outcome: string }).outcome, 'done');
  while ((await link.serve.counters()).port.sent < BETWEEN) {}
  assert.ok(readFileSync(file).length > BETWEEN * 60);
  const port = `tap:${hostEnd.interface},netns=${hostEnd.path},mac=${hostEnd.mac}`;
  await link.serve.request({ op: 'upgrade', port });
  await link.serveReady();
  await flow.more(BETWEEN);
  rmSync(file);
  await endFlow(flow);
});

linkTest('what can not be leaves everything as it is', {}, async link => {
  const { flows, more } = await flowsOf(link, 67);
  for (const [wish, code] of [
    [{ device: 'no_ring' }, 'USAGE'],
    [{ offload: 'tso' }, 'USAGE'],
    [{ offload: 'everything' }, 'USAGE'],
    [{ port: 'tap' }, 'PORT_SPEC'],
    [{ port: `tap:hst0,netns=${link.hostEnd.path}` }, 'EBUSY'],
    [{ port: 'pcap:in=/nonexistent/file' }, 'PORT_OPEN'],
  ] as const) {
    const { error } = await link.serve.request({ op: 'upgrade', ...wish });
    assert.equal(error?.code, code, JSON.stringify(wish));
    await more();
  }
  for (const flow of flows) await endFlow(flow);
});

linkTest('a new backend process in place of the old one', { serve: ['--device', 'sring'] }, async link => {
  const flow = await link.flow(link.guestEnd, link.hostEnd, { seed: 69, pace: PACE });
  await flow.more(BETWEEN);
  const another = link.spawnAnother(['--device', 'vring_packed', '--port', 'sink']);
  await another.says(/hypervisor connected/);
  await flow.more(BETWEEN); // it waits for its turn
  const after = link.guest.stderr.length;
  await link.serve.end();
  await link.guest.says(/device running/, { after });
  while ((await another.counters()).port.sent < BETWEEN) {}
  await flow.abandon();
});

/** How far an upgrade has come, by what one of the two says. (Every single message: test/unit/upgrade-death.test.ts.) */
const PROGRESS = [
  ['serve', / upgrade from \S+ to \S+ announced/],
  ['guest', /programs accepted/],
  ['serve', / rx disabled/],
  ['serve', / upgraded from /],
] as const;

linkTest('either side killed in the middle of an upgrade: the other one goes on', {}, async link => {
  for (const victim of ['guest', 'serve'] as const) {
    for (const [turn, [who, words]] of PROGRESS.entries()) {
      const { flows, more } = await flowsOf(link, 71 + 2 * turn);
      const device = ROUND[turn]!;
      const after = link[who].stderr.length;
      const upgrade = link.serve.request({ op: 'upgrade', device }).catch(() => null);
      await link[who].says(words, { after });
      await link[victim].end('SIGKILL');
      await upgrade;
      if (victim === 'guest') {
        link.spawnGuest();
        await link.guestReady();
      } else {
        await link.carrier(false);
        link.spawnServe();
        await Promise.all([link.serveReady(), link.carrier(true)]);
      }
      await more();
      for (const flow of flows) await endFlow(flow);
    }
  }
});
