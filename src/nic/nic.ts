/**
 * The NIC: queues, features, memory, and the worker that runs them. Control protocols drive it through NicControl; it knows none of them.
 *
 * What is allowed when is the table below. "Running" means that at least one direction is enabled; a NIC that stops keeps its contexts, so a
 * guest may start again on the same ones.
 */
import { readFileSync } from 'node:fs';
import { EventFd } from '../linux/eventfd.js';
import { type OwnedFd, reopenFd } from '../linux/fd.js';
import { memfdOf } from '../linux/memfd.js';
import type { Arena } from '../memory/arena.js';
import { GuestMemory, type RegionTable } from '../memory/guest-memory.js';
import { MemoryError, type Window } from '../memory/window.js';
import { createCapture } from '../port/pcapng/index.js';
import type { PortHandle } from '../port/port.js';
import { Batch } from '../ring/batch.js';
import { loadDatapath } from '../ring/datapath.js';
import { frameLimits, offloadsOf } from '../ring/features.js';
import type { DeviceType, Ring } from '../ring/ring.js';
import type { QueueMove, WorkerCommand, WorkerData } from './commands.js';
import {
  type Direction,
  type MemoryRegionSpec,
  type NicControl,
  NicError,
  type NicParameters,
} from './control.js';
import { checkParameters, MAX_BUFS, MAX_QUEUE_PAIRS, type NicLimits } from './limits.js';
import { Queue, type QueueStats } from './queue.js';
import { LoopThread } from './thread.js';

/** Which requests are answered with an error while a direction is enabled. */
const WHILE_RUNNING = {
  setFeatures: false,
  setParameters: false,
  setQueueContext: false,
  setQueueKick: false,
  setQueueIrq: true,
  setMemoryTable: true,
  setUpgrade: true,
} as const;

export interface NicOptions {
  readonly window: Window;
  readonly arena: Arena;
  readonly device: DeviceType;
  readonly port: PortHandle;
  readonly limits?: Partial<NicLimits>;
  /** Feature bits to offer, of those that the device type has; default: all of them. */
  readonly features?: bigint;
  readonly spin?: boolean;
  /** Sleep after every turn of the worker, microseconds. */
  readonly sleepMicroseconds?: number;
  readonly requireSealed?: boolean;
  /** Write every frame, of both directions, to this pcapng file. */
  readonly capture?: string | undefined;
  /** Sentences for the operator. */
  readonly log?: (level: 'info' | 'warn' | 'error', message: string) => void;
}

export interface NicStats {
  readonly queues: readonly ({ readonly index: number; readonly direction: Direction } & QueueStats)[];
}

export class Nic implements NicControl {
  readonly #options: NicOptions;
  readonly #limits: NicLimits;
  readonly #memory: GuestMemory;
  readonly #ring: Ring;
  readonly #programs: OwnedFd;
  /** What was given for `programs` last. */
  #handedOut: OwnedFd | null = null;
  readonly #thread: LoopThread<WorkerCommand, number>;
  readonly #batches: readonly [Batch, Batch];
  readonly #capture: OwnedFd | null;
  readonly #enabled = { rx: false, tx: false };
  #table: RegionTable | null = null;
  #queues: Queue[] = [];
  #upgrade: EventFd | null = null;
  #features = 0n;
  /** Directions that have stopped: the guest may have reclaimed what it had posted, so private state is taken from the contexts at the next start. */
  readonly #resume = { rx: false, tx: false };
  #failure: Error | null = null;
  /** Called once when the worker fails: no frame moves any more, only `close` makes sense. */
  onFailure: (error: Error) => void = () => {};

