/**
 * The bpfhv device on the PCI bus, with its NIC in this process (docs/bpfhv.md, "On the PCI bus").
 *
 * ```
 *   BAR 0 registers ─────► BpfhvRegisters ── NicBackend ──► Nic ──► port
 *   BAR 1 doorbells ── eventfd of the queue ──────────────► its worker
 *   BAR 2 MSI-X ◄── Interrupts ◄── eventfd of the vector ── its worker        vectors: one a queue, in queue order, then the upgrade's
 *   BAR 3 program window ◄── the selected program
 * ```
 * Registers have 32 bits. A read of another width gives the bytes that lie there; of a write, each register counts that it covers as a whole.
 */
import { BAR, isDoorbellSize, MIN_DOORBELL_SIZE } from '../../guest/pci/bpfhv-numbers.js';
import { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import { IRQ, REGION } from '../../linux/vfio-numbers.js';
import type { MemoryRegionSpec, NicParameters } from '../../nic/control.js';
import { ConfigSpace } from '../config-space.js';
import { type ConfiguredFunction, writeConfig } from '../config-writes.js';
import type { PciFunction, RegionDoorbell, RegionShape } from '../function.js';
import { Interrupts } from '../interrupts.js';
import { dumpText, statusLine } from './dump.js';
import { bpfhvShape, DOORBELL_WIDTH } from './layout.js';
import { type DeviceNic, NicBackend } from './nic-backend.js';
import { BpfhvRegisters } from './registers.js';

export interface BpfhvPciOptions {
  /** Stays the caller's, and is asked by nobody else for anything but upgrades and statistics. */
  readonly nic: DeviceNic;
  readonly queuePairs: number;
  /** Descriptors of each queue at first: a power of two from 16 to 8192. */
  readonly bufs: number;
  /** 6 octets. */
  readonly mac: Uint8Array;
  /** Bytes from one doorbell to the next: a power of two from 8 (default) to 2^21. A page or more keeps queues apart that are mapped one by one. */
  readonly doorbellSize?: number;
  /** For the names of eventfds. */
  readonly name?: string;
  readonly log?: (level: 'info' | 'warn' | 'error', message: string) => void;
}

const WORD = 4;

export class BpfhvPciDevice implements PciFunction {
  readonly regions: readonly RegionShape[];
  readonly irqs: readonly number[];
  readonly #nic: DeviceNic;
  readonly #doorbellSize: number;
  readonly #log: NonNullable<BpfhvPciOptions['log']>;
  readonly #config: ConfigSpace;
  readonly #interrupts: Interrupts;
  readonly #registers: BpfhvRegisters;
  readonly #backend: NicBackend;
  readonly #kicks: readonly EventFd[];
  readonly #doorbells: readonly RegionDoorbell[];

  private constructor(options: BpfhvPciOptions) {
    const { nic, queuePairs, bufs, mac, doorbellSize = MIN_DOORBELL_SIZE, name = 'bpfhv' } = options;
    const queues = 2 * queuePairs;
    this.#nic = nic;
    this.#doorbellSize = doorbellSize;
    this.#log = options.log ?? (() => {});
    this.#config = new ConfigSpace(bpfhvShape(queues, doorbellSize));
    this.regions = this.#config.regions;
    this.#interrupts = new Interrupts({ config: this.#config, vectors: queues + 1, intx: true, name });
    this.irqs = this.#interrupts.counts;
    this.#kicks = Array.from({ length: queues }, (_, i) => EventFd.create(`${name}: doorbell ${i}`));
    this.#doorbells = this.#kicks.map(({ owner }, i) => {
      return { offset: i * doorbellSize, size: DOORBELL_WIDTH, fd: owner };
    });
    const parameters: NicParameters = {
      ...{ numRxQueues: queuePairs, numTxQueues: queuePairs },
      ...{ numRxBufs: bufs, numTxBufs: bufs },
    };
    this.#registers = new BpfhvRegisters({
      ...{ parameters, mac, doorbellSize, log: this.#log },
      dump: () => this.#dump(),
      onShow: () => this.#interrupts.raise(IRQ.MSIX, queues),
    });
    const { msix } = this.#interrupts;
    this.#backend = new NicBackend(nic, {
      ...{ parameters, kicks: this.#kicks, irq: queue => msix.target(queue) },
      upgrade: this.#registers.contracts.upgradeFd,
    });
    msix.onTarget = (vector, fd) => this.#aim(vector, fd);
  }

  /**
   * A device whose NIC has been asked for its queues. Throws RangeError for a doorbell size that can't be, and NicError NIC_PARAMETERS, MemoryError, EbpfError for
   * a contract that the NIC can't offer.
   */
  static async create(options: BpfhvPciOptions): Promise<BpfhvPciDevice> {
    const { doorbellSize: size = MIN_DOORBELL_SIZE } = options;
    if (!isDoorbellSize(size))
      throw new RangeError(`doorbells of ${size} bytes: a power of two from 8 to 2^21 can be had`);
    const device = new BpfhvPciDevice(options);
    try {
      await device.#introduce(null);
      return device;
    } catch (error) {
      device.close();
      throw error;
    }
  }

  /** Whether the NIC's port has a link: true unless told otherwise. The guest's link needs it. */
  setCarrier(up: boolean): void {
    this.#registers.carrier = up;
  }

  read(region: number, offset: number, into: Uint8Array): void {
    switch (region) {
      case BAR.REGISTERS:
        this.#readRegisters(offset, into);
        break;
      case BAR.MSIX:
        this.#interrupts.msix.read(offset, into);
        break;
      case BAR.PROGRAM: {
        const bytes = this.#registers.program.subarray(offset, offset + into.length);
        into.set(bytes);
        into.fill(0, bytes.length);
        break;
      }
      case REGION.CONFIG:
        this.#config.read(offset, into);
        break;
      default:
        into.fill(0);
    }
  }

  async write(region: number, offset: number, bytes: Uint8Array): Promise<void> {
    switch (region) {
      case BAR.REGISTERS:
        return this.#writeRegisters(offset, bytes);
      case BAR.DOORBELLS:
        return this.#ring(offset, bytes.length);
      case BAR.MSIX:
        return this.#interrupts.msix.write(offset, bytes);
      case REGION.CONFIG:
        await writeConfig(this.#configured, offset, bytes);
        break;
      default: // nothing can be written there
    }
  }

  connect(kind: number, index: number, fd: OwnedFd | null): Promise<void> {
    return this.#interrupts.connect(kind, index, fd);
  }

  mask(kind: number, index: number, masked: boolean): Promise<void> {
    return this.#interrupts.mask(kind, index, masked);
  }

  raise(kind: number, index: number): void {
    this.#interrupts.raise(kind, index);
  }

  doorbells(region: number): readonly RegionDoorbell[] {
    return region === BAR.DOORBELLS ? this.#doorbells : [];
  }

  setMemory(regions: readonly MemoryRegionSpec[]): Promise<void> {
    return this.#nic.setMemoryTable(regions);
  }

  async reset(): Promise<void> {
    await this.#nic.reset();
    await this.#powerOn();
  }

  async disconnect(): Promise<void> {
    try {
      await this.#nic.reset();
    } finally {
      await this.#interrupts.disconnect();
    }
    const { parameters } = this.#nic;
    await this.#nic.disconnect();
    this.#registers.contracts.peerGone();
    await this.#powerOn(parameters);
  }

  /** Ends the device. For when nobody uses it any more, and its NIC is about to be closed. */
  close(): void {
    this.#registers.close();
    this.#interrupts.close();
    for (const kick of this.#kicks) kick.close();
  }

  get #configured(): ConfiguredFunction {
    return {
      ...{ config: this.#config, interrupts: this.#interrupts },
      reset: () => this.reset(),
      warn: message => this.#log('error', message),
    };
  }

  /** All state as a guest first finds it, with so many queues and buffers. For a NIC that does not run. */
  async #powerOn(parameters = this.#nic.parameters): Promise<void> {
    this.#registers.reset();
    this.#config.reset();
    await this.#interrupts.reset();
    for (const kick of this.#kicks) kick.drain();
    await this.#introduce(parameters);
  }

  async #introduce(parameters: NicParameters | null): Promise<void> {
    const { contracts } = this.#registers;
    const offer = await this.#backend.offer(parameters);
    contracts.attach(this.#backend, offer, { show: false });
    await contracts.look(); // at what was announced meanwhile
  }

  #readRegisters(offset: number, into: Uint8Array): void {
    const word = new DataView(new ArrayBuffer(WORD));
    for (let i = 0; i < into.length; i++) {
      const at = offset + i;
      if (i === 0 || at % WORD === 0) word.setUint32(0, this.#registers.read(at - (at % WORD)), true);
      into[i] = word.getUint8(at % WORD);
    }
  }

  async #writeRegisters(offset: number, bytes: Uint8Array): Promise<void> {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const first = (WORD - (offset % WORD)) % WORD;
    for (let i = first; i + WORD <= bytes.length; i += WORD)
      await this.#registers.write(offset + i, view.getUint32(i, true));
  }

  /** A write anywhere in a slot rings its queue. */
  #ring(offset: number, length: number): void {
    const first = Math.floor(offset / this.#doorbellSize);
    const last = Math.floor((offset + length - 1) / this.#doorbellSize);
    for (const kick of this.#kicks.slice(first, last + 1)) kick.signal();
  }

  /** Another eventfd is to be signalled for a vector. A NIC that can't be told any more has failed, and says so itself. */
  async #aim(vector: number, fd: OwnedFd): Promise<void> {
    if (vector === this.#kicks.length) return; // the upgrade's, which we raise ourselves
    try {
      await this.#nic.setQueueIrq(vector, fd.dup());
    } catch (error) {
      this.#log('warn', (error as Error).message);
    }
  }

  #dump(): Uint8Array {
    const { status, contracts } = this.#registers;
    return dumpText([statusLine(status, contracts.shown?.features ?? 0n), ...this.#nic.dump().split('\n')]);
  }
}
