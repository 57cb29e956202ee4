/** What all parts of the guest driver write into a queue's books: faults and traffic. */
import { count } from './batch';
import * as L from './layout';

/** The queue stands still from now on. Returns -1. */
export function fault(driver: usize, reason: u32): i32 {
  store<u32>(driver, reason, L.DRIVER_FAULT);
  count(driver + L.DRIVER_STATS, L.STAT_ERRORS, 1);
  return -1;
}

/** A batch of packets has passed. */
export function account(driver: usize, packets: u32, bytes: u64, buffers: u32): void {
  const stats = driver + L.DRIVER_STATS;
  count(stats, L.STAT_PACKETS, packets);
  count(stats, L.STAT_BYTES, bytes);
  count(stats, L.STAT_BUFFERS, buffers);
  count(stats, L.STAT_BATCHES, 1);
}
