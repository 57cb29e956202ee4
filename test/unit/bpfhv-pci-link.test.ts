/** A guest's driver on the PCI device, in one process: frames both ways, and changes of contract in both orders of doing it. */
import assert from 'node:assert/strict';
import { IRQ } from '../../src/linux/vfio-numbers.js';
import { NicError } from '../../src/nic/control.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually } from '../compliance/testbed.js';
import { type Card, MAC, memoryOf, type PciGuest, pciTest } from './bpfhv-pci-rig.js';

const code = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof NicError, String(error));
  assert.equal(error.code, expected, error.message);
  return true;
};

/** Frames arrive that have not arrived yet. */
async function flows(guest: PciGuest, card: Card): Promise<void> {
  const sent = guest.packets('tx');
  const taken = card.flow.sequence;
  await eventually(() => guest.packets('tx') > sent + 1000 && card.flow.sequence > taken + 1000);
  assert.equal(card.flow.outOfOrder, 0, 'frames lost or out of order');
}

for (const type of ['sring', 'sring_gso', 'vring_packed']) {
  pciTest(`${type}: frames to the host`, async make => {
    const card = await make.card({ type, doorbellSize: 4096 });
    let mac: Uint8Array | null = null;
    const guest = await make.guest(card.device, { onMac: address => (mac = address) });
    await guest.driver.setInterfaceUp(true);
    await flows(guest, card);
    assert.deepEqual(mac, MAC);
    assert.deepEqual(guest.carrier, [false, true]);
    assert.match(await guest.driver.dump(), new RegExp(`device ${type}, features .*rx on, tx on`));
    await guest.driver.setInterfaceUp(false);
    await guest.driver.setInterfaceUp(true);
    await flows(guest, card);
    assert.deepEqual(guest.complaints, []);
  });

  pciTest(`${type}: frames to the guest`, async make => {
    const card = await make.card({ type, port: 'source' });
    const guest = await make.guest(card.device, { netdev: 'sink' });
    await guest.driver.setInterfaceUp(true);
    await eventually(() => guest.flow.sequence > 2000);
    assert.equal(guest.flow.outOfOrder, 0);
    assert.deepEqual(guest.complaints, []);
  });
}

pciTest('several queue pairs', async make => {
  const card = await make.card({ queuePairs: 4, nic: { workers: 2 } });
  const guest = await make.guest(card.device, { lanes: 4, workers: 2 });
  await guest.driver.setInterfaceUp(true);
  await eventually(() => guest.packets('tx') > 2000);
  assert.deepEqual(card.device.irqs[IRQ.MSIX], 9);
});

for (const previews of [true, false]) {
  const how = previews ? 'in two steps' : 'in the order of every driver';
  pciTest(`upgrades ${how}: other formats, other numbers of buffers, nothing lost`, async make => {
    const card = await make.card();
    const guest = await make.guest(card.device, { previews });
    await guest.driver.setInterfaceUp(true);
    await flows(guest, card);
    for (const [to, bufs] of [
      ['sring_gso', 256],
      ['vring_packed', 32],
      ['sring', 128],
    ] as const) {
      const report = await card.nic.upgrade({ device: deviceType(to)!, bufs });
      assert.equal(report.outcome, 'done');
      assert.equal(card.nic.device.name, to);
      assert.equal(card.nic.parameters?.numTxBufs, bufs);
      await flows(guest, card);
    }
    const { outcome, from, to } = await card.nic.upgrade({ bufs: 512 });
    assert.deepEqual({ outcome, from, to }, { outcome: 'done', from: 'sring', to: 'sring' });
    await flows(guest, card);
    await eventually(() => guest.driver.stats().probes === 5);
    assert.ok(guest.log.some(line => line.includes('512/512 buffers')));
    assert.equal(guest.driver.stats().seized, 0);
    assert.deepEqual(guest.complaints, []);
    if (previews) assert.deepEqual(guest.carrier, [false, true], 'the cable stays plugged in');
  });
}

