/**
 * A worker of a NIC: runs its share of the queue pairs, each joined to a lane of the port.
 *
 * ```
 *   slot   0          1          2          3            a worker's pairs, in its own count
 *          tx rx      tx rx      tx rx      tx –
 *           │ │        │ │        └────┬─────┘
 *   lane    0          1               2                 a pair without a lane of its own only transmits, to the last one
 * ```
 * At most 128 descriptors a queue and turn, whatever is waiting, so no queue starves another. In poll mode kicks are off while there is
 * work; before sleeping they are switched on and the rings looked at once more.
 */
import * as L from '../../datapath/layout.js';
import type { Poller } from '../linux/poll.js';
import type { Window } from '../memory/window.js';
import type { PortDescriptor } from '../port/port.js';
import { attachPort } from '../port/registry.js';
import { Batch } from '../ring/batch.js';
import { type Datapath, loadDatapath } from '../ring/datapath.js';
import { deviceType } from '../ring/registry.js';
import type { Ring } from '../ring/ring.js';
import { virtqRing } from '../ring/virtio/virtq.js';
import { FrameCapture } from './capture.js';
import { type SlotStart, VIRTIO, type WorkerCommand, type WorkerData, type WorkerEvent } from './commands.js';
import { DeviceLane, type LaneHost, type LaneQueue } from './device-lane.js';
import { Lanes } from './lanes.js';
import { touches } from './reach.js';
import { type Loop, type LoopStart, runLoop } from './thread.js';

const MAX_QUEUES = 64;

/** What works on rings of that type. */
function ringOf(device: string, datapath: Datapath): Ring {
  return device === VIRTIO ? virtqRing(datapath) : deviceType(device)!.ring(datapath);
}

function hasMetadata(device: string): boolean {
  return device !== VIRTIO && deviceType(device)!.metadata === true;
}

class DeviceLoop implements Loop<WorkerCommand, number> {
  readonly pollEntries = 2 * MAX_QUEUES;
  readonly pauseMicroseconds: number;
  /** Only while there are queues: a worker that has none takes no core. And as long as there is one without a doorbell. */
  spin = false;
  readonly #window: Window;
  readonly #datapath: Datapath;
  readonly #host: LaneHost;
  #device: string;
  #lanes = new Lanes<DeviceLane>([]);
  #wantsSpin: boolean;

  constructor({ window, data, emit }: LoopStart<WorkerData>) {
    const tell = (event: WorkerEvent) => emit(event);
    const datapath = loadDatapath(window);
    const { calls } = datapath;
    this.#window = window;
    this.#datapath = datapath;
    this.#device = data.device;
    this.#host = {
      window,
      calls,
      ring: ringOf(data.device, datapath),
      virtio: data.device === VIRTIO,
      metadata: hasMetadata(data.device),
      txBatch: new Batch(window, data.txBatch),
      rxBatch: new Batch(window, data.rxBatch),
      partial: false,
      miss: (miss, lacks) => tell({ miss, lacks }),
      capture:
        data.capture < 0 ? null : new FrameCapture(data.capture, window, calls, note => tell({ note })),
    };
    this.pauseMicroseconds = data.sleepMicroseconds;
    this.#wantsSpin = data.spin;
    this.#attach(data.lanes);
  }

  turn(): number {
    return this.#lanes.turn(this.spin);
  }

  relax(nanoseconds: number): void {
    this.#host.calls.relax(nanoseconds >> 3);
  }

  prepareSleep(poller: Poller, first: number): boolean {
    return this.#lanes.prepareSleep(poller, first);
  }

  afterSleep(poller: Poller, first: number): void {
    this.#lanes.afterSleep(poller, first);
  }

  handle(command: WorkerCommand): number {
    switch (command.op) {
      case 'start':
        this.#setDevice(command.device);
        this.#host.partial = command.partial;
        this.#start(command.direction, command.queues);
        break;
      case 'stop':
        return this.#stop(command.direction, command.drain);
      case 'port':
        this.#attach(command.lanes);
        break;
      case 'spin':
        this.#wantsSpin = command.spin;
        this.#setSpin();
        break;
      case 'send':
        return this.#lanes.all[0]?.send(command.address, command.length) ?? 0;
      case 'irq':
        this.#setIrq(command.queue, command.irq);
        break;
      case 'remap':
        this.#host.partial = command.partial;
        for (const { queue, context } of command.queues) {
          this.#set(queue, L.QUEUE_REGIONS, command.regions);
          this.#set(queue, L.QUEUE_HINT, 0);
          this.#set(queue, L.QUEUE_CONTEXT, context);
          this.#set(queue, L.QUEUE_RING, context + L.CTX_OPAQUE);
        }
        break;
    }
    return 0;
  }

  #attach(lanes: readonly PortDescriptor[]): void {
    const worker = { window: this.#window, calls: this.#host.calls };
    this.#lanes = new Lanes(
      lanes.map(lane => new DeviceLane(this.#host, attachPort(lane, worker), touches(lane.kind))),
    );
    this.#setSpin();
  }

  /** The rings have this format from now on; none is in use. */
  #setDevice(device: string): void {
    if (device === this.#device) return;
    this.#host.ring = ringOf(device, this.#datapath);
    this.#host.virtio = device === VIRTIO;
    this.#host.metadata = hasMetadata(device);
    this.#device = device;
  }

  #start(direction: 'rx' | 'tx', starts: readonly SlotStart[]): void {
    const last = this.#lanes.all.length - 1;
    for (const [i, lane] of this.#lanes.all.entries()) {
      const own = starts
        .filter(({ slot }) => (direction === 'tx' ? Math.min(slot, last) : slot) === i)
        .map(({ queue, kick, irq, discard }) => ({
          ...{ address: queue, stats: queue + L.QUEUE_STATS, kick, irq, discard },
          waits: false,
        }));
      if (direction === 'tx') lane.tx = own;
      else lane.rx = own[0] ?? null;
      lane.begin();
    }
    this.#setSpin();
  }

  /** Returns the descriptors that were left because the port took no more. */
  #stop(direction: 'rx' | 'tx', drain: boolean): number {
    let left = 0;
    for (const lane of this.#lanes.all) {
      if (direction === 'rx') lane.rx = null;
      else {
        if (drain) left += lane.drain();
        lane.tx = [];
      }
    }
    this.#setSpin();
    return left;
  }

  #setSpin(): void {
    const queues = this.#lanes.all.flatMap(({ rx, tx }) => (rx === null ? tx : [...tx, rx]));
    this.spin = queues.length > 0 && (this.#wantsSpin || queues.some(({ kick }) => kick < 0));
  }

  #setIrq(address: number, irq: number): void {
    for (const lane of this.#lanes.all) {
      const queues: readonly (LaneQueue | null)[] = [...lane.tx, lane.rx];
      for (const queue of queues) {
        if (queue?.address !== address) continue;
        queue.irq = irq;
        lane.interrupt(queue); // for one that was due while there was no eventfd, or that went to the former one
      }
    }
  }

  #set(queue: number, field: number, value: number): void {
    this.#window.words[(queue + field) >>> 2] = value;
  }
}

runLoop((start: LoopStart<WorkerData>) => new DeviceLoop(start));
