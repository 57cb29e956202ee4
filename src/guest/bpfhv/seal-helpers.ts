/** The helpers pkt_seal and pkt_open: a Sealer for the packet at hand, which lies in private memory and is worked on once. */
import type { DatapathExports } from '../../ring/datapath.js';
import { PKT_OPEN, PKT_SEAL } from './helpers.js';
import { RX_BUFFER_SIZE } from './registers.js';
import { EBADMSG, type Sealer } from './seal.js';

/** As in datapath/active.ts. */
const HOOK_PREPARE = 1;
const HOOK_FINISH = 2;
const EINVAL = -22;

/** `bytes` is the window; `queue` says whose packet is at hand. `onUnauthentic` is told of each packet that was not. */
export function sealingHelpers(
  calls: DatapathExports,
  bytes: Uint8Array,
  sealer: Sealer,
  queue: () => number,
  onUnauthentic: () => void,
): [number, (...args: bigint[]) => bigint][] {
  function seal(): number {
    const at = calls.packet_of(HOOK_PREPARE);
    if (at === 0) return EINVAL;
    return done(sealer.seal(bytes, at, calls.packet_length(), RX_BUFFER_SIZE, queue()));
  }

  function open(): number {
    const at = calls.packet_of(HOOK_FINISH);
    if (at === 0) return EINVAL;
    const result = sealer.open(bytes, at, calls.packet_length());
    if (result === EBADMSG) {
      calls.packet_unauthentic();
      onUnauthentic();
    }
    return done(result);
  }

  function done(result: number): number {
    if (result < 0) return result;
    calls.packet_done(result);
    return 0;
  }

  return [
    [PKT_SEAL, () => BigInt(seal())],
    [PKT_OPEN, () => BigInt(open())],
  ];
}
