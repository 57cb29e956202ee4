/**
 * The interrupts of a function: INTx and MSI-X, as its host connects them (the calls of `PciFunction`), and as the guest switches them in configuration
 * space.
 *
 * ```
 *   host   connect, mask, raise ──►  ┌ Intx ┐ ──► eventfd
 *   guest  command, MSI-X control ─► │ Msix │ ──► eventfd, one a vector ◄── signalled by the device's workers
 *   device setLevel ───────────────► └──────┘
 * ```
 */
import type { OwnedFd } from '../linux/fd.js';
import { IRQ, NUM_IRQS } from '../linux/vfio-numbers.js';
import { MSIX_CONTROL } from './capabilities.js';
import { COMMAND, type ConfigSpace } from './config-space.js';
import { Intx } from './intx.js';
import { Msix } from './msix.js';

export interface InterruptsOptions {
  readonly config: ConfigSpace;
  /** MSI-X vectors. */
  readonly vectors: number;
  /** There is an INTx. */
  readonly intx: boolean;
  /** Of the function, for the names of eventfds. */
  readonly name: string;
}

export class Interrupts {
  /** How many there are of each kind: `PciFunction.irqs`. */
  readonly counts: readonly number[];
  readonly msix: Msix;
  readonly #config: ConfigSpace;
  readonly #intx = new Intx();

  constructor({ config, vectors, intx, name }: InterruptsOptions) {
    this.#config = config;
    this.msix = new Msix(vectors, name);
    this.counts = Array.from({ length: NUM_IRQS }, (_, kind) => {
      if (kind === IRQ.MSIX) return vectors;
      return kind === IRQ.INTX && intx ? 1 : 0;
    });
  }

  /** The guest has enabled MSI-X, or the host has connected a vector, which it does for such a guest. */
  get usesMsix(): boolean {
    return (this.#config.msixControl & MSIX_CONTROL.ENABLE) !== 0 || this.msix.connected;
  }

  /** As `PciFunction.connect`. Throws RangeError for an interrupt that there is not. */
  async connect(kind: number, index: number, fd: OwnedFd | null): Promise<void> {
    try {
      this.#check(kind, index);
    } catch (error) {
      fd?.close();
      throw error;
    }
    if (kind === IRQ.INTX) this.#intx.connect(fd);
    else await this.msix.connect(index, fd);
  }

  async mask(kind: number, index: number, masked: boolean): Promise<void> {
    this.#check(kind, index);
    if (kind === IRQ.INTX) this.#intx.mask(masked);
    else await this.msix.mask(index, masked);
  }

  raise(kind: number, index: number): void {
    this.#check(kind, index);
    if (kind === IRQ.INTX) this.#intx.raise();
    else this.msix.raise(index);
  }

  /** The device asserts INTx, or lets it go. */
  setLevel(asserted: boolean): void {
    this.#config.showInterrupt(asserted);
    this.#intx.setLevel(asserted);
  }

  /** After every write to configuration space: does what the guest has switched. */
  async followConfig(): Promise<void> {
    const { command, msixControl } = this.#config;
    const both = MSIX_CONTROL.ENABLE | MSIX_CONTROL.FUNCTION_MASK;
    this.#intx.disable((command & COMMAND.INTX_DISABLE) !== 0 || (msixControl & MSIX_CONTROL.ENABLE) !== 0);
    await this.msix.setFunctionMask(msixControl === both);
  }

  /** As after power-on, with the eventfds that there are, and what their host masks. For a device that raises nothing any more. */
  async reset(): Promise<void> {
    this.#intx.reset();
    await this.msix.reset();
  }

  /** No eventfd of the host's is used any more. */
  async disconnect(): Promise<void> {
    this.#intx.connect(null);
    await this.msix.disconnect();
  }

  close(): void {
    this.#intx.close();
    this.msix.close();
  }

  #check(kind: number, index: number): void {
    const count = this.counts[kind] ?? 0;
    if (!(index >= 0 && index < count))
      throw new RangeError(`interrupt ${index} of kind ${kind}: there are ${count}`);
  }
}
