/**
 * Both ends of one queue in one thread, with nothing between them but the ring:
 *
 * ```
 *   guest's driver ── guestBatch        ring        deviceBatch ── device
 *   driver, calls: `guest`          guest memory    queue, calls: `ring`
 * ```
 * There is no second core here, so cache lines stay where they are: what is measured is the work, and what two processes need beyond it is the
 * price of sharing.
 */
import * as L from '../../datapath/layout.js';
import { instantiate } from '../ebpf/jit/index.js';
import { DriverQueues, type OwnQueue } from '../guest/bpfhv/contract.js';
import { helperImplementations } from '../guest/bpfhv/helpers.js';
import { PROGRAMS } from '../guest/bpfhv/registers.js';
import { GuestRam } from '../guest/guest-ram.js';
import { GuestMemory } from '../memory/guest-memory.js';
import { Queue } from '../nic/queue.js';
import { Batch } from '../ring/batch.js';
import { type Datapath, type DatapathExports, loadDatapath } from '../ring/datapath.js';
import { frameLimits } from '../ring/features.js';
import type { DeviceType, Ring } from '../ring/ring.js';
import { VirtqDriver } from '../ring/virtio/driver.js';
import { VIRTIO_FEATURE } from '../ring/virtio/features.js';
import { Virtq, virtqRing } from '../ring/virtio/virtq.js';
import { type BenchHost, benchHost } from './host.js';
import type { Modules, Place } from './programs.js';

export type Direction = 'tx' | 'rx';

/** Descriptors of a ring. */
export const NUM = 256;
const RAM_BYTES = 8 << 20;
const MAX_FRAME = 1518;
const RX_PKT_ALLOC = 0x4b8f0000;

/** The calls of a driver's loop, as datapath/driver.ts and datapath/vdrv.ts have them. */
export interface GuestCalls {
  room(driver: number, batch: number, want: number): number;
  publish(driver: number, batch: number, n: number): number;
  complete(driver: number, budget: number): number;
  refill(driver: number): number;
  poll(driver: number, batch: number, budget: number): number;
  release(driver: number, batch: number): void;
}

/** What of either end a queue has. `driver` and `queue`: window addresses of their structures. */
interface Ends {
  readonly guest: GuestCalls;
  readonly driver: number;
  readonly ring: Ring;
  readonly queue: number;
}

export interface Bed extends Ends {
  readonly direction: Direction;
  /** Bytes of a frame. */
  readonly length: number;
  /** Buffers of a frame, and so many frames that a batch has them. */
  readonly buffers: number;
  readonly frames: number;
  readonly host: BenchHost;
  readonly calls: DatapathExports;
  /** Window address of what the guest's source numbers its frames with. */
  readonly source: number;
  readonly guestBatch: Batch;
  readonly deviceBatch: Batch;
  [Symbol.dispose](): void;
}

/** A queue of a bpfhv device. */
export interface BpfhvBed extends Bed {
  readonly own: OwnQueue;
  readonly ram: GuestRam;
  /** For its programs. */
  readonly place: Place;
  /** Takes programs in use. `idle`: the helper that makes a packet does nothing. */
  install(modules: Modules, idle?: boolean): void;
}

