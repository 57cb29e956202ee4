/** A guest moves from one backend to another while it talks: nothing is lost, and everything goes on where it was; its connections survive two moves in a row. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { EAGAIN } from '../../src/linux/errors.js';
import { openPacket } from '../../src/linux/socket.js';
import { configure, HOST_IP, shown } from '../../src/vm/cable.js';
import type { QemuName } from '../../src/vm/qemu.js';
import { Vm } from '../../src/vm/vm.js';
import { Backend, type Wish } from './kit/backend.js';
import { Lan } from './kit/lan.js';
import { LONG, QEMUS, vmTest } from './kit/needs.js';
import { Streams } from './kit/streams.js';

const BYTES = 20_000_000;
const ECHOES = 400;
/** Each way, before a move and after it. */
const BETWEEN = 5_000_000;
const STREAMS_MS = 400_000;

const WISHES: readonly (Wish & { readonly everyday?: boolean })[] = [
  {},
  { packed: true, everyday: true },
  { queues: 2 },
  { packed: true, queues: 2 },
];

/** Two hosts that a guest can't tell from one another. */
const ALIKE: readonly (readonly [QemuName, Wish])[] = [
  ['7.2', {}],
  ['11.1', { packed: true }],
  ['11.1', { queues: 2 }],
];

/**
 * Without KVM, QEMU before 9.0 loses writes of the guest's processors while it moves memory: it forgets to look for them in blocks whose bitmap has
 * no loose end, and crashes guests, whatever their NICs. So their memory gets one.
 */
const memoryOf = (qemu: QemuName) => (qemu === '7.2' ? 256 + 1 / 16 : 256);

const nameOf = ({ packed = false, queues = 1 }: Wish) =>
  `a guest with ${queues} ${packed ? 'packed' : 'split'} queue pairs`;

for (const qemu of QEMUS) {
  for (const { everyday = false, ...wish } of WISHES) {
    if (!LONG && (!everyday || qemu !== '11.1')) continue;
    vmTest(`${nameOf(wish)} moves twice, and its connections with it`, qemu, t => movesTwice(t, qemu, wish));
  }
}

for (const [qemu, wish] of LONG ? ALIKE : []) {
  const { queues = 1 } = wish;
  vmTest(`${nameOf(wish)} moves to a host that is the same to it: no echo is lost`, qemu, async t => {
    const backends = [await Backend.start(wish), await Backend.start(wish)] as const;
    const [here, there] = backends;
    const vms: Vm[] = [];
    try {
      const machine = { qemu, memoryMb: memoryOf(qemu), cpus: queues };
      const source = await Vm.start({ ...machine, nics: [here.nic] });
      vms.push(source);
      const target = await Vm.start({ ...machine, nics: [there.nic], incoming: true });
      vms.push(target);
      await configure(source);
      await here.cable.ping(source);
      t.diagnostic(`before: ${shown(await here.cable.tcp(source, BYTES, queues))}`);

      // Each end of the cable answers as the other did: the guest can't tell where it is.
      const echoes = source.run(`ping -c ${ECHOES} -i 0.02 -W 10 ${HOST_IP} | tail -2`);
      await source.migrateTo(target, join(here.folder, 'migration.sock'));
      await source.stop();
      const said = await echoes;
      t.diagnostic(said.replaceAll('\n', '; '));
      assert.match(said, new RegExp(`${ECHOES} packets transmitted, ${ECHOES} packets received`));

      await there.cable.ping(target);
      t.diagnostic(`after: ${shown(await there.cable.tcp(target, BYTES, queues))}`);
    } catch (error) {
      t.diagnostic(backends.map(({ output }) => output).join('\n'));
      for (const vm of vms) t.diagnostic(vm.console);
      await Promise.all(vms.map(vm => vm.stop()));
      await Promise.all(backends.map(backend => backend.abandon()));
      throw error;
    }
    await Promise.all(vms.map(vm => vm.stop()));
    for (const backend of backends) await backend.close();
  });
}

