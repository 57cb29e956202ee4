/**
 * The worker of a bpfhv guest driver: moves frames between the guest's network device and the queues, by way of the device's programs.
 *
 * ```
 *   netdev.get ──► batch ──► txp … kick?                      (tx buffers come back by txc)
 *   netdev.put ◄── batch ◄── rxc …   then the buffers go out again by rxp … kick?
 * ```
 * A turn takes at most 128 frames from the netdev and 64 packets from a receive queue. Before it sleeps it arms interrupts and looks once
 * more (rxi and txi answer whether something is there already). A transmit queue without free buffers stops reading the netdev first
 * and arms then, so that no wake-up falls in between.
 *
 * A program that traps, or a device that breaks the rules, stops its queue; the main thread hears of it.
 */
import * as L from '../../../datapath/layout.js';
import { instantiate } from '../../ebpf/jit/index.js';
import { drainEventFd, signalEventFd } from '../../linux/eventfd.js';
import { POLLIN, type Poller } from '../../linux/poll.js';
import type { Window } from '../../memory/window.js';
import { type Loop, type LoopStart, runLoop } from '../../nic/thread.js';
import type { Port } from '../../port/port.js';
import { attachPort } from '../../port/registry.js';
import { Batch } from '../../ring/batch.js';
import { type Datapath, type DatapathExports, loadDatapath } from '../../ring/datapath.js';
import type {
  CompiledPrograms,
  DriverCommand,
  DriverEvent,
  DriverLoopData,
  DriverQueue,
  DriverReply,
} from './commands.js';
import { Gap } from './gap.js';
import { helperImplementations } from './helpers.js';
import { PROGRAMS } from './registers.js';

const RX_BUDGET = 64;
/** Numbers that the programs of one contract may have printed: a program must not fill the main thread's memory with them. */
const MAX_PRINTS = 64;
const FIRST_LOOK = 16;
const MAX_QUEUES = 64;

const FAULTS: Readonly<Record<number, string>> = {
  [L.FAULT_COMPLETION]: 'the device completed a buffer that it does not have, or more than it holds',
  [L.FAULT_PROGRAM]: 'a program failed or broke the calling convention',
};

/** A program of a contract, and where it goes in the function table. */
interface PreparedProgram extends ReturnType<typeof instantiate> {
  readonly number: number;
}

class DriverLoop implements Loop<DriverCommand, DriverReply> {
  readonly pollEntries = 1 + MAX_QUEUES;
  readonly pauseMicroseconds = 0;
  readonly spin: boolean;
  readonly #window: Window;
  readonly #datapath: Datapath;
  readonly #calls: DatapathExports;
  readonly #netdev: Port;
  readonly #rxBatch: Batch;
  readonly #txBatch: Batch;
  readonly #emit: (event: DriverEvent) => void;
  #rx: readonly DriverQueue[] = [];
  #tx: readonly DriverQueue[] = [];
  #receiving = false;
  #transmitting = false;
  #readable = true;
  #blocked = false;
  #look = FIRST_LOOK;
  /** The queue whose programs run, for the one that traps. */
  #active: DriverQueue | null = null;
  /** Queues whose fault the main thread has heard of. */
  readonly #told = new Set<number>();
  #explain: readonly ((error: unknown) => Error | null)[] = [];
  #prepared: readonly PreparedProgram[] = [];
  readonly #gap: Gap;

  constructor({ window, data, emit }: LoopStart<DriverLoopData>) {
    this.#window = window;
    this.#datapath = loadDatapath(window);
    this.#calls = this.#datapath.calls;
    this.#netdev = attachPort(data.netdev, { window, calls: this.#calls });
    this.#rxBatch = new Batch(window, data.rxBatch);
    this.#txBatch = new Batch(window, data.txBatch);
    this.#emit = emit;
    this.#gap = new Gap(blackout => emit({ blackout }));
    this.spin = data.spin;
  }

