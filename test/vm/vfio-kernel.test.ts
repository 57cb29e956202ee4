/**
 * Our VFIO, inside a guest whose machine has an IOMMU, on devices of QEMU's own: one with a DMA engine, one with MSI-X, and NICs that belong to a driver.
 *
 * ```
 *   pcie.0 ─┬─ edu            registers, DMA
 *           ├─ port0 ─ e1000e MSI-X; pulled out while it is held
 *           ├─ port1 ─ virtio-net, of the guest's kernel
 *           └─ two functions of one slot, which the IOMMU can't tell apart: virtio-net, edu
 * ```
 */
import assert from 'node:assert/strict';
import { Vm } from '../../src/vm/vm.js';
import { vmTest } from './kit/needs.js';

const QEMU = '11.1';
const SCRIPTS = '/polynic/dist/test/vm/in-guest';
const HUGE_PAGES = 4;

const MACHINE = [
  ...['-machine', 'kernel-irqchip=split', '-device', 'intel-iommu,intremap=on,caching-mode=on'],
  ...['-device', 'edu,addr=0x10,dma_mask=0xffffffff', '-device', 'e1000e,bus=port0,id=nic,romfile='],
  ...['-device', 'virtio-net-pci,bus=port1,id=kernel-nic,romfile='],
  ...['-device', 'virtio-net-pci,addr=0x12.0,multifunction=on,romfile=', '-device', 'edu,addr=0x12.1'],
];

async function boot(append: string): Promise<Vm> {
  const vm = await Vm.start({ qemu: QEMU, image: 'node', args: MACHINE, append });
  await vm.run('load vfio');
  return vm;
}

/** What a script says, each line of it. */
async function said(vm: Vm, script: string, address: string): Promise<Record<string, unknown>> {
  return JSON.parse(await vm.run(`node ${SCRIPTS}/${script}.js ${address}`)) as Record<string, unknown>;
}

