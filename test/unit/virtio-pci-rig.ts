/**
 * A virtio network card on a PCI bus, and a guest whose driver is the test: it writes the registers itself.
 *
 * ```
 *   test ── read, write ──► VirtioNetFunction ──► VirtioNic ──► port
 *        ── publish, poll ──► rings in a memfd ◄── worker
 *        ◄── interrupts (eventfds) ──────────────
 * ```
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { COMMON, STATUS } from '../../src/guest/pci/virtio-numbers.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { eventually } from '../../src/linux/testing.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { VirtioNic, type VirtioNicOptions } from '../../src/nic/virtio-nic.js';
import { VirtioNetFunction, type VirtioNetFunctionOptions } from '../../src/pci/virtio/function.js';
import { LEGACY } from '../../src/pci/virtio/numbers.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, window } from '../compliance/testbed.js';
import { GuestRings } from './guest-rings.js';

export { window };

export const BAR = { LEGACY: REGION.BAR0, MSIX: REGION.BAR1, MODERN: REGION.BAR4 } as const;
export const AT = { ISR: 0x1000, DEVICE: 0x2000, NOTIFY: 0x3000 } as const;
export const MAC = Uint8Array.of(2, 0, 0, 0xaa, 0xbb, 0xcc);

export interface PciRigOptions extends Partial<Omit<VirtioNetFunctionOptions, 'nic'>> {
  readonly portSpec?: string;
  /** Of the card. */
  readonly pairs?: number;
  readonly nicOptions?: Partial<VirtioNicOptions>;
  readonly ramSize?: number;
}

/** How the guest's driver sets its card up. */
export interface DriverOptions {
  /** What the driver takes; VERSION_1 unless legacy. */
  readonly accept?: bigint;
  readonly num?: number;
  /** For which it has rings. */
  readonly pairs?: number;
  readonly legacy?: boolean;
  /** MSI-X: vector i + 1 for ring i, 0 for the configuration. Else INTx. */
  readonly msix?: boolean;
}

export function pciTest(
  name: string,
  body: (start: (options?: PciRigOptions) => Promise<PciRig>, t: TestContext) => Promise<void>,
): void {
  test(name, { timeout: 60_000 }, async t => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const before = held();
    const all = countProcessFds();
    const rigs: PciRig[] = [];
    try {
      await body(async options => {
        const rig = await PciRig.start(options);
        rigs.push(rig);
        return rig;
      }, t);
    } finally {
      for (const rig of rigs) await rig.close();
    }
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, `${countProcessFds() - all} descriptors left behind the table`);
  });
}

export class PciRig {
  readonly nic: VirtioNic;
  readonly port: PortHandle;
  readonly log: string[];
  readonly fn: VirtioNetFunction;
  readonly ram: GuestRam;
  /** By vector. */
  readonly vectors: readonly EventFd[];
  readonly intx = EventFd.create('INTx');
  /** What the driver has made last. */
  rings: GuestRings | undefined;
  #closed = false;

  private constructor(nic: VirtioNic, port: PortHandle, log: string[], options: PciRigOptions) {
    this.nic = nic;
    this.port = port;
    this.log = log;
    this.fn = new VirtioNetFunction({
      ...{ nic, window, mac: MAC },
      log: (level, message) => log.push(`${level}: ${message}`),
      ...options,
    });
    this.ram = new GuestRam(window, options.ramSize ?? 8 << 20);
    this.vectors = Array.from({ length: this.fn.irqs[IRQ.MSIX]! }, (_, i) => EventFd.create(`vector ${i}`));
  }

  static async start(options: PciRigOptions = {}): Promise<PciRig> {
    const { portSpec = 'sink', pairs = 1, nicOptions } = options;
    const log: string[] = [];
    const port = openPort(portSpec, { window, arena }, pairs);
    const nic = await VirtioNic.start({
      ...{ window, arena, port, limits: { queuePairs: pairs, bufs: 8192 } },
      log: (level, message) => log.push(`${level}: ${message}`),
      ...nicOptions,
    });
    const rig = new PciRig(nic, port, log, options);
    await rig.fn.connect(IRQ.INTX, 0, rig.intx.owner.dup());
    await rig.giveMemory();
    return rig;
  }

