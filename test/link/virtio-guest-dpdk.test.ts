/** Our virtio driver on DPDK's vhost: every kind of ring (for a minute each in test/soak), interfaces that go down, kills, either side listening. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Testpmd } from '../../src/bench/testpmd.js';
import { socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { eventually } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { guestTest } from '../unit/virtio-driver-rig.js';
import { came, connect, everyRing, folder, goRound, missing } from './dpdk-vhost.js';

everyRing(0);

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
