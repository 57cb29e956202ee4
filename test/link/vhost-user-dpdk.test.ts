/**
 * Our vhost-user backend with DPDK's virtio-user as front end and driver, on every ring path that it has.
 *
 * ```
 *   source ──► worker ──► ring ──► testpmd, io ──► ring ──► worker ──► counts and looks at the numbers
 * ```
 * testpmd sends back what it gets. Numbers that are missing are those that it dropped itself, since it never waits.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { noTestpmd, Testpmd, type TestpmdOptions } from '../../src/bench/testpmd.js';
import { ConnectionSlot, socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { serveVhostUser } from '../../src/control/vhost-user/index.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { eventually } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { connectUnix } from '../../src/linux/unix-socket.js';
import { VirtioNic } from '../../src/nic/virtio-nic.js';
import { readFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, window } from '../compliance/testbed.js';

const FRAMES = 50_000;
const QUEUE_SIZE = 256;

const PATHS: readonly (readonly [name: string, device: string, packed: boolean])[] = [
  ['split, mergeable', 'mrg_rxbuf=1,in_order=0', false],
  ['split', 'mrg_rxbuf=0,in_order=0', false],
  ['split, in order, mergeable', 'mrg_rxbuf=1,in_order=1', false],
  ['split, in order', 'mrg_rxbuf=0,in_order=1', false],
  ['split, vectorised', 'mrg_rxbuf=0,in_order=0,vectorized=1', false],
  ['packed, mergeable', 'packed_vq=1,mrg_rxbuf=1,in_order=0', true],
  ['packed', 'packed_vq=1,mrg_rxbuf=0,in_order=0', true],
  ['packed, in order, mergeable', 'packed_vq=1,mrg_rxbuf=1,in_order=1', true],
  ['packed, in order', 'packed_vq=1,mrg_rxbuf=0,in_order=1', true],
  ['packed, vectorised', 'packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1', true],
];

const missing = noTestpmd();
const folder = mkdtempSync(join(tmpdir(), 'polynic-dpdk-'));
before(() => missing !== null && console.log(`skipped: ${missing}`));
after(() => rmSync(folder, { recursive: true }));

interface Backend {
  /** Starts testpmd, which ends with the test at the latest. */
  testpmd(options: Omit<TestpmdOptions, 'socket' | 'mode'> & { socket?: string }): Testpmd;
  readonly nic: VirtioNic;
  readonly port: PortHandle;
  /** What came back to the source behind its n-th lane. */
  returned(lane: number): { sequence: number; outOfOrder: number };
  packets(ring: number): number;
}

/** A test on a NIC that listens; at its end nothing may be left. */
function dpdkTest(
  name: string,
  options: { pairs?: number; workers?: number },
  body: (backend: Backend) => Promise<void>,
): void {
  test(name, { skip: missing ?? false, timeout: 60_000 }, async () => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const [before, all] = [held(), countProcessFds()];
    const { pairs = 1, workers = 1 } = options;
    const port = openPort('source', { window, arena }, pairs);
    const nic = await VirtioNic.start({
      window,
      arena,
      port,
      workers,
      limits: { queuePairs: pairs, bufs: 8192 },
    });
    const socket = join(folder, `${name.replaceAll(/\W+/g, '-')}.sock`);
    const slot = new ConnectionSlot(channel => serveVhostUser(channel, nic));
    const listener = UnixListener.listen(socket);
    listener.onConnection(
      connection => slot.offer(socketChannel(connection)),
      error => assert.fail(error as Error),
    );
    const programs: Testpmd[] = [];
    try {
      await body({
        ...{ nic, port },
        testpmd: options => {
          programs.push(new Testpmd({ socket, mode: 'io', ...options }));
          return programs.at(-1)!;
        },
        returned: lane => readFlow(window, port.lanes[lane]!.state + L.PORT_SIZE),
        packets: ring => nic.stats().queues.find(({ index }) => index === ring)?.packets ?? 0,
      });
    } catch (error) {
      const { message } = error as Error;
      throw new Error(`${message}\n${nic.dump()}\n${programs.at(-1)?.output}`, { cause: error });
    } finally {
      for (const program of programs) await program.kill();
      listener.close();
      await slot.close();
      await nic.close();
      port.close();
    }
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, 'descriptors left behind the table');
  });
}

/** Lets frames go round, then compares what both sides have counted. */
async function goRound(backend: Backend, testpmd: Testpmd, pairs = 1): Promise<void> {
  const rings = Array.from({ length: pairs }, (_, pair) => [2 * pair, 2 * pair + 1] as const);
  await eventually(() => rings.every(([, tx]) => backend.packets(tx) > FRAMES / pairs), 30_000);
  const counts = await testpmd.stop();
  await testpmd.quit();
  const sum = (side: 0 | 1) => rings.reduce((total, ring) => total + backend.packets(ring[side]), 0);
  const rest = pairs * QUEUE_SIZE; // what the rings held when it stopped; those to receive from are filled up once more after that
  assert.ok(counts.received <= sum(0) && counts.received >= sum(0) - 2 * rest, 'received');
  assert.ok(sum(1) <= counts.sent && sum(1) >= counts.sent - rest, 'sent');
  for (let lane = 0; lane < pairs; lane++) {
    assert.ok(backend.returned(lane).outOfOrder <= counts.dropped, 'order');
  }
  const { queues } = backend.nic.stats();
  assert.ok(
    queues.every(({ errors, dropped }) => errors === 0 && dropped === 0),
    backend.nic.dump(),
  );
}

for (const [name, device, packed] of PATHS) {
  dpdkTest(`${name}: frames go round`, {}, async backend => {
    const testpmd = backend.testpmd({ device });
    await eventually(() => backend.nic.running, 15_000);
    assert.equal((backend.nic.agreed & F.RING_PACKED) !== 0n, packed);
    assert.equal((backend.nic.agreed & F.MRG_RXBUF) !== 0n, device.includes('mrg_rxbuf=1'));
    assert.equal((backend.nic.agreed & F.IN_ORDER) !== 0n, device.includes('in_order=1'));
    await goRound(backend, testpmd);
  });
}

dpdkTest('two queue pairs, two workers', { pairs: 2, workers: 2 }, async backend => {
  await goRound(backend, backend.testpmd({ queues: 2 }), 2);
});

dpdkTest('the driver pauses and goes on, several times', {}, async backend => {
  const testpmd = backend.testpmd({});
  for (let round = 1; round <= 3; round++) {
    const before = backend.packets(1);
    await eventually(() => backend.packets(1) > before + 1000, 15_000);
    await testpmd.stop();
    await testpmd.say('port stop all', /Done/);
    await testpmd.say('port start all', /Done/);
    await testpmd.say('start', /testpmd>/);
  }
  await eventually(() => backend.nic.running);
  await testpmd.quit();
});

dpdkTest('it is killed, and another comes', {}, async backend => {
  for (let round = 0; round < 2; round++) {
    const testpmd = backend.testpmd({});
    const before = backend.packets(1);
    await eventually(() => backend.packets(1) > before + 1000, 15_000);
    await testpmd.kill();
    await eventually(() => !backend.nic.running);
  }
});

dpdkTest('it listens, and we connect', {}, async backend => {
  const socket = join(folder, 'theirs.sock');
  const testpmd = backend.testpmd({ socket, device: 'server=1' });
  const connection = await eventually(() => {
    try {
      return connectUnix(socket);
    } catch {
      return null;
    }
  }, 15_000);
  const ended = serveVhostUser(socketChannel(connection), backend.nic);
  await goRound(backend, testpmd);
  assert.equal((await ended).error, null);
});
