/**
 * A driver that is not ours: it does what every bpfhv driver does, in that order, at the registers, and knows nothing of ours. Its programs are those that it
 * has read out of the window.
 */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { CTRL, PROGRAMS, REG, STATUS } from '../../src/guest/bpfhv/registers.js';
import { BAR } from '../../src/guest/pci/bpfhv-numbers.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { IRQ } from '../../src/linux/vfio-numbers.js';
import { readFlow } from '../../src/port/flow.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, eventually, Testbed, window } from '../compliance/testbed.js';
import { type Card, get, memoryOf, pciTest, put, until } from './bpfhv-pci-rig.js';

const RX = 0;
const TX = 1;
const UPGRADE = 2;
const ENABLED = STATUS.RX_ENABLED | STATUS.TX_ENABLED;

class ForeignDriver {
  readonly bed = new Testbed({ device: 'sring', num: 64 });
  readonly vectors = [RX, TX, UPGRADE].map(i => EventFd.create(`guest: vector ${i}`));
  readonly #card: Card;
  readonly #flows = [arena.allocate(L.PORT_SIZE), arena.allocate(L.PORT_SIZE)] as const;

  constructor(card: Card) {
    this.#card = card;
  }

  /** Binds to the device. */
  async probe(): Promise<void> {
    const { device } = this.#card;
    await device.setMemory(memoryOf(this.bed.ram));
    assert.equal(await this.#card.read(REG.VERSION), 1);
    for (const [i, vector] of this.vectors.entries()) await device.connect(IRQ.MSIX, i, vector.owner.dup());
    await this.load();
  }

  /** Counts, sizes, programs, contexts, features; as at first, and after each upgrade. Returns how many buffers there are. */
  async load(): Promise<number> {
    const card = this.#card;
    assert.deepEqual([await card.read(REG.NUM_RX_QUEUES), await card.read(REG.NUM_TX_QUEUES)], [1, 1]);
    const bufs = await card.read(REG.NUM_RX_BUFS);
    assert.ok((await card.read(REG.RX_CTX_SIZE)) <= this.bed.rx.contextSize);
    assert.ok((await card.read(REG.TX_CTX_SIZE)) <= this.bed.tx.contextSize);
    const programs = new Map<string, Uint8Array>();
    for (const { number, section } of PROGRAMS) {
      await card.write(REG.PROG_SELECT, number);
      const words = new Uint32Array(2 * (await card.read(REG.PROG_SIZE)));
      for (let i = 0; i < words.length; i++) words[i] = await get(card.device, BAR.PROGRAM, 4 * i);
      if (words.length > 0) programs.set(section, new Uint8Array(words.buffer));
    }
    this.bed.load('jit', programs);
    for (const [queue, side] of [this.bed.rx, this.bed.tx].entries()) {
      this.bed.datapath.calls.driver_reset(side.driver, bufs);
      await card.context(queue, this.bed.ram.toGuest(side.context));
    }
    await card.write(REG.FEATURES, (await card.read(REG.FEATURES)) & 0x7f);
    return bufs;
  }

  async enable(): Promise<void> {
    await this.#card.write(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
    assert.equal((await this.#card.read(REG.STATUS)) & ENABLED, ENABLED);
  }

  /** Stops, takes completions, then the rest; every buffer comes back. */
  async stop(): Promise<void> {
    const { calls } = this.bed.datapath;
    await this.#card.write(REG.CTRL, CTRL.RX_DISABLE | CTRL.TX_DISABLE);
    assert.equal((await this.#card.read(REG.STATUS)) & ENABLED, 0);
    assert.ok(calls.driver_tx_complete(this.bed.tx.driver, 128) >= 0);
    this.poll(false);
    for (const side of this.bed.sides) {
      const posted = this.bed.driver(side, L.DRIVER_POSTED);
      assert.equal(calls.driver_reclaim(side.driver), posted);
    }
  }

  /** As the facts say of an upgrade: stop, ready, look again. */
  async upgrade(): Promise<number> {
    await this.stop();
    await this.#card.write(REG.CTRL, CTRL.UPGRADE_READY);
    assert.equal((await this.#card.read(REG.STATUS)) & STATUS.UPGRADE, 0);
    return this.load();
  }

  /** Sends numbered frames, and rings when the program says so: by a write to the doorbell. */
  async send(count: number): Promise<number> {
    const { guestBatch, tx } = this.bed;
    const { calls } = this.bed.datapath;
    assert.ok(calls.driver_tx_complete(tx.driver, 128) >= 0);
    calls.driver_tx_room(tx.driver, guestBatch.address, count);
    const n = calls.source_fill(this.#flows[TX], guestBatch.address, guestBatch.count, 60);
    if (calls.driver_tx_publish(tx.driver, guestBatch.address, n) > 0)
      await put(this.#card.device, BAR.DOORBELLS, (await this.#card.read(REG.DOORBELL_SIZE)) * TX, 0);
    return n;
  }

  /** Takes what has come, and lends the buffers again. */
  poll(lend = true): number {
    const { guestBatch, rx } = this.bed;
    const { calls } = this.bed.datapath;
    const n = calls.driver_rx_poll(rx.driver, guestBatch.address, 64);
    assert.ok(n >= 0);
    calls.sink_drain(this.#flows[RX], guestBatch.address);
    calls.driver_rx_release(rx.driver, guestBatch.address);
    if (lend) calls.driver_rx_refill(rx.driver);
    return n;
  }

  get received() {
    return readFlow(window, this.#flows[RX]);
  }

  close(): void {
    this.bed.close();
    for (const vector of this.vectors) vector.close();
    for (const flow of this.#flows) arena.free(flow);
  }
}

/** Frames that are sent arrive. */
async function flows(driver: ForeignDriver, card: Card): Promise<void> {
  const before = card.flow.sequence;
  let sent = 0;
  await until(async () => (sent += await driver.send(16)) >= 100);
  await eventually(() => card.flow.sequence === before + sent);
  assert.equal(card.flow.outOfOrder, 0);
}

/** Another type as far as the NIC can tell; the testbed has its rings. */
const other = { ...deviceType('sring')! };

pciTest(
  'a driver in the order of the ABI: probe, traffic, an upgrade, a smaller ring, traffic',
  async make => {
    const card = await make.card({ doorbellSize: 64 });
    const driver = new ForeignDriver(card);
    try {
      await driver.probe();
      await driver.enable();
      await flows(driver, card);
      await eventually(
        () => driver.vectors[TX]!.drain() > 0 || driver.bed.driver(driver.bed.tx, L.DRIVER_FREE_COUNT) > 0,
      );
      for (const [to, bufs] of [
        [other, 32],
        [deviceType('sring')!, 64],
        [undefined, 16],
      ] as const) {
        const done = card.nic.upgrade({ ...(to ? { device: to } : {}), bufs });
        await eventually(() => driver.vectors[UPGRADE]!.drain() === 1);
        await flows(driver, card); // the old contract runs on until the driver has time
        assert.equal(await driver.upgrade(), bufs);
        assert.equal((await done).outcome, 'done', 'before the interface is up again');
        await driver.enable();
        await flows(driver, card);
      }
    } finally {
      driver.close();
    }
  },
);

pciTest('frames come in, by interrupts of the queue', async make => {
  const card = await make.card({ port: 'source' });
  const driver = new ForeignDriver(card);
  try {
    await driver.probe();
    driver.poll(); // lends buffers
    await driver.enable();
    await eventually(() => driver.vectors[RX]!.drain() > 0);
    let got = 0;
    await until(async () => {
      got += driver.poll();
      await put(card.device, BAR.DOORBELLS, 0, 1);
      return got >= 200;
    });
    // Held back, it is pending, and comes when it is let go.
    await card.device.mask(IRQ.MSIX, RX, true);
    driver.vectors[RX]!.drain();
    await until(async () => {
      driver.poll();
      await put(card.device, BAR.DOORBELLS, 0, 1);
      return ((await get(card.device, BAR.MSIX, 2048, 1)) & (1 << RX)) !== 0;
    });
    assert.equal(driver.vectors[RX]!.drain(), 0);
    await card.device.mask(IRQ.MSIX, RX, false);
    assert.ok(driver.vectors[RX]!.drain() > 0);
    assert.equal((await get(card.device, BAR.MSIX, 2048, 1)) & (1 << RX), 0);
    await driver.stop();
    assert.equal(driver.received.outOfOrder, 0);
    assert.ok(driver.received.sequence >= got);
  } finally {
    driver.close();
  }
});

pciTest(
  'a driver that takes no notice keeps its contract, across an interface that goes down and up',
  async make => {
    const card = await make.card();
    const driver = new ForeignDriver(card);
    try {
      await driver.probe();
      await driver.enable();
      const late = card.nic.upgrade({ device: deviceType('vring_packed')!, timeoutMs: 300 });
      late.catch(() => {});
      await eventually(() => driver.vectors[UPGRADE]!.drain() === 1);
      await flows(driver, card);
      await driver.stop();
      for (const side of driver.bed.sides) driver.bed.datapath.calls.driver_reset(side.driver, 64);
      await driver.enable();
      await flows(driver, card);
      await assert.rejects(late, { code: 'NIC_UPGRADE_TIMEOUT' });
      await flows(driver, card);
      // It has been announced its own contract, so that it can't take the other one by mistake.
      await eventually(() => driver.vectors[UPGRADE]!.drain() === 1);
      assert.equal(await driver.upgrade(), 64);
      await driver.enable();
      await flows(driver, card);
    } finally {
      driver.close();
    }
  },
);

pciTest('a driver that gives up half way: the contract is taken back, and it may come again', async make => {
  const card = await make.card();
  const driver = new ForeignDriver(card);
  try {
    await driver.probe();
    await driver.enable();
    const late = card.nic.upgrade({ device: deviceType('vring_packed')!, timeoutMs: 200 });
    late.catch(() => {});
    await eventually(() => driver.vectors[UPGRADE]!.drain() === 1);
    await driver.stop();
    await card.write(REG.CTRL, CTRL.UPGRADE_READY); // and can make nothing of the programs
    await assert.rejects(late, { code: 'NIC_UPGRADE_TIMEOUT' });
    await eventually(() => driver.vectors[UPGRADE]!.drain() === 1);
    assert.equal(card.nic.device.name, 'sring');
    await card.write(REG.CTRL, CTRL.UPGRADE_READY);
    await driver.load();
    await driver.enable();
    await flows(driver, card);
  } finally {
    driver.close();
  }
});
