/** Whole PCI devices of ours in stock QEMU: virtio-net for the guest's own driver, bpfhv for ours. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { VmReport } from '../../src/demo/vm-run.js';
import { eventually } from '../../src/linux/testing.js';
import { Cable, configure, shown } from '../../src/vm/cable.js';
import { vfioUserDevice } from '../../src/vm/command-line.js';
import { Vm, type VmOptions } from '../../src/vm/vm.js';
import { PATIENCE_MS, Program } from '../link/program.js';
import { LONG, vmTest } from './kit/needs.js';

const QEMU = '11.1';
const NEEDS = { vfioUser: true };
const BYTES = LONG ? 100_000_000 : 20_000_000;
const MAC = '02:00:00:00:00:02';

/** A device in a process of its own, with its cable. */
class Served {
  readonly cable = new Cable();
  readonly folder = mkdtempSync(join(tmpdir(), 'polynic-vfio-'));
  readonly socket = join(this.folder, 'nic.sock');
  readonly program: Program;

  private constructor(words: readonly string[]) {
    const common = ['serve', '--vfio-user', this.socket, '--port', this.cable.port, '--mac', MAC, '-v'];
    this.program = new Program([...common, ...words, '--child-of', String(process.pid)]);
  }

  static async start(...words: string[]): Promise<Served> {
    const served = new Served(words);
    await served.cable.appear(served.program);
    await eventually(() => existsSync(served.socket), PATIENCE_MS);
    return served;
  }

  get nic() {
    return { kind: 'vfio-user', socket: this.socket } as const;
  }

  /** Ends it: in good order, and nothing is left of it. */
  async close(): Promise<void> {
    await this.program.end();
    this.cable.close();
    const files = readdirSync(this.folder);
    rmSync(this.folder, { recursive: true });
    const { ending, left, output } = this.program;
    assert.deepEqual(files, [], output);
    assert.equal(ending?.code, 0, output);
    assert.deepEqual(left, { fds: 0, mappings: 0, buffers: 0 }, output);
  }
}

interface Case {
  readonly words: readonly string[];
  /** On the kernel's command line. */
  readonly append?: string;
  readonly cpus?: number;
  /** What features of the guest's device and its interrupts must look like. */
  readonly packed: boolean;
  readonly version1: boolean;
  readonly interrupts: RegExp;
  readonly everyday?: boolean;
}

const VECTORS = /PCI-MSI.* virtio\d+-input\.0/;
const LINE = /IO-APIC.* virtio\d/;

const CASES: Readonly<Record<string, Case>> = {
  'virtio-net, packed': {
    ...{ words: ['--device', 'virtio-net'], packed: true, version1: true, interrupts: VECTORS },
    everyday: true,
  },
  'virtio-net, split': {
    ...{ words: ['--device', 'virtio-net', '--split'], packed: false, version1: true, interrupts: VECTORS },
  },
  'virtio-net, packed, four queue pairs': {
    ...{ words: ['--device', 'virtio-net', '--queues', '4'], cpus: 4 },
    ...{ packed: true, version1: true, interrupts: /virtio\d+-input\.3/ },
  },
  'virtio-net, packed, without offloads': {
    ...{ words: ['--device', 'virtio-net', '--offload', 'none'], packed: true, version1: true },
    interrupts: VECTORS,
  },
  'virtio-net, split, without MSI': {
    ...{ words: ['--device', 'virtio-net', '--split'], append: 'pci=nomsi' },
    ...{ packed: false, version1: true, interrupts: LINE },
  },
  'transitional, by the standard': {
    ...{ words: ['--device', 'virtio-net-transitional'], packed: true, version1: true, interrupts: VECTORS },
  },
  'transitional, by a driver from before the standard': {
    ...{ words: ['--device', 'virtio-net-transitional'], append: 'virtio_pci.force_legacy=1' },
    ...{ packed: false, version1: false, interrupts: VECTORS, everyday: true },
  },
  'transitional, by such a driver, without MSI': {
    ...{ words: ['--device', 'virtio-net-transitional'], append: 'virtio_pci.force_legacy=1 pci=nomsi' },
    ...{ packed: false, version1: false, interrupts: LINE },
  },
};

/** Virtio feature bits as sysfs shows them: one character each, bit 0 first. */
const VERSION_1 = 32;
const RING_PACKED = 34;

