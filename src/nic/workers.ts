/**
 * The workers of a NIC and what they work with, whatever the queues are: the port with its lanes, a capture, the way of waiting. Nic and VirtioNic
 * decide which queues run; here they are dealt out.
 */
import type { OwnedFd } from '../linux/fd.js';
import type { Arena } from '../memory/arena.js';
import type { Window } from '../memory/window.js';
import { createCapture } from '../port/pcapng/index.js';
import type { PortHandle } from '../port/port.js';
import type { Lacks, QueueStart, WorkerCommand, WorkerData, WorkerEvent } from './commands.js';
import type { Direction } from './control.js';
import { Crew, deal } from './crew.js';

/** Of any NIC. */
export interface WorkersOptions {
  readonly window: Window;
  readonly arena: Arena;
  readonly port: PortHandle;
  readonly spin?: boolean;
  /** Workers that the queue pairs are dealt out to; fewer when port or limits have no work for so many, one with a capture. Default: one. */
  readonly workers?: number;
  /** Sleep after every turn of the worker, microseconds. */
  readonly sleepMicroseconds?: number;
  /** Write every frame, of both directions, to this pcapng file. */
  readonly capture?: string | undefined;
  /** Sentences for the operator. */
  readonly log?: (level: 'info' | 'warn' | 'error', message: string) => void;
}

/** A queue that is to run, and the number of its pair. */
export interface PairStart extends QueueStart {
  readonly pair: number;
}

/** A queue stands still because of addresses: those of its structure, or of buffers that are to be in the window. As a WorkerEvent tells it. */
export interface Missed {
  readonly queue: number;
  readonly lacks: Lacks | null;
}

export class Workers {
  readonly #crew: Crew<WorkerCommand, number>;
  readonly #capture: OwnedFd | null;
  readonly #log: NonNullable<WorkersOptions['log']>;
  #port: PortHandle;
  #spin: boolean;
  #failure: Error | null = null;
  /** Called once when a worker fails: no frame moves any more, only `close` makes sense. */
  onFailure: (error: Error) => void = () => {};
  /** Called when a queue stands still because of addresses, unless it is being drained. */
  onMiss: (missed: Missed) => void = () => {};
  #draining: { readonly queues: ReadonlySet<number>; readonly misses: Missed[] } | null = null;

  private constructor(
    { port, spin = false, log = () => {} }: WorkersOptions,
    crew: Crew<WorkerCommand, number>,
    capture: OwnedFd | null,
  ) {
    this.#port = port;
    this.#spin = spin;
    this.#log = log;
    this.#crew = crew;
    this.#capture = capture;
    crew.onEvent = event => {
      const said = event as WorkerEvent;
      if ('miss' in said) this.#miss({ queue: said.miss, lacks: said.lacks });
      else log('warn', said.note);
    };
    crew.onFailure = error => this.fail(error);
  }

  /** `device`: the type of ring that the queues have at first; `queuePairs`: at most. Throws when workers can't be started, CaptureError. */
  static async start(options: WorkersOptions, device: string, queuePairs: number): Promise<Workers> {
    const { window, arena, port, workers = 1, spin = false, sleepMicroseconds = 0 } = options;
    const capture =
      options.capture === undefined ? null : createCapture(options.capture, port.lanes[0]!.name);
    // A capture is one file, which one worker writes.
    const size = capture ? 1 : Math.min(workers, port.lanes.length, queuePairs);
    const lanes = deal(port.lanes, size);
    try {
      const crew = await Crew.start<WorkerCommand, number>(new URL('./device-loop.js', import.meta.url), {
        ...{ window, arena, name: 'nic', size },
        data: (worker, batches): WorkerData => ({
          ...{ device, lanes: lanes[worker]!, spin, sleepMicroseconds },
          ...batches,
          capture: capture?.fd ?? -1,
        }),
      });
      return new Workers(options, crew, capture);
    } catch (error) {
      capture?.close();
      throw error;
    }
  }

