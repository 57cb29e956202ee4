/**
 * What every ring format does alike on the device side of a queue. The formats differ in how a descriptor is found and handed back; what it may
 * point to, and which of them a batch stands for, is decided here.
 *
 * ```
 *   CONS            FRAME_END of frame 0     … of frame 1       SEEN
 *   ──┼── bad ── frame 0 ──┼── frame 1 ──────────┼── bad ── bad ──┼──►   index, or position, of a descriptor
 *     └────── taken ───────┘
 * ```
 * A bad descriptor goes back together with the frame behind it, and at the end of a batch that was taken as a whole.
 */
import { addFrame, count, frameAt } from './batch';
import * as L from './layout';
import { findRegion, mayWrite } from './memory';

/** Appends the buffer of the descriptor before `end` to the batch as a frame, or counts an error when there can be no such buffer. */
export function take(queue: usize, batch: usize, gpa: u64, length: u32, receive: bool, end: u32): void {
  const most = load<u32>(queue, L.QUEUE_MAX_FRAME);
  const regions = <usize>load<u32>(queue, L.QUEUE_REGIONS);
  const region = findRegion(regions, queue + L.QUEUE_HINT, gpa, <u64>length);
  if (region == 0 || (receive ? !mayWrite(region) : length > most)) {
    refuse(queue);
    return;
  }
  const offset = gpa - load<u64>(region, L.REGION_GPA);
  const window = <usize>load<u32>(region, L.REGION_WINDOW);
  addFrame(
    batch,
    load<u64>(region, L.REGION_FLAT) + offset,
    window == 0 ? 0 : window + <usize>offset,
    receive ? min(length, most) : length,
    receive,
    end,
  );
}

/** A descriptor that makes no sense. */
export function refuse(queue: usize): void {
  count(queue + L.QUEUE_STATS, L.STAT_ERRORS, 1);
}

/** The index behind the n-th frame, and behind bad descriptors that follow the last one. */
export function endOf(queue: usize, batch: usize, n: u32): u32 {
  if (n == load<u32>(batch, L.BATCH_COUNT)) return load<u32>(queue, L.QUEUE_SEEN);
  return n == 0 ? load<u32>(queue, L.QUEUE_CONS) : load<u32>(frameAt(batch, n - 1), L.FRAME_END);
}

/** Counts the first `n` frames of a batch, which took so many buffers. */
export function account(queue: usize, batch: usize, n: u32, buffers: u32): void {
  let bytes: u64 = 0;
  for (let i: u32 = 0; i < n; i++) bytes += load<u32>(frameAt(batch, i), L.FRAME_LENGTH);
  const stats = queue + L.QUEUE_STATS;
  count(stats, L.STAT_PACKETS, n);
  count(stats, L.STAT_BYTES, bytes);
  count(stats, L.STAT_BUFFERS, buffers);
  count(stats, L.STAT_BATCHES, 1);
}
