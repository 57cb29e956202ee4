/** A bpfhv device on PCI as its driver's transport: what is looked for, how it is connected, and what becomes of one that changes or goes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CTRL, REG, STATUS } from '../../src/guest/bpfhv/registers.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import type { PciError } from '../../src/guest/pci/access.js';
import { BpfhvPci, probeBpfhv } from '../../src/guest/pci/bpfhv-pci.js';
import { drainEventFd, EventFd, signalEventFd } from '../../src/linux/eventfd.js';
import { leakTest } from '../../src/linux/testing.js';
import { REGION } from '../../src/linux/vfio-numbers.js';
import { eventually, window } from '../compliance/testbed.js';
import { BPFHV_ID, configSpace, previewCapability, RegisterFile } from './fake-pci.js';

const NEVER = 2 ** 30;

interface Plugged {
  readonly ram: GuestRam;
  readonly slot: BpfhvPci;
  readonly access: RegisterFile;
  /** How often the driver was told to look. */
  readonly changes: { count: number };
}

/** A test with a slot and a function in it, which the driver has taken up. */
function slotTest(
  name: string,
  body: (plugged: Plugged) => Promise<void>,
  { lookMs = NEVER, prepare }: { lookMs?: number; prepare?: (access: RegisterFile) => void } = {},
): void {
  leakTest(name, async () => {
    const ram = new GuestRam(window, 1 << 20);
    const slot = new BpfhvPci({ ram, queues: 2, lookMs });
    try {
      const access = new RegisterFile();
      prepare?.(access);
      await slot.plug(access, await probeBpfhv(access));
      await slot.write(REG.CTRL, CTRL.UPGRADE_READY);
      const changes = { count: 0 };
      slot.onChange = () => void changes.count++;
      access.done.length = 0;
      await body({ ram, slot, access, changes });
    } finally {
      await slot.close();
      ram.close();
    }
  });
}

test('what is found of a device', async () => {
  const access = new RegisterFile();
  access.registers.set(REG.NUM_TX_BUFS, 1024);
  const { sizes, doorbellSize, previews } = await probeBpfhv(access);
  assert.deepEqual([sizes.numRxQueues, sizes.numRxBufs, sizes.numTxBufs], [1, 256, 1024]);
  assert.deepEqual([doorbellSize, previews], [64, true]);
  // Before anything else, it is stopped.
  assert.deepEqual(access.done, [`write 0 ${REG.CTRL} ${CTRL.RX_DISABLE | CTRL.TX_DISABLE} 4`]);
});

test('functions that are no bpfhv device', async () => {
  const cases: [(access: RegisterFile) => void, string, RegExp][] = [
    [access => (access.config = configSpace(0x10d3_8086)), 'PCI_DEVICE', /it is 8086:10d3, not 1b36:000e/],
    [access => access.sizes.set(REGION.BAR0, 64), 'PCI_DEVICE', /BAR 0/],
    [access => access.sizes.delete(REGION.BAR1), 'PCI_DEVICE', /BAR 1/],
    [access => access.registers.set(REG.DOORBELL_SIZE, 4096), 'PCI_DEVICE', /BAR 1/],
    [access => access.sizes.set(REGION.BAR3, 0x1_0000), 'PCI_DEVICE', /BAR 3/],
    [access => (access.vectors = 2), 'PCI_DEVICE', /2 MSI-X vectors are too few for 2 queues/],
    [access => access.registers.set(REG.DOORBELL_SIZE, 24), 'PCI_DEVICE', /24 bytes apart/],
    [access => access.registers.set(REG.VERSION, 2), 'DRIVER_DEVICE', /ABI version 2/],
    [access => access.registers.set(REG.NUM_RX_BUFS, 100), 'DRIVER_DEVICE', /numRxBufs is 100/],
    [access => access.registers.set(REG.NUM_TX_QUEUES, 0xffff_ffff), 'DRIVER_DEVICE', /numTxQueues/],
    [access => (access.gone = true), 'PCI_GONE', /pulled out/],
  ];
  for (const [spoil, code, message] of cases) {
    const access = new RegisterFile();
    spoil(access);
    await assert.rejects(probeBpfhv(access), { code, message });
  }
});

