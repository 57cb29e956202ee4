/**
 * The NIC: queues, features, memory, and the workers that run them. Control protocols drive it through NicControl; it knows none of them.
 *
 * What is allowed when is the table below. "Running" means that at least one direction is enabled; a NIC that stops keeps its contexts, so a
 * guest may start again on the same ones.
 */
import { EventFd } from '../linux/eventfd.js';
import { type OwnedFd, owning } from '../linux/fd.js';
import type { PortHandle } from '../port/port.js';
import { loadDatapath } from '../ring/datapath.js';
import { offloadsOf } from '../ring/features.js';
import type { DeviceType } from '../ring/ring.js';
import type { ContextSizes, Contract } from './contract.js';
import {
  type Direction,
  type MemoryRegionSpec,
  type NicControl,
  NicError,
  type NicParameters,
} from './control.js';
import { drain, leftBehind } from './drain.js';
import { dumpNic } from './dump.js';
import { Hurry } from './hurry.js';
import { MAX_BUFS, MAX_QUEUE_PAIRS, type NicLimits } from './limits.js';
import { NicMemory } from './nic-memory.js';
import { PortTerms } from './port-terms.js';
import type { Queue, QueueStats } from './queue.js';
import { SignalTable } from './signals.js';
import { Turns } from './turns.js';
import { Contracts, type UpgradeReport, type UpgradeWish } from './upgrade.js';
import { Workers, type WorkersOptions } from './workers.js';

/** Which requests are answered with an error while a direction is enabled. What prepares an announced contract goes there, and is allowed. */
const WHILE_RUNNING = {
  setFeatures: false,
  setParameters: false,
  setQueueContext: false,
  setQueueKick: false,
  setQueueIrq: true,
  setMemoryTable: true,
  setUpgrade: true,
} as const;

export interface NicOptions extends WorkersOptions {
  readonly device: DeviceType;
  readonly limits?: Partial<NicLimits>;
  /** Feature bits to offer, of those that the device type has; default: all of them. */
  readonly features?: bigint;
  readonly requireSealed?: boolean;
}

export interface NicStats {
  readonly queues: readonly ({ readonly index: number; readonly direction: Direction } & QueueStats)[];
}

export class Nic implements NicControl {
  readonly #options: NicOptions;
  readonly #contracts: Contracts;
  readonly #memory: NicMemory;
  readonly #workers: Workers;
  /** All that waits for workers. */
  readonly #turns = new Turns();
  readonly #enabled = { rx: false, tx: false };
  readonly #signals = new SignalTable();
  #upgrade: EventFd | null = null;
  readonly #terms = new PortTerms(() => this.port);
  readonly #hurry = new Hurry();
  /** Directions that have stopped: the guest may have reclaimed what it had posted, so private state is taken from the contexts at the next start. */
  readonly #resume = { rx: false, tx: false };
  /** Called once when the worker fails: no frame moves any more, only `close` makes sense. */
  onFailure: (error: Error) => void = () => {};

