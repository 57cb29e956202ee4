/**
 * A virtio driver as text, for people:
 *
 * ```
 *   driver running, features 0x… of 0x…, 1 queue pairs, frames sent again 0, given up 0
 *   ring 0 rx: 256 buffers, posted 256, free 0, available 0x100, used 0x0, fault none
 *     counted …
 * ```
 */
import * as L from '../../../datapath/layout.js';
import type { Window } from '../../memory/window.js';
import { counterLine } from '../../nic/dump.js';
import { readStats } from '../../nic/queue.js';
import { faultName } from '../../ring/dump.js';
import type { VirtioQueues } from './queues.js';
import type { VirtioOffer } from './transport.js';

export interface DumpedVirtioDriver {
  readonly running: boolean;
  readonly offer: VirtioOffer | null;
  readonly queues: VirtioQueues | null;
  readonly again: number;
  readonly lost: number;
}

/** Lines, the last one without an end. */
export function dumpVirtioDriver(window: Window, driver: DumpedVirtioDriver): string {
  const { running, offer, queues, again, lost } = driver;
  const features = `features ${hex(queues?.contract.features ?? 0n)} of ${hex(offer?.features ?? 0n)}`;
  const pairs = `${queues?.contract.queuePairs ?? 0} queue pairs`;
  const rings = queues === null ? [] : [...queues.rx, ...queues.tx].sort((a, b) => a.index - b.index);
  return [
    `driver ${running ? 'running' : 'stopped'}, ${features}, ${pairs}, frames sent again ${again}, given up ${lost}`,
    ...rings.map(ring => {
      const at = (field: number) => window.words[(ring.address + field) >>> 2]!;
      const buffers = `posted ${at(L.DRIVER_POSTED)}, free ${at(L.DRIVER_FREE_COUNT)}`;
      const positions = `available ${hex(at(L.VDRV_AVAIL))}, used ${hex(at(L.VDRV_USED))}`;
      const state = `${buffers}, ${positions}, fault ${faultName(at(L.DRIVER_FAULT))}`;
      return [
        `ring ${ring.index} ${ring.index % 2 === 0 ? 'rx' : 'tx'}: ${ring.buffers} buffers, ${state}`,
        `  counted ${counterLine(readStats(window, ring.address + L.DRIVER_STATS))}`,
      ].join('\n');
    }),
  ].join('\n');
}

function hex(value: bigint | number): string {
  return `0x${value.toString(16)}`;
}
