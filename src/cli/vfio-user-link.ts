/**
 * The devices that a vfio-user server offers, one connection after the other, and the slot of a guest that they go into.
 *
 * ```
 *   connected ─► what is it? ── the first one decides how much memory there is ─► slot ── gone ─► closed, and the next connection
 * ```
 */
import type { Channel } from '../control/bpfhv-proxy/index.js';
import { VfioUserAccess, VfioUserError } from '../control/vfio-user/index.js';
import type { Log } from './log.js';
import { type PciDevice, type PciSlot, probePci } from './pci-device.js';

/** Of a server that has something else than we want, which will be no better next time. */
const HOPELESS = new Set(['PCI_DEVICE', 'DRIVER_DEVICE']);
/** Of a connection that had ended before we knew better. All other errors of the protocol are from a server that speaks another one. */
const CUT_SHORT = new Set(['VFIO_CLOSED', 'VFIO_TIMEOUT']);

export class VfioUserLink {
  /** What the first device is. Rejects with PciError, DriverError when it is none that can be driven. */
  readonly first: Promise<PciDevice>;
  readonly #log: Log;
  readonly #slot: Promise<PciSlot>;
  readonly #ended: Promise<void>;
  /** Why the last device was refused; it may come again and again. */
  #refusal: string | null = null;
  #tellFirst!: { resolve: (device: PciDevice) => void; reject: (error: unknown) => void };
  #tellSlot!: (slot: PciSlot) => void;
  #tellEnded!: () => void;

  constructor(log: Log) {
    this.#log = log;
    this.first = new Promise((resolve, reject) => (this.#tellFirst = { resolve, reject }));
    this.first.catch(() => {}); // whoever waits for it hears of it
    this.#slot = new Promise(resolve => (this.#tellSlot = resolve));
    this.#ended = new Promise(resolve => (this.#tellEnded = resolve));
  }

  /** Devices go in there, those that are connected now as well. */
  use(slot: PciSlot): void {
    this.#tellSlot(slot);
  }

  /** A server's connection, until it is over: with whether it was of use. */
  async serve(channel: Channel): Promise<boolean> {
    let access: VfioUserAccess | null = null;
    try {
      access = await VfioUserAccess.open(channel);
      const device = await probePci(access);
      this.#tellFirst.resolve(device);
      const slot = await Promise.race([this.#slot, this.#ended]);
      if (!slot) return true;
      const gone = new Promise<Error>(resolve => (slot.onGone = resolve));
      await slot.plug(access, device);
      this.#refusal = null;
      this.#log('info', 'device connected');
      const reason = await Promise.race([gone, this.#ended]);
      if (reason) this.#log('warn', `device lost: ${reason.message}`);
      return true;
    } catch (error) {
      if (isHopeless(error)) this.#tellFirst.reject(error);
      const { message } = error as Error;
      if (message !== this.#refusal) this.#log('error', `device refused: ${message}`);
      this.#refusal = message;
      return false;
    } finally {
      await access?.close();
    }
  }

  /** The slot has let go of its device. */
  end(): void {
    this.#tellEnded();
  }
}

function isHopeless(error: unknown): boolean {
  const { code, cause } = error as { code?: string; cause?: unknown };
  return HOPELESS.has(code ?? '') || (cause instanceof VfioUserError && !CUT_SHORT.has(cause.code));
}
