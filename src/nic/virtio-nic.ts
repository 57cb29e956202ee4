/**
 * A virtio NIC as vhost sees it: rings that start and stop one by one, in memory that comes and goes, described by the front end's addresses. Each request
 * is one method here; what it does to rings that run is virtio-rings.ts. The ring format belongs to the guest's driver; port and way of waiting can be
 * changed while it runs.
 */
import { type OwnedFd, owning } from '../linux/fd.js';
import type { RegionTable } from '../memory/guest-memory.js';
import type { PortHandle } from '../port/port.js';
import { loadDatapath } from '../ring/datapath.js';
import { queueSettings, VIRTIO_FEATURE, VIRTQ_FEATURES } from '../ring/virtio/features.js';
import { virtqRing } from '../ring/virtio/virtq.js';
import { type Lacks, VIRTIO } from './commands.js';
import { type MemoryRegionSpec, NicError } from './control.js';
import { mapDirtyBitmap } from './dirty-log.js';
import { leftBehind } from './drain.js';
import type { Iotlb } from './iotlb.js';
import { MAX_BUFS, MAX_QUEUE_PAIRS, type NicLimits } from './limits.js';
import type { NicStats } from './nic.js';
import { rarpFrame } from './rarp.js';
import type { UpgradeReport, UpgradeWish } from './upgrade.js';
import type {
  AskTranslation,
  Kick,
  RegionName,
  Translation,
  VhostControl,
  VringAddresses,
} from './vhost-control.js';
import { MEMORY_SLOTS, type NextMemory, VhostMemory } from './vhost-memory.js';
import { dumpVirtioNic } from './virtio-dump.js';
import type { VirtioHost } from './virtio-host.js';
import { offer } from './virtio-offers.js';
import { ALL, NONE, only, VirtioRings } from './virtio-rings.js';
import { Stage } from './virtio-stage.js';
import type { Vring } from './vring.js';
import { Workers, type WorkersOptions } from './workers.js';

const DEFAULT_PAIRS = 8;
const MIN_MTU = 68;
const MAX_MTU = 65535;
/** Warnings about one front end, or its guest, that are logged: some have nothing better to do than to provoke more. */
const MAX_WARNINGS = 100;

export interface VirtioNicOptions extends WorkersOptions {
  readonly limits?: Partial<NicLimits>;
  /** Offloads to offer, virtio feature bits; default: all that there are. */
  readonly offloads?: bigint;
  /** Offer packed rings, too; default true. */
  readonly packed?: boolean;
  readonly requireSealed?: boolean;
  /** Regions that the memory may consist of; default: what vhost-user has room for. */
  readonly memorySlots?: number;
}

export class VirtioNic implements VhostControl {
  readonly queuePairs: number;
  /** Descriptors that a ring can have. */
  readonly maxBufs: number;
  readonly #options: VirtioNicOptions;
  readonly #host: VirtioHost;
  readonly #workers: Workers;
  readonly #stage: Stage;
  readonly #rings: VirtioRings;
  readonly #offered: bigint;
  #tail: Promise<unknown> = Promise.resolve();
  #warnings = 0;
  /** Called once when a worker fails: no frame moves any more, only `close` makes sense. */
  onFailure: (error: Error) => void = () => {};

