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

const NO_FLAGS: u64 = ~0xff;
const FLAGS_KNOWN: u64 = ~0xff | L.VNET_NEEDS_CSUM | 2; // 2, DATA_VALID: the checksum has been looked at

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
  // Flags that the guest does not know of are not set. The two words are put together here, since a load right after narrower stores would wait.
  const first = load<u64>(header) & (sums ? FLAGS_KNOWN : NO_FLAGS);
  const second = <u32>load<u16>(header, L.VNET_CSUM_OFFSET) | (chains << 16);
  const piece = queue + L.VIRTQ_PIECES + <usize>n * L.VIRTQ_SLOT_SIZE;
  if (load<u32>(piece, 12) == 12) {
    const window = <usize>load<u32>(piece, 8);
    store<u64>(window, first);
    store<u32>(window, second, 8);
  } else {
    store<u64>(header, first);
    store<u32>(header, second, 8);
    deliverPieces(queue, header, piece);
  }
  if (load<u32>(queue, L.VIRTQ_LOG) != 0) logPieces(queue, piece);
}

function deliverPieces(queue: usize, header: usize, piece: usize): void {
  const end = header + <usize>load<u32>(queue, L.VIRTQ_HEADER);
  for (; header < end; piece += L.VIRTQ_PIECE_SIZE) {
    const window = <usize>load<u32>(piece, 8);
    const length = load<u32>(piece, 12);
    for (let i: u32 = 0; i < length; i++) store<u8>(window + i, load<u8>(header++));
  }
}

function logPieces(queue: usize, piece: usize): void {
  const size = load<u32>(queue, L.VIRTQ_HEADER);
  for (let done: u32 = 0; done < size; piece += L.VIRTQ_PIECE_SIZE) {
    const length = load<u32>(piece, 12);
    dirty_mark_flat(queue, load<u64>(piece), length);
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
