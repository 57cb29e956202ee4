/** A virtio network card on a PCI bus, register by register, with frames that move when they should and not otherwise. */
import assert from 'node:assert/strict';
import { COMMON, PCI_NET_FEATURE as P, STATUS } from '../../src/guest/pci/virtio-numbers.js';
import { signalEventFd } from '../../src/linux/eventfd.js';
import { eventually } from '../../src/linux/testing.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { NET_FEATURE } from '../../src/nic/virtio-offers.js';
import { VirtioNetFunction } from '../../src/pci/virtio/index.js';
import { LEGACY } from '../../src/pci/virtio/numbers.js';
import { areaWritten } from '../../src/ring/virtio/areas.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { GuestRings } from './guest-rings.js';
import { AT, BAR, MAC, pciTest, window } from './virtio-pci-rig.js';

const RINGS = [
  ['split', F.VERSION_1],
  ['split, event index, mergeable', F.VERSION_1 | F.EVENT_IDX | F.MRG_RXBUF],
  ['packed', F.VERSION_1 | F.RING_PACKED],
  ['packed, event index, indirect', F.VERSION_1 | F.RING_PACKED | F.EVENT_IDX | F.INDIRECT_DESC],
] as const;

for (const [what, accept] of RINGS) {
  for (const msix of [true, false]) {
    pciTest(
      `${what}, ${msix ? 'MSI-X' : 'INTx'}: start, reset, start, reset of the function, start`,
      async start => {
        const rig = await start({ portSpec: 'source' });
        await rig.drive({ accept, msix });
        await rig.flows();
        await rig.set(COMMON.STATUS, 0, 1);
        assert.equal(await rig.status(), 0);
        assert.ok(!rig.nic.running);
        await rig.drive({ accept, msix });
        await rig.flows();
        await rig.fn.reset();
        assert.ok(!rig.nic.running);
        await rig.drive({ accept, msix });
        await rig.flows();
      },
    );
  }
}

for (const msix of [true, false]) {
  for (const [what, accept] of [
    ['nothing but ANY_LAYOUT', F.ANY_LAYOUT],
    ['mergeable buffers, event index', F.ANY_LAYOUT | F.MRG_RXBUF | F.EVENT_IDX],
  ] as const) {
    pciTest(`a driver from before the standard, ${msix ? 'MSI-X' : 'INTx'}, ${what}`, async start => {
      const rig = await start({ portSpec: 'source', transitional: true });
      await rig.drive({ legacy: true, msix, accept });
      await rig.flows();
      await rig.write(BAR.LEGACY, LEGACY.STATUS, 0, 1);
      assert.equal(await rig.read(BAR.LEGACY, LEGACY.STATUS, 1), 0);
      await rig.drive({ legacy: true, msix, accept });
      await rig.flows();
      await rig.drive({ msix });
      await rig.flows();
    });
  }
}

pciTest('what it says of itself: standard and transitional', async start => {
  for (const [transitional, device, revision, subsystem, port] of [
    [false, 0x1041, 1, 0x1100, 0],
    [true, 0x1000, 0, 1, 64],
  ] as const) {
    const rig = await start({ transitional, pairs: 2 });
    const config = (offset: number, size: number) => rig.read(REGION.CONFIG, offset, size);
    assert.equal(await config(0, 2), 0x1af4);
    assert.equal(await config(2, 2), device);
    assert.equal(await config(8, 1), revision);
    assert.equal(await config(9, 3), 0x02_0000);
    assert.equal(await config(0x2c, 2), 0x1af4);
    assert.equal(await config(0x2e, 2), subsystem);
    assert.equal(await config(0x3d, 1), 1);
    assert.deepEqual(
      rig.fn.regions.slice(0, 6).map(({ size }) => size),
      [port, 4096, 0, 0, 16384, 0],
    );
    // A vector for each ring, the control queue and the configuration.
    assert.equal(rig.fn.irqs[IRQ.MSIX], 6);
    const found = new Map<number, { bar: number; offset: number; length: number }>();
    for (let at = await config(0x34, 1); at !== 0; at = await config(at + 1, 1)) {
      if ((await config(at, 1)) !== 9) continue;
      const place = {
        bar: await config(at + 4, 1),
        offset: await config(at + 8, 4),
        length: await config(at + 12, 4),
      };
      const type = await config(at + 3, 1);
      found.set(type, place);
      if (type === 2) assert.equal(await config(at + 16, 4), 4);
    }
    assert.deepEqual([...found].sort(), [
      [1, { bar: 4, offset: 0, length: 60 }],
      [2, { bar: 4, offset: 0x3000, length: 20 }],
      [3, { bar: 4, offset: 0x1000, length: 1 }],
      [4, { bar: 4, offset: 0x2000, length: 12 }],
      [5, { bar: 0, offset: 0, length: 0 }],
    ]);
  }
});