for (const [name, { words, append, cpus = 1, everyday = false, ...expected }] of Object.entries(CASES)) {
  if (!LONG && !everyday) continue;
  vmTest(
    name,
    QEMU,
    async t => {
      const served = await Served.start(...words);
      const { cable } = served;
      try {
        const options: VmOptions = { qemu: QEMU, cpus, nics: [served.nic], ...(append ? { append } : {}) };
        await using vm = await Vm.start(options);
        await configure(vm);
        t.diagnostic(await cable.ping(vm));
        t.diagnostic(shown(await cable.tcp(vm, BYTES, cpus)));
        assert.match(await vm.run('ip link show eth0'), new RegExp(MAC));
        const features = (await vm.run('cat /sys/class/net/eth0/device/features')).trim();
        assert.equal(features[RING_PACKED], expected.packed ? '1' : '0', features);
        assert.equal(features[VERSION_1], expected.version1 ? '1' : '0', features);
        assert.match(await vm.run('cat /proc/interrupts'), expected.interrupts);
        // Down and up, the driver gone and back, a reset of the machine: the same card.
        await vm.run('ip link set eth0 down; ip link set eth0 up');
        await cable.ping(vm, 2);
        await vm.run('rmmod virtio_net && load boot');
        await configure(vm);
        await cable.ping(vm, 2);
        await vm.reset();
        await configure(vm);
        await cable.ping(vm, 2);
      } catch (error) {
        t.diagnostic(served.program.output);
        throw error;
      } finally {
        await served.close();
      }
    },
    NEEDS,
  );
}

vmTest(
  'a card is plugged in, used, pulled out, and another put in its place',
  QEMU,
  async t => {
    const cards = [
      // QEMU 11.1 dies of pulling out a card that has MSI-X (docs/vm.md).
      await Served.start('--device', 'virtio-net', '--no-msix'),
      await Served.start('--device', 'virtio-net-transitional', '--queues', '2', '--no-msix'),
    ];
    try {
      await using vm = await Vm.start({ qemu: QEMU });
      for (const { nic, cable, socket } of cards) {
        await vm.monitor.execute(
          'device_add',
          vfioUserDevice(vm.qemu, { ...nic, bus: 'port0' }, 'card') as never,
        );
        await vm.run('until [ -d /sys/class/net/eth0 ]; do usleep 20000; done');
        await configure(vm);
        t.diagnostic(await cable.ping(vm));
        const gone = vm.monitor.event(
          ({ event, data }) => event === 'DEVICE_DELETED' && data.device === 'card',
        );
        await vm.monitor.execute('device_del', { id: 'card' });
        await gone;
        assert.equal(await vm.run('ls /sys/class/net | grep -c eth0 || true'), '0\n', socket);
      }
    } catch (error) {
      for (const { program } of cards) t.diagnostic(program.output);
      throw error;
    } finally {
      for (const card of cards) await card.close();
    }
  },
  NEEDS,
);

vmTest(
  'a card whose process dies takes nobody with it',
  QEMU,
  async t => {
    const served = await Served.start('--device', 'virtio-net');
    try {
      await using vm = await Vm.start({ qemu: QEMU, nics: [served.nic] });
      await configure(vm);
      await served.cable.ping(vm, 1);
      await served.program.end('SIGKILL');
      assert.equal(await vm.run('echo still here'), 'still here\n');
      const { status } = (await vm.monitor.execute('query-status')) as { status: string };
      assert.equal(status, 'running');
    } catch (error) {
      t.diagnostic(served.program.output);
      throw error;
    } finally {
      served.cable.close();
      rmSync(served.folder, { recursive: true });
    }
  },
  NEEDS,
);

vmTest(
  'bpfhv with our driver in the guest: three upgrades under pings and TCP',
  QEMU,
  async t => {
    const demo = new Program(['demo', '--vm', '--json']);
    const { code } = await demo.ended;
    assert.equal(code, 0, demo.output);
    const report = JSON.parse(demo.stdout) as VmReport;
    t.diagnostic(JSON.stringify(report));
    assert.deepEqual(report.failures, []);
    assert.equal(report.upgrades.length, 3);
    assert.ok(report.ping.sent > 0 && report.ping.sent === report.ping.received);
  },
  NEEDS,
);
