/** Interrupts of a function: who gets a signal, when, and that none is lost on the way from one eventfd to another. */
import assert from 'node:assert/strict';
import { EventFd, signalEventFd } from '../../src/linux/eventfd.js';
import { memfdOf } from '../../src/linux/memfd.js';
import { leakTest } from '../../src/linux/testing.js';
import { IRQ } from '../../src/linux/vfio-numbers.js';
import { expressCapability, MSIX_CONTROL, msixCapability } from '../../src/pci/capabilities.js';
import { COMMAND, ConfigSpace } from '../../src/pci/config-space.js';
import { Interrupts } from '../../src/pci/interrupts.js';
import { msixLayout } from '../../src/pci/msix.js';

const VECTORS = 70;

/** Interrupts, and a worker that signals whatever it has been told last. */
function made() {
  const { size, table, pba } = msixLayout(VECTORS);
  const msix = msixCapability(VECTORS, { bar: 2, offset: table }, { bar: 2, offset: pba });
  const config = new ConfigSpace({
    ...{ vendor: 1, device: 2, revision: 0, classCode: 0, subsystemVendor: 0, subsystem: 0, interruptPin: 1 },
    ...{ bars: [null, null, { space: 'memory', size }], capabilities: [msix, expressCapability()] },
  });
  const interrupts = new Interrupts({ config, vectors: VECTORS, intx: true, name: 'test' });
  const told: number[] = [];
  const worker = Array.from({ length: VECTORS }, (_, i) => interrupts.msix.target(i).fd);
  interrupts.msix.onTarget = async (index, { fd }) => {
    await null;
    told.push(index);
    worker[index] = fd;
  };
  return {
    ...{ config, interrupts, told, pba },
    /** The worker signals. */
    signal: (index: number) => assert.equal(signalEventFd(worker[index]!), 0),
    control: async (bits: number) => {
      config.write(config.offsetOf(msix) + 2, Uint8Array.of(bits, bits >>> 8));
      await interrupts.followConfig();
    },
    command: async (bits: number) => {
      config.write(4, Uint8Array.of(bits, bits >>> 8));
      await interrupts.followConfig();
    },
    /** Vectors whose pending bit is set. */
    pending: () => {
      const bits = new Uint8Array(16);
      interrupts.msix.read(pba, bits);
      return Array.from({ length: 128 }, (_, i) => i).filter(i => bits[i >>> 3]! & (1 << (i & 7)));
    },
  };
}

leakTest('what comes before a peer is there is pending, and delivered when it comes', async () => {
  const { interrupts, signal, pending } = made();
  assert.deepEqual(pending(), []);
  signal(0);
  signal(69);
  signal(69);
  interrupts.raise(IRQ.MSIX, 64);
  assert.deepEqual(pending(), [0, 64, 69]);
  assert.deepEqual(pending(), [0, 64, 69], 'looking takes nothing away');
  const peer = EventFd.create('peer');
  await interrupts.connect(IRQ.MSIX, 69, peer.owner.dup());
  assert.equal(peer.drain(), 1, 'once, however often');
  assert.deepEqual(pending(), [0, 64]);
  signal(69);
  assert.equal(peer.drain(), 1);
  peer.close();
  interrupts.close();
});

leakTest('another peer, then none: the former one is closed, and nothing is lost', async () => {
  const { interrupts, signal, pending, told } = made();
  const peers = [EventFd.create('one'), EventFd.create('two')] as const;
  await interrupts.connect(IRQ.MSIX, 1, peers[0].owner.dup());
  await interrupts.connect(IRQ.MSIX, 1, peers[1].owner.dup());
  signal(1);
  assert.deepEqual([peers[0].drain(), peers[1].drain()], [0, 1]);
  await interrupts.connect(IRQ.MSIX, 1, null);
  signal(1);
  assert.deepEqual([peers[0].drain(), peers[1].drain(), pending()], [0, 0, [1]]);
  assert.deepEqual(told, [1, 1, 1]);
  for (const peer of peers) peer.close();
  interrupts.close();
});

leakTest('each way to hold a vector back keeps what comes meanwhile', async () => {
  const { interrupts, signal, pending, control } = made();
  const peer = EventFd.create('peer');
  await interrupts.connect(IRQ.MSIX, 2, peer.owner.dup());
  const table = (masked: number) =>
    interrupts.msix.write(2 * 16 + 12, Uint8Array.of(masked, 0xff, 0xff, 0xff));
  const { ENABLE, FUNCTION_MASK } = MSIX_CONTROL;
  for (const [what, hold, letGo] of [
    ['peer', () => interrupts.mask(IRQ.MSIX, 2, true), () => interrupts.mask(IRQ.MSIX, 2, false)],
    ['function mask', () => control(ENABLE | FUNCTION_MASK), () => control(ENABLE)],
    ['table', () => table(1), () => table(0)],
  ] as const) {
    await hold();
    signal(2);
    assert.deepEqual([peer.drain(), pending()], [0, [2]], what);
    await letGo();
    assert.deepEqual([peer.drain(), pending()], [1, []], what);
  }
  await control(FUNCTION_MASK);
  signal(2);
  assert.equal(peer.drain(), 1, 'a function mask without MSI-X is none');
  peer.close();
  interrupts.close();
});

