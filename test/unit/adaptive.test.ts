import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mock, test } from 'node:test';
import { keepAdapting } from '../../src/cli/adapting.js';
import { Adaptive, type Look, SMALL_PACKET_NS } from '../../src/nic/adaptive.js';
import type { Nic } from '../../src/nic/nic.js';
import { openPort } from '../../src/port/registry.js';
import { parseOffloads } from '../../src/ring/features.js';
import { deviceType, deviceTypeNames } from '../../src/ring/registry.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { guestTest } from './driver-rig.js';

const IDLE = { packets: 0, bytes: 0 };
const packets = (n: number, size: number) => ({ packets: n, bytes: n * size });
const SMALL = packets(50_000, 60);
const LARGE = packets(40_000, 1500);
const CUT = packets(1_000, 64_000);
const BOTH = { rx: true, tx: true };

/** Looks once a second at the same traffic, and does what is advised; returns what that was. */
class Driver {
  readonly adaptive: Adaptive;
  device = 'sring';
  spin = false;
  segments = BOTH;
  at = 0;

  constructor(processors = 4) {
    this.adaptive = new Adaptive(processors);
  }

  run(seconds: number, tx: Look['tx'], rx: Look['rx'] = IDLE): string[] {
    const done: string[] = [];
    for (let i = 0; i < seconds; i++) {
      this.at += 1000;
      const { at, device, spin, segments } = this;
      const advice = this.adaptive.advise({ at, elapsed: 1000, tx, rx, segments, device, spin });
      if (!advice) continue;
      done.push(`${i + 1}: ${advice.reason}`);
      this.adaptive.changed(at);
      if (advice.device !== undefined) this.device = advice.device;
      if (advice.spin !== undefined) this.spin = advice.spin;
    }
    return done;
  }
}

test('large flows get segmentation, small packets the fast ring, and it says why', () => {
  const driver = new Driver();
  assert.deepEqual(driver.run(10, LARGE), [
    '3: sring_gso instead of sring: 480 Mbit/s, 40 kpps, 1500 bytes a packet',
  ]);
  assert.deepEqual(driver.run(10, CUT), [], 'large frames are what it is for');
  assert.deepEqual(driver.run(10, SMALL), [
    '3: sring instead of sring_gso: 24 Mbit/s, 50 kpps, 60 bytes a packet',
  ]);
});

test('no segmentation in that direction, no reason to change', () => {
  const driver = new Driver();
  driver.segments = { rx: true, tx: false };
  assert.deepEqual(driver.run(10, LARGE), []);
  assert.equal(driver.run(10, IDLE, LARGE).length, 1);
  assert.equal(driver.device, 'sring_gso');
  driver.segments = { rx: false, tx: false };
  assert.deepEqual(driver.run(10, IDLE, LARGE), [], 'what there is stays');
  assert.equal(driver.run(10, IDLE, SMALL).length, 1);
  assert.equal(driver.device, 'sring');
  assert.deepEqual(driver.run(10, IDLE, LARGE), []);
});

test('small packets get the fastest of the rings that the guest takes', () => {
  for (const device of ['vring_packed', 'sring_gso']) {
    const driver = new Driver();
    driver.device = device;
    assert.match(driver.run(3, SMALL)[0]!, new RegExp(`^3: sring instead of ${device}: `));
  }
  const driver = new Driver();
  driver.device = 'sring_gso';
  driver.adaptive.declined('sring', 0);
  assert.match(driver.run(10, SMALL)[0]!, /^5: vring_packed instead of sring_gso: /);
  assert.match(driver.run(60, SMALL)[0]!, /sring instead of vring_packed: /, 'later it is asked again');
});

test('what packets cost is what the README says', () => {
  const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
  const sums = new Map(
    [...readme.matchAll(/^\| `(\w+)` ([tr]x), 60 +\|([^|]+)\|([^|]+)\|[^|]+\|([^|]+)\|/gm)].map(
      ([, format, direction, ...parts]) => [
        `${format} ${direction}`,
        parts.map(Number).reduce((a, b) => a + b),
      ],
    ),
  );
  const ours = Object.entries(SMALL_PACKET_NS).flatMap(([format, { tx, rx }]) => [
    [`${format} tx`, tx] as const,
    [`${format} rx`, rx] as const,
  ]);
  assert.deepEqual(new Map(ours), sums);
  assert.deepEqual(
    Object.keys(SMALL_PACKET_NS).sort(),
    [...deviceTypeNames].filter(name => !name.includes('+')).sort(),
  );
});

