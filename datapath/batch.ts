/**
 * A batch: what rings fill and ports empty, and the other way round.
 *
 * ```
 *   frame ──► iov[0] virtio-net header (ours)      the kernel takes iov[0..iovs) as it is
 *             iov[1] first buffer (the guest's)    win[i] is the window address of iov[i], 0 = not in the window
 *             …
 *             iov[n] spill, ours                   receive only: a frame that needs it is too long for its buffers
 * ```
 */
import * as L from './layout';

export function clear(batch: usize): void {
  store<u32>(batch, 0, L.BATCH_COUNT);
  store<u32>(batch, 0, L.BATCH_IOV_USED);
  store<u32>(batch, 0, L.BATCH_METADATA);
}

/** True while one more frame of up to `buffers` buffers fits. */
export function hasRoom(batch: usize, buffers: u32): bool {
  return (
    load<u32>(batch, L.BATCH_COUNT) < load<u32>(batch, L.BATCH_CAPACITY) &&
    load<u32>(batch, L.BATCH_IOV_USED) + buffers + 2 <= load<u32>(batch, L.BATCH_IOV_CAPACITY)
  );
}

export function frameAt(batch: usize, index: u32): usize {
  return <usize>load<u32>(batch, L.BATCH_FRAMES) + <usize>index * L.FRAME_SIZE;
}

/** Begins a frame with a cleared virtio-net header and no payload; it counts only after `endFrame`. The caller has asked `hasRoom`. */
export function beginFrame(batch: usize): usize {
  const index = load<u32>(batch, L.BATCH_COUNT);
  const frame = frameAt(batch, index);
  const header = <usize>load<u32>(batch, L.BATCH_HEADERS) + <usize>index * L.VNET_HEADER_STRIDE;
  store<u64>(header, 0);
  store<u32>(header, 0, 8);
  const slot = <usize>load<u32>(batch, L.BATCH_IOV_USED);
  const iov = <usize>load<u32>(batch, L.BATCH_IOV) + slot * L.IOVEC_SIZE;
  store<u64>(iov, load<u64>(batch, L.BATCH_BASE) + header, L.IOVEC_BASE);
  store<u64>(iov, L.VNET_HEADER_SIZE, L.IOVEC_LENGTH);
  store<u32>(frame, <u32>iov, L.FRAME_IOV);
  store<u32>(frame, 1, L.FRAME_IOVS);
  store<u32>(frame, 0, L.FRAME_LENGTH);
  store<u32>(frame, 0, L.FRAME_ROOM);
  store<u32>(frame, <u32>header, L.FRAME_HEADER);
  store<u32>(frame, load<u32>(batch, L.BATCH_WIN) + ((<u32>slot + 1) << 2), L.FRAME_WIN);
  return frame;
}

/** Appends a buffer of `length` bytes: `flat` for the kernel, `window` for us. */
export function addBuffer(frame: usize, flat: u64, window: usize, length: u32): void {
  const n = load<u32>(frame, L.FRAME_IOVS);
  const iov = <usize>load<u32>(frame, L.FRAME_IOV) + <usize>n * L.IOVEC_SIZE;
  store<u64>(iov, flat, L.IOVEC_BASE);
  store<u64>(iov, <u64>length, L.IOVEC_LENGTH);
  store<u32>(<usize>load<u32>(frame, L.FRAME_WIN) + ((<usize>(n - 1)) << 2), <u32>window);
  store<u32>(frame, n + 1, L.FRAME_IOVS);
  store<u32>(frame, load<u32>(frame, L.FRAME_LENGTH) + length, L.FRAME_LENGTH);
}

/** Ends a frame that goes out. `end` is the ring's index behind it. */
export function endFrame(batch: usize, frame: usize, end: u32): void {
  store<u32>(frame, end, L.FRAME_END);
  store<u32>(batch, load<u32>(batch, L.BATCH_IOV_USED) + load<u32>(frame, L.FRAME_IOVS), L.BATCH_IOV_USED);
  store<u32>(batch, load<u32>(batch, L.BATCH_COUNT) + 1, L.BATCH_COUNT);
}

/** Ends a frame that waits to be filled: what was added so far is its room, and the spill stands behind it. */
export function endRoom(batch: usize, frame: usize, end: u32): void {
  const n = load<u32>(frame, L.FRAME_IOVS);
  const iov = <usize>load<u32>(frame, L.FRAME_IOV) + <usize>n * L.IOVEC_SIZE;
  store<u64>(iov, load<u64>(batch, L.BATCH_BASE) + load<u32>(batch, L.BATCH_SPILL), L.IOVEC_BASE);
  store<u64>(iov, L.SPILL_SIZE, L.IOVEC_LENGTH);
  store<u32>(frame, load<u32>(frame, L.FRAME_LENGTH), L.FRAME_ROOM);
  endFrame(batch, frame, end);
  store<u32>(batch, load<u32>(batch, L.BATCH_IOV_USED) + 1, L.BATCH_IOV_USED);
}

/**
 * All of it at once for a frame of one buffer, which is most of them: begins it, appends the buffer, ends it. `room`: it waits to be filled, as
 * by `endRoom`.
 */
export function addFrame(batch: usize, flat: u64, window: usize, length: u32, room: bool, end: u32): void {
  const index = load<u32>(batch, L.BATCH_COUNT);
  const slot = load<u32>(batch, L.BATCH_IOV_USED);
  const frame = frameAt(batch, index);
  const header = <usize>load<u32>(batch, L.BATCH_HEADERS) + <usize>index * L.VNET_HEADER_STRIDE;
  const iov = <usize>load<u32>(batch, L.BATCH_IOV) + <usize>slot * L.IOVEC_SIZE;
  const win = <usize>load<u32>(batch, L.BATCH_WIN) + ((<usize>slot + 1) << 2);
  const base = load<u64>(batch, L.BATCH_BASE);
  store<u64>(header, 0);
  store<u32>(header, 0, 8);
  store<u64>(iov, base + header, L.IOVEC_BASE);
  store<u64>(iov, L.VNET_HEADER_SIZE, L.IOVEC_LENGTH);
  store<u64>(iov, flat, L.IOVEC_SIZE + L.IOVEC_BASE);
  store<u64>(iov, <u64>length, L.IOVEC_SIZE + L.IOVEC_LENGTH);
  store<u32>(win, <u32>window);
  if (room) {
    store<u64>(iov, base + load<u32>(batch, L.BATCH_SPILL), 2 * L.IOVEC_SIZE + L.IOVEC_BASE);
    store<u64>(iov, L.SPILL_SIZE, 2 * L.IOVEC_SIZE + L.IOVEC_LENGTH);
  }
  store<u32>(frame, <u32>iov, L.FRAME_IOV);
  store<u32>(frame, 2, L.FRAME_IOVS);
  store<u32>(frame, length, L.FRAME_LENGTH);
  store<u32>(frame, room ? length : 0, L.FRAME_ROOM);
  store<u32>(frame, <u32>header, L.FRAME_HEADER);
  store<u32>(frame, end, L.FRAME_END);
  store<u32>(frame, <u32>win, L.FRAME_WIN);
  store<u32>(batch, slot + (room ? 3 : 2), L.BATCH_IOV_USED);
  store<u32>(batch, index + 1, L.BATCH_COUNT);
}

/** Adds to a u64 counter. */
export function count(stats: usize, counter: usize, n: u64): void {
  store<u64>(stats + counter, load<u64>(stats + counter) + n);
}
