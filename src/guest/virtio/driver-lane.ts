/**
 * One lane of the guest's network device and the virtqueues that use it.
 *
 * ```
 *   netdev.get ──► batch ──► transmit ring … kick?                      one ring: a stream of frames has one reader
 *   netdev.put ◄── batch ◄── receive ring …   then the buffers go out again … kick?      any number of rings, mostly one
 * ```
 * A transmit ring without free buffers stops reading the lane first and arms then, so that no wake-up falls in between.
 */
import * as L from '../../../datapath/layout.js';
import { POLLIN, type Poller } from '../../linux/poll.js';
import type { Lane } from '../../nic/lanes.js';
import type { Port } from '../../port/port.js';
import type { Batch } from '../../ring/batch.js';
import type { VirtioQueue } from './commands.js';
import type { QueueCalls } from './queue-calls.js';
import { offerUnsent, unsentFrames } from './unsent.js';

const RX_BUDGET = 64;
const FIRST_LOOK = 16;

/** What the lanes of a worker share. */
export interface VirtioLaneHost {
  readonly queueCalls: QueueCalls;
  readonly rxBatch: Batch;
  readonly txBatch: Batch;
}

export class VirtioLane implements Lane {
  #tx: VirtioQueue | null = null;
  #rx: readonly VirtioQueue[] = [];
  readonly #host: VirtioLaneHost;
  readonly #netdev: Port;
  #receiving = false;
  #transmitting = false;
  #readable = true;
  #blocked = false;
  #look = FIRST_LOOK;

  constructor(host: VirtioLaneHost, netdev: Port) {
    this.#host = host;
    this.#netdev = netdev;
  }

  /** Takes these rings in use, with what a device finds in them when it starts. Returns the frames that it gets again. */
  attach(rx: readonly VirtioQueue[], tx: VirtioQueue | null): number {
    const { queueCalls } = this.#host;
    const { calls, window } = queueCalls;
    this.#rx = rx;
    this.#tx = tx;
    for (const { address, buffers } of rx) {
      calls.vdrv_reset(address, buffers);
      calls.vdrv_rx_refill(address);
    }
    return tx === null ? 0 : offerUnsent(window, calls, tx);
  }

  /** The device runs: begins. */
  up(): void {
    const { queueCalls } = this.#host;
    this.#receiving = true;
    this.#transmitting = this.#tx !== null;
    this.askAgain();
    for (const queue of this.#rx) queueCalls.arm(queue, 0);
    if (this.#tx !== null) queueCalls.arm(this.#tx, 0);
    // What lies in the rings already was not kicked for.
    for (const queue of this.#all) queueCalls.kick(queue);
  }

  stopTransmit(): void {
    this.#transmitting = false;
  }

  /** Takes what is completed. Returns the frames that were not sent; unless they are kept, they and their buffers are given up. */
  down(keep: boolean): number {
    const { queueCalls } = this.#host;
    const { calls, window } = queueCalls;
    this.#transmitting = false;
    this.#receiving = false;
    // What the device had received before it stopped is still the guest's: at most what its buffers hold.
    for (const queue of this.#rx) {
      for (let left = queue.buffers; left > 0 && this.#deliver(queue) > 0; left--) {}
    }
    const tx = this.#tx;
    if (tx === null) return 0;
    queueCalls.checked(tx, calls.vdrv_tx_complete(tx.address, tx.buffers));
    const unsent = unsentFrames(window, tx).length;
    // After a fault nobody knows which of them the device has sent.
    if (!keep || queueCalls.field(tx, L.DRIVER_FAULT) !== L.FAULT_NONE) {
      calls.vdrv_reset(tx.address, tx.buffers);
    }
    return unsent;
  }

  /** At most 128 frames from the netdev and 64 packets from each receive ring. Returns how many moved. */
  turn(): number {
    let moved = 0;
    for (let i = 0; i < this.#rx.length && this.#receiving; i++) moved += this.#receive(this.#rx[i]!);
    if (this.#transmitting && this.#readable && !this.#blocked) moved += this.#transmit(this.#tx!);
    return moved;
  }

  /** What was known of netdev and transmit ring is out of date. */
  askAgain(): void {
    this.#readable = !this.#netdev.exhausted;
    this.#blocked = false;
  }

  prepareSleep(poller: Poller, entry: number): number {
    const { queueCalls } = this.#host;
    let waiting = false;
    for (let i = 0; i < this.#rx.length && this.#receiving; i++) {
      const queue = this.#rx[i]!;
      poller.set(entry++, queue.call, POLLIN);
      if (queueCalls.arm(queue, 1)) waiting = true;
    }
    if (this.#transmitting) {
      const queue = this.#tx!;
      poller.set(entry++, this.#blocked ? queue.call : -1, POLLIN);
      if (this.#blocked && queueCalls.arm(queue, this.#goodBatch(queue))) {
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
    if (this.#transmitting && queueCalls.takeInterrupt(this.#tx!, poller, entry++)) {
      this.#blocked = false;
      queueCalls.arm(this.#tx!, 0);
    }
    if (poller.ready(entry++) || this.#netdev.fd < 0) this.#readable = !this.#netdev.exhausted;
    return entry;
  }

  get #all(): readonly VirtioQueue[] {
    return this.#tx === null ? this.#rx : [...this.#rx, this.#tx];
  }

  /** Half of the chains that must be out, or one: an interrupt then makes room for many frames. A chain has no more buffers than a frame. */
  #goodBatch(queue: VirtioQueue): number {
    const posted = this.#host.queueCalls.field(queue, L.DRIVER_POSTED);
    return Math.max(1, Math.floor(posted / (2 * queue.frameBuffers)));
  }

  /** One round of a receive ring: packets to the netdev, buffers back to the device. Returns the packets. */
  #receive(queue: VirtioQueue): number {
    const { queueCalls } = this.#host;
    const taken = this.#deliver(queue);
    if (taken > 0 && queueCalls.calls.vdrv_rx_refill(queue.address) > 0) queueCalls.kick(queue);
    return taken;
  }

  /** Packets from the ring to the netdev. Returns how many came. */
  #deliver(queue: VirtioQueue): number {
    const { queueCalls, rxBatch: batch } = this.#host;
    const { calls } = queueCalls;
    const taken = queueCalls.checked(queue, calls.vdrv_rx_poll(queue.address, batch.address, RX_BUDGET));
    const { count } = batch;
    // What the netdev does not take is lost, as on any card whose host is too slow.
    for (let lost = count === 0 ? 0 : count - this.#netdev.put(batch); lost > 0; lost--) {
      calls.bump(queue.address + L.DRIVER_STATS, L.STAT_DROPPED);
    }
    calls.vdrv_rx_release(queue.address, batch.address);
    return taken;
  }

  /** Frames from the netdev to the ring. Returns how many. */
  #transmit(queue: VirtioQueue): number {
    const { queueCalls, txBatch: batch } = this.#host;
    const { calls } = queueCalls;
    queueCalls.checked(queue, calls.vdrv_tx_complete(queue.address, L.MAX_BATCH));
    const room = calls.vdrv_tx_room(queue.address, batch.address, this.#look);
    if (room === 0) {
      this.#blocked = true;
      return 0;
    }
    const filled = this.#netdev.get(batch);
    if (filled < room) this.#readable = false;
    this.#look = Math.min(L.MAX_BATCH, Math.max(FIRST_LOOK, 2 * filled));
    if (filled === 0) return 0;
    if (calls.vdrv_tx_publish(queue.address, batch.address, filled) > 0) queueCalls.kick(queue);
    return filled;
  }
}
