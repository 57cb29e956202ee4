/**
 * Changes of contract with a backend of the original order: while it runs it tells nothing, and refuses SET_PARAMETERS and GET_PROGRAMS. It signals; the
 * driver stops; only then it is asked.
 *
 * ```
 *   old   ── runs ──┤ stop, give back ├
 *   new                               ├ ready: read, verify, compile, register, start ├── runs ──►
 * ```
 * Packets wait for as long as all of it takes. That is measured here beside the order of our own, in which little of it is left between stop and go.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { EventFd } from '../../src/linux/eventfd.js';
import { type NicControl, NicError } from '../../src/nic/control.js';
import type { Nic } from '../../src/nic/nic.js';
import { swallowedAt } from '../../src/port/flow.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually, window } from '../compliance/testbed.js';
import { type Backend, type Guest, guestTest } from './driver-rig.js';
import type { WatchTask } from './gap-watcher.js';

const TYPES = ['sring', 'sring_gso', 'vring_packed'] as const;
const UPGRADES = 3;

/** The NIC as such a backend has it; `refusals` are what it had to refuse. */
function original(
  nic: Nic,
  refusals: string[],
  { onSizes = () => {}, ...more }: Partial<NicControl> & { onSizes?: () => void } = {},
): NicControl {
  const refuse = (request: string): never => {
    refusals.push(request);
    throw new NicError('NIC_RUNNING', `${request} is refused while the NIC runs`);
  };
  const own: Partial<NicControl> = {
    ...more,
    features: () => (nic.running ? nic.device.features : nic.features()),
    setParameters(parameters) {
      if (nic.running) refuse('SET_PARAMETERS');
      onSizes();
      return nic.setParameters(parameters);
    },
    programs: () => (nic.running ? refuse('GET_PROGRAMS') : nic.programs()),
  };
  return new Proxy(nic, {
    get(target, name) {
      const value = Reflect.get(own, name) ?? Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** For how long at most no frame came out of an end while something was done, milliseconds. */
async function longestGap(guest: Guest, backend: Backend, action: () => Promise<unknown>): Promise<number> {
  const control = new SharedArrayBuffer(4);
  const counters = [guest.netdev, backend.port].map(port => swallowedAt(port.lanes[0]!));
  const task: WatchTask = { memory: window.memory, counters, control };
  const worker = new Worker(new URL('./gap-watcher.js', import.meta.url), { workerData: task });
  const exit = once(worker, 'exit');
  await once(worker, 'message');
  await action();
  Atomics.store(new Int32Array(control), 0, 1);
  const [gaps] = (await once(worker, 'message')) as [number[]];
  await exit;
  return Math.max(...gaps);
}

/** Frames arrive at both ends that have not arrived yet. */
async function flows(guest: Guest, backend: Backend): Promise<void> {
  const [out, back] = [backend.swallowed.sequence, guest.swallowed.sequence];
  await eventually(() => backend.swallowed.sequence > out + 500 && guest.swallowed.sequence > back + 500);
}

/** Goes round the types under traffic. Returns each change's gap, the shortest first. */
async function goRound(guest: Guest, backend: Backend): Promise<number[]> {
  const gaps: number[] = [];
  for (let i = 1; i <= UPGRADES; i++) {
    const device = deviceType(TYPES[i % TYPES.length]!)!;
    await flows(guest, backend);
    gaps.push(
      await longestGap(guest, backend, async () => {
        const { outcome } = await backend.nic.upgrade({ device });
        assert.equal(outcome, 'done');
        await flows(guest, backend);
      }),
    );
    assert.equal(backend.nic.device, device);
    await eventually(() => guest.driver.stats().probes === 1 + i && guest.driver.running);
  }
  // What is on its way arrives, and nothing follows it.
  await guest.driver.setInterfaceUp(false);
  assert.deepEqual(backend.swallowed, { sequence: guest.flow.sequence, outOfOrder: 0 }, 'out');
  assert.deepEqual(guest.swallowed, { sequence: backend.flow.sequence, outOfOrder: 0 }, 'in');
  assert.equal(guest.driver.stats().seized, 0);
  assert.deepEqual(guest.lines('error'), []);
  return gaps.sort((a, b) => a - b);
}

const words = (gaps: readonly number[]) => `${gaps.map(gap => gap.toFixed(1)).join(', ')} ms`;

guestTest(
  'a backend that tells nothing while it runs: asked after the stop, nothing lost',
  async (make, t) => {
    const guest = await make.guest({ netdev: 'source' });
    const backend = await make.backend('source');
    const refusals: string[] = [];
    guest.connect(original(backend.nic, refusals));
    await guest.driver.setInterfaceUp(true);
    const gaps = await goRound(guest, backend);
    assert.deepEqual(
      refusals,
      Array(UPGRADES).fill('SET_PARAMETERS'),
      'it was asked once each time, in vain',
    );
    assert.equal(guest.driver.stats().upgrades, 0, 'none was followed in two steps');
    t.diagnostic(`packets waited for ${words(gaps)}`);
  },
);

guestTest(
  'for comparison: a backend that tells of the next contract while the old one runs',
  async (make, t) => {
    const guest = await make.guest({ netdev: 'source' });
    const backend = await make.backend('source');
    guest.connect(backend.nic);
    await guest.driver.setInterfaceUp(true);
    const gaps = await goRound(guest, backend);
    assert.equal(guest.driver.stats().upgrades, UPGRADES);
    t.diagnostic(`packets waited for ${words(gaps)}`);
  },
);

guestTest('it signals once more while it is asked: the driver looks again, and goes on', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('source');
  let upgradeFd: EventFd | null = null;
  let more = 3;
  guest.connect(
    original(backend.nic, [], {
      setUpgrade(fd) {
        upgradeFd?.close();
        upgradeFd = EventFd.adopt(fd.dup());
        backend.nic.setUpgrade(fd);
      },
      onSizes() {
        if (backend.nic.device.name === 'sring' && upgradeFd && more-- > 0) upgradeFd.signal();
      },
    }),
  );
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  assert.equal((await backend.nic.upgrade({ device: deviceType('vring_packed')! })).outcome, 'done');
  await eventually(() => guest.driver.running);
  await flows(guest, backend);
  assert.ok(more < 3, 'it has signalled');
  upgradeFd!.close();
});

guestTest(
  'the interface is down: the next contract is taken all the same, and used when it comes up',
  async make => {
    const guest = await make.guest({ netdev: 'source' });
    const backend = await make.backend('source');
    guest.connect(original(backend.nic, []));
    await guest.driver.setInterfaceUp(true);
    await flows(guest, backend);
    await guest.driver.setInterfaceUp(false);
    const upgrade = backend.nic.upgrade({ device: deviceType('vring_packed')! });
    await eventually(() => guest.driver.stats().probes === 2);
    await guest.driver.setInterfaceUp(true);
    assert.equal((await upgrade).outcome, 'done');
    await flows(guest, backend);
    assert.equal(backend.nic.device.name, 'vring_packed');
  },
);