vmTest(
  'functions of a guest in our hands: registers, memory, interrupts, and back to their drivers',
  QEMU,
  async t => {
    await using vm = await boot('intel_iommu=on');

    await t.test('registers, and memory that a device reads and writes', async () => {
      for (const pages of [0, HUGE_PAGES]) {
        await vm.run(`echo ${pages} >/proc/sys/vm/nr_hugepages`);
        const { registers, notes, ...rest } = await said(vm, 'edu', '00:10.0');
        assert.deepEqual(registers, {
          ...{ id: 0x11e8_1234, register: 0x0100_00ed, inverted: 0xedcb_a987, factorial: 3_628_800 },
          ...{ words: '3412e81107011000', size: 0x10_0000, none: 0, vectors: 0 },
        });
        assert.deepEqual(rest, {
          ...{ pageSize: pages > 0 ? 0x20_0000 : 0x1000, copied: true, untouched: true },
          ...{
            outside: rest.outside,
            odd: rest.odd,
            late: 'PciError: PCI function 0000:00:10.0 is gone',
            left: [],
          },
        });
        const cant = "^PciError: the IOMMU can't map";
        assert.match(
          String(rest.outside),
          new RegExp(`${cant} 4194304 bytes as 0xfee00000: it has 0x0-0xfedfffff, 0xfef00000-`),
        );
        assert.match(
          String(rest.odd),
          new RegExp(`${cant} 2048 bytes as 0x40000000: its pages have 4096 bytes$`),
        );
        assert.match(String(notes), pages > 0 ? /^$/ : /^mmap guest memory: ENOMEM/);
      }
    });

    await t.test(
      'interrupts, and writes that the kernel makes of eventfds; then the device is pulled out',
      async () => {
        await vm.run(`node ${SCRIPTS}/e1000e.js 01:00.0 </dev/null >/tmp/e1000e 2>&1 & echo $! >/tmp/pid
      until grep -q vectors /tmp/e1000e; do kill -0 $(cat /tmp/pid) || { cat /tmp/e1000e; exit 1; }; usleep 20000; done`);
        const gone = vm.monitor.event(
          ({ event, data }) => event === 'DEVICE_DELETED' && data.device === 'nic',
        );
        await vm.monitor.execute('device_del', { id: 'nic' });
        await gone;
        const lines = (await vm.run('until grep -q left /tmp/e1000e; do usleep 20000; done; cat /tmp/e1000e'))
          .trim()
          .split('\n')
          .map(line => JSON.parse(line) as Record<string, unknown>);
        assert.equal(lines.length, 2);
        const [{ vectors, short, ...raised }, end] = lines as [
          Record<string, unknown>,
          Record<string, unknown>,
        ];
        assert.equal(vectors, 5);
        assert.match(String(short), /VFIO_DEVICE_SET_IRQS.*EINVAL/);
        const which = Object.entries(raised).map(([name, counts]) => [
          name,
          (counts as number[]).flatMap((count, vector) => (count > 0 ? [vector] : [])),
        ]);
        assert.deepEqual(which, [
          ['written', [1]],
          ['rung', [3]],
          ['again', [1]],
        ]);
        assert.deepEqual(end, {
          reason: 'PciError: the kernel takes PCI function 0000:01:00.0 back',
          late: 'PciError: PCI function 0000:01:00.0 is gone',
          left: [],
        });
        assert.equal(
          await vm.run('ls -d /sys/bus/pci/devices/0000:01:00.0 2>/dev/null || echo none'),
          'none\n',
        );
      },
    );

    await t.test('a NIC of the kernel is borrowed, by one at a time, and given back', async () => {
      const address = '0000:02:00.0';
      assert.match(await vm.run('ls /sys/class/net'), /eth0\neth1/);
      const { drivers, refused, again, left } = await said(vm, 'borrow', address);
      const ours = ['vfio-pci', 'vfio-pci'];
      assert.deepEqual(drivers, [['virtio-pci', null], ours, ours, ['virtio-pci', null]]);
      assert.equal(refused, '');
      assert.match(String(again), /^PciError: IOMMU group \d+ can't be had: another process has it$/);
      assert.deepEqual(left, []);
      await vm.run('until [ $(ls /sys/class/net | grep -c eth) = 2 ]; do usleep 20000; done');
    });

    await t.test('a function whose neighbour the kernel uses can’t be had', async () => {
      const { drivers, refused } = await said(vm, 'borrow', '0000:00:12.1');
      assert.match(
        String(refused),
        /IOMMU group \d+ can't be had: it also holds 0000:00:12\.0 \(virtio-pci\)$/,
      );
      assert.deepEqual(drivers, [
        [null, null],
        [null, null],
      ]);
    });

    await t.test('the driver’s command says what is wrong', async () => {
      const guest = (words: string) => vm.try(`node /polynic/bin/polynic.js guest --netdev sink ${words}`);
      const { code, stderr } = await guest('--pci 00:10.0');
      assert.deepEqual([code, stderr], [1, 'polynic: not a bpfhv device: it is 1234:11e8, not 1b36:000e\n']);
      const driver = await vm.run('readlink /sys/bus/pci/devices/0000:00:10.0/driver || echo none');
      assert.equal(driver, 'none\n', 'and leaves it');
      assert.equal((await guest('--pci 05:00.0')).stderr, 'polynic: there is no PCI function 0000:05:00.0\n');
    });
  },
);

vmTest('a guest without an IOMMU', QEMU, async () => {
  await using vm = await boot('intel_iommu=off');
  const { drivers, refused } = await said(vm, 'borrow', '0000:02:00.0');
  assert.match(
    String(refused),
    /^PciError: no IOMMU watches over PCI function 0000:02:00\.0: .*intel_iommu=on/,
  );
  assert.deepEqual(drivers, [
    ['virtio-pci', null],
    ['virtio-pci', null],
  ]);
});
