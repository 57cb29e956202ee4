/**
 * A virtio network card as a PCI function, for drivers that nobody has changed: one of the standard alone, or a transitional one, which drivers from before
 * the standard can use as well.
 *
 * ```
 *   BAR 0   64 I/O ports           transitional only: the legacy register block
 *   BAR 1   memory, 4 KiB or more  MSI-X table and pending bits
 *   BAR 4   memory, 16 KiB         0x0000 common   0x1000 ISR   0x2000 the card's own   0x3000 notify, 4 bytes a queue
 *   config                         a window to these (PCI_CFG), for those who can't reach BARs
 * ```
 */

import {
  CFG_TYPE,
  COMMON_SIZE,
  NET_CONFIG_SIZE,
  NETWORK_CARD,
  VIRTIO_VENDOR,
} from '../../guest/pci/virtio-numbers.js';
import type { OwnedFd } from '../../linux/fd.js';
import { REGION } from '../../linux/vfio-numbers.js';
import type { MemoryRegionSpec } from '../../nic/control.js';
import { expressCapability, msixCapability } from '../capabilities.js';
import { ConfigSpace } from '../config-space.js';
import { writeConfig } from '../config-writes.js';
import type { PciFunction, RegionDoorbell, RegionShape } from '../function.js';
import { Interrupts } from '../interrupts.js';
import { msixLayout } from '../msix.js';
import { BarWindow, structureCapability } from './capabilities.js';
import { commonRegisters } from './common-config.js';
import { VirtioNetDevice, type VirtioNetOptions } from './device.js';
import { queueSizeOf } from './device-queue.js';
import { LEGACY_SIZE, LegacyBlock } from './legacy-block.js';
import { CLASS_ETHERNET } from './numbers.js';
import { type Register, readRegisters, writeRegisters } from './register-block.js';

export interface VirtioNetFunctionOptions extends VirtioNetOptions {
  /** Drivers from before the standard can use it, too. */
  readonly transitional?: boolean;
  /** It has MSI-X, beside INTx; default true. */
  readonly msix?: boolean;
}

const LEGACY_BAR = REGION.BAR0;
const MSIX_BAR = REGION.BAR1;
const MODERN_BAR = REGION.BAR4;
const MODERN_SIZE = 0x4000;
const COMMON_AT = 0x0000;
const ISR_AT = 0x1000;
const DEVICE_AT = 0x2000;
const NOTIFY_AT = 0x3000;
/** Bytes from one queue's notification to the next one's. */
const NOTIFY_STRIDE = 4;
/** Bytes that a driver writes there. */
const NOTIFY_SIZE = 2;

/** Of what a card of the standard is known by, and a transitional one. */
const IDENTITY = {
  modern: { device: NETWORK_CARD.MODERN, revision: 1, subsystem: 0x1100 },
  transitional: { device: NETWORK_CARD.TRANSITIONAL, revision: 0, subsystem: 1 },
} as const;

export class VirtioNetFunction implements PciFunction {
  readonly regions: readonly RegionShape[];
  readonly irqs: readonly number[];
  readonly device: VirtioNetDevice;
  readonly #config: ConfigSpace;
  readonly #interrupts: Interrupts;
  readonly #window = new BarWindow();
  readonly #legacy: LegacyBlock | null;
  readonly #common: readonly Register[];

