/** Virtio feature bits of a network card (virtio 1.2, 5.1.3 and 6), and what a negotiated set of them means for a queue. */
import * as L from '../../../datapath/layout.js';

const bit = (number: number): bigint => 1n << BigInt(number);

/** Masks, by their names in the standard without prefix. */
export const VIRTIO_FEATURE = {
  CSUM: bit(0),
  GUEST_CSUM: bit(1),
  GUEST_TSO4: bit(7),
  GUEST_TSO6: bit(8),
  GUEST_ECN: bit(9),
  GUEST_UFO: bit(10),
  HOST_TSO4: bit(11),
  HOST_TSO6: bit(12),
  HOST_ECN: bit(13),
  HOST_UFO: bit(14),
  MRG_RXBUF: bit(15),
  LOG_ALL: bit(26), // vhost: keep a log of dirty pages
  ANY_LAYOUT: bit(27),
  INDIRECT_DESC: bit(28),
  EVENT_IDX: bit(29),
  VERSION_1: bit(32),
  ACCESS_PLATFORM: bit(33),
  RING_PACKED: bit(34),
  IN_ORDER: bit(35),
  GUEST_USO4: bit(54),
  GUEST_USO6: bit(55),
  HOST_USO: bit(56),
} as const;

/** What the datapath can do of them. The header may always share a descriptor, or be torn; whoever offers ANY_LAYOUT says so. */
export const VIRTQ_FEATURES: bigint = Object.values(VIRTIO_FEATURE).reduce((all, one) => all | one);

const F = VIRTIO_FEATURE;

const FLAGS = [
  [F.RING_PACKED, L.VIRTQ_PACKED],
  [F.EVENT_IDX, L.VIRTQ_EVENT_IDX],
  [F.INDIRECT_DESC, L.VIRTQ_INDIRECT],
  [F.MRG_RXBUF, L.VIRTQ_MERGE],
  [F.IN_ORDER, L.VIRTQ_IN_ORDER],
  [F.ACCESS_PLATFORM, L.VIRTQ_IOTLB],
] as const;

/** Per direction, seen from the guest: a feature and what it allows a frame to ask for. */
const OFFLOADS = {
  tx: [
    [F.CSUM, L.OFFLOAD_CSUM],
    [F.HOST_TSO4, L.OFFLOAD_TSO4],
    [F.HOST_TSO6, L.OFFLOAD_TSO6],
    [F.HOST_UFO, L.OFFLOAD_UFO],
    [F.HOST_USO, L.OFFLOAD_USO],
  ],
  rx: [
    [F.GUEST_CSUM, L.OFFLOAD_CSUM],
    [F.GUEST_TSO4, L.OFFLOAD_TSO4],
    [F.GUEST_TSO6, L.OFFLOAD_TSO6],
    [F.GUEST_UFO, L.OFFLOAD_UFO],
    [F.GUEST_USO4 | F.GUEST_USO6, L.OFFLOAD_USO], // kernels know both only together
  ],
} as const;

export interface QueueSettings {
  /** VIRTQ_* */
  readonly flags: number;
  /** Bytes of the virtio-net header in guest memory. */
  readonly header: number;
  /** OFFLOAD_* that frames may ask for. */
  readonly offloads: number;
}

/** What a queue of that direction has to know of the negotiated features. */
export function queueSettings(features: bigint, direction: 'rx' | 'tx'): QueueSettings {
  const choose = (pairs: readonly (readonly [bigint, number])[]) =>
    pairs.reduce((all, [feature, value]) => ((features & feature) === feature ? all | value : all), 0);
  const offloads = choose(OFFLOADS[direction]);
  return {
    flags: choose(FLAGS) | (direction === 'rx' ? L.VIRTQ_RECEIVE : 0),
    header: (features & (F.VERSION_1 | F.MRG_RXBUF | F.RING_PACKED)) !== 0n ? 12 : 10,
    offloads: (offloads & L.OFFLOAD_CSUM) === 0 ? 0 : offloads, // without checksums nothing else can be
  };
}
