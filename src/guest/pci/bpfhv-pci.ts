/**
 * A bpfhv device on PCI (docs/bpfhv.md, "Registers"), as its driver's transport: a slot into which a function is put, and another one when that is gone.
 *
 * ```
 *   driver ── read, write (REG) ──────────► BAR 0
 *          ── readProgram ────────────────► BAR 3, 32 bits at a time
 *          ── doorbell eventfd ─ kernel ──► BAR 1, slot of the queue
 *          ◄── interrupt eventfd ─ kernel ─ MSI-X, a vector for each queue
 *          ◄── onChange ─ upgrade eventfd ─ MSI-X, the last vector
 *   ram ◄────────────────── DMA ─────────── rings and buffers
 * ```
 * Eventfds and memory are the slot's and outlive functions. No interrupt tells of the link, or of a device that answers no more: STATUS is looked at now and then.
 */
import { EventFd } from '../../linux/eventfd.js';
import { REGION } from '../../linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import { type DeviceSizes, readSizes } from '../bpfhv/contract.js';
import { CTRL, REG, STATUS } from '../bpfhv/registers.js';
import type { BpfhvTransport } from '../bpfhv/transport.js';
import type { GuestRam } from '../guest-ram.js';
import { type PciAccess, PciError } from './access.js';
import {
  BAR,
  BPFHV_DEVICE,
  BPFHV_VENDOR,
  CAPABILITY_FLAG,
  isDoorbellSize,
  PROGRAM_WINDOW_SIZE,
  REGISTERS_SIZE,
  SIGNATURE,
  SIGNATURE_VERSION,
} from './bpfhv-numbers.js';
import { vendorCapability } from './capabilities.js';
import { wireDoorbell } from './doorbell.js';

const CONFIG_SIZE = 256;
const ALL_ONES = 0xffff_ffff;
const LOOK_MS = 1000;

/** A device before it is used. */
export interface BpfhvFunction {
  readonly sizes: DeviceSizes;
  /** Bytes from one doorbell to the next. */
  readonly doorbellSize: number;
  /** It shows the next contract while it announces it. */
  readonly previews: boolean;
}

/**
 * Looks at a function, and stops it in case somebody has left it running. Rejects with PciError PCI_DEVICE (it is no bpfhv device, or lacks something that one
 * has), PCI_GONE; with DriverError DRIVER_DEVICE for numbers that no device may have.
 */
export async function probeBpfhv(access: PciAccess): Promise<BpfhvFunction> {
  const config = await access.readWords(REGION.CONFIG, 0, CONFIG_SIZE);
  const head = new DataView(config.buffer, config.byteOffset);
  const id = idOf(head.getUint16(0, true), head.getUint16(2, true));
  const wanted = idOf(BPFHV_VENDOR, BPFHV_DEVICE);
  if (id !== wanted) throw notBpfhv(`it is ${id}, not ${wanted}`);
  if (access.regionSize(BAR.REGISTERS) < REGISTERS_SIZE) throw notBpfhv('its BAR 0 is too small');
  const register = (offset: number) => access.read(BAR.REGISTERS, offset, 4);
  await access.write(BAR.REGISTERS, REG.CTRL, CTRL.RX_DISABLE | CTRL.TX_DISABLE, 4);
  const sizes = await readSizes({ read: register });
  const queues = sizes.numRxQueues + sizes.numTxQueues;
  const doorbellSize = await register(REG.DOORBELL_SIZE);
  if (!isDoorbellSize(doorbellSize)) throw notBpfhv(`its doorbells are ${doorbellSize} bytes apart`);
  if (access.regionSize(BAR.DOORBELLS) < queues * doorbellSize) throw notBpfhv('its BAR 1 is too small');
  if (access.regionSize(BAR.PROGRAM) < PROGRAM_WINDOW_SIZE) throw notBpfhv('its BAR 3 is too small');
  if (access.vectors <= queues)
    throw notBpfhv(`${access.vectors} MSI-X vectors are too few for ${queues} queues`);
  const [version = 0, flags = 0] = vendorCapability(config, SIGNATURE) ?? [];
  return {
    sizes,
    doorbellSize,
    previews: version === SIGNATURE_VERSION && (flags & CAPABILITY_FLAG.PREVIEWS) !== 0,
  };
}

