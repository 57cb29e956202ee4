/**
 * Segmentation in software: cuts a large frame, which its header asks to be cut, into pieces for who can't be asked.
 *
 * ```
 *   frame     │ Ethernet │ IP │ TCP or UDP │ payload ………………………………………………… │    copied out of the batch first: whoever owns its
 *             0          L3   L4           START                       LENGTH      buffers can't change what was looked at
 *
 *   pieces    │ headers │ SIZE bytes │   │ headers │ SIZE bytes │   │ headers │ rest │
 *             └ the template, rewritten for each
 *
 *   kind        START    by whom                 what is rewritten
 *   WHOLE       0        segment-parse.ts        nothing: one piece, its checksum finished before
 *   TCP         payload  segment-transport.ts    IP length and id, sequence, flags, checksum
 *   DATAGRAM    payload  segment-transport.ts    IP length and id, UDP length, checksum
 *   FRAGMENT    UDP      segment-fragment.ts     IP length, fragment offset; the UDP checksum is the whole datagram's, finished before
 * ```
 * State is a SEGMENTS_* structure. Pieces are taken one by one, as long as `segment_pending` says so: into frames with room, copied
 * (`segment_next`), or many at once into a batch that refers to them (`segment_fill`).
 */
import { addBuffer, beginFrame, clear, endFrame, frameAt, hasRoom } from './batch';
import * as L from './layout';
import { bufferLength, sound } from './offload';
import { readBuffer, writeBuffer } from './process';
import { fragmentHeaders } from './segment-fragment';
import { parse } from './segment-parse';
import { transportHeaders } from './segment-transport';

/** Takes the batch's frame, whose end may lie in the spill, to be cut or finished. False when that can't be done, or it would be too many pieces. */
export function segment_begin(segments: usize, batch: usize, index: u32): bool {
  const frame = frameAt(batch, index);
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  const length = load<u32>(frame, L.FRAME_LENGTH);
  store<u32>(segments, 0, L.SEGMENTS_LENGTH);
  if (length == 0 || length > <u32>L.LARGE_FRAME) return false;
  if (!sound(header, length, L.OFFLOAD_ALL)) return false;
  gather(segments + L.SEGMENTS_FRAME, batch, frame, length);
  if (!parse(segments, header, length)) return false;

  const size = load<u32>(segments, L.SEGMENTS_SIZE);
  const start = load<u32>(segments, L.SEGMENTS_START);
  if ((length - start + size - 1) / size > <u32>L.SEGMENTS_MOST) return false;
  store<u32>(segments, load<u32>(batch, L.BATCH_METADATA), L.SEGMENTS_METADATA);
  store<u64>(segments, load<u64>(frame, L.FRAME_STAMP), L.SEGMENTS_STAMP);
  store<u32>(segments, load<u32>(frame, L.FRAME_MARK), L.SEGMENTS_MARK);
  store<u32>(segments, start, L.SEGMENTS_NEXT);
  store<u32>(segments, 0, L.SEGMENTS_COUNT);
  store<u32>(segments, length, L.SEGMENTS_LENGTH);
  return true;
}

/** Whether there is something left of the frame. */
export function segment_pending(segments: usize): bool {
  return load<u32>(segments, L.SEGMENTS_LENGTH) != 0;
}

/** Fills the batch's frame with the next piece. False when it does not fit there: what was left of the large frame is lost. */
export function segment_next(segments: usize, batch: usize, index: u32): bool {
  const frame = frameAt(batch, index);
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  const headers = load<u32>(segments, L.SEGMENTS_HEADERS);
  const payload = segments + L.SEGMENTS_FRAME + load<u32>(segments, L.SEGMENTS_NEXT);
  const n = advance(segments, segments + L.SEGMENTS_SCRATCH);
  store<u64>(header, 0);
  store<u32>(header, 0, 8);
  if (headers + n > load<u32>(frame, L.FRAME_ROOM)) {
    store<u32>(segments, 0, L.SEGMENTS_LENGTH);
    return false;
  }
  scatter(frame, 0, segments + L.SEGMENTS_SCRATCH, headers);
  scatter(frame, headers, payload, n);
  store<u32>(frame, headers + n, L.FRAME_LENGTH);
  return true;
}

