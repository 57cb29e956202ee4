/** Changes of contract under a running guest: numbered frames both ways, none may be lost, doubled or out of order. */
import assert from 'node:assert/strict';
import { NicError } from '../../src/nic/control.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually } from '../compliance/testbed.js';
import type { Backend, Guest } from './driver-rig.js';
import { guestTest } from './driver-rig.js';

const code = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof NicError, String(error));
  assert.equal(error.code, expected);
  return true;
};

/** Frames arrive that have not arrived yet. */
async function flows(guest: Guest, backend: Backend): Promise<void> {
  const sent = guest.packets('tx');
  const taken = backend.flow.sequence;
  await eventually(() => guest.packets('tx') > sent + 1000 && backend.flow.sequence > taken + 1000);
  assert.equal(backend.flow.outOfOrder, 0, 'frames lost or out of order');
}

const types = ['sring', 'sring_gso', 'vring_packed'] as const;

for (const from of types) {
  for (const to of types) {
    guestTest(`from ${from} to ${to} under traffic, nothing is lost`, async make => {
      const guest = await make.guest({ netdev: 'source' });
      const backend = await make.backend('sink', { device: from });
      guest.connect(backend.nic);
      await guest.driver.setInterfaceUp(true);
      await flows(guest, backend);
      const before = backend.nic.stats().queues[1]!.packets;
      const report = await backend.nic.upgrade({ device: deviceType(to)! });
      assert.deepEqual({ ...report, ms: 0 }, { outcome: 'done', from, to, ms: 0 });
      assert.equal(backend.nic.device.name, to);
      await flows(guest, backend);
      assert.ok(backend.nic.stats().queues[1]!.packets >= before, 'counters go on');
      assert.equal(guest.driver.stats().seized, 0);
      await eventually(() => guest.driver.stats().probes === 2);
      assert.deepEqual([...guest.lines('error'), ...guest.lines('warn')], []);
      assert.deepEqual(guest.carrier.slice(1), [true], 'the cable stays plugged in');
    });
  }
}

guestTest('a hundred upgrades in a row, both ways, lose nothing and leave nothing', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('source', { device: 'sring' });
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  for (let i = 1; i <= 100; i++) {
    const received = guest.packets('rx');
    await eventually(() => guest.packets('rx') > received);
    await backend.nic.upgrade({ device: deviceType(types[i % 3]!)! });
  }
  await eventually(() => guest.driver.stats().probes === 101);
  assert.deepEqual([...guest.lines('error'), ...guest.lines('warn')], []);
  await eventually(() => guest.driver.stats().blackouts.length > 90);
  assert.equal(guest.driver.stats().seized, 0);
  // What is on its way arrives, and nothing follows it.
  await guest.driver.setInterfaceUp(false);
  assert.deepEqual(backend.swallowed, { sequence: guest.flow.sequence, outOfOrder: 0 }, 'out');
  assert.deepEqual(guest.swallowed, { sequence: backend.flow.sequence, outOfOrder: 0 }, 'in');
  assert.ok(guest.swallowed.sequence > 100 && backend.swallowed.sequence > 100);
  for (const { stopped } of guest.driver.stats().blackouts) assert.ok(stopped > 0 && stopped < 1e6);
});

guestTest('other offloads, the same device', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink', { device: 'sring_gso' });
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  assert.equal(backend.nic.agreed, 0x1ffn);
  await backend.nic.upgrade({ features: 0x7n });
  assert.equal(backend.nic.agreed, 0x7n);
  await flows(guest, backend);
  await backend.nic.upgrade({ features: 0n });
  assert.equal(backend.nic.agreed, 0n);
  await flows(guest, backend);
});

guestTest('a second upgrade during the first is refused, and the first one is done', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  const first = backend.nic.upgrade({ device: deviceType('vring_packed')! });
  await assert.rejects(backend.nic.upgrade({ device: deviceType('sring_gso')! }), code('NIC_UPGRADE_BUSY'));
  assert.equal((await first).outcome, 'done');
  assert.equal(backend.nic.device.name, 'vring_packed');
  await flows(guest, backend);
});

guestTest('an upgrade with nobody there is what the next guest gets', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  const { outcome } = await backend.nic.upgrade({ device: deviceType('vring_packed')! });
  assert.equal(outcome, 'waiting');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  assert.equal(backend.nic.device.name, 'vring_packed');
});

guestTest('a guest whose interface is down follows too', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  await guest.driver.setInterfaceUp(false);
  const upgrade = backend.nic.upgrade({ device: deviceType('sring_gso')! });
  await eventually(() => guest.driver.stats().probes === 2);
  await guest.driver.setInterfaceUp(true);
  assert.equal((await upgrade).outcome, 'done');
  await flows(guest, backend);
});

guestTest('programs that the guest refuses: declined, the old contract goes on', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  const broken = {
    ...deviceType('sring_gso')!,
    programs: new URL('../../../test/data/verifier/README.md', import.meta.url),
  };
  await assert.rejects(backend.nic.upgrade({ device: broken }), code('NIC_UPGRADE_DECLINED'));
  await flows(guest, backend);
  assert.equal(backend.nic.device.name, 'sring');
  await backend.nic.upgrade({ device: deviceType('sring_gso')! });
  await flows(guest, backend);
});

guestTest('a contract that breaks as soon as it is used is taken back', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  // Programs of one ring format on contexts of another: the completions make no sense.
  const mixed = { ...deviceType('vring_packed')!, programs: deviceType('sring')!.programs };
  await backend.nic.upgrade({ device: mixed });
  await eventually(() => backend.nic.device.name === 'sring');
  await flows(guest, backend);
});

guestTest('the port changes under the guest, alone and with the contract', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  const other = await make.backend('sink');
  assert.equal((await backend.nic.upgrade({ port: other.port })).outcome, 'done');
  await eventually(() => other.flow.sequence > 1000);
  const still = backend.flow.sequence;
  await backend.nic.upgrade({ port: backend.port, device: deviceType('vring_packed')! });
  await eventually(() => backend.flow.sequence > still + 1000);
  assert.equal(other.flow.outOfOrder, 1, 'the first number it sees is not 0');
  await backend.nic.upgrade({ spin: true });
  assert.equal(backend.nic.spin, true);
  await backend.nic.upgrade({ spin: false });
});
