/** One queue of a virtio function, as the driver's registers describe it. */

import { NO_VECTOR } from '../../guest/pci/virtio-numbers.js';
import { EventFd } from '../../linux/eventfd.js';
import type { VirtioNic } from '../../nic/virtio-nic.js';
import type { Areas } from '../../ring/virtio/areas.js';
import { LEGACY_PAGE } from './numbers.js';

const DEFAULT_SIZE = 256;

/**
 * Descriptors that each queue can have: `wanted`, or as many as is usual of those that the NIC has. Throws RangeError for more than these, and for what is no
 * power of two.
 */
export function queueSizeOf({ maxBufs }: VirtioNic, wanted?: number): number {
  const size = wanted ?? Math.min(DEFAULT_SIZE, 2 ** Math.floor(Math.log2(maxBufs)));
  if (Number.isInteger(size) && size > 0 && size <= maxBufs && (size & (size - 1)) === 0) return size;
  throw new RangeError(`queues of ${size} descriptors: a power of two, at most ${maxBufs}, can be had`);
}

export class DeviceQueue {
  readonly index: number;
  /** Rung by the driver's notifications. */
  readonly kick: EventFd;
  readonly maxSize: number;
  /** Descriptors. */
  size: number;
  /** MSI-X vector, or NO_VECTOR. */
  vector = NO_VECTOR;
  enabled = false;
  /** Addresses on the bus. */
  areas: Areas<bigint> = { descriptor: 0n, driver: 0n, device: 0n };

  constructor(index: number, maxSize: number, name: string) {
    this.index = index;
    this.maxSize = maxSize;
    this.size = maxSize;
    this.kick = EventFd.create(`${name}: queue ${index}, kick`);
  }

  /** Puts 32 bits of an area's address. */
  setHalf(area: keyof Areas<bigint>, half: 0 | 1, value: number): void {
    const shift = BigInt(32 * half);
    const rest = this.areas[area] & ~(0xffff_ffffn << shift);
    this.areas = { ...this.areas, [area]: rest | (BigInt(value) << shift) };
  }

  half(area: keyof Areas<bigint>, half: 0 | 1): number {
    return Number((this.areas[area] >> BigInt(32 * half)) & 0xffff_ffffn);
  }

  /** Which page the whole ring begins with, as drivers from before the standard say it. */
  get page(): number {
    return Number(this.areas.descriptor / BigInt(LEGACY_PAGE)) >>> 0;
  }

  set page(page: number) {
    const descriptor = BigInt(page) * BigInt(LEGACY_PAGE);
    const driver = descriptor + BigInt(16 * this.size);
    const end = 16 * this.size + 6 + 2 * this.size;
    const device = descriptor + BigInt(Math.ceil(end / LEGACY_PAGE) * LEGACY_PAGE);
    this.areas = { descriptor, driver, device };
  }

  /** As if it had never been used. */
  reset(): void {
    this.size = this.maxSize;
    this.vector = NO_VECTOR;
    this.enabled = false;
    this.areas = { descriptor: 0n, driver: 0n, device: 0n };
    this.kick.drain();
  }
}
