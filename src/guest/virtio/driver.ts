/**
 * A virtio-net driver for a guest in this process, control side: negotiates, makes the rings, follows interface and device. Frames are moved by its
 * workers (driver-loop.ts).
 *
 * ```
 *               a device, interface up: negotiate, attach, start
 *   stopped ──────────────────────────────────────────────────────► running
 *      ▲                                                               │
 *      ├── interface down, fault: stop; what is not sent is given up ──┤
 *      └── device gone: what is not sent waits for the next one ───────┘
 * ```
 * Whatever happens, one routine compares what is with what should be and takes the next step (`#reconcile`), one step at a time.
 *
 * Rings belong to the driver and outlive devices. A new device finds them as if they had never been used, with the frames in them that the last one did
 * not complete: none is lost, and at most those that it had sent without saying so are sent twice.
 */
import type { Arena } from '../../memory/arena.js';
import type { Window } from '../../memory/window.js';
import { Crew, deal } from '../../nic/crew.js';
import type { PortHandle } from '../../port/port.js';
import { queueSettings, VIRTIO_FEATURE } from '../../ring/virtio/features.js';
import type { VirtioCommand, VirtioEvent, VirtioLoopData, VirtioReply } from './commands.js';
import { dumpVirtioDriver } from './dump.js';
import { negotiate, sameContract, type VirtioContract, type VirtioWish } from './negotiate.js';
import { type RingCounters, type VirtioQueueStats, VirtioQueues } from './queues.js';
import type { VirtioOffer, VirtioTransport } from './transport.js';

export interface VirtioDriverOptions {
  readonly transport: VirtioTransport;
  readonly window: Window;
  readonly arena: Arena;
  /** The guest's network device: a TAP, or a source or sink. */
  readonly netdev: PortHandle;
  readonly wish: VirtioWish;
  readonly spin?: boolean;
  /** Workers that the queue pairs are dealt out to; no more than the network device has lanes. Default: one. */
  readonly workers?: number;
  readonly log?: (level: 'info' | 'warn' | 'error', message: string) => void;
}

export interface VirtioDriverStats {
  readonly running: boolean;
  /** Times that a device was started. */
  readonly starts: number;
  /** Frames that one device did not complete and another one got. */
  readonly again: number;
  /** Frames that a device did not complete and that were given up. */
  readonly lost: number;
  readonly queues: readonly VirtioQueueStats[];
}

export class VirtioDriver {
  readonly #options: VirtioDriverOptions;
  readonly #crew: Crew<VirtioCommand, VirtioReply>;
  /** The device that was told of the rings last. */
  #device: VirtioOffer | null = null;
  #queues: VirtioQueues | null = null;
  /** Of rings that were let go: those that come after them go on counting. */
  #counters: RingCounters = new Map();
  #running = false;
  /** As the network device was told. */
  #carrier = false;
  #wanted = false;
  /** A ring broke, or the device can't be worked with: stands still until the interface goes down, or another device comes. */
  #broken = false;
  #closing = false;
  #starts = 0;
  #again = 0;
  #lost = 0;
  /** Frames that wait for a device. */
  #waiting = 0;
  #work: Promise<void> | null = null;
  #look = false;
  #waiters: (() => void)[] = [];
  /** Called once when a worker fails: no frame moves any more, only `close` makes sense. */
  onFailure: (error: Error) => void = () => {};

  private constructor(options: VirtioDriverOptions, crew: Crew<VirtioCommand, VirtioReply>) {
    this.#options = options;
    this.#crew = crew;
    crew.onEvent = event => this.#broke(event as VirtioEvent);
    crew.onFailure = error => {
      this.#log('error', `the guest driver's worker failed: ${error.message}`);
      this.onFailure(error);
    };
    options.transport.onChange = () => this.#wake();
  }

  /** Starts the driver's workers. The interface is down at first: see `setInterfaceUp`. */
  static async start(options: VirtioDriverOptions): Promise<VirtioDriver> {
    const { window, arena, netdev, workers = 1, spin = false } = options;
    netdev.setCarrier?.(false);
    const size = Math.min(workers, netdev.lanes.length);
    const lanes = deal(netdev.lanes, size);
    const entry = new URL('./driver-loop.js', import.meta.url);
    const crew = await Crew.start<VirtioCommand, VirtioReply>(entry, {
      ...{ window, arena, name: 'guest', size },
      data: (worker, batches): VirtioLoopData => ({ lanes: lanes[worker]!, spin, ...batches }),
    });
    return new VirtioDriver(options, crew);
  }

  get running(): boolean {
    return this.#running;
  }

  /** Feature bits that were agreed on with the last device. */
  get features(): bigint {
    return this.#queues?.contract.features ?? 0n;
  }

