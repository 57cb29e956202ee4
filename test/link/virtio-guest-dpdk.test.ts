/**
 * Our virtio driver on a backend that others wrote: DPDK's vhost.
 *
 * ```
 *   source ──► driver ──► ring ──► testpmd, io ──► ring ──► driver ──► counts and looks at the numbers
 * ```
 * testpmd sends back what it gets. Numbers that are missing are those that it dropped itself, since it never waits.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { noTestpmd, Testpmd } from '../../src/bench/testpmd.js';
import { socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { eventually } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { connectUnix } from '../../src/linux/unix-socket.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { guestTest, type VirtioGuest } from '../unit/virtio-driver-rig.js';

const FRAMES = 20_000;
const BUFS = 256;
const missing = noTestpmd();
const folder = mkdtempSync(join(tmpdir(), 'polynic-dpdk-vhost-'));
before(() => missing !== null && console.log(`skipped: ${missing}`));
after(() => rmSync(folder, { recursive: true }));

const came = (guest: VirtioGuest): number =>
  guest.netdev.lanes.reduce((sum, _, i) => sum + guest.swallowed(i).sequence, 0);

/** Lets frames go round, then compares what both sides have counted. */
async function goRound(guest: VirtioGuest, testpmd: Testpmd): Promise<void> {
  try {
    await eventually(() => came(guest) > FRAMES, 30_000);
  } catch (error) {
    throw new Error(
      `${(error as Error).message}\n${guest.driver.dump()}\n${guest.log.join('\n')}\n${testpmd.output}`,
    );
  }
  const counts = await testpmd.stop();
  const { queues } = guest.driver.stats();
  const packets = (direction: string) =>
    queues.filter(queue => queue.direction === direction).reduce((sum, queue) => sum + queue.packets, 0);
  const lanes = guest.netdev.lanes.length;
  assert.ok(counts.received <= packets('tx') && packets('tx') <= counts.received + lanes * BUFS, 'sent');
  await eventually(
    () =>
      counts.sent ===
      guest.driver
        .stats()
        .queues.filter(({ index }) => index % 2 === 0)
        .reduce((n, q) => n + q.packets, 0),
  );
  for (let lane = 0; lane < lanes; lane++)
    assert.ok(guest.swallowed(lane).outOfOrder <= counts.dropped, 'order');
  assert.ok(
    queues.every(({ errors, dropped }) => errors === 0 && dropped === 0),
    guest.driver.dump(),
  );
}

/** testpmd's socket, connected to. */
async function connect(guest: VirtioGuest, socket: string): Promise<void> {
  await eventually(() => existsSync(socket), 15_000);
  const connection = await eventually(() => {
    try {
      return connectUnix(socket);
    } catch {
      return null;
    }
  }, 15_000);
  void guest.serve(socketChannel(connection));
  await guest.driver.whenRunning();
}

for (const packed of [false, true])
  for (const pairs of [1, 2]) {
    const name = `${packed ? 'packed' : 'split'}, ${pairs} queue pair(s)`;
    guestTest(
      `DPDK's vhost, ${name}: frames go round`,
      async start => {
        const socket = join(folder, `${name.replaceAll(/\W+/g, '-')}.sock`);
        const guest = await start({ packed, queuePairs: pairs, workers: pairs });
        const testpmd = new Testpmd({ role: 'vhost', socket, mode: 'io', queues: pairs });
        await connect(guest, socket);
        assert.equal((guest.driver.features & F.RING_PACKED) !== 0n, packed);
        assert.ok((guest.driver.features & F.MRG_RXBUF) !== 0n);
        await goRound(guest, testpmd);
        await testpmd.quit();
        await eventually(() => !guest.driver.running);
      },
      missing ?? false,
    );
  }

guestTest(
  "DPDK's vhost: the interface goes down and up, then it is killed and another comes",
  async start => {
    const guest = await start();
    const socket = join(folder, 'again.sock');
    for (const round of [1, 2]) {
      rmSync(socket, { force: true });
      const testpmd = new Testpmd({ role: 'vhost', socket, mode: 'io' });
      await connect(guest, socket);
      for (let i = 0; i < 3; i++) {
        const before = came(guest);
        await eventually(() => came(guest) > before + 1000, 15_000);
        await guest.driver.setInterfaceUp(false);
        assert.ok(!guest.driver.running);
        await guest.driver.setInterfaceUp(true);
        assert.ok(guest.driver.running);
      }
      const before = came(guest);
      await eventually(() => came(guest) > before + 1000, 15_000);
      await (round === 1 ? testpmd.kill() : testpmd.quit());
      await eventually(() => !guest.driver.running);
    }
    assert.ok(guest.driver.stats().queues.every(({ errors }) => errors === 0));
  },
  missing ?? false,
);

guestTest(
  "DPDK's vhost connects, and we listen",
  async start => {
    const guest = await start({ packed: true });
    const socket = join(folder, 'ours.sock');
    const listener = UnixListener.listen(socket);
    listener.onConnection(
      connection => void guest.serve(socketChannel(connection)),
      error => {
        throw error;
      },
    );
    try {
      const testpmd = new Testpmd({ role: 'vhost', socket, mode: 'io', device: 'client=1' });
      await guest.driver.whenRunning();
      await goRound(guest, testpmd);
      await testpmd.quit();
    } finally {
      listener.close();
    }
  },
  missing ?? false,
);