pciTest('features: what is offered, in halves; what is refused; what can be taken back', async start => {
  const rig = await start({ pairs: 2, transitional: true });
  const offer = await rig.offer();
  const wanted = P.MAC | P.STATUS | P.CTRL_VQ | P.CTRL_RX | P.CTRL_MAC_ADDR | P.RING_RESET;
  assert.equal(offer & wanted, wanted);
  const both = F.VERSION_1 | F.ACCESS_PLATFORM | F.RING_PACKED | NET_FEATURE.MQ | NET_FEATURE.GUEST_ANNOUNCE;
  assert.equal(offer & both, both);
  assert.equal(offer & (F.LOG_ALL | F.ANY_LAYOUT | NET_FEATURE.MTU | (1n << 30n)), 0n);
  await rig.set(COMMON.DEVICE_FEATURE_SELECT, 2, 4);
  assert.equal(await rig.get(COMMON.DEVICE_FEATURE, 4), 0);
  const legacy = BigInt(await rig.read(BAR.LEGACY, LEGACY.DEVICE_FEATURES, 4));
  assert.equal(legacy, (offer & 0xffff_ffffn) | F.ANY_LAYOUT);

  for (const [accept, agreed] of [
    [F.VERSION_1, true],
    [F.VERSION_1 | F.ACCESS_PLATFORM, true],
    [offer, true],
    [0n, false],
    [offer & ~F.VERSION_1, false],
    [F.VERSION_1 | F.LOG_ALL, false],
    [F.VERSION_1 | F.ANY_LAYOUT, false],
    [F.VERSION_1 | (1n << 63n), false],
  ] as const) {
    await rig.set(COMMON.STATUS, 0, 1);
    await rig.accept(accept);
    assert.equal(
      (await rig.status()) & STATUS.FEATURES_OK,
      agreed ? STATUS.FEATURES_OK : 0,
      `0x${accept.toString(16)}`,
    );
    await rig.set(COMMON.DRIVER_FEATURE_SELECT, 0, 4);
    await rig.set(COMMON.DRIVER_FEATURE, 0, 4);
    const kept = BigInt(await rig.get(COMMON.DRIVER_FEATURE, 4));
    assert.equal(kept, agreed ? accept & 0xffff_ffffn : 0n);
    await rig.set(COMMON.STATUS, STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.DRIVER_OK, 1);
    assert.equal((await rig.status()) & STATUS.DRIVER_OK, agreed ? STATUS.DRIVER_OK : 0);
  }
});

pciTest('what is withheld is not offered, and not agreed on', async start => {
  const rig = await start({ withhold: F.RING_PACKED | P.CTRL_RX });
  assert.equal((await rig.offer()) & (F.RING_PACKED | P.CTRL_RX | F.VERSION_1), F.VERSION_1);
  await rig.accept(F.VERSION_1 | F.RING_PACKED);
  assert.equal((await rig.status()) & STATUS.FEATURES_OK, 0);
});

pciTest('the largest packet is said where it is known', async start => {
  const rig = await start({ mtu: 9000 });
  assert.equal((await rig.offer()) & NET_FEATURE.MTU, NET_FEATURE.MTU);
  assert.equal(await rig.read(BAR.MODERN, AT.DEVICE + 10, 2), 9000);
  await rig.drive({ accept: F.VERSION_1 | NET_FEATURE.MTU });
  assert.match(rig.nic.dump(), /MTU 9000/);
});