  /** Throws RangeError for a `queueSize` that can't be had. */
  constructor(options: VirtioNetFunctionOptions) {
    const queueSize = queueSizeOf(options.nic, options.queueSize);
    const { nic, transitional = false, msix: withMsix = true, name = 'virtio-net' } = options;
    const queues = 2 * nic.queuePairs + 1;
    const vectors = withMsix ? queues + 1 : 0;
    const msix = msixLayout(vectors);
    const place = (offset: number, length: number) => ({ bar: MODERN_BAR, offset, length });
    this.#config = new ConfigSpace({
      ...{ vendor: VIRTIO_VENDOR, subsystemVendor: VIRTIO_VENDOR, classCode: CLASS_ETHERNET },
      ...IDENTITY[transitional ? 'transitional' : 'modern'],
      interruptPin: 1,
      bars: [
        transitional ? { space: 'io', size: LEGACY_SIZE } : null,
        withMsix ? { space: 'memory', size: msix.size } : null,
        ...[null, null],
        { space: 'memory', size: MODERN_SIZE },
      ],
      capabilities: [
        ...(withMsix
          ? [
              msixCapability(
                vectors,
                { bar: MSIX_BAR, offset: msix.table },
                { bar: MSIX_BAR, offset: msix.pba },
              ),
            ]
          : []),
        structureCapability(CFG_TYPE.COMMON, place(COMMON_AT, COMMON_SIZE)),
        structureCapability(CFG_TYPE.ISR, place(ISR_AT, 1)),
        structureCapability(CFG_TYPE.DEVICE, place(DEVICE_AT, NET_CONFIG_SIZE)),
        structureCapability(CFG_TYPE.NOTIFY, place(NOTIFY_AT, NOTIFY_STRIDE * queues), NOTIFY_STRIDE),
        this.#window.capability,
        expressCapability(),
      ],
    });
    this.regions = this.#config.regions;
    this.#interrupts = new Interrupts({ config: this.#config, vectors, intx: true, name });
    this.irqs = this.#interrupts.counts;
    this.device = new VirtioNetDevice({ ...options, queueSize }, this.#interrupts);
    this.#interrupts.msix.onTarget = () => this.device.retarget();
    this.#legacy = transitional ? new LegacyBlock(this.device) : null;
    this.#common = commonRegisters(this.device);
  }

  async read(region: number, offset: number, into: Uint8Array): Promise<void> {
    if (region === REGION.CONFIG) return this.#readConfig(offset, into);
    into.fill(0);
    if (region === LEGACY_BAR) this.#legacy?.read(offset, into);
    else if (region === MSIX_BAR) this.#interrupts.msix.read(offset, into);
    else if (region === MODERN_BAR) this.#readModern(offset, into);
  }

  async write(region: number, offset: number, bytes: Uint8Array): Promise<void> {
    if (region === REGION.CONFIG) await this.#writeConfig(offset, bytes);
    else if (region === LEGACY_BAR) await this.#legacy?.write(offset, bytes);
    else if (region === MSIX_BAR) await this.#interrupts.msix.write(offset, bytes);
    else if (region === MODERN_BAR) await this.#writeModern(offset, bytes);
  }

  async connect(kind: number, index: number, fd: OwnedFd | null): Promise<void> {
    await this.#interrupts.connect(kind, index, fd);
    await this.device.retarget();
  }

  mask(kind: number, index: number, masked: boolean): Promise<void> {
    return this.#interrupts.mask(kind, index, masked);
  }

  raise(kind: number, index: number): void {
    this.#interrupts.raise(kind, index);
  }

  doorbells(region: number): readonly RegionDoorbell[] {
    if (region !== MODERN_BAR) return [];
    return this.device.queues.map(({ index, kick }) => ({
      offset: NOTIFY_AT + NOTIFY_STRIDE * index,
      size: NOTIFY_SIZE,
      fd: kick.owner,
    }));
  }

  async setMemory(regions: readonly MemoryRegionSpec[]): Promise<void> {
    // Rings are given by their addresses on the bus as well.
    const onBus = regions.map(region => ({
      ...region,
      hypervisorVirtualAddress: region.guestPhysicalAddress,
    }));
    await this.device.nic.setMemoryTable(onBus);
    this.device.memoryChanged();
  }

  async reset(): Promise<void> {
    await this.device.reset();
    this.#config.reset();
    await this.#interrupts.reset();
  }

  async disconnect(): Promise<void> {
    await this.reset();
    await this.#interrupts.disconnect();
    await this.device.nic.disconnect();
    this.device.forgive();
  }

  /** For a function that nobody has connected. The NIC stays its owner's. */
  close(): void {
    this.device.close();
    this.#interrupts.close();
  }

  #readModern(offset: number, into: Uint8Array): void {
    const { device } = this;
    readRegisters(this.#common, offset - COMMON_AT, into);
    part(offset, into, DEVICE_AT, NET_CONFIG_SIZE, (at, bytes) => device.config.read(at, bytes));
    part(offset, into, ISR_AT, 1, (_, bytes) => void bytes.fill(device.signals.takeIsr()));
  }

  async #writeModern(offset: number, bytes: Uint8Array): Promise<void> {
    const { device } = this;
    if (offset < COMMON_AT + COMMON_SIZE) await writeRegisters(this.#common, offset - COMMON_AT, bytes);
    part(offset, bytes, DEVICE_AT, NET_CONFIG_SIZE, (at, piece) => device.writeConfig(at, piece));
    part(offset, bytes, NOTIFY_AT, NOTIFY_STRIDE * device.queues.length, at =>
      device.notify(Math.floor(at / NOTIFY_STRIDE)),
    );
  }

  async #readConfig(offset: number, into: Uint8Array): Promise<void> {
    const config = this.#config;
    const place = this.#window.meets(config, offset, into.length) ? this.#window.place(config) : null;
    if (place) {
      const bytes = new Uint8Array(place.length);
      await this.read(place.bar, place.offset, bytes);
      this.#window.store(config, bytes);
    }
    config.read(offset, into);
  }

  async #writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    const config = this.#config;
    const wasReset = await writeConfig(
      {
        ...{ config, interrupts: this.#interrupts },
        reset: () => this.reset(),
        warn: message => this.device.warn(message),
      },
      offset,
      bytes,
    );
    if (wasReset) return;
    await this.device.retarget();
    const place = this.#window.meets(config, offset, bytes.length) ? this.#window.place(config) : null;
    if (place) await this.write(place.bar, place.offset, this.#window.read(config, place.length));
  }
}

/** Has `use` see what an access from `offset` on has in common with `length` bytes that begin at `from`, if anything. */
function part(
  offset: number,
  bytes: Uint8Array,
  from: number,
  length: number,
  use: (at: number, bytes: Uint8Array) => void,
): void {
  const start = Math.max(offset, from);
  const end = Math.min(offset + bytes.length, from + length);
  if (start < end) use(start - from, bytes.subarray(start - offset, end - offset));
}
