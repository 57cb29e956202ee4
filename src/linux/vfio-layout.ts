/**
 * What VFIO's ioctls are called and what their arguments look like, for one PCI function behind a type 1 IOMMU.
 *
 * Numbers and layouts: <linux/vfio.h>. Every struct begins with `argsz`, the bytes that the caller has for it; lists of capabilities hang behind those that
 * describe something:
 *
 * ```
 *   argsz │ flags │ … │ cap_offset ─► { u16 id, u16 version, u32 next ─► … }     offsets count from the struct's first byte; next 0: the last one
 * ```
 */

/** _IO(';', 100 + number): these do not say how long their argument is. */
function request(number: number): number {
  return (0x3b << 8) | (100 + number);
}

export const VFIO = {
  // the container: an address space, and what may use it
  GET_API_VERSION: request(0),
  CHECK_EXTENSION: request(1),
  SET_IOMMU: request(2),
  IOMMU_GET_INFO: request(12),
  IOMMU_MAP_DMA: request(13),
  IOMMU_UNMAP_DMA: request(14),
  // a group
  GROUP_GET_STATUS: request(3),
  GROUP_SET_CONTAINER: request(4),
  GROUP_GET_DEVICE_FD: request(6),
  // a device
  DEVICE_GET_INFO: request(7),
  DEVICE_GET_REGION_INFO: request(8),
  DEVICE_GET_IRQ_INFO: request(9),
  DEVICE_SET_IRQS: request(10),
  DEVICE_IOEVENTFD: request(16),
} as const;

export const API_VERSION = 0;
/** Kinds of IOMMU, the better one first. */
export const TYPE1V2_IOMMU = 3;
export const TYPE1_IOMMU = 1;

const GROUP_VIABLE = 1;
const DEVICE_IS_PCI = 2;
const IOMMU_HAS_PGSIZES = 1;
const IOMMU_HAS_CAPS = 2;
const CAP_IOVA_RANGE = 1;
const DMA_MAP_READ_WRITE = 1 | 2;
const IRQ_DATA_NONE = 1;
const IRQ_DATA_EVENTFD = 4;
const IRQ_TRIGGER = 32;

/** A struct of `size` bytes whose argsz says so. */
function struct(size: number): DataView {
  const view = new DataView(new ArrayBuffer(size));
  view.setUint32(0, size, true);
  return view;
}

/** struct vfio_group_status: argsz, flags. */
export function groupStatus(): DataView {
  return struct(8);
}
export function isViable(status: DataView): boolean {
  return (status.getUint32(4, true) & GROUP_VIABLE) !== 0;
}

/** struct vfio_device_info: argsz, flags, num_regions, num_irqs. */
export function deviceInfo(): DataView {
  return struct(16);
}
export function readDeviceInfo(info: DataView) {
  const flags = info.getUint32(4, true);
  return {
    isPci: (flags & DEVICE_IS_PCI) !== 0,
    regions: info.getUint32(8, true),
    irqs: info.getUint32(12, true),
  };
}

/** struct vfio_region_info: argsz, flags, index, cap_offset, u64 size, u64 offset in the device's file. */
export function regionInfo(index: number): DataView {
  const view = struct(32);
  view.setUint32(8, index, true);
  return view;
}
export function readRegionInfo(info: DataView): { readonly size: number; readonly offset: number } {
  return { size: Number(info.getBigUint64(16, true)), offset: Number(info.getBigUint64(24, true)) };
}

/** struct vfio_irq_info: argsz, flags, index, count. */
export function irqInfo(index: number): DataView {
  const view = struct(16);
  view.setUint32(8, index, true);
  return view;
}
export function readIrqCount(info: DataView): number {
  return info.getUint32(12, true);
}

