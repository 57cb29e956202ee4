/** An upgrade as the NIC sees it, request by request: guests of every habit. The table is in docs/bpfhv.md, "Upgrade". */
import assert from 'node:assert/strict';
import { EventFd } from '../../src/linux/eventfd.js';
import { NicError } from '../../src/nic/control.js';
import type { UpgradeReport, UpgradeWish } from '../../src/nic/upgrade.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually } from '../compliance/testbed.js';
import { type NicRig, nicTest, RX, TX } from './nic-rig.js';

const sring = deviceType('sring')!;
const gso = deviceType('sring_gso')!;
/** sring under another name: the rig's rings and programs go on working after the swap. */
const other = { ...sring };

const code = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof NicError, String(error));
  assert.equal(error.code, expected, error.message);
  return true;
};

/** A running guest, and the eventfd by which it hears of upgrades. */
async function running(rig: NicRig): Promise<EventFd> {
  await rig.prepare();
  const upgrade = EventFd.create('upgrade, ours');
  rig.nic.setUpgrade(upgrade.owner.dup());
  await rig.enable();
  return upgrade;
}

/** What an upgrade comes to, which nobody waits for yet. */
function begin(rig: NicRig, wish: UpgradeWish): Promise<UpgradeReport | NicError> {
  return rig.nic.upgrade(wish).catch((error: NicError) => error);
}

async function flows(rig: NicRig): Promise<void> {
  const before = rig.sink.sequence;
  const n = rig.publish(16);
  assert.ok(n > 0);
  await eventually(() => rig.sink.sequence === before + n);
  assert.equal(rig.sink.outOfOrder, 0);
}

async function stop(rig: NicRig): Promise<void> {
  await rig.disable();
  rig.reclaim();
}

async function setContexts(rig: NicRig): Promise<void> {
  for (const queue of [RX, TX]) await rig.nic.setQueueContext(queue, rig.context(queue));
}

nicTest('a guest that prepares while the old contract runs', async start => {
  const rig = await start();
  using upgrade = await running(rig);
  await flows(rig);
  const { nic } = rig;
  const done = begin(rig, { device: gso });
  assert.equal(upgrade.drain(), 1, 'told once');
  // Until the programs are read, what is not asked is refused as ever.
  assert.throws(() => nic.setFeatures(0n), code('NIC_RUNNING'));
  await assert.rejects(nic.setQueueContext(RX, rig.context(RX)), code('NIC_RUNNING'));
  assert.equal(nic.features(), gso.features);
  assert.deepEqual(rig.parameters(), {
    rxContextSize: 2096 + 512 + 32 * 64,
    txContextSize: 2096 + 512 + 32 * 64,
  });
  assert.throws(() => nic.setFeatures(0n), code('NIC_RUNNING'));
  await flows(rig);
  nic.programs();
  nic.setFeatures(0x7n);
  assert.equal(nic.agreed, 0n, 'not in force yet');
  await assert.rejects(nic.setQueueKick(RX, rig.kicks[RX]!.owner.dup()), code('NIC_RUNNING'));
  await flows(rig);
  await rig.disable();
  await setContexts(rig);
  assert.equal(nic.device.name, 'sring');
  await rig.enable();
  assert.equal(nic.device.name, 'sring_gso');
  assert.equal(nic.agreed, 0x7n);
  assert.equal(((await done) as UpgradeReport).outcome, 'done');
});

nicTest('a guest that stops first, and then does all that it does at a connection', async start => {
  const rig = await start();
  using upgrade = await running(rig);
  await flows(rig);
  const done = begin(rig, { device: other });
  assert.equal(upgrade.drain(), 1);
  await stop(rig);
  await rig.nic.setMemoryTable(rig.regions());
  rig.nic.features();
  for (const step of rig.steps.slice(1, 3)) await step();
  rig.nic.programs();
  for (const step of rig.steps.slice(3)) await step();
  await rig.enable();
  assert.equal(((await done) as UpgradeReport).outcome, 'done');
  await flows(rig);
});

nicTest('a guest that stops, asks for the programs only, and starts anew', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  const done = begin(rig, { device: other });
  await stop(rig);
  rig.nic.programs();
  await setContexts(rig);
  await rig.enable();
  assert.equal(((await done) as UpgradeReport).outcome, 'done');
  await flows(rig);
});

nicTest('a guest that stops and starts without looking keeps the old contract', async start => {
  const rig = await start();
  using upgrade = await running(rig);
  const done = begin(rig, { device: gso, timeoutMs: 200 });
  assert.equal(upgrade.drain(), 1);
  await stop(rig);
  await rig.nic.setQueueIrq(TX, rig.irqs[TX]!.owner.dup());
  await rig.enable();
  await flows(rig);
  await stop(rig);
  rig.nic.setFeatures(0n);
  await setContexts(rig);
  await rig.enable();
  await flows(rig);
  assert.ok(code('NIC_UPGRADE_TIMEOUT')(await done));
  assert.equal(rig.nic.device.name, 'sring');
  assert.equal(upgrade.drain(), 0, 'nothing to take back from who did not look');
  await flows(rig);
});

