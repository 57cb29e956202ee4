/** A test with one vhost-user backend of ours and a Linux guest on it. */
import type { TestContext } from 'node:test';
import { configure, shown } from '../../../src/vm/cable.js';
import type { QemuName } from '../../../src/vm/qemu.js';
import { Vm, type VmOptions } from '../../../src/vm/vm.js';
import { Backend, type Wish } from './backend.js';
import { LONG, vmTest } from './needs.js';

/** Of each transfer. */
export const BYTES = LONG ? 100_000_000 : 20_000_000;

/** A test with a backend and a guest on it; `machine`: what else is special about the guest. */
export function vhostTest(
  name: string,
  qemu: QemuName,
  wish: Wish,
  body: (vm: Vm, backend: Backend, t: TestContext) => Promise<void>,
  machine: Partial<VmOptions> = {},
): void {
  vmTest(name, qemu, async t => {
    const backend = await Backend.start(wish);
    let vm: Vm | null = null;
    try {
      // Linux uses no more queue pairs than it has processors.
      const cpus = wish.queues ?? 1;
      vm = await Vm.start({ qemu, memoryMb: 512, cpus, nics: [backend.nic], ...machine });
      await configure(vm);
      await body(vm, backend, t);
    } catch (error) {
      t.diagnostic(`${backend.output}\n${vm?.console}`);
      await vm?.stop();
      await backend.abandon();
      throw error;
    }
    await vm.stop();
    await backend.close();
  });
}

export async function pingAndTcp(
  vm: Vm,
  { cable }: Backend,
  t: TestContext,
  { streams = 1, bytes = BYTES } = {},
): Promise<void> {
  t.diagnostic(await cable.ping(vm));
  t.diagnostic(shown(await cable.tcp(vm, bytes, streams)));
}

/** All that the guest's driver negotiated with QEMU, as bits from 0. */
export async function features(vm: Vm): Promise<string> {
  return (await vm.run('cat /sys/class/net/eth0/device/features')).trim();
}