for (const packed of [false, true]) {
  pciTest(
    `${packed ? 'packed' : 'split'}: areas that are only read, in memory that may not be written`,
    async start => {
      const rig = await start({ portSpec: 'source' });
      const { fd, size, guestPhysicalAddress } = rig.ram;
      // All of its memory once more, as an IOMMU shows what a driver has mapped for reading.
      const again = guestPhysicalAddress + BigInt(size);
      await rig.fn.setMemory(
        [guestPhysicalAddress, again].map(gpa => ({
          ...{ guestPhysicalAddress: gpa, hypervisorVirtualAddress: gpa, size: BigInt(size) },
          ...{ mmapOffset: 0n, fd: fd.dup(), writable: gpa !== again },
        })),
      );
      const enable = rig.enable.bind(rig);
      const written = areaWritten(packed);
      rig.enable = (index, num, areas, vector) => {
        const at = (name: keyof typeof areas) => areas[name] + (written[name] ? 0n : BigInt(size));
        const moved = { descriptor: at('descriptor'), driver: at('driver'), device: at('device') };
        return enable(index, num, moved, vector);
      };
      await rig.drive({ accept: F.VERSION_1 | (packed ? F.RING_PACKED : 0n) });
      await rig.flows();
      assert.doesNotMatch(rig.log.join(), /warn/);
    },
  );
}

pciTest('queues are no longer than the NIC can have them', async start => {
  const limits = { queuePairs: 1, bufs: 100 };
  const rig = await start({ nicOptions: { limits } });
  assert.equal(await rig.get(COMMON.QUEUE_SIZE, 2), 64);
  for (const queueSize of [128, 96, 0, 0.5, Number.NaN]) {
    const options = { nic: rig.nic, window, mac: MAC, queueSize };
    assert.throws(() => new VirtioNetFunction(options), { name: 'RangeError', message: /at most 100/ });
  }
});

pciTest('queues: registers of each, and of one that there is not', async start => {
  const rig = await start({ pairs: 2, queueSize: 128 });
  assert.equal(await rig.get(COMMON.NUM_QUEUES, 2), 5);
  for (let queue = 0; queue < 7; queue++) {
    await rig.set(COMMON.QUEUE_SELECT, queue, 2);
    const there = queue < 5;
    const registers = async () => [
      await rig.get(COMMON.QUEUE_SIZE, 2),
      await rig.get(COMMON.QUEUE_VECTOR, 2),
      await rig.get(COMMON.QUEUE_ENABLE, 2),
      await rig.get(COMMON.QUEUE_NOTIFY_OFF, 2),
      await rig.get(COMMON.QUEUE_DESCRIPTOR + 4, 4),
    ];
    const fresh = there ? [128, 0xffff, 0, queue, 0] : [0, 0xffff, 0, 0, 0];
    assert.deepEqual(await registers(), fresh);
    await rig.set(COMMON.QUEUE_SIZE, 129, 2);
    await rig.set(COMMON.QUEUE_SIZE, 0, 2);
    assert.deepEqual(await registers(), fresh);
    await rig.set(COMMON.QUEUE_SIZE, 64, 2);
    await rig.set(COMMON.QUEUE_VECTOR, 5, 2);
    await rig.set(COMMON.QUEUE_DESCRIPTOR + 4, 0x1234, 4);
    const described = there ? [64, 5, 0, queue, 0x1234] : fresh;
    assert.deepEqual(await registers(), described);
    await rig.set(COMMON.QUEUE_ENABLE, 2, 2);
    assert.deepEqual(await registers(), described);
    await rig.set(COMMON.QUEUE_ENABLE, 1, 2);
    await rig.set(COMMON.QUEUE_SIZE, 32, 2);
    await rig.set(COMMON.QUEUE_DESCRIPTOR + 4, 0x5678, 4);
    await rig.set(COMMON.QUEUE_ENABLE, 0, 2);
    assert.deepEqual(await registers(), there ? [64, 5, 1, queue, 0x1234] : fresh);
    // A vector that there is not reads back as none.
    await rig.set(COMMON.QUEUE_VECTOR, 6, 2);
    assert.equal(await rig.get(COMMON.QUEUE_VECTOR, 2), 0xffff);
  }
  await rig.set(COMMON.CONFIG_VECTOR, 3, 2);
  assert.equal(await rig.get(COMMON.CONFIG_VECTOR, 2), 3);
  await rig.set(COMMON.CONFIG_VECTOR, 6, 2);
  assert.equal(await rig.get(COMMON.CONFIG_VECTOR, 2), 0xffff);
  await rig.set(COMMON.STATUS, 0, 1);
  await rig.set(COMMON.QUEUE_SELECT, 1, 2);
  assert.equal(await rig.get(COMMON.QUEUE_SIZE, 2), 128);
  assert.equal(await rig.get(COMMON.QUEUE_ENABLE, 2), 0);
});