  private constructor(options: VirtioNicOptions, workers: Workers, queuePairs: number) {
    const { window, arena, limits, offloads = VIRTQ_FEATURES, packed = true } = options;
    const { requireSealed = false, memorySlots: slots = MEMORY_SLOTS } = options;
    const datapath = loadDatapath(window);
    const say = (level: 'info' | 'warn', message: string) => this.#say(level, message);
    this.queuePairs = queuePairs;
    this.#options = options;
    this.#host = { window, arena, calls: datapath.calls, ring: virtqRing(datapath) };
    this.#workers = workers;
    const giveWay = () => this.#exclusive(() => this.#rings.giveWay());
    this.#stage = new Stage(
      new VhostMemory(window, arena, { slots, requireSealed, giveWay, note: text => say('warn', text) }),
    );
    this.#rings = new VirtioRings({ host: this.#host, workers, stage: this.#stage, queuePairs, say });
    this.#offered = offer(offloads, queuePairs) & ~(packed ? 0n : VIRTIO_FEATURE.RING_PACKED);
    this.maxBufs = limits?.bufs ?? MAX_BUFS;
    workers.onFailure = error => this.onFailure(error);
    workers.onMiss = ({ queue, lacks }) =>
      void this.#missed(queue, lacks).catch(error => workers.fail(error));
  }

  /** Starts the NIC's workers. Throws when they can't be started, CaptureError. */
  static async start(options: VirtioNicOptions): Promise<VirtioNic> {
    const pairs = Math.min(options.limits?.queuePairs ?? DEFAULT_PAIRS, MAX_QUEUE_PAIRS);
    return new VirtioNic(options, await Workers.start(options, VIRTIO, pairs), pairs);
  }

  /** Some ring runs and is enabled. */
  get running(): boolean {
    return this.#rings.all.some(ring => ring.duty === 'serve');
  }

  get port(): PortHandle {
    return this.#workers.port;
  }

  get memorySlots(): number {
    return this.#stage.memory.slots;
  }

  /** The guest's memory as it is now, for whoever looks into it and is done before anybody else has a turn; null: there is none. */
  get memory(): RegionTable | null {
    return this.#stage.memory.table;
  }

  /** The guest has broken the rules of some ring, which stands still. */
  get faulty(): boolean {
    return this.#rings.all.some(({ placed, virtq }) => placed && virtq.fault !== 0);
  }

  get spin(): boolean {
    return this.#workers.spin;
  }

  /** Feature bits that the guest has accepted. */
  get agreed(): bigint {
    return this.#stage.features;
  }

  /** Counters of all rings that somebody has spoken of, since then. */
  stats(): NicStats {
    const queues = this.#rings.all.map(({ index, direction, stats }) => ({ index, direction, ...stats }));
    return { queues };
  }

  /** The state of memory and rings, for people. */
  dump(): string {
    const { features, mtu, log, memory } = this.#stage;
    return dumpVirtioNic({
      ...{ offered: this.#offered, agreed: features, mtu, logged: log !== null },
      ...{ regions: memory.regions, rings: this.#rings.all },
    });
  }

  /** Changes the port, or how the workers wait, under a running guest. Rejects when the port can't be used, and both are as before. */
  change({ port, spin }: Pick<UpgradeWish, 'port' | 'spin'>): Promise<UpgradeReport> {
    return this.#exclusive(async () => {
      const start = performance.now();
      if (port) {
        await this.#rings.rearrange(ALL, async () => {
          port.setOffloads?.(this.#receiveOffloads);
          await this.#workers.setPort(port);
          this.#rings.portChanged();
        });
      }
      if (spin !== undefined) await this.#workers.setSpin(spin);
      return { outcome: 'done', from: VIRTIO, to: VIRTIO, ms: performance.now() - start };
    });
  }

  features(): bigint {
    return this.#offered;
  }

  setFeatures(accepted: bigint, enabled: boolean): Promise<void> {
    return this.#exclusive(async () => {
      if ((accepted & ~this.#offered) !== 0n) {
        throw new NicError('NIC_FEATURES', `features 0x${accepted.toString(16)} are not all offered`);
      }
      const logs = ((accepted ^ this.#stage.features) & VIRTIO_FEATURE.LOG_ALL) !== 0n;
      // Rings that run keep what they have begun with, but for the log.
      await this.#rings.rearrange(logs || enabled ? ALL : NONE, () => {
        this.#stage.features = accepted;
        this.#rings.enables = enabled;
        if (enabled) for (const ring of this.#rings.all) ring.enabled = true;
        if (logs) this.#rings.setLogs(ALL);
      });
      this.port.setOffloads?.(this.#receiveOffloads);
    });
  }

  async setMemoryTable(regions: readonly MemoryRegionSpec[]): Promise<void> {
    await this.#changeMemory(regions, memory => memory.replaced(regions));
  }

  async addRegion(region: MemoryRegionSpec): Promise<void> {
    await this.#changeMemory([region], memory => memory.with(region));
  }

  async removeRegion(region: RegionName): Promise<void> {
    await this.#changeMemory([], memory => memory.without(region));
  }

  setVringSize(index: number, num: number): Promise<void> {
    return this.#exclusive(async () => {
      const ring = this.#rings.at(index);
      if (num === 0 || num > this.maxBufs) {
        throw new NicError(
          'NIC_PARAMETERS',
          `ring ${index}: ${num} descriptors, 1 to ${this.maxBufs} can be had`,
        );
      }
      await this.#rings.rearrange(only(ring), () => {
        ring.displace();
        ring.num = num;
      });
    });
  }

  setVringAddresses(index: number, addresses: VringAddresses): Promise<void> {
    return this.#exclusive(async () => {
      const ring = this.#rings.at(index);
      const { descriptor, driver, device } = ring.addresses ?? {};
      const same =
        [descriptor, driver, device].join() ===
        [addresses.descriptor, addresses.driver, addresses.device].join();
      await this.#rings.rearrange(only(ring), () => {
        if (!same) ring.displace();
        ring.addresses = addresses;
        this.#rings.setLogs(only(ring));
      });
      this.#rings.complain(ring);
    });
  }

  setVringBase(index: number, base: number): Promise<void> {
    return this.#exclusive(async () => {
      this.#rings.at(index).base = base;
    });
  }

  stopVring(index: number): Promise<number> {
    return this.#exclusive(async () => {
      const ring = this.#rings.at(index);
      return this.#rings.rearrange(only(ring), () => ring.stop());
    });
  }

  async setVringKick(index: number, kick: Kick): Promise<void> {
    await this.#exclusive(async () => {
      const ring = owning(kick === 'polled' ? null : kick, () => this.#rings.at(index));
      await this.#rings.rearrange(only(ring), () => ring.start(kick));
      this.#rings.complain(ring);
    });
  }

  async setVringCall(index: number, fd: OwnedFd | null): Promise<void> {
    await this.#exclusive(async () => {
      const ring = owning(fd, () => this.#rings.at(index));
      const former = ring.setCall(fd);
      try {
        // It is interrupted at once: what was due went to the former one, or nowhere.
        if (ring.duty !== 'idle')
          await this.#workers.call(() => ({ op: 'irq', queue: ring.virtq.address, irq: ring.callFd }));
      } finally {
        former?.close();
      }
    });
  }

  async setVringError(index: number, fd: OwnedFd | null): Promise<void> {
    await this.#exclusive(async () => {
      owning(fd, () => this.#rings.at(index)).setError(fd);
    });
  }

  enableVring(index: number, enabled: boolean): Promise<void> {
    return this.#exclusive(async () => {
      const ring = this.#rings.at(index);
      if (ring.enabled === enabled) return;
      await this.#rings.rearrange(only(ring), () => {
        ring.enabled = enabled;
      });
    });
  }

  setDirtyLog(size: bigint, offset: bigint, fd: OwnedFd): Promise<void> {
    return this.#exclusive(async () => {
      const bitmap = owning(fd, () =>
        mapDirtyBitmap(
          this.#host.window,
          { size, offset, fd },
          { requireSealed: this.#options.requireSealed ?? false, note: text => this.#say('warn', text) },
        ),
      );
      fd.close();
      const former = this.#stage.log;
      await this.#rings.rearrange(ALL, () => {
        this.#stage.log = bitmap;
        this.#rings.setLogs(ALL);
      });
      former?.close();
    });
  }

  announce(mac: Uint8Array): Promise<void> {
    return this.#exclusive(async () => {
      const { window, arena } = this.#host;
      const frame = rarpFrame(mac);
      const address = arena.allocate(frame.length);
      try {
        window.bytes.set(frame, address);
        await this.#workers.send(address, frame.length);
      } finally {
        arena.free(address);
      }
    });
  }

  setMtu(mtu: bigint): Promise<void> {
    return this.#exclusive(async () => {
      if (mtu < MIN_MTU || mtu > MAX_MTU) {
        throw new NicError('NIC_PARAMETERS', `an MTU of ${mtu}: ${MIN_MTU} to ${MAX_MTU} can be had`);
      }
      this.#stage.mtu = Number(mtu);
    });
  }

  async setTranslator(ask: AskTranslation | null): Promise<void> {
    this.#stage.ask = ask;
    this.#rings.askAnew();
  }

  addTranslation(translation: Translation): Promise<void> {
    return this.#exclusive(() => {
      this.#rings.answered(translation.iova, translation.size);
      return this.#changeTranslations(iotlb => iotlb.add(translation));
    });
  }

  removeTranslation(iova: bigint, size: bigint): Promise<void> {
    return this.#exclusive(async () => {
      this.#rings.answered(iova, size);
      // A guest that maps each packet by itself takes back what nobody has asked for, again and again.
      if (!this.#stage.iotlb.knows(iova, size)) return;
      await this.#changeTranslations(iotlb => iotlb.remove(iova, size));
    });
  }

  reset(): Promise<void> {
    return this.#exclusive(() => this.#forget(ring => ring.reset()));
  }

  disconnect(): Promise<void> {
    return this.#exclusive(async () => {
      await this.#forget(ring => ring.forget());
      this.#stage.clear();
      this.#warnings = 0;
    });
  }

  /** Stops all rings for good, with what the guest has published sent. */
  quiesce(): Promise<void> {
    return this.#exclusive(async () => {
      const left = await this.#rings.quiesce();
      if (left > 0) this.#say('warn', leftBehind(left));
    });
  }

  /** Ends the NIC: drains what was published, stops the workers, gives everything back. The port stays its owner's. */
  async close(): Promise<void> {
    await this.quiesce();
    await this.disconnect();
    await this.#workers.close();
    this.#rings.close();
  }

  /** A ring waits. Where there is too little room for what it lacks, others are asked for it, once. */
  async #missed(queue: number, lacks: Lacks | null): Promise<void> {
    const { chunks } = this.#host.window;
    const done = await this.#exclusive(() => this.#rings.missed(queue, lacks, false));
    if (!done || chunks.crowded) await chunks.makeRoom();
    if (!done) await this.#exclusive(() => this.#rings.missed(queue, lacks, true));
  }

  /** One thing at a time. */
  #exclusive<T>(action: () => Promise<T>): Promise<T> {
    const turn = this.#tail.then(action);
    this.#tail = turn.catch(() => {});
    return turn;
  }

  /** `regions` are new, and their fds come with them. Null as the next memory: nothing changes. */
  #changeMemory(
    regions: readonly MemoryRegionSpec[],
    build: (memory: VhostMemory) => NextMemory | null,
  ): Promise<void> {
    return this.#exclusive(async () => {
      const { memory } = this.#stage;
      let next: NextMemory | null = null;
      try {
        next = build(memory);
      } finally {
        if (!next) for (const { fd } of regions) fd.close();
      }
      if (!next) return;
      await this.#rings.rearrange(ALL, () => {
        const release = memory.take(next);
        try {
          this.#rings.move();
        } finally {
          release();
        }
      });
    });
  }

  #changeTranslations(change: (iotlb: Iotlb) => void): Promise<void> {
    return this.#rings.rearrange(ALL, () => {
      change(this.#stage.iotlb);
      this.#rings.move();
    });
  }

  /** Everything that was said is forgotten, but for the memory. */
  async #forget(each: (ring: Vring) => void): Promise<void> {
    await this.#rings.forget(each);
    this.#stage.forget();
    this.port.setOffloads?.(0);
  }

  get #receiveOffloads(): number {
    return queueSettings(this.#stage.features, 'rx').offloads;
  }

  #say(level: 'info' | 'warn', message: string): void {
    if (level === 'warn' && this.#warnings++ >= MAX_WARNINGS) return;
    this.#options.log?.(level, message);
  }
}
