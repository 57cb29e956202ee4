/** What a driver takes of what a device offers (virtio 1.2, 2.2, 5.1.3 and 6). */
import { NET_FEATURE } from '../../nic/virtio-offers.js';
import { VIRTIO_FEATURE as F } from '../../ring/virtio/features.js';
import { DriverError } from '../bpfhv/transport.js';
import type { VirtioOffer } from './transport.js';

/** What the guest would like. */
export interface VirtioWish {
  readonly queuePairs: number;
  /** Descriptors per ring: a power of two. */
  readonly bufs: number;
  /** Packed rings, where there are such. */
  readonly packed: boolean;
  /** Offloads, virtio feature bits. */
  readonly offloads: bigint;
}

/** What driver and device work with. */
export interface VirtioContract {
  readonly features: bigint;
  readonly queuePairs: number;
  readonly bufs: number;
}

/** Taken whenever they are offered. */
const ALWAYS = F.MRG_RXBUF | F.INDIRECT_DESC | F.EVENT_IDX | F.IN_ORDER | F.VERSION_1;

/** A feature is of use only with all of another set; in an order in which each is judged after what it needs. */
const NEEDS: readonly (readonly [features: bigint, needed: bigint])[] = [
  [F.HOST_TSO4 | F.HOST_TSO6 | F.HOST_UFO | F.HOST_USO, F.CSUM],
  [F.GUEST_TSO4 | F.GUEST_TSO6 | F.GUEST_UFO | F.GUEST_USO4 | F.GUEST_USO6, F.GUEST_CSUM | F.MRG_RXBUF],
  [F.GUEST_USO4, F.GUEST_USO6], // kernels know both only together
  [F.GUEST_USO6, F.GUEST_USO4],
];
/** Of no use without one of another set. */
const NEEDS_ONE: readonly (readonly [features: bigint, oneOf: bigint])[] = [
  [F.HOST_ECN, F.HOST_TSO4 | F.HOST_TSO6],
  [F.GUEST_ECN, F.GUEST_TSO4 | F.GUEST_TSO6],
];

/** The rest of a wish's features is not the user's to choose. */
const OFFLOADS = [...NEEDS, ...NEEDS_ONE].reduce((all, [these]) => all | these, F.CSUM | F.GUEST_CSUM);

/** Throws DriverError DRIVER_DEVICE for a device that no driver of ours can work with. */
export function negotiate({ features, queuePairs }: VirtioOffer, wish: VirtioWish): VirtioContract {
  const pairs = Math.min(queuePairs, wish.queuePairs);
  const wanted =
    ALWAYS |
    (wish.offloads & OFFLOADS) |
    (wish.packed ? F.RING_PACKED : 0n) |
    (pairs > 1 ? NET_FEATURE.MQ : 0n);
  let taken = features & wanted;
  if ((taken & F.VERSION_1) === 0n) {
    taken = (taken | (features & F.ANY_LAYOUT)) & ~F.RING_PACKED;
    if ((taken & F.ANY_LAYOUT) === 0n) {
      throw new DriverError('DRIVER_DEVICE', 'the device offers neither VERSION_1 nor ANY_LAYOUT');
    }
  }
  for (const [these, needed] of NEEDS) if ((taken & needed) !== needed) taken &= ~these;
  for (const [these, oneOf] of NEEDS_ONE) if ((taken & oneOf) === 0n) taken &= ~these;
  return { features: taken, queuePairs: pairs, bufs: wish.bufs };
}

/** Nothing changes for a ring from one contract to the other. */
export function sameContract(a: VirtioContract, b: VirtioContract): boolean {
  return a.features === b.features && a.queuePairs === b.queuePairs && a.bufs === b.bufs;
}