  private constructor(
    options: NicOptions,
    thread: LoopThread<WorkerCommand, number>,
    programs: OwnedFd,
    batches: readonly [Batch, Batch],
    capture: OwnedFd | null,
  ) {
    this.#options = options;
    this.#limits = { queuePairs: MAX_QUEUE_PAIRS, bufs: MAX_BUFS, ...options.limits };
    this.#memory = new GuestMemory(options.window, options.arena, {
      requireSealed: options.requireSealed ?? false,
      note: message => this.#log('warn', message),
    });
    this.#ring = options.device.ring(loadDatapath(options.window));
    this.#thread = thread;
    this.#programs = programs;
    this.#batches = batches;
    this.#capture = capture;
    thread.onEvent = message => this.#log('warn', message as string);
    thread.onFailure = error => {
      this.#failure = error;
      this.#log('error', `the datapath worker failed: ${error.message}`);
      this.onFailure(error);
    };
  }

  /** Starts the NIC's worker. Throws when programs or worker can't be loaded. */
  static async start(options: NicOptions): Promise<Nic> {
    const { window, arena, device, port } = options;
    const capture =
      options.capture === undefined ? null : createCapture(options.capture, port.descriptor.name);
    const programs = memfdOf(`${device.name} programs`, readFileSync(device.programs));
    const batches = [Batch.allocate(window, arena), Batch.allocate(window, arena)] as const;
    const data: WorkerData = {
      device: device.name,
      port: port.descriptor,
      spin: options.spin ?? false,
      sleepMicroseconds: options.sleepMicroseconds ?? 0,
      txBatch: batches[0].address,
      rxBatch: batches[1].address,
      capture: capture?.fd ?? -1,
    };
    const entry = new URL('./device-loop.js', import.meta.url);
    try {
      const thread = await LoopThread.start<WorkerCommand, number>(entry, {
        window,
        arena,
        data,
        name: 'nic',
      });
      return new Nic(options, thread, programs, batches, capture);
    } catch (error) {
      programs.close();
      capture?.close();
      for (const batch of batches) arena.free(batch.address);
      throw error;
    }
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

  /** Counters of all queues since they were set up. */
  stats(): NicStats {
    return { queues: this.#queues.map(({ index, direction, stats }) => ({ index, direction, ...stats })) };
  }

  features(): bigint {
    const { device, features } = this.#options;
    return features === undefined ? device.features : device.features & features;
  }

  setFeatures(accepted: bigint): void {
    this.#check('setFeatures');
    if ((accepted & ~this.features()) !== 0n) {
      throw new NicError('NIC_FEATURES', `features 0x${accepted.toString(16)} are not all offered`);
    }
    this.#agree(accepted);
  }

  /** What frames may be from now on, of this side of the rings and of the other: the port hands the guest no more than it takes. */
  #agree(features: bigint): void {
    this.#options.port.setOffloads?.(offloadsOf(features, 'rx'));
    this.#features = features;
    for (const queue of this.#queues) this.#setFrames(queue);
  }

  #setFrames(queue: Queue): void {
    const { maxFrame, offloads } = frameLimits(this.#options.device, this.#features, queue.direction);
    queue.setFrames(maxFrame, offloads);
  }

  setParameters(parameters: NicParameters): { rxContextSize: number; txContextSize: number } {
    this.#check('setParameters');
    const { numRxQueues, numTxQueues, numRxBufs, numTxBufs } = parameters;
    const mostBufs = this.#options.device.maxBufs ?? MAX_BUFS;
    checkParameters(parameters, { ...this.#limits, bufs: Math.min(this.#limits.bufs, mostBufs) });
    const sizes = {
      rxContextSize: this.#ring.contextSize(numRxBufs),
      txContextSize: this.#ring.contextSize(numTxBufs),
    };
    const queues: Queue[] = [];
    try {
      for (let index = 0; index < numRxQueues + numTxQueues; index++) {
        const receives = index < numRxQueues;
        const shape = {
          index,
          direction: receives ? 'rx' : 'tx',
          num: receives ? numRxBufs : numTxBufs,
          contextSize: receives ? sizes.rxContextSize : sizes.txContextSize,
        } as const;
        const queue = new Queue(this.#options, shape);
        queues.push(queue);
        this.#setFrames(queue);
      }
    } catch (error) {
      for (const queue of queues) queue.close();
      throw error;
    }
    for (const queue of this.#queues) queue.close();
    this.#queues = queues;
    return sizes;
  }

  programs(): OwnedFd {
    // Whoever gets it may read it on from where the one before has stopped: so each gets a position of its own.
    this.#handedOut?.close();
    this.#handedOut = reopenFd(this.#programs.fd, this.#programs.name);
    return this.#handedOut;
  }

  async setMemoryTable(specs: readonly MemoryRegionSpec[]): Promise<void> {
    try {
      const next = this.#memory.build(specs);
      try {
        await this.#moveTo(next);
      } catch (error) {
        next.close();
        throw error;
      }
    } finally {
      for (const { fd } of specs) fd.close();
    }
  }

  async setQueueContext(index: number, gpa: bigint): Promise<void> {
    this.#check('setQueueContext');
    const queue = this.#queue(index);
    if (gpa === 0n) {
      queue.dropContext();
      return;
    }
    if (!this.#table) throw new NicError('NIC_NO_MEMORY', `queue ${index}: a context, but no memory table`);
    queue.setContext(gpa, this.#table, this.#ring);
  }

  async setQueueKick(index: number, fd: OwnedFd | null): Promise<void> {
    try {
      this.#check('setQueueKick');
      this.#queue(index);
    } catch (error) {
      fd?.close();
      throw error;
    }
    this.#queue(index).setKick(fd);
  }

  async setQueueIrq(index: number, fd: OwnedFd | null): Promise<void> {
    const queue = this.#queues[index];
    if (!queue) {
      fd?.close();
      throw this.#noQueue(index);
    }
    const former = queue.setIrq(fd);
    if (this.running) await this.#thread.call({ op: 'irq', queue: queue.address, irq: queue.irqFd });
    former?.close();
  }

  setUpgrade(fd: OwnedFd): void {
    const next = EventFd.adopt(fd);
    this.#upgrade?.close();
    this.#upgrade = next;
  }

  async enable(direction: Direction): Promise<void> {
    if (this.#enabled[direction]) return;
    if (this.#failure) throw this.#failure;
    const lacking = this.#queues.filter(queue => !queue.complete).map(queue => queue.index);
    if (this.#queues.length === 0 || lacking.length > 0) {
      const which = lacking.length > 0 ? `queue ${lacking.join(', ')}` : 'every queue';
      throw new NicError(
        'NIC_INCOMPLETE',
        `can't enable ${direction}: ${which} lacks context, kick or interrupt`,
      );
    }
    const queues = this.#queues.filter(queue => queue.direction === direction);
    if (this.#resume[direction]) {
      this.#resume[direction] = false;
      for (const queue of queues) {
        if (!this.#ring.resume(queue.address))
          this.#log('warn', `queue ${queue.index}: indices make no sense, it stands still`);
      }
    }
    await this.#thread.call({ op: 'start', direction, queues: queues.map(queue => queue.start()) });
    this.#enabled[direction] = true;
    this.#log('info', `${direction} enabled`);
  }

  async disable(direction: Direction): Promise<void> {
    await this.#stop(direction, true);
  }

  async disconnect(): Promise<void> {
    await this.#stop('tx', false);
    await this.#stop('rx', false);
    for (const queue of this.#queues) queue.close();
    this.#queues = [];
    this.#upgrade?.close();
    this.#upgrade = null;
    this.#agree(0n);
    this.#table?.close();
    this.#table = null;
  }

  /** Ends the NIC: drains what was published, stops the worker, gives everything back. The port stays its owner's. */
  async close(): Promise<void> {
    await this.#stop('tx', true);
    await this.disconnect();
    await this.#thread.stop();
    this.#programs.close();
    this.#handedOut?.close();
    this.#capture?.close();
    for (const batch of this.#batches) this.#options.arena.free(batch.address);
  }

  async #stop(direction: Direction, drain: boolean): Promise<void> {
    if (!this.#enabled[direction]) return;
    const left = await this.#thread.call({ op: 'stop', direction, drain }).catch(error => {
      if (!this.#failure) throw error;
      return 0; // a worker that has failed uses nothing any more
    });
    this.#enabled[direction] = false;
    this.#resume[direction] = true;
    if (left > 0)
      this.#log('warn', `${left} packets could not be sent before the stop: the port takes no more`);
    this.#log('info', `${direction} disabled`);
  }

  /** Everything that stands in the old table is found in the new one, or nothing changes. */
  async #moveTo(next: RegionTable): Promise<void> {
    const placed: Queue[] = [];
    const moves: QueueMove[] = [];
    try {
      for (const queue of this.#queues) {
        if (queue.contextGpa === null) continue;
        const context = this.#locate(queue, next);
        if (context === null) continue;
        placed.push(queue);
        moves.push({ queue: queue.address, context });
      }
      if (this.running) await this.#thread.call({ op: 'remap', regions: next.address, queues: moves });
    } catch (error) {
      for (const queue of placed) next.unpin(queue.contextGpa!, queue.contextSize);
      throw error;
    }
    for (const queue of this.#queues) {
      const i = placed.indexOf(queue);
      if (i < 0) queue.dropContext();
      else {
        if (!this.running) queue.place(next, moves[i]!.context);
        queue.follow(next);
      }
    }
    this.#table?.close();
    this.#table = next;
  }

  /** Where the queue's context is in that table. A guest that has rebooted leaves contexts behind that are in no memory any more: null, unless they are in use. */
  #locate(queue: Queue, next: RegionTable): number | null {
    try {
      return queue.locate(queue.contextGpa!, next);
    } catch (error) {
      if (this.running || !(error instanceof MemoryError) || error.code !== 'MEMORY_ADDRESS') throw error;
      this.#log('warn', `queue ${queue.index} loses its context: ${error.message}`);
      return null;
    }
  }

  #check(request: keyof typeof WHILE_RUNNING): void {
    if (this.running && !WHILE_RUNNING[request]) {
      throw new NicError('NIC_RUNNING', `${request} is refused while the NIC runs`);
    }
  }

  #queue(index: number): Queue {
    const queue = this.#queues[index];
    if (!queue) throw this.#noQueue(index);
    return queue;
  }

  #noQueue(index: number): NicError {
    return new NicError('NIC_QUEUE', `queue ${index}: there are ${this.#queues.length}`);
  }

  #log(level: 'info' | 'warn' | 'error', message: string): void {
    this.#options.log?.(level, message);
  }
}
