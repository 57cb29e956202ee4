/**
 * The registers of a virtio network card on PCI, as its driver uses them: what is offered, what is agreed on, queues.
 *
 * All methods reject with PciError: PCI_GONE, or PCI_DEVICE for what a device may not say.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { Areas } from '../../ring/virtio/areas.js';
import { type PciAccess, PciError } from './access.js';
import { COMMON, NET_CONFIG, STATUS } from './virtio-numbers.js';
import type { VirtioPlaces } from './virtio-places.js';

/** How long a device may take for its reset, milliseconds. */
const PATIENCE = 5000;
/** Descriptors: with fewer a ring is of no use. */
const MIN_SIZE = 4;
/** A place in a BAR. */
export interface Notification {
  readonly bar: number;
  readonly offset: number;
}

/** Bytes of a notification. */
export const NOTIFY_SIZE = 2;

export class VirtioRegisters {
  readonly #access: PciAccess;
  readonly #places: VirtioPlaces;

  constructor(access: PciAccess, places: VirtioPlaces) {
    this.#access = access;
    this.#places = places;
  }

  get(offset: number, size: 1 | 2 | 4): Promise<number> {
    const { bar, offset: start } = this.#places.common;
    return this.#access.read(bar, start + offset, size);
  }

  set(offset: number, value: number, size: 1 | 2 | 4): Promise<void> {
    const { bar, offset: start } = this.#places.common;
    return this.#access.write(bar, start + offset, value, size);
  }

  /** Of the card's own configuration. */
  own(offset: number, size: 1 | 2 | 4): Promise<number> {
    const { bar, offset: start } = this.#places.device;
    return this.#access.read(bar, start + offset, size);
  }

  async mac(): Promise<Uint8Array> {
    const mac = new Uint8Array(6);
    for (const i of mac.keys()) mac[i] = await this.own(NET_CONFIG.MAC + i, 1);
    return mac;
  }

  /** Descriptors that each of the first `queues` queues can have. */
  async queueSize(queues: number): Promise<number> {
    let least = 0xffff;
    for (let index = 0; index < queues; index++) {
      await this.set(COMMON.QUEUE_SELECT, index, 2);
      least = Math.min(least, await this.get(COMMON.QUEUE_SIZE, 2));
    }
    if (least < MIN_SIZE) throw new PciError('PCI_DEVICE', `a queue of the device has ${least} descriptors`);
    return least;
  }

  /** Feature bits that are offered. */
  async offer(): Promise<bigint> {
    let features = 0n;
    for (const half of [0, 1]) {
      await this.set(COMMON.DEVICE_FEATURE_SELECT, half, 4);
      features |= BigInt(await this.get(COMMON.DEVICE_FEATURE, 4)) << BigInt(32 * half);
    }
    return features;
  }

  async reset(): Promise<void> {
    await this.set(COMMON.STATUS, 0, 1);
    const end = performance.now() + PATIENCE;
    while ((await this.get(COMMON.STATUS, 1)) !== 0) {
      if (performance.now() > end) throw new PciError('PCI_DEVICE', 'the device does not reset itself');
      await pause(1);
    }
  }

  async addStatus(bits: number): Promise<void> {
    await this.set(COMMON.STATUS, (await this.get(COMMON.STATUS, 1)) | bits, 1);
  }

  async agree(features: bigint): Promise<void> {
    await this.addStatus(STATUS.ACKNOWLEDGE | STATUS.DRIVER);
    for (const half of [0, 1]) {
      await this.set(COMMON.DRIVER_FEATURE_SELECT, half, 4);
      await this.set(COMMON.DRIVER_FEATURE, Number((features >> BigInt(32 * half)) & 0xffff_ffffn), 4);
    }
    await this.addStatus(STATUS.FEATURES_OK);
    if (((await this.get(COMMON.STATUS, 1)) & STATUS.FEATURES_OK) !== 0) return;
    throw new PciError('PCI_DEVICE', `the device refuses features 0x${features.toString(16)}`);
  }

  async enable(index: number, num: number, areas: Areas<bigint>, vector: number): Promise<void> {
    await this.set(COMMON.QUEUE_SELECT, index, 2);
    const most = await this.get(COMMON.QUEUE_SIZE, 2);
    if (num > most) {
      throw new PciError('PCI_DEVICE', `queue ${index} of the device has ${most} descriptors, not ${num}`);
    }
    await this.set(COMMON.QUEUE_SIZE, num, 2);
    await this.set(COMMON.QUEUE_VECTOR, vector, 2);
    if ((await this.get(COMMON.QUEUE_VECTOR, 2)) !== vector)
      throw new PciError('PCI_DEVICE', `the device has no vector for queue ${index}`);
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

  /** Where a queue's notification is to be written. */
  async notification(index: number): Promise<Notification> {
    const { notify, notifyMultiplier } = this.#places;
    await this.set(COMMON.QUEUE_SELECT, index, 2);
    const within = notifyMultiplier * (await this.get(COMMON.QUEUE_NOTIFY_OFF, 2));
    if (within + NOTIFY_SIZE > notify.length)
      throw new PciError('PCI_DEVICE', `the notification of queue ${index} is nowhere`);
    return { bar: notify.bar, offset: notify.offset + within };
  }
}