pciTest(
  'accesses of other sizes than the registers: parts, several at once, and where nothing is',
  async start => {
    const rig = await start({ pairs: 1 });
    // Size and vector of queue 1 in one access that begins in the middle of what selects it.
    await rig.fn.write(BAR.MODERN, COMMON.QUEUE_SELECT, Uint8Array.of(1, 0, 32, 0, 2, 0));
    assert.deepEqual(
      await rig.bytes(BAR.MODERN, COMMON.QUEUE_SELECT, 10),
      Uint8Array.of(1, 0, 32, 0, 2, 0, 0, 0, 1, 0),
    );
    await rig.fn.write(BAR.MODERN, COMMON.QUEUE_DESCRIPTOR + 3, Uint8Array.of(0xaa, 0xbb));
    assert.equal(await rig.get(COMMON.QUEUE_DESCRIPTOR, 4), 0xaa00_0000);
    assert.equal(await rig.get(COMMON.QUEUE_DESCRIPTOR + 4, 4), 0xbb);
    const before = await rig.bytes(BAR.MODERN, 0, 0x4000);
    await rig.fn.write(BAR.MODERN, 0x100, new Uint8Array(0xf00).fill(0xff));
    await rig.fn.write(BAR.MODERN, AT.DEVICE + 12, new Uint8Array(0x100).fill(0xff));
    assert.deepEqual(await rig.bytes(BAR.MODERN, 0, 0x4000), before);
  },
);

pciTest(
  'what a driver from before the standard finds: where each register is, with and without MSI-X',
  async start => {
    const rig = await start({ transitional: true, mtu: 1400 });
    const get = (offset: number, size: number) => rig.read(BAR.LEGACY, offset, size);
    const set = (offset: number, value: number, size: number) => rig.write(BAR.LEGACY, offset, value, size);
    assert.deepEqual(await rig.bytes(BAR.LEGACY, 20, 6), MAC);
    assert.equal(await get(20 + 10, 2), 1400);
    await rig.setMsixControl(0x8000);
    assert.equal(await get(LEGACY.CONFIG_VECTOR, 2), 0xffff);
    assert.deepEqual(await rig.bytes(BAR.LEGACY, 24, 6), MAC);
    await set(LEGACY.CONFIG_VECTOR, 1, 2);
    assert.equal(await get(LEGACY.CONFIG_VECTOR, 2), 1);
    await set(LEGACY.QUEUE_SELECT, 1, 2);
    await set(LEGACY.QUEUE_VECTOR, 99, 2);
    assert.equal(await get(LEGACY.QUEUE_VECTOR, 2), 0xffff);
    await rig.setMsixControl(0);
    assert.deepEqual(await rig.bytes(BAR.LEGACY, 20, 6), MAC);

    // The size is the card's to say; a page makes a queue, page 0 takes it away.
    assert.equal(await get(LEGACY.QUEUE_SIZE, 2), 256);
    await set(LEGACY.QUEUE_SIZE, 64, 2);
    assert.equal(await get(LEGACY.QUEUE_SIZE, 2), 256);
    await set(LEGACY.QUEUE_PFN, 0xabcdef, 4);
    assert.equal(await get(LEGACY.QUEUE_PFN, 4), 0xabcdef);
    await set(LEGACY.QUEUE_PFN, 0x123, 4);
    assert.equal(await get(LEGACY.QUEUE_PFN, 4), 0xabcdef);
    await set(LEGACY.QUEUE_PFN, 0, 4);
    await set(LEGACY.QUEUE_PFN, 0x123, 4);
    assert.equal(await get(LEGACY.QUEUE_PFN, 4), 0x123);
    await set(LEGACY.QUEUE_SELECT, 9, 2);
    assert.equal(await get(LEGACY.QUEUE_SIZE, 2), 0);
    assert.equal(await get(LEGACY.QUEUE_PFN, 4), 0);

    // It can't take what has no bit there, and writes its address byte by byte.
    await set(LEGACY.DRIVER_FEATURES, 0xffff_ffff, 4);
    assert.equal(await get(LEGACY.DRIVER_FEATURES, 4), await get(LEGACY.DEVICE_FEATURES, 4));
    assert.equal(rig.fn.device.features & F.VERSION_1, 0n);
    await set(20 + 5, 0x11, 1);
    assert.deepEqual(await rig.bytes(BAR.LEGACY, 20, 6), Uint8Array.of(2, 0, 0, 0xaa, 0xbb, 0x11));
    await set(LEGACY.STATUS, 0, 1);
    assert.deepEqual(await rig.bytes(BAR.LEGACY, 20, 6), MAC);
  },
);

