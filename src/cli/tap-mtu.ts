/** The MTU of a guest's TAP while its packets grow on their way: what the card adds has to fit into a frame as well. */
import { LinuxError } from '../linux/errors.js';
import { changeLink, linkInfo } from '../linux/link.js';
import type { TapHandle } from '../port/tap.js';
import type { Log } from './log.js';

/** Bytes of an IP packet in the longest frame that a card without offloads carries. */
const FULL_MTU = 1500;

/**
 * Returns what is to be told how many bytes packets grow by. While that is not 0 the interface's MTU is at most 1500 less as many; afterwards it is
 * what it was, unless somebody else has set it meanwhile.
 */
export function mtuKeeper({ tap, netns }: TapHandle, log: Log): (overhead: number) => void {
  let before = 0;
  let ours = 0;
  return overhead => {
    try {
      const { mtu } = linkInfo(tap.name, netns);
      if (mtu !== ours) before = mtu;
      ours = overhead === 0 ? 0 : Math.min(before, FULL_MTU - overhead);
      const wanted = ours === 0 ? before : ours;
      if (wanted !== mtu) changeLink(tap.name, { mtu: wanted }, netns);
    } catch (error) {
      if (!(error instanceof LinuxError)) throw error;
      if (tap.exists) log('warn', `the MTU stays as it is: ${error.message}`);
    }
  };
}
