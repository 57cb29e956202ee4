/**
 * A hostile guest at the registers of a virtio card: reads and writes of any width anywhere, in any order, while rings run, with memory and interrupts that come
 * and go.
 *
 * What must hold: nothing throws, every access comes to an end soon, no memory but the guest's is touched (canaries), and after a reset the card works.
 */
import assert from 'node:assert/strict';
import { COMMON, STATUS } from '../../src/guest/pci/virtio-numbers.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { eventually } from '../../src/linux/testing.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, randomFrom } from '../compliance/testbed.js';
import { AT, BAR, type PciRig, pciTest, window } from '../unit/virtio-pci-rig.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const ROUNDS = LONG ? 60 : 6;
const ACCESSES = LONG ? 4000 : 600;
/** No access may take longer; generous, for machines that are busy. */
const SOON = 5000;

type Random = (below: number) => number;

const INTERESTING = [
  0, 1, 2, 4, 8, 15, 16, 63, 64, 255, 256, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff,
];

/** Registers that matter are met more often than chance has it. */
const PLACES: readonly (readonly [region: number, offset: number, size: number])[] = [
  ...Object.values(COMMON).map(offset => [BAR.MODERN, offset, 4] as const),
  [BAR.MODERN, COMMON.STATUS, 1],
  [BAR.MODERN, COMMON.QUEUE_SELECT, 2],
  [BAR.MODERN, COMMON.QUEUE_ENABLE, 2],
  [BAR.MODERN, AT.ISR, 1],
  [BAR.MODERN, AT.NOTIFY, 2],
  [BAR.MODERN, AT.NOTIFY + 4, 2],
  [BAR.MODERN, AT.NOTIFY + 8, 2],
  ...[0, 4, 8, 12, 14, 16, 18, 19, 20, 22, 24].map(offset => [BAR.LEGACY, offset, 4] as const),
  [REGION.CONFIG, 4, 2],
  [REGION.CONFIG, 0x42, 2],
];

function anyWord(random: Random): number {
  return random(3) === 0 ? random(2 ** 32) : INTERESTING[random(INTERESTING.length)]!;
}

async function access(rig: PciRig, random: Random): Promise<void> {
  let [region, offset, size] = PLACES[random(PLACES.length)]!;
  if (random(3) === 0) {
    region = [BAR.LEGACY, BAR.MSIX, BAR.MODERN, REGION.CONFIG][random(4)]!;
    const whole = rig.fn.regions[region]!.size;
    offset = random(whole);
    size = 1 + random(Math.min(whole - offset, random(20) === 0 ? whole : 8));
  }
  if (offset + size > rig.fn.regions[region]!.size) return;
  const bytes = new Uint8Array(size);
  if (random(3) === 0) return rig.fn.read(region, offset, bytes);
  for (let i = 0; i < size; i += 4) {
    const word = anyWord(random);
    for (let b = 0; b < 4 && i + b < size; b++) bytes[i + b] = word >>> (8 * b);
  }
  return rig.fn.write(region, offset, bytes);
}

/** What else can happen to a card. */
async function event(rig: PciRig, random: Random): Promise<void> {
  const kind = random(2) === 0 ? IRQ.INTX : IRQ.MSIX;
  const index = random(rig.fn.irqs[kind]!);
  switch (random(9)) {
    case 0:
      return rig.fn.setMemory([]);
    case 1:
      return rig.giveMemory();
    case 2:
      return rig.fn.connect(kind, index, random(3) === 0 ? null : EventFd.create('any').owner);
    case 3:
      return rig.fn.mask(kind, index, random(2) === 0);
    case 4:
      return rig.fn.raise(kind, index);
    case 5:
      return rig.fn.device.setLink(random(2) === 0);
    case 6:
      return rig.fn.device.announce();
    case 7:
      // Anything in guest memory, where rings may be.
      window.bytes.fill(random(256), Number(-rig.ram.toGuest(0) + rig.ram.guestPhysicalAddress), 4096);
      return;
    default:
      if (random(10) === 0) await rig.fn.reset();
  }
}

/** A driver that does everything right, but for where its rings are. */
async function almostRight(rig: PciRig, random: Random): Promise<void> {
  const { guestPhysicalAddress: start, size } = rig.ram;
  const place = () => {
    if (random(12) === 0) return start + BigInt(random(size + 8192)) - 4096n;
    return start + BigInt(random(size / 64) * 64);
  };
  if (random(4) !== 0) await rig.giveMemory();
  await rig.set(COMMON.STATUS, 0, 1);
  const features = [
    F.RING_PACKED,
    F.EVENT_IDX,
    F.INDIRECT_DESC,
    F.MRG_RXBUF,
    F.IN_ORDER,
    1n << 17n,
    1n << 22n,
    1n << 40n,
  ];
  await rig.accept(features.reduce((all, one) => (random(2) === 0 ? all | one : all), F.VERSION_1));
  for (let queue = 0; queue < 5; queue++) {
    const num = random(8) === 0 ? 1 + random(256) : 2 ** random(9);
    await rig.enable(queue, num, { descriptor: place(), driver: place(), device: place() }, random(7));
  }
  await rig.set(COMMON.STATUS, 0xf, 1);
  for (let queue = 0; queue < 5; queue++) await rig.kick(queue);
}

pciTest('anything at any register, at any time', async start => {
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const random = randomFrom(seed);
    const rig = await start({ transitional: seed % 2 === 0, pairs: 2, portSpec: 'source' });
    const canaries = [arena.allocate(4096), arena.allocate(4096)];
    for (const at of canaries) window.bytes.fill(0xa5, at, at + 4096);
    await rig.drive({ msix: seed % 3 !== 0 });
    for (let n = 0; n < ACCESSES; n++) {
      const begun = performance.now();
      if (n % 100 === 50) await almostRight(rig, random);
      else if (random(12) === 0) await event(rig, random);
      else await access(rig, random);
      const took = performance.now() - begun;
      assert.ok(took < SOON, `seed ${seed}, access ${n}: ${took} ms`);
      if (random(50) === 0) await new Promise(resolve => setImmediate(resolve));
    }
    for (const at of canaries) {
      assert.ok(
        window.bytes.subarray(at, at + 4096).every(byte => byte === 0xa5),
        `seed ${seed}: somebody wrote there`,
      );
      arena.free(at);
    }
    await rig.fn.reset();
    assert.equal(await rig.status(), 0);
    await rig.giveMemory();
    for (const i of rig.vectors.keys()) await rig.fn.mask(IRQ.MSIX, i, false);
    await rig.drive({ accept: F.VERSION_1 | (seed % 2 === 0 ? F.RING_PACKED : 0n) });
    assert.equal((await rig.status()) & STATUS.NEEDS_RESET, 0);
    await rig.flows();
    rig.rings!.publish(1);
    await eventually(() => rig.vectors[2]!.drain() > 0);
    await rig.close();
  }
});
