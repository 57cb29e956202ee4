/**
 * A virtio NIC as text, for people: what was agreed on, its memory, and every ring with its place, its state and its counters.
 *
 * ```
 *   virtio, features 0x… of 0x…, MTU 1500, not logged, 2 regions
 *   region 0x0 + 0xa0000 at 0x7f…
 *   ring 0 rx: started, enabled, 256 descriptors, stands at 0x20, fault none
 *     counted …
 * ```
 */
import { faultName } from '../ring/dump.js';
import type { MemoryRegionSpec } from './control.js';
import { counterLine } from './dump.js';
import type { Vring } from './vring.js';

export interface DumpedVirtioNic {
  /** Feature bits. */
  readonly offered: bigint;
  readonly agreed: bigint;
  readonly mtu: number;
  /** A dirty log is kept. */
  readonly logged: boolean;
  readonly regions: readonly MemoryRegionSpec[];
  readonly rings: readonly Vring[];
}

/** Lines, the last one without an end. */
export function dumpVirtioNic({ offered, agreed, mtu, logged, regions, rings }: DumpedVirtioNic): string {
  const log = logged ? 'logged' : 'not logged';
  return [
    `virtio, features ${hex(agreed)} of ${hex(offered)}, MTU ${mtu}, ${log}, ${regions.length} regions`,
    ...regions.map(
      ({ guestPhysicalAddress, size, hypervisorVirtualAddress }) =>
        `region ${hex(guestPhysicalAddress)} + ${hex(size)} at ${hex(hypervisorVirtualAddress)}`,
    ),
    ...rings.map(dumpRing),
  ].join('\n');
}

function dumpRing(ring: Vring): string {
  const { index, direction, phase, enabled, num, base, virtq, stats, complaint } = ring;
  const trouble = complaint === '' ? `fault ${faultName(virtq.fault)}` : complaint;
  const state = `${phase}, ${enabled ? 'enabled' : 'disabled'}, ${num} descriptors`;
  return [
    `ring ${index} ${direction}: ${state}, stands at ${hex(base)}, ${trouble}`,
    `  counted ${counterLine(stats)}`,
  ].join('\n');
}

function hex(value: bigint | number): string {
  return `0x${value.toString(16)}`;
}
