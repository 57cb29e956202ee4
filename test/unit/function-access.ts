/** A PCI function in this process as its driver reaches it: calls in place of messages, and one at a time, as its host has to see to. */
import { type PciAccess, PciError } from '../../src/guest/pci/access.js';
import { drainEventFd } from '../../src/linux/eventfd.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { IRQ } from '../../src/linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../src/linux/watch.js';
import { Turns } from '../../src/nic/turns.js';
import type { PciFunction } from '../../src/pci/function.js';

type Mapped = Parameters<PciAccess['map']>[0];

export class FunctionAccess implements PciAccess {
  onGone: (reason: Error | null) => void = () => {};
  readonly #fn: PciFunction;
  readonly #own: boolean;
  readonly #turns = new Turns();
  readonly #maps: Mapped[] = [];
  readonly #watches: Watch[] = [];
  #gone = false;

  /** @param own doorbells are handed out, as a vfio-user server may do; else signals are turned into writes. */
  constructor(fn: PciFunction, { own = false } = {}) {
    this.#fn = fn;
    this.#own = own;
  }

  get vectors(): number {
    return this.#fn.irqs[IRQ.MSIX]!;
  }

  async read(region: number, offset: number, size: 1 | 2 | 4): Promise<number> {
    const bytes = Buffer.from(await this.#bytes(region, offset, size));
    return bytes.readUIntLE(0, size);
  }

  readWords(region: number, offset: number, length: number): Promise<Uint8Array> {
    return this.#bytes(region, offset, length);
  }

  write(region: number, offset: number, value: number, size: 1 | 2 | 4): Promise<void> {
    const bytes = new Uint8Array(size);
    for (let i = 0; i < size; i++) bytes[i] = value >>> (8 * i);
    return this.#take(async () => this.#fn.write(region, offset, bytes));
  }

  regionSize(region: number): number {
    return this.#fn.regions[region]!.size;
  }

  doorbell(region: number, offset: number): OwnedFd | null {
    if (!this.#own) return null;
    return this.#fn.doorbells(region).find(bell => bell.offset === offset)?.fd ?? null;
  }

  async wire(region: number, offset: number, value: number, size: 1 | 2 | 4, { fd }: OwnedFd): Promise<void> {
    const write = () => this.write(region, offset, value, size).catch(() => {});
    this.#watches.push(
      watchReadable(fd, () => {
        if (drainEventFd(fd) > 0) void write();
      }),
    );
  }

  connect(eventfds: readonly OwnedFd[]): Promise<void> {
    return this.#take(async () => {
      for (const [i, fd] of eventfds.entries()) await this.#fn.connect(IRQ.MSIX, i, fd.dup());
    });
  }

  map(region: Mapped): Promise<void> {
    this.#maps.push(region);
    return this.#tell();
  }

  unmap(iova: bigint): Promise<void> {
    this.#maps.splice(
      this.#maps.findIndex(map => map.iova === iova),
      1,
    );
    return this.#tell();
  }

  reset(): Promise<void> {
    return this.#take(() => this.#fn.reset());
  }

  async close(): Promise<void> {
    this.#unwire();
    if (!this.#gone) await this.#take(() => this.#fn.disconnect());
  }

  /** It is pulled out: whatever is asked from now on is refused, and nothing reaches the memory any more. */
  async pull(): Promise<void> {
    this.#unwire();
    await this.#take(() => this.#fn.disconnect());
    this.#gone = true;
    this.onGone(new PciError('PCI_GONE', 'pulled out'));
  }

  #unwire(): void {
    for (const watch of this.#watches.splice(0)) watch.close();
  }

  #tell(): Promise<void> {
    return this.#take(() =>
      this.#fn.setMemory(
        this.#maps.map(({ iova, size, fd, offset }) => ({
          ...{ guestPhysicalAddress: iova, hypervisorVirtualAddress: iova, size: BigInt(size) },
          ...{ mmapOffset: BigInt(offset), fd: fd.dup() },
        })),
      ),
    );
  }

  async #bytes(region: number, offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await this.#take(async () => this.#fn.read(region, offset, bytes));
    return bytes;
  }

  #take<T>(step: () => Promise<T>): Promise<T> {
    if (this.#gone) return Promise.reject(new PciError('PCI_GONE', 'pulled out'));
    return this.#turns.take(step);
  }
}
