/** An upgrade of what `serve` serves, under a hypervisor that takes no notice of announcements. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Backend } from '../../src/cli/backend.js';
import { ProxyFrontend, socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { connectUnix, type UnixSocket } from '../../src/linux/unix-socket.js';
import { sring } from '../../src/ring/sring.js';
import { arena, eventually, window } from '../compliance/testbed.js';

const PARAMETERS = { numRxQueues: 1, numTxQueues: 1, numRxBufs: 16, numTxBufs: 16 };

for (const listens of [true, false]) {
  const who = listens
    ? 'listens: the hypervisor stays, and the upgrade is given up'
    : 'connects: it hangs up, and comes back';
  test(`after ten seconds in which nothing happens, who ${who}`, async t => {
    const folder = mkdtempSync(join(tmpdir(), 'polynic-backend-test-'));
    const path = join(folder, 'nic.sock');
    const listener = listens ? null : UnixListener.listen(path);
    const come = new Promise<UnixSocket>(resolve => listener?.onConnection(resolve, () => {}));
    const backend = await Backend.open(
      {
        ...{
          path,
          listens,
          kind: 'bpfhv',
          msix: true,
          transitional: false,
          port: 'sink',
          device: sring,
          queues: 1,
          workers: 1,
          bufs: 256,
        },
        ...{ offload: 0n, sleepUs: 0, control: 'none' },
      },
      { window, arena },
      () => {},
    );
    const run = backend.run();
    const frontend = new ProxyFrontend(socketChannel(listens ? connectUnix(path) : await come));
    t.after(async () => {
      await backend.stop();
      await run;
      await backend.close();
      frontend.close();
      listener?.close();
      rmSync(folder, { recursive: true });
    });
    await frontend.setParameters(PARAMETERS);
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const upgrade = backend.controlled.upgrade!({ device: 'sring_gso' });
    t.mock.timers.tick(10_000);
    t.mock.timers.reset();
    if (listens) {
      await assert.rejects(upgrade, { code: 'NIC_UPGRADE_TIMEOUT' });
      assert.equal(await frontend.getFeatures(), 0n);
    } else {
      assert.equal((await upgrade).outcome, 'waiting');
      await eventually(() => !frontend.open);
    }
  });
}
