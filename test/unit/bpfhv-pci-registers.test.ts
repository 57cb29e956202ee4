/** The bpfhv device on the PCI bus, register by register. The tables are docs/bpfhv.md, "Registers" and "On the PCI bus". */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { loadObject } from '../../src/ebpf/elf.js';
import { CTRL, PROGRAMS, REG, STATUS } from '../../src/guest/bpfhv/registers.js';
import { BAR, PROGRAM_WINDOW_SIZE, REGISTERS_SIZE } from '../../src/guest/pci/bpfhv-numbers.js';
import { drainEventFd, EventFd } from '../../src/linux/eventfd.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { deviceType } from '../../src/ring/registry.js';
import { type Card, get, memoryOf, pciTest, put, until } from './bpfhv-pci-rig.js';

const RX_READY = STATUS.LINK | STATUS.RX_ENABLED;
const CONTEXT = 2096 + 512 + 32 * 64; // sring_gso, 64 buffers

const fresh = { type: 'sring_gso', queuePairs: 2, doorbellSize: 16 };

/** Register, written (null: nothing), read back; each on a device as it was after the one before. */
const REGISTERS: readonly (readonly [
  what: string,
  register: number,
  written: number | null,
  read: number,
])[] = [
  ['STATUS', REG.STATUS, null, 0],
  ['STATUS is read-only', REG.STATUS, 0xffff_ffff, 0],
  ['CTRL is write-only', REG.CTRL, null, 0],
  ['CTRL, a bit without meaning', REG.CTRL, 0x8000_0000, 0],
  ['MAC_LO: octets 2 to 5', REG.MAC_LO, null, 0x0012_3456],
  ['MAC_HI: octets 0 and 1', REG.MAC_HI, null, 0x5254],
  ['MAC_LO is read-only', REG.MAC_LO, 1, 0x0012_3456],
  ['MAC_HI is read-only', REG.MAC_HI, 1, 0x5254],
  ['NUM_RX_QUEUES', REG.NUM_RX_QUEUES, 7, 2],
  ['NUM_TX_QUEUES', REG.NUM_TX_QUEUES, 7, 2],
  ['NUM_RX_BUFS', REG.NUM_RX_BUFS, 7, 64],
  ['NUM_TX_BUFS', REG.NUM_TX_BUFS, 7, 64],
  ['RX_CTX_SIZE', REG.RX_CTX_SIZE, 7, CONTEXT],
  ['TX_CTX_SIZE', REG.TX_CTX_SIZE, 7, CONTEXT],
  ['DOORBELL_SIZE', REG.DOORBELL_SIZE, 7, 16],
  ['QUEUE_SELECT', REG.QUEUE_SELECT, null, 0],
  ['QUEUE_SELECT, the last queue', REG.QUEUE_SELECT, 3, 3],
  ['QUEUE_SELECT, one too many', REG.QUEUE_SELECT, 4, 3],
  ['QUEUE_SELECT, far too many', REG.QUEUE_SELECT, 0xffff_ffff, 3],
  ['CTX_PADDR_LO is write-only', REG.CTX_PADDR_LO, 0x1000, 0],
  ['CTX_PADDR_HI is write-only', REG.CTX_PADDR_HI, 1, 0],
  ['PROG_SELECT', REG.PROG_SELECT, null, 0],
  ['PROG_SIZE of no program', REG.PROG_SIZE, 7, 0],
  ['PROG_SELECT, the last', REG.PROG_SELECT, 10, 10],
  ['PROG_SIZE of an absent program', REG.PROG_SIZE, null, 0],
  ['PROG_SELECT, one too many', REG.PROG_SELECT, 11, 10],
  ['PROG_SELECT, far too many', REG.PROG_SELECT, 0x8000_0001, 10],
  ['DOORBELL_GVA_LO', REG.DOORBELL_GVA_LO, 0xdead_b000, 0xdead_b000],
  ['DOORBELL_GVA_HI', REG.DOORBELL_GVA_HI, 0xffff_8888, 0xffff_8888],
  ['VERSION', REG.VERSION, 2, 1],
  ['FEATURES: offered', REG.FEATURES, null, 0x1ff],
  ['FEATURES, no subset', REG.FEATURES, 0x201, 0x1ff],
  ['FEATURES, accepted', REG.FEATURES, 0x7f, 0x7f],
  ['FEATURES, accepted anew', REG.FEATURES, 0x1ff, 0x1ff],
  ['FEATURES, none', REG.FEATURES, 0, 0],
  ['DUMP_LEN of no dump', REG.DUMP_LEN, 7, 1],
  ['DUMP_INPUT of no dump', REG.DUMP_INPUT, 7, 0],
  ['DUMP_OFS, behind the end', REG.DUMP_OFS, 1, 0],
  ['behind the registers', 92, 0xffff_ffff, 0],
  ['at the end of the BAR', 252, 0xffff_ffff, 0],
];

