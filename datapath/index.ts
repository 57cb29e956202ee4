/** The datapath module: everything that is called from outside. It imports its memory and its function table, and keeps no data of its own. */

export { packet_done, packet_length, packet_of, packet_unauthentic } from './active';
export { dirty_mark } from './dirty';
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
} from './driver';
export { sink_drain, source_fill } from './flow';
export {
  helper_csum_get,
  helper_csum_set,
  helper_dma_map,
  helper_dma_unmap,
  helper_meta_set,
  helper_rx_pkt_alloc,
  helper_vnet_get,
  helper_vnet_set,
} from './helpers';
export {
  kit_account,
  kit_clear,
  kit_end,
  kit_has_room,
  kit_refuse,
  kit_take,
} from './kit';
export { metadata_fill, metadata_want } from './metadata';
export { checksums_finish, checksums_restore, offload_undo } from './offload';
export { segment_begin, segment_fill, segment_next, segment_pending } from './segment';
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
export {
  sring_gso_init,
  sring_gso_kicks,
  sring_gso_pending,
  sring_gso_resume,
  sring_gso_rx_push,
  sring_gso_rx_room,
  sring_gso_size,
  sring_gso_tx_complete,
  sring_gso_tx_pop,
} from './sring-gso';
export {
  switch_addresses,
  switch_arm,
  switch_forget,
  switch_get,
  switch_leave,
  switch_put,
  switch_waiting,
} from './switch';
export {
  vdrv_arm,
  vdrv_reclaim,
  vdrv_reset,
  vdrv_rx_poll,
  vdrv_rx_refill,
  vdrv_rx_release,
  vdrv_show,
  vdrv_tx_again,
  vdrv_tx_complete,
  vdrv_tx_publish,
  vdrv_tx_restart,
  vdrv_tx_room,
} from './vdrv';
export { virtq_rx_push, virtq_rx_room, virtq_tx_complete, virtq_tx_pop } from './virtq';
export {
  virtq_base_get,
  virtq_base_set,
  virtq_init,
  virtq_kicks,
  virtq_pending,
  virtq_resume,
} from './virtq-ring';
export {
  vring_packed_init,
  vring_packed_kicks,
  vring_packed_pending,
  vring_packed_resume,
  vring_packed_rx_push,
  vring_packed_rx_room,
  vring_packed_size,
  vring_packed_tx_complete,
  vring_packed_tx_pop,
} from './vring-packed';

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

/**
 * Busy-waits for `rounds` times some eight nanoseconds. WebAssembly has no pause instruction; a chain of square roots leaves a core's other
 * hardware thread almost all of it, where a loop of loads would not. Returns what nobody needs, so that it isn't optimised away.
 */
export function relax(rounds: u32): f64 {
  let x: f64 = 2;
  for (let i: u32 = 0; i < rounds; i++) x = sqrt(x);
  return x;
}

/** Calls a program `n` times as the driver's loop does, for timing it. Returns the sum of its results. */
export function call_many(program: u32, context: u64, n: u32): i64 {
  let sum: i64 = 0;
  for (let i: u32 = 0; i < n; i++) sum += call_indirect<i64>(program, context);
  return sum;
}

/** A helper that does nothing, for timing programs by themselves. */
export function helper_nothing(_context: u64): i64 {
  return 0;
}
