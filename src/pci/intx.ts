/**
 * INTx: one line with a level, told to the host by an eventfd. The host masks the line when it is told, and looks again once the guest has seen it:
 *
 * ```
 *   level     ──┐      ┌───────────────────┐                  the device asserts, and lets go when the guest has read why
 *               └──────┘                   └──
 *   eventfd            │ signal: masked    │                  unmasked while the level is still there: signalled once more
 * ```
 */
import { EventFd } from '../linux/eventfd.js';
import type { OwnedFd } from '../linux/fd.js';

export class Intx {
  #peer: EventFd | null = null;
  #level = false;
  /** Raised once by the host, without a level. */
  #pulse = false;
  #masked = false;
  #disabled = false;

  /** Gives the line another peer, or none; it is not masked then. Takes `fd` over. Throws LinuxError when it is no eventfd. */
  connect(fd: OwnedFd | null): void {
    const next = fd && EventFd.adopt(fd);
    this.#peer?.close();
    this.#peer = next;
    this.#masked = false;
    this.#deliver();
  }

  mask(masked: boolean): void {
    this.#masked = masked;
    this.#deliver();
  }

  /** The guest wants none of it: it has said so in the command register, or uses MSI-X. */
  disable(disabled: boolean): void {
    this.#disabled = disabled;
    this.#deliver();
  }

  /** The device asserts the line, or lets it go. */
  setLevel(asserted: boolean): void {
    this.#level = asserted;
    this.#deliver();
  }

  raise(): void {
    this.#pulse = true;
    this.#deliver();
  }

  /** As after power-on, but for the peer and what it masks. */
  reset(): void {
    this.#level = false;
    this.#pulse = false;
    this.#disabled = false;
  }

  close(): void {
    this.connect(null);
  }

  #deliver(): void {
    if (!this.#peer || this.#masked || this.#disabled || !(this.#level || this.#pulse)) return;
    this.#pulse = false;
    this.#masked = true;
    this.#peer.signal();
  }
}