  stats(): VirtioDriverStats {
    return {
      ...{ running: this.#running, starts: this.#starts, again: this.#again, lost: this.#lost },
      queues: this.#queues?.stats() ?? [],
    };
  }

  /** The state of every ring as the driver sees it, for people. */
  dump(): string {
    return dumpVirtioDriver(this.#options.window, {
      ...{ running: this.#running, offer: this.#options.transport.offer },
      ...{ queues: this.#queues, again: this.#again, lost: this.#lost },
    });
  }

  /** The operating system's interface went up or down. Resolves when the device has followed, as far as it can. */
  setInterfaceUp(up: boolean): Promise<void> {
    this.#wanted = up;
    this.#wake();
    return this.#work ?? Promise.resolve();
  }

  /** Resolves when the device runs, or at once if it does. */
  async whenRunning(): Promise<void> {
    while (!this.#running) await new Promise<void>(resolve => this.#waiters.push(resolve));
  }

  /** Stops the device and ends the workers. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#wake();
    await this.#work;
    this.#options.transport.onChange = () => {};
    await this.#crew.stop();
    this.#queues?.close();
    this.#queues = null;
  }

  #wake(): void {
    this.#look = true;
    this.#work ??= this.#reconcileAll();
  }

  async #reconcileAll(): Promise<void> {
    try {
      while (this.#look) {
        this.#look = false;
        try {
          await this.#reconcile();
        } catch (error) {
          this.#broken = true;
          this.#log('error', (error as Error).message);
        }
      }
    } finally {
      this.#work = null; // in one breath with the last look: no wake-up may fall in between
    }
  }

  async #reconcile(): Promise<void> {
    const { offer } = this.#options.transport;
    const another = offer !== this.#device;
    const wanted = this.#wanted && !this.#closing;
    if (this.#running && (another || this.#broken || !wanted)) await this.#bringDown();
    if (!this.#wanted && this.#waiting > 0) await this.#giveUp();
    if (another || !this.#wanted) this.#broken = false;
    this.#device = offer;
    if (offer && wanted && !this.#broken && !this.#running) await this.#bringUp(offer);
    this.#followLink();
  }

  #followLink(): void {
    const up = this.#running && (this.#options.transport.linkUp ?? true);
    if (up === this.#carrier) return;
    this.#carrier = up;
    this.#options.netdev.setCarrier?.(up);
  }

  async #bringUp(offer: VirtioOffer): Promise<void> {
    const { transport, netdev, wish } = this.#options;
    const contract = negotiate(offer, wish);
    const queues = this.#queuesFor(contract);
    netdev.setOffloads?.(queueSettings(contract.features, 'tx').offloads);
    netdev.useLanes?.(contract.queuePairs);
    const [rx, tx] = [deal(queues.rx, this.#crew.size), deal(queues.tx, this.#crew.size)];
    const again = await this.#call(worker => ({ op: 'attach', rx: rx[worker]!, tx: tx[worker]! }));
    if (again > 0) this.#log('info', `${again} frames that were not sent are offered again`);
    this.#again += again;
    this.#waiting = 0;
    try {
      await transport.start(contract.features, queues.places);
    } catch (error) {
      await this.#stopDevice();
      this.#waiting = await this.#call(() => ({ op: 'down', keep: true }));
      throw error;
    }
    await this.#call(() => ({ op: 'up' }));
    this.#running = true;
    this.#starts++;
    this.#followLink();
    this.#log('info', `device running: ${described(contract)}`);
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  async #bringDown(): Promise<void> {
    const { transport } = this.#options;
    this.#running = false;
    this.#followLink();
    await this.#call(() => ({ op: 'stopTransmit' }));
    const gone = transport.offer !== this.#device;
    if (!gone) await this.#stopDevice();
    const keep = gone && this.#wanted && !this.#closing && !this.#broken;
    const unsent = await this.#call(() => ({ op: 'down', keep }));
    this.#waiting = keep ? unsent : 0;
    if (!keep) this.#lost += unsent;
    const fate = unsent === 0 ? '' : `, ${unsent} frames not sent ${keep ? 'wait' : 'are given up'}`;
    this.#log('info', `device stopped${fate}`);
  }

  /** The interface is down: what it had sent has nowhere to wait. */
  async #giveUp(): Promise<void> {
    this.#waiting = 0;
    this.#lost += await this.#call(() => ({ op: 'down', keep: false }));
  }

  /** A device that does not answer is gone, or will be treated so. */
  async #stopDevice(): Promise<void> {
    try {
      await this.#options.transport.stop();
    } catch (error) {
      this.#log('warn', (error as Error).message);
    }
  }

  /** The rings there are, when they suit the contract, or new ones. Throws MemoryError. */
  #queuesFor(contract: VirtioContract): VirtioQueues {
    const former = this.#queues;
    if (former && sameContract(former.contract, contract)) return former;
    const { transport, arena, window, wish } = this.#options;
    if (former) {
      if (this.#waiting > 0) {
        this.#log('warn', `${this.#waiting} frames not sent are given up: the device has other features now`);
      }
      this.#lost += this.#waiting;
      this.#waiting = 0;
      this.#counters = former.counters();
      this.#queues = null;
      former.close();
    }
    if (wish.packed && !isPacked(contract))
      this.#log('warn', 'the device has no packed rings: split ones then');
    const queues = new VirtioQueues(contract, { transport, arena, window });
    queues.inherit(this.#counters);
    this.#queues = queues;
    return queues;
  }

  #broke({ queue, reason }: VirtioEvent): void {
    this.#log('error', `ring ${queue} stopped: ${reason}`);
    this.#broken = true;
    this.#wake();
  }

  /** Has every worker handle a command; the sum of what they answer. */
  async #call(command: (worker: number) => VirtioCommand): Promise<number> {
    return (await this.#crew.call(command)).reduce((n, { unsent }) => n + unsent, 0);
  }

  #log(level: 'info' | 'warn' | 'error', message: string): void {
    this.#options.log?.(level, message);
  }
}

function isPacked({ features }: VirtioContract): boolean {
  return (features & VIRTIO_FEATURE.RING_PACKED) !== 0n;
}

function described(contract: VirtioContract): string {
  const { queuePairs, bufs, features } = contract;
  const format = isPacked(contract) ? 'packed' : 'split';
  return `${queuePairs} queue pair(s), ${bufs} descriptors, ${format}, features 0x${features.toString(16)}`;
}
