/** Several queue pairs between a guest and its NIC, in one process: lanes, workers, and numbers that differ from one side to the other. */
import assert from 'node:assert/strict';
import { CTX_OPAQUE, PORT_SENT } from '../../datapath/layout.js';
import type { Direction, NicControl } from '../../src/nic/control.js';
import { readFlow, swallowedAt } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { type Backend, type Guest, guestTest } from './driver-rig.js';

/** Packets of each queue of one direction. */
function packetsOf(side: Guest | Backend, direction: Direction): number[] {
  const { queues } = 'driver' in side ? side.driver.stats() : side.nic.stats();
  return queues.filter(queue => queue.direction === direction).map(({ packets }) => packets);
}

/** What each lane of a source or sink has counted. */
function lanesOf(port: PortHandle): number[] {
  return port.lanes.map(({ state }) => readFlow(window, state).sequence);
}

/** What each lane has been given. */
function swallowedBy(port: PortHandle): number[] {
  return port.lanes.map(lane => Number(window.longs[swallowedAt(lane) / 8]!));
}

async function goUp(guest: Guest): Promise<void> {
  await guest.driver.setInterfaceUp(true);
  await guest.driver.whenRunning();
}

/** The guest runs until `enough`, and stops. */
async function runUntil(guest: Guest, enough: () => boolean): Promise<void> {
  await goUp(guest);
  await eventually(enough);
  await guest.driver.setInterfaceUp(false);
  assert.equal(guest.driver.stats().seized, 0);
  assert.deepEqual(guest.lines('error'), []);
}

const allBeyond = (packets: readonly number[], n: number) => packets.every(count => count > n);

for (const [guestWorkers, nicWorkers, spin] of [
  [1, 1, false],
  [2, 2, true],
  [3, 2, false],
] as const) {
  const who = `${guestWorkers} and ${nicWorkers} ${spin ? 'spinning ' : ''}worker(s)`;

  guestTest(`what a lane sends arrives on the lane of the same number, in order: ${who}`, async make => {
    const guest = await make.guest({
      netdev: 'source',
      queuePairs: 3,
      lanes: 3,
      workers: guestWorkers,
      spin,
    });
    const backend = await make.backend('sink', { lanes: 3, workers: nicWorkers, spin });
    guest.connect(backend.nic);
    await runUntil(guest, () => allBeyond(packetsOf(backend, 'tx'), 1000));
    assert.deepEqual(lanesOf(backend.port), lanesOf(guest.netdev));
    assert.deepEqual(packetsOf(backend, 'tx'), lanesOf(guest.netdev));
    assert.deepEqual(packetsOf(guest, 'tx'), lanesOf(guest.netdev));
    assert.equal(backend.flow.outOfOrder, 0);
  });

  guestTest(
    `what comes on a lane reaches the netdev's lane of the same number, in order: ${who}`,
    async make => {
      const guest = await make.guest({
        netdev: 'sink',
        queuePairs: 3,
        lanes: 3,
        workers: guestWorkers,
        spin,
      });
      const backend = await make.backend('source', { lanes: 3, workers: nicWorkers, spin });
      guest.connect(backend.nic);
      await runUntil(guest, () => allBeyond(packetsOf(guest, 'rx'), 1000));
      assert.deepEqual(lanesOf(guest.netdev), lanesOf(backend.port));
      assert.deepEqual(packetsOf(guest, 'rx'), lanesOf(backend.port));
      assert.equal(guest.flow.outOfOrder, 0);
    },
  );
}

guestTest('eight pairs, eight workers on either side: each pair for itself, both ways', async make => {
  const eight = { lanes: 8, workers: 8 };
  const guest = await make.guest({ netdev: 'source', queuePairs: 8, bufs: 16, ...eight });
  const backend = await make.backend('source', { device: 'vring_packed', ...eight });
  guest.connect(backend.nic);
  const enough = () => allBeyond(packetsOf(backend, 'tx'), 50) && allBeyond(packetsOf(guest, 'rx'), 50);
  await goUp(guest);
  await eventually(enough);
  // A change of contract is all workers' too.
  await backend.nic.upgrade({ device: deviceType('sring_gso')! });
  await eventually(() => guest.driver.stats().upgrades === 1);
  await runUntil(guest, enough);
  assert.deepEqual(swallowedBy(backend.port), lanesOf(guest.netdev));
  assert.deepEqual(swallowedBy(guest.netdev), lanesOf(backend.port));
  assert.deepEqual([guest.swallowed.outOfOrder, backend.swallowed.outOfOrder], [0, 0]);
});

