/**
 * source and sink: the two ports that need no kernel. A source numbers its frames; a sink reads every byte and checks the numbers.
 *
 * ```
 *   0            6            12      14   16             24
 *   destination  source       88b5    00   number (u64)   … whatever the buffer held
 * ```
 * 0x88b5 is an EtherType that IEEE 802 keeps for local experiments.
 */
import { frameAt } from './batch';
import * as L from './layout';

/** Writes frames of `length` bytes, or of what their room holds, into the first `n` frames. Returns how many it could write. */
export function source_fill(flow: usize, batch: usize, n: u32, length: u32): u32 {
  let number = load<u64>(flow, L.FLOW_SEQUENCE);
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const room = load<u32>(frame, L.FRAME_ROOM);
    const payload = <usize>load<u32>(load<u32>(frame, L.FRAME_WIN));
    if (payload == 0) {
      n = i; // not in the window
      break;
    }
    const first = <usize>load<u32>(frame, L.FRAME_IOV) + L.IOVEC_SIZE;
    if (load<u64>(first, L.IOVEC_LENGTH) < <u64>L.SOURCE_MIN_LENGTH) {
      store<u32>(frame, 0, L.FRAME_LENGTH); // too short for a number: it goes back empty, and holds up nobody
      continue;
    }
    store<u64>(payload, 0x0002_0000_0000_0002); // from and to 02:00:00:00:00:00
    store<u64>(payload, 0x0000_b588_0000_0000, 8);
    store<u64>(payload, number++, 16);
    store<u32>(frame, min(length, room), L.FRAME_LENGTH);
  }
  store<u64>(flow, number, L.FLOW_SEQUENCE);
  return n;
}

/** Reads the whole batch. Returns the frames, all of them. */
export function sink_drain(flow: usize, batch: usize): u32 {
  const n = load<u32>(batch, L.BATCH_COUNT);
  let expected = load<u64>(flow, L.FLOW_SEQUENCE);
  let outOfOrder: u64 = 0;
  let fold = load<u64>(flow, L.FLOW_FOLD);
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
    const iov = <usize>load<u32>(frame, L.FRAME_IOV) + L.IOVEC_SIZE;
    const win = <usize>load<u32>(frame, L.FRAME_WIN);
    for (let b: u32 = 0; b < buffers; b++) {
      const payload = <usize>load<u32>(win + ((<usize>b) << 2));
      const length = <u32>load<u64>(iov + <usize>b * L.IOVEC_SIZE, L.IOVEC_LENGTH);
      if (payload == 0) continue;
      if (b == 0 && length >= <u32>L.SOURCE_MIN_LENGTH) {
        const number = load<u64>(payload, 16);
        if (number != expected) outOfOrder++;
        expected = number + 1;
      }
      fold ^= foldBytes(payload, length);
    }
  }
  store<u64>(flow, expected, L.FLOW_SEQUENCE);
  store<u64>(flow, load<u64>(flow, L.FLOW_OUT_OF_ORDER) + outOfOrder, L.FLOW_OUT_OF_ORDER);
  store<u64>(flow, fold, L.FLOW_FOLD);
  return n;
}

/** Exclusive or of all bytes in eight lanes. */
function foldBytes(at: usize, length: u32): u64 {
  let lanes = i64x2.splat(0);
  let left = length;
  while (left >= 16) {
    lanes = v128.xor(lanes, v128.load(at));
    at += 16;
    left -= 16;
  }
  let fold = i64x2.extract_lane(lanes, 0) ^ i64x2.extract_lane(lanes, 1);
  if (left >= 8) {
    fold ^= load<u64>(at);
    at += 8;
    left -= 8;
  }
  if (left >= 4) {
    fold ^= <u64>load<u32>(at);
    at += 4;
    left -= 4;
  }
  while (left-- > 0) fold ^= <u64>load<u8>(at++);
  return fold;
}
