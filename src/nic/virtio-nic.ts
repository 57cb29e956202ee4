/**
 * A virtio NIC as vhost sees it: rings that start and stop one by one, in memory that comes and goes, described by the front end's addresses.
 *
 * ```
 *   a request ──► rings that it concerns leave the workers ──► change ──► rings that can run are placed ──► and handed to the workers
 *                 the others go on                                                                         (only if something changed)
 * ```
 * So nothing is changed under a worker, and a request is done when its answer goes out. The ring format belongs to the guest's driver; port and way of
 * waiting can be changed while it runs.
 */
import type { OwnedFd } from '../linux/fd.js';
import type { PortHandle } from '../port/port.js';
import { loadDatapath } from '../ring/datapath.js';
import { queueSettings, VIRTIO_FEATURE, VIRTQ_FEATURES } from '../ring/virtio/features.js';
import { virtqRing } from '../ring/virtio/virtq.js';
import { type Lack, VIRTIO } from './commands.js';
import { type MemoryRegionSpec, NicError } from './control.js';
import { type DirtyBitmap, mapDirtyBitmap } from './dirty-log.js';
import { Iotlb } from './iotlb.js';
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
import { type Ground, Vring } from './vring.js';
import { type PairStart, Workers, type WorkersOptions } from './workers.js';

const DEFAULT_PAIRS = 8;
/** Ethernet's header and a VLAN tag. */
const FRAME_OVERHEAD = 18;
const DEFAULT_MTU = 1500;
const MIN_MTU = 68;
const MAX_MTU = 65535;
/** A ring waits for a header or a table of descriptors to be in the window: no more than this of it is of use at once. */
const MAX_REACH = 65536;

export interface VirtioNicOptions extends WorkersOptions {
  readonly limits?: Partial<NicLimits>;
  /** Offloads to offer, virtio feature bits; default: all that there are. */
  readonly offloads?: bigint;
  readonly requireSealed?: boolean;
}

export class VirtioNic implements VhostControl {
  readonly queuePairs: number;
  readonly memorySlots = MEMORY_SLOTS;
  readonly #options: VirtioNicOptions;
  readonly #host: VirtioHost;
  readonly #workers: Workers;
  readonly #memory: VhostMemory;
  readonly #iotlb = new Iotlb();
  readonly #offered: bigint;
  readonly #maxBufs: number;
  /** Those that somebody has spoken of, by their number. */
  readonly #rings = new Map<number, Vring>();
  /** What the workers have, in a form to compare. */
  readonly #deployed = { rx: '[]', tx: '[]' };
  #features = 0n;
  /** Rings are enabled from the start. */
  #enables = false;
  #mtu = DEFAULT_MTU;
  #log: DirtyBitmap | null = null;
  #ask: AskTranslation | null = null;
  /** No ring runs any more, whatever is asked for. */
  #quiet = false;
  #lanes = 0;
  #tail: Promise<unknown> = Promise.resolve();
  /** Called once when a worker fails: no frame moves any more, only `close` makes sense. */
  onFailure: (error: Error) => void = () => {};

  private constructor(options: VirtioNicOptions, workers: Workers, queuePairs: number) {
    const { window, arena, limits, offloads = VIRTQ_FEATURES, requireSealed = false } = options;
    const datapath = loadDatapath(window);
    this.queuePairs = queuePairs;
    this.#options = options;
    this.#host = { window, arena, calls: datapath.calls, ring: virtqRing(datapath) };
    this.#workers = workers;
    this.#offered = offer(offloads, queuePairs);
    this.#maxBufs = limits?.bufs ?? MAX_BUFS;
    this.#memory = new VhostMemory(window, arena, { requireSealed, note: text => this.#say('warn', text) });
    workers.onFailure = error => this.onFailure(error);
    workers.onMiss = (queue, lacks) => void this.#exclusive(() => this.#missed(queue, lacks));
  }

