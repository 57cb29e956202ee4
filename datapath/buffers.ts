/**
 * The guest driver's buffers: who has which.
 *
 * ```
 *   free    [ 7 │ 2 │ 5 │ 0 │ 9 ]◄── FREE_COUNT       a stack of indices
 *   owner   [ F │ D │ F │ F │ D │ … ]                 one byte a buffer: free, with the device, or on its way through the driver
 * ```
 * Addresses of buffers: in guest memory for the device, window addresses for us; from one to the next it is a power of two.
 */
import * as L from './layout';

/** Window address of a buffer. */
export function bufferAt(driver: usize, index: u32): usize {
  return <usize>load<u32>(driver, L.DRIVER_BUFFERS) + <usize>index * load<u32>(driver, L.DRIVER_STRIDE);
}

/** Entry `i` of the context's buffers. The device reads it: our own addresses are none of its business. */
export function setBuffer(context: usize, i: u32, cookie: u32, gpa: u64, length: u32): void {
  const buf = context + L.CTX_BUFS + <usize>i * L.BUF_SIZE;
  store<u64>(buf, cookie, L.BUF_COOKIE);
  store<u64>(buf, gpa, L.BUF_PADDR);
  store<u64>(buf, gpa, L.BUF_VADDR);
  store<u32>(buf, length, L.BUF_LEN);
}

/** Puts as many of the frame's buffers as it needs into the context; the first is listed right before `at`. Returns how many. */
export function lend(driver: usize, context: usize, at: usize, freeCount: u32, length: u32): u32 {
  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  const gpa = load<u64>(driver, L.DRIVER_BUFFERS_GPA);
  const stride = load<u32>(driver, L.DRIVER_STRIDE);
  const room = load<u32>(driver, L.DRIVER_ROOM);
  const last = load<u32>(driver, L.DRIVER_FRAME_BUFFERS) - 1;
  let top = <usize>load<u32>(driver, L.DRIVER_FREE) + ((<usize>freeCount) << 2);
  let used: u32 = 0;
  do {
    at -= 4;
    top -= 4;
    const index = load<u32>(at);
    store<u32>(at, load<u32>(top));
    const part = used == last ? length : min(length, room);
    setBuffer(context, used++, index, gpa + <u64>index * stride, part);
    store<u8>(owner + index, L.OWNER_DEVICE);
    length -= part;
  } while (length != 0);
  return used;
}

/** Takes back the buffers that a program put into the context. False when one of them is not the device's. */
export function takeBack(driver: usize, context: usize): bool {
  const n = load<u32>(context, L.CTX_NUM_BUFS);
  if (n == 0 || n > <u32>L.CTX_MAX_BUFS) return false;
  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  const buffers = load<u32>(driver, L.DRIVER_NUM);
  for (let i: u32 = 0; i < n; i++) {
    const cookie = load<u64>(context + L.CTX_BUFS + <usize>i * L.BUF_SIZE, L.BUF_COOKIE);
    if (cookie >= buffers || load<u8>(owner + <usize>cookie) != L.OWNER_DEVICE) return false;
    store<u32>(driver, load<u32>(driver, L.DRIVER_POSTED) - 1, L.DRIVER_POSTED);
    setFree(driver, <u32>cookie);
  }
  return true;
}

/** A received frame's buffers are free again. Returns how many. */
export function release(driver: usize, frame: usize, buffers: u32, shift: u32): u32 {
  const win = <usize>load<u32>(frame, L.FRAME_WIN);
  const segments = load<u32>(frame, L.FRAME_IOVS) - 1;
  for (let s: u32 = 0; s < segments; s++) {
    setFree(driver, (load<u32>(win + ((<usize>s) << 2)) - buffers) >> shift);
  }
  return segments;
}

/** The buffer goes on top of the free ones. */
export function setFree(driver: usize, index: u32): void {
  const freeCount = load<u32>(driver, L.DRIVER_FREE_COUNT);
  store<u32>(<usize>load<u32>(driver, L.DRIVER_FREE) + ((<usize>freeCount) << 2), index);
  store<u32>(driver, freeCount + 1, L.DRIVER_FREE_COUNT);
  store<u8>(<usize>load<u32>(driver, L.DRIVER_OWNER) + index, L.OWNER_FREE);
}