  turn(): number {
    let moved = 0;
    try {
      for (let i = 0; i < this.#rx.length && this.#receiving; i++) moved += this.#receive(this.#rx[i]!);
      if (this.#transmitting && this.#readable && !this.#blocked) moved += this.#transmit(this.#tx[0]!);
    } catch (error) {
      this.#trapped(error);
    }
    // One direction that is always busy must not keep the other from being looked at.
    if (moved > 0 || this.spin) {
      this.#readable = !this.#netdev.exhausted;
      this.#blocked = false;
    }
    return moved;
  }

  relax(nanoseconds: number): void {
    this.#calls.relax(nanoseconds >> 3);
  }

  prepareSleep(poller: Poller, first: number): boolean {
    let waiting = false;
    let entry = first + 1;
    for (let i = 0; i < this.#rx.length && this.#receiving; i++) {
      const queue = this.#rx[i]!;
      poller.set(entry++, queue.interrupt, POLLIN);
      if (this.#arm(queue, 1)) waiting = true;
    }
    if (this.#transmitting && this.#blocked) {
      const queue = this.#tx[0]!;
      poller.set(entry++, queue.interrupt, POLLIN);
      // Half of what is out: an interrupt then makes room for a good batch.
      if (this.#arm(queue, Math.max(1, this.#word(queue.address, L.DRIVER_POSTED) >>> 1))) {
        this.#blocked = false;
        waiting = true;
      }
    }
    poller.count = entry;
    const wantsRead = this.#transmitting && !this.#blocked && !this.#netdev.exhausted;
    poller.set(first, wantsRead ? this.#netdev.fd : -1, POLLIN);
    return !waiting && !(wantsRead && this.#netdev.fd < 0);
  }

  afterSleep(poller: Poller, first: number): void {
    if (poller.revents(first) !== 0 || this.#netdev.fd < 0) this.#readable = !this.#netdev.exhausted;
    let entry = first + 1;
    for (let i = 0; i < this.#rx.length && this.#receiving; i++) {
      const queue = this.#rx[i]!;
      this.#takeInterrupt(queue, poller, entry++);
      this.#arm(queue, 0);
    }
    const armed = this.#transmitting && this.#blocked;
    if (armed && this.#takeInterrupt(this.#tx[0]!, poller, entry)) this.#blocked = false;
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
        this.#transmitting = true;
        this.#gap.go();
        break;
      case 'up':
        this.#up();
        break;
      case 'stopTransmit':
        this.#transmitting = false;
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
    const helpers = helperImplementations(this.#calls, value => {
      if (prints++ < MAX_PRINTS) this.#emit({ queue: -1, reason: `a program prints ${value}` });
    });
    this.#prepared = PROGRAMS.flatMap(({ number, section }) => {
      const module = programs[section];
      return module ? [{ number, ...instantiate({ module }, this.#window.memory, helpers) }] : [];
    });
    this.#gap.watch(this.#receiving);
  }

  #attach({ rx, tx }: { readonly rx: readonly DriverQueue[]; readonly tx: readonly DriverQueue[] }): void {
    for (const { number, run } of this.#prepared) this.#datapath.table.set(number, run);
    this.#explain = this.#prepared.map(({ fault }) => fault);
    this.#rx = rx;
    this.#tx = tx;
    this.#reset();
  }

  /** From the queues in use to these, which go on counting where those have stopped. */
  #switch({ rx, tx }: Extract<DriverCommand, { op: 'switch' }>): DriverReply {
    const former = [...this.#rx, ...this.#tx];
    const reply = this.#down();
    this.#attach({ rx, tx });
    for (const { index, address } of [...rx, ...tx]) {
      const before = former.find(queue => queue.index === index);
      if (!before) continue;
      const from = (before.address + L.DRIVER_STATS) / 8;
      this.#window.longs.copyWithin((address + L.DRIVER_STATS) / 8, from, from + L.STATS_SIZE / 8);
    }
    this.#up();
    this.#transmitting = false;
    return reply;
  }

  #up(): void {
    this.#reset();
    this.#receiving = true;
    this.#transmitting = true;
    this.#readable = !this.#netdev.exhausted;
    this.#blocked = false;
    for (const queue of this.#rx) {
      this.#cold(queue, () => this.#refill(queue));
      this.#arm(queue, 0);
    }
  }

  #down(): DriverReply {
    let reclaimed = 0;
    let seized = 0;
    this.#transmitting = false;
    this.#receiving = false;
    // What the device had received before it stopped is still the guest's: at most what its buffers hold.
    for (const queue of this.#rx) {
      this.#cold(queue, () => {
        for (let left = queue.buffers; left > 0 && this.#deliver(queue) > 0; left--) {}
      });
    }
    for (const queue of [...this.#tx, ...this.#rx]) {
      this.#cold(queue, () => {
        reclaimed += this.#checked(queue, this.#calls.driver_reclaim(queue.address));
      });
      seized += this.#calls.driver_seize(queue.address, queue.buffers);
    }
    return { reclaimed, seized };
  }

  #reset(): void {
    this.#told.clear();
    for (const queue of [...this.#rx, ...this.#tx]) this.#calls.driver_reset(queue.address, queue.buffers);
  }

  /** One round of a receive queue: packets to the netdev, buffers back to the device. Returns the packets. */
  #receive(queue: DriverQueue): number {
    const taken = this.#deliver(queue);
    if (taken > 0) this.#refill(queue);
    return taken;
  }

  /** Packets from the queue to the netdev. Returns the completions taken. */
  #deliver(queue: DriverQueue): number {
    const batch = this.#rxBatch;
    this.#active = queue;
    const taken = this.#checked(queue, this.#calls.driver_rx_poll(queue.address, batch.address, RX_BUDGET));
    const { count } = batch;
    if (count > 0) this.#gap.packets('rx');
    // What the netdev does not take is lost, as on any card whose host is too slow.
    for (let lost = count === 0 ? 0 : count - this.#netdev.put(batch); lost > 0; lost--) {
      this.#calls.bump(queue.address + L.DRIVER_STATS, L.STAT_DROPPED);
    }
    this.#calls.driver_rx_release(queue.address, batch.address);
    return taken;
  }

  #refill(queue: DriverQueue): void {
    this.#active = queue;
    if (this.#checked(queue, this.#calls.driver_rx_refill(queue.address)) > 0) this.#kick(queue);
  }

  /** Frames from the netdev to the queue. Returns how many. */
  #transmit(queue: DriverQueue): number {
    const batch = this.#txBatch;
    this.#active = queue;
    this.#checked(queue, this.#calls.driver_tx_complete(queue.address, L.MAX_BATCH));
    const room = this.#calls.driver_tx_room(queue.address, batch.address, this.#look);
    if (room === 0) {
      this.#blocked = true;
      return 0;
    }
    const filled = this.#netdev.get(batch);
    if (filled < room) this.#readable = false;
    this.#look = Math.min(L.MAX_BATCH, Math.max(FIRST_LOOK, 2 * filled));
    if (filled === 0) return 0;
    if (this.#checked(queue, this.#calls.driver_tx_publish(queue.address, batch.address, filled)) > 0) {
      this.#kick(queue);
    }
    this.#gap.packets('tx');
    return filled;
  }

  /** Arms for `minimum` completed buffers, 0 = off. True: so many are there already. */
  #arm(queue: DriverQueue, minimum: number): boolean {
    this.#active = queue;
    try {
      // With 0 the programs' answer means nothing, and may be negative.
      return this.#calls.driver_arm(queue.address, minimum) > 0 && minimum > 0;
    } catch (error) {
      this.#trapped(error);
      return true;
    }
  }

