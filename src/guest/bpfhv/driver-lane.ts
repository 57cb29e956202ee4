/**
 * One lane of the guest's network device and the queues that use it.
 *
 * ```
 *   netdev.get ──► batch ──► txp … kick?                                        one queue: a stream of frames has one reader
 *   netdev.put ◄── batch ◄── rxc …   then the buffers go out again by rxp … kick?      any number of queues, mostly one
 * ```
 * A transmit queue without free buffers stops reading the lane first and arms then, so that no wake-up falls in between.
 */
import * as L from '../../../datapath/layout.js';
import { POLLIN, type Poller } from '../../linux/poll.js';
import type { Lane } from '../../nic/lanes.js';
import type { Port } from '../../port/port.js';
import type { Batch } from '../../ring/batch.js';
import type { DriverQueue, DriverReply } from './commands.js';
import type { Gap } from './gap.js';
import type { QueueCalls } from './queue-calls.js';

const RX_BUDGET = 64;
const FIRST_LOOK = 16;

/** What the lanes of a worker share. */
export interface DriverLaneHost {
  readonly queueCalls: QueueCalls;
  readonly gap: Gap;
  readonly rxBatch: Batch;
  readonly txBatch: Batch;
}

export class DriverLane implements Lane {
  #tx: DriverQueue | null = null;
  #rx: readonly DriverQueue[] = [];
  readonly #host: DriverLaneHost;
  readonly #netdev: Port;
  #receiving = false;
  #transmitting = false;
  #readable = true;
  #blocked = false;
  #look = FIRST_LOOK;

  constructor(host: DriverLaneHost, netdev: Port) {
    this.#host = host;
    this.#netdev = netdev;
  }

  /** Takes these queues in use; nothing moves yet. */
  attach(rx: readonly DriverQueue[], tx: DriverQueue | null): void {
    this.#rx = rx;
    this.#tx = tx;
  }

