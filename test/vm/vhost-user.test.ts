/**
 * Our vhost-user backend under stock QEMU and a stock kernel: every ring, with and without offloads, one queue and several, both
 * QEMUs, either side listening; a backend that dies and comes back; a NIC that is plugged in and out. Every byte of TCP is checked both ways.
 */
import assert from 'node:assert/strict';
import { configure, HOST_IP, shown } from '../../src/vm/cable.js';
import type { QemuName } from '../../src/vm/qemu.js';
import type { Vm } from '../../src/vm/vm.js';
import { Backend, type Wish } from './kit/backend.js';
import { LONG, QEMUS } from './kit/needs.js';
import { BYTES, features, pingAndTcp, vhostTest } from './kit/vhost-test.js';

const PACKED_BIT = 34;
const HOST_TSO4_BIT = 11;

/** Everyday: what every part of the backend is used by. `test:vm`: every combination. */
const WISHES: readonly (Wish & { readonly everyday?: QemuName })[] = [
  { everyday: '7.2' },
  { packed: true, everyday: '11.1' },
  { offloads: false },
  { packed: true, offloads: false },
  { queues: 4, everyday: '7.2' },
  { packed: true, queues: 4 },
  { offloads: false, queues: 4 },
  { packed: true, offloads: false, queues: 4 },
  { listener: 'backend' },
];

for (const qemu of QEMUS) {
  for (const { everyday, ...wish } of WISHES) {
    if (!LONG && everyday !== qemu) continue;
    const { packed = false, offloads = true, queues = 1, listener = 'qemu' } = wish;
    const name = `${packed ? 'packed' : 'split'}, ${offloads ? '' : 'no '}offloads, ${queues} queue pairs, ${listener} listens`;
    vhostTest(name, qemu, wish, async (vm, backend, t) => {
      const bits = await features(vm);
      assert.equal(bits[PACKED_BIT], packed ? '1' : '0', 'packed ring');
      assert.equal(bits[HOST_TSO4_BIT], offloads ? '1' : '0', 'segmentation by the host');
      const inUse = await vm.run('ls -d /sys/class/net/eth0/queues/tx-* | wc -l');
      assert.equal(inUse.trim(), String(queues));
      await pingAndTcp(vm, backend, t, { streams: queues });
    });
  }

  if (!LONG && qemu !== '11.1') continue;

  for (const indirect of LONG ? [true, false] : [true])
    for (const packed of [false, true]) {
      const format = `${packed ? 'packed' : 'split'}${indirect ? '' : ', chains of several descriptors'}`;
      const name = `a backend that is killed, and others in its place, ${format}`;
      vhostTest(name, qemu, { packed, indirect }, async (vm, backend, t) => {
        await backend.cable.ping(vm);
        for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
          await backend.program.end(signal);
          await backend.serve();
          await vm.run(`until ping -c 1 -W 1 ${HOST_IP}; do :; done`);
          t.diagnostic(await backend.cable.ping(vm));
        }
        // Under traffic: connections survive.
        const transfer = backend.cable.tcp(vm, BYTES);
        transfer.catch(() => {}); // heard below
        for (const signal of ['SIGTERM', 'SIGKILL', 'SIGKILL'] as const) {
          await backend.carries(300, transfer);
          await backend.program.end(signal);
          await backend.serve();
        }
        t.diagnostic(shown(await transfer));
      });
    }

  vhostTest(
    'a pause, a driver that goes, a reset: the NIC is there again',
    qemu,
    { packed: true },
    async (vm, backend, t) => {
      const { cable } = backend;
      await cable.ping(vm);
      await vm.monitor.execute('stop');
      await vm.monitor.execute('cont');
      await cable.ping(vm);
      await vm.run('rmmod virtio_net && load boot');
      await configure(vm);
      await cable.ping(vm);
      await vm.reset();
      await configure(vm);
      await pingAndTcp(vm, backend, t);
    },
  );

  // Without offloads, so that each frame is a packet.
  vhostTest('an MTU of 9000', qemu, { mtu: 9000, offloads: false }, async (vm, backend, t) => {
    assert.equal((await vm.run('cat /sys/class/net/eth0/mtu')).trim(), '9000');
    const said = await vm.run(`ping -c 5 -i 0.2 -W 20 -s 8972 ${HOST_IP}`);
    assert.match(said, /5 packets transmitted, 5 packets received/);
    await pingAndTcp(vm, backend, t);
    const { queues } = await backend.program.counters();
    for (const { direction, bytes, packets } of queues)
      t.diagnostic(`${direction}: ${packets} packets of ${Math.round(bytes / packets)} bytes`);
    assert.ok(queues.some(({ bytes, packets }) => bytes / packets > 1600));
  });

  vhostTest('a second NIC, plugged in, used, and pulled out', qemu, {}, async (vm, backend, t) => {
    const other = await Backend.start();
    try {
      await plugIn(vm, other.socket);
      await vm.run('until [ -d /sys/class/net/eth1 ]; do usleep 10000; done; ip link set eth0 down');
      await configure(vm, 'eth1');
      await pingAndTcp(vm, other, t);
      const gone = vm.monitor.event(
        ({ event, data }) => event === 'DEVICE_DELETED' && data.device === 'late-nic',
      );
      await vm.monitor.execute('device_del', { id: 'late-nic' });
      await gone;
      await vm.monitor.execute('netdev_del', { id: 'late' });
      await vm.run('ip link set eth0 up');
      await backend.cable.ping(vm);
    } catch (error) {
      t.diagnostic(other.output);
      await other.abandon();
      throw error;
    }
    await other.close();
  });
}

/** What `polynic vm` and QEMU's command line do at the start, done while the machine runs. */
async function plugIn(vm: Vm, socket: string): Promise<void> {
  const addr = { type: 'unix', data: { path: socket } };
  await vm.monitor.execute('chardev-add', {
    id: 'late-socket',
    backend: { type: 'socket', data: { addr, server: true, wait: false } },
  });
  await vm.monitor.execute('netdev_add', { type: 'vhost-user', id: 'late', chardev: 'late-socket' });
  const driver = { driver: 'virtio-net-pci', id: 'late-nic', bus: 'port0', netdev: 'late', romfile: '' };
  await vm.monitor.execute('device_add', { ...driver, ...(vm.qemu.version[0] < 8 ? { vectors: 0 } : {}) });
}