test('a device shows the next contract beforehand only where it says so', async () => {
  const power = [1, 0, 0, 0, 0, 0, 0];
  const circle = configSpace(BPFHV_ID, [power, power]);
  circle[0x41 + 8] = 0x40;
  const cases: [Uint8Array, boolean][] = [
    [configSpace(BPFHV_ID, [previewCapability()]), true],
    [configSpace(BPFHV_ID, [power, [9, 5, 1, 2], previewCapability()]), true],
    [configSpace(BPFHV_ID, [previewCapability(1, 0xff)]), true],
    [configSpace(BPFHV_ID), false],
    [configSpace(BPFHV_ID, [power]), false],
    [configSpace(BPFHV_ID, [previewCapability(1, 0)]), false],
    [configSpace(BPFHV_ID, [previewCapability(2)]), false],
    [configSpace(BPFHV_ID, [previewCapability(1, 1, 'PLNX')]), false],
    [configSpace(BPFHV_ID, [[...previewCapability()].with(0, 5)]), false],
    [configSpace(BPFHV_ID, [[...previewCapability()].with(1, 8)]), false], // too short to have flags
    [circle, false],
    [configSpace(BPFHV_ID, [previewCapability()]).with(0x06, 0), false], // no list at all
    [configSpace(BPFHV_ID, [previewCapability()]).with(0x34, 0xfc), false],
  ];
  for (const [i, [config, previews]] of cases.entries()) {
    const access = new RegisterFile();
    access.config = config;
    assert.equal((await probeBpfhv(access)).previews, previews, `case ${i}`);
  }
});

leakTest(
  'a device is connected: memory, a vector for each queue and one more, doorbells a stride apart',
  async () => {
    const ram = new GuestRam(window, 1 << 20);
    const slot = new BpfhvPci({ ram, queues: 2 });
    const access = new RegisterFile();
    assert.equal(slot.present, false);
    await assert.rejects(slot.read(REG.STATUS), { code: 'PCI_GONE' });
    await slot.plug(access, await probeBpfhv(access));
    assert.equal(slot.present, true);
    assert.deepEqual(access.done.slice(1), [`map ${ram.guestPhysicalAddress} ${1 << 20}`, 'connect 3']);
    assert.deepEqual(
      access.connected.slice(0, 2).map(({ fd }) => fd),
      [slot.interrupt(0), slot.interrupt(1)],
    );
    assert.deepEqual(
      access.wires.map(([region, offset, , size, { fd }]) => [region, offset, size, fd]),
      [
        [REGION.BAR1, 0, 4, slot.doorbell(0)],
        [REGION.BAR1, 64, 4, slot.doorbell(1)],
      ],
    );
    access.done.length = 0;
    assert.equal((await slot.readProgram(3)).length, 24);
    await slot.write(REG.FEATURES, 7);
    assert.deepEqual(access.done, ['words 3 0 24', `write 0 ${REG.FEATURES} 7 4`]);
    await slot.close();
    const forgotten = [0, 1].flatMap(queue => [
      `write 0 ${REG.QUEUE_SELECT} ${queue} 4`,
      `write 0 ${REG.CTX_PADDR_LO} 0 4`,
      `write 0 ${REG.CTX_PADDR_HI} 0 4`,
    ]);
    assert.deepEqual(access.done.slice(2), [...forgotten, `unmap ${ram.guestPhysicalAddress} ${1 << 20}`]);
    ram.close();
  },
);

const bells: EventFd[] = [];
slotTest(
  'a device with eventfds for its doorbells is rung by those',
  async ({ slot, access }) => {
    assert.deepEqual(access.wires, []);
    signalEventFd(slot.doorbell(1));
    assert.deepEqual(
      bells.map(({ fd }) => drainEventFd(fd)),
      [0, 1],
    );
    for (const bell of bells) bell.close();
    assert.equal(signalEventFd(slot.doorbell(1)), 0, 'who rings them later, rings nobody');
  },
  {
    prepare: access => {
      bells.push(EventFd.create('bell 0'), EventFd.create('bell 1'));
      access.own = new Map(bells.map(({ owner }, i) => [64 * i, owner]));
    },
  },
);

