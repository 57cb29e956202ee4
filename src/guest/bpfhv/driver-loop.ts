/**
 * A worker of a bpfhv guest driver: runs its share of the queue pairs by way of the device's programs, each joined to a lane of the
 * guest's network device.
 *
 * ```
 *   slot     0         1         2                 a worker's pairs, in its own count
 *          tx rx     tx rx        rx
 *           │ │       │ └────┬────┘
 *   lane     0          1                          what comes in on a pair without a lane of its own goes to the last one
 * ```
 * A flow stays on its queues: the kernel sends what belongs to a flow on the lane on which that flow came in.
 *
 * A turn takes at most 128 frames from each lane and 64 packets from each receive queue. Before it sleeps it arms interrupts and looks once
 * more (rxi and txi answer whether something is there already).
 */
import * as L from '../../../datapath/layout.js';
import { instantiate } from '../../ebpf/jit/index.js';
import type { Poller } from '../../linux/poll.js';
import type { Window } from '../../memory/window.js';
import { Lanes } from '../../nic/lanes.js';
import { type Loop, type LoopStart, runLoop } from '../../nic/thread.js';
import { attachPort } from '../../port/registry.js';
import { Batch } from '../../ring/batch.js';
import { type Datapath, loadDatapath } from '../../ring/datapath.js';
import type {
  CompiledPrograms,
  DriverCommand,
  DriverEvent,
  DriverLoopData,
  DriverQueue,
  DriverReply,
} from './commands.js';
import { DriverLane } from './driver-lane.js';
import { Gap } from './gap.js';
import { helperImplementations } from './helpers.js';
import { QueueCalls } from './queue-calls.js';
import { PROGRAMS } from './registers.js';
import { Sealer } from './seal.js';
import { sealingHelpers } from './seal-helpers.js';

/** Numbers that the programs of one contract may have printed: a program must not fill the main thread's memory with them. */
const MAX_PRINTS = 64;
const MAX_QUEUES = 64;

/** Queues to take in use. */
interface Queues {
  readonly rx: readonly DriverQueue[];
  readonly tx: readonly DriverQueue[];
}

/** A program of a contract, and where it goes in the function table. */
interface PreparedProgram extends ReturnType<typeof instantiate> {
  readonly number: number;
}

class DriverLoop implements Loop<DriverCommand, DriverReply> {
  readonly pollEntries: number;
  readonly pauseMicroseconds = 0;
  /** Only while it has queues that run: otherwise it takes no core. */
  spin = false;
  readonly #wantsSpin: boolean;
  readonly #window: Window;
  readonly #datapath: Datapath;
  readonly #queueCalls: QueueCalls;
  readonly #lanes: Lanes<DriverLane>;
  readonly #emit: (event: DriverEvent) => void;
  readonly #gap: Gap;
  /** One for all queues and contracts, so that no nonce comes twice. */
  readonly #sealer: Sealer | null;
  #prepared: readonly PreparedProgram[] = [];
  #queues: readonly DriverQueue[] = [];
  #running = false;