  /** Lends out receive buffers, and begins. */
  up(): void {
    const { queueCalls } = this.#host;
    this.#receiving = true;
    this.#transmitting = this.#tx !== null;
    this.askAgain();
    for (const queue of this.#rx) {
      queueCalls.guard(queue, () => this.#refill(queue));
      queueCalls.arm(queue, 0);
    }
  }

  stopTransmit(): void {
    this.#transmitting = false;
  }

  /** Takes what is completed, reclaims the rest. */
  down(): DriverReply {
    const { queueCalls } = this.#host;
    let reclaimed = 0;
    let seized = 0;
    this.#transmitting = false;
    this.#receiving = false;
    // What the device had received before it stopped is still the guest's: at most what its buffers hold.
    for (const queue of this.#rx) {
      queueCalls.guard(queue, () => {
        for (let left = queue.buffers; left > 0 && this.#deliver(queue) > 0; left--) {}
      });
    }
    for (const queue of this.#tx === null ? this.#rx : [this.#tx, ...this.#rx]) {
      queueCalls.guard(queue, () => {
        reclaimed += queueCalls.checked(queue, queueCalls.calls.driver_reclaim(queue.address));
      });
      seized += queueCalls.calls.driver_seize(queue.address, queue.buffers);
    }
    return { reclaimed, seized };
  }

  /** At most 128 frames from the netdev and 64 packets from each receive queue. Returns how many moved. */
  turn(): number {
    let moved = 0;
    for (let i = 0; i < this.#rx.length && this.#receiving; i++) moved += this.#receive(this.#rx[i]!);
    if (this.#transmitting && this.#readable && !this.#blocked) moved += this.#transmit(this.#tx!);
    return moved;
  }

  /** What was known of netdev and transmit queue is out of date. */
  askAgain(): void {
    this.#readable = !this.#netdev.exhausted;
    this.#blocked = false;
  }

  prepareSleep(poller: Poller, entry: number): number {
    const { queueCalls } = this.#host;
    let waiting = false;
    for (let i = 0; i < this.#rx.length && this.#receiving; i++) {
      const queue = this.#rx[i]!;
      poller.set(entry++, queue.interrupt, POLLIN);
      if (queueCalls.arm(queue, 1)) waiting = true;
    }
    if (this.#transmitting) {
      const queue = this.#tx!;
      poller.set(entry++, this.#blocked ? queue.interrupt : -1, POLLIN);
      // Half of what is out: an interrupt then makes room for a good batch.
      if (
        this.#blocked &&
        queueCalls.arm(queue, Math.max(1, queueCalls.word(queue, L.DRIVER_POSTED) >>> 1))
      ) {
        this.#blocked = false;
        waiting = true;
      }
    }
    const wantsRead = this.#transmitting && !this.#blocked && !this.#netdev.exhausted;
    poller.set(entry++, wantsRead ? this.#netdev.fd : -1, POLLIN);
    return waiting || (wantsRead && this.#netdev.fd < 0) ? -entry : entry;
  }

  afterSleep(poller: Poller, entry: number): number {
    const { queueCalls } = this.#host;
    for (let i = 0; i < this.#rx.length && this.#receiving; i++) {
      const queue = this.#rx[i]!;
      queueCalls.takeInterrupt(queue, poller, entry++);
      queueCalls.arm(queue, 0);
    }
    if (this.#transmitting && queueCalls.takeInterrupt(this.#tx!, poller, entry++)) this.#blocked = false;
    if (poller.ready(entry++) || this.#netdev.fd < 0) this.#readable = !this.#netdev.exhausted;
    return entry;
  }

  /** One round of a receive queue: packets to the netdev, buffers back to the device. Returns the packets. */
  #receive(queue: DriverQueue): number {
    const taken = this.#deliver(queue);
    if (taken > 0) this.#refill(queue);
    return taken;
  }

  /** Packets from the queue to the netdev. Returns the completions taken. */
  #deliver(queue: DriverQueue): number {
    const { queueCalls, rxBatch: batch, gap } = this.#host;
    const { calls } = queueCalls;
    queueCalls.active = queue;
    const taken = queueCalls.checked(queue, calls.driver_rx_poll(queue.address, batch.address, RX_BUDGET));
    const { count } = batch;
    if (count > 0) gap.packets('rx');
    // What the netdev does not take is lost, as on any card whose host is too slow.
    for (let lost = count === 0 ? 0 : count - this.#netdev.put(batch); lost > 0; lost--) {
      calls.bump(queue.address + L.DRIVER_STATS, L.STAT_DROPPED);
    }
    calls.driver_rx_release(queue.address, batch.address);
    return taken;
  }

  #refill(queue: DriverQueue): void {
    const { queueCalls } = this.#host;
    queueCalls.active = queue;
    if (queueCalls.checked(queue, queueCalls.calls.driver_rx_refill(queue.address)) > 0)
      queueCalls.kick(queue);
  }

  /** Frames from the netdev to the queue. Returns how many. */
  #transmit(queue: DriverQueue): number {
    const { queueCalls, txBatch: batch, gap } = this.#host;
    const { calls } = queueCalls;
    queueCalls.active = queue;
    queueCalls.checked(queue, calls.driver_tx_complete(queue.address, L.MAX_BATCH));
    const room = calls.driver_tx_room(queue.address, batch.address, this.#look);
    if (room === 0) {
      this.#blocked = true;
      return 0;
    }
    const filled = this.#netdev.get(batch);
    if (filled < room) this.#readable = false;
    this.#look = Math.min(L.MAX_BATCH, Math.max(FIRST_LOOK, 2 * filled));
    if (filled === 0) return 0;
    if (queueCalls.checked(queue, calls.driver_tx_publish(queue.address, batch.address, filled)) > 0) {
      queueCalls.kick(queue);
    }
    gap.packets('tx');
    return filled;
  }
}
