/** The datapath module: everything that is called from outside. It imports its memory and its function table, and keeps no data of its own. */

export {
  driver_arm,
  driver_fail,
  driver_reclaim,
  driver_reset,
  driver_rx_poll,
  driver_rx_refill,
  driver_rx_release,
  driver_seize,
  driver_tx_complete,
  driver_tx_publish,
  driver_tx_room,
  helper_csum_get,
  helper_csum_set,
  helper_dma_map,
  helper_dma_unmap,
  helper_rx_pkt_alloc,
  helper_vnet_get,
  helper_vnet_set,
} from './driver';
export { sink_drain, source_fill } from './flow';
export {
  sring_init,
  sring_kicks,
  sring_pending,
  sring_resume,
  sring_rx_push,
  sring_rx_room,
  sring_size,
  sring_tx_complete,
  sring_tx_pop,
} from './sring';

import { count } from './batch';
import { windowAddress } from './memory';

/** Window address of [gpa, gpa + length) by the region table, 0 = none. */
export function translate(regions: usize, hint: usize, gpa: u64, length: u64): usize {
  return windowAddress(regions, hint, gpa, length);
}

/** Adds one to a counter. */
export function bump(stats: usize, counter: usize): void {
  count(stats, counter, 1);
}

/** Busy-waits: loads a word of ours, over and over. */
export function relax(word: usize, rounds: u32): void {
  for (let i: u32 = 0; i < rounds; i++) atomic.load<u32>(word);
}
