/**
 * A bpfhv device on the PCI bus with its NIC, and what stands where a vfio-user server would: nothing but calls of PciFunction.
 *
 * ```
 *   test, or BpfhvDriver ── PciTransport ── PciFunction: BpfhvPciDevice ── Nic ── port
 *                            └──────── rings and buffers in a memfd ────────┘
 * ```
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { BpfhvDriver, type DriverOptions } from '../../src/guest/bpfhv/driver.js';
import { CTRL, REG } from '../../src/guest/bpfhv/registers.js';
import type { BpfhvTransport } from '../../src/guest/bpfhv/transport.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { BAR } from '../../src/guest/pci/bpfhv-numbers.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { IRQ } from '../../src/linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../src/linux/watch.js';
import type { MemoryRegionSpec } from '../../src/nic/control.js';
import { Nic, type NicOptions } from '../../src/nic/nic.js';
import { BpfhvPciDevice, type BpfhvPciOptions } from '../../src/pci/bpfhv/device.js';
import type { PciFunction } from '../../src/pci/function.js';
import { type FlowCounters, portFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, window } from '../compliance/testbed.js';

export const MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);

export interface CardOptions extends Partial<Omit<BpfhvPciOptions, 'nic'>> {
  readonly type?: string;
  readonly port?: string;
  readonly nic?: Partial<NicOptions>;
}

/** Bytes of any region as a number, little-endian. */
export async function get(fn: PciFunction, region: number, offset: number, size = 4): Promise<number> {
  const into = new Uint8Array(size).fill(0xee);
  await fn.read(region, offset, into);
  return into.reduceRight((value, byte) => value * 256 + byte, 0);
}

export async function put(
  fn: PciFunction,
  region: number,
  offset: number,
  value: number,
  size = 4,
): Promise<void> {
  await fn.write(
    region,
    offset,
    Uint8Array.from({ length: size }, (_, i) => Math.floor(value / 256 ** i)),
  );
}

/** Tries until it is so, for a while; for what takes a few turns of the event loop. */
export async function until(attempt: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 20_000;
  while (!(await attempt())) {
    if (performance.now() > end) throw new Error(`not after 20 s: ${attempt}`);
    await new Promise(setImmediate);
  }
}

/** A network card: device, NIC and port. */
export class Card {
  readonly device: BpfhvPciDevice;
  readonly nic: Nic;
  readonly port: PortHandle;
  readonly log: string[];

  private constructor(parts: Pick<Card, 'device' | 'nic' | 'port' | 'log'>) {
    this.device = parts.device;
    this.nic = parts.nic;
    this.port = parts.port;
    this.log = parts.log;
  }

  static async plug(options: CardOptions = {}): Promise<Card> {
    const { type = 'sring', port: spec = 'sink', nic: nicOptions, ...rest } = options;
    const log: string[] = [];
    const note = (level: string, message: string) => log.push(`${level}: ${message}`);
    const port = openPort(spec, { window, arena }, rest.queuePairs ?? 1);
    const nic = await Nic.start({
      ...{ window, arena, device: deviceType(type)!, port, log: note },
      ...nicOptions,
    });
    try {
      const device = await BpfhvPciDevice.create({
        ...{ nic, queuePairs: 1, bufs: 64, mac: MAC, log: note },
        ...rest,
      });
      return new Card({ device, nic, port, log });
    } catch (error) {
      await nic.close();
      port.close();
      throw error;
    }
  }

  get flow(): FlowCounters {
    return portFlow(window, this.port)!;
  }

  read(register: number): Promise<number> {
    return get(this.device, BAR.REGISTERS, register);
  }

  write(register: number, value: number): Promise<void> {
    return put(this.device, BAR.REGISTERS, register, value);
  }

  /** Registers a context. */
  async context(queue: number, gpa: bigint): Promise<void> {
    await this.write(REG.QUEUE_SELECT, queue);
    await this.write(REG.CTX_PADDR_LO, Number(gpa & 0xffff_ffffn));
    await this.write(REG.CTX_PADDR_HI, Number(gpa >> 32n));
  }

  /** What the dump registers say, read like a driver does. */
  async dump(): Promise<string> {
    await this.write(REG.CTRL, CTRL.QUEUES_DUMP);
    const length = await this.read(REG.DUMP_LEN);
    const words = new Uint32Array(Math.ceil(length / 4));
    for (let i = 0; i < words.length; i++) {
      await this.write(REG.DUMP_OFS, 4 * i);
      words[i] = await this.read(REG.DUMP_INPUT);
    }
    return Buffer.from(words.buffer, 0, length).toString();
  }

  async unplug(): Promise<void> {
    await this.device.disconnect();
    this.device.close();
    await this.nic.close();
    this.port.close();
  }
}

/** All of a guest's memory, as a host would describe it. */
export function memoryOf(ram: GuestRam, cut = 1): MemoryRegionSpec[] {
  const piece = ram.size / cut;
  return Array.from({ length: cut }, (_, i) => ({
    guestPhysicalAddress: ram.guestPhysicalAddress + BigInt(i * piece),
    size: BigInt(piece),
    hypervisorVirtualAddress: 0n,
    mmapOffset: BigInt(i * piece),
    fd: ram.fd.dup(),
  }));
}

/** How a driver in this process reaches the function. */
export class PciTransport implements BpfhvTransport {
  readonly ram: GuestRam;
  readonly present = true;
  /** Whether the driver knows of our capability. */
  readonly previews: boolean;
  onChange: () => void = () => {};
  generation = 0;
  readonly #fn: PciFunction;
  readonly #vectors: readonly EventFd[];
  readonly #watch: Watch;