nicTest('who never looks can be hung up on, and finds the new contract later', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  let hungUp = false;
  const done = begin(rig, {
    device: gso,
    timeoutMs: 50,
    hangUp: () => {
      hungUp = true;
    },
  });
  await eventually(() => hungUp);
  await rig.disable();
  await rig.nic.disconnect();
  assert.equal(((await done) as UpgradeReport).outcome, 'waiting');
  assert.equal(rig.nic.features(), gso.features);
});

nicTest(
  'programs read, but the interface goes down and up: the old contract, and then the new one',
  async start => {
    const rig = await start();
    using _upgrade = await running(rig);
    const done = begin(rig, { device: other });
    rig.nic.programs();
    await stop(rig);
    await rig.enable();
    await flows(rig);
    await stop(rig);
    await setContexts(rig);
    await rig.enable();
    assert.equal(((await done) as UpgradeReport).outcome, 'done');
    await flows(rig);
  },
);

nicTest('half a new contract can not be enabled; the whole can', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  const done = begin(rig, { device: other });
  rig.nic.programs();
  await stop(rig);
  await rig.nic.setQueueContext(RX, rig.context(RX));
  await assert.rejects(rig.nic.enable('rx'), code('NIC_INCOMPLETE'));
  await rig.nic.setQueueContext(TX, rig.context(TX));
  await rig.enable();
  assert.equal(((await done) as UpgradeReport).outcome, 'done');
  await flows(rig);
});

nicTest(
  'sizes asked for, but not the programs: no context that is too small for the old ones',
  async start => {
    const rig = await start({ device: gso });
    using _upgrade = await running(rig);
    const done = begin(rig, { device: sring, timeoutMs: 100 });
    await rig.disable();
    rig.parameters();
    await assert.rejects(rig.nic.setQueueContext(RX, rig.context(RX)), code('NIC_CONTEXT'));
    assert.ok(code('NIC_UPGRADE_TIMEOUT')(await done));
  },
);

nicTest('declined: the old contract goes on; and who has read is shown it again', async start => {
  const rig = await start();
  using upgrade = await running(rig);
  const declined = begin(rig, { device: gso });
  rig.nic.programs();
  rig.nic.setUpgrade(upgrade.owner.dup());
  assert.ok(code('NIC_UPGRADE_DECLINED')(await declined));
  await flows(rig);
  assert.equal(rig.nic.features(), 0n);

  upgrade.drain();
  const late = begin(rig, { device: gso, timeoutMs: 50 });
  rig.nic.programs();
  assert.ok(code('NIC_UPGRADE_TIMEOUT')(await late));
  assert.equal(upgrade.drain(), 2, 'told of the new one, and of the old one again');
  assert.equal(rig.nic.features(), 0n);
  await flows(rig);
});

nicTest('regretted: the former contract is announced', async start => {
  const rig = await start();
  using upgrade = await running(rig);
  const done = begin(rig, { device: other, features: 0n });
  rig.nic.programs();
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  await done;
  upgrade.drain();
  rig.nic.setUpgrade(upgrade.owner.dup());
  assert.equal(upgrade.drain(), 1);
  rig.nic.programs();
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  await flows(rig);
});

nicTest('the memory table changes while a new contract is half prepared', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  const done = begin(rig, { device: other });
  rig.nic.programs();
  await stop(rig);
  await rig.nic.setQueueContext(RX, rig.context(RX));
  await rig.nic.setMemoryTable(rig.regions(2));
  await rig.nic.setQueueContext(TX, rig.context(TX));
  await rig.enable();
  assert.equal(((await done) as UpgradeReport).outcome, 'done');
  await flows(rig);
  await rig.nic.setMemoryTable(rig.regions(3));
  await flows(rig);
});

nicTest('the guest leaves, or the NIC is closed, at every step', async start => {
  for (let steps = 0; steps <= 5; steps++) {
    const rig = await start();
    using _upgrade = await running(rig);
    const done = begin(rig, { device: gso });
    const todo = [
      () => rig.nic.features(),
      () => rig.parameters(),
      () => rig.nic.programs(),
      () => rig.disable(),
      () => rig.nic.setMemoryTable(rig.regions(2)),
    ];
    for (const step of todo.slice(0, steps)) await step();
    if (steps % 2 === 0) await rig.nic.disconnect();
    else await rig.close();
    assert.equal(((await done) as UpgradeReport).outcome, 'waiting');
    assert.equal(rig.nic.device.name, 'sring_gso');
  }
});

nicTest('a second wish waits for nobody', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  const first = begin(rig, { device: gso, timeoutMs: 100 });
  await assert.rejects(rig.nic.upgrade({ device: sring }), code('NIC_UPGRADE_BUSY'));
  await assert.rejects(rig.nic.upgrade({ spin: true }), code('NIC_UPGRADE_BUSY'));
  assert.ok(code('NIC_UPGRADE_TIMEOUT')(await first));
  assert.equal((await rig.nic.upgrade({ spin: true })).outcome, 'done');
  await flows(rig);
});
