/**
 * The bpfhv guest driver, control side: probes the device, registers contexts, loads programs, and follows link and upgrades. Frames are
 * moved by its workers (driver-loop.ts).
 *
 * ```
 *               upgrade pending, or first seen              interface up
 *   detached ──────────────────────────────────► attached ──────────────► running
 *      ▲        programs, contexts, buffers          ▲ │     enable            │
 *      │                                             │ └───────────────────────┤ interface down, fault: disable, reclaim
 *      └─────────────────────────────────────────────┴─────────────────────────┘ device gone, upgrade: the same, then let go
 * ```
 * Whatever happens, one routine compares what is with what should be and takes the next step (`#reconcile`), one step at a time.
 *
 * An upgrade of a running device that shows the next contract beforehand is followed in two steps (`#follow`): everything that can fail or takes long
 * comes first, while the old contract runs; then stop, hand over, go.
 */
import * as L from '../../../datapath/layout.js';
import { beginUrgent, endUrgent } from '../../linux/urgent.js';
import type { Direction } from '../../nic/control.js';
import { type QueueStats, readStats } from '../../nic/queue.js';
import { Blackouts } from './blackouts.js';
import type { Blackout, DriverEvent, DriverReply } from './commands.js';
import type { Contract, DriverQueues, QueueCounters } from './contract.js';
import { DriverWorkers, type DriverWorkersOptions } from './driver-workers.js';
import { dumpDriver } from './dump.js';
import { NetdevFit } from './netdev-fit.js';
import { type Prepared, prepare } from './prepare.js';
import { CTRL, REG, STATUS } from './registers.js';
import type { BpfhvTransport } from './transport.js';
import { warmUp } from './warm-up.js';

/** How long a new contract is on probation: see `#regrets`. */
const PROBATION_MS = 3_000;

export interface DriverOptions extends DriverWorkersOptions {
  readonly transport: BpfhvTransport;
  /** Feature bits to accept when they are offered; default: all that there are. */
  readonly features?: bigint;
  readonly log?: (level: 'info' | 'warn' | 'error', message: string) => void;
  /** Told of each change of contract under a running interface. */
  readonly onBlackout?: (blackout: Blackout) => unknown;
  /** Told the device's address whenever it is probed, 6 octets. */
  readonly onMac?: (mac: Uint8Array) => void;
  /** Told how many bytes the contract's packets grow by, before the first of them, and 0 when it is given up: what the MTU has to leave free. */
  readonly onOverhead?: (bytes: number) => void;
}

export interface DriverStats {
  readonly running: boolean;
  /** Times that the driver took a (new) contract from the device. */
  readonly probes: number;
  /** Buffers that neither device nor programs gave back at a stop. */
  readonly seized: number;
  /** Changes of contract under a running interface. */
  readonly upgrades: number;
  /** Of the last ones of them that packets came after, the oldest first. */
  readonly blackouts: readonly Blackout[];
  readonly queues: readonly DriverQueueStats[];
}

export interface DriverQueueStats extends QueueStats {
  readonly index: number;
  readonly direction: Direction;
  /** Of the dropped packets, those that nobody with our key has sealed, or not for the first time. */
  readonly unauthentic: number;
}

export class BpfhvDriver {
  readonly #options: DriverOptions;
  readonly #workers: DriverWorkers;
  readonly #netdev: NetdevFit;
  #queues: DriverQueues | null = null;
  /** Of queues that were let go: those that come after them go on counting. */
  #counters: QueueCounters = [];
  #running = false;
  #wanted = false;
  /** A queue broke, or the contract can't be taken: stands still until the interface goes down, or another contract comes. */
  #broken = false;
  #closing = false;
  #probes = 0;
  #upgrades = 0;
  readonly #blackouts = new Blackouts();
  /** Until then, a queue that breaks is the new contract's fault. */
  #probation = 0;
  #regrets = false;
  #seized = 0;
  #work: Promise<void> | null = null;
  #again = false;
  #waiters: (() => void)[] = [];
  #dumping: Promise<string> | null = null;
  /** Called once when the worker fails: no frame moves any more, only `close` makes sense. */
  onFailure: (error: Error) => void = () => {};