  /** Starts the NIC's workers. Throws when they can't be started, CaptureError. */
  static async start(options: VirtioNicOptions): Promise<VirtioNic> {
    const pairs = Math.min(options.limits?.queuePairs ?? DEFAULT_PAIRS, MAX_QUEUE_PAIRS);
    return new VirtioNic(options, await Workers.start(options, VIRTIO, pairs), pairs);
  }

  /** Some ring runs and is enabled. */
  get running(): boolean {
    return [...this.#rings.values()].some(ring => ring.duty === 'serve');
  }

  get port(): PortHandle {
    return this.#workers.port;
  }

  get spin(): boolean {
    return this.#workers.spin;
  }

  /** Feature bits that the guest has accepted. */
  get agreed(): bigint {
    return this.#features;
  }

  /** Counters of all rings that somebody has spoken of, since then. */
  stats(): NicStats {
    const queues = this.#sorted().map(({ index, direction, stats }) => ({ index, direction, ...stats }));
    return { queues };
  }

  /** The state of memory and rings, for people. */
  dump(): string {
    return dumpVirtioNic({
      ...{ offered: this.#offered, agreed: this.#features, mtu: this.#mtu, logged: this.#log !== null },
      ...{ regions: this.#memory.regions, rings: this.#sorted() },
    });
  }

  /** Changes the port, or how the workers wait, under a running guest. */
  change({ port, spin }: Pick<UpgradeWish, 'port' | 'spin'>): Promise<UpgradeReport> {
    return this.#exclusive(async () => {
      const start = performance.now();
      if (spin !== undefined) await this.#workers.setSpin(spin);
      if (port) {
        await this.#rearrange(all, async () => {
          port.setOffloads?.(this.#receiveOffloads);
          await this.#workers.setPort(port);
          this.#lanes = 0;
        });
      }
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
      const logs = ((accepted ^ this.#features) & VIRTIO_FEATURE.LOG_ALL) !== 0n;
      // Rings that run keep what they have begun with, but for the log.
      await this.#rearrange(logs || enabled ? all : none, () => {
        this.#features = accepted;
        this.#enables = enabled;
        if (enabled) for (const ring of this.#rings.values()) ring.enabled = true;
        if (logs) this.#setLogs();
      });
      this.port.setOffloads?.(this.#receiveOffloads);
    });
  }

  async setMemoryTable(regions: readonly MemoryRegionSpec[]): Promise<void> {
    await this.#changeMemory(regions, () => this.#memory.replaced(regions));
  }

  async addRegion(region: MemoryRegionSpec): Promise<void> {
    await this.#changeMemory([region], () => this.#memory.with(region));
  }

  async removeRegion(region: RegionName): Promise<void> {
    await this.#changeMemory([], () => this.#memory.without(region));
  }

  setVringSize(index: number, num: number): Promise<void> {
    return this.#exclusive(async () => {
      const ring = this.#ring(index);
      if (num === 0 || num > this.#maxBufs) {
        throw new NicError(
          'NIC_PARAMETERS',
          `ring ${index}: ${num} descriptors, 1 to ${this.#maxBufs} can be had`,
        );
      }
      await this.#rearrange(one(ring), () => {
        ring.displace();
        ring.num = num;
      });
    });
  }

  setVringAddresses(index: number, addresses: VringAddresses): Promise<void> {
    return this.#exclusive(async () => {
      const ring = this.#ring(index);
      const { descriptor, driver, device } = ring.addresses ?? {};
      const same =
        [descriptor, driver, device].join() ===
        [addresses.descriptor, addresses.driver, addresses.device].join();
      await this.#rearrange(one(ring), () => {
        if (!same) ring.displace();
        ring.addresses = addresses;
        if (ring.placed) this.#setLog(ring);
      });
      this.#complain(ring);
    });
  }

  setVringBase(index: number, base: number): Promise<void> {
    return this.#exclusive(async () => {
      this.#ring(index).base = base;
    });
  }

  stopVring(index: number): Promise<number> {
    return this.#exclusive(async () => {
      const ring = this.#ring(index);
      return this.#rearrange(one(ring), () => ring.stop());
    });
  }

  async setVringKick(index: number, kick: Kick): Promise<void> {
    await this.#exclusive(async () => {
      const ring = this.#owning(kick === 'polled' ? null : kick, () => this.#ring(index));
      await this.#rearrange(one(ring), () => ring.start(kick));
      this.#complain(ring);
    });
  }

  async setVringCall(index: number, fd: OwnedFd | null): Promise<void> {
    await this.#exclusive(async () => {
      const ring = this.#owning(fd, () => this.#ring(index));
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
      this.#owning(fd, () => this.#ring(index)).setError(fd);
    });
  }

  enableVring(index: number, enabled: boolean): Promise<void> {
    return this.#exclusive(async () => {
      const ring = this.#ring(index);
      if (ring.enabled === enabled) return;
      await this.#rearrange(one(ring), () => {
        ring.enabled = enabled;
      });
    });
  }

  setDirtyLog(size: bigint, offset: bigint, fd: OwnedFd): Promise<void> {
    return this.#exclusive(async () => {
      const bitmap = this.#owning(fd, () =>
        mapDirtyBitmap(
          this.#host.window,
          { size, offset, fd },
          { requireSealed: this.#options.requireSealed ?? false, note: text => this.#say('warn', text) },
        ),
      );
      fd.close();
      const former = this.#log;
      await this.#rearrange(all, () => {
        this.#log = bitmap;
        this.#setLogs();
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
      this.#mtu = Number(mtu);
    });
  }

  async setTranslator(ask: AskTranslation | null): Promise<void> {
    this.#ask = ask;
  }

  addTranslation(translation: Translation): Promise<void> {
    return this.#exclusive(() => this.#changeTranslations(() => this.#iotlb.add(translation)));
  }

  removeTranslation(iova: bigint, size: bigint): Promise<void> {
    return this.#exclusive(() => this.#changeTranslations(() => this.#iotlb.remove(iova, size)));
  }

  reset(): Promise<void> {
    return this.#exclusive(() => this.#forget(ring => ring.reset(false)));
  }

  disconnect(): Promise<void> {
    return this.#exclusive(async () => {
      this.#ask = null;
      await this.#forget(ring => ring.forget());
      this.#memory.clear();
      this.#mtu = DEFAULT_MTU;
      this.port.setOffloads?.(0);
    });
  }

  /** Stops all rings for good, with what the guest has published sent. */
  quiesce(): Promise<void> {
    return this.#exclusive(async () => {
      this.#quiet = true;
      const left = await this.#workers.stop('tx', true);
      this.#deployed.tx = '[]';
      if (left > 0)
        this.#say('warn', `${left} packets could not be sent before the stop: the port takes no more`);
      await this.#deploy(all);
    });
  }

  /** Ends the NIC: drains what was published, stops the workers, gives everything back. The port stays its owner's. */
  async close(): Promise<void> {
    await this.quiesce();
    await this.disconnect();
    await this.#workers.close();
    for (const ring of this.#rings.values()) ring.close();
    this.#rings.clear();
  }

  /** One thing at a time. */
  #exclusive<T>(action: () => Promise<T>): Promise<T> {
    const turn = this.#tail.then(action);
    this.#tail = turn.catch(() => {});
    return turn;
  }

  /** Takes the rings that `concerned` names from the workers, makes a change, and has every ring run that can. */
  async #rearrange<T>(concerned: (ring: Vring) => boolean, change: () => T | Promise<T>): Promise<T> {
    await this.#deploy(concerned);
    try {
      return await change();
    } finally {
      this.#placeRings();
      await this.#deploy(none);
    }
  }

  /** The workers have all rings that have something to do, but for those that `without` names. */
  async #deploy(without: (ring: Vring) => boolean): Promise<void> {
    const table = this.#memory.table;
    const partial = table !== null && !table.inWindow;
    for (const direction of ['tx', 'rx'] as const) {
      const due = this.#sorted().filter(
        ring => ring.direction === direction && ring.duty !== 'idle' && !this.#quiet && !without(ring),
      );
      const plan = JSON.stringify(due.map(ring => [ring.index, ring.duty, ring.kickFd, partial]));
      if (plan === this.#deployed[direction] || this.#workers.failure) continue;
      const starts = due.map((ring): PairStart => {
        const { virtq, kickFd, callFd, duty, pair } = ring;
        return { queue: virtq.address, kick: kickFd, irq: callFd, discard: duty === 'discard', pair };
      });
      await this.#workers.run(VIRTIO, direction, starts, partial);
      this.#deployed[direction] = plan;
      if (direction === 'rx' && due.length > 0) this.#useLanes(1 + due.at(-1)!.pair);
    }
  }

  /** The kernel, or whoever is behind the port, uses no lane that nobody reads. */
  #useLanes(lanes: number): void {
    if (lanes === this.#lanes) return;
    this.#lanes = lanes;
    this.port.useLanes?.(lanes);
  }

  /** Every ring that is started, and is not placed, is placed if that can be. What stands in the way is kept as its complaint. */
  #placeRings(): void {
    const ground = this.#ground();
    for (const ring of this.#sorted()) {
      if (!ring.complete || ring.placed) continue;
      try {
        if (!ground) throw new NicError('NIC_NO_MEMORY', 'there is no memory');
        ring.place(ground);
        ring.complaint = '';
        this.#setLog(ring);
        this.#say(
          'info',
          `ring ${ring.index} runs, ${ring.num} descriptors, from 0x${ring.base.toString(16)}`,
        );
      } catch (error) {
        const { message } = error as Error;
        const news = message !== ring.complaint;
        ring.complaint = message;
        if (this.#asks(ring) || !news) continue;
        this.#say('warn', `ring ${ring.index} can't run: ${message}`);
        ring.signalError();
      }
    }
  }

  /** Throws NicError NIC_RING when the ring could run but for a mistake in what was said about it. */
  #complain(ring: Vring): void {
    if (ring.placed || ring.complaint === '' || this.#translates || !this.#memory.table) return;
    throw new NicError('NIC_RING', `ring ${ring.index} can't run: ${ring.complaint}`);
  }

  /** Addresses are I/O virtual ones. */
  get #translates(): boolean {
    return (this.#features & VIRTIO_FEATURE.ACCESS_PLATFORM) !== 0n;
  }

  #ground(): Ground | null {
    const table = this.#translates ? this.#iotlb.table : this.#memory.table;
    if (!table) return null;
    return {
      table,
      features: this.#features,
      maxFrame: this.#mtu + FRAME_OVERHEAD,
      find: this.#translates ? iova => iova : (address, length) => this.#memory.guestAddress(address, length),
    };
  }

  /** Asks for the translations that a ring lacks; false: none is to be had. */
  #asks(ring: Vring): boolean {
    if (!this.#translates || !this.#ask) return false;
    for (const [iova, length, write] of ring.wanted(this.#features)) {
      const missing = this.#iotlb.missing(iova, length, write);
      if (missing !== null) this.#ask(missing, write);
    }
    return true;
  }

  /** `fds` come with the new regions. */
  #changeMemory(regions: readonly MemoryRegionSpec[], build: () => NextMemory): Promise<void> {
    return this.#exclusive(async () => {
      let next: NextMemory;
      try {
        next = build();
      } catch (error) {
        for (const { fd } of regions) fd.close();
        throw error;
      }
      await this.#rearrange(all, () => {
        const release = this.#memory.take(next);
        this.#moveRings();
        release();
      });
    });
  }

  async #changeTranslations(change: () => void): Promise<void> {
    await this.#rearrange(all, () => {
      change();
      this.#moveRings();
    });
  }

  /** Memory or translations are others: rings are found there, or lose their place. */
  #moveRings(): void {
    const former = this.#iotlb.rebuild(this.#memory);
    const ground = this.#ground();
    for (const ring of this.#sorted()) {
      if (!ring.placed) continue;
      try {
        if (!ground) throw new NicError('NIC_NO_MEMORY', 'there is no memory');
        ring.move(ground);
        this.#setLog(ring);
      } catch (error) {
        this.#say('warn', `ring ${ring.index} loses its place: ${(error as Error).message}`);
        ring.displace();
      }
    }
    former?.close();
  }

  #setLogs(): void {
    for (const ring of this.#rings.values()) if (ring.placed) this.#setLog(ring);
  }

  #setLog(ring: Vring): void {
    const logs = (this.#features & VIRTIO_FEATURE.LOG_ALL) !== 0n;
    const { table } = this.#memory;
    if (!this.#log || !logs || !table) {
      ring.setLog(null);
      return;
    }
    const { address: bitmap, size } = this.#log;
    const find = (address: bigint, length: number) =>
      this.#translates
        ? this.#iotlb.guestAddress(address, length, this.#memory)
        : this.#memory.guestAddress(address, length);
    ring.setLog({ bitmap, size, table, find });
  }

  /** A ring waits: for buffers to be in the window, or for what its structure says. */
  async #missed(queue: number, lacks: readonly Lack[]): Promise<void> {
    const ring = this.#sorted().find(({ virtq }) => virtq.address === queue);
    if (!ring?.placed || this.#quiet) return;
    const miss = lacks.length === 0 ? ring.virtq.miss : null;
    if (miss?.kind === 'translation') {
      this.#ask?.(miss.address, ring.direction === 'rx');
      return;
    }
    try {
      await this.#rearrange(all, () => {
        if (miss) this.#ground()!.table.reach(miss.address, Math.min(miss.length, MAX_REACH));
        const { table } = this.#memory;
        for (const [flat, length] of lacks) {
          const gpa = table?.guestAddress(flat) ?? null;
          if (gpa !== null) table!.reach(gpa, length);
        }
        table?.refresh();
        this.#moveRings();
      });
    } catch (error) {
      // It would be back at once with the same wish.
      this.#say('warn', `ring ${ring.index} is stopped: ${(error as Error).message}`);
      await this.#rearrange(one(ring), () => ring.stop());
      ring.signalError();
    }
  }

  /** Rings stop, and everything that was said is forgotten, but for the memory. */
  async #forget(each: (ring: Vring) => void): Promise<void> {
    await this.#deploy(all);
    for (const ring of this.#rings.values()) each(ring);
    this.#log?.close();
    this.#log = null;
    this.#iotlb.clear();
    this.#features = 0n;
    this.#enables = false;
  }

  get #receiveOffloads(): number {
    return queueSettings(this.#features, 'rx').offloads;
  }

  #ring(index: number): Vring {
    const known = this.#rings.get(index);
    if (known) return known;
    if (index >= 2 * this.queuePairs) {
      throw new NicError('NIC_QUEUE', `ring ${index}: there are ${2 * this.queuePairs}`);
    }
    const ring = new Vring(this.#host, index, this.#enables);
    this.#rings.set(index, ring);
    return ring;
  }

  /** Does something for which a descriptor has come, which is closed when that can't be done. */
  #owning<T>(fd: OwnedFd | null, action: () => T): T {
    try {
      return action();
    } catch (error) {
      fd?.close();
      throw error;
    }
  }

  #sorted(): Vring[] {
    return [...this.#rings.values()].sort((a, b) => a.index - b.index);
  }

  #say(level: 'info' | 'warn' | 'error', message: string): void {
    this.#options.log?.(level, message);
  }
}

/** Which rings a change concerns. */
const all = (): boolean => true;
const none = (): boolean => false;
const one =
  (ring: Vring) =>
  (other: Vring): boolean =>
    other === ring;