  get port(): PortHandle {
    return this.#port;
  }

  get spin(): boolean {
    return this.#spin;
  }

  /** Not null: what made a worker fail. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** A worker does not do what it was told: for the owner as if it had ended. */
  fail(error: Error): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#log('error', `the datapath worker failed: ${error.message}`);
    this.onFailure(error);
  }

  /** The only one that may touch the queues of a pair while they run. */
  workerOf(pair: number): number {
    return pair % this.#hands;
  }

  /** Has every worker handle a command between two turns, each its own. */
  call(command: (worker: number) => WorkerCommand): Promise<number[]> {
    return this.#crew.call(command);
  }

  /**
   * These queues of a direction run from now on, and no others; those that did go on where they are. `partial`: not all of the guest's memory is in the
   * window.
   */
  async run(
    device: string,
    direction: Direction,
    queues: readonly PairStart[],
    partial = false,
  ): Promise<void> {
    const hands = this.#hands;
    const dealt = Array.from({ length: this.#crew.size }, (_, worker) =>
      queues
        .filter(({ pair }) => pair % hands === worker)
        .map(({ pair, ...start }) => ({ ...start, slot: Math.floor(pair / hands) })),
    );
    await this.call(worker => ({ op: 'start', device, direction, queues: dealt[worker]!, partial }));
  }

  /** No queue of the direction runs any more. */
  async stop(direction: Direction): Promise<void> {
    await this.#stop(direction, false);
  }

  /** None of these transmit queues runs any more, and what the guest has published so far is sent: but for `left` descriptors, some for the `misses`. */
  async drain(
    queues: ReadonlySet<number>,
  ): Promise<{ readonly left: number; readonly misses: readonly Missed[] }> {
    const misses: Missed[] = [];
    this.#draining = { queues, misses };
    try {
      return { left: await this.#stop('tx', true), misses }; // what a worker tells comes before its answer
    } finally {
      this.#draining = null;
    }
  }

  /** A frame of our own goes out by the first lane: bytes at a window address. False when the port takes none now. */
  async send(address: number, length: number): Promise<boolean> {
    return (await this.#crew.tell(0, { op: 'send', address, length })) > 0;
  }

  async setSpin(spin: boolean): Promise<void> {
    await this.call(() => ({ op: 'spin', spin }));
    this.#spin = spin;
  }

  /** Frames go to, and come from, another port. No queue runs. Throws when a worker can't attach it: then no worker has it, all have the former one. */
  async setPort(port: PortHandle): Promise<void> {
    try {
      await this.#attach(port);
    } catch (error) {
      if (!this.#failure) await this.#attach(this.#port).catch((cause: Error) => this.fail(cause));
      throw error;
    }
    this.#port = port;
  }

  /** Ends the workers after their present turns. The port stays its owner's. */
  async close(): Promise<void> {
    await this.#crew.stop();
    this.#capture?.close();
  }

  async #stop(direction: Direction, drain: boolean): Promise<number> {
    const undone = await this.call(() => ({ op: 'stop', direction, drain })).catch(error => {
      if (!this.#failure) throw error;
      return []; // workers that have failed use nothing any more
    });
    return undone.reduce((sum, n) => sum + n, 0);
  }

  #miss(missed: Missed): void {
    if (this.#draining?.queues.has(missed.queue)) this.#draining.misses.push(missed);
    else this.onMiss(missed);
  }

  async #attach(port: PortHandle): Promise<void> {
    const lanes = deal(port.lanes, this.#handsFor(port));
    await this.call(worker => ({ op: 'port', lanes: lanes[worker] ?? [] }));
  }

  /** Workers that have something to do: no more than the port has lanes. */
  get #hands(): number {
    return this.#handsFor(this.#port);
  }

  #handsFor({ lanes }: PortHandle): number {
    return Math.min(this.#crew.size, lanes.length);
  }
}
