/** bpfhv feature bits (docs/bpfhv.md, "Feature bits"), and what a set of them means for the frames of one direction. */
import { LARGE_FRAME, OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_UFO } from '../../datapath/layout.js';

export const FEATURE = {
  SG: 1 << 0,
  TX_CSUM: 1 << 1,
  RX_CSUM: 1 << 2,
  TSOV4: 1 << 3,
  TCPV4_LRO: 1 << 4,
  TSOV6: 1 << 5,
  TCPV6_LRO: 1 << 6,
  UFO: 1 << 7,
  UDP_LRO: 1 << 8,
} as const;

/** The set of these bits. */
export function maskOf(...bits: readonly number[]): bigint {
  return BigInt(bits.reduce((mask, bit) => mask | bit, 0));
}

/** Names that users give to offloads, and the features behind each. Scatter-gather comes with any of them, checksums with segmentation. */
const { SG, TX_CSUM, RX_CSUM } = FEATURE;
const NAMES: Readonly<Record<string, number>> = {
  none: 0,
  txcsum: SG | TX_CSUM,
  rxcsum: SG | RX_CSUM,
  csum: SG | TX_CSUM | RX_CSUM,
  tso: SG | TX_CSUM | FEATURE.TSOV4 | FEATURE.TSOV6,
  lro: SG | RX_CSUM | FEATURE.TCPV4_LRO | FEATURE.TCPV6_LRO,
  ufo: SG | TX_CSUM | RX_CSUM | FEATURE.UFO | FEATURE.UDP_LRO,
  all: 0x1ff,
};

/** How offloads are written, for `--help`. */
export const offloadUsage = 'all, none, csum, or a list of txcsum,rxcsum,tso,lro,ufo';

/** The features that a word or a list of words, separated by commas, stands for; null for words that are none of ours. */
export function parseOffloads(text: string): bigint | null {
  const words = text.split(',');
  return words.every(word => Object.hasOwn(NAMES, word)) ? maskOf(...words.map(word => NAMES[word]!)) : null;
}

/** Per direction, seen from the guest: a feature and what it allows a frame to ask for. */
const OFFLOADS = {
  tx: [
    [FEATURE.TX_CSUM, OFFLOAD_CSUM],
    [FEATURE.TSOV4, OFFLOAD_TSO4],
    [FEATURE.TSOV6, OFFLOAD_TSO6],
    [FEATURE.UFO, OFFLOAD_UFO],
  ],
  rx: [
    [FEATURE.RX_CSUM, OFFLOAD_CSUM],
    [FEATURE.TCPV4_LRO, OFFLOAD_TSO4],
    [FEATURE.TCPV6_LRO, OFFLOAD_TSO6],
    [FEATURE.UDP_LRO, OFFLOAD_UFO],
  ],
} as const;

/** OFFLOAD_* that frames of a direction may ask for under these features. Without checksums nothing else can be. */
export function offloadsOf(features: bigint, direction: 'rx' | 'tx'): number {
  let offloads = 0;
  for (const [feature, offload] of OFFLOADS[direction]) {
    if ((Number(features & 0x1ffn) & feature) !== 0) offloads |= offload;
  }
  return (offloads & OFFLOAD_CSUM) === 0 ? 0 : offloads;
}

/** Whether frames that ask for these may be large. */
export function isLarge(offloads: number): boolean {
  return (offloads & ~OFFLOAD_CSUM) !== 0;
}

/** What frames of a direction may be: their largest size in bytes, and what they may ask for. */
export function frameLimits(
  device: { readonly maxFrame: number },
  features: bigint,
  direction: 'rx' | 'tx',
): { maxFrame: number; offloads: number } {
  const offloads = offloadsOf(features, direction);
  return { maxFrame: isLarge(offloads) ? LARGE_FRAME : device.maxFrame, offloads };
}