pciTest('drivers of the standard have a command for the address, and can not write it', async start => {
  const rig = await start();
  await rig.accept(F.VERSION_1);
  await rig.write(BAR.MODERN, AT.DEVICE, 0, 4);
  assert.deepEqual(await rig.bytes(BAR.MODERN, AT.DEVICE, 6), MAC);
});

pciTest('INTx: asserted by rings and changes, until the reason is read', async start => {
  const rig = await start({ portSpec: 'source' });
  const asserted = async () => ((await rig.read(REGION.CONFIG, 6, 1)) & 8) !== 0;
  await rig.drive({ msix: false });
  assert.ok(!(await asserted()));
  rig.rings!.publish(1);
  await eventually(() => rig.intx.drain() > 0);
  assert.ok(await asserted());
  assert.equal(await rig.read(BAR.MODERN, AT.ISR, 1), 1);
  assert.ok(!(await asserted()));
  assert.equal(await rig.read(BAR.MODERN, AT.ISR, 4), 0);
  // The host has masked the line; it looks again when the guest is done with it.
  rig.rings!.publish(1);
  await eventually(() => rig.packets(1) === 2);
  rig.fn.device.setLink(false);
  assert.equal(rig.intx.drain(), 0);
  rig.fn.mask(IRQ.INTX, 0, false);
  await eventually(() => rig.intx.drain() > 0);
  assert.equal((await rig.read(BAR.MODERN, AT.ISR, 1)) & 2, 2);
});

pciTest('MSI-X: each ring and the configuration has its vector, or none', async start => {
  const rig = await start({ portSpec: 'source' });
  await rig.drive();
  rig.rings!.publish(1);
  await eventually(() => rig.vectors[2]!.drain() > 0);
  rig.rings!.refill();
  await eventually(() => rig.vectors[1]!.drain() > 0);
  assert.equal(rig.vectors[0]!.drain(), 0);
  rig.fn.device.setLink(false);
  assert.ok(rig.vectors[0]!.drain() > 0);
  assert.equal(rig.intx.drain(), 0);

  // Another vector while it runs; then none.
  await rig.set(COMMON.QUEUE_SELECT, 1, 2);
  await rig.set(COMMON.QUEUE_VECTOR, 0, 2);
  rig.rings!.publish(1);
  await eventually(() => rig.vectors[0]!.drain() > 0);
  await rig.set(COMMON.QUEUE_VECTOR, 0xffff, 2);
  rig.rings!.publish(1);
  await eventually(() => rig.packets(1) === 3);

  // Masked by the host: pending, until it is unmasked.
  await rig.set(COMMON.QUEUE_VECTOR, 2, 2);
  await rig.fn.mask(IRQ.MSIX, 2, true);
  rig.vectors[2]!.drain();
  rig.rings!.publish(1);
  await eventually(() => rig.packets(1) === 4);
  const pending = async () => (await rig.read(BAR.MSIX, 2048, 1)) & 4;
  while ((await pending()) === 0) await new Promise(resolve => setImmediate(resolve));
  assert.equal(rig.vectors[2]!.drain(), 0);
  await rig.fn.mask(IRQ.MSIX, 2, false);
  assert.ok(rig.vectors[2]!.drain() > 0);
  assert.equal(await pending(), 0);
});

