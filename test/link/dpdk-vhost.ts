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
import { setTimeout as pause } from 'node:timers/promises';
import { noTestpmd, Testpmd } from '../../src/bench/testpmd.js';
import { socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { eventually } from '../../src/linux/testing.js';
import { connectUnix } from '../../src/linux/unix-socket.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { guestTest, type VirtioGuest } from '../unit/virtio-driver-rig.js';

const FRAMES = 20_000;
const BUFS = 256;
export const missing = noTestpmd();
export const folder = mkdtempSync(join(tmpdir(), 'polynic-dpdk-vhost-'));
before(() => missing !== null && console.log(`skipped: ${missing}`));
after(() => rmSync(folder, { recursive: true }));

export const came = (guest: VirtioGuest): number =>
  guest.netdev.lanes.reduce((sum, _, i) => sum + guest.swallowed(i).sequence, 0);

/** Lets frames go round, for so many seconds at least, then compares what both sides have counted. */
export async function goRound(guest: VirtioGuest, testpmd: Testpmd, seconds = 0): Promise<void> {
  try {
    const end = performance.now() + seconds * 1000;
    let more = FRAMES;
    do {
      const target = came(guest) + more;
      await eventually(() => came(guest) > target, 30_000);
      more = 1000;
      await pause(Math.min(500, end - performance.now()));
    } while (performance.now() < end);
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
export async function connect(guest: VirtioGuest, socket: string): Promise<void> {
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

/** A test for every kind of ring, with one queue pair and two, of so many seconds each. */
export function everyRing(seconds: number): void {
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
          await goRound(guest, testpmd, seconds);
          await testpmd.quit();
          await eventually(() => !guest.driver.running);
        },
        missing ?? false,
        seconds,
      );
    }
}
