/**
 * One lane of a port and the queues that use it: what moves frames between them, and what is known of each.
 *
 * ```
 *   tx:  ring.pop ──► batch ──► port.put ──► ring.complete ──► interrupt?      any number of queues, mostly one
 *   rx:  ring.room ──► batch ──► port.get ──► ring.push ──► interrupt?         one at most: a stream of frames has one reader
 * ```
 * A receive queue without buffers ("starved") stops reading the port and waits for the guest's kick; a port that takes no more ("full")
 * stops its transmit queues until it can be written. Either concerns this lane alone.
 */
import * as L from '../../datapath/layout.js';
import { drainEventFd, signalEventFd } from '../linux/eventfd.js';
import { POLLIN, POLLOUT, Poller } from '../linux/poll.js';
import type { Window } from '../memory/window.js';
import { INBOUND, OUTBOUND } from '../port/pcapng/index.js';
import type { Port } from '../port/port.js';
import type { Batch } from '../ring/batch.js';
import type { DatapathExports } from '../ring/datapath.js';
import type { Ring } from '../ring/ring.js';
import type { FrameCapture } from './capture.js';
import type { Lacks } from './commands.js';
import { fillWith } from './inject.js';
import type { Lane } from './lanes.js';
import { cutTo, lacking, reachable } from './reach.js';

const FIRST_LOOK = 8; // receive buffers prepared before the port has shown how much it has
const DRAIN_WAITS = 20; // how often a stop waits for a port that takes no more,
const DRAIN_WAIT_MS = 10; // and how long each time

export interface LaneQueue {
  readonly address: number;
  readonly stats: number;
  readonly kick: number;
  irq: number;
  /** Transmit: frames go nowhere. */
  readonly discard: boolean;
  /** It has met an address that has to be made known first (VIRTQ_MISS): somebody was told, and starts it again. */
  waits: boolean;
}

/** What the lanes of a worker share. */
export interface LaneHost {
  readonly window: Window;
  readonly calls: DatapathExports;
  /** The format of the queues' rings. */
  ring: Ring;
  /** They are virtqueues, which may lack an address. */
  virtio: boolean;
  /** They carry metadata: of frames that come in, headers are read. */
  metadata: boolean;
  readonly txBatch: Batch;
  readonly rxBatch: Batch;
  readonly capture: FrameCapture | null;
  /** Not all of the guest's memory is in the window. */
  partial: boolean;
  /** Tells that the queue waits for buffers to be in the window; null: for what its structure says. */
  miss(queue: number, lacks: Lacks | null): void;
}

export class DeviceLane implements Lane {
  tx: readonly LaneQueue[] = [];
  rx: LaneQueue | null = null;
  readonly #host: LaneHost;
  readonly #port: Port;
  /** Frames are read and written by us, not by the kernel alone. */
  readonly #touches: boolean;
  #full = false;
  #readable = true;
  #starved = false;
  #look = FIRST_LOOK;
  #kicksOn = true;
  #turns = 0;

  constructor(host: LaneHost, port: Port, touches: boolean) {
    this.#host = host;
    this.#port = port;
    this.#touches = touches || host.capture !== null;
  }

