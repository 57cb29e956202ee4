/**
 * How a virtio-net driver reaches its device: features, rings, doorbells and interrupts. The driver is the same over every one: messages to a
 * backend process (src/control/vhost-user/device.ts), or the kernel's vhost-net (kernel-device.ts).
 *
 * ```
 *   offer ──► negotiate ──► rings in guest memory ──► start ── packets ── stop ──► start …
 * ```
 */
import type { Areas } from '../../ring/virtio/areas.js';
import type { GuestRam } from '../guest-ram.js';

/** What a device has. */
export interface VirtioOffer {
  /** Virtio feature bits. */
  readonly features: bigint;
  readonly queuePairs: number;
}

/** Where a ring is. Rings are numbered as virtio does: 0 receives and 1 transmits for the first queue pair, 2 and 3 for the second one. */
export interface RingPlace {
  readonly index: number;
  /** Descriptors. */
  readonly num: number;
  /** Where the device has to begin, in the form of vhost's VRING_BASE. */
  readonly base: number;
  /** Guest physical addresses. */
  readonly areas: Areas<bigint>;
}

export interface VirtioTransport {
  /** The guest memory that the device can reach. */
  readonly ram: GuestRam;
  /** Null: there is no device now. Another object: another device, which knows nothing of what the former one was told. */
  readonly offer: VirtioOffer | null;
  /** Whether the device has a link; without this, it has one as long as it is there. */
  readonly linkUp?: boolean;
  /** Has the device work on these rings from now on, with these of its features. Rejects when it can't, or is gone; `stop` then makes sure of it. */
  start(features: bigint, rings: readonly RingPlace[]): Promise<void>;
  /** When it resolves, the device touches no ring any more; rejects when it is gone. */
  stop(): Promise<void>;
  /** The eventfd that rings the ring's doorbell. */
  kick(ring: number): number;
  /** The eventfd of the ring's interrupt. */
  call(ring: number): number;
  /** Called when `offer` or `linkUp` has changed. */
  onChange: () => void;
}