  private constructor(options: DriverOptions, workers: DriverWorkers, netdev: NetdevFit) {
    this.#options = options;
    this.#workers = workers;
    this.#netdev = netdev;
    workers.onEvent = event => this.#onEvent(event);
    workers.onFailure = error => {
      this.#log('error', `the guest driver's worker failed: ${error.message}`);
      this.onFailure(error);
    };
    options.transport.onChange = () => this.#wake();
  }

  /** Starts the driver's workers. The interface is down at first: see `setInterfaceUp`. */
  static async start(options: DriverOptions): Promise<BpfhvDriver> {
    const netdev = new NetdevFit(options.netdev, options.onOverhead);
    netdev.setCarrier(false);
    const starting = DriverWorkers.start(options);
    warmUp();
    const driver = new BpfhvDriver(options, await starting, netdev);
    driver.#wake();
    return driver;
  }

  get running(): boolean {
    return this.#running;
  }

  stats(): DriverStats {
    const queues = (this.#queues?.all ?? []).map(({ index, direction, address }) => ({
      index,
      direction,
      ...readStats(this.#options.window, address + L.DRIVER_STATS),
      unauthentic: Number(this.#options.window.longs[(address + L.DRIVER_STATS + L.STAT_UNAUTHENTIC) / 8]!),
    }));
    return {
      running: this.#running,
      probes: this.#probes,
      seized: this.#seized,
      upgrades: this.#upgrades,
      blackouts: this.#blackouts.all,
      queues,
    };
  }

