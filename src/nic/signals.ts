/**
 * The eventfds by which a guest and its NIC wake each other, two a queue: kicks come in, interrupts go out. They belong to the NIC and not to a
 * contract: a change of contract with as many queues keeps them.
 */
import { EventFd } from '../linux/eventfd.js';
import type { OwnedFd } from '../linux/fd.js';

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
