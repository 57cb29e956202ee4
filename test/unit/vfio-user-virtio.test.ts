/**
 * Our virtio driver on our virtio card through vfio-user, both ends in this process: what a guest that is a process makes of a card that is another's.
 *
 * ```
 *   netdev ──► VirtioDriver ── VirtioPci ── VfioUserAccess ══ socket ══ serveVfioUser ── VirtioNetFunction ── VirtioNic ──► port
 * ```
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import { serveVfioUser, VfioUserAccess } from '../../src/control/vfio-user/index.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { probeVirtioNet, VirtioPci } from '../../src/guest/pci/virtio-pci.js';
import { VirtioDriver } from '../../src/guest/virtio/driver.js';
import { virtioRamSize } from '../../src/guest/virtio/queues.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { VirtioNic } from '../../src/nic/virtio-nic.js';
import { VirtioNetFunction } from '../../src/pci/virtio/index.js';
import { readFlow } from '../../src/port/flow.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTQ_FEATURES } from '../../src/ring/virtio/features.js';
import { arena, eventually, window } from '../compliance/testbed.js';

const FRAMES = 3000;
const PAIRS = 2;

for (const packed of [false, true]) {
  test(`${packed ? 'packed' : 'split'}: frames both ways, in order, none lost`, {
    timeout: 60_000,
  }, async () => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const [before, all] = [held(), countProcessFds()];
    const [port, netdev] = [0, 1].map(() => openPort('source', { window, arena }, PAIRS)) as [
      ReturnType<typeof openPort>,
      ReturnType<typeof openPort>,
    ];
    const nic = await VirtioNic.start({ window, arena, port, limits: { queuePairs: PAIRS, bufs: 1024 } });
    const fn = new VirtioNetFunction({ nic, window, mac: Uint8Array.of(2, 0, 0, 1, 2, 3) });
    const [ours, theirs] = socketPair('vfio-user');
    const refused: string[] = [];
    const session = serveVfioUser(socketChannel(theirs), fn, {
      onRefused: (command, error) => refused.push(`${command}: ${error.message}`),
    });
    const access = await VfioUserAccess.open(socketChannel(ours));
    const ram = new GuestRam(window, virtioRamSize(PAIRS, 256) + (1 << 20));
    const slot = new VirtioPci({ window, ram, queuePairs: PAIRS });
    const driver = await VirtioDriver.start({
      ...{ window, arena, netdev, transport: slot },
      wish: { queuePairs: PAIRS, bufs: 256, packed, offloads: VIRTQ_FEATURES },
    });
    void driver.setInterfaceUp(true);
    await slot.plug(access, await probeVirtioNet(access));
    await driver.whenRunning();
    for (let lane = 0; lane < PAIRS; lane++) {
      for (const { lanes } of [port, netdev]) {
        const swallowed = () => readFlow(window, lanes[lane]!.state + L.PORT_SIZE);
        await eventually(() => swallowed().sequence > FRAMES);
        assert.equal(swallowed().outOfOrder, 0);
      }
    }
    await driver.close();
    await slot.close();
    await access.close();
    const { error } = await session;
    assert.deepEqual([refused, error], [[], null]);
    fn.close();
    await nic.close();
    for (const { close } of [port, netdev]) close();
    ram.close();
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, 'descriptors left behind the table');
  });
}
