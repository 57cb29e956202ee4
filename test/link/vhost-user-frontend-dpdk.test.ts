/** Our vhost-user front end and virtqueue driver with DPDK's vhost library as backend: what is sent comes back, in order. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { before } from 'node:test';
import { noTestpmd, Testpmd } from '../../src/bench/testpmd.js';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { connectUnix } from '../../src/linux/unix-socket.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { Machine } from './virtio-machine.js';

const missing = noTestpmd();
before(() => missing !== null && console.log(`skipped: ${missing}`));

for (const [what, accept] of [
  ['split', F.VERSION_1],
  ['split, event index, mergeable', F.VERSION_1 | F.EVENT_IDX | F.MRG_RXBUF],
  ['packed', F.VERSION_1 | F.RING_PACKED],
] as const) {
  leakTest(`${what}: frames go round`, async t => {
    if (missing !== null) return t.skip(missing);
    const folder = mkdtempSync(join(tmpdir(), 'polynic-dpdk-'));
    const socket = join(folder, 'vhost.sock');
    const testpmd = new Testpmd({ role: 'vhost', socket, mode: 'io' });
    const machine = new Machine(accept);
    try {
      const connection = await eventually(() => {
        try {
          return connectUnix(socket);
        } catch {
          return null;
        }
      }, 20_000);
      await machine.start(connection);
      for (let round = 0; round < 20; round++) {
        await machine.send(64);
        await machine.receive(64);
      }
      assert.deepEqual(machine.received, { sequence: 20 * 64, outOfOrder: 0 });
      for (const index of [0, 1]) {
        await machine.frontend!.tell('SET_VRING_ENABLE', { index, num: 0 });
        const base = await machine.frontend!.stopVring(index);
        if ((accept & F.RING_PACKED) === 0n) assert.ok(base >= 20 * 64, `ring ${index} stands at ${base}`);
      }
      machine.frontend!.close();
      await testpmd.quit();
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${testpmd.output}`, { cause: error });
    } finally {
      await testpmd.kill();
      machine.close();
      rmSync(folder, { recursive: true });
    }
  });
}
