/**
 * The worker of a NIC: moves frames between rings and a port.
 *
 * ```
 *   tx:  ring.pop ──► batch ──► port.put ──► ring.complete ──► interrupt?
 *   rx:  ring.room ──► batch ──► port.get ──► ring.push ──► interrupt?
 * ```
 * At most 128 descriptors a queue and turn, whatever is waiting, so no queue starves another. In poll mode kicks are off while there is
 * work; before sleeping they are switched on and the rings looked at once more.
 *
 * A receive queue without buffers ("starved") stops reading the port and waits for the guest's kick; a port that takes no more ("full")
 * stops its transmit queues until it can be written.
 */
import * as L from '../../datapath/layout.js';
import { drainEventFd, signalEventFd } from '../linux/eventfd.js';
import { POLLIN, POLLOUT, Poller } from '../linux/poll.js';
import type { Window } from '../memory/window.js';
import { INBOUND, OUTBOUND, PcapWriter } from '../port/pcapng/index.js';
import type { Port } from '../port/port.js';
import { attachPort } from '../port/registry.js';
import { Batch } from '../ring/batch.js';
import { type Datapath, type DatapathExports, loadDatapath } from '../ring/datapath.js';
import { deviceType } from '../ring/registry.js';
import type { Ring } from '../ring/ring.js';
import type { QueueStart, WorkerCommand, WorkerData } from './commands.js';
import { type Loop, type LoopStart, runLoop } from './thread.js';

const FIRST_LOOK = 8; // receive buffers prepared before the port has shown how much it has
const MAX_QUEUES = 64;
const DRAIN_WAITS = 20; // how often a stop waits for a port that takes no more,
const DRAIN_WAIT_MS = 10; // and how long each time

interface Queue {
  readonly address: number;
  readonly stats: number;
  readonly kick: number;
  irq: number;
}

class DeviceLoop implements Loop<WorkerCommand, number> {
  readonly pollEntries = 1 + MAX_QUEUES;
  readonly pauseMicroseconds: number;
  spin: boolean;
  readonly #window: Window;
  readonly #datapath: Datapath;
  readonly #calls: DatapathExports;
  #device: string;
  #ring: Ring;
  #port: Port;
  readonly #txBatch: Batch;
  readonly #rxBatch: Batch;
  readonly #capture: PcapWriter | null;
  readonly #emit: (message: string) => void;
  #captureLacks = false;
  #tx: readonly Queue[] = [];
  #rx: readonly Queue[] = [];
  #portFull = false;
  #portReadable = true;
  #starved = false;
  #look = FIRST_LOOK;
  #kicksOn = true;
  #turns = 0;

  constructor({ window, data, emit }: LoopStart<WorkerData>) {
    const datapath = loadDatapath(window);
    this.#window = window;
    this.#datapath = datapath;
    this.#calls = datapath.calls;
    this.#device = data.device;
    this.#ring = deviceType(data.device)!.ring(datapath);
    this.#port = attachPort(data.port, { window, calls: datapath.calls });
    this.#txBatch = new Batch(window, data.txBatch);
    this.#rxBatch = new Batch(window, data.rxBatch);
    this.#capture = data.capture < 0 ? null : new PcapWriter(data.capture, window);
    this.#emit = emit;
    this.pauseMicroseconds = data.sleepMicroseconds;
    this.spin = data.spin;
  }