/** struct vfio_irq_set: argsz, flags, index, start, count, then an s32 for each: here eventfds, connected from the first interrupt on. */
export function irqSet(index: number, eventfds: readonly number[]): DataView {
  const view = struct(20 + 4 * eventfds.length);
  view.setUint32(4, IRQ_DATA_EVENTFD | IRQ_TRIGGER, true);
  view.setUint32(8, index, true);
  view.setUint32(16, eventfds.length, true);
  eventfds.forEach((fd, i) => {
    view.setInt32(20 + 4 * i, fd, true);
  });
  return view;
}

/** The same, to turn all interrupts of a kind off. */
export function irqsOff(index: number): DataView {
  const view = struct(20);
  view.setUint32(4, IRQ_DATA_NONE | IRQ_TRIGGER, true);
  view.setUint32(8, index, true);
  return view;
}

/** struct vfio_device_ioeventfd: argsz, flags (the width of the write), u64 offset in the device's file, u64 data, s32 eventfd. */
export function ioEventFd(offset: number, value: number, size: 1 | 2 | 4, eventfd: number): DataView {
  const view = struct(32); // four bytes more than are used, as the compiler pads it
  view.setUint32(4, size, true); // the flag of a width is its number of bytes
  view.setBigUint64(8, BigInt(offset), true);
  view.setBigUint64(16, BigInt(value), true);
  view.setInt32(24, eventfd, true);
  return view;
}

/** struct vfio_iommu_type1_dma_map: argsz, flags, u64 address in this process, u64 iova, u64 size. */
export function dmaMap(iova: bigint, size: number, address: number): DataView {
  const view = struct(32);
  view.setUint32(4, DMA_MAP_READ_WRITE, true);
  view.setBigUint64(8, BigInt(address), true);
  view.setBigUint64(16, iova, true);
  view.setBigUint64(24, BigInt(size), true);
  return view;
}

/** struct vfio_iommu_type1_dma_unmap: argsz, flags, u64 iova, u64 size; the kernel puts there how much it has unmapped. */
export function dmaUnmap(iova: bigint, size: number): DataView {
  const view = struct(24);
  view.setBigUint64(8, iova, true);
  view.setBigUint64(16, BigInt(size), true);
  return view;
}

/** struct vfio_iommu_type1_info: argsz, flags, u64 page sizes, u32 cap_offset; capabilities behind it. */
export function iommuInfo(size: number): DataView {
  return struct(size);
}
/** How long it would have to be. */
export function iommuInfoSize(info: DataView): number {
  return info.getUint32(0, true);
}

export interface IommuFacts {
  /** A bit for each size of page; 0: not said. */
  readonly pageSizes: bigint;
  /** Bus addresses that can be mapped, ends included; null: not said. */
  readonly ranges: readonly { readonly start: bigint; readonly end: bigint }[] | null;
}

const INFO_HEAD = 24;
const CAP_HEAD = 16;

export function readIommuInfo(info: DataView): IommuFacts {
  const flags = info.getUint32(4, true);
  const pageSizes = (flags & IOMMU_HAS_PGSIZES) !== 0 ? info.getBigUint64(8, true) : 0n;
  let ranges: IommuFacts['ranges'] = null;
  let at = (flags & IOMMU_HAS_CAPS) !== 0 ? info.getUint32(16, true) : 0;
  let last = INFO_HEAD - 1;
  while (at > last && at + CAP_HEAD <= info.byteLength) {
    if (info.getUint16(at, true) === CAP_IOVA_RANGE) ranges = readRanges(info, at);
    last = at;
    at = info.getUint32(at + 4, true);
  }
  return { pageSizes, ranges };
}

/** struct vfio_iommu_type1_info_cap_iova_range: header, u32 count, u32 reserved, then {u64 start, u64 end} each. */
function readRanges(info: DataView, at: number): { start: bigint; end: bigint }[] {
  const room = Math.floor((info.byteLength - at - CAP_HEAD) / 16);
  const count = Math.min(info.getUint32(at + 8, true), room);
  return Array.from({ length: count }, (_, i) => ({
    start: info.getBigUint64(at + CAP_HEAD + 16 * i, true),
    end: info.getBigUint64(at + CAP_HEAD + 16 * i + 8, true),
  }));
}