pciTest('from INTx to MSI-X and back while it runs', async start => {
  const rig = await start();
  await rig.drive({ msix: false });
  await rig.set(COMMON.QUEUE_SELECT, 1, 2);
  await rig.set(COMMON.QUEUE_VECTOR, 2, 2);
  await rig.useMsix();
  rig.rings!.publish(1);
  await eventually(() => rig.vectors[2]!.drain() > 0);
  await rig.setMsixControl(0);
  for (const i of rig.vectors.keys()) await rig.fn.connect(IRQ.MSIX, i, null);
  // A ring whose interrupt goes elsewhere is interrupted there at once: what was due may be lost.
  await eventually(() => rig.intx.drain() > 0);
  assert.equal(await rig.read(BAR.MODERN, AT.ISR, 1), 1);
  await rig.fn.mask(IRQ.INTX, 0, false);
  rig.rings!.publish(1);
  await eventually(() => rig.intx.drain() > 0);
});

pciTest('the link goes down and up, and the network changes', async start => {
  const rig = await start({ portSpec: 'source' });
  const status = () => rig.read(BAR.MODERN, AT.DEVICE + 6, 2);
  const generation = () => rig.get(COMMON.GENERATION, 1);
  await rig.drive({ accept: F.VERSION_1 | P.STATUS | P.CTRL_VQ | NET_FEATURE.GUEST_ANNOUNCE });
  assert.equal(await status(), 1);
  const before = await generation();
  rig.fn.device.setLink(false);
  assert.equal(await status(), 0);
  assert.notEqual(await generation(), before);
  rig.fn.device.setLink(true);
  assert.equal(await status(), 1);
  assert.ok(rig.vectors[0]!.drain() === 2);
  await rig.fn.device.announce();
  assert.equal(await status(), 3);
  assert.equal(rig.port.counters().sent, 0);

  // A guest that can't is spoken for.
  await rig.drive({ accept: F.VERSION_1 });
  await rig.fn.device.announce();
  assert.equal(await status(), 1);
  assert.equal(rig.port.counters().sent, 1);
});

pciTest('queues come late, and one is reset while the others go on', async start => {
  const rig = await start({ portSpec: 'source' });
  const rings = new GuestRings({
    ...{ space: rig.ram, features: F.VERSION_1, num: 64, pairs: 1, kick: ring => void rig.kick(ring) },
  });
  rig.rings = rings;
  await rig.accept(F.VERSION_1 | P.RING_RESET);
  await rig.set(COMMON.STATUS, 0xf, 1);
  assert.ok(!rig.nic.running);
  for (const [i, { areas }] of rings.drivers.entries()) await rig.enable(i, 64, areas);
  await rig.flows();
  for (let round = 0; round < 3; round++) {
    await rig.set(COMMON.QUEUE_SELECT, 1, 2);
    await rig.set(COMMON.QUEUE_RESET, 1, 2);
    assert.equal(await rig.get(COMMON.QUEUE_RESET, 2), 0);
    assert.equal(await rig.get(COMMON.QUEUE_ENABLE, 2), 0);
    assert.equal(await rig.get(COMMON.QUEUE_SIZE, 2), 256);
    const received = rig.packets(0);
    await eventually(() => rings.poll() > 0 && rig.packets(0) > received);
    const sent = rig.packets(1);
    rings.drivers[1]!.reset();
    rings.publish(5, { kick: false });
    await rig.kick(1);
    assert.equal(rig.packets(1), sent);
    await rig.enable(1, 64, rings.drivers[1]!.areas);
    await eventually(() => rig.packets(1) === sent + 5);
  }
  await rig.flows();
});