/** Backends on one network, with a machine behind each but the first that waits for the guest. Streams both ways go on all the time. */
async function movesTwice(t: TestContext, qemu: QemuName, wish: Wish): Promise<void> {
  using lan = new Lan();
  const backends: Backend[] = [];
  const vms: Vm[] = [];
  let streams: Streams | null = null;
  try {
    for (let i = 0; i < 3; i++) backends.push(await Backend.start({ ...wish, cable: lan.port() }));
    const { queues = 1 } = wish;
    const boot = async (n: number): Promise<Vm> => {
      const machine = { qemu, memoryMb: memoryOf(qemu), cpus: queues };
      vms.push(await Vm.start({ ...machine, nics: [backends[n]!.nic], incoming: n > 0 }));
      return vms.at(-1)!;
    };
    let vm = await boot(0);
    await configure(vm);
    streams = new Streams(vm, lan, STREAMS_MS);
    await streams.more(BETWEEN);
    for (const n of [1, 2]) {
      const target = await boot(n);
      const begun = performance.now();
      await vm.migrateTo(target, join(backends[n]!.folder, 'migration.sock'));
      t.diagnostic(`move ${n} took ${Math.round(performance.now() - begun)} ms`);
      await vm.stop();
      vm = target;
      await streams.more(BETWEEN);
    }
    await streams.stop(vm);
    t.diagnostic(`bytes to the guest and to the host: ${streams.bytes}`);
  } catch (error) {
    t.diagnostic(backends.map(({ output }) => output).join('\n'));
    for (const { console } of vms) t.diagnostic(console);
    streams?.abandon();
    await Promise.all(vms.map(vm => vm.stop()));
    await Promise.all(backends.map(backend => backend.abandon()));
    throw error;
  }
  await Promise.all(vms.map(vm => vm.stop()));
  for (const backend of backends) await backend.close();
}

const RARP = 0x8035;

// A guest's kernel that announces itself (virtio's GUEST_ANNOUNCE) leaves nothing to QEMU; here it does not.
vmTest('a guest that does not announce itself moves: its new backend does', '11.1', async t => {
  using lan = new Lan();
  const properties = ['guest_announce=off'];
  const [here, there] = [
    await Backend.start({ cable: lan.port(), properties }),
    await Backend.start({ cable: lan.port(), properties }),
  ];
  const vms: Vm[] = [];
  // Of what comes out of the new backend's port.
  const heard = openPacket(there.cable.interface, { netns: there.cable.netns, nonblocking: true });
  try {
    const source = await Vm.start({ qemu: '11.1', nics: [here.nic] });
    vms.push(source);
    const target = await Vm.start({ qemu: '11.1', nics: [there.nic], incoming: true });
    vms.push(target);
    await configure(source);
    await here.cable.ping(source);
    await source.migrateTo(target, join(here.folder, 'migration.sock'));
    await source.stop();
    await there.cable.ping(target);
    const frame = Buffer.alloc(2048);
    const announced: string[] = [];
    for (let length = 0; length !== -EAGAIN; length = heard.recv(frame, frame.length)) {
      if (length > 0 && frame.readUInt16BE(12) === RARP) announced.push(frame.toString('hex', 6, 12));
    }
    t.diagnostic(`${announced.length} announcements`);
    assert.ok(announced.length > 0 && announced.every(mac => mac === '020000000002'), String(announced));
  } catch (error) {
    t.diagnostic(`${here.output}\n${there.output}`);
    for (const { console } of vms) t.diagnostic(console);
    await Promise.all(vms.map(vm => vm.stop()));
    await Promise.all([here.abandon(), there.abandon()]);
    throw error;
  } finally {
    heard.close();
  }
  await Promise.all(vms.map(vm => vm.stop()));
  for (const backend of [here, there]) await backend.close();
});
