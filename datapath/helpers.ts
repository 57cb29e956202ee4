/**
 * Helpers that programs call (docs/bpfhv.md, "Helpers"). Pointers to memory have been checked by whoever runs the program. What a helper is to write it
 * writes when it fails, too: to the verifier those bytes are numbers from then on, and it may have been a pointer that was there.
 */
import { batchAtHand, deliver, driverAtHand, packetAtHand, setPacket } from './active';
import { addBuffer, beginFrame, endFrame, hasRoom } from './batch';
import { fault } from './books';
import { bufferAt } from './buffers';
import * as L from './layout';

const ENOMEM = -12;
const EINVAL = -22;

/** rx_pkt_alloc(ctx): makes a packet of bufs[0..num_bufs). Returns 0, -ENOMEM without room, -EINVAL on nonsense. */
export function helper_rx_pkt_alloc(context: u64): i64 {
  const at = <usize>context;
  const n = load<u32>(at, L.CTX_NUM_BUFS);
  const driver = driverAtHand();
  const batch = batchAtHand();
  if (batch == 0 || n == 0 || n > load<u32>(driver, L.DRIVER_FRAME_BUFFERS)) return refuse(driver);
  if (deliver() != 0 || !hasRoom(batch, n)) return ENOMEM;

  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  const buffers = load<u32>(driver, L.DRIVER_NUM);
  const room = load<u32>(driver, L.DRIVER_ROOM);
  const base = load<u64>(batch, L.BATCH_BASE);
  const frame = beginFrame(batch);
  store<u64>(frame, 0, L.FRAME_STAMP);
  for (let i: u32 = 0; i < n; i++) {
    const buf = at + L.CTX_BUFS + <usize>i * L.BUF_SIZE;
    const cookie = load<u64>(buf, L.BUF_COOKIE);
    const length = load<u32>(buf, L.BUF_LEN);
    if (cookie >= buffers || length > room || load<u8>(owner + <usize>cookie) != L.OWNER_DEVICE)
      return refuse(driver);
    store<u8>(owner + <usize>cookie, L.OWNER_DRIVER);
    store<u32>(driver, load<u32>(driver, L.DRIVER_POSTED) - 1, L.DRIVER_POSTED);
    const window = bufferAt(driver, <u32>cookie);
    addBuffer(frame, base + window, window, length);
  }
  setPacket(frame);
  endFrame(batch, frame, 0);
  store<u64>(at, load<u32>(batch, L.BATCH_COUNT), L.CTX_PACKET); // a handle: where it lies is nobody else's business
  return 0;
}

/** pkt_l4_csum_md_get(ctx, u16 *start, u16 *offset): 1 when the checksum is still to be computed. */
export function helper_csum_get(_context: u64, start: u64, offset: u64): i64 {
  if (packetAtHand() == 0) {
    store<u16>(<usize>start, 0);
    store<u16>(<usize>offset, 0);
    return EINVAL;
  }
  const header = headerAtHand();
  store<u16>(<usize>start, load<u16>(header, 6));
  store<u16>(<usize>offset, load<u16>(header, 8));
  return load<u8>(header) & 1;
}

/** pkt_l4_csum_md_set(ctx, start, offset) */
export function helper_csum_set(_context: u64, start: u64, offset: u64): i64 {
  if (packetAtHand() == 0) return EINVAL;
  const header = headerAtHand();
  store<u8>(header, load<u8>(header) | 1);
  store<u16>(header, <u16>start, 6);
  store<u16>(header, <u16>offset, 8);
  return 0;
}

/** pkt_virtio_net_md_get(ctx, hdr *): copies the 10-byte header out; 1 when the checksum is still to be computed. */
export function helper_vnet_get(_context: u64, to: u64): i64 {
  if (packetAtHand() == 0) {
    memory.fill(<usize>to, 0, 10);
    return EINVAL;
  }
  const header = headerAtHand();
  memory.copy(<usize>to, header, 10);
  return load<u8>(header) & 1;
}

/** pkt_virtio_net_md_set(ctx, const hdr *) */
export function helper_vnet_set(_context: u64, from: u64): i64 {
  if (packetAtHand() == 0) return EINVAL;
  memory.copy(headerAtHand(), <usize>from, 10);
  return 0;
}

/** pkt_meta_set(ctx, stamp, mark): what is known of the packet beside its bytes. */
export function helper_meta_set(_context: u64, stamp: u64, mark: u64): i64 {
  const batch = batchAtHand();
  const frame = packetAtHand();
  if (batch == 0 || frame == 0) return EINVAL;
  store<u64>(frame, stamp, L.FRAME_STAMP);
  store<u32>(frame, <u32>mark, L.FRAME_MARK);
  store<u32>(batch, 1, L.BATCH_METADATA);
  return 0;
}

/**
 * rx|tx_buf_dma_map(ctx, vaddr, len, u64 *paddr): 0, or -ENOMEM for what is no buffer of this queue. Buffers have their guest physical addresses
 * for virtual ones.
 */
export function helper_dma_map(_context: u64, vaddr: u64, length: u64, paddr: u64): i64 {
  const driver = driverAtHand();
  const size = <u64>load<u32>(driver, L.DRIVER_STRIDE) * load<u32>(driver, L.DRIVER_NUM);
  const offset = vaddr - load<u64>(driver, L.DRIVER_BUFFERS_GPA);
  const inside = offset < size && length <= size - offset;
  store<u64>(<usize>paddr, inside ? vaddr : 0);
  if (!inside) return ENOMEM;
  return 0;
}

/** rx|tx_buf_dma_unmap(ctx, vaddr, len, paddr): nothing to undo, buffers stay mapped. */
export function helper_dma_unmap(_context: u64, _vaddr: u64, _length: u64, _paddr: u64): i64 {
  return 0;
}

function headerAtHand(): usize {
  return <usize>load<u32>(packetAtHand(), L.FRAME_HEADER);
}

function refuse(driver: usize): i64 {
  fault(driver, L.FAULT_COMPLETION);
  return EINVAL;
}