pciTest('a queue is not reset by a driver that has not asked for it', async start => {
  const rig = await start();
  await rig.drive();
  await rig.set(COMMON.QUEUE_SELECT, 1, 2);
  await rig.set(COMMON.QUEUE_RESET, 1, 2);
  assert.equal(await rig.get(COMMON.QUEUE_ENABLE, 2), 1);
});

pciTest('memory comes after the driver, goes, and comes back', async start => {
  const rig = await start({ portSpec: 'source' });
  await rig.fn.setMemory([]);
  await rig.drive();
  assert.equal((await rig.status()) & STATUS.NEEDS_RESET, 0);
  await rig.giveMemory();
  await rig.flows();
  await rig.fn.setMemory([]);
  await rig.giveMemory();
  await rig.kick(0);
  await rig.kick(1);
  await rig.flows();
});

pciTest(
  'memory in as many pieces as the NIC takes; more are refused, and what was there stays',
  async start => {
    const rig = await start({ portSpec: 'source', nicOptions: { memorySlots: 256 } });
    const { fd, size, guestPhysicalAddress } = rig.ram;
    const pieces = (n: number) => {
      const own = fd.dup();
      const step = BigInt(size / n);
      return Array.from({ length: n }, (_, i) => ({
        ...{ guestPhysicalAddress: guestPhysicalAddress + BigInt(i) * step, size: step },
        ...{ hypervisorVirtualAddress: 0n, mmapOffset: BigInt(i) * step, fd: own },
      }));
    };
    await rig.fn.setMemory(pieces(256));
    await rig.drive();
    await rig.flows();
    await assert.rejects(rig.fn.setMemory(pieces(512)), { code: 'MEMORY_REGION' });
    await rig.flows();
    await rig.fn.setMemory(pieces(128).slice(1));
    await rig.fn.setMemory(pieces(128));
    await rig.kick(0);
    await rig.kick(1);
    await rig.flows();
  },
);

pciTest('what breaks: the driver is told, and a reset helps', async start => {
  const rig = await start({ portSpec: 'source' });
  const broken = async () => ((await rig.status()) & STATUS.NEEDS_RESET) !== 0;
  // An area that is in no memory.
  await rig.drive();
  await rig.set(COMMON.STATUS, 0, 1);
  await rig.accept(F.VERSION_1);
  await rig.set(COMMON.CONFIG_VECTOR, 0, 2);
  rig.vectors[0]!.drain();
  const { areas } = rig.rings!.drivers[0]!;
  await rig.enable(0, 64, { ...areas, device: 0xffff_ffff_ffff_fff0n });
  await rig.set(COMMON.STATUS, 0xf, 1);
  assert.ok(await broken());
  assert.ok(rig.vectors[0]!.drain() > 0);

  // An index ahead by more than the ring holds.
  await rig.drive();
  assert.ok(!(await broken()));
  await rig.flows();
  const driver = Number(rig.rings!.drivers[1]!.areas.driver - rig.ram.toGuest(0));
  new DataView(window.memory.buffer).setUint16(driver + 2, 0x4000, true);
  await rig.kick(1);
  while (!(await broken())) await new Promise(resolve => setImmediate(resolve));
  await rig.drive();
  assert.ok(!(await broken()));
  await rig.flows();
});

pciTest('what a guest provokes without end is not logged without end', async start => {
  const rig = await start();
  const nowhere = { descriptor: 0n, driver: 0n, device: 0n };
  for (let i = 0; i < 300; i++) {
    await rig.set(COMMON.STATUS, 0, 1);
    await rig.accept(0n);
    await rig.accept(F.VERSION_1);
    await rig.enable(0, 64, nowhere);
    await rig.set(COMMON.STATUS, 0xf, 1);
  }
  const warnings = () => rig.log.filter(line => line.startsWith('warn')).length;
  assert.equal(warnings(), 200); // a hundred of the card's, and of its NIC's
  await rig.fn.disconnect();
  await rig.giveMemory();
  await rig.accept(0n);
  assert.equal(warnings(), 201);
});