  giveMemory(): Promise<void> {
    const { fd, size, guestPhysicalAddress } = this.ram;
    return this.fn.setMemory([
      {
        ...{ guestPhysicalAddress, size: BigInt(size), hypervisorVirtualAddress: guestPhysicalAddress },
        ...{ mmapOffset: 0n, fd: fd.dup() },
      },
    ]);
  }

  async read(region: number, offset: number, size: number): Promise<number> {
    const bytes = new Uint8Array(size);
    await this.fn.read(region, offset, bytes);
    return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  async write(region: number, offset: number, value: number, size: number): Promise<void> {
    await this.fn.write(
      region,
      offset,
      Uint8Array.from({ length: size }, (_, i) => value >>> (8 * i)),
    );
  }

  async bytes(region: number, offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await this.fn.read(region, offset, bytes);
    return bytes;
  }

  /** A register of the common configuration. */
  get(offset: number, size: number): Promise<number> {
    return this.read(BAR.MODERN, offset, size);
  }

  set(offset: number, value: number, size: number): Promise<void> {
    return this.write(BAR.MODERN, offset, value, size);
  }

  status(): Promise<number> {
    return this.get(COMMON.STATUS, 1);
  }

  async offer(): Promise<bigint> {
    await this.set(COMMON.DEVICE_FEATURE_SELECT, 1, 4);
    const high = await this.get(COMMON.DEVICE_FEATURE, 4);
    await this.set(COMMON.DEVICE_FEATURE_SELECT, 0, 4);
    return (BigInt(high) << 32n) | BigInt(await this.get(COMMON.DEVICE_FEATURE, 4));
  }

  async accept(features: bigint): Promise<void> {
    for (const half of [0, 1]) {
      await this.set(COMMON.DRIVER_FEATURE_SELECT, half, 4);
      await this.set(COMMON.DRIVER_FEATURE, Number((features >> BigInt(32 * half)) & 0xffff_ffffn), 4);
    }
    await this.set(COMMON.STATUS, STATUS.ACKNOWLEDGE | STATUS.DRIVER, 1);
    await this.set(COMMON.STATUS, STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK, 1);
  }

  /** A queue, described and enabled. */
  async enable(
    index: number,
    num: number,
    areas: { descriptor: bigint; driver: bigint; device: bigint },
    vector = 0xffff,
  ): Promise<void> {
    await this.set(COMMON.QUEUE_SELECT, index, 2);
    await this.set(COMMON.QUEUE_SIZE, num, 2);
    await this.set(COMMON.QUEUE_VECTOR, vector, 2);
    for (const [offset, address] of [
      [COMMON.QUEUE_DESCRIPTOR, areas.descriptor],
      [COMMON.QUEUE_DRIVER, areas.driver],
      [COMMON.QUEUE_DEVICE, areas.device],
    ] as const) {
      await this.set(offset, Number(address & 0xffff_ffffn), 4);
      await this.set(offset + 4, Number(address >> 32n), 4);
    }
    await this.set(COMMON.QUEUE_ENABLE, 1, 2);
  }

  /** MSI-X, as a host connects it when the guest enables it. */
  async useMsix(): Promise<void> {
    await this.setMsixControl(0x8000);
    for (const [i, vector] of this.vectors.entries()) await this.fn.connect(IRQ.MSIX, i, vector.owner.dup());
  }

  async setMsixControl(value: number): Promise<void> {
    await this.write(REGION.CONFIG, 0x42, value, 2);
  }

  /** Does all that a driver does until the card runs. */
  async drive(options: DriverOptions = {}): Promise<void> {
    const { legacy = false, accept = legacy ? F.ANY_LAYOUT : F.VERSION_1, pairs = 1, msix = true } = options;
    const num = legacy ? 256 : (options.num ?? 64);
    const former = this.rings;
    former?.closeRings();
    this.rings = new GuestRings({
      ...{ features: accept, num, pairs, kick: ring => void this.kick(ring, legacy) },
      space: legacy ? legacySpace(this.ram, num) : this.ram,
    });
    this.rings.resets = former ? 1 : 0; // what comes does not begin with the first frame
    if (msix) await this.useMsix();
    const vector = (ring: number) => (msix ? ring + 1 : 0xffff);
    if (legacy) return this.#driveLegacy(accept, vector, msix);
    await this.set(COMMON.STATUS, 0, 1);
    await this.accept(accept);
    assert.equal((await this.status()) & STATUS.FEATURES_OK, STATUS.FEATURES_OK, 'features refused');
    await this.set(COMMON.CONFIG_VECTOR, msix ? 0 : 0xffff, 2);
    for (const [i, { areas }] of this.rings!.drivers.entries()) await this.enable(i, num, areas, vector(i));
    await this.set(COMMON.STATUS, 0xf, 1);
  }

  async #driveLegacy(accept: bigint, vector: (ring: number) => number, msix: boolean): Promise<void> {
    const set = (offset: number, value: number, size: number) => this.write(BAR.LEGACY, offset, value, size);
    await set(LEGACY.STATUS, 0, 1);
    await set(LEGACY.STATUS, STATUS.ACKNOWLEDGE | STATUS.DRIVER, 1);
    await set(LEGACY.DRIVER_FEATURES, Number(accept), 4);
    if (msix) await set(LEGACY.CONFIG_VECTOR, 0, 2);
    for (const [i, { areas }] of this.rings!.drivers.entries()) {
      await set(LEGACY.QUEUE_SELECT, i, 2);
      await set(LEGACY.QUEUE_PFN, Number(areas.descriptor >> 12n), 4);
      if (msix) await set(LEGACY.QUEUE_VECTOR, vector(i), 2);
    }
    await set(LEGACY.STATUS, STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.DRIVER_OK, 1);
  }