slotTest(
  'an upgrade interrupt counts at once, and tells the driver to look',
  async ({ slot, access, changes }) => {
    const { generation } = slot;
    assert.equal(slot.previews, false);
    access.registers.set(REG.STATUS, STATUS.UPGRADE);
    access.interrupt(2);
    assert.equal(slot.generation, generation + 1);
    assert.equal(slot.generation, generation + 1);
    assert.equal(changes.count, 0, 'who asks is not called meanwhile');
    await eventually(() => changes.count === 1);
    await slot.read(REG.STATUS);
    assert.equal(slot.previews, true);
    access.interrupt(2);
    await eventually(() => changes.count === 2); // without anybody asking
    assert.equal(slot.generation, generation + 2);
    await slot.write(REG.CTRL, CTRL.UPGRADE_READY);
    assert.equal(slot.previews, false);
    assert.equal(access.done.at(-1), `write 0 ${REG.CTRL} ${CTRL.UPGRADE_READY} 4`);
    access.registers.set(REG.STATUS, STATUS.LINK);
    await slot.read(REG.STATUS);
    assert.equal(slot.generation, generation + 2, 'what the driver has asked for is no news');
  },
);

slotTest('an upgrade that is withdrawn is another contract again', async ({ slot, access }) => {
  access.registers.set(REG.STATUS, STATUS.UPGRADE);
  access.interrupt(2);
  await slot.read(REG.STATUS);
  const { generation } = slot;
  access.registers.set(REG.STATUS, 0);
  await slot.read(REG.STATUS);
  assert.equal(slot.generation, generation + 1);
  assert.equal(slot.previews, false);
});

slotTest(
  'a device that does not say that it previews is followed in the order that every driver knows',
  async ({ slot, access }) => {
    access.registers.set(REG.STATUS, STATUS.UPGRADE);
    access.interrupt(2);
    assert.equal((await slot.read(REG.STATUS)) & STATUS.UPGRADE, STATUS.UPGRADE);
    assert.equal(slot.previews, false);
  },
  { prepare: access => void (access.config = configSpace(BPFHV_ID)) },
);

slotTest(
  'a device that was just put in looks like one with a new contract',
  async ({ ram, slot, access }) => {
    const other = new RegisterFile();
    access.pull();
    await slot.plug(other, await probeBpfhv(other));
    assert.equal((await slot.read(REG.STATUS)) & STATUS.UPGRADE, STATUS.UPGRADE);
    assert.equal(slot.previews, false);
    other.done.length = 0;
    await slot.write(REG.CTRL, CTRL.UPGRADE_READY | CTRL.QUEUES_DUMP);
    assert.deepEqual(other.done, [`write 0 ${REG.CTRL} ${CTRL.QUEUES_DUMP} 4`], 'which it has not announced');
    assert.equal(await slot.read(REG.STATUS), 0);
    assert.equal(ram.live, 0);
  },
);

slotTest(
  'a link that changes is noticed without an interrupt',
  async ({ access, changes }) => {
    access.registers.set(REG.STATUS, STATUS.LINK);
    await eventually(() => changes.count === 1);
    access.registers.set(REG.STATUS, 0);
    await eventually(() => changes.count === 2);
  },
  { lookMs: 2 },
);

for (const [how, go] of [
  ['is pulled out', access => access.pull()],
  ['answers with nothing but ones', access => void access.registers.set(REG.STATUS, 0xffff_ffff)],
] as [string, (access: RegisterFile) => void][]) {
  slotTest(
    `a device that ${how} is gone`,
    async ({ slot, access, changes }) => {
      const { generation } = slot;
      const reasons: string[] = [];
      slot.onGone = reason => reasons.push((reason as PciError).code);
      go(access);
      await eventually(() => !slot.present);
      assert.deepEqual([reasons, changes.count], [['PCI_GONE'], 1]);
      assert.equal(slot.generation, generation + 1);
      await assert.rejects(slot.read(REG.STATUS), { code: 'PCI_GONE' });
      await assert.rejects(slot.write(REG.CTRL, 0), { code: 'PCI_GONE' });
      await assert.rejects(slot.readProgram(1), { code: 'PCI_GONE' });
      assert.equal(signalEventFd(slot.doorbell(0)), 0, 'a worker may still ring');
    },
    { lookMs: 2 },
  );
}

slotTest(
  'a device with other queues does not fit, nor does one that goes while it is put in',
  async ({ slot, access }) => {
    access.pull();
    const other = new RegisterFile();
    other.registers.set(REG.NUM_RX_QUEUES, 2);
    other.vectors = 8;
    await assert.rejects(slot.plug(other, await probeBpfhv(other)), {
      code: 'PCI_DEVICE',
      message: /3 queues/,
    });
    const leaving = new RegisterFile();
    const found = await probeBpfhv(leaving);
    leaving.wire = async () => leaving.pull();
    await assert.rejects(slot.plug(leaving, found), { code: 'PCI_GONE' });
    assert.equal(slot.present, false);
  },
);