test('the direction that moves more decides: acknowledgements do not', () => {
  const driver = new Driver();
  driver.run(5, packets(60_000, 66), LARGE);
  assert.equal(driver.device, 'sring_gso');
});

test('what is neither changes nothing, and neither does a short burst', () => {
  const driver = new Driver();
  assert.deepEqual(driver.run(20, packets(5_000, 500)), []);
  assert.deepEqual(driver.run(2, LARGE), []);
  assert.deepEqual(driver.run(1, packets(5_000, 500)), []);
  assert.deepEqual(driver.run(2, LARGE), []);
});

test('a change rests for five seconds', () => {
  const driver = new Driver();
  driver.run(3, LARGE);
  assert.equal(driver.device, 'sring_gso');
  assert.deepEqual(driver.run(4, SMALL), []);
  assert.equal(driver.run(2, SMALL).length, 1);
});

test('traffic that goes back and forth faster than that does not make it flap', () => {
  const driver = new Driver();
  const changes: string[] = [];
  for (let i = 0; i < 30; i++) changes.push(...driver.run(2, i % 2 === 0 ? LARGE : SMALL));
  assert.deepEqual(changes, []);
});

test('a format that seals, or comes from outside, stays', () => {
  for (const device of ['sring+seal', '/srv/rings/own.js']) {
    const adaptive = new Adaptive(1);
    for (let second = 1; second <= 10; second++) {
      const traffic = { tx: LARGE, rx: IDLE, segments: BOTH };
      assert.equal(
        adaptive.advise({ at: second * 1000, elapsed: 1000, ...traffic, device, spin: false }),
        null,
      );
    }
  }
});

test('what the guest declines is left alone, each time twice as long', () => {
  const adaptive = new Adaptive(4);
  const asked: number[] = [];
  for (let second = 1; second <= 400; second++) {
    const at = second * 1000;
    const traffic = { tx: LARGE, rx: IDLE, segments: BOTH };
    const advice = adaptive.advise({ at, elapsed: 1000, ...traffic, device: 'sring', spin: false });
    if (advice?.device === undefined) continue;
    asked.push(second);
    adaptive.declined('sring_gso', at);
  }
  assert.deepEqual(asked, [3, 63, 183]);
});

test('many packets spin, few sleep; a single processor is never taken', () => {
  const driver = new Driver();
  assert.deepEqual(driver.run(5, packets(150_000, 60)), ['3: spin instead of sleeping: 150 kpps']);
  assert.deepEqual(driver.run(5, packets(50_000, 60)), []);
  assert.equal(driver.run(5, packets(5_000, 60)).length, 1);
  assert.equal(driver.spin, false);
  assert.deepEqual(new Driver(1).run(5, packets(150_000, 60)), []);
});

test('of either kind there is one change in five seconds', () => {
  const driver = new Driver();
  const changes: number[] = [];
  for (let second = 1; second <= 40; second++) {
    // Fast enough to spin, and few enough to sleep, in turn.
    const said = driver.run(1, packets(second % 8 < 4 ? 150_000 : 1000, 1500));
    if (said.length > 0) changes.push(second);
  }
  assert.ok(changes.length >= 3, `${changes}`);
  for (const [i, second] of changes.entries())
    assert.ok(i === 0 || second - changes[i - 1]! >= 5, `${changes}`);
});

