/**
 * One vring of a virtio NIC as the main thread keeps it: what the front end has said about it, in whatever order, and its virtqueue.
 *
 * ```
 *             kick given                           base asked for, reset
 *   stopped ─────────────► started ─► placed ──────────────────────────► stopped
 *                             ▲ size, addresses and │
 *                             │ memory are there    │ memory gone
 *                             └─────────────────────┘
 * ```
 * A ring that is started and placed runs; whether frames move is a matter of its being enabled (DUTY).
 */
import * as L from '../../datapath/layout.js';
import { EventFd } from '../linux/eventfd.js';
import type { OwnedFd } from '../linux/fd.js';
import type { RegionTable } from '../memory/guest-memory.js';
import type { Ring } from '../ring/ring.js';
import { type Areas, areaSizes, areaWritten } from '../ring/virtio/areas.js';
import { VIRTIO_FEATURE } from '../ring/virtio/features.js';
import { type DirtyLog, Virtq } from '../ring/virtio/virtq.js';
import { type Direction, NicError } from './control.js';
import { Questions } from './questions.js';
import { type QueueStats, readStats } from './queue.js';
import type { Kick, VringAddresses } from './vhost-control.js';
import type { VirtioHost } from './virtio-host.js';

/** What a worker does with a ring: nothing, take frames off it and forget them, or join it to the port. */
export type Duty = 'idle' | 'discard' | 'serve';

const DUTY: Readonly<Record<'stopped' | 'started', Record<'disabled' | 'enabled', Record<Direction, Duty>>>> =
  {
    stopped: { disabled: { rx: 'idle', tx: 'idle' }, enabled: { rx: 'idle', tx: 'idle' } },
    started: { disabled: { rx: 'idle', tx: 'discard' }, enabled: { rx: 'serve', tx: 'serve' } },
  };

/** What places a ring: where its areas are in which table, and what was agreed on. */
export interface Ground {
  readonly features: bigint;
  /** Bytes of the largest frame to receive, when it may not be cut into segments. */
  readonly maxFrame: number;
  readonly table: RegionTable;
  /** Where an area is in that table. Throws MemoryError. */
  readonly find: (address: bigint, length: number) => bigint;
}

/**
 * How what a ring writes is marked in a dirty bitmap. `find`: the guest physical address of what the front end calls so; throws MemoryError. `findUsed`: the same of
 * what it names as the used ring's place in the log.
 */
export interface LogGround {
  /** Window address of the bitmap, and its bytes. */
  readonly bitmap: number;
  readonly size: number;
  readonly table: RegionTable;
  readonly find: (address: bigint, length: number) => bigint;
  readonly findUsed: (address: bigint, length: number) => bigint;
}

export class Vring {
  readonly index: number;
  readonly direction: Direction;
  readonly virtq: Virtq;
  phase: 'stopped' | 'started' = 'stopped';
  enabled: boolean;
  /** Descriptors; 0: not said. */
  num = 0;
  addresses: VringAddresses | null = null;
  /** Why it is not placed, so that it is said once. */
  complaint = '';
  /** What it waits to be told. */
  readonly questions = new Questions();
  readonly #ring: Ring;
  readonly #window: VirtioHost['window'];
  #base = 0;
  #placed = false;
  #packed = false;
  #kick: EventFd | null = null;
  #call: EventFd | null = null;
  #error: EventFd | null = null;

  constructor(host: VirtioHost, index: number, enabled: boolean) {
    this.index = index;
    this.direction = index % 2 === 0 ? 'rx' : 'tx';
    this.enabled = enabled;
    this.virtq = new Virtq(host, this.direction);
    this.#ring = host.ring;
    this.#window = host.window;
  }

  /** The number of its queue pair. */
  get pair(): number {
    return this.index >> 1;
  }

  get placed(): boolean {
    return this.#placed;
  }

  get duty(): Duty {
    return this.#placed ? DUTY[this.phase][this.enabled ? 'enabled' : 'disabled'][this.direction] : 'idle';
  }

  /** -1: it is to be looked at again and again. */
  get kickFd(): number {
    return this.#kick?.fd ?? -1;
  }

  /** -1: the guest wants no interrupts. */
  get callFd(): number {
    return this.#call?.fd ?? -1;
  }

