/** The registers of the standard: the common configuration structure (virtio 1.2, 4.1.4.3), as a table. */

import { COMMON, NO_VECTOR, PCI_NET_FEATURE } from '../../guest/pci/virtio-numbers.js';
import type { Areas } from '../../ring/virtio/areas.js';
import type { VirtioNetDevice } from './device.js';
import type { DeviceQueue } from './device-queue.js';
import type { Register } from './register-block.js';

export function commonRegisters(device: VirtioNetDevice): readonly Register[] {
  const { select, signals, config } = device;
  const queue = (): DeviceQueue | undefined => device.queues[select.queue];
  /** Of the queue that is selected; of one that there is not, everything is 0 and can't be written. */
  const ofQueue = (
    offset: number,
    size: Register['size'],
    get: (queue: DeviceQueue) => number,
    set?: (queue: DeviceQueue, value: number) => void | Promise<void>,
  ): Register => ({
    ...{ offset, size, get: () => ifThere(queue(), get) ?? 0 },
    ...(set && { set: value => ifThere(queue(), it => set(it, value)) }),
  });
  /** What describes a queue stands still once it is enabled. */
  const description = (
    offset: number,
    size: Register['size'],
    get: (queue: DeviceQueue) => number,
    set: (queue: DeviceQueue, value: number) => void,
  ): Register =>
    ofQueue(offset, size, get, (it, value) => {
      if (!it.enabled) set(it, value);
    });
  const address = (offset: number, area: keyof Areas<bigint>): Register[] =>
    ([0, 1] as const).map(half =>
      description(
        offset + 4 * half,
        4,
        it => it.half(area, half),
        (it, value) => it.setHalf(area, half, value),
      ),
    );
  return [
    {
      ...{ offset: COMMON.DEVICE_FEATURE_SELECT, size: 4, get: () => select.offer },
      set: value => void (select.offer = value),
    },
    { offset: COMMON.DEVICE_FEATURE, size: 4, get: () => half(device.offer, select.offer) },
    {
      ...{ offset: COMMON.DRIVER_FEATURE_SELECT, size: 4, get: () => select.accepted },
      set: value => void (select.accepted = value),
    },
    {
      ...{ offset: COMMON.DRIVER_FEATURE, size: 4, get: () => half(device.accepted, select.accepted) },
      set: value => device.accept(select.accepted, value),
    },
    {
      ...{ offset: COMMON.CONFIG_VECTOR, size: 2, get: () => signals.configVector },
      set: value => void (signals.configVector = signals.accepted(value)),
    },
    { offset: COMMON.NUM_QUEUES, size: 2, get: () => device.queues.length },
    {
      ...{ offset: COMMON.STATUS, size: 1, get: () => device.status },
      set: value => device.setStatus(value),
    },
    { offset: COMMON.GENERATION, size: 1, get: () => config.generation },
    {
      ...{ offset: COMMON.QUEUE_SELECT, size: 2, get: () => select.queue },
      set: value => void (select.queue = value),
    },
    description(
      COMMON.QUEUE_SIZE,
      2,
      it => it.size,
      (it, value) => {
        if (value > 0 && value <= it.maxSize) it.size = value;
      },
    ),
    {
      ...{ offset: COMMON.QUEUE_VECTOR, size: 2, get: () => queue()?.vector ?? NO_VECTOR },
      set: value => ifThere(queue(), it => device.setVector(it, value)),
    },
    ofQueue(
      COMMON.QUEUE_ENABLE,
      2,
      it => Number(it.enabled),
      (it, value) => (value === 1 ? device.enableQueue(it) : undefined),
    ),
    ofQueue(COMMON.QUEUE_NOTIFY_OFF, 2, it => it.index),
    ...address(COMMON.QUEUE_DESCRIPTOR, 'descriptor'),
    ...address(COMMON.QUEUE_DRIVER, 'driver'),
    ...address(COMMON.QUEUE_DEVICE, 'device'),
    ofQueue(COMMON.QUEUE_NOTIFY_DATA, 2, it => it.index),
    // When the write is over, so is the reset: it always reads 0.
    ofQueue(
      COMMON.QUEUE_RESET,
      2,
      () => 0,
      (it, value) => {
        const agreed = (device.features & PCI_NET_FEATURE.RING_RESET) !== 0n;
        return value === 1 && agreed ? device.resetQueue(it) : undefined;
      },
    ),
  ];
}

function ifThere<T>(queue: DeviceQueue | undefined, use: (queue: DeviceQueue) => T): T | undefined {
  return queue && use(queue);
}

/** 32 bits of a set of features; behind the first two halves there is nothing. */
function half(features: bigint, select: number): number {
  return select > 1 ? 0 : Number((features >> BigInt(32 * select)) & 0xffff_ffffn);
}
