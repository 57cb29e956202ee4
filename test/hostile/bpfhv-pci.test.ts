/**
 * A guest, and a host, that read and write whatever they like wherever they like on the PCI device. Nothing throws, nothing takes for ever, and the card is
 * of use to the next guest.
 */
import assert from 'node:assert/strict';
import { CTRL, REG } from '../../src/guest/bpfhv/registers.js';
import { BAR } from '../../src/guest/pci/bpfhv-numbers.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { deviceType, deviceTypeNames } from '../../src/ring/registry.js';
import { eventually, randomFrom, window } from '../compliance/testbed.js';
import { memoryOf, pciTest } from '../unit/bpfhv-pci-rig.js';

const PAIRS = 2;
const QUEUES = 2 * PAIRS;
const STEPS = 3000;
/** One call of the function, milliseconds; on a machine that is busy with other things. */
const PATIENCE_MS = 5000;

for (const seed of [1, 2, 3, 4]) {
  pciTest(`anything, anywhere: seed ${seed}`, async make => {
    const random = randomFrom(seed);
    const pick = <T>(of: readonly T[]): T => of[random(of.length)]!;
    const card = await make.card({
      ...{ type: pick(deviceTypeNames), port: pick(['sink', 'source']), queuePairs: PAIRS },
      ...{ doorbellSize: pick([8, 4096]), nic: { limits: { bufs: 128 } } },
    });
    const { device, nic } = card;
    const ram = make.ram();
    await device.setMemory(memoryOf(ram));
    const start = Number(ram.guestPhysicalAddress & 0xffff_ffffn);
    const sometimes = (n: number) => random(n) === 0;
    const word = () =>
      pick([0, 1, 2, random(64), start + 0x8000 * random(128), random(2 ** 31), 0xffff_ffff]);

    const steps: readonly (readonly [weight: number, step: () => unknown])[] = [
      // A register, as a driver would.
      [
        20,
        async () => {
          const register = pick(Object.values(REG));
          const value =
            register === REG.CTRL ? random(64) & ~(sometimes(4) ? 0 : CTRL.UPGRADE_READY) : word();
          await device.write(BAR.REGISTERS, register, new Uint8Array(Uint32Array.of(value).buffer));
        },
      ],
      // A context that may well be taken.
      [
        10,
        async () => {
          const values = [
            [REG.QUEUE_SELECT, random(QUEUES)],
            [REG.CTX_PADDR_LO, start + 0x8000 * random(128)],
            [REG.CTX_PADDR_HI, 1],
          ] as const;
          for (const [register, value] of values)
            await device.write(BAR.REGISTERS, register, new Uint8Array(Uint32Array.of(value).buffer));
        },
      ],
      // Anything of any region: of any width, at any place.
      [
        40,
        async () => {
          const region = pick(device.regions.flatMap(({ size }, i) => (size > 0 ? i : [])));
          const { size } = device.regions[region]!;
          const offset = random(size);
          const length = 1 + random(Math.min(size - offset, pick([1, 2, 4, 8, 64, 4096])));
          const bytes = Uint8Array.from({ length }, () => pick([0, 1, 0xff, random(256)]));
          if (sometimes(2)) await device.read(region, offset, bytes);
          else await device.write(region, offset, bytes);
        },
      ],
      // What the rings say.
      [
        20,
        () => {
          const at = ram.allocate(64);
          window.words[(at + 4 * random(16) + 64 * random(60_000)) >>> 2] = word();
          ram.free(at);
        },
      ],
      // The host's side.
      [5, () => device.mask(IRQ.MSIX, random(QUEUES + 1), sometimes(2))],
      [5, () => device.raise(pick([IRQ.MSIX, IRQ.INTX]), 0)],
      [2, () => device.mask(IRQ.INTX, 0, sometimes(2))],
      [
        3,
        () =>
          device.connect(IRQ.MSIX, random(QUEUES + 1), sometimes(3) ? null : EventFd.create('peer').owner),
      ],
      [1, () => device.connect(IRQ.INTX, 0, sometimes(2) ? null : EventFd.create('peer').owner)],
      [1, () => device.setMemory(memoryOf(ram, pick([1, 2, 4]))).catch(() => {})],
      [1, () => device.reset()],
      [
        1,
        () => {
          const wish = {
            device: deviceType(pick(deviceTypeNames))!,
            bufs: pick([16, 64, 128]),
            timeoutMs: 30,
          };
          nic.upgrade(wish).catch(() => {});
        },
      ],
    ];
    const bag = steps.flatMap(([weight, step]) => new Array(weight).fill(step));
    for (let i = 0; i < STEPS; i++) {
      const begun = performance.now();
      await pick(bag)();
      const took = performance.now() - begun;
      assert.ok(took < PATIENCE_MS, `step ${i} took ${took} ms`);
      if (i % 64 === 0) await new Promise(setImmediate);
    }
    await device.disconnect();
    await eventually(() => nic.announced === null);

    // The guest after it.
    const guest = await make.guest(device, { lanes: PAIRS });
    await guest.driver.setInterfaceUp(true);
    await eventually(() => guest.packets('tx') > 500);
    assert.deepEqual(guest.complaints, []);
  });
}

pciTest('configuration space, every byte with every value', async make => {
  const { device } = await make.card();
  const before = new Uint8Array(256);
  device.read(REGION.CONFIG, 0, before);
  for (let at = 0; at < 256; at++) {
    for (const value of [0x00, 0x55, 0xaa, 0xff]) await device.write(REGION.CONFIG, at, Uint8Array.of(value));
  }
  const after = new Uint8Array(256);
  device.read(REGION.CONFIG, 0, after);
  await device.reset();
  device.read(REGION.CONFIG, 0, after);
  assert.deepEqual(after, before);
});
