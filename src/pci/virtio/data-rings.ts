/**
 * The rings that carry frames, handed to the NIC as a vhost front end would: size, addresses, position, interrupt, and last the doorbell, which starts them.
 */
import { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import { NicError } from '../../nic/control.js';
import type { VirtioNic } from '../../nic/virtio-nic.js';
import { VIRTIO_FEATURE as F } from '../../ring/virtio/features.js';
import type { DeviceQueue } from './device-queue.js';
import type { VirtioSignals } from './signals.js';

/** Where a ring begins that was never used, in the form of vhost's VRING_BASE. */
const BASE = { split: 0, packed: 0x8000_8000 } as const;

export interface DataRingsOptions {
  readonly nic: VirtioNic;
  readonly signals: VirtioSignals;
  /** 0: the NIC's own. */
  readonly mtu: number;
  readonly name: string;
  /** A ring can't be used until the device is reset. */
  readonly onBroken: (error: Error) => void;
}

export class DataRings {
  readonly #options: DataRingsOptions;
  /** Rings that the NIC has, and what each was told to signal. */
  readonly #told = new Map<DeviceQueue, OwnedFd | null>();
  /** Signalled by the NIC when it can't go on with a ring. */
  readonly #error: EventFd;
  readonly #watch: Watch;
  #features = 0n;
  /** Pairs that move frames. */
  #pairs = 1;

  constructor(options: DataRingsOptions) {
    this.#options = options;
    this.#error = EventFd.create(`${options.name}: rings, error`);
    this.#watch = watchReadable(this.#error.fd, () => {
      if (this.#error.drain() > 0) options.onBroken(new NicError('NIC_RING', 'a ring stands still'));
    });
    this.#watch.unref();
  }

  /** What was agreed on. Addresses are the bus's whether or not the guest knows that. */
  async begin(features: bigint): Promise<void> {
    const { nic, mtu } = this.#options;
    this.#features = features;
    await this.#tried(async () => {
      if (mtu > 0) await nic.setMtu(BigInt(mtu));
      await nic.setFeatures(features & nic.features() & ~F.ACCESS_PLATFORM, false);
    });
  }

  async start(queue: DeviceQueue): Promise<void> {
    const { nic } = this.#options;
    const { index, size, areas, kick } = queue;
    const packed = (this.#features & F.RING_PACKED) !== 0n;
    await this.#tried(async () => {
      await nic.setVringSize(index, size);
      await nic.setVringAddresses(index, { ...areas, log: null });
      await nic.setVringBase(index, packed ? BASE.packed : BASE.split);
      await nic.setVringError(index, this.#error.owner.dup());
      this.#told.set(queue, null);
      await this.retarget();
      await nic.enableVring(index, index >> 1 < this.#pairs);
      await nic.setVringKick(index, kick.owner.dup());
    });
  }

  /** One ring leaves the NIC. */
  async stop(queue: DeviceQueue): Promise<void> {
    if (!this.#told.delete(queue)) return;
    await this.#options.nic.stopVring(queue.index);
    await this.#options.nic.setVringCall(queue.index, null);
  }

  /** Has each ring signal what it is to signal now. */
  retarget(): Promise<void> {
    const { nic, signals } = this.#options;
    return this.#tried(async () => {
      for (const [queue, told] of this.#told) {
        const target = signals.targetOf(queue);
        if (target === told) continue;
        this.#told.set(queue, target);
        await nic.setVringCall(queue.index, target?.dup() ?? null);
      }
    });
  }

  /** Frames of the first `pairs` pairs move from now on. Throws what the NIC throws. */
  async setPairs(pairs: number): Promise<void> {
    this.#pairs = pairs;
    for (const { index } of this.#told.keys()) await this.#options.nic.enableVring(index, index >> 1 < pairs);
  }

  /** The NIC has none any more. */
  async reset(): Promise<void> {
    const { nic } = this.#options;
    await nic.reset();
    for (const { index } of this.#told.keys()) await nic.setVringCall(index, null);
    this.#told.clear();
    this.#pairs = 1;
    this.#error.drain();
  }

  close(): void {
    this.#watch.close();
    this.#error.close();
  }

  async #tried(step: () => Promise<void>): Promise<void> {
    try {
      await step();
    } catch (error) {
      this.#options.onBroken(error as Error);
    }
  }
}