guestTest('a port of one lane: all pairs transmit to it, the first one receives from it', async make => {
  const guest = await make.guest({ netdev: 'source', queuePairs: 3, lanes: 3 });
  const backend = await make.backend('source', { workers: 4 });
  guest.connect(backend.nic);
  await runUntil(guest, () => allBeyond(packetsOf(backend, 'tx'), 500) && packetsOf(guest, 'rx')[0]! > 500);
  assert.equal(backend.port.counters().sent, guest.netdev.counters().received);
  assert.deepEqual(packetsOf(guest, 'rx'), [backend.port.counters().received, 0, 0]);
});

guestTest('pairs without a lane of their own use the last one of their worker', async make => {
  const guest = await make.guest({ netdev: 'source', queuePairs: 5, lanes: 5, workers: 2 });
  const backend = await make.backend('sink', { lanes: 3, workers: 2 });
  guest.connect(backend.nic);
  await runUntil(guest, () => allBeyond(packetsOf(backend, 'tx'), 500));
  // Worker 0 has pairs 0, 2, 4 and lanes 0, 2; worker 1 has pairs 1, 3 and lane 1.
  const [a, b, c, d, e] = lanesOf(guest.netdev) as [number, number, number, number, number];
  const sent = (lane: number) => window.doubles[(backend.port.lanes[lane]!.state + PORT_SENT) / 8];
  assert.deepEqual([sent(0), sent(1), sent(2)], [a, b + d, c + e]);
});

guestTest('a netdev of fewer lanes: the other pairs only receive', async make => {
  const guest = await make.guest({ netdev: 'source', queuePairs: 4, lanes: 2, workers: 2 });
  const backend = await make.backend('source', { lanes: 4, workers: 3 });
  guest.connect(backend.nic);
  await runUntil(guest, () => allBeyond(packetsOf(guest, 'rx'), 500) && packetsOf(backend, 'tx')[1]! > 500);
  assert.deepEqual(packetsOf(backend, 'tx'), [...lanesOf(guest.netdev), 0, 0]);
  assert.deepEqual(packetsOf(guest, 'rx'), lanesOf(backend.port));
  assert.equal(guest.netdev.counters().sent, backend.port.counters().received);
});

for (const workers of [1, 2]) {
  guestTest(`a pair that stands still does not disturb the others: ${workers} worker(s)`, async make => {
    const guest = await make.guest({ netdev: 'source', queuePairs: 3, lanes: 3, workers });
    const backend = await make.backend('sink', { lanes: 3, workers });
    const contexts: bigint[] = [];
    guest.connect(spied(backend, contexts));
    await goUp(guest);
    await eventually(() => allBeyond(packetsOf(backend, 'tx'), 500));
    // The ring of the first transmit queue, the fourth in all, claims more than it holds.
    const probe = guest.ram.allocate(64);
    const context = probe + Number(contexts[3]! - guest.ram.toGuest(probe));
    guest.ram.free(probe);
    await eventually(() => {
      window.words[(context + CTX_OPAQUE) >>> 2]! += 100_000;
      return backend.nic.dump().includes('fault index');
    });
    const [stuck, ...others] = packetsOf(backend, 'tx') as [number, number, number];
    await eventually(() => packetsOf(backend, 'tx').every((n, i) => i === 0 || n > others[i - 1]! + 2000));
    assert.equal(packetsOf(backend, 'tx')[0], stuck);
    assert.equal(backend.flow.outOfOrder, 0);
    assert.equal(guest.driver.running, true);
  });
}