leakTest('the table is memory, but for its control words; the pending bits are not', async () => {
  const { interrupts, pba } = made();
  const read = (offset: number, length: number) => {
    const into = new Uint8Array(length).fill(0xee);
    interrupts.msix.read(offset, into);
    return [...into];
  };
  assert.deepEqual(read(12, 4), [1, 0, 0, 0], 'masked after a reset');
  const entry = Uint8Array.from({ length: 16 }, () => 0xff);
  await interrupts.msix.write(0, entry);
  assert.deepEqual(read(0, 16), [...entry.subarray(0, 12), 1, 0, 0, 0]);
  await interrupts.msix.write(69 * 16 + 8, new Uint8Array(64).fill(0x5a));
  assert.deepEqual(read(69 * 16 + 8, 12), [0x5a, 0x5a, 0x5a, 0x5a, 0, 0, 0, 0, 0, 0, 0, 0]);
  await interrupts.msix.write(pba, entry);
  assert.deepEqual(read(pba, 16), new Array(16).fill(0));
  interrupts.raise(IRQ.MSIX, 9);
  assert.deepEqual(read(pba - 1, 4), [0, 0, 2, 0]);
  await interrupts.reset();
  assert.deepEqual(read(0, 16), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
  assert.deepEqual(read(0, pba + 2048).filter(byte => byte > 1).length, 0);
  interrupts.close();
});

leakTest('a reset leaves peers, and takes away what is pending', async () => {
  const { interrupts, signal, pending, control } = made();
  const peer = EventFd.create('peer');
  await interrupts.connect(IRQ.MSIX, 0, peer.owner.dup());
  await control(0xc000);
  signal(0);
  signal(5);
  await interrupts.reset();
  assert.deepEqual([peer.drain(), pending()], [0, []]);
  signal(0);
  assert.equal(peer.drain(), 1);
  await interrupts.disconnect();
  signal(0);
  assert.deepEqual([peer.drain(), pending()], [0, [0]]);
  peer.close();
  interrupts.close();
});

leakTest('INTx is a level: told once, and again when it is still there', async () => {
  const { interrupts, config } = made();
  const peer = EventFd.create('peer');
  interrupts.setLevel(true);
  await interrupts.connect(IRQ.INTX, 0, peer.owner.dup());
  assert.equal(peer.drain(), 1);
  interrupts.setLevel(false);
  interrupts.setLevel(true);
  assert.equal(peer.drain(), 0, 'masked by having been told');
  await interrupts.mask(IRQ.INTX, 0, false);
  assert.equal(peer.drain(), 1);
  interrupts.setLevel(false);
  await interrupts.mask(IRQ.INTX, 0, false);
  assert.equal(peer.drain(), 0);
  const status = new Uint8Array(1);
  interrupts.setLevel(true);
  config.read(6, status);
  assert.equal(status[0]! & 8, 8);
  assert.equal(peer.drain(), 1);
  await interrupts.reset();
  await interrupts.mask(IRQ.INTX, 0, false);
  assert.equal(peer.drain(), 0);
  peer.close();
  interrupts.close();
});

leakTest('INTx waits while the guest has it disabled, or uses MSI-X', async () => {
  const { interrupts, command, control } = made();
  const peer = EventFd.create('peer');
  await interrupts.connect(IRQ.INTX, 0, peer.owner.dup());
  assert.equal(interrupts.usesMsix, false);
  await command(COMMAND.INTX_DISABLE);
  interrupts.setLevel(true);
  assert.equal(peer.drain(), 0);
  await command(0);
  assert.equal(peer.drain(), 1);
  await control(MSIX_CONTROL.ENABLE);
  assert.equal(interrupts.usesMsix, true);
  await interrupts.mask(IRQ.INTX, 0, false);
  assert.equal(peer.drain(), 0);
  await control(0);
  assert.equal(peer.drain(), 1);
  interrupts.setLevel(false);
  await interrupts.mask(IRQ.INTX, 0, true);
  interrupts.raise(IRQ.INTX, 0);
  assert.equal(peer.drain(), 0);
  await interrupts.mask(IRQ.INTX, 0, false);
  assert.equal(peer.drain(), 1, 'raised by the host');
  peer.close();
  interrupts.close();
});

leakTest('what is no eventfd, and what is no interrupt, is refused and closed', async () => {
  const { interrupts } = made();
  const file = () => memfdOf('no eventfd', new Uint8Array(8));
  for (const kind of [IRQ.MSIX, IRQ.INTX])
    await assert.rejects(interrupts.connect(kind, 0, file()), { code: 'EINVAL' });
  for (const [kind, index] of [
    [IRQ.MSIX, VECTORS],
    [IRQ.MSIX, -1],
    [IRQ.INTX, 1],
    [IRQ.MSI, 0],
    [IRQ.REQ, 0],
    [9, 0],
  ] as const) {
    await assert.rejects(interrupts.connect(kind, index, file()), RangeError);
    await assert.rejects(interrupts.mask(kind, index, true), RangeError);
    assert.throws(() => interrupts.raise(kind, index), RangeError);
  }
  assert.deepEqual(interrupts.counts, [1, 0, VECTORS, 0, 0]);
  interrupts.close();
});
