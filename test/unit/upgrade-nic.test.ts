/** An upgrade as the NIC sees it, request by request: guests of every habit. The table is in docs/bpfhv.md, "Upgrade". */
import assert from 'node:assert/strict';
import { copyFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as L from '../../datapath/layout.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { NicError } from '../../src/nic/control.js';
import type { UpgradeReport, UpgradeWish } from '../../src/nic/upgrade.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, eventually, window } from '../compliance/testbed.js';
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
  const todo: ((rig: NicRig) => unknown)[] = [
    rig => rig.nic.features(),
    rig => rig.parameters(),
    rig => rig.nic.programs(),
    rig => rig.nic.setFeatures(0n),
    rig => rig.nic.disable('rx'),
    rig => rig.nic.disable('tx'),
    rig => rig.nic.setMemoryTable(rig.regions(2)),
    rig => rig.nic.setQueueContext(RX, rig.context(RX)),
    rig => rig.nic.setQueueContext(TX, rig.context(TX)),
    rig => rig.nic.enable('rx'), // the swap
    rig => rig.nic.enable('tx'),
  ];
  for (const end of ['disconnect', 'close'] as const) {
    for (let steps = 0; steps <= todo.length; steps++) {
      const rig = await start();
      using _upgrade = await running(rig);
      const done = begin(rig, { device: gso });
      for (const step of todo.slice(0, steps)) await step(rig);
      if (end === 'disconnect') await rig.nic.disconnect();
      await rig.close();
      const { outcome } = (await done) as UpgradeReport;
      assert.equal(outcome, steps < todo.length - 1 ? 'waiting' : 'done', `${end} after ${steps} steps`);
      assert.equal(rig.nic.device.name, 'sring_gso');
    }
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

/** A sink; handing it over takes so long that timers are due, and whoever else waits, when the first wait comes. */
function slowPort(ms: number): PortHandle {
  const setOffloads = () => {
    for (const end = performance.now() + ms; performance.now() < end; );
  };
  return { ...openPort('sink', { window, arena }), setOffloads };
}

nicTest('the time is up while the port changes, between the stop and the start', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  const port = slowPort(100);
  const done = begin(rig, { device: other, port, timeoutMs: 50 });
  rig.nic.programs();
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  assert.equal(((await done) as UpgradeReport).outcome, 'done');
  assert.equal(rig.nic.device, other);
  const n = rig.publish(16);
  await eventually(() => port.counters().sent === n);
  await rig.close();
  port.close();
});

nicTest('the time is up while the port changes for the next guest', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  const port = slowPort(100);
  const done = begin(rig, { device: gso, port, timeoutMs: 50 });
  rig.nic.programs();
  await rig.nic.disconnect();
  assert.equal(((await done) as UpgradeReport).outcome, 'waiting');
  await rig.close();
  port.close();
});

nicTest('the guest stops, and starts, while the port changes', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  for (const port of [slowPort(0), rig.port]) {
    const change = rig.nic.upgrade({ port });
    await Promise.all([rig.disable(), change]);
    const before = rig.packets(TX);
    rig.publish(16);
    await rig.nic.upgrade({ spin: true });
    await rig.nic.upgrade({ spin: false });
    assert.equal(rig.packets(TX), before, 'a queue that was stopped stands still');
    const another = rig.nic.upgrade({ port: rig.port });
    await Promise.all([rig.enable(), another]);
    await eventually(() => rig.packets(TX) === before + 16);
    if (port !== rig.port) port.close();
  }
});

nicTest('what a wish does not name stays as the wish before it has made it', async start => {
  const rig = await start({ device: gso });
  using _upgrade = await running(rig);
  await rig.nic.disconnect();
  await rig.nic.upgrade({ features: 0x7n });
  await rig.nic.upgrade({ device: sring });
  await rig.nic.upgrade({ device: gso });
  assert.equal(rig.nic.features(), 0x7n);
});

nicTest('regretted while the next contract is announced: the one before both', async start => {
  const rig = await start();
  using upgrade = await running(rig);
  const first = begin(rig, { device: other });
  rig.nic.programs();
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  await first;
  const second = begin(rig, { device: gso });
  rig.nic.setUpgrade(upgrade.owner.dup());
  assert.ok(code('NIC_UPGRADE_DECLINED')(await second));
  assert.equal(rig.nic.features(), sring.features);
});

