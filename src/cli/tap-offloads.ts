/** What an old kernel's TAP lacks: nothing is lost by it, but who wonders about its speed is to find it in the log. */
import { OFFLOAD_UFO, OFFLOAD_USO } from '../../datapath/layout.js';
import type { PortHandle } from '../port/port.js';
import type { Log } from './log.js';
import { asTap } from './tap-watch.js';

const LARGE_DATAGRAMS = [
  ['UFO', OFFLOAD_UFO],
  ['USO', OFFLOAD_USO],
] as const;

export function tellOffloads(port: PortHandle, log: Log): void {
  const tap = asTap(port);
  if (!tap) return;
  const lacking = LARGE_DATAGRAMS.filter(([, bits]) => (tap.offloads & bits) === 0).map(([name]) => name);
  if (lacking.length === 0) return;
  const { name } = tap.tap;
  log(
    'info',
    `${name}: this kernel hands out no large datagrams (${lacking.join(', ')}), it cuts them itself`,
  );
}
