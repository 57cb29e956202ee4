/**
 * A virtqueue, driver side, as TypeScript keeps it: a guest in this process, as DPDK's virtio-user is one. The ring itself is datapath/vdrv.ts.
 *
 * Areas, buffers and indirect tables are given out from the guest's memory; the rest is in the arena, where no device can reach it.
 */
import * as L from '../../../datapath/layout.js';
import type { Arena } from '../../memory/arena.js';
import type { Window } from '../../memory/window.js';
import type { DatapathExports } from '../datapath.js';
import { type Areas, areaSizes, checkSize } from './areas.js';
import { queueSettings } from './features.js';

/** Guest memory that lies in the window. */
export interface GuestSpace {
  /** Window address of `size` zeroed bytes at the start of a cache line. */
  allocate(size: number): number;
  free(address: number): void;
  /** What the device calls a window address. */
  toGuest(address: number): bigint;
}

export interface VirtqDriverOptions {
  readonly direction: 'rx' | 'tx';
  /** What was negotiated: VERSION_1 or ANY_LAYOUT. */
  readonly features: bigint;
  /** Descriptors of the ring. */
  readonly num: number;
  /** At most `num`, the default. */
  readonly buffers?: number;
  /** Bytes of payload that a buffer holds; default: as many as 2 KiB with the headroom do. */
  readonly room?: number;
  /** Buffers that a frame may take, at most 64; default: 1. */
  readonly frameBuffers?: number;
}

export class VirtqDriver {
  /** Window address of the structure. */
  readonly address: number;
  readonly areas: Areas<bigint>;
  readonly buffers: number;
  /** Window address of the first buffer. */
  readonly bufferBase: number;
  /** Where a device that starts on the ring after `reset` has to begin, in the form of vhost's VRING_BASE. */
  readonly base: number;
  readonly #calls: DatapathExports;
  readonly #release: () => void;

  /** Throws VirtqError, MemoryError. */
  constructor(
    { window, arena, calls }: { window: Window; arena: Arena; calls: DatapathExports },
    space: GuestSpace,
    options: VirtqDriverOptions,
  ) {
    const { direction, features, num, room = 2048 - L.VDRV_HEADROOM, frameBuffers = 1 } = options;
    const { flags, header, offloads } = queueSettings(features, direction);
    const packed = (flags & L.VIRTQ_PACKED) !== 0;
    checkSize(num, packed);
    this.buffers = Math.min(options.buffers ?? num, num);
    this.base = packed ? 0x8000_8000 : 0;
    this.#calls = calls;
    const stride = 2 ** Math.ceil(Math.log2(room + L.VDRV_HEADROOM));
    const tableStride = 16 * frameBuffers;
    const indirect = (flags & L.VIRTQ_INDIRECT) !== 0 && frameBuffers > 1 && direction === 'tx';
    const sizes = areaSizes(num, packed);

    const guest = [
      sizes.descriptor,
      sizes.driver,
      sizes.device,
      this.buffers * stride,
      indirect ? this.buffers * tableStride : 1,
    ].map(size => space.allocate(size));
    const [descriptor, driver, device, buffers, tables] = guest as [number, number, number, number, number];
    const own = [
      L.VDRV_SIZE,
      this.buffers * 4,
      this.buffers,
      this.buffers * 4,
      direction === 'tx' ? this.buffers * 8 : 1,
      (flags & L.VIRTQ_IN_ORDER) !== 0 ? num * 4 : 1,
    ].map(size => arena.allocate(size));
    const [address, free, owner, links, sent, order] = own as [
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    this.address = address;
    this.bufferBase = buffers;
    this.areas = {
      descriptor: space.toGuest(descriptor),
      driver: space.toGuest(driver),
      device: space.toGuest(device),
    };
    this.#release = () => {
      for (const piece of guest) space.free(piece);
      for (const piece of own) arena.free(piece);
    };
    const fields: readonly (readonly [number, number])[] = [
      [L.DRIVER_NUM, this.buffers],
      [L.DRIVER_BUFFERS, buffers],
      [L.DRIVER_STRIDE, stride],
      [L.DRIVER_ROOM, room],
      [L.DRIVER_FREE, free],
      [L.DRIVER_OWNER, owner],
      [L.DRIVER_FRAME_BUFFERS, frameBuffers],
      [L.DRIVER_OFFLOADS, offloads],
      [L.VDRV_DESCRIPTOR, descriptor],
      [L.VDRV_DRIVER, driver],
      [L.VDRV_DEVICE, device],
      [L.VDRV_RING, num],
      [L.VDRV_FLAGS, flags],
      [L.VDRV_HEADER, header],
      [L.VDRV_LINKS, links],
      [L.VDRV_SENT, sent],
      [L.VDRV_ORDER, order],
      [L.VDRV_TABLES, indirect ? tables : 0],
      [L.VDRV_TABLE_STRIDE, tableStride],
    ];
    for (const [field, value] of fields) window.words[(address + field) >>> 2] = value;
    window.longs[(address + L.DRIVER_BUFFERS_GPA) / 8] = space.toGuest(buffers);
    window.longs[(address + L.VDRV_TABLES_GPA) / 8] = space.toGuest(tables);
    this.reset();
  }

  /** All buffers free, an empty ring: before a device starts, and again after it has stopped. */
  reset(): void {
    this.#calls.vdrv_reset(this.address, this.buffers);
  }

  /** Nobody uses it any more, a device least of all. */
  close(): void {
    this.#release();
  }
}