pciTest('an upgrade of receiving guests', async make => {
  const card = await make.card({ port: 'source' });
  const guest = await make.guest(card.device, { netdev: 'sink' });
  await guest.driver.setInterfaceUp(true);
  for (const [to, bufs] of [
    ['sring_gso', 128],
    ['vring_packed', 16],
    ['sring', 64],
  ] as const) {
    const before = guest.packets('rx');
    await eventually(() => guest.packets('rx') > before + 500);
    assert.equal((await card.nic.upgrade({ device: deviceType(to)!, bufs })).outcome, 'done');
  }
  assert.deepEqual(guest.complaints, []);
});

pciTest('a guest that can not take the contract: declined, the old one goes on', async make => {
  const card = await make.card();
  const guest = await make.guest(card.device);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, card);
  // More buffers than the guest's memory holds.
  await assert.rejects(
    card.nic.upgrade({ device: deviceType('sring_gso')!, bufs: 4096 }),
    code('NIC_UPGRADE_DECLINED'),
  );
  await flows(guest, card);
  const programs = new URL('../../../test/data/verifier/README.md', import.meta.url);
  const broken = { ...deviceType('sring_gso')!, programs };
  await assert.rejects(card.nic.upgrade({ device: broken }), code('NIC_UPGRADE_DECLINED'));
  await flows(guest, card);
  assert.equal((await card.nic.upgrade({ device: deviceType('sring_gso')! })).outcome, 'done');
  await flows(guest, card);
});

pciTest('a contract that breaks as soon as it is used is taken back, its buffers too', async make => {
  const card = await make.card();
  const guest = await make.guest(card.device);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, card);
  // Programs of one ring format on contexts of another: the completions make no sense.
  const mixed = { ...deviceType('vring_packed')!, programs: deviceType('sring')!.programs };
  await card.nic.upgrade({ device: mixed, bufs: 128 });
  await eventually(() => card.nic.device.name === 'sring');
  await flows(guest, card);
  assert.equal(card.nic.parameters?.numRxBufs, 64);
});

pciTest('while nobody uses the card, an upgrade is done at once', async make => {
  const card = await make.card();
  const report = await card.nic.upgrade({ device: deviceType('vring_packed')!, bufs: 32 });
  assert.equal(report.outcome, 'waiting');
  const guest = await make.guest(card.device);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, card);
  assert.equal(card.nic.device.name, 'vring_packed');
  assert.equal(card.nic.parameters?.numRxBufs, 32);
  assert.equal(guest.driver.stats().probes, 1, 'it was not told of anything');
});

pciTest('an interface that is down: the upgrade is done when the guest is ready', async make => {
  for (const previews of [true, false]) {
    const card = await make.card();
    const guest = await make.guest(card.device, { previews });
    await eventually(() => guest.driver.stats().probes === 1);
    assert.equal((await card.nic.upgrade({ device: deviceType('sring_gso')!, bufs: 32 })).outcome, 'done');
    await guest.driver.setInterfaceUp(true);
    await flows(guest, card);
    assert.equal(guest.driver.stats().probes, 2);
  }
});

pciTest('memory is described anew while frames flow', async make => {
  const card = await make.card();
  const guest = await make.guest(card.device);
  await guest.driver.setInterfaceUp(true);
  for (const cut of [1, 2, 1, 4]) {
    await card.device.setMemory(memoryOf(guest.ram, cut)).catch(error => {
      // A context that lies in two pieces can't be had: then all stays as it was.
      assert.equal((error as { code: string }).code, 'MEMORY_ADDRESS');
    });
    await flows(guest, card);
  }
});

pciTest('the host goes in the middle of everything, another guest comes', async make => {
  const card = await make.card();
  for (let round = 0; round < 3; round++) {
    const guest = await make.guest(card.device);
    await guest.driver.setInterfaceUp(true);
    const taken = card.flow.sequence;
    await eventually(() => guest.packets('tx') > 1000 && card.flow.sequence > taken);
    const upgrade = card.nic.upgrade({ device: deviceType(round % 2 ? 'sring' : 'vring_packed')!, bufs: 32 });
    for (let turn = 0; turn < 3 * round; turn++) await new Promise(setImmediate);
    await card.device.disconnect();
    assert.ok(['waiting', 'done'].includes((await upgrade).outcome));
    assert.equal(card.nic.parameters?.numRxBufs, 32);
    await guest.driver.setInterfaceUp(false);
  }
});