  /** At most 128 descriptors of each queue. Returns how many, or frames. */
  turn(): number {
    let moved = 0;
    const queues = this.tx.length;
    // Another queue comes first each time: a port that is full again and again must not always be so for the last ones.
    if (++this.#turns >= queues) this.#turns = 0;
    for (let i = 0; i < queues && !this.#full; i++) {
      moved += this.#transmit(this.tx[(this.#turns + i) % queues]!);
    }
    if (this.rx !== null) moved += this.#receiveSome(this.rx);
    return moved;
  }

  /** What was known of port and receive queue is out of date. */
  askAgain(): void {
    this.#readable = !this.#port.exhausted;
    this.#full = false;
    this.#starved = false;
  }

  /** Other queues use the lane from now on. */
  begin(): void {
    this.askAgain();
    this.#kicksOn = true;
    this.#switchKicks(false);
  }

  prepareSleep(poller: Poller, entry: number): number {
    let waiting = this.#switchKicks(true);
    const wantsRead = this.rx !== null && !this.#starved && !this.#port.exhausted;
    const events = (wantsRead ? POLLIN : 0) | (this.#full ? POLLOUT : 0);
    poller.set(entry++, events === 0 ? -1 : this.#port.fd, events);
    // A port without a descriptor, such as a source, is never waited for.
    if (wantsRead && this.#port.fd < 0) waiting = true;
    for (let i = 0; i < this.tx.length; i++) poller.set(entry++, this.tx[i]!.kick, POLLIN);
    if (this.rx !== null) poller.set(entry++, this.rx.kick, POLLIN);
    return waiting ? -entry : entry;
  }

  afterSleep(poller: Poller, entry: number): number {
    if (poller.ready(entry++) || this.#port.fd < 0) {
      this.#readable = !this.#port.exhausted;
      this.#full = false;
    }
    for (let i = 0; i < this.tx.length; i++) this.#takeKick(this.tx[i]!, poller, entry++);
    if (this.rx !== null && this.#takeKick(this.rx, poller, entry++)) this.#starved = false;
    this.#switchKicks(false);
    return entry;
  }

  /** Transmits what the guest has published so far. Returns the descriptors that were left: the port took no more, or the queue waits. */
  drain(): number {
    const { ring } = this.#host;
    let left = 0;
    for (const queue of this.tx) {
      queue.waits = false; // whoever was told of it had no time to do anything about it, and is told again
      this.#lookForMiss(queue);
      let due = queue.waits ? 1 : ring.pending(queue.address); // at least one: what is behind it can't be seen
      for (let waits = 0; due > 0 && !queue.waits; due -= this.#transmit(queue)) {
        if (this.#full && ++waits > DRAIN_WAITS) break;
        if (this.#full) this.#waitForPort();
        if (ring.pending(queue.address) === 0) break; // a fault
      }
      left += Math.max(0, due); // less than none: the guest has published more meanwhile
    }
    return left;
  }

  /** A frame of our own. Returns 1 when the port took it. */
  send(address: number, length: number): number {
    const { window, txBatch: batch, capture } = this.#host;
    fillWith(window, batch, address, length);
    const taken = this.#port.put(batch);
    if (capture !== null && taken > 0) capture.record(batch, taken, OUTBOUND);
    return taken;
  }

  interrupt(queue: LaneQueue): void {
    if (queue.irq < 0) return;
    signalEventFd(queue.irq);
    this.#host.calls.bump(queue.stats, L.STAT_INTERRUPTS);
  }

  #waitForPort(): void {
    const poller = new Poller(1);
    poller.set(0, this.#port.fd, POLLOUT);
    poller.wait(DRAIN_WAIT_MS);
  }

  /** One batch from ring to port. Returns the descriptors that are done. */
  #transmit(queue: LaneQueue): number {
    if (queue.waits) return 0;
    const { ring, txBatch: batch, capture } = this.#host;
    const before = this.#consumed(queue);
    const frames = ring.pop(queue.address, batch.address, L.MAX_BATCH);
    const taken = frames === 0 || queue.discard ? frames : this.#put(queue, batch, frames);
    if (capture !== null && taken > 0) capture.record(batch, taken, OUTBOUND);
    this.#full = taken < frames && !queue.waits;
    if (ring.complete(queue.address, batch.address, taken)) this.interrupt(queue);
    this.#lookForMiss(queue);
    return (this.#consumed(queue) - before) >>> 0;
  }

  /** Up to a turn's worth of frames from port to ring: one batch, or several where a batch is cut short by a frame of several buffers. */
  #receiveSome(queue: LaneQueue): number {
    let frames = 0;
    while (frames < L.MAX_BATCH && this.#readable && !this.#starved) {
      const look = this.#look;
      const filled = this.#receive(queue);
      frames += filled;
      if (filled === 0 || this.#host.rxBatch.count >= look) break;
    }
    return frames;
  }

  /** One batch from port to ring. Returns the frames. */
  #receive(queue: LaneQueue): number {
    if (queue.waits) return 0;
    const { ring, rxBatch: batch, capture } = this.#host;
    const room = ring.room(queue.address, batch.address, this.#look);
    const filled = room === 0 ? 0 : this.#get(queue, batch, room);
    if (capture !== null && filled > 0) capture.record(batch, filled, INBOUND);
    if (room === 0) this.#starved = true;
    else if (filled < room) this.#readable = false;
    this.#look = Math.min(L.MAX_BATCH, Math.max(FIRST_LOOK, 2 * filled));
    if (ring.push(queue.address, batch.address, filled)) this.interrupt(queue);
    this.#lookForMiss(queue);
    return filled;
  }

  #put(queue: LaneQueue, batch: Batch, frames: number): number {
    if (!this.#host.partial || !this.#touches) return this.#port.put(batch);
    const ready = this.#ready(queue, batch, frames);
    if (ready === 0) return 0;
    const all = cutTo(this.#host.window, batch, ready);
    const taken = this.#port.put(batch);
    cutTo(this.#host.window, batch, all);
    return taken;
  }

  #get(queue: LaneQueue, batch: Batch, room: number): number {
    if (!this.#host.partial || !(this.#touches || this.#host.metadata)) return this.#port.get(batch);
    const ready = this.#ready(queue, batch, room);
    if (ready === 0) return 0;
    const all = cutTo(this.#host.window, batch, ready);
    const filled = this.#port.get(batch);
    cutTo(this.#host.window, batch, all);
    return filled;
  }

  /** How many frames are in the window; what the others lack is asked for. */
  #ready(queue: LaneQueue, batch: Batch, frames: number): number {
    const { window } = this.#host;
    const ready = reachable(window, batch, frames);
    if (ready < frames) this.#wait(queue, lacking(window, batch, ready, frames));
    return ready;
  }

  #lookForMiss(queue: LaneQueue): void {
    const { virtio, window } = this.#host;
    if (!virtio || queue.waits) return;
    if (window.words[(queue.address + L.VIRTQ_MISS_LENGTH) >>> 2] !== 0) this.#wait(queue, null);
  }

  #wait(queue: LaneQueue, lacks: Lacks | null): void {
    queue.waits = true;
    this.#host.miss(queue.address, lacks);
  }

  #takeKick(queue: LaneQueue, poller: Poller, entry: number): boolean {
    if (!poller.ready(entry)) return false;
    drainEventFd(queue.kick);
    this.#host.calls.bump(queue.stats, L.STAT_KICKS);
    return true;
  }

  /** Switches kicks: of transmit queues always, of the receive queue only while it is starved. True: something is waiting. */
  #switchKicks(on: boolean): boolean {
    if (!on && !this.#kicksOn) return false;
    const { ring } = this.#host;
    let waiting = false;
    for (let i = 0; i < this.tx.length; i++) {
      if (ring.kicks(this.tx[i]!.address, on) && !this.#full) waiting = true;
    }
    if (this.rx !== null) {
      const wanted = on && this.#starved;
      if (ring.kicks(this.rx.address, wanted) && wanted) {
        this.#starved = false;
        this.#readable = !this.#port.exhausted;
        waiting = true;
      }
    }
    this.#kicksOn = on;
    return waiting;
  }

  #consumed(queue: LaneQueue): number {
    return this.#host.window.words[(queue.address + L.QUEUE_CONS) >>> 2]!;
  }
}