/**
 * Fills the batch at SEGMENTS_PIECES with as many pieces as it holds, to be sent at once: their payload stays where it is, their headers are in
 * the batch's spill. Returns how many.
 */
export function segment_fill(segments: usize): u32 {
  const batch = <usize>load<u32>(segments, L.SEGMENTS_PIECES);
  const base = load<u64>(batch, L.BATCH_BASE);
  const headers = load<u32>(segments, L.SEGMENTS_HEADERS);
  let copy = <usize>load<u32>(batch, L.BATCH_SPILL);
  clear(batch);
  store<u32>(batch, load<u32>(segments, L.SEGMENTS_METADATA), L.BATCH_METADATA);
  while (segment_pending(segments) && hasRoom(batch, 2)) {
    const payload = segments + L.SEGMENTS_FRAME + load<u32>(segments, L.SEGMENTS_NEXT);
    const n = advance(segments, copy);
    const frame = beginFrame(batch);
    if (headers != 0) addBuffer(frame, base + copy, copy, headers);
    addBuffer(frame, base + payload, payload, n);
    store<u64>(frame, load<u64>(segments, L.SEGMENTS_STAMP), L.FRAME_STAMP);
    store<u32>(frame, load<u32>(segments, L.SEGMENTS_MARK), L.FRAME_MARK);
    endFrame(batch, frame, 0);
    copy += L.SEGMENTS_HEADERS_STRIDE;
  }
  return load<u32>(batch, L.BATCH_COUNT);
}

/** Writes the next piece's headers to `copy`. Returns the bytes of payload behind them. */
function advance(segments: usize, copy: usize): u32 {
  const length = load<u32>(segments, L.SEGMENTS_LENGTH);
  const from = load<u32>(segments, L.SEGMENTS_NEXT);
  const n = min(load<u32>(segments, L.SEGMENTS_SIZE), length - from);
  const last = from + n == length;
  memory.copy(copy, segments + L.SEGMENTS_TEMPLATE, load<u32>(segments, L.SEGMENTS_HEADERS));
  const kind = load<u32>(segments, L.SEGMENTS_KIND);
  if (kind == L.SEGMENT_FRAGMENT) fragmentHeaders(segments, copy, n, last);
  else if (kind != L.SEGMENT_WHOLE) transportHeaders(segments, copy, n, last);
  store<u32>(segments, from + n, L.SEGMENTS_NEXT);
  store<u32>(segments, load<u32>(segments, L.SEGMENTS_COUNT) + 1, L.SEGMENTS_COUNT);
  if (last) store<u32>(segments, 0, L.SEGMENTS_LENGTH);
  return n;
}

/** Copies the frame out of its buffers, and out of the spill behind them. */
function gather(to: usize, batch: usize, frame: usize, length: u32): void {
  const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
  let copied: u32 = 0;
  for (let b: u32 = 0; b < buffers && copied < length; b++) {
    const n = min(bufferLength(frame, b), length - copied);
    readBuffer(to + copied, frame, b, n);
    copied += n;
  }
  memory.copy(to + copied, <usize>load<u32>(batch, L.BATCH_SPILL), length - copied);
}

/** Copies into the frame's buffers, which have room. */
function scatter(frame: usize, offset: u32, from: usize, n: u32): void {
  for (let b: u32 = 0; n != 0; b++) {
    const room = bufferLength(frame, b);
    if (offset >= room) {
      offset -= room;
      continue;
    }
    const part = min(room - offset, n);
    writeBuffer(frame, b, offset, from, part);
    offset = 0;
    from += part;
    n -= part;
  }
}
