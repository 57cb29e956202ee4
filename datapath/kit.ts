/**
 * What rings that are not written here need of the datapath: the parts of queue.ts and batch.ts, to be called from JavaScript (src/ring/view.ts).
 * Addresses come in halves, since a u64 would be a BigInt there.
 */
import { clear, hasRoom } from './batch';
import { account, endOf, refuse, take } from './queue';

export function kit_clear(batch: usize): void {
  clear(batch);
}

export function kit_has_room(batch: usize, buffers: u32): bool {
  return hasRoom(batch, buffers);
}

export function kit_take(
  queue: usize,
  batch: usize,
  low: u32,
  high: u32,
  length: u32,
  receive: bool,
  end: u32,
): void {
  take(queue, batch, ((<u64>high) << 32) | low, length, receive, end);
}

export function kit_refuse(queue: usize): void {
  refuse(queue);
}

export function kit_end(queue: usize, batch: usize, n: u32): u32 {
  return endOf(queue, batch, n);
}

export function kit_account(queue: usize, batch: usize, n: u32, buffers: u32): void {
  account(queue, batch, n, buffers);
}