  kick(ring: number, legacy = false): Promise<void> {
    return legacy
      ? this.write(BAR.LEGACY, LEGACY.QUEUE_NOTIFY, ring, 2)
      : this.write(BAR.MODERN, AT.NOTIFY + 4 * ring, ring, 2);
  }

  /** Packets of a ring so far. */
  packets(index: number): number {
    return this.nic.stats().queues.find(queue => queue.index === index)?.packets ?? 0;
  }

  /** Frames go out and come in, numbered, none lost; the port is a source. */
  async flows(pair = 0): Promise<void> {
    const rings = this.rings!;
    const [sent, received] = [this.packets(2 * pair + 1), this.packets(2 * pair)];
    for (let published = 0; published < 100; ) {
      published += rings.publish(40, { pair });
      await eventually(() => this.packets(2 * pair + 1) === sent + published);
    }
    rings.refill(pair);
    await eventually(() => rings.poll(pair) > 0 && this.packets(2 * pair) > received + 100);
    assert.ok(rings.guest(pair).received.outOfOrder <= rings.resets, 'frames are missing');
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.fn.disconnect();
    this.fn.close();
    await this.nic.close();
    this.port.close();
    this.rings?.closeRings();
    this.ram.close();
    for (const fd of [...this.vectors, this.intx]) fd.close();
  }
}

/** Guest memory in which the three areas of each ring lie as drivers from before the standard have them: in a row, the last one on a page of its own. */
function legacySpace(ram: GuestRam, num: number) {
  const PAGE = 4096;
  const driverAt = 16 * num;
  const deviceAt = Math.ceil((driverAt + 6 + 2 * num) / PAGE) * PAGE;
  let block = 0;
  const inside = new Map<number, number>();
  const plan = [16 * num, 6 + 2 * num, 6 + 8 * num];
  let step = 0;
  return {
    allocate(size: number): number {
      if (size !== plan[step]) {
        step = 0;
        return ram.allocate(size);
      }
      if (step === 0) block = ram.allocate(deviceAt + 2 * PAGE + 8 * num);
      const start = block + Number(-ram.toGuest(block) & BigInt(PAGE - 1));
      const address = start + [0, driverAt, deviceAt][step]!;
      inside.set(address, step === 0 ? block : -1);
      step = (step + 1) % 3;
      return address;
    },
    free(address: number): void {
      const owner = inside.get(address);
      if (owner === undefined) ram.free(address);
      else if (owner >= 0) ram.free(owner);
    },
    toGuest: (address: number) => ram.toGuest(address),
  };
}