  turn(): number {
    let moved = 0;
    const queues = this.#tx.length;
    // Another queue comes first each time: a port that is full again and again must not always be so for the last ones.
    if (++this.#turns >= queues) this.#turns = 0;
    for (let i = 0; i < queues && !this.#portFull; i++) {
      moved += this.#transmit(this.#tx[(this.#turns + i) % queues]!);
    }
    for (let i = 0; i < this.#rx.length; i++) {
      moved += this.#receiveSome(this.#rx[i]!);
    }
    // One direction that is always busy must not keep the other from being looked at: while we are awake, asking costs one
    // system call that may find nothing.
    if (moved > 0 || this.spin) this.#askAgain();
    return moved;
  }

  relax(nanoseconds: number): void {
    this.#calls.relax(nanoseconds >> 3);
  }

  prepareSleep(poller: Poller, first: number): boolean {
    let waiting = this.#switchKicks(true);
    let entry = first + 1;
    for (let i = 0; i < this.#tx.length; i++) poller.set(entry++, this.#tx[i]!.kick, POLLIN);
    for (let i = 0; i < this.#rx.length; i++) poller.set(entry++, this.#rx[i]!.kick, POLLIN);
    poller.count = entry;

    const wantsRead = this.#rx.length > 0 && !this.#starved && !this.#port.exhausted;
    const events = (wantsRead ? POLLIN : 0) | (this.#portFull ? POLLOUT : 0);
    poller.set(first, events === 0 ? -1 : this.#port.fd, events);
    // A port without a descriptor, such as a source, is never waited for.
    if (wantsRead && this.#port.fd < 0) waiting = true;
    return !waiting;
  }

  afterSleep(poller: Poller, first: number): void {
    const port = poller.revents(first);
    if (port !== 0 || this.#port.fd < 0) {
      this.#portReadable = !this.#port.exhausted;
      this.#portFull = false;
    }
    let entry = first + 1;
    for (let i = 0; i < this.#tx.length; i++) this.#takeKick(this.#tx[i]!, poller, entry++);
    for (let i = 0; i < this.#rx.length; i++) {
      if (this.#takeKick(this.#rx[i]!, poller, entry++)) this.#starved = false;
    }
    this.#switchKicks(false);
  }

  handle(command: WorkerCommand): number {
    switch (command.op) {
      case 'start':
        this.#setDevice(command.device);
        this.#start(command.direction, command.queues);
        break;
      case 'port':
        this.#port = attachPort(command.port, { window: this.#window, calls: this.#calls });
        this.#askAgain();
        break;
      case 'spin':
        this.spin = command.spin;
        break;
      case 'stop':
        return this.#stop(command.direction, command.drain);
      case 'irq':
        for (const queue of [...this.#tx, ...this.#rx]) {
          if (queue.address !== command.queue) continue;
          queue.irq = command.irq;
          this.#interrupt(queue); // for one that was due while there was no eventfd, or that went to the former one
        }
        break;
      case 'remap':
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

  /** The rings have this format from now on; none is in use. */
  #setDevice(device: string): void {
    if (device === this.#device) return;
    this.#ring = deviceType(device)!.ring(this.#datapath);
    this.#device = device;
  }

  #start(direction: 'rx' | 'tx', starts: readonly QueueStart[]): void {
    const queues = starts.map(({ queue, kick, irq }) => ({
      address: queue,
      stats: queue + L.QUEUE_STATS,
      kick,
      irq,
    }));
    if (direction === 'tx') this.#tx = queues;
    // One port has one stream of frames: they go to the first receive queue.
    else this.#rx = queues.slice(0, 1);
    this.#askAgain();
    this.#kicksOn = true;
    this.#switchKicks(false);
  }

  /** What was known of port and receive queue is out of date. */
  #askAgain(): void {
    this.#portReadable = !this.#port.exhausted;
    this.#portFull = false;
    this.#starved = false;
  }

  /** Returns the descriptors that were left because the port took no more. */
  #stop(direction: 'rx' | 'tx', drain: boolean): number {
    if (direction === 'rx') {
      this.#rx = [];
      return 0;
    }
    let left = 0;
    for (const queue of drain ? this.#tx : []) {
      let due = this.#ring.pending(queue.address);
      for (let waits = 0; due > 0; due -= this.#transmit(queue)) {
        if (this.#portFull && ++waits > DRAIN_WAITS) break;
        if (this.#portFull) this.#waitForPort();
        if (this.#ring.pending(queue.address) === 0) break; // a fault
      }
      left += Math.max(0, due); // less than none: the guest has published more meanwhile
    }
    this.#tx = [];
    return left;
  }

  #waitForPort(): void {
    const poller = new Poller(1);
    poller.set(0, this.#port.fd, POLLOUT);
    poller.wait(DRAIN_WAIT_MS);
  }

  /** One batch from ring to port. Returns the descriptors that are done. */
  #transmit(queue: Queue): number {
    const batch = this.#txBatch;
    const before = this.#word(queue.address, L.QUEUE_CONS);
    const frames = this.#ring.pop(queue.address, batch.address, L.MAX_BATCH);
    const taken = frames === 0 ? 0 : this.#port.put(batch);
    if (taken > 0) this.#record(batch, taken, OUTBOUND);
    this.#portFull = taken < frames;
    if (this.#ring.complete(queue.address, batch.address, taken)) this.#interrupt(queue);
    return (this.#word(queue.address, L.QUEUE_CONS) - before) >>> 0;
  }

  /** Up to a turn's worth of frames from port to ring: one batch, or several where a batch is cut short by a frame of several buffers. */
  #receiveSome(queue: Queue): number {
    let frames = 0;
    while (frames < L.MAX_BATCH && this.#portReadable && !this.#starved) {
      const look = this.#look;
      const filled = this.#receive(queue);
      frames += filled;
      if (filled === 0 || this.#rxBatch.count >= look) break;
    }
    return frames;
  }

  /** One batch from port to ring. Returns the frames. */
  #receive(queue: Queue): number {
    const batch = this.#rxBatch;
    const room = this.#ring.room(queue.address, batch.address, this.#look);
    const filled = room === 0 ? 0 : this.#port.get(batch);
    if (filled > 0) this.#record(batch, filled, INBOUND);
    if (room === 0) this.#starved = true;
    else if (filled < room) this.#portReadable = false;
    this.#look = Math.min(L.MAX_BATCH, Math.max(FIRST_LOOK, 2 * filled));
    if (this.#ring.push(queue.address, batch.address, filled)) this.#interrupt(queue);
    return filled;
  }

  /** Writes frames to the capture, with their checksums as they will be on the wire. */
  #record(batch: Batch, n: number, direction: number): void {
    if (this.#capture === null) return;
    this.#calls.checksums_finish(batch.address, n);
    const written = this.#capture.capture(batch, n, direction);
    if (written < n && !this.#captureLacks) {
      this.#captureLacks = true; // said once, not for every batch
      this.#emit('the capture lacks frames: its disk is full or fails');
    }
    this.#calls.checksums_restore(batch.address, n);
  }

  #interrupt(queue: Queue): void {
    if (queue.irq < 0) return;
    signalEventFd(queue.irq);
    this.#calls.bump(queue.stats, L.STAT_INTERRUPTS);
  }

  #takeKick(queue: Queue, poller: Poller, entry: number): boolean {
    if (!poller.ready(entry)) return false;
    drainEventFd(queue.kick);
    this.#calls.bump(queue.stats, L.STAT_KICKS);
    return true;
  }

  /** Switches kicks: transmit queues always, receive queues only while they are starved. True: something is waiting. */
  #switchKicks(on: boolean): boolean {
    if (!on && !this.#kicksOn) return false;
    let waiting = false;
    for (let i = 0; i < this.#tx.length; i++) {
      if (this.#ring.kicks(this.#tx[i]!.address, on) && !this.#portFull) waiting = true;
    }
    for (let i = 0; i < this.#rx.length; i++) {
      const wanted = on && this.#starved;
      if (this.#ring.kicks(this.#rx[i]!.address, wanted) && wanted) {
        this.#starved = false;
        this.#portReadable = !this.#port.exhausted;
        waiting = true;
      }
    }
    this.#kicksOn = on;
    return waiting;
  }

  #word(queue: number, field: number): number {
    return this.#window.words[(queue + field) >>> 2]!;
  }

  #set(queue: number, field: number, value: number): void {
    this.#window.words[(queue + field) >>> 2] = value;
  }
}

runLoop((start: LoopStart<WorkerData>) => new DeviceLoop(start));
