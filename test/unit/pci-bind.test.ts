/** Who has a PCI function: addresses, groups, and drivers that change, on a folder that looks like sysfs. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { KernelPci } from '../../src/guest/pci/kernel-pci.js';
import { bindPciDriver, groupMembers, parsePciAddress, readPciNode } from '../../src/linux/pci-bind.js';
import { leakTest } from '../../src/linux/testing.js';
import { type FakeFunction, FakeSysfs } from './fake-sysfs.js';

const NIC = '0000:01:00.0';
const DRIVERS = ['vfio-pci', 'e1000e', 'ahci'];

function sysfs(t: TestContext, ...functions: FakeFunction[]): FakeSysfs {
  return new FakeSysfs(t, functions, DRIVERS);
}

test('addresses, long and short, and what is none', () => {
  for (const [text, address] of [
    ['0000:01:00.0', '0000:01:00.0'],
    ['01:00.0', '0000:01:00.0'],
    ['10ab:FE:1f.7', '10ab:fe:1f.7'],
    ['1:00.0', null],
    ['01:20.0', null],
    ['01:00.8', null],
    ['01:00', null],
    ['0000:01:00.0/..', null],
    ['', null],
  ] as const) {
    assert.equal(parsePciAddress(text), address, text);
  }
});

test('a function as sysfs shows it, and its group', t => {
  const fake = sysfs(
    t,
    { address: NIC, id: 0x8086_10d3, driver: 'e1000e', group: 7 },
    { address: '0000:01:00.1', group: 7 },
    { address: '0000:02:00.0' },
  );
  const nic = {
    ...{ address: NIC, vendor: 0x8086, device: 0x10d3 },
    ...{ driver: 'e1000e', override: null, group: 7 },
  };
  assert.deepEqual(readPciNode(fake, NIC), nic);
  assert.equal(readPciNode(fake, '0000:02:00.0')!.group, null);
  assert.equal(readPciNode(fake, '0000:03:00.0'), null);
  assert.deepEqual(
    groupMembers(fake, 7).map(({ address }) => address),
    [NIC, '0000:01:00.1'],
  );
  assert.deepEqual(groupMembers(fake, 8), []);
});

test('a function goes to another driver and back', t => {
  const fake = sysfs(t, { address: NIC, driver: 'e1000e', group: 7 });
  const binding = bindPciDriver(fake, readPciNode(fake, NIC)!, 'vfio-pci');
  assert.equal(fake.driver(NIC), 'vfio-pci');
  const at = `devices/${NIC}`;
  const there = [`${at}/driver_override=vfio-pci`, `${at}/driver/unbind=${NIC}`, `drivers_probe=${NIC}`];
  assert.deepEqual(fake.written.splice(0), there);
  binding.undo();
  assert.deepEqual(fake.written, [
    `${at}/driver/unbind=${NIC}`,
    `${at}/driver_override=`,
    `drivers_probe=${NIC}`,
  ]);
  assert.deepEqual(readPciNode(fake, NIC), { ...readPciNode(fake, NIC), driver: 'e1000e', override: null });
});

test('a function that nobody had is nobody’s afterwards; one that is there already stays', t => {
  const fake = sysfs(t, { address: NIC, group: 7 });
  const binding = bindPciDriver(fake, readPciNode(fake, NIC)!, 'vfio-pci');
  const before = fake.written.length;
  bindPciDriver(fake, readPciNode(fake, NIC)!, 'vfio-pci').undo();
  assert.equal(fake.written.length, before);
  assert.equal(fake.driver(NIC), 'vfio-pci');
  binding.undo();
  assert.equal(fake.driver(NIC), null);
});

test('what its owner had chosen is chosen again', t => {
  const fake = sysfs(t, { address: NIC, driver: 'e1000e', group: 7 });
  fake.write(`bus/pci/devices/${NIC}/driver_override`, 'e1000e\n');
  bindPciDriver(fake, readPciNode(fake, NIC)!, 'vfio-pci').undo();
  assert.deepEqual([fake.driver(NIC), readPciNode(fake, NIC)!.override], ['e1000e', 'e1000e']);
});

test('a driver that does not take it, one that is not there: all is as before', t => {
  const fake = sysfs(t, { address: NIC, driver: 'e1000e', group: 7 });
  fake.unwilling.add('vfio-pci');
  const node = readPciNode(fake, NIC)!;
  assert.throws(() => bindPciDriver(fake, node, 'vfio-pci'), { code: 'ENODEV' });
  assert.deepEqual(readPciNode(fake, NIC), node);
  assert.throws(() => bindPciDriver(fake, node, 'nobody'), { code: 'ENODEV' });
  assert.deepEqual(readPciNode(fake, NIC), node);
});

test('what somebody else takes away is not touched; what is unplugged neither', t => {
  const fake = sysfs(t, { address: NIC, driver: 'e1000e', group: 7 });
  const binding = bindPciDriver(fake, readPciNode(fake, NIC)!, 'vfio-pci');
  binding.forget();
  assert.deepEqual([fake.driver(NIC), readPciNode(fake, NIC)!.override], ['vfio-pci', null]);
  fake.unplug(NIC);
  binding.forget();
});

leakTest('a function that can’t be had says why, and stays with its driver', async t => {
  const there: FakeFunction = { address: NIC, driver: 'e1000e', group: 7 };
  const neighbour: FakeFunction = { address: '0000:01:00.1', driver: 'ahci', group: 7 };
  const vfio = '/nonexistent';
  const cases = [
    [[there], 'here', 'PCI_ADDRESS', /"here" is no PCI address/, DRIVERS],
    [[there], '02:00.0', 'PCI_ADDRESS', /no PCI function 0000:02:00\.0/, DRIVERS],
    [[{ address: NIC, driver: 'e1000e' }], NIC, 'PCI_IOMMU', /intel_iommu=on/, DRIVERS],
    [[there, neighbour], NIC, 'PCI_IOMMU', /modprobe vfio-pci/, ['e1000e', 'ahci']],
    [
      [there, neighbour],
      NIC,
      'PCI_IOMMU',
      /open \/nonexistent\/vfio: ENOENT.*modprobe vfio_iommu_type1/,
      DRIVERS,
    ],
  ] as const;
  for (const [functions, address, code, message, drivers] of cases) {
    const fake = new FakeSysfs(t, functions, drivers);
    await assert.rejects(KernelPci.open(address, { sysfs: fake, vfio }), { name: 'PciError', code, message });
    assert.equal(fake.driver(NIC), 'e1000e', String(message));
    assert.equal(readPciNode(fake, NIC)!.override, null, String(message));
  }
});
