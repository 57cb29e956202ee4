/** The rings of a contract, with their buffers: made, told of, and given back. */
import * as L from '../../../datapath/layout.js';
import type { Arena } from '../../memory/arena.js';
import type { Window } from '../../memory/window.js';
import type { Direction } from '../../nic/control.js';
import { type QueueStats, readStats } from '../../nic/queue.js';
import { loadDatapath } from '../../ring/datapath.js';
import { isLarge } from '../../ring/features.js';
import { VirtqDriver } from '../../ring/virtio/driver.js';
import { queueSettings, VIRTIO_FEATURE } from '../../ring/virtio/features.js';
import type { VirtioQueue } from './commands.js';
import type { VirtioContract } from './negotiate.js';
import type { RingPlace, VirtioTransport } from './transport.js';

/** Bytes from one buffer to the next. Received frames spread over several where the device may do that; to transmit, fewer and larger ones save the kernel work. */
const SMALL = 2048;
const LARGE: Readonly<Record<Direction, number>> = { rx: 4096, tx: 16384 };
/** Bytes of guest memory that one descriptor of a queue pair takes at most: two buffers, an indirect table, both rings. */
const PER_DESCRIPTOR = LARGE.rx + LARGE.tx + 128 + 2 * 32;

/** Guest memory for so many queues, in bytes. */
export function virtioRamSize(queuePairs: number, bufs: number): number {
  return Math.ceil((queuePairs * (bufs * PER_DESCRIPTOR + 8192)) / 0x20_0000) * 0x20_0000 + 0x20_0000;
}

export interface VirtioQueueStats extends QueueStats {
  readonly index: number;
  readonly direction: Direction;
}

/** What rings had counted when they were let go. */
export type RingCounters = ReadonlyMap<number, BigUint64Array>;

/** What rings are made of: memory, and the device's two eventfds for each. */
export interface RingHost {
  readonly transport: Pick<VirtioTransport, 'ram' | 'kick' | 'call'>;
  readonly arena: Arena;
  readonly window: Window;
}

interface OwnRing {
  readonly index: number;
  readonly direction: Direction;
  readonly driver: VirtqDriver;
  readonly num: number;
  readonly frameBuffers: number;
}

export class VirtioQueues {
  readonly contract: VirtioContract;
  readonly #host: RingHost;
  readonly #rings: OwnRing[] = [];

  /** Throws MemoryError MEMORY_FULL when guest memory or arena is too small, VirtqError, and leaves nothing taken. */
  constructor(contract: VirtioContract, host: RingHost) {
    this.contract = contract;
    this.#host = host;
    const { window, arena, transport } = host;
    const { calls } = loadDatapath(window);
    try {
      for (let index = 0; index < 2 * contract.queuePairs; index++) {
        const direction = index % 2 === 0 ? 'rx' : 'tx';
        const shape = shapeOf(contract.features, direction);
        const options = { ...shape, direction, features: contract.features, num: contract.bufs } as const;
        const driver = new VirtqDriver({ window, arena, calls }, transport.ram, options);
        this.#rings.push({ index, direction, driver, num: contract.bufs, frameBuffers: shape.frameBuffers });
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get rx(): VirtioQueue[] {
    return this.#plain('rx');
  }

  get tx(): VirtioQueue[] {
    return this.#plain('tx');
  }

  get places(): RingPlace[] {
    return this.#rings.map(({ index, num, driver: { base, areas } }) => ({ index, num, base, areas }));
  }

  stats(): VirtioQueueStats[] {
    return this.#rings.map(({ index, direction, driver }) => ({
      ...{ index, direction },
      ...readStats(this.#host.window, driver.address + L.DRIVER_STATS),
    }));
  }

  counters(): RingCounters {
    return new Map(this.#rings.map(({ index, driver }) => [index, this.#counted(driver).slice()]));
  }

  /** Goes on counting from there. For rings that no worker runs. */
  inherit(counters: RingCounters): void {
    for (const { index, driver } of this.#rings) {
      const before = counters.get(index);
      if (before) this.#counted(driver).set(before);
    }
  }

  /** No device and no worker uses them any more. */
  close(): void {
    for (const { driver } of this.#rings.splice(0)) driver.close();
  }

  #counted({ address }: VirtqDriver): BigUint64Array {
    const at = (address + L.DRIVER_STATS) / 8;
    return this.#host.window.longs.subarray(at, at + L.STATS_SIZE / 8);
  }

  #plain(direction: Direction): VirtioQueue[] {
    const { transport } = this.#host;
    return this.#rings
      .filter(ring => ring.direction === direction)
      .map(({ index, frameBuffers, driver: { address, buffers } }) => ({
        ...{ index, address, buffers, frameBuffers },
        kick: transport.kick(index),
        call: transport.call(index),
      }));
  }
}

/** How a frame is cut: bytes of payload in a buffer, and buffers that it may take. */
function shapeOf(features: bigint, direction: Direction): { room: number; frameBuffers: number } {
  const large = isLarge(queueSettings(features, direction).offloads);
  const room = (large ? LARGE[direction] : SMALL) - L.VDRV_HEADROOM;
  // A device that may spread a frame may do so with any, as its network's largest packet is not told to us.
  const spreads = direction === 'rx' ? (features & VIRTIO_FEATURE.MRG_RXBUF) !== 0n : large;
  return { room, frameBuffers: spreads ? Math.ceil(L.LARGE_FRAME / room) : 1 };
}