  /** Passes a count through; a negative one is a fault of the queue, told once. */
  #checked(queue: DriverQueue, result: number): number {
    if (result >= 0) return result;
    this.#tell(queue, FAULTS[this.#word(queue.address, L.DRIVER_FAULT)] ?? 'unknown fault');
    return 0;
  }

  #cold(queue: DriverQueue, action: () => void): void {
    this.#active = queue;
    try {
      action();
    } catch (error) {
      this.#trapped(error);
    }
  }

  /** A program trapped: its queue stands still from now on. Anything else is our own mistake, and is thrown on. */
  #trapped(error: unknown): void {
    if (!(error instanceof WebAssembly.RuntimeError) || !this.#active) throw error;
    const queue = this.#active;
    this.#calls.driver_fail(queue.address, L.FAULT_PROGRAM);
    const cause = this.#explain.map(explain => explain(error)).find(fault => fault !== null);
    this.#tell(queue, (cause ?? error).message);
  }

  /** The first fault of a queue is news; what follows from it, at the latest when it is stopped, is not. */
  #tell(queue: DriverQueue, reason: string): void {
    if (this.#told.has(queue.index)) return;
    this.#told.add(queue.index);
    this.#emit({ queue: queue.index, reason });
  }

  #kick(queue: DriverQueue): void {
    signalEventFd(queue.doorbell);
    this.#calls.bump(queue.address + L.DRIVER_STATS, L.STAT_KICKS);
  }

  #takeInterrupt(queue: DriverQueue, poller: Poller, entry: number): boolean {
    if (!poller.ready(entry)) return false;
    drainEventFd(queue.interrupt);
    this.#calls.bump(queue.address + L.DRIVER_STATS, L.STAT_INTERRUPTS);
    return true;
  }

  #word(driver: number, field: number): number {
    return this.#window.words[(driver + field) >>> 2]!;
  }
}

runLoop((start: LoopStart<DriverLoopData>) => new DriverLoop(start));
