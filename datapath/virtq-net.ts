/**
 * The virtio-net header of a frame in a virtqueue: checked when it comes from the guest, written when it goes there.
 *
 * ```
 *   0       1          2         4          6            8             10
 *   flags   gso_type   hdr_len   gso_size   csum_start   csum_offset   num_buffers       10 bytes, or 12 with num_buffers
 * ```
 * num_buffers says how many chains a received frame takes; 1 where they can't be merged. The guest's bytes are where VIRTQ_PIECES says.
 */
import { dirty_mark_flat } from './dirty';
import * as L from './layout';
import { sound } from './offload';

const DATA_VALID: u32 = 2; // in flags: the checksum has been looked at
const NUM_BUFFERS = 10;

/** Whether what the guest asks for in the frame's header makes sense and was agreed on. */
export function acceptHeader(queue: usize, frame: usize): bool {
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  const flags = <u32>load<u8>(header, L.VNET_FLAGS) & L.VNET_NEEDS_CSUM; // the others are not the guest's to set
  store<u8>(header, <u8>flags, L.VNET_FLAGS);
  return sound(header, load<u32>(frame, L.FRAME_LENGTH), load<u32>(queue, L.QUEUE_OFFLOADS));
}

/** Writes the header of the batch's n-th frame, which took so many chains, into guest memory. */
export function deliverHeader(queue: usize, frame: usize, n: u32, chains: u32): void {
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  const sums = (load<u32>(queue, L.QUEUE_OFFLOADS) & L.OFFLOAD_CSUM) != 0;
  const known: u32 = sums ? L.VNET_NEEDS_CSUM | DATA_VALID : 0;
  store<u8>(header, <u8>(<u32>load<u8>(header) & known), L.VNET_FLAGS);
  store<u16>(header, <u16>chains, NUM_BUFFERS);
  const size = load<u32>(queue, L.VIRTQ_HEADER);
  const logs = load<u32>(queue, L.VIRTQ_LOG) != 0;
  let piece = queue + L.VIRTQ_PIECES + <usize>n * L.VIRTQ_SLOT_SIZE;
  for (let done: u32 = 0; done < size; piece += L.VIRTQ_PIECE_SIZE) {
    const window = <usize>load<u32>(piece, 8);
    const length = load<u32>(piece, 12);
    if (length == 12) {
      store<u64>(window, load<u64>(header));
      store<u32>(window, load<u32>(header, 8), 8);
    } else {
      for (let i: u32 = 0; i < length; i++) store<u8>(window + i, load<u8>(header + done + i));
    }
    if (logs) dirty_mark_flat(queue, load<u64>(piece), length);
    done += length;
  }
}

/** Marks what was written of the frame's payload as dirty. */
export function logPayload(queue: usize, frame: usize): void {
  const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
  let iov = <usize>load<u32>(frame, L.FRAME_IOV);
  // Whoever filled the buffers may have written more than the frame's length: all of them up to its end, as a whole.
  let left = load<u32>(frame, L.FRAME_LENGTH);
  for (let b: u32 = 0; b < buffers && left != 0; b++) {
    iov += L.IOVEC_SIZE;
    const length = load<u64>(iov, L.IOVEC_LENGTH);
    dirty_mark_flat(queue, load<u64>(iov, L.IOVEC_BASE), length);
    left -= min(left, <u32>length);
  }
}