  private constructor(fn: PciFunction, ram: GuestRam, vectors: readonly EventFd[], previews: boolean) {
    this.#fn = fn;
    this.ram = ram;
    this.previews = previews;
    this.#vectors = vectors;
    const upgrade = vectors.at(-1)!;
    this.#watch = watchReadable(upgrade.fd, () => {
      upgrade.drain();
      this.generation++;
      this.onChange();
    });
    this.#watch.unref();
  }

  static async attach(fn: PciFunction, ram: GuestRam, previews: boolean): Promise<PciTransport> {
    const count = fn.irqs[IRQ.MSIX]!;
    const vectors = Array.from({ length: count }, (_, i) => EventFd.create(`guest: vector ${i}`));
    for (const [i, vector] of vectors.entries()) await fn.connect(IRQ.MSIX, i, vector.owner.dup());
    await fn.setMemory(memoryOf(ram));
    return new PciTransport(fn, ram, vectors, previews);
  }

  read(register: number): Promise<number> {
    return get(this.#fn, BAR.REGISTERS, register);
  }

  write(register: number, value: number): Promise<void> {
    return put(this.#fn, BAR.REGISTERS, register, value);
  }

  async readProgram(instructions: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(8 * instructions);
    for (let i = 0; i < bytes.length; i += 4) await this.#fn.read(BAR.PROGRAM, i, bytes.subarray(i, i + 4));
    return bytes;
  }

  doorbell(queue: number): number {
    return this.#fn.doorbells(BAR.DOORBELLS)[queue]!.fd.fd;
  }

  interrupt(queue: number): number {
    return this.#vectors[queue]!.fd;
  }

  close(): void {
    this.#watch.close();
    for (const vector of this.#vectors) vector.close();
  }
}

export interface GuestOptions extends Partial<Omit<DriverOptions, 'transport' | 'netdev'>> {
  readonly netdev?: string;
  readonly lanes?: number;
  /** Whether the driver knows of our capability; default: it does. */
  readonly previews?: boolean;
}

/** A guest with a driver for the card. */
export class PciGuest {
  readonly ram: GuestRam;
  readonly transport: PciTransport;
  readonly driver: BpfhvDriver;
  readonly netdev: PortHandle;
  readonly log: string[];
  readonly carrier: boolean[];

  private constructor(parts: Pick<PciGuest, 'ram' | 'transport' | 'driver' | 'netdev' | 'log' | 'carrier'>) {
    this.ram = parts.ram;
    this.transport = parts.transport;
    this.driver = parts.driver;
    this.netdev = parts.netdev;
    this.log = parts.log;
    this.carrier = parts.carrier;
  }

  static async boot(fn: PciFunction, options: GuestOptions = {}): Promise<PciGuest> {
    const { netdev: spec = 'source', lanes = 1, previews = true, ...rest } = options;
    const log: string[] = [];
    const carrier: boolean[] = [];
    const setCarrier = (up: boolean) => {
      if (carrier.at(-1) !== up) carrier.push(up);
    };
    const ram = new GuestRam(window, 16 << 20);
    const transport = await PciTransport.attach(fn, ram, previews);
    const netdev = { ...openPort(spec, { window, arena }, lanes), setCarrier };
    const driver = await BpfhvDriver.start({
      ...{ window, arena, transport, netdev },
      log: (level, message) => log.push(`${level}: ${message}`),
      ...rest,
    });
    return new PciGuest({ ram, transport, driver, netdev, log, carrier });
  }

  get flow(): FlowCounters {
    return portFlow(window, this.netdev)!;
  }

  /** Sums over the driver's queues of one direction. */
  packets(direction: 'rx' | 'tx'): number {
    const queues = this.driver.stats().queues.filter(queue => queue.direction === direction);
    return queues.reduce((sum, { packets }) => sum + packets, 0);
  }

  /** What is not only information. */
  get complaints(): string[] {
    return this.log.filter(line => !line.startsWith('info'));
  }

  async shutDown(): Promise<void> {
    await this.driver.close();
    this.transport.close();
    assert.equal(this.ram.live, 0, 'guest memory that did not come back');
    this.ram.close();
    this.netdev.close();
  }
}

export interface Bench {
  card(options?: CardOptions): Promise<Card>;
  guest(fn: PciFunction, options?: GuestOptions): Promise<PciGuest>;
  ram(size?: number): GuestRam;
}

/** A test whose guests and cards end with it, whatever happens; then nothing may be left. */
export function pciTest(name: string, body: (make: Bench, t: TestContext) => Promise<void>): void {
  test(name, { timeout: 120_000 }, async t => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const before = held();
    const all = countProcessFds();
    const endings: (() => unknown)[] = [];
    try {
      await body(
        {
          card: async options => {
            const card = await Card.plug(options);
            endings.unshift(() => card.unplug());
            return card;
          },
          guest: async (fn, options) => {
            const guest = await PciGuest.boot(fn, options);
            endings.unshift(() => guest.shutDown());
            return guest;
          },
          ram: (size = 4 << 20) => {
            const ram = new GuestRam(window, size);
            endings.unshift(() => ram.close());
            return ram;
          },
        },
        t,
      );
    } finally {
      for (const end of endings) await end();
    }
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, `${countProcessFds() - all} descriptors left behind the table`);
  });
}
