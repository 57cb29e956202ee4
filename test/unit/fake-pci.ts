/** PCI functions for drivers under test: a register file that says what was done to it, and a bpfhv device behind registers of the proxy's. */
import type { ProxyDevice } from '../../src/control/bpfhv-proxy/device.js';
import { REG, STATUS } from '../../src/guest/bpfhv/registers.js';
import { type PciAccess, PciError } from '../../src/guest/pci/access.js';
import { drainEventFd, signalEventFd } from '../../src/linux/eventfd.js';
import { dupFd, type OwnedFd } from '../../src/linux/fd.js';
import { REGION } from '../../src/linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../src/linux/watch.js';

/** 256 bytes with these capabilities, one after the other from 0x40; each without its second byte, which leads to the next. */
export function configSpace(id: number, capabilities: readonly (readonly number[])[] = []): Uint8Array {
  const config = new Uint8Array(256);
  new DataView(config.buffer).setUint32(0, id, true);
  if (capabilities.length > 0) [config[0x06], config[0x34]] = [0x10, 0x40];
  let at = 0x40;
  for (const [i, [kind, ...body]] of capabilities.entries()) {
    const next = at + Math.ceil((body.length + 2) / 4) * 4;
    config.set([kind!, i + 1 < capabilities.length ? next : 0, ...body], at);
    at = next;
  }
  return config;
}

export const BPFHV_ID = 0x000e_1b36;
const text = (word: string) => [...Buffer.from(word)];
/** What polynic's device says of itself: capability 9 with its length, and behind its name version and flags. */
export const previewCapability = (version = 1, flags = 1, name = 'PLNC') => [
  9,
  9,
  ...text(name),
  version,
  flags,
];

type Wire = Parameters<PciAccess['wire']>;

/** Registers that hold what the test has put there. */
export class RegisterFile implements PciAccess {
  onGone: (reason: Error | null) => void = () => {};
  config = configSpace(BPFHV_ID, [previewCapability()]);
  vectors = 3;
  readonly sizes = new Map<number, number>([
    [REGION.BAR0, 256],
    [REGION.BAR1, 4096],
    [REGION.BAR2, 4096],
    [REGION.BAR3, 0x2_0000],
    [REGION.CONFIG, 256],
  ]);
  readonly registers = new Map<number, number>([
    [REG.NUM_RX_QUEUES, 1],
    [REG.NUM_TX_QUEUES, 1],
    [REG.NUM_RX_BUFS, 256],
    [REG.NUM_TX_BUFS, 256],
    [REG.RX_CTX_SIZE, 8752],
    [REG.TX_CTX_SIZE, 8752],
    [REG.DOORBELL_SIZE, 64],
    [REG.VERSION, 1],
  ]);
  /** All that was done, in words. */
  readonly done: string[] = [];
  readonly wires: Wire[] = [];
  connected: readonly OwnedFd[] = [];
  /** Doorbells of its own, by offset. */
  own: ReadonlyMap<number, OwnedFd> | null = null;
  gone = false;

  async read(region: number, offset: number): Promise<number> {
    this.here();
    if (region !== REGION.BAR0) throw new Error(`region ${region} is not read a register at a time`);
    return this.registers.get(offset) ?? 0;
  }

  async readWords(region: number, offset: number, length: number): Promise<Uint8Array> {
    this.here();
    if (region === REGION.CONFIG) return this.config.slice(offset, offset + length);
    this.done.push(`words ${region} ${offset} ${length}`);
    return new Uint8Array(length).fill(region);
  }

  async write(region: number, offset: number, value: number, size: number): Promise<void> {
    this.here();
    this.done.push(`write ${region} ${offset} ${value} ${size}`);
  }

  regionSize(region: number): number {
    return this.sizes.get(region) ?? 0;
  }

  doorbell(_region: number, offset: number): OwnedFd | null {
    return this.own?.get(offset) ?? null;
  }

  async wire(...wire: Wire): Promise<void> {
    this.wires.push(wire);
  }

  async connect(eventfds: readonly OwnedFd[]): Promise<void> {
    this.connected = eventfds;
    this.done.push(`connect ${eventfds.length}`);
  }

  async map({ iova, size }: Parameters<PciAccess['map']>[0]): Promise<void> {
    this.done.push(`map ${iova} ${size}`);
  }

  async unmap(iova: bigint, size: number): Promise<void> {
    this.here();
    this.done.push(`unmap ${iova} ${size}`);
  }

  async close(): Promise<void> {}

  /** It raises one of its interrupts. */
  interrupt(vector: number): void {
    signalEventFd(this.connected[vector]!.fd);
  }

  /** It is pulled out. */
  pull(): void {
    this.gone = true;
    this.onGone(new PciError('PCI_GONE', 'pulled out'));
  }

  protected here(): void {
    if (this.gone) throw new PciError('PCI_GONE', 'pulled out');
  }
}

/** The registers, doorbells and interrupts of a device in this process, as a function on PCI. */
export class PciFace extends RegisterFile {
  readonly #device: ProxyDevice;
  readonly #queues: number;
  readonly #watches: Watch[] = [];
  readonly #fds: OwnedFd[] = [];
  /** What registers say instead of what is there. */
  readonly overrides = new Map<number, number>();

  /** @param own it has eventfds for doorbells, as a vfio-user server may; else they are wired. */
  constructor(device: ProxyDevice, queues: number, { previews = true, own = true } = {}) {
    super();
    this.#device = device;
    this.#queues = queues;
    this.vectors = queues + 1;
    this.config = configSpace(BPFHV_ID, previews ? [previewCapability()] : []);
    if (own)
      this.own = new Map(Array.from({ length: queues }, (_, i) => [8 * i, this.#dup(device.doorbell(i))]));
    device.onChange = () => void this.#changed();
  }

  override async read(_region: number, offset: number): Promise<number> {
    this.here();
    return this.overrides.get(offset) ?? this.#device.read(offset);
  }

  override async readWords(region: number, offset: number, length: number): Promise<Uint8Array> {
    this.here();
    if (region === REGION.BAR3) return this.#device.readProgram(length / 8);
    return super.readWords(region, offset, length);
  }

  override async write(_region: number, offset: number, value: number): Promise<void> {
    this.here();
    await this.#device.write(offset, value);
  }

  override async wire(...[, offset, , , { fd }]: Wire): Promise<void> {
    this.#forward(fd, this.#device.doorbell(offset / 8));
  }

  override async connect(eventfds: readonly OwnedFd[]): Promise<void> {
    this.connected = eventfds;
    for (let i = 0; i < this.#queues; i++) this.#forward(this.#device.interrupt(i), eventfds[i]!.fd);
  }

  override async close(): Promise<void> {
    this.#unplug();
  }

  override pull(): void {
    this.#unplug();
    super.pull();
  }

  #unplug(): void {
    for (const watch of this.#watches) watch.close();
    for (const fd of this.#fds) fd.close();
  }

  async #changed(): Promise<void> {
    const status = await this.#device.read(REG.STATUS);
    if (this.gone) return;
    if ((status & STATUS.UPGRADE) !== 0 && this.connected.length > 0) this.interrupt(this.#queues);
  }

  #dup(fd: number): OwnedFd {
    const owner = dupFd(fd, 'doorbell of a device');
    this.#fds.push(owner);
    return owner;
  }

  /** What comes on one eventfd is passed on to another. */
  #forward(from: number, to: number): void {
    this.#watches.push(
      watchReadable(from, () => {
        if (drainEventFd(from) > 0) signalEventFd(to);
      }),
    );
  }
}