nicTest('taken back from a guest that has begun with it: the old contexts count no more', async start => {
  const rig = await start();
  using upgrade = await running(rig);
  const done = begin(rig, { device: gso, timeoutMs: 50 });
  rig.nic.programs();
  await setContexts(rig);
  assert.ok(code('NIC_UPGRADE_TIMEOUT')(await done));
  // It has not heard of that yet.
  await stop(rig);
  await assert.rejects(rig.nic.enable('rx'), code('NIC_INCOMPLETE'));
  assert.equal(upgrade.drain(), 2);
  rig.nic.programs();
  await setContexts(rig);
  await rig.enable();
  await flows(rig);
  assert.equal(rig.nic.device, sring);
});

nicTest('another number of queues is no part of an upgrade', async start => {
  const rig = await start();
  using _upgrade = await running(rig);
  const done = begin(rig, { device: other, timeoutMs: 100 });
  rig.nic.programs();
  assert.throws(() => rig.parameters(2), code('NIC_PARAMETERS'));
  await stop(rig);
  await rig.enable();
  await flows(rig);
  assert.ok(code('NIC_UPGRADE_TIMEOUT')(await done));
});

/** The guest asks for what is announced, with as many buffers as the NIC says. */
const readAnnounced = (rig: NicRig) => {
  const sizes = rig.nic.setParameters(rig.nic.announced!);
  rig.nic.programs();
  return sizes;
};

nicTest('other numbers of buffers and nothing else, and back when the guest regrets it', async start => {
  const rig = await start();
  using upgrade = await running(rig);
  const done = begin(rig, { bufs: 32 });
  assert.deepEqual([rig.nic.parameters?.numRxBufs, rig.nic.announced?.numTxBufs], [64, 32]);
  assert.equal(readAnnounced(rig).rxContextSize, 2096 + 512 + 24 * 32);
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  assert.equal(((await done) as UpgradeReport).outcome, 'done');
  assert.deepEqual([rig.nic.parameters?.numRxBufs, rig.nic.announced], [32, null]);
  await flows(rig);
  rig.nic.setUpgrade(upgrade.owner.dup());
  assert.equal(rig.nic.announced?.numRxBufs, 64, 'the former contract with its buffers');
  readAnnounced(rig);
  await stop(rig);
  await setContexts(rig);
  await rig.enable();
  assert.equal(rig.nic.parameters?.numRxBufs, 64);
  await flows(rig);
});

nicTest('buffers that can not be, or for nobody, are refused at once', async start => {
  const rig = await start({ limits: { bufs: 128 } });
  await assert.rejects(rig.nic.upgrade({ bufs: 32 }), code('NIC_PARAMETERS'));
  using upgrade = await running(rig);
  for (const bufs of [0, 8, 48, 256]) await assert.rejects(rig.nic.upgrade({ bufs }), code('NIC_PARAMETERS'));
  assert.equal(upgrade.drain(), 0);
  await flows(rig);
});

nicTest('the old contract can not be shown again: it goes on all the same', async start => {
  const file = join(tmpdir(), `polynic-upgrade-${process.pid}.o`);
  copyFileSync(sring.programs, file);
  const rig = await start({ device: { ...sring, programs: pathToFileURL(file) } });
  rmSync(file);
  using _upgrade = await running(rig);
  const done = begin(rig, { device: gso, timeoutMs: 50 });
  rig.nic.programs();
  assert.ok(code('NIC_UPGRADE_TIMEOUT')(await done));
  await flows(rig);
  assert.match(rig.log.at(-1)!, /^error: .*can't be announced: ENOENT/);
});

nicTest(
  'the port is told of other offloads before the stop and after the start, not between',
  async start => {
    const told: [number, string][] = [];
    const sink = openPort('sink', { window, arena });
    const setOffloads = (offloads: number) => told.push([offloads, stage]);
    let stage = 'before';
    const rig = await start({ device: gso, port: { ...sink, setOffloads } });
    using _upgrade = await running(rig);
    for (const [features, before, after] of [
      [0x1ffn, [], [L.OFFLOAD_CSUM | L.OFFLOAD_TSO4 | L.OFFLOAD_TSO6 | L.OFFLOAD_UFO]],
      [0x5n, [L.OFFLOAD_CSUM], []],
      [0x3n, [0], []],
    ] as const) {
      const done = begin(rig, { device: { ...gso } });
      [stage, told.length] = ['before', 0];
      rig.nic.programs();
      rig.nic.setFeatures(features);
      await setContexts(rig);
      stage = 'between';
      await rig.disable();
      await rig.nic.enable('rx');
      await rig.nic.enable('tx');
      stage = 'after';
      await done;
      await new Promise(setImmediate);
      assert.deepEqual(told, [...before.map(n => [n, 'before']), ...after.map(n => [n, 'after'])]);
    }
    await rig.close();
    sink.close();
  },
);