/** Long frames are such as the device's offloads allow. Throws RangeError when it has none. */
export function bpfhvBed(device: DeviceType, direction: Direction, length: number): BpfhvBed {
  const features = length > MAX_FRAME ? device.features : 0n;
  const { maxFrame, offloads } = frameLimits(device, features, direction);
  if (length > maxFrame) throw new RangeError(`${device.name} has no frames of ${length} bytes`);
  const { host, datapath, taken, ram, ...common } = foundation(direction, length);
  const { window, arena } = host;
  const { calls } = datapath;
  const ring = device.ring(datapath);
  const contextSize = ring.contextSize(NUM);
  const queues = new DriverQueues(
    {
      ...{ numRxQueues: 1, numTxQueues: 1, numRxBufs: NUM, numTxBufs: NUM, features },
      ...{ rxContextSize: contextSize, txContextSize: contextSize, mac: new Uint8Array(6) },
    },
    { transport: { ram, doorbell: () => -1, interrupt: () => -1 }, arena, window },
  );
  taken.push(queues);
  const own = queues.all.find(side => side.direction === direction)!;
  const hostQueue = new Queue(host, { index: own.index, direction, num: NUM, contextSize });
  taken.push(hostQueue);
  hostQueue.setFrames(maxFrame, offloads);
  hostQueue.setContext(ram.toGuest(own.context), common.table, ring);
  calls.driver_reset(own.address, NUM);
  const room = window.words[(own.address + L.DRIVER_ROOM) >>> 2]!;
  const buffers = Math.ceil(length / room);
  // Where the next frame's buffers begin is known only when a frame of several has been received.
  const oneByOne = direction === 'rx' && buffers > 1;
  const helpers = helperImplementations(calls, () => {});
  return {
    ...{
      ...common,
      host,
      calls,
      ring,
      own,
      ram,
      buffers,
      frames: oneByOne ? 1 : Math.floor(L.MAX_BATCH / buffers),
    },
    guest: {
      room: calls.driver_tx_room,
      publish: calls.driver_tx_publish,
      complete: calls.driver_tx_complete,
      refill: calls.driver_rx_refill,
      poll: calls.driver_rx_poll,
      release: calls.driver_rx_release,
    },
    driver: own.address,
    queue: hostQueue.address,
    place: { contextSize, num: NUM, stackBase: host.stackBase },
    install(modules, idle = false) {
      const implementations = idle ? new Map([...helpers, [RX_PKT_ALLOC, calls.helper_nothing]]) : helpers;
      for (const { number, section } of PROGRAMS) {
        const module = modules[section];
        if (module === undefined) continue;
        datapath.table.set(number, instantiate({ module }, window.memory, implementations).run);
      }
    },
  };
}

/** A virtqueue, split or packed, with what Linux and we agree on where there are no offloads: event index, frames of one descriptor. */
export function virtioBed(packed: boolean, direction: Direction, length: number): Bed {
  const { host, datapath, taken, ram, ...common } = foundation(direction, length);
  const { calls } = datapath;
  const F = VIRTIO_FEATURE;
  const features = F.VERSION_1 | F.EVENT_IDX | (packed ? F.RING_PACKED : 0n);
  const driver = new VirtqDriver({ ...host, calls }, ram, { direction, features, num: NUM });
  taken.push(driver);
  const queue = new Virtq({ ...host, calls }, direction);
  taken.push(queue);
  queue.negotiate(features, NUM, MAX_FRAME);
  queue.place(driver.areas, common.table);
  const ring = virtqRing(datapath);
  queue.setBase(driver.base);
  ring.resume(queue.address);
  return {
    ...{ ...common, host, calls, ring, buffers: 1, frames: L.MAX_BATCH },
    guest: {
      room: calls.vdrv_tx_room,
      publish: calls.vdrv_tx_publish,
      complete: calls.vdrv_tx_complete,
      refill: calls.vdrv_rx_refill,
      poll: calls.vdrv_rx_poll,
      release: calls.vdrv_rx_release,
    },
    driver: driver.address,
    queue: queue.address,
  };
}

interface Closeable {
  close(): void;
}

/** What both kinds of bed stand on. `taken` is closed with the bed, the last one first. */
function foundation(direction: Direction, length: number) {
  const host = benchHost();
  const { window, arena } = host;
  const datapath: Datapath = loadDatapath(window);
  const ram = new GuestRam(window, RAM_BYTES);
  const table = new GuestMemory(window, arena).build([
    { guestPhysicalAddress: ram.guestPhysicalAddress, size: BigInt(ram.size), mmapOffset: 0n, fd: ram.fd },
  ]);
  const guestBatch = Batch.allocate(window, arena);
  const deviceBatch = Batch.allocate(window, arena);
  const source = arena.allocate(L.PORT_SIZE);
  const pieces = [guestBatch.address, deviceBatch.address, source];
  const taken: Closeable[] = [ram, table, ...pieces.map(piece => ({ close: () => arena.free(piece) }))];
  const dispose = () => {
    for (const one of taken.splice(0).reverse()) one.close();
  };
  return {
    ...{ host, datapath, ram, table, source, guestBatch, deviceBatch, direction, length, taken },
    [Symbol.dispose]: dispose,
  };
}
