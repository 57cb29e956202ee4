/** Our vhost-user backend with DPDK's virtio-user: every ring path that it has (for a minute each in test/soak), pauses, kills, either side listening. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { serveVhostUser } from '../../src/control/vhost-user/index.js';
import { eventually } from '../../src/linux/testing.js';
import { connectUnix } from '../../src/linux/unix-socket.js';
import { dpdkTest, everyPath, folder, goRound } from './dpdk-backend.js';

everyPath(0);

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
