/**
 * Buffers of a guest that is larger than the window, in the few places that copy whole frames: what has no window address has one in this process, by
 * which whoever instantiated the module copies.
 *
 * ```
 *   iovec ── window address? ──► memory.copy
 *                 │ 0
 *                 └─ address in this process ──► copyIn, copyOut: a call that leaves the module
 * ```
 */
import { bufferAt, bufferFlat } from './offload';

/** Copies `length` bytes from `from`, an address in this process, to a window address. */
export declare function copyIn(to: usize, from: u64, length: u32): void;
/** The other way round. */
export declare function copyOut(to: u64, from: usize, length: u32): void;

/** Copies `n` bytes of the frame's buffer `b`, from its start, to a window address. */
export function readBuffer(to: usize, frame: usize, b: u32, n: u32): void {
  const window = bufferAt(frame, b);
  if (window != 0) memory.copy(to, window, n);
  else if (n != 0) copyIn(to, bufferFlat(frame, b), n);
}

/** Copies `n` bytes to `offset` of the frame's buffer `b`. */
export function writeBuffer(frame: usize, b: u32, offset: u32, from: usize, n: u32): void {
  const window = bufferAt(frame, b);
  if (window != 0) memory.copy(window + offset, from, n);
  else if (n != 0) copyOut(bufferFlat(frame, b) + offset, from, n);
}
