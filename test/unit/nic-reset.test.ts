/** What a device of this process asks of a NIC beyond what a backend is asked: to begin anew, and to take an upgrade before it starts. */
import assert from 'node:assert/strict';
import { EventFd } from '../../src/linux/eventfd.js';
import { NicError } from '../../src/nic/control.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually } from '../compliance/testbed.js';
import { type NicRig, nicTest, RX, TX } from './nic-rig.js';

const packed = deviceType('vring_packed')!;

const code = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof NicError, String(error));
  assert.equal(error.code, expected, error.message);
  return true;
};

async function setContexts(rig: NicRig): Promise<void> {
  for (const queue of [RX, TX]) await rig.nic.setQueueContext(queue, rig.context(queue));
}

async function flows(rig: NicRig): Promise<void> {
  const before = rig.sink.sequence;
  const n = rig.publish(16);
  await eventually(() => rig.sink.sequence === before + n);
}

nicTest('a reset forgets contexts and features, and keeps memory, eventfds and queues', async start => {
  const rig = await start({ device: deviceType('sring_gso')! });
  const { nic } = rig;
  await rig.prepare();
  nic.setFeatures(0x7n);
  await rig.enable();
  await flows(rig);
  const { parameters } = nic;
  await nic.reset();
  assert.deepEqual([nic.running, nic.agreed, nic.parameters], [false, 0n, parameters]);
  await assert.rejects(nic.enable('tx'), code('NIC_INCOMPLETE'));
  rig.reclaim();
  await setContexts(rig);
  await rig.enable();
  await flows(rig);
  await nic.reset();
  await nic.reset();
});

nicTest('a reset of a guest that an upgrade was announced to: it finds the new contract', async start => {
  const rig = await start();
  const { nic } = rig;
  await rig.prepare();
  await rig.enable();
  const upgrade = nic.upgrade({ device: packed, bufs: 32 });
  assert.equal(nic.features(), packed.features);
  await nic.reset();
  assert.equal((await upgrade).outcome, 'waiting');
  assert.equal(nic.device, packed);
  assert.equal(nic.parameters?.numRxBufs, 32);
});

nicTest('an upgrade is taken before the start: contexts first, or nothing at all', async start => {
  const rig = await start();
  const { nic } = rig;
  await rig.prepare();
  await nic.take();
  assert.equal(nic.device.name, 'sring', 'nothing was announced');
  const unread = nic.upgrade({ device: packed });
  await nic.take();
  assert.equal(nic.device.name, 'sring', 'its programs were not read');
  nic.programs();
  await setContexts(rig);
  await nic.take();
  assert.deepEqual([(await unread).outcome, nic.device, nic.announced], ['done', packed, null]);
  await rig.enable();
  const running = nic.upgrade({ device: deviceType('sring')! });
  nic.programs();
  await nic.take();
  assert.equal(nic.device, packed, 'it runs');
  await rig.disable();
  await nic.take();
  assert.deepEqual([(await running).outcome, nic.device.name], ['waiting', 'sring']);
});

nicTest('a direction with all that is its own, while the other has nothing yet', async start => {
  const rig = await start();
  const { nic } = rig;
  await rig.prepare();
  await nic.setQueueContext(RX, 0n);
  await assert.rejects(nic.enable('tx'), code('NIC_INCOMPLETE'));
  await assert.rejects(nic.enable('rx', 'own'), code('NIC_INCOMPLETE'));
  await nic.enable('tx', 'own');
  await flows(rig);
  await nic.setMemoryTable(rig.regions(3));
  await flows(rig);
  await nic.setQueueIrq(RX, EventFd.create('irq').owner);
  await nic.disable('tx');
});
