/**
 * The eventfds by which a guest and its NIC wake each other, two a queue: kicks come in, interrupts go out. They belong to the NIC and not to a
 * contract: a change of contract with as many queues keeps them.
 */
import { EventFd } from '../linux/eventfd.js';
import type { OwnedFd } from '../linux/fd.js';
import { NicError, type NicParameters } from './control.js';

export class Signals {
  #kick: EventFd | null = null;
  #irq: EventFd | null = null;

  get complete(): boolean {
    return this.#kick !== null && this.#irq !== null;
  }

  /** -1: none. */
  get kickFd(): number {
    return this.#kick?.fd ?? -1;
  }

  get irqFd(): number {
    return this.#irq?.fd ?? -1;
  }

  /** Replaces an eventfd, takes `fd` over and closes the former one. Throws LinuxError when it is no eventfd. */
  setKick(fd: OwnedFd | null): void {
    const next = fd && EventFd.adopt(fd);
    this.#kick?.close();
    this.#kick = next;
  }

  /** As `setKick`; the former one is returned, open, since a worker may still use it. */
  setIrq(fd: OwnedFd | null): EventFd | null {
    const next = fd && EventFd.adopt(fd);
    const former = this.#irq;
    this.#irq = next;
    return former;
  }

  close(): void {
    this.#kick?.close();
    this.#irq?.close();
    this.#kick = null;
    this.#irq = null;
  }
}

/** Those of all queues, receive queues first. */
export class SignalTable {
  #signals: Signals[] = [];
  #queues = { rx: 0, tx: 0 };

  /** As many as there are queues; those that there are stay, if they are for as many. */
  fit(parameters: NicParameters | null): void {
    const { numRxQueues: rx = 0, numTxQueues: tx = 0 } = parameters ?? {};
    if (rx === this.#queues.rx && tx === this.#queues.tx) return;
    for (const signals of this.#signals) signals.close();
    this.#signals = Array.from({ length: rx + tx }, () => new Signals());
    this.#queues = { rx, tx };
  }

  /** Throws NicError NIC_PARAMETERS unless they are for as many queues. */
  checkNumbers({ numRxQueues, numTxQueues }: NicParameters): void {
    const { rx, tx } = this.#queues;
    if (numRxQueues === rx && numTxQueues === tx) return;
    const wanted = `${numRxQueues} receive and ${numTxQueues} transmit queues`;
    throw new NicError('NIC_PARAMETERS', `${wanted}: an upgrade leaves it at ${rx} and ${tx}`);
  }

  /** Throws NicError NIC_QUEUE. */
  of(queue: number): Signals {
    const signals = this.#signals[queue];
    if (signals) return signals;
    throw new NicError('NIC_QUEUE', `queue ${queue}: there are ${this.#signals.length}`);
  }
}