/** The NIC of a backend; `contexts` gets to know where the guest's contexts are. */
function spied({ nic }: Backend, contexts: bigint[]): NicControl {
  return new Proxy(nic, {
    get(target, name) {
      if (name === 'setQueueContext') {
        return (index: number, gpa: bigint) => {
          contexts[index] = gpa;
          return target.setQueueContext(index, gpa);
        };
      }
      const value = Reflect.get(target, name, target) as unknown;
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

guestTest('memory tables come and go under the traffic of several workers', async make => {
  const guest = await make.guest({ netdev: 'source', queuePairs: 4, lanes: 4, workers: 2 });
  const backend = await make.backend('source', { lanes: 4, workers: 2 });
  guest.connect(backend.nic);
  await goUp(guest);
  const { guestPhysicalAddress, size, fd } = guest.ram;
  for (let round = 0; round < 20; round++) {
    const half = BigInt(size / 2);
    const region = (offset: bigint, bytes: bigint) => ({
      ...{ guestPhysicalAddress: guestPhysicalAddress + offset, size: bytes, mmapOffset: offset },
      ...{ hypervisorVirtualAddress: 0n, fd: fd.dup() },
    });
    const whole = round % 2 === 0;
    const past = [...packetsOf(backend, 'tx'), ...packetsOf(guest, 'rx')];
    await backend.nic.setMemoryTable(
      whole ? [region(0n, BigInt(size))] : [region(0n, half), region(half, half)],
    );
    await eventually(() =>
      [...packetsOf(backend, 'tx'), ...packetsOf(guest, 'rx')].every((n, i) => n > past[i]!),
    );
  }
  await guest.driver.setInterfaceUp(false);
  assert.deepEqual(packetsOf(backend, 'tx'), lanesOf(guest.netdev));
  assert.deepEqual(packetsOf(guest, 'rx'), lanesOf(backend.port));
  assert.deepEqual([guest.lines('error'), guest.lines('warn')], [[], []]);
});

guestTest('another port takes over under traffic, with fewer lanes than there are workers', async make => {
  const guest = await make.guest({ netdev: 'source', queuePairs: 3, lanes: 3 });
  const backend = await make.backend('sink', { lanes: 3, workers: 3 });
  const [narrow, wide] = [1, 3].map(lanes => openPort('sink', { window, arena }, lanes)) as [
    PortHandle,
    PortHandle,
  ];
  guest.connect(backend.nic);
  await goUp(guest);
  let sent = 0;
  for (const port of [narrow, wide]) {
    const before = packetsOf(backend, 'tx');
    await eventually(() => packetsOf(backend, 'tx').every((n, i) => n > before[i]! + 500));
    await backend.nic.upgrade({ port });
  }
  const before = packetsOf(backend, 'tx');
  await eventually(() => packetsOf(backend, 'tx').every((n, i) => n > before[i]! + 500));
  await guest.driver.setInterfaceUp(false);
  for (const port of [backend.port, narrow, wide]) sent += port.counters().sent;
  assert.equal(sent, guest.netdev.counters().received);
  assert.ok(allBeyond(lanesOf(wide), 500));
  await backend.nic.upgrade({ port: backend.port });
  for (const port of [narrow, wide]) port.close();
});

guestTest('an upgrade of the contract reaches every pair of every worker', async make => {
  const guest = await make.guest({ netdev: 'source', queuePairs: 4, lanes: 4, workers: 2 });
  const backend = await make.backend('sink', { lanes: 4, workers: 2 });
  guest.connect(backend.nic);
  await goUp(guest);
  for (const device of ['vring_packed', 'sring_gso', 'sring']) {
    const before = packetsOf(backend, 'tx');
    await eventually(() => packetsOf(backend, 'tx').every((n, i) => n > before[i]! + 500));
    const { outcome, to } = await backend.nic.upgrade({ device: deviceType(device)! });
    assert.deepEqual({ outcome, to }, { outcome: 'done', to: device });
  }
  const before = packetsOf(backend, 'tx');
  await eventually(() => packetsOf(backend, 'tx').every((n, i) => n > before[i]! + 500));
  await guest.driver.setInterfaceUp(false);
  const { upgrades, blackouts, seized } = guest.driver.stats();
  assert.deepEqual([upgrades, blackouts.length, seized], [3, 3, 0]);
  assert.deepEqual(lanesOf(backend.port), lanesOf(guest.netdev));
  assert.equal(backend.flow.outOfOrder, 0);
  assert.deepEqual(guest.lines('error'), []);
});