function notBpfhv(why: string): PciError {
  return new PciError('PCI_DEVICE', `not a bpfhv device: ${why}`);
}

/** As `lspci -n` writes it. */
function idOf(vendor: number, device: number): string {
  return [vendor, device].map(number => number.toString(16).padStart(4, '0')).join(':');
}

export interface BpfhvPciOptions {
  readonly ram: GuestRam;
  /** Receive and transmit queues together: the same for all functions that come into the slot. */
  readonly queues: number;
  /** How often to look at STATUS, milliseconds. */
  readonly lookMs?: number;
}

export class BpfhvPci implements BpfhvTransport {
  readonly ram: GuestRam;
  onChange: () => void = () => {};
  /** Called when the function in the slot is gone; it is not closed yet. */
  onGone: (reason: Error) => void = () => {};
  readonly #doorbells: readonly EventFd[];
  readonly #interrupts: readonly EventFd[];
  readonly #upgrade: EventFd;
  readonly #watch: Watch;
  readonly #timer: NodeJS.Timeout;
  #access: PciAccess | null = null;
  #previews = false;
  /** As it was read last. */
  #status = 0;
  /** A function that the driver has not taken up yet: as if its contract were announced. */
  #fresh = false;
  #looking = false;
  #closed = false;
  #generation = 0;

