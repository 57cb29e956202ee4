/**
 * The register block of drivers from before the standard (virtio 0.9.5; virtio 1.2, 4.1.4.10): I/O ports, 32 feature bits, rings given by a page number.
 *
 * ```
 *   0 offer   4 accepted   8 page   12 size  14 select  16 notify  18 status 19 ISR   [20 vectors]   20 | 24  the card's own
 * ```
 * The vectors are there only while MSI-X is enabled, and what follows moves.
 */

import { NO_VECTOR } from '../../guest/pci/virtio-numbers.js';
import type { VirtioNetDevice } from './device.js';
import type { DeviceQueue } from './device-queue.js';
import { LEGACY, LEGACY_CONFIG, LEGACY_CONFIG_WITH_MSIX } from './numbers.js';
import { type Register, readRegisters, writeRegisters } from './register-block.js';

/** Bytes of the ports' BAR. */
export const LEGACY_SIZE = 64;

export class LegacyBlock {
  readonly #device: VirtioNetDevice;
  readonly #registers: readonly Register[];
  readonly #vectors: readonly Register[];

  constructor(device: VirtioNetDevice) {
    const { select, signals } = device;
    const queue = (): DeviceQueue | undefined => device.queues[select.queue];
    this.#device = device;
    this.#registers = [
      { offset: LEGACY.DEVICE_FEATURES, size: 4, get: () => Number(device.legacyOffer) },
      {
        ...{ offset: LEGACY.DRIVER_FEATURES, size: 4, get: () => Number(device.accepted & 0xffff_ffffn) },
        set: value => device.acceptLegacy(value),
      },
      {
        ...{ offset: LEGACY.QUEUE_PFN, size: 4, get: () => queue()?.page ?? 0 },
        set: value => setPage(device, queue(), value),
      },
      { offset: LEGACY.QUEUE_SIZE, size: 2, get: () => queue()?.maxSize ?? 0 },
      {
        ...{ offset: LEGACY.QUEUE_SELECT, size: 2, get: () => select.queue },
        set: value => void (select.queue = value),
      },
      {
        ...{ offset: LEGACY.QUEUE_NOTIFY, size: 2, get: () => 0 },
        set: value => device.notify(value),
      },
      {
        ...{ offset: LEGACY.STATUS, size: 1, get: () => device.status },
        set: value => device.setStatus(value, true),
      },
      { offset: LEGACY.ISR, size: 1, get: () => signals.takeIsr() },
    ];
    this.#vectors = [
      {
        ...{ offset: LEGACY.CONFIG_VECTOR, size: 2, get: () => signals.configVector },
        set: value => void (signals.configVector = signals.accepted(value)),
      },
      {
        ...{ offset: LEGACY.QUEUE_VECTOR, size: 2, get: () => queue()?.vector ?? NO_VECTOR },
        set: value => {
          const it = queue();
          return it && device.setVector(it, value);
        },
      },
    ];
  }

  read(offset: number, into: Uint8Array): void {
    const { registers, end } = this.#present;
    readRegisters(registers, offset, into);
    const from = Math.max(offset, end);
    if (from < offset + into.length) this.#device.config.read(from - end, into.subarray(from - offset));
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const { registers, end } = this.#present;
    await writeRegisters(registers, offset, bytes);
    const from = Math.max(offset, end);
    if (from < offset + bytes.length) this.#device.writeConfig(from - end, bytes.subarray(from - offset));
  }

  /** The registers that there are, and where the card's own block begins. */
  get #present(): { registers: readonly Register[]; end: number } {
    return this.#device.signals.usesMsix
      ? { registers: [...this.#registers, ...this.#vectors], end: LEGACY_CONFIG_WITH_MSIX }
      : { registers: this.#registers, end: LEGACY_CONFIG };
  }
}

/** The driver says where a queue is, which makes it one; page 0 takes it away. */
async function setPage(device: VirtioNetDevice, queue: DeviceQueue | undefined, page: number): Promise<void> {
  if (!queue) return;
  if (page === 0) return device.resetQueue(queue);
  if (queue.enabled) return;
  queue.page = page;
  await device.enableQueue(queue);
}