pciTest('registers: what is written, what is read back', async make => {
  const card = await make.card(fresh);
  for (const [what, register, written, read] of REGISTERS) {
    if (written !== null) await card.write(register, written);
    assert.equal(await card.read(register), read, what);
  }
  await card.device.reset();
  for (const [register, read] of [
    [REG.QUEUE_SELECT, 0],
    [REG.PROG_SELECT, 0],
    [REG.DOORBELL_GVA_LO, 0],
    [REG.DOORBELL_GVA_HI, 0],
    [REG.FEATURES, 0x1ff],
    [REG.STATUS, 0],
  ] as const)
    assert.equal(await card.read(register), read, `register ${register} after a reset`);
});

pciTest('registers have 32 bits: others see their bytes, and write none', async make => {
  const { device } = await make.card(fresh);
  const at = (offset: number, size: number) => get(device, BAR.REGISTERS, offset, size);
  assert.equal(await at(REG.MAC_LO + 1, 1), 0x34);
  assert.equal(await at(REG.MAC_LO + 2, 2), 0x0012);
  assert.equal(await at(REG.MAC_LO + 3, 2), 0x5400, 'across two registers');
  const all = new Uint8Array(REGISTERS_SIZE);
  device.read(BAR.REGISTERS, 0, all);
  assert.equal(new DataView(all.buffer).getUint32(REG.RX_CTX_SIZE, true), CONTEXT);
  for (const size of [1, 2, 3]) await put(device, BAR.REGISTERS, REG.QUEUE_SELECT, 1, size);
  await put(device, BAR.REGISTERS, REG.QUEUE_SELECT + 1, 0, 4);
  assert.equal(await at(REG.QUEUE_SELECT, 4), 0);
  // As a write of 64 bits, and one that ends amid a register.
  await device.write(BAR.REGISTERS, REG.DOORBELL_GVA_LO, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  await device.write(BAR.REGISTERS, REG.DOORBELL_GVA_LO - 2, Uint8Array.of(9, 9, 1, 1, 1, 1, 9, 9, 9));
  assert.equal(await at(REG.DOORBELL_GVA_LO, 4), 0x01010101);
  assert.equal(await at(REG.DOORBELL_GVA_HI, 4), 0x08070605);
});

/** Guest memory for the card, and places for contexts in it. */
async function withMemory(card: Card, ram: Parameters<typeof memoryOf>[0]): Promise<(i: number) => bigint> {
  await card.device.setMemory(memoryOf(ram));
  return i => ram.guestPhysicalAddress + BigInt(i * 0x4000);
}

pciTest(
  'contexts: HI commits, the link follows, each direction is enabled when it has its own',
  async make => {
    const card = await make.card(fresh);
    const place = await withMemory(card, make.ram());
    const status = () => card.read(REG.STATUS);
    await card.write(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
    assert.equal(await status(), 0, 'no contexts');
    await card.context(0, place(0));
    assert.equal(await status(), 0);
    await card.write(REG.QUEUE_SELECT, 1);
    await card.write(REG.CTX_PADDR_LO, Number(place(1) & 0xffff_ffffn));
    assert.equal(await status(), 0, 'not committed');
    await card.write(REG.CTX_PADDR_HI, Number(place(1) >> 32n));
    assert.equal(await status(), STATUS.LINK);
    await card.write(REG.CTRL, CTRL.TX_ENABLE);
    assert.equal(await status(), STATUS.LINK, 'transmit has no contexts');
    await card.write(REG.CTRL, CTRL.RX_ENABLE);
    assert.equal(await status(), RX_READY);
    await card.context(0, 0n);
    assert.equal(await status(), RX_READY, 'a context that is in use stays');
    await card.write(REG.CTRL, CTRL.RX_DISABLE);
    assert.equal(await status(), STATUS.LINK);
    await card.context(2, place(2));
    await card.context(3, place(3));
    await card.write(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
    assert.equal(await status(), RX_READY | STATUS.TX_ENABLED);
    await card.write(REG.CTRL, CTRL.RX_DISABLE | CTRL.TX_DISABLE);
    assert.equal(await status(), STATUS.LINK);
    card.device.setCarrier(false);
    assert.equal(await status(), 0, 'the port has no link');
    card.device.setCarrier(true);
    await card.context(1, 0n);
    assert.equal(await status(), 0, 'a context less');
    await card.write(REG.CTRL, CTRL.RX_ENABLE);
    assert.equal(await status(), 0);
    await card.write(REG.CTRL, CTRL.TX_ENABLE);
    assert.equal(await status(), STATUS.TX_ENABLED);
  },
);

pciTest('contexts in no memory, across its end, not aligned: not taken', async make => {
  const card = await make.card({ queuePairs: 1 });
  const ram = make.ram();
  const base = ram.guestPhysicalAddress;
  await card.context(0, base);
  assert.equal(await card.read(REG.STATUS), 0, 'before there is memory');
  await withMemory(card, ram);
  const end = base + BigInt(ram.size);
  for (const gpa of [1n, base - 8n, base + 4n, end - 8n, end, 0xffff_ffff_ffff_fff8n]) {
    await card.context(0, gpa);
    assert.equal(await card.read(REG.STATUS), 0, gpa.toString(16));
  }
  await card.context(0, base);
  assert.equal(await card.read(REG.STATUS), STATUS.LINK);
  assert.ok(card.log.filter(line => line.startsWith('warn')).length >= 7);
});

pciTest('what a guest provokes without end is not logged without end', async make => {
  const card = await make.card();
  for (let i = 0; i < 1000; i++) {
    await card.context(0, 8n);
    if (i % 50 === 0) await card.device.reset();
  }
  assert.equal(card.log.length, 100, 'nor when it resets its device');
  await card.device.disconnect();
  await card.context(0, 8n);
  assert.ok(card.log.length > 100, 'the next one’s are logged again');
});

pciTest('the program window: each program as it is in the object, zeros behind', async make => {
  const card = await make.card({ type: 'vring_packed' });
  const { device } = card;
  const { programs } = loadObject(readFileSync(deviceType('vring_packed')!.programs));
  const all = new Uint8Array(PROGRAM_WINDOW_SIZE).fill(0xee);
  device.read(BAR.PROGRAM, 0, all);
  assert.ok(
    all.every(byte => byte === 0),
    'nothing is selected',
  );
  for (const { number, section } of PROGRAMS) {
    await card.write(REG.PROG_SELECT, number);
    const bytes = programs.get(section) ?? new Uint8Array();
    assert.equal(await card.read(REG.PROG_SIZE), bytes.length / 8, section);
    device.read(BAR.PROGRAM, 0, all.fill(0xee));
    assert.deepEqual(all.subarray(0, bytes.length), bytes, section);
    assert.ok(all.subarray(bytes.length).every(byte => byte === 0));
  }
  await card.write(REG.PROG_SELECT, 6);
  const txp = programs.get('txp')!;
  assert.equal(
    await get(device, BAR.PROGRAM, 12),
    Buffer.from(txp).readUInt32LE(12),
    '32 bits at a time, as drivers read',
  );
  await device.write(BAR.PROGRAM, 0, new Uint8Array(16).fill(0xff));
  assert.equal(await get(device, BAR.PROGRAM, 0), Buffer.from(txp).readUInt32LE(0));
});

for (const [doorbellSize, size] of [
  [8, 4096],
  [4096, 4 * 4096],
  [2 ** 21, 2 ** 23],
] as const) {
  pciTest(`doorbells ${doorbellSize} bytes apart`, async make => {
    const { device } = await make.card({ queuePairs: 2, doorbellSize });
    assert.equal(device.regions[BAR.DOORBELLS]!.size, size);
    const bells = device.doorbells(BAR.DOORBELLS);
    assert.deepEqual(
      bells.map(bell => [bell.offset, bell.size]),
      [0, 1, 2, 3].map(i => [i * doorbellSize, 4]),
    );
    for (const region of [0, 2, 3, 7]) assert.deepEqual(device.doorbells(region), []);
    const rung = () => bells.map(({ fd }) => drainEventFd(fd.fd));
    const ring = (offset: number, length: number) =>
      device.write(BAR.DOORBELLS, offset, new Uint8Array(length));
    for (const [offset, length, expected] of [
      [0, 4, [1, 0, 0, 0]],
      [doorbellSize, 4, [0, 1, 0, 0]],
      [2 * doorbellSize + 3, 1, [0, 0, 1, 0]],
      [4 * doorbellSize - 1, 1, [0, 0, 0, 1]],
      [3 * doorbellSize - 2, 4, [0, 0, 1, 1]],
      [doorbellSize, 8, [0, 1, 0, 0]],
    ] as const) {
      await ring(offset, length);
      assert.deepEqual(rung(), expected, `${length} bytes at ${offset}`);
    }
    if (size > 4 * doorbellSize) {
      await ring(4 * doorbellSize, 4);
      await ring(size - 4, 4);
      assert.deepEqual(rung(), [0, 0, 0, 0], 'behind the last queue');
      await ring(0, size);
      assert.deepEqual(rung(), [1, 1, 1, 1]);
    }
    assert.equal(await get(device, BAR.DOORBELLS, 0), 0);
  });
}

pciTest('doorbell sizes that can not be', async make => {
  for (const doorbellSize of [0, 4, 12, 2 ** 22, Number.NaN])
    await assert.rejects(make.card({ doorbellSize }), RangeError);
  await assert.rejects(make.card({ bufs: 48 }), { code: 'NIC_PARAMETERS' });
});

pciTest('on the bus: ids, class, pin, BARs, capabilities', async make => {
  const { device } = await make.card(fresh);
  const config = (offset: number, size = 4) => get(device, REGION.CONFIG, offset, size);
  assert.equal(await config(0), 0x000e_1b36);
  assert.equal((await config(8)) >>> 8, 0x020000);
  assert.equal(await config(0x3d, 1), 1);
  for (const [bar, size] of [
    [0, 256],
    [1, 4096],
    [2, 4096],
    [3, 131072],
  ] as const) {
    const at = 0x10 + 4 * bar;
    await put(device, REGION.CONFIG, at, 0xffff_ffff);
    assert.equal(await config(at), (0x1_0000_0000 - size) >>> 0, `BAR ${bar}: 32 bits of memory`);
    assert.equal(device.regions[bar]!.size, size);
  }
  for (const at of [0x20, 0x24, 0x30]) {
    await put(device, REGION.CONFIG, at, 0xffff_f800);
    assert.equal(await config(at), 0);
  }
  const found = new Map<number, number>();
  for (let at = await config(0x34, 1); at !== 0; at = await config(at + 1, 1))
    found.set(await config(at, 1), at);
  assert.deepEqual(
    [...found.keys()].sort((a, b) => a - b),
    [0x09, 0x10, 0x11],
  );
  const msix = found.get(0x11)!;
  assert.equal((await config(msix + 2, 2)) + 1, 5, 'a vector for each of four queues, and for the upgrade');
  assert.deepEqual([await config(msix + 4), await config(msix + 8)], [2, 2048 | 2]);
  assert.deepEqual(device.irqs, [1, 0, 5, 0, 0]);
  const own = found.get(0x09)!;
  assert.equal(await config(own + 2, 1), 9);
  assert.equal(Buffer.from(new Uint32Array([await config(own + 3)]).buffer).toString(), 'PLNC');
  assert.equal(await config(own + 7, 1), 1, 'version');
  assert.equal(await config(own + 8, 1), 1, 'previews');
});

pciTest('a guest resets the function by its configuration space', async make => {
  const card = await make.card();
  const { device } = card;
  const place = await withMemory(card, make.ram());
  await card.context(0, place(0));
  await card.context(1, place(1));
  await card.write(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
  await put(device, REGION.CONFIG, 0x10, 0xfebf_0000);
  let at = await get(device, REGION.CONFIG, 0x34, 1);
  while ((await get(device, REGION.CONFIG, at, 1)) !== 0x10) at = await get(device, REGION.CONFIG, at + 1, 1);
  await put(device, REGION.CONFIG, at + 8, 0xa810, 2);
  assert.equal(await card.read(REG.STATUS), 0);
  assert.equal(await get(device, REGION.CONFIG, 0x10), 0);
  assert.equal(card.nic.running, false);
  await card.context(0, place(0));
  assert.equal(await card.read(REG.STATUS), STATUS.LINK, 'it has its memory still');
});

pciTest('the dump: its length with the NUL, four bytes at a time, the NIC as it sees itself', async make => {
  const card = await make.card(fresh);
  const text = await card.dump();
  assert.ok(text.endsWith('\n\0'));
  assert.match(text, /^status none, features 0x1ff\ndevice sring_gso, /);
  assert.match(text, /^queue 3 tx: 64 descriptors, no context, fault none$/m);
  await card.write(REG.DUMP_OFS, 7);
  assert.equal(await card.read(REG.DUMP_OFS), 7);
  assert.equal(await card.read(REG.DUMP_INPUT), Buffer.from(text).readUInt32LE(7));
  await card.write(REG.DUMP_OFS, text.length - 1);
  assert.equal(await card.read(REG.DUMP_INPUT), 0);
  await card.write(REG.DUMP_OFS, text.length);
  assert.equal(await card.read(REG.DUMP_OFS), text.length - 1, 'behind the end: ignored');
  const many = await make.card({ queuePairs: 32 });
  const long = await many.dump();
  assert.ok(long.length <= 4096 && long.endsWith('and more\n\0'), `${long.length} bytes`);
});

pciTest('an upgrade: its vector waits for whoever connects it, registers show what comes', async make => {
  const card = await make.card({ queuePairs: 1 });
  const { device, nic } = card;
  const place = await withMemory(card, make.ram());
  await card.context(0, place(0));
  await card.context(1, place(1));
  await card.write(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
  const running = STATUS.LINK | STATUS.RX_ENABLED | STATUS.TX_ENABLED;
  const upgrade = nic.upgrade({ device: deviceType('sring_gso')!, bufs: 128 });
  upgrade.catch(() => {});
  const vector = EventFd.create('guest: upgrade');
  await until(async () => (await get(device, BAR.MSIX, 2048, 1)) === 1 << 2);
  await device.connect(IRQ.MSIX, 2, vector.owner.dup());
  assert.equal(vector.drain(), 1);
  vector.close();
  assert.equal(await card.read(REG.STATUS), running | STATUS.UPGRADE);
  assert.equal(await card.read(REG.NUM_RX_BUFS), 128);
  assert.equal(await card.read(REG.TX_CTX_SIZE), 2096 + 512 + 32 * 128);
  assert.equal(await card.read(REG.FEATURES), 0x1ff);
  assert.equal(nic.device.name, 'sring');
  await card.write(REG.CTRL, CTRL.UPGRADE_READY); // while it runs: declined
  await assert.rejects(upgrade, { code: 'NIC_UPGRADE_DECLINED' });
  assert.equal(await card.read(REG.STATUS), running);
  assert.equal(await card.read(REG.NUM_RX_BUFS), 64);
});

pciTest('a driver that has read sizes of the contract before registers nothing for the next', async make => {
  const card = await make.card({ queuePairs: 1 });
  const place = await withMemory(card, make.ram());
  assert.equal(await card.read(REG.RX_CTX_SIZE), 2096 + 512 + 24 * 64);
  assert.equal((await card.nic.upgrade({ bufs: 512 })).outcome, 'waiting');
  assert.equal(await card.read(REG.STATUS), STATUS.UPGRADE, 'it has looked, so it is told');
  await card.context(0, place(0));
  assert.equal(await card.read(REG.STATUS), STATUS.UPGRADE);
  await card.write(REG.CTRL, CTRL.UPGRADE_READY);
  assert.equal(await card.read(REG.RX_CTX_SIZE), 2096 + 512 + 24 * 512);
  await card.context(0, place(0));
  assert.equal(await card.read(REG.STATUS), STATUS.LINK);
});

pciTest('who starts with contexts for what is announced has taken it', async make => {
  const card = await make.card({ queuePairs: 1 });
  const place = await withMemory(card, make.ram());
  const start = async (from: number) => {
    await card.context(0, place(from));
    await card.context(1, place(from + 1));
    await card.write(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
  };
  await start(0);
  const upgrade = card.nic.upgrade({ device: deviceType('vring_packed')! });
  await until(async () => ((await card.read(REG.STATUS)) & STATUS.UPGRADE) !== 0);
  await card.write(REG.CTRL, CTRL.RX_DISABLE | CTRL.TX_DISABLE);
  await start(2);
  assert.equal((await upgrade).outcome, 'done');
  assert.equal(await card.read(REG.STATUS), RX_READY | STATUS.TX_ENABLED);
});