  constructor({ ram, queues, lookMs = LOOK_MS }: BpfhvPciOptions) {
    this.ram = ram;
    const each = (what: string) =>
      Array.from({ length: queues }, (_, i) => EventFd.create(`queue ${i}: ${what}`));
    this.#doorbells = each('doorbell');
    this.#interrupts = each('interrupt');
    this.#upgrade = EventFd.create('upgrade');
    this.#watch = watchReadable(this.#upgrade.fd, () => {
      if (this.#countInterrupt()) this.#interrupted();
    });
    this.#watch.unref();
    this.#timer = setInterval(() => void this.#look(), lookMs);
    this.#timer.unref();
  }

  get present(): boolean {
    return this.#access !== null;
  }

  get previews(): boolean {
    return this.#previews && (this.#status & STATUS.UPGRADE) !== 0 && !this.#fresh;
  }

  /** An interrupt counts when it has come, whether or not the event loop has got to it: then `onChange` comes later, as it would have. */
  get generation(): number {
    if (this.#countInterrupt()) setImmediate(() => this.#interrupted());
    return this.#generation;
  }

  doorbell(queue: number): number {
    return this.#doorbells[queue]!.fd;
  }

  interrupt(queue: number): number {
    return this.#interrupts[queue]!.fd;
  }

  /**
   * Puts in a function that `probeBpfhv` has found, in place of one that is gone. It stays the caller's. Rejects with PciError, LinuxError; the slot is empty
   * then, and of the function nothing but its closing makes sense.
   */
  async plug(access: PciAccess, found: BpfhvFunction): Promise<void> {
    const { sizes, doorbellSize, previews } = found;
    const [queues, before] = [sizes.numRxQueues + sizes.numTxQueues, this.#doorbells.length];
    if (queues !== before) {
      throw new PciError('PCI_DEVICE', `the device has ${queues} queues; ${before} are what this driver has`);
    }
    let gone: Error | null = null;
    access.onGone = reason => {
      gone = reason ?? new PciError('PCI_GONE', 'the device is gone');
      this.#lose(access, gone);
    };
    await access.map(this.#memory);
    await access.connect([...this.#interrupts, this.#upgrade].map(({ owner }) => owner));
    for (const [queue, { owner }] of this.#doorbells.entries()) {
      const bell = { region: BAR.DOORBELLS, offset: queue * doorbellSize, value: queue, size: 4 } as const;
      await wireDoorbell(access, bell, owner);
    }
    if (gone) throw gone;
    this.#access = access;
    this.#previews = previews;
    this.#status = 0;
    this.#fresh = true;
    this.#generation++;
    this.onChange();
  }

  async read(register: number): Promise<number> {
    const access = this.#here();
    const value = await access.read(BAR.REGISTERS, register, 4);
    if (register !== REG.STATUS) return value;
    if (value === ALL_ONES) {
      const gone = new PciError('PCI_GONE', 'the device answers no more: all its bits are ones');
      this.#lose(access, gone);
      throw gone;
    }
    // What was announced has been withdrawn: registers show another contract than before.
    if ((this.#status & ~value & STATUS.UPGRADE) !== 0) this.#generation++;
    this.#status = value;
    return this.#fresh ? value | STATUS.UPGRADE : value;
  }

  async write(register: number, value: number): Promise<void> {
    const access = this.#here();
    if (register === REG.CTRL && (value & CTRL.UPGRADE_READY) !== 0) {
      const nothingAnnounced = (this.#status & STATUS.UPGRADE) === 0;
      this.#status &= ~STATUS.UPGRADE;
      if (this.#fresh && nothingAnnounced) value &= ~CTRL.UPGRADE_READY;
      this.#fresh = false;
    }
    await access.write(BAR.REGISTERS, register, value, 4);
  }

  async readProgram(instructions: number): Promise<Uint8Array> {
    return this.#here().readWords(BAR.PROGRAM, 0, instructions * 8);
  }

  /** The function reaches our memory no more, if it is there. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    this.#watch.close();
    const access = this.#access;
    this.#access = null;
    try {
      if (access) await this.#letGo(access);
    } catch (error) {
      if (!(error instanceof PciError && error.code === 'PCI_GONE')) throw error; // which is as good
    } finally {
      for (const eventfd of [...this.#doorbells, ...this.#interrupts, this.#upgrade]) eventfd.close();
    }
  }

  /** The device forgets what it has been given, contexts before the memory that they are in. */
  async #letGo(access: PciAccess): Promise<void> {
    for (const queue of this.#doorbells.keys()) {
      await access.write(BAR.REGISTERS, REG.QUEUE_SELECT, queue, 4);
      await access.write(BAR.REGISTERS, REG.CTX_PADDR_LO, 0, 4);
      await access.write(BAR.REGISTERS, REG.CTX_PADDR_HI, 0, 4);
    }
    const { iova, size } = this.#memory;
    await access.unmap(iova, size);
  }

  get #memory() {
    const { guestPhysicalAddress: iova, size, fd, address } = this.ram;
    return { iova, size, fd, offset: 0, address };
  }

  #here(): PciAccess {
    if (!this.#access) throw new PciError('PCI_GONE', 'there is no device');
    return this.#access;
  }

  /** Whether an upgrade interrupt has come that nobody has counted. */
  #countInterrupt(): boolean {
    if (this.#closed || this.#upgrade.drain() === 0) return false;
    this.#generation++;
    return true;
  }

  #interrupted(): void {
    if (!this.#closed) this.onChange();
  }

  async #look(): Promise<void> {
    if (!this.#access || this.#looking) return;
    this.#looking = true;
    try {
      const before = this.#status;
      await this.read(REG.STATUS);
      if (((before ^ this.#status) & (STATUS.LINK | STATUS.UPGRADE)) !== 0) this.onChange();
    } catch {
      // Whoever has the function hears of it by `onGone`.
    } finally {
      this.#looking = false;
    }
  }

  #lose(access: PciAccess, reason: Error): void {
    if (access !== this.#access) return;
    this.#access = null;
    this.#generation++;
    this.onChange();
    this.onGone(reason);
  }
}