  private constructor(options: NicOptions, workers: Workers) {
    this.#options = options;
    this.#memory = new NicMemory(options, {
      workers,
      queues: () => ({ present: this.#contract.queues, next: this.#contracts.next?.queues ?? [] }),
      runs: direction => this.#enabled[direction],
      inTurn: step => this.#turns.take(step),
      paused: action => this.#paused(action),
      warn: message => this.#log('warn', message),
    });
    const nic = this;
    this.#contracts = new Contracts(
      {
        window: options.window,
        arena: options.arena,
        datapath: loadDatapath(options.window),
        limits: { queuePairs: MAX_QUEUE_PAIRS, bufs: MAX_BUFS, ...options.limits },
        get running() {
          return nic.running;
        },
        inTurn: step => this.#turns.take(step),
        signal: () => this.#upgrade?.signal(),
        withdrawn: () => this.#setPortOffloads(),
        change: wish => this.#change(wish),
        log: (level, message) => this.#log(level, message),
      },
      options.device,
      options.features,
    );
    this.#workers = workers;
    workers.onFailure = error => this.onFailure(error);
    workers.onMiss = ({ queue, lacks }) => {
      if (lacks) this.#memory.missed(queue, lacks).catch((error: Error) => workers.fail(error));
    };
  }

  /** Starts the NIC's workers. Throws when programs or workers can't be loaded. */
  static async start(options: NicOptions): Promise<Nic> {
    const { device, limits } = options;
    const workers = await Workers.start(options, device.name, limits?.queuePairs ?? MAX_QUEUE_PAIRS);
    return new Nic(options, workers);
  }

  get running(): boolean {
    return this.#enabled.rx || this.#enabled.tx;
  }

  get rxEnabled(): boolean {
    return this.#enabled.rx;
  }

  get txEnabled(): boolean {
    return this.#enabled.tx;
  }

  /** The device type of the present contract. */
  get device(): DeviceType {
    return this.#contract.device;
  }

  get port(): PortHandle {
    return this.#workers.port;
  }

  get spin(): boolean {
    return this.#workers.spin;
  }

  /** Feature bits that the guest has accepted. */
  get agreed(): bigint {
    return this.#contract.agreed;
  }

  /** Queues and buffers of the present contract; null: nobody has asked for any. */
  get parameters(): NicParameters | null {
    return this.#contract.parameters;
  }

  /** Those of the contract that an upgrade has announced; null: none is. */
  get announced(): NicParameters | null {
    return this.#contracts.next?.parameters ?? null;
  }

  /** Feature bits that would be offered with a device type, offloads being allowed as they are now. */
  offering({ features }: DeviceType): bigint {
    const { mask } = this.#contract;
    return mask === undefined ? features : features & mask;
  }

  /** Counters of all queues since they were set up, upgrades included. */
  stats(): NicStats {
    const { queues } = this.#contract;
    return { queues: queues.map(({ index, direction, stats }) => ({ index, direction, ...stats })) };
  }

  /** The state of every queue, for people. */
  dump(): string {
    const { device, features: offered, agreed, queues } = this.#contract;
    const { rxEnabled, txEnabled } = this;
    return dumpNic(this.#options.window, { device, offered, agreed, rxEnabled, txEnabled, queues });
  }

  /**
   * Changes the contract, the port, or how the worker waits, under a running guest (picture in upgrade.ts). Resolves when that is done.
   * Throws NicError: NIC_UPGRADE_BUSY, another upgrade is under way; NIC_UPGRADE_DECLINED, the guest can't take the contract;
   * NIC_UPGRADE_TIMEOUT, it has not done so in time. In all cases the old contract goes on.
   */
  upgrade(wish: UpgradeWish): Promise<UpgradeReport> {
    return this.#contracts.upgrade(wish);
  }

  features(): bigint {
    return this.#contracts.look().features;
  }

  setFeatures(accepted: bigint): void {
    const contract = this.#contracts.looked;
    if (this.#contracts.chosen === this.#contract) this.#check('setFeatures');
    contract.agree(accepted);
    if (contract === this.#contract) this.#setPortOffloads();
    else this.#narrowPort(contract);
  }

  setParameters(parameters: NicParameters): ContextSizes {
    const contract = this.#contracts.look();
    if (contract !== this.#contract) {
      this.#signals.checkNumbers(parameters);
      return contract.prepare(parameters);
    }
    this.#check('setParameters');
    const sizes = contract.prepare(parameters);
    this.#signals.fit(contract.parameters);
    this.#useLanes();
    return sizes;
  }

  programs(): OwnedFd {
    return this.#contracts.read().programs();
  }

  setMemoryTable(specs: readonly MemoryRegionSpec[]): Promise<void> {
    return this.#turns.take(async () => {
      try {
        await this.#memory.change(specs);
      } finally {
        for (const { fd } of specs) fd.close();
      }
    });
  }

  async setQueueContext(index: number, gpa: bigint): Promise<void> {
    const { chosen, next } = this.#contracts;
    if (chosen === this.#contract) this.#check('setQueueContext');
    const queue = chosen.queues[index] ?? noQueue(index, chosen.queues.length);
    if (gpa === 0n) {
      queue.dropContext();
      return;
    }
    const { table } = this.#memory;
    if (!table) throw new NicError('NIC_NO_MEMORY', `queue ${index}: a context, but no memory table`);
    // Sizes of an announced contract were asked for, but not its programs: the present one needs what the guest may not have set aside.
    const told = this.#contracts.looked === next ? next?.queues[index]?.contextSize : undefined;
    if (told !== undefined && told < queue.contextSize) {
      throw new NicError(
        'NIC_CONTEXT',
        `queue ${index}: the programs that go with the size were not asked for`,
      );
    }
    queue.setContext(gpa, table, chosen.ring);
  }

  async setQueueKick(index: number, fd: OwnedFd | null): Promise<void> {
    const signals = owning(fd, () => {
      this.#check('setQueueKick');
      return this.#signals.of(index);
    });
    signals.setKick(fd);
  }

  setQueueIrq(index: number, fd: OwnedFd | null): Promise<void> {
    return this.#turns.take(async () => {
      const signals = owning(fd, () => this.#signals.of(index));
      const former = signals.setIrq(fd);
      const queue = this.#contract.queues[index];
      try {
        if (this.running && queue)
          await this.#workers.call(() => ({ op: 'irq', queue: queue.address, irq: signals.irqFd }));
      } finally {
        former?.close();
      }
    });
  }

  /** A hypervisor that sends it again while the NIC runs says that its guest can't take, or goes on with, the new contract. */
  setUpgrade(fd: OwnedFd): void {
    const eventfd = EventFd.adopt(fd);
    this.#upgrade?.close();
    this.#upgrade = eventfd;
    if (this.running) this.#contracts.refused();
  }

  enable(direction: Direction, complete: 'all' | 'own' = 'all'): Promise<void> {
    return this.#turns.take(() => this.#enable(direction, complete));
  }

  disable(direction: Direction): Promise<void> {
    return this.#turns.take(() => this.#stop(direction, true));
  }

  /**
   * The guest takes what is announced, of which it has the programs, before it starts: it has prepared itself for it, or uses neither contract yet. Nothing when
   * it runs, or nothing was announced.
   */
  take(): Promise<void> {
    return this.#turns.take(async () => {
      if (!this.running && this.#contracts.chosen !== this.#contract) await this.#swap();
    });
  }

  /** The guest begins anew, with the memory, the eventfds and as many queues as it has: nothing is drained, contexts and features are forgotten. */
  reset(): Promise<void> {
    return this.#turns.take(async () => {
      await this.#stop('tx', false);
      await this.#stop('rx', false);
      try {
        await this.#contracts.restart();
      } finally {
        this.#resume.rx = false;
        this.#resume.tx = false;
        this.#setPortOffloads();
      }
    });
  }

  disconnect(): Promise<void> {
    return this.#turns.take(() => this.#forget());
  }

  /** Ends the NIC: drains what was published, stops the worker, gives everything back. The port stays its owner's. */
  close(): Promise<void> {
    return this.#turns.take(async () => {
      this.#hurry.end();
      await this.#stop('tx', true);
      await this.#forget();
      await this.#workers.close();
      this.#contracts.close();
    });
  }

  get #contract(): Contract {
    return this.#contracts.present;
  }

  async #enable(direction: Direction, complete: 'all' | 'own'): Promise<void> {
    if (this.#enabled[direction]) return;
    if (this.#workers.failure) throw this.#workers.failure;
    const due = this.running ? null : this.#contracts.due;
    const { queues } = due ?? this.#contract;
    const needed = complete === 'all' ? queues : queues.filter(queue => queue.direction === direction);
    this.#checkComplete(needed, `enable ${direction}`);
    if (due) await this.#swap();
    if (this.#resume[direction]) {
      this.#resume[direction] = false;
      for (const queue of this.#queuesOf(direction)) {
        if (!this.#contract.ring.resume(queue.address))
          this.#log('warn', `queue ${queue.index}: indices make no sense, it stands still`);
      }
    }
    // Commands are carried out in order: who stops again waits for this one too, and nobody else needs to.
    this.#start(direction).catch((error: Error) => this.#workers.fail(error));
    this.#enabled[direction] = true;
    if (this.#enabled.rx && this.#enabled.tx) setImmediate(() => this.#settle());
    this.#log('info', `${direction} enabled`);
  }

  /** The guest has its answer. What may cost the processor, or wait for others, comes only now. */
  #settle(): void {
    this.#hurry.end();
    this.#setPortOffloads();
  }

  /** The guest starts with the contract that was announced to it; nothing runs. */
  async #swap(): Promise<void> {
    await this.#contracts.swap();
    this.#narrowPort(this.#contract);
    this.#useLanes();
    this.#resume.rx = false;
    this.#resume.tx = false;
  }

  /** The guest is gone. */
  async #forget(): Promise<void> {
    await this.#stop('tx', false);
    await this.#stop('rx', false);
    try {
      await this.#contracts.left();
    } finally {
      this.#signals.fit(this.#contract.parameters);
      this.#upgrade?.close();
      this.#upgrade = null;
      this.#setPortOffloads();
      this.#memory.forget();
    }
  }

  /** The port hands the guest no more than it takes. */
  #setPortOffloads(): void {
    this.#terms.allow(offloadsOf(this.#contract.agreed, 'rx'));
  }

  /** Nor more than it will take. */
  #narrowPort(next: Contract): void {
    this.#terms.narrow(offloadsOf(next.agreed, 'rx'));
  }

  /** The kernel, or whoever is behind the port, uses no lane that nobody reads. */
  #useLanes(): void {
    this.port.useLanes?.(this.#queuesOf('rx').length);
  }

  #queuesOf(direction: Direction): Queue[] {
    return this.#contract.queues.filter(queue => queue.direction === direction);
  }

  async #start(direction: Direction): Promise<void> {
    const queues = this.#queuesOf(direction).map(({ index, address }, pair) => {
      const { kickFd, irqFd } = this.#signals.of(index);
      return { queue: address, kick: kickFd, irq: irqFd, discard: false, pair };
    });
    await this.#workers.run(this.#contract.device.name, direction, queues, this.#memory.partial);
  }

  /** Does something while no queue is in a worker's hands; `directions`: that may have some. */
  async #paused<T>(
    action: () => T | Promise<T>,
    directions: readonly Direction[] = ['rx', 'tx'],
  ): Promise<T> {
    const running = directions.filter(direction => this.#enabled[direction]);
    try {
      for (const direction of running) await this.#workers.stop(direction);
      return await action();
    } finally {
      // Unless nothing moves any more.
      if (!this.#workers.failure) for (const direction of running) await this.#start(direction);
    }
  }

  /** Port and way of waiting, between two turns of the worker. Throws when the port can't be used, and both are as before. */
  async #change({ port, spin }: Pick<UpgradeWish, 'port' | 'spin'>): Promise<void> {
    if (port) await this.#changePort(port);
    if (spin !== undefined) await this.#workers.setSpin(spin);
  }

  async #changePort(port: PortHandle): Promise<void> {
    const offloads = offloadsOf(this.#contract.agreed, 'rx');
    port.setOffloads?.(offloads);
    await this.#paused(async () => {
      await this.#workers.setPort(port);
      this.#terms.replaced(offloads);
      this.#useLanes();
    });
  }

  #checkComplete(queues: readonly Queue[], what: string): void {
    const lacking = queues.filter(
      ({ index, contextGpa }) => contextGpa === null || !this.#signals.of(index).complete,
    );
    if (queues.length > 0 && lacking.length === 0) return;
    const which =
      lacking.length > 0 ? `queue ${lacking.map(({ index }) => index).join(', ')}` : 'every queue';
    throw new NicError('NIC_INCOMPLETE', `can't ${what}: ${which} lacks context, kick or interrupt`);
  }

  async #stop(direction: Direction, drain: boolean): Promise<void> {
    if (!this.#enabled[direction]) return;
    if (this.#contracts.due) this.#hurry.begin();
    let left = 0;
    if (drain && direction === 'tx') left = await this.#drain();
    else await this.#workers.stop(direction);
    this.#enabled[direction] = false;
    this.#resume[direction] = true;
    if (!this.running) this.#contracts.stopped();
    if (left > 0) this.#log('warn', leftBehind(left));
    this.#log('info', `${direction} disabled`);
  }

  #drain(): Promise<number> {
    const queues = this.#queuesOf('tx').map(({ address }) => address);
    return drain(this.#workers, queues, async misses => {
      const failure = await this.#paused(() => this.#memory.reach(misses), ['rx']);
      if (!failure) await this.#start('tx');
      return !failure;
    });
  }

  #check(request: keyof typeof WHILE_RUNNING): void {
    if (this.running && !WHILE_RUNNING[request]) {
      throw new NicError('NIC_RUNNING', `${request} is refused while the NIC runs`);
    }
  }

  #log(level: 'info' | 'warn' | 'error', message: string): void {
    this.#options.log?.(level, message);
  }
}

function noQueue(index: number, queues: number): never {
  throw new NicError('NIC_QUEUE', `queue ${index}: there are ${queues}`);
}
