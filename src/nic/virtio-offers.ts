/** Feature bits that a virtio NIC offers, and which of them `--offload` can take away. */
import { FEATURE } from '../ring/features.js';
import { VIRTIO_FEATURE as F, VIRTQ_FEATURES } from '../ring/virtio/features.js';

/** Of virtio-net, beside what the datapath knows: the guest is told the largest packet; announces itself where it can; several queue pairs. */
export const NET_FEATURE = { MTU: 1n << 3n, GUEST_ANNOUNCE: 1n << 21n, MQ: 1n << 22n } as const;

/** By the names that users give to offloads (src/ring/features.ts). */
const OFFLOADS: readonly (readonly [bpfhv: number, virtio: bigint])[] = [
  [FEATURE.TX_CSUM, F.CSUM],
  [FEATURE.RX_CSUM, F.GUEST_CSUM],
  [FEATURE.TSOV4, F.HOST_TSO4 | F.HOST_ECN],
  [FEATURE.TCPV4_LRO, F.GUEST_TSO4 | F.GUEST_ECN],
  [FEATURE.TSOV6, F.HOST_TSO6],
  [FEATURE.TCPV6_LRO, F.GUEST_TSO6],
  [FEATURE.UFO, F.HOST_UFO | F.HOST_USO],
  [FEATURE.UDP_LRO, F.GUEST_UFO | F.GUEST_USO4 | F.GUEST_USO6],
];

const ALL_OFFLOADS = OFFLOADS.reduce((all, [, virtio]) => all | virtio, 0n);

/** Virtio's bits for the offloads of a set of bpfhv's. */
export function virtioOffloads(features: bigint): bigint {
  return OFFLOADS.reduce(
    (all, [bpfhv, virtio]) => ((features & BigInt(bpfhv)) !== 0n ? all | virtio : all),
    0n,
  );
}

/** What is offered with these offloads (virtio's bits) and at most so many queue pairs. */
export function offer(offloads: bigint, queuePairs: number): bigint {
  const net = NET_FEATURE.MTU | NET_FEATURE.GUEST_ANNOUNCE | (queuePairs > 1 ? NET_FEATURE.MQ : 0n);
  return (VIRTQ_FEATURES & ~ALL_OFFLOADS) | (VIRTQ_FEATURES & offloads) | net;
}