  /** The state of every queue as driver and device see it, for people. */
  dump(): Promise<string> {
    const { window, transport } = this.#options;
    const state = `${this.#running ? 'running' : 'stopped'}, probes ${this.#probes}, seized ${this.#seized}`;
    // One at a time: all read through the same registers.
    this.#dumping ??= dumpDriver(window, transport, state, this.#queues?.all ?? []).finally(() => {
      this.#dumping = null;
    });
    return this.#dumping;
  }

  /** The operating system's interface went up or down. Resolves when the device has followed, as far as it can. */
  setInterfaceUp(up: boolean): Promise<void> {
    this.#wanted = up;
    if (!up) this.#broken = false;
    this.#wake();
    return this.#work ?? Promise.resolve();
  }

  /** Resolves when the device runs, or at once if it does. */
  async whenRunning(): Promise<void> {
    while (!this.#running) await new Promise<void>(resolve => this.#waiters.push(resolve));
  }

  /** Stops the device, takes every buffer back and ends the worker. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#wake();
    await this.#work;
    this.#options.transport.onChange = () => {};
    await this.#workers.stop();
  }

  #wake(): void {
    this.#again = true;
    this.#work ??= this.#reconcileAll();
  }

  async #reconcileAll(): Promise<void> {
    try {
      while (this.#again) {
        this.#again = false;
        try {
          await this.#reconcile();
        } catch (error) {
          // The contract can't be taken, or the device went away in the middle: stand still until something changes.
          this.#broken = this.#options.transport.present;
          this.#log('error', (error as Error).message);
          await this.#detach().catch((later: Error) => this.#log('error', later.message));
        }
      }
    } finally {
      this.#work = null; // in one breath with the last look at #again: no wake-up may fall in between
    }
  }

  async #reconcile(): Promise<void> {
    const { transport } = this.#options;
    const status = transport.present ? await transport.read(REG.STATUS) : 0;
    const upgrade = (status & STATUS.UPGRADE) !== 0;
    const follows = upgrade && this.#running && this.#wanted && !this.#broken && transport.previews;
    if (follows && !this.#closing) return this.#follow();
    if (this.#queues && (!transport.present || upgrade || this.#closing)) await this.#detach();
    if (this.#closing || !transport.present) return;

    if (upgrade) {
      await transport.write(REG.CTRL, CTRL.UPGRADE_READY);
      this.#broken = false;
    }
    if (!this.#queues && !this.#broken) await this.#attach();

    const wanted = this.#wanted && this.#queues !== null && !this.#broken;
    if (wanted && !this.#running) await this.#bringUp();
    if (!wanted && this.#running) {
      const seized = await this.#bringDown();
      // Its rings may hold what is not the device's any more: they are set up anew before they are used again.
      if (seized > 0 || this.#broken) await this.#detach();
    }
    if (!this.#wanted) this.#broken = false;
    if (this.#running && (status & STATUS.UPGRADE) === 0) await this.#followLink();
  }

  async #attach(): Promise<void> {
    const { transport } = this.#options;
    const { generation } = transport;
    const prepared = await this.#prepare();
    if (!prepared) return this.#wake();
    const { contract, programs, queues } = prepared;
    this.#queues = queues;
    queues.inherit(this.#counters);
    await queues.register(transport);
    if (transport.generation !== generation) {
      await this.#detach(); // some of that was of one contract, some of another
      return this.#wake();
    }
    await this.#workers.prepare(programs);
    await this.#workers.hand('attach', queues);
    this.#netdev.fit(contract);
    this.#options.onMac?.(contract.mac);
    this.#probed('device probed', contract);
  }

  /** As `prepare`: of what the device shows. */
  #prepare(): Promise<Prepared | null> {
    const { stacks, staging } = this.#workers;
    return prepare({ ...this.#options, stacks, staging });
  }

  #probed(what: string, { numRxQueues, numRxBufs, numTxBufs, features }: Contract): void {
    this.#probes++;
    const shape = `${numRxQueues} queue pair(s), ${numRxBufs}/${numTxBufs} buffers`;
    this.#log('info', `${what}: ${shape}, features 0x${features.toString(16)}`);
  }

  /**
   * From the contract that runs to the one that the device shows.
   *
   * ```
   *   old   ── runs ──────────────────────────────────┤ rx off, stop, tx off ├ take back
   *   new       read, verify, compile, register ──────┤                      ├ lend ─ ready, on ── go ── runs ──►
   * ```
   */
  async #follow(): Promise<void> {
    const { transport } = this.#options;
    const { generation } = transport;
    let prepared: Prepared | null;
    try {
      prepared = await this.#prepare();
    } catch (error) {
      this.#log('error', `upgrade declined: ${(error as Error).message}`);
      await transport.write(REG.CTRL, CTRL.UPGRADE_READY);
      return;
    }
    if (!prepared) return this.#wake();
    const { contract, programs, queues } = prepared;
    try {
      await this.#workers.prepare(programs);
      await queues.register(transport);
    } catch (error) {
      queues.close();
      throw error;
    }
    if (transport.generation !== generation) {
      queues.close(); // the device has changed its mind meanwhile, or is gone
      return this.#wake();
    }
    this.#netdev.fitBoth(contract);
    const reclaimed = await this.#handOver(queues);
    if (reclaimed === null) {
      this.#broken = transport.generation === generation; // else it has taken back what we were about to start
      await this.#detach();
      return this.#wake();
    }
    this.#netdev.fit(contract);
    this.#probation = performance.now() + PROBATION_MS;
    this.#upgrades++;
    this.#probed(`upgraded, ${reclaimed} unused buffers reclaimed`, contract);
    await this.#followLink();
  }

  /** From the queues in use to these. Returns how many buffers came back unused; null: the device refuses to go on. */
  async #handOver(queues: DriverQueues): Promise<number | null> {
    const { transport } = this.#options;
    const former = this.#queues!;
    let switched: Promise<DriverReply> | null = null;
    beginUrgent(); // from here to the go, every wait for a processor would be the packets'
    try {
      await this.#workers.all({ op: 'stopTransmit' });
      await transport.write(REG.CTRL, CTRL.RX_DISABLE | CTRL.TX_DISABLE);
      this.#queues = queues;
      this.#broken = false; // whatever the former programs have done
      this.#regrets = false;
      this.#probation = Number.POSITIVE_INFINITY; // the new programs run from here on
      this.#blackouts.begin();
      switched = this.#workers.hand('switch', queues);
      switched.catch(() => {}); // a worker may fail before somebody waits for this
      await transport.write(REG.CTRL, CTRL.UPGRADE_READY);
      const enabled = await this.#enable();
      const at = performance.timeOrigin + performance.now();
      const { reclaimed, seized } = await switched;
      this.#count(seized);
      if (!enabled) return null;
      await this.#workers.all({ op: 'go', at });
      return reclaimed;
    } finally {
      endUrgent();
      await switched?.catch(() => {}); // until then a worker uses both
      (this.#queues === queues ? former : queues).close();
    }
  }

  async #detach(): Promise<void> {
    try {
      if (this.#running) await this.#bringDown();
    } finally {
      if (this.#queues) this.#counters = this.#queues.counters();
      if (this.#queues) this.#netdev.release();
      this.#queues?.close();
      this.#queues = null;
    }
  }

  async #bringUp(): Promise<void> {
    if (!(await this.#enable())) {
      this.#broken = true;
      return;
    }
    await this.#workers.all({ op: 'up' });
    this.#running = true;
    await this.#followLink();
    this.#log('info', 'device running');
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  async #enable(): Promise<boolean> {
    const { transport } = this.#options;
    await transport.write(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
    const both = STATUS.RX_ENABLED | STATUS.TX_ENABLED;
    if (((await transport.read(REG.STATUS)) & both) === both) return true;
    this.#log('error', 'the device refuses to be enabled');
    await transport.write(REG.CTRL, CTRL.RX_DISABLE | CTRL.TX_DISABLE); // half of it is of no use
    return false;
  }

  /** Returns how many buffers had to be taken by force. */
  async #bringDown(): Promise<number> {
    const { transport } = this.#options;
    // While the device runs, this says that its contract is of no use.
    if (this.#regrets && transport.present) await transport.write(REG.CTRL, CTRL.UPGRADE_READY);
    this.#regrets = false;
    this.#probation = 0;
    this.#running = false;
    this.#netdev.setCarrier(false);
    await this.#workers.all({ op: 'stopTransmit' });
    if (transport.present) await transport.write(REG.CTRL, CTRL.RX_DISABLE | CTRL.TX_DISABLE);
    const { reclaimed, seized } = await this.#workers.all({ op: 'down' });
    this.#count(seized);
    this.#log('info', `device stopped, ${reclaimed} unused buffers reclaimed`);
    return seized;
  }

  #count(seized: number): void {
    this.#seized += seized;
    if (seized > 0) this.#log('warn', `the device did not give back ${seized} buffers: they were taken`);
  }

  async #followLink(): Promise<void> {
    const up = ((await this.#options.transport.read(REG.STATUS)) & STATUS.LINK) !== 0;
    this.#netdev.setCarrier(up);
  }

  #onEvent(event: DriverEvent): void {
    if ('blackout' in event) {
      if (this.#blackouts.add(event.blackout)) this.#options.onBlackout?.(event.blackout);
      return;
    }
    const { queue, address, reason } = event;
    if (queue < 0) {
      this.#log('info', reason);
      return;
    }
    this.#log('error', `queue ${queue} stopped: ${reason}`);
    if (!this.#queues?.all.some(own => own.address === address)) return; // it is not in use any more
    this.#broken = true;
    this.#regrets = performance.now() < this.#probation;
    this.#wake();
  }

  #log(level: 'info' | 'warn' | 'error', message: string): void {
    this.#options.log?.(level, message);
  }
}
