/**
 * A PCI function behind a vfio-user server, as a driver in this process reaches it: for a guest that is a process.
 *
 * ```
 *   driver's worker ── eventfd ──► this thread ── posted REGION_WRITE ──► server        wire: works with any server
 *   driver's worker ── eventfd of the server's ─────────────────────────► its worker    doorbell: where the server hands one out
 * ```
 */

import { type PciAccess, PciError } from '../../guest/pci/access.js';
import { capabilities } from '../../guest/pci/capabilities.js';
import { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import { IRQ, REGION } from '../../linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { VfioUserClient } from './client.js';
import type { VfioClientOptions } from './client-connection.js';
import { VfioUserError } from './errors.js';
import { DEVICE, IO_FD_TYPE } from './requests.js';

/** Bytes of configuration space in which capabilities are. */
const CONFIG_SIZE = 256;
/** The capability of MSI-X, its control word and that one's bits. */
const MSIX = { ID: 0x11, CONTROL: 2, ENABLE: 0x8000, MASK_ALL: 0x4000 } as const;
const MAX_VECTORS = 2048;

interface Wire {
  readonly eventfd: EventFd;
  readonly watch: Watch;
}

/** All methods throw PciError: `PCI_DEVICE` when the server refuses, `PCI_GONE` when it is gone, or was wrong. */
export class VfioUserAccess implements PciAccess {
  readonly vectors: number;
  onGone: (reason: Error | null) => void = () => {};
  readonly #client: VfioUserClient;
  readonly #sizes: readonly number[];
  readonly #doorbells: ReadonlyMap<string, OwnedFd>;
  /** Where MSI-X is switched on and off; null: the function has it on by itself. */
  readonly #msixControl: number | null;
  readonly #wires = new Map<string, Wire>();
  readonly #maps = new Map<bigint, number>();
  #connected = false;
  #closed = false;

  private constructor(client: VfioUserClient, found: Found) {
    this.#client = client;
    this.#sizes = found.sizes;
    this.vectors = found.vectors;
    this.#doorbells = found.doorbells;
    this.#msixControl = found.msixControl;
    client.closed.then(reason => setImmediate(() => this.#gone(reason)));
  }

  /** Agrees with the server on a version and looks at its function. Owns the channel. */
  static async open(channel: Channel, options: VfioClientOptions = {}): Promise<VfioUserAccess> {
    const client = await orPciError(VfioUserClient.connect(channel, options));
    const doorbells = new Map<string, OwnedFd>();
    try {
      const { sizes, vectors } = await shapeOf(client);
      for (let bar = REGION.BAR0; bar <= REGION.BAR5; bar++) {
        if (sizes[bar]! > 0) await findDoorbells(client, bar, doorbells);
      }
      const msixControl = await findMsixControl(client, sizes[REGION.CONFIG]!);
      return new VfioUserAccess(client, { sizes, vectors, doorbells, msixControl });
    } catch (error) {
      for (const fd of doorbells.values()) fd.close();
      client.close();
      throw pciError(error);
    }
  }

  regionSize(region: number): number {
    return this.#sizes[region] ?? 0;
  }

  async read(region: number, offset: number, size: 1 | 2 | 4): Promise<number> {
    return littleEndian(await orPciError(this.#client.regionRead(region, offset, size)));
  }

  async readWords(region: number, offset: number, length: number): Promise<Uint8Array> {
    return orPciError(readWords(this.#client, region, offset, length));
  }

  async write(region: number, offset: number, value: number, size: 1 | 2 | 4): Promise<void> {
    await orPciError(this.#client.regionWrite(region, offset, bytesOf(value, size)));
  }

  /**
   * Goes through this thread in any case: it is the caller's eventfd that will be signalled, and only the server's own reaches the server directly. See
   * `doorbell`.
   */
  async wire(
    region: number,
    offset: number,
    value: number,
    size: 1 | 2 | 4,
    eventfd: OwnedFd,
  ): Promise<void> {
    if (this.#closed) throw new PciError('PCI_GONE', 'the function was given back');
    const key = placeOf(region, offset);
    this.#unwire(key);
    const bytes = bytesOf(value, size);
    // One of our own: the caller may close his while it is watched.
    const signal = EventFd.adopt(eventfd.dup());
    let posting = false;
    let again = false;
    const post = async (): Promise<void> => {
      posting = true;
      do {
        again = false;
        await this.#client.regionWrite(region, offset, bytes, { posted: true });
      } while (again);
      posting = false;
    };
    const watch = watchReadable(signal.fd, () => {
      signal.drain();
      if (posting) again = true;
      else post().catch(() => this.#unwire(key)); // onGone says why
    });
    this.#wires.set(key, { eventfd: signal, watch });
  }

  doorbell(region: number, offset: number): OwnedFd | null {
    return this.#doorbells.get(placeOf(region, offset)) ?? null;
  }

  async connect(eventfds: readonly OwnedFd[]): Promise<void> {
    if (eventfds.length > this.vectors) {
      throw new PciError('PCI_DEVICE', `${eventfds.length} interrupts of ${this.vectors}`);
    }
    if (this.#connected) await orPciError(this.#client.disableIrqs(IRQ.MSIX));
    this.#connected = eventfds.length > 0;
    await this.#enableMsix(this.#connected);
    await orPciError(this.#client.connectIrqs(IRQ.MSIX, 0, eventfds));
  }

  async map(region: { iova: bigint; size: number; fd: OwnedFd; offset: number }): Promise<void> {
    const { iova, size, fd, offset } = region;
    await orPciError(this.#client.dmaMap({ iova, size: BigInt(size), fd, offset: BigInt(offset) }));
    this.#maps.set(iova, size);
  }

  async unmap(iova: bigint, size: number): Promise<void> {
    await orPciError(this.#client.dmaUnmap(iova, BigInt(size)));
    this.#maps.delete(iova);
  }

  /** The server has answered that nothing is reached any more, unless it is gone. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const key of [...this.#wires.keys()]) this.#unwire(key);
    try {
      if (this.#connected) await this.#client.disableIrqs(IRQ.MSIX);
      await this.#client.reset();
      for (const [iova, size] of this.#maps) await this.#client.dmaUnmap(iova, BigInt(size));
    } catch {
      // It is gone, or does not do as it is told: the end of the connection says the same.
    }
    this.#client.close();
    for (const fd of this.#doorbells.values()) fd.close();
  }

  async #enableMsix(enabled: boolean): Promise<void> {
    const at = this.#msixControl;
    if (at === null) return;
    const control = await this.read(REGION.CONFIG, at, 2);
    const wanted = enabled ? (control | MSIX.ENABLE) & ~MSIX.MASK_ALL : control & ~MSIX.ENABLE;
    await this.write(REGION.CONFIG, at, wanted, 2);
  }

  #unwire(key: string): void {
    const wire = this.#wires.get(key);
    wire?.watch.close();
    wire?.eventfd.close();
    this.#wires.delete(key);
  }

  #gone(reason: Error | null): void {
    for (const key of [...this.#wires.keys()]) this.#unwire(key);
    if (!this.#closed) this.onGone(reason);
  }
}

interface Found {
  readonly sizes: readonly number[];
  readonly vectors: number;
  readonly doorbells: ReadonlyMap<string, OwnedFd>;
  readonly msixControl: number | null;
}

async function shapeOf(client: VfioUserClient): Promise<{ sizes: number[]; vectors: number }> {
  const { flags, numRegions, numIrqs } = await client.getInfo();
  if ((flags & DEVICE.PCI) === 0 || numRegions <= REGION.CONFIG || numIrqs <= IRQ.MSIX) {
    throw new PciError('PCI_DEVICE', 'what the server has is no PCI function');
  }
  const sizes: number[] = [];
  for (let index = REGION.BAR0; index <= REGION.CONFIG; index++) {
    const { size, fd } = await client.getRegionInfo(index);
    fd?.close();
    sizes.push(Number(size));
    if (!Number.isSafeInteger(sizes[index]))
      throw new PciError('PCI_DEVICE', `region ${index}: ${size} bytes`);
  }
  const { count } = await client.getIrqInfo(IRQ.MSIX);
  if (count > MAX_VECTORS) throw new PciError('PCI_DEVICE', `${count} vectors of MSI-X`);
  return { sizes, vectors: count };
}

/** Adds eventfds that stand for any write at a place of the region. */
async function findDoorbells(
  client: VfioUserClient,
  region: number,
  doorbells: Map<string, OwnedFd>,
): Promise<void> {
  const { entries, fds } = await client.getIoFds(region).catch(error => {
    if (error instanceof VfioUserError && error.code === 'VFIO_REFUSED') return { entries: [], fds: [] };
    throw error;
  });
  try {
    for (const { offset, type, flags, fdIndex } of entries) {
      if (type !== IO_FD_TYPE.IOEVENTFD || flags !== 0) continue;
      const key = placeOf(region, Number(offset));
      // Anything but an eventfd could block the worker that signals it.
      if (!doorbells.has(key)) doorbells.set(key, EventFd.adopt(fds[fdIndex]!.dup()).owner);
    }
  } catch (cause) {
    throw new PciError('PCI_DEVICE', 'the server sends doorbells that are none', { cause });
  } finally {
    for (const fd of fds) fd.close();
  }
}

async function readWords(
  client: VfioUserClient,
  region: number,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  const step = Math.max(4, client.capabilities.maxDataXferSize & ~3);
  for (let at = 0; at < length; at += step) {
    bytes.set(await client.regionRead(region, offset + at, Math.min(step, length - at)), at);
  }
  return bytes;
}

/** Where MSI-X's control word is in configuration space; null: nowhere. */
async function findMsixControl(client: VfioUserClient, size: number): Promise<number | null> {
  if (size < CONFIG_SIZE) return null;
  for (const { id, at } of capabilities(await readWords(client, REGION.CONFIG, 0, CONFIG_SIZE))) {
    if (id === MSIX.ID) return at + MSIX.CONTROL;
  }
  return null;
}

function placeOf(region: number, offset: number): string {
  return `${region}:${offset}`;
}

function littleEndian(bytes: Uint8Array): number {
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}

function bytesOf(value: number, size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 0xff);
}

async function orPciError<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (cause) {
    throw pciError(cause);
  }
}

function pciError(cause: unknown): unknown {
  if (!(cause instanceof VfioUserError)) return cause;
  const code = cause.code === 'VFIO_REFUSED' ? 'PCI_DEVICE' : 'PCI_GONE';
  return new PciError(code, cause.message, { cause });
}
