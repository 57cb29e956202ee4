/**
 * A worker of a virtio-net guest driver: runs its share of the queue pairs, each joined to a lane of the guest's network device.
 *
 * ```
 *   slot     0         1         2                 a worker's pairs, in its own count
 *          tx rx     tx rx        rx
 *           │ │       │ └────┬────┘
 *   lane     0          1                          what comes in on a pair without a lane of its own goes to the last one
 * ```
 * A turn takes at most 128 frames from each lane and 64 packets from each receive ring. Before it sleeps it arms interrupts and looks once more.
 */
import type { Poller } from '../../linux/poll.js';
import { Lanes } from '../../nic/lanes.js';
import { type Loop, type LoopStart, runLoop } from '../../nic/thread.js';
import { attachPort } from '../../port/registry.js';
import { Batch } from '../../ring/batch.js';
import { type Datapath, loadDatapath } from '../../ring/datapath.js';
import type { VirtioCommand, VirtioLoopData, VirtioQueue, VirtioReply } from './commands.js';
import { VirtioLane } from './driver-lane.js';
import { QueueCalls } from './queue-calls.js';

const MAX_QUEUES = 64;

class VirtioLoop implements Loop<VirtioCommand, VirtioReply> {
  readonly pollEntries: number;
  readonly pauseMicroseconds = 0;
  /** Only while it has rings that run: otherwise it takes no core. */
  spin = false;
  readonly #wantsSpin: boolean;
  readonly #datapath: Datapath;
  readonly #queueCalls: QueueCalls;
  readonly #lanes: Lanes<VirtioLane>;
  #queues = 0;

  constructor({ window, data, emit }: LoopStart<VirtioLoopData>) {
    const datapath = loadDatapath(window);
    const { calls } = datapath;
    this.#datapath = datapath;
    this.#queueCalls = new QueueCalls(window, calls, emit);
    const host = {
      queueCalls: this.#queueCalls,
      rxBatch: new Batch(window, data.rxBatch),
      txBatch: new Batch(window, data.txBatch),
    };
    this.#lanes = new Lanes(
      data.lanes.map(lane => new VirtioLane(host, attachPort(lane, { window, calls }))),
    );
    this.pollEntries = data.lanes.length + MAX_QUEUES;
    this.#wantsSpin = data.spin;
  }

  turn(): number {
    return this.#lanes.turn(this.spin);
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

  handle(command: VirtioCommand): VirtioReply {
    switch (command.op) {
      case 'attach':
        return { unsent: this.#attach(command.rx, command.tx) };
      case 'up':
        for (const lane of this.#lanes.all) lane.up();
        this.spin = this.#wantsSpin && this.#queues > 0;
        return { unsent: 0 };
      case 'stopTransmit':
        for (const lane of this.#lanes.all) lane.stopTransmit();
        return { unsent: 0 };
      case 'down':
        this.spin = false;
        return { unsent: this.#lanes.all.reduce((n, lane) => n + lane.down(command.keep), 0) };
    }
  }

  #attach(rx: readonly VirtioQueue[], tx: readonly VirtioQueue[]): number {
    const last = this.#lanes.all.length - 1;
    this.#queueCalls.forget();
    this.#queues = rx.length + tx.length;
    return this.#lanes.all.reduce((n, lane, i) => {
      const received = rx.filter((_, slot) => Math.min(slot, last) === i);
      return n + lane.attach(received, tx[i] ?? null);
    }, 0);
  }
}

runLoop((start: LoopStart<VirtioLoopData>) => new VirtioLoop(start));
