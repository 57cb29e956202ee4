/**
 * Who is told when something has happened: the vector that the driver has chosen for a queue or for changes of the configuration; without MSI-X, INTx, whose
 * reason is in the ISR register until it is read.
 *
 * ```
 *   MSI-X   ring ─────────────────────────────────────► eventfd of its vector       no thread of ours in between
 *   INTx    ring ──► one eventfd of ours ──► ISR bit 0, line asserted ──► the driver reads ISR ──► 0, line let go
 * ```
 */

import { NO_VECTOR } from '../../guest/pci/virtio-numbers.js';
import { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import { IRQ } from '../../linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import type { Interrupts } from '../interrupts.js';
import type { DeviceQueue } from './device-queue.js';
import { ISR } from './numbers.js';

export class VirtioSignals {
  readonly #interrupts: Interrupts;
  /** Signalled by all rings while there is no MSI-X. */
  readonly #shared: EventFd;
  readonly #watch: Watch;
  #isr = 0;
  /** MSI-X vector for changes of the configuration, or NO_VECTOR. */
  configVector = NO_VECTOR;

  constructor(interrupts: Interrupts, name: string) {
    this.#interrupts = interrupts;
    this.#shared = EventFd.create(`${name}: rings, INTx`);
    this.#watch = watchReadable(this.#shared.fd, () => this.#sharedSignalled());
    this.#watch.unref();
  }

  get usesMsix(): boolean {
    return this.#interrupts.usesMsix;
  }

  /** What a register for a vector holds after `vector` was written to it. */
  accepted(vector: number): number {
    return vector < this.#interrupts.msix.count ? vector : NO_VECTOR;
  }

  /** What a ring is to signal now; stays ours. Null: nothing. */
  targetOf({ vector }: DeviceQueue): OwnedFd | null {
    if (!this.usesMsix) return this.#shared.owner;
    return vector === NO_VECTOR ? null : this.#interrupts.msix.target(vector);
  }

  /** A queue that no worker has was used. */
  queueUsed({ vector }: DeviceQueue): void {
    if (!this.usesMsix) this.#assertForQueue();
    else if (vector !== NO_VECTOR) this.#interrupts.raise(IRQ.MSIX, vector);
  }

  configChanged(): void {
    const { usesMsix, configVector } = this;
    this.#isr |= ISR.CONFIG;
    if (!usesMsix) this.#interrupts.setLevel(true);
    else if (configVector !== NO_VECTOR) this.#interrupts.raise(IRQ.MSIX, configVector);
  }

  /** The ISR register, which is 0 once it was read. */
  takeIsr(): number {
    const isr = this.#isr;
    this.#isr = 0;
    this.#interrupts.setLevel(false);
    return isr;
  }

  /** For rings that signal nothing any more. */
  reset(): void {
    this.configVector = NO_VECTOR;
    this.#shared.drain();
    this.takeIsr();
  }

  close(): void {
    this.#watch.close();
    this.#shared.close();
  }

  #sharedSignalled(): void {
    if (this.#shared.drain() > 0 && !this.usesMsix) this.#assertForQueue();
  }

  #assertForQueue(): void {
    this.#isr |= ISR.QUEUE;
    this.#interrupts.setLevel(true);
  }
}