pciTest('the window in configuration space reaches the BARs, and nothing else', async start => {
  const rig = await start({ transitional: true });
  let at = await rig.read(REGION.CONFIG, 0x34, 1);
  while ((await rig.read(REGION.CONFIG, at, 1)) !== 9 || (await rig.read(REGION.CONFIG, at + 3, 1)) !== 5)
    at = await rig.read(REGION.CONFIG, at + 1, 1);
  const aim = async (bar: number, offset: number, length: number) => {
    await rig.write(REGION.CONFIG, at + 4, bar, 1);
    await rig.write(REGION.CONFIG, at + 8, offset, 4);
    await rig.write(REGION.CONFIG, at + 12, length, 4);
  };
  await aim(4, AT.DEVICE, 4);
  assert.equal(await rig.read(REGION.CONFIG, at + 16, 4), 0xaa00_0002);
  await aim(4, COMMON.STATUS, 1);
  await rig.write(REGION.CONFIG, at + 16, STATUS.ACKNOWLEDGE, 1);
  assert.equal(await rig.status(), STATUS.ACKNOWLEDGE);
  await aim(0, LEGACY.STATUS, 1);
  assert.equal(await rig.read(REGION.CONFIG, at + 16, 1), STATUS.ACKNOWLEDGE);
  await rig.write(REGION.CONFIG, at + 16, 0, 1);
  assert.equal(await rig.status(), 0);
  for (const [bar, offset, length] of [
    [4, 0x4000, 1],
    [4, 0x3fff, 4],
    [4, 0xffff_fffc, 4],
    [4, 1, 2],
    [4, 0, 3],
    [4, 0, 0],
    [4, 0, 0xffff_ffff],
    [5, 0, 4],
    [7, 0, 4],
    [255, 0, 4],
  ] as const) {
    await aim(bar, offset, length);
    await rig.write(REGION.CONFIG, at + 16, 0x1234_5678, 4);
    assert.equal(await rig.read(REGION.CONFIG, at + 16, 4), 0x1234_5678, `${bar} ${offset} ${length}`);
  }
});

pciTest('doorbells: eventfds in place of notifications', async start => {
  const rig = await start({ pairs: 2 });
  const doorbells = rig.fn.doorbells(BAR.MODERN);
  assert.deepEqual(
    doorbells.map(({ offset, size }) => [offset, size]),
    [0, 1, 2, 3, 4].map(i => [AT.NOTIFY + 4 * i, 2]),
  );
  assert.deepEqual(rig.fn.doorbells(BAR.LEGACY), []);
  await rig.drive();
  rig.rings!.publish(3, { kick: false });
  signalEventFd(doorbells[1]!.fd.fd);
  await eventually(() => rig.packets(1) === 3);
});

pciTest(
  "a reset that fails is the log's, not the host's who has written what the guest wants",
  async (start, t) => {
    const rig = await start();
    let express = await rig.read(REGION.CONFIG, 0x34, 1);
    while ((await rig.read(REGION.CONFIG, express, 1)) !== 0x10)
      express = await rig.read(REGION.CONFIG, express + 1, 1);
    const broken = t.mock.method(rig.nic, 'reset', () => Promise.reject(new Error('worn out')));
    await rig.write(REGION.CONFIG, express + 8, 0x8000, 2);
    broken.mock.restore();
    assert.deepEqual(rig.log, ['warn: the function can not be reset: worn out']);
  },
);

pciTest('a reset through PCI Express, and a host that goes and comes back', async start => {
  const rig = await start({ portSpec: 'source' });
  let express = await rig.read(REGION.CONFIG, 0x34, 1);
  while ((await rig.read(REGION.CONFIG, express, 1)) !== 0x10)
    express = await rig.read(REGION.CONFIG, express + 1, 1);
  await rig.drive();
  await rig.write(REGION.CONFIG, express + 8, 0x8000, 2);
  assert.equal(await rig.status(), 0);
  assert.ok(!rig.nic.running);
  await rig.drive();
  await rig.flows();
  await rig.fn.disconnect();
  assert.equal(await rig.status(), 0);
  assert.ok(rig.nic.memory === null);
  await rig.giveMemory();
  await rig.fn.connect(IRQ.INTX, 0, rig.intx.owner.dup());
  await rig.drive();
  await rig.flows();
});