  constructor({ window, data, emit }: LoopStart<DriverLoopData>) {
    const datapath = loadDatapath(window);
    const { calls } = datapath;
    this.#window = window;
    this.#datapath = datapath;
    this.#queueCalls = new QueueCalls(window, calls, emit);
    this.#gap = new Gap(blackout => emit({ blackout }));
    const host = {
      queueCalls: this.#queueCalls,
      gap: this.#gap,
      rxBatch: new Batch(window, data.rxBatch),
      txBatch: new Batch(window, data.txBatch),
    };
    this.#lanes = new Lanes(
      data.lanes.map(lane => new DriverLane(host, attachPort(lane, { window, calls }))),
    );
    this.pollEntries = data.lanes.length + MAX_QUEUES;
    this.#emit = emit;
    this.#sealer = data.key && new Sealer(data.key);
    this.#wantsSpin = data.spin;
  }

  turn(): number {
    try {
      return this.#lanes.turn(this.spin);
    } catch (error) {
      this.#queueCalls.trapped(error);
      return 0;
    }
  }

  relax(nanoseconds: number): void {
    this.#datapath.calls.relax(nanoseconds >> 3);
  }

  prepareSleep(poller: Poller, first: number): boolean {
    return this.#lanes.prepareSleep(poller, first);
  }

  afterSleep(poller: Poller, first: number): void {
    this.#lanes.afterSleep(poller, first);
  }

  handle(command: DriverCommand): DriverReply {
    let reply = { reclaimed: 0, seized: 0 };
    switch (command.op) {
      case 'prepare':
        this.#prepare(command.programs);
        break;
      case 'attach':
        this.#attach(command);
        break;
      case 'switch':
        reply = this.#switch(command);
        break;
      case 'go':
        this.#gap.go(command.at - performance.timeOrigin);
        break;
      case 'up':
        this.#up();
        break;
      case 'stopTransmit':
        this.#stopTransmit();
        this.#gap.stop();
        break;
      case 'down':
        reply = this.#down();
        break;
    }
    return reply;
  }

  #prepare(programs: CompiledPrograms): void {
    let prints = 0;
    const helpers = helperImplementations(this.#datapath.calls, value => {
      if (prints++ < MAX_PRINTS) this.#emit({ queue: -1, reason: `a program prints ${value}` });
    });
    for (const [id, helper] of this.#sealing()) helpers.set(id, helper);
    this.#prepared = PROGRAMS.flatMap(({ number, section }) => {
      const module = programs[section];
      return module ? [{ number, ...instantiate({ module }, this.#window.memory, helpers) }] : [];
    });
    this.#gap.watch(this.#running);
  }

  /** What seals and opens packets, when there is a key. The first packet of a contract that is not authentic is news. */
  #sealing(): ReturnType<typeof sealingHelpers> {
    if (!this.#sealer) return [];
    let told = false;
    const queue = () => this.#queueCalls.active!.index;
    return sealingHelpers(this.#datapath.calls, this.#window.bytes, this.#sealer, queue, () => {
      if (!told)
        this.#emit({ queue: -1, reason: 'a packet came that nobody with our key has sealed: dropped' });
      told = true;
    });
  }

  #attach({ rx, tx }: Queues): void {
    for (const { number, run } of this.#prepared) this.#datapath.table.set(number, run);
    this.#queueCalls.explainBy(this.#prepared.map(({ fault }) => fault));
    const last = this.#lanes.all.length - 1;
    for (const [i, lane] of this.#lanes.all.entries()) {
      const received = rx.filter((_, slot) => Math.min(slot, last) === i);
      lane.attach(received, tx[i] ?? null);
    }
    this.#queues = [...rx, ...tx];
    this.#queueCalls.reset(this.#queues);
  }

  /** From the queues in use to these, which go on counting where those have stopped. */
  #switch(next: Queues): DriverReply {
    const former = this.#queues;
    const reply = this.#down();
    this.#attach(next);
    for (const { index, address } of this.#queues) {
      const before = former.find(queue => queue.index === index);
      if (!before) continue;
      const from = (before.address + L.DRIVER_STATS) / 8;
      this.#window.longs.copyWithin((address + L.DRIVER_STATS) / 8, from, from + L.STATS_SIZE / 8);
    }
    this.#up();
    this.#gap.switched();
    return reply;
  }

  #up(): void {
    this.#queueCalls.reset(this.#queues);
    for (const lane of this.#lanes.all) lane.up();
    this.#setRunning(true);
  }

  #stopTransmit(): void {
    for (const lane of this.#lanes.all) lane.stopTransmit();
  }

  #down(): DriverReply {
    let reclaimed = 0;
    let seized = 0;
    for (const lane of this.#lanes.all) {
      const reply = lane.down();
      reclaimed += reply.reclaimed;
      seized += reply.seized;
    }
    this.#setRunning(false);
    return { reclaimed, seized };
  }

  #setRunning(running: boolean): void {
    this.#running = running;
    this.spin = running && this.#wantsSpin && this.#queues.length > 0;
  }
}

runLoop((start: LoopStart<DriverLoopData>) => new DriverLoop(start));
