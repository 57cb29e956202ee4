/** An upgrade as the guest's driver follows it, when something goes wrong at one of its steps. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { Gap } from '../../src/guest/bpfhv/gap.js';
import { CTRL, REG } from '../../src/guest/bpfhv/registers.js';
import type { NicControl } from '../../src/nic/control.js';
import type { Nic } from '../../src/nic/nic.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually, window } from '../compliance/testbed.js';
import { type Backend, type Guest, guestTest } from './driver-rig.js';

const type = (name: string) => deviceType(name)!;

/** Frames arrive that have not arrived yet. */
async function flows(guest: Guest, backend: Backend): Promise<void> {
  const sent = guest.packets('tx');
  const taken = backend.flow.sequence;
  await eventually(() => guest.packets('tx') > sent + 1000 && backend.flow.sequence > taken + 1000);
}

/** A NIC of which the test answers some requests itself. */
function spied(nic: Nic, own: Partial<NicControl>): NicControl {
  return new Proxy(nic, {
    get(target, name) {
      const value = Reflect.get(own, name) ?? Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** Does something when the driver writes these bits to CTRL, once: before, or after the device has done what they ask for. */
function onControl(
  guest: Guest,
  bits: number,
  when: 'before' | 'after',
  action: () => Promise<void> | void,
): void {
  const { device } = guest;
  const write = device.write.bind(device);
  device.write = async (register, value) => {
    const now = register === REG.CTRL && value === bits;
    if (now) device.write = write;
    if (now && when === 'before') await action();
    await write(register, value);
    if (now && when === 'after') await action();
  };
}

const DISABLE = CTRL.RX_DISABLE | CTRL.TX_DISABLE;

guestTest(
  'the device refuses to go on with the new contract: the driver lets go of all of it',
  async make => {
    const guest = await make.guest({ netdev: 'source' });
    const backend = await make.backend('sink');
    let refuse = false;
    const { nic } = backend;
    guest.connect(
      spied(nic, {
        async enable(direction) {
          if (refuse) throw new Error('not now');
          await nic.enable(direction);
        },
      }),
    );
    await guest.driver.setInterfaceUp(true);
    await flows(guest, backend);
    refuse = true;
    const upgrade = nic.upgrade({ device: type('vring_packed') });
    await eventually(() => !guest.driver.running);
    await eventually(() => guest.ram.live === 0);
    const sent = guest.netdev.counters().received;
    refuse = false;
    await guest.driver.setInterfaceUp(false);
    assert.equal(guest.netdev.counters().received, sent, 'a driver that stands still takes nothing');
    await guest.driver.setInterfaceUp(true);
    assert.equal((await upgrade).to, 'vring_packed');
    await flows(guest, backend);
  },
);

guestTest('workers can not be told of the new contract: said, and not more than that', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  const { device } = guest;
  const doorbell = device.doorbell.bind(device);
  device.doorbell = () => (() => {}) as never; // what no message can carry
  await backend.nic.upgrade({ device: type('sring_gso') });
  await eventually(() => !guest.driver.running && guest.ram.live === 0);
  assert.match(guest.lines('error').join(), /could not be cloned/);
  device.doorbell = doorbell;
  await guest.driver.setInterfaceUp(false);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
});

guestTest('the time is up between stop and start: the old contract again', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  const upgrade = backend.nic.upgrade({ device: type('vring_packed'), timeoutMs: 1000 });
  upgrade.catch(() => {});
  onControl(guest, DISABLE, 'before', async () => {
    const { generation } = guest.device;
    await assert.rejects(upgrade, { code: 'NIC_UPGRADE_TIMEOUT' });
    await eventually(() => guest.device.generation !== generation);
  });
  await assert.rejects(upgrade);
  await flows(guest, backend);
  assert.equal(backend.nic.device.name, 'sring');
  await eventually(() => guest.driver.running);
});

guestTest('programs that fail when they are stopped are no fault of those that follow them', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  const { nic } = backend;
  const contexts: bigint[] = [];
  guest.connect(
    spied(nic, {
      async setQueueContext(index, gpa) {
        contexts.push(gpa);
        await nic.setQueueContext(index, gpa);
      },
    }),
  );
  await guest.driver.setInterfaceUp(true);
  await flows(guest, backend);
  const probe = guest.ram.allocate(64);
  const context = probe + Number(contexts[0]! - guest.ram.toGuest(probe));
  guest.ram.free(probe);
  onControl(guest, DISABLE, 'after', () => {
    const descriptors = context + L.CTX_OPAQUE + 512;
    window.bytes.fill(0xff, descriptors, descriptors + 64 * 24); // cookies that are nobody's
  });
  await nic.upgrade({ device: type('sring_gso') });
  await flows(guest, backend);
  assert.match(guest.lines('error').join(), /queue 0 stopped/);
  await guest.driver.setInterfaceUp(true);
  assert.deepEqual([nic.device.name, guest.driver.running], ['sring_gso', true]);
});

guestTest('an announcement while the driver reads the contract before it: no mixture is run', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  const { device } = guest;
  const readProgram = device.readProgram.bind(device);
  let upgrade: Promise<unknown> | null = null;
  device.readProgram = async instructions => {
    if (!upgrade) {
      const { generation } = device;
      upgrade = backend.nic.upgrade({ device: type('vring_packed') });
      await eventually(() => device.generation !== generation);
    }
    return readProgram(instructions);
  };
  await guest.driver.setInterfaceUp(true);
  guest.connect(backend.nic);
  await guest.driver.whenRunning();
  await upgrade;
  await flows(guest, backend);
  assert.deepEqual([backend.nic.device.name, guest.lines('error')], ['vring_packed', []]);
});

test('what comes long after a change says nothing of how long it took', t => {
  let now = 1000;
  t.mock.method(performance, 'now', () => now);
  const told: unknown[] = [];
  const gap = new Gap(blackout => told.push(blackout));
  gap.watch(true);
  gap.packets('tx');
  gap.packets('rx');
  gap.stop();
  gap.switched();
  now += 2;
  gap.go(now);
  gap.packets('tx');
  now += 1500; // whoever sends has paused
  gap.packets('rx');
  assert.deepEqual(told, [{ stopped: 2000, tx: 2000, rx: null }]);
});
