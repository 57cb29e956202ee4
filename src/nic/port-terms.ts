/** What a NIC's port is told: what frames from it may ask for, which is no more than the guest has agreed to. */
import type { PortHandle } from '../port/port.js';

export class PortTerms {
  readonly #port: () => PortHandle;
  /** OFFLOAD_*, as it was told last; at first it may have been told anything. */
  #offloads = -1;

  constructor(port: () => PortHandle) {
    this.#port = port;
  }

  /** Only what is new: the kernel's lock of all interfaces may be held by others for long, and at a swap packets wait. */
  allow(offloads: number): void {
    if (offloads !== this.#offloads) this.#port().setOffloads?.(offloads);
    this.#offloads = offloads;
  }

  /** No more than `offloads`, nor more than before. */
  narrow(offloads: number): void {
    this.allow(offloads & this.#offloads);
  }

  /** Another port takes the place, which was told this. */
  replaced(offloads: number): void {
    this.#offloads = offloads;
  }
}