guestTest('a running NIC follows its traffic there and back, and loses nothing', async make => {
  const guest = await make.guest({ netdev: 'sink' });
  const backend = await make.backend('source:len=1500', { device: 'sring' });
  const { nic } = backend;
  guest.connect(nic);
  await guest.driver.setInterfaceUp(true);
  const said: string[] = [];
  const stop = keepAdapting({
    ...{ nic, processors: 1, lookMs: 20, limits: { restMs: 100 } },
    log: (_level, message) => said.push(message),
  });
  const small = openPort('source:len=60', { window, arena });
  try {
    await eventually(() => nic.device.name === 'sring_gso');
    await nic.upgrade({ port: small });
    await eventually(() => nic.device.name === 'sring');
    await nic.upgrade({ port: backend.port });
    await eventually(() => nic.device.name === 'sring_gso');
    const received = guest.packets('rx');
    await eventually(() => guest.packets('rx') > received + 1000);
    assert.equal(guest.flow.outOfOrder, 2, 'one for each change of the port, whose numbers are its own');
    assert.match(
      said[0]!,
      /^adaptive: sring_gso instead of sring: \d+ Mbit\/s, \d+ kpps, 1500 bytes a packet$/,
    );
    assert.match(said[1]!, /^adaptive: sring instead of sring_gso/);
  } finally {
    await stop();
    await nic.upgrade({ port: backend.port });
    small.close();
  }
});

/** Ten looks later. */
async function looked(nic: Nic): Promise<void> {
  const spy = mock.method(nic, 'stats');
  await eventually(() => spy.mock.callCount() >= 2 * 10); // both directions
  spy.mock.restore();
}

guestTest('where no segmentation is offered, large flows are left alone', async make => {
  const guest = await make.guest({ netdev: 'sink' });
  const { nic } = await make.backend('source:len=1500', { device: 'sring' });
  guest.connect(nic);
  await guest.driver.setInterfaceUp(true);
  await eventually(() => nic.running);
  await nic.upgrade({ features: parseOffloads('none')! });
  const said: string[] = [];
  const stop = keepAdapting({
    ...{ nic, processors: 1, lookMs: 20, limits: { restMs: 0 } },
    log: (_level, message) => said.push(message),
  });
  try {
    await looked(nic);
    assert.deepEqual(said, []);
    await nic.upgrade({ features: parseOffloads('lro')! });
    await eventually(() => nic.device.name === 'sring_gso');
    assert.match(said[0]!, /^adaptive: sring_gso instead of sring/);
  } finally {
    await stop();
  }
});

guestTest('a guest that wants no large frames is not asked again soon', async make => {
  const guest = await make.guest({ netdev: 'sink', features: parseOffloads('csum')! });
  const { nic } = await make.backend('source:len=1500', { device: 'sring' });
  guest.connect(nic);
  await guest.driver.setInterfaceUp(true);
  const said: string[] = [];
  const stop = keepAdapting({
    ...{ nic, processors: 1, lookMs: 20, limits: { restMs: 0 } },
    log: (_level, message) => said.push(message),
  });
  try {
    await eventually(() => said.length === 2);
    assert.equal(said[1], 'adaptive: the guest wants no large frames');
    await nic.upgrade({ device: deviceType('sring')! });
    await looked(nic);
    assert.equal(nic.device.name, 'sring');
  } finally {
    await stop();
  }
});

guestTest('a NIC with many packets spins, and sleeps again when they end', async make => {
  const guest = await make.guest({ netdev: 'sink' });
  const backend = await make.backend('source:len=60', { device: 'sring' });
  const { nic } = backend;
  guest.connect(nic);
  await guest.driver.setInterfaceUp(true);
  const said: string[] = [];
  const stop = keepAdapting({
    ...{ nic, processors: 2, lookMs: 20 },
    log: (_level, message) => said.push(message),
  });
  const quiet = openPort('sink', { window, arena });
  try {
    for (let round = 0; round < 2; round++) {
      await eventually(() => nic.spin);
      await nic.upgrade({ port: quiet });
      await eventually(() => !nic.spin);
      await nic.upgrade({ port: backend.port });
    }
    const received = guest.packets('rx');
    await eventually(() => guest.packets('rx') > received + 1000);
    for (const [i, message] of said.slice(0, 4).entries()) {
      const what = i % 2 === 0 ? 'spin instead of sleeping' : 'sleep instead of spinning';
      assert.match(message, new RegExp(`^adaptive: ${what}: \\d+ kpps$`));
    }
  } finally {
    await stop();
    await nic.upgrade({ port: backend.port });
    quiet.close();
  }
});