  get stats(): QueueStats {
    return readStats(this.#window, this.virtq.address + L.QUEUE_STATS);
  }

  /** Started, with all that it takes to be placed. */
  get complete(): boolean {
    return this.phase === 'started' && this.num > 0 && this.addresses !== null;
  }

  /** Takes over a doorbell, and closes the former one. Throws LinuxError when it is no eventfd. The ring is in no worker's hands. */
  start(kick: Kick): void {
    const next = kick === 'polled' ? null : EventFd.adopt(kick);
    this.#kick?.close();
    this.#kick = next;
    this.phase = 'started';
  }

  /** Takes over an eventfd, or none; returns the former one, open, since a worker may still use it. Throws LinuxError when it is no eventfd. */
  setCall(fd: OwnedFd | null): EventFd | null {
    const next = fd && EventFd.adopt(fd);
    const former = this.#call;
    this.#call = next;
    return former;
  }

  setError(fd: OwnedFd | null): void {
    const next = fd && EventFd.adopt(fd);
    this.#error?.close();
    this.#error = next;
  }

  /** Tells the front end that something is wrong with the ring. */
  signalError(): void {
    this.#error?.signal();
  }

  /** What it has to reach: address, bytes, whether it writes there. */
  wanted(features: bigint): readonly (readonly [address: bigint, length: number, write: boolean])[] {
    const { descriptor, driver, device } = this.addresses!;
    const packed = (features & VIRTIO_FEATURE.RING_PACKED) !== 0n;
    const [sizes, written] = [areaSizes(this.num, packed), areaWritten(packed)];
    return [
      [descriptor, sizes.descriptor, written.descriptor],
      [driver, sizes.driver, written.driver],
      [device, sizes.device, written.device],
    ];
  }

  /** Where the ring stands. */
  get base(): number {
    return this.#placed ? this.virtq.base : this.#base;
  }

  /** For its next start. */
  set base(base: number) {
    this.#base = base;
  }

  /** Puts it where the front end says; it goes on from `base`. Throws MemoryError, VirtqError, NicError NIC_RING, and it is not placed. */
  place({ features, maxFrame, table, find }: Ground): void {
    this.virtq.negotiate(features, this.num, this.direction === 'rx' ? maxFrame : L.LARGE_FRAME);
    this.#packed = (features & VIRTIO_FEATURE.RING_PACKED) !== 0n;
    this.virtq.place(this.#areas(find), table);
    if (!this.virtq.setBase(this.#base) || !this.#ring.resume(this.virtq.address)) {
      this.virtq.drop();
      throw new NicError('NIC_RING', `ring ${this.index}: it can't stand at 0x${this.#base.toString(16)}`);
    }
    this.#placed = true;
  }

  /** The same areas in another table, at the position where it is. Throws MemoryError and keeps what it had. */
  move({ table, find }: Ground): void {
    this.virtq.place(this.#areas(find), table);
    this.virtq.clearMiss();
  }

  /** Its memory goes; it stays started. */
  displace(): void {
    this.questions.clear();
    if (!this.#placed) return;
    this.#base = this.virtq.base;
    this.virtq.setLog(null);
    this.virtq.drop();
    this.#placed = false;
  }

  /** Stops it; returns where it stands. */
  stop(): number {
    this.displace();
    this.phase = 'stopped';
    this.complaint = '';
    this.#kick?.close();
    this.#kick = null;
    return this.#base;
  }

  /** As it was at first; who is to be told of what stays. */
  reset(): void {
    this.stop();
    this.enabled = false;
    this.#base = 0;
    this.num = 0;
    this.addresses = null;
  }

  /** Marks what it writes; null: no longer. Throws MemoryError. */
  setLog(log: LogGround | null): void {
    const usedRing = this.addresses?.log ?? null;
    if (log === null) this.virtq.setLog(null);
    else this.virtq.setLog({ ...log, ...(usedRing !== null && this.#written(usedRing, log)) });
  }

  /** What of the ring we write, in guest physical addresses. */
  #written(usedRing: bigint, { find, findUsed }: LogGround): Pick<DirtyLog, 'ring' | 'event'> {
    if (!this.#packed) return { ring: findUsed(usedRing, areaSizes(this.num, false).device) };
    const areas = this.#areas(find);
    return { ring: areas.descriptor, event: areas.device };
  }

  /** The front end is gone: gives back what it has sent. */
  forget(): void {
    this.reset();
    this.setCall(null)?.close();
    this.setError(null);
  }

  close(): void {
    this.forget();
    this.virtq.close();
  }

  #areas(find: Ground['find']): Areas<bigint> {
    const { descriptor, driver, device } = this.addresses!;
    const sizes = areaSizes(this.num, this.#packed);
    return {
      descriptor: find(descriptor, sizes.descriptor),
      driver: find(driver, sizes.driver),
      device: find(device, sizes.device),
    };
  }
}
