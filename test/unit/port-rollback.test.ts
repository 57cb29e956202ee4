/**
 * A port that a worker can't attach. Whatever else was to change, the former port goes on under the guest that runs, and nobody keeps the new one,
 * whose owner closes it.
 */
import assert from 'node:assert/strict';
import { EventFd } from '../../src/linux/eventfd.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { type NicRig, nicTest, RX, TX } from './nic-rig.js';
import { qemu11 } from './vhost-user-scripts.js';
import { virtioTest } from './virtio-rig.js';

/** sring under another name: the rig's rings and programs go on working after the swap. */
const other = { ...deviceType('sring')!, name: 'sring' };

/** A port of which one lane is of a kind that no worker knows. */
function broken(lanes: number, bad = lanes - 1): PortHandle {
  const port = openPort('sink', { window, arena }, lanes);
  return { ...port, lanes: port.lanes.map((lane, i) => (i === bad ? { ...lane, kind: 'nonsense' } : lane)) };
}

/** Its memory is somebody else's from now on, who would be disturbed. */
function closeAndReuse(port: PortHandle): () => void {
  const { length } = port.lanes;
  port.close();
  const next = openPort('sink', { window, arena }, length);
  const state = next.lanes.map(lane => lane.state);
  const bytes = () => state.map(at => Buffer.from(window.bytes.slice(at, at + 256)).toString('hex'));
  const before = bytes();
  return () => {
    assert.deepEqual(bytes(), before, 'a port that was closed is still in use');
    next.close();
  };
}

/** A running guest, and the eventfd by which it hears of upgrades. */
async function running(rig: NicRig): Promise<EventFd> {
  await rig.prepare();
  const upgrade = EventFd.create('upgrade, ours');
  rig.nic.setUpgrade(upgrade.owner.dup());
  await rig.enable();
  return upgrade;
}

/** Frames leave by the port and come in by it. */
async function flows(rig: NicRig, port: PortHandle): Promise<void> {
  const { sent } = port.counters();
  const n = rig.publish(16);
  assert.ok(n > 0);
  await eventually(() => port.counters().sent === sent + n);
  const { sequence } = rig.guest.received;
  await eventually(() => {
    rig.poll();
    return rig.guest.received.sequence > sequence + 100;
  });
  assert.equal(rig.guest.received.outOfOrder, 0);
}

async function stop(rig: NicRig): Promise<void> {
  await rig.disable();
  rig.reclaim();
}

async function setContexts(rig: NicRig): Promise<void> {
  for (const queue of [RX, TX]) await rig.nic.setQueueContext(queue, rig.context(queue));
}

for (const workers of [1, 2]) {
  nicTest(`under a running guest, ${workers} workers, of which the last one fails`, async start => {
    const port = openPort('source', { window, arena }, 2);
    const rig = await start({ port, workers });
    using upgrade = await running(rig);
    await flows(rig, port);
    for (let round = 0; round < 3; round++) {
      const bad = broken(2);
      await assert.rejects(rig.nic.upgrade({ port: bad, spin: true }), { code: 'THREAD_FAILED' });
      const check = closeAndReuse(bad);
      assert.deepEqual([rig.nic.port, rig.nic.spin, rig.nic.running], [port, false, true]);
      await flows(rig, port);
      check();
    }
    assert.equal(upgrade.drain(), 0, 'the guest heard of nothing');
    const good = openPort('source', { window, arena }, 2);
    assert.equal((await rig.nic.upgrade({ port: good, spin: true })).outcome, 'done');
    assert.deepEqual([rig.nic.port, rig.nic.spin], [good, true]);
    const { sent } = good.counters();
    const n = rig.publish(16);
    await eventually(() => good.counters().sent === sent + n);
    await rig.close();
    for (const handle of [port, good]) handle.close();
  });
}

nicTest('with another contract: the guest has changed to it, and is asked to come back', async start => {
  const rig = await start({ portSpec: 'source' });
  const { nic } = rig;
  const former = nic.device;
  using upgrade = await running(rig);
  const bad = broken(1);
  const done = nic.upgrade({ device: other, port: bad }).then(
    () => assert.fail('it can not be done'),
    (error: Error & { code: string }) => error.code,
  );
  assert.equal(upgrade.drain(), 1);
  nic.programs();
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  assert.equal(await done, 'THREAD_FAILED');
  const check = closeAndReuse(bad);
  assert.equal(nic.port, rig.port);
  assert.equal(nic.device, other, 'which the guest has begun with');
  await eventually(() => upgrade.drain() === 1);
  await assert.rejects(nic.upgrade({ spin: true }), { code: 'NIC_UPGRADE_BUSY' });
  const before = rig.packets(TX);
  assert.equal(rig.publish(16), 16);
  await eventually(() => rig.packets(TX) === before + 16);
  nic.programs();
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  assert.equal(nic.device, former);
  assert.equal(rig.publish(16), 16);
  await eventually(() => rig.packets(TX) === before + 32);
  assert.equal((await nic.upgrade({ spin: false })).outcome, 'done');
  check();
});

nicTest('with another contract, and the guest leaves before it has come back', async start => {
  const rig = await start({ portSpec: 'source' });
  const { nic } = rig;
  const former = nic.device;
  using _upgrade = await running(rig);
  const bad = broken(1);
  const done = assert.rejects(nic.upgrade({ device: other, port: bad }), { code: 'THREAD_FAILED' });
  nic.programs();
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  await nic.disconnect();
  await done;
  await eventually(() => nic.device === former);
  bad.close();
  await running(rig).then(eventfd => eventfd.close());
  await flows(rig, rig.port);
});

nicTest('for the next guest: it finds what the last one had', async start => {
  const rig = await start({ portSpec: 'source' });
  const { nic } = rig;
  const former = nic.device;
  // The guest that is there leaves without having looked.
  using _upgrade = await running(rig);
  const bad = broken(1);
  const left = assert.rejects(nic.upgrade({ device: other, port: bad }), { code: 'THREAD_FAILED' });
  await nic.disconnect();
  await left;
  assert.deepEqual([nic.device, nic.port], [former, rig.port]);
  // Nobody is there.
  await assert.rejects(nic.upgrade({ device: other, port: bad }), { code: 'THREAD_FAILED' });
  assert.deepEqual([nic.device, nic.port], [former, rig.port]);
  bad.close();
  await running(rig).then(eventfd => eventfd.close());
  await flows(rig, rig.port);
});

virtioTest('under a running virtio guest', async start => {
  const rig = await start({ portSpec: 'source', accept: F.VERSION_1 });
  const { connect, reset, start: run } = qemu11(rig.place);
  await rig.say(connect, reset, run);
  for (let round = 0; round < 3; round++) {
    const bad = broken(1);
    await assert.rejects(rig.nic.change({ port: bad, spin: true }), { code: 'THREAD_FAILED' });
    const check = closeAndReuse(bad);
    assert.deepEqual([rig.nic.port, rig.nic.spin, rig.nic.running], [rig.port, false, true]);
    const [sent, received] = [rig.packets(1), rig.packets(0)];
    const n = rig.publish(20);
    await eventually(() => rig.packets(1) === sent + n);
    rig.refill();
    await eventually(() => rig.poll() > 0 && rig.packets(0) > received);
    check();
  }
});
