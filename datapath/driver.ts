/**
 * The guest driver's loop: it lends buffers to the device and takes them back, and touches rings only through the eBPF programs.
 *
 * ```
 *             tx_room, tx_publish                    rx_refill
 *   free ───────────────────────────► device   free ───────────► device
 *        ◄───────────────────────────               ◄── rx_release ── batch ◄── rx_poll
 *             tx_complete, reclaim                        reclaim
 * ```
 * The device is not trusted: a buffer comes back only if the device has it, and no longer than it is. Anything else is a fault, which
 * stops the queue; so is a packet of more buffers than a frame may have. After a stop every buffer is the driver's again, whatever the device
 * said. A received packet that asks for offloads which make no sense is dropped.
 *
 * Programs are called through the function table, as (context) → r0. What a helper needs to know about the call under way is kept in
 * globals of this instance: an instance belongs to one worker.
 */
import { addBuffer, beginFrame, clear, count, endFrame, endRoom, frameAt, hasRoom } from './batch';
import { bufferAt, lend, release, setBuffer, setFree, takeBack } from './buffers';
import * as L from './layout';
import { sound } from './offload';

const ENOMEM = -12;
const EINVAL = -22;

let activeDriver: usize = 0;
let activeBatch: usize = 0; // 0 outside of rxc: no packet may be made
let activeFrame: usize = 0; // 0 while no packet is at hand
let delivered: u32 = 0; // calls of rx_pkt_alloc in this rxc

/** A program of this queue is about to run; what helpers may touch is what is given here. */
function enter(driver: usize, batch: usize): void {
  activeDriver = driver;
  activeBatch = batch;
  activeFrame = 0;
}

/** All buffers free, nothing posted, no fault. `buffers` is how many there are. */
export function driver_reset(driver: usize, buffers: u32): void {
  const free = <usize>load<u32>(driver, L.DRIVER_FREE);
  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  for (let i: u32 = 0; i < buffers; i++) {
    store<u32>(free + ((<usize>i) << 2), buffers - 1 - i);
    store<u8>(owner + i, L.OWNER_FREE);
  }
  store<u32>(driver, buffers, L.DRIVER_FREE_COUNT);
  store<u32>(driver, 0, L.DRIVER_POSTED);
  store<u32>(driver, L.FAULT_NONE, L.DRIVER_FAULT);
}

/** Fills the batch with up to `want` empty frames, each of as many free buffers as a frame may take. Returns how many; they stay free until published. */
export function driver_tx_room(driver: usize, batch: usize, want: u32): u32 {
  clear(batch);
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  const freeCount = load<u32>(driver, L.DRIVER_FREE_COUNT);
  const unposted = load<u32>(driver, L.DRIVER_NUM) - load<u32>(driver, L.DRIVER_POSTED);
  const perFrame = load<u32>(driver, L.DRIVER_FRAME_BUFFERS);
  const n = min(want, min(freeCount, unposted) / perFrame);
  let top = <usize>load<u32>(driver, L.DRIVER_FREE) + ((<usize>freeCount) << 2);
  const base = load<u64>(batch, L.BATCH_BASE);
  const room = load<u32>(driver, L.DRIVER_ROOM);
  for (let i: u32 = 0; i < n && hasRoom(batch, perFrame); i++) {
    const frame = beginFrame(batch);
    const first = load<u32>(top - 4);
    for (let b: u32 = 0; b < perFrame; b++) {
      top -= 4;
      const window = bufferAt(driver, load<u32>(top));
      addBuffer(frame, base + window, window, room);
    }
    endRoom(batch, frame, first);
  }
  return load<u32>(batch, L.BATCH_COUNT);
}

/**
 * Publishes the first `n` frames of the batch that `driver_tx_room` made, each with the buffers that it needs. Returns 1 when the device wants a
 * kick, 0 when not, < 0 on a fault.
 *
 * ```
 *   free:  … [frame 1: c b a] [frame 0: c b a]     a and b of frame 0 are needed: the top, c, takes b's place, a and b are gone,
 *   free:  … [frame 1: c b a]  c                   and all that is left is free
 * ```
 */
export function driver_tx_publish(driver: usize, batch: usize, n: u32): i32 {
  enter(driver, 0);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  const program = load<u32>(driver, L.DRIVER_PUBLISH);
  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  const gpa = load<u64>(driver, L.DRIVER_BUFFERS_GPA);
  const stride = load<u32>(driver, L.DRIVER_STRIDE);
  const perFrame = load<u32>(driver, L.DRIVER_FRAME_BUFFERS);
  const free = <usize>load<u32>(driver, L.DRIVER_FREE);
  let freeCount = load<u32>(driver, L.DRIVER_FREE_COUNT);
  let posted = load<u32>(driver, L.DRIVER_POSTED);
  let next = free + ((<usize>freeCount) << 2); // behind the next frame's first buffer
  let oflags: u32 = 0;
  let bytes: u64 = 0;
  let buffers: u32 = 0;
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const length = load<u32>(frame, L.FRAME_LENGTH);
    activeFrame = frame;
    let used: u32 = 1;
    if (perFrame == 1) {
      const index = load<u32>(free + ((<usize>(freeCount - 1)) << 2));
      setBuffer(context, 0, index, gpa + <u64>index * stride, bufferAt(driver, index), length);
      store<u8>(owner + index, L.OWNER_DEVICE);
    } else {
      used = lend(driver, context, next, freeCount, length);
      next -= (<usize>perFrame) << 2;
    }
    freeCount -= used;
    posted += used;
    store<u64>(context, i, L.CTX_PACKET);
    store<u32>(context, used, L.CTX_NUM_BUFS);
    store<u32>(context, 0, L.CTX_OFLAGS);
    store<u32>(driver, freeCount, L.DRIVER_FREE_COUNT);
    store<u32>(driver, posted, L.DRIVER_POSTED);
    if (<i32>call_indirect<i64>(program, <u64>context) != 0) return fault(driver, L.FAULT_PROGRAM);
    oflags |= load<u32>(context, L.CTX_OFLAGS);
    bytes += length;
    buffers += used;
  }
  account(driver, n, bytes, buffers);
  return (oflags & L.OFLAG_KICK) != 0 ? 1 : 0;
}

/** Takes back up to `budget` transmitted packets. Returns how many, < 0 on a fault. */
export function driver_tx_complete(driver: usize, budget: u32): i32 {
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  enter(driver, 0);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  const program = load<u32>(driver, L.DRIVER_COMPLETE);
  let done: u32 = 0;
  while (done < budget) {
    const taken = <i32>call_indirect<i64>(program, <u64>context);
    if (taken == 0) break;
    if (taken < 0) return fault(driver, L.FAULT_PROGRAM);
    if (!takeBack(driver, context)) return fault(driver, L.FAULT_COMPLETION);
    done++;
  }
  return done;
}

/** Lends free buffers to the device, as many as the ring takes. Returns 1 when the device wants a kick, 0 when not, < 0 on a fault. */
export function driver_rx_refill(driver: usize): i32 {
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  enter(driver, 0);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  const program = load<u32>(driver, L.DRIVER_PUBLISH);
  const free = <usize>load<u32>(driver, L.DRIVER_FREE);
  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  const gpa = load<u64>(driver, L.DRIVER_BUFFERS_GPA);
  const stride = load<u32>(driver, L.DRIVER_STRIDE);
  const room = load<u32>(driver, L.DRIVER_ROOM);
  let oflags: u32 = 0;
  while (true) {
    const freeCount = load<u32>(driver, L.DRIVER_FREE_COUNT);
    const posted = load<u32>(driver, L.DRIVER_POSTED);
    const n = min(<u32>L.CTX_MAX_BUFS, min(freeCount, load<u32>(driver, L.DRIVER_NUM) - posted));
    if (n == 0) break;
    for (let i: u32 = 0; i < n; i++) {
      const index = load<u32>(free + ((<usize>(freeCount - 1 - i)) << 2));
      setBuffer(context, i, index, gpa + <u64>index * stride, bufferAt(driver, index), room);
      store<u8>(owner + index, L.OWNER_DEVICE);
    }
    store<u32>(context, n, L.CTX_NUM_BUFS);
    store<u32>(context, 0, L.CTX_OFLAGS);
    store<u32>(driver, freeCount - n, L.DRIVER_FREE_COUNT);
    store<u32>(driver, posted + n, L.DRIVER_POSTED);
    if (<i32>call_indirect<i64>(program, <u64>context) != 0) return fault(driver, L.FAULT_PROGRAM);
    oflags |= load<u32>(context, L.CTX_OFLAGS);
  }
  return (oflags & L.OFLAG_KICK) != 0 ? 1 : 0;
}

/** Fills the batch with up to `budget` received packets. Returns how many completions it took, < 0 on a fault; the batch is good in either case. */
export function driver_rx_poll(driver: usize, batch: usize, budget: u32): i32 {
  clear(batch);
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  enter(driver, batch);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  const program = load<u32>(driver, L.DRIVER_COMPLETE);
  let done: u32 = 0;
  while (done < budget && hasRoom(batch, L.CTX_MAX_BUFS)) {
    delivered = 0;
    activeFrame = 0;
    const taken = <i32>call_indirect<i64>(program, <u64>context);
    if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return -1; // set by rx_pkt_alloc
    if (taken == 0 && delivered == 0) break;
    if (taken != 1 || delivered != 1 || activeFrame == 0) return fault(driver, L.FAULT_PROGRAM);
    done++;
    if (load<u16>(activeHeader()) != 0 && !soundHeader(driver)) discard(driver, batch); // flags and gso_type
  }
  return done;
}

/** The netdev has taken the batch that `driver_rx_poll` filled: its buffers are free again. */
export function driver_rx_release(driver: usize, batch: usize): void {
  const buffers = load<u32>(driver, L.DRIVER_BUFFERS);
  const shift = ctz(load<u32>(driver, L.DRIVER_STRIDE));
  const n = load<u32>(batch, L.BATCH_COUNT);
  let bytes: u64 = 0;
  let used: u32 = 0;
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    bytes += load<u32>(frame, L.FRAME_LENGTH);
    used += release(driver, frame, buffers, shift);
  }
  if (n != 0) account(driver, n, bytes, used);
  clear(batch);
}

/** Arms (min > 0) or disarms the queue's interrupt. Returns the program's answer: > 0 when `min` buffers are completed already. */
export function driver_arm(driver: usize, minimum: u32): i32 {
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  enter(driver, 0);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  store<u32>(context, minimum, L.CTX_MIN_COMPLETED_BUFS);
  return <i32>call_indirect<i64>(load<u32>(driver, L.DRIVER_ARM), <u64>context);
}

/** The device has stopped: takes back all that is posted. Returns how many buffers the programs returned, < 0 on a fault. */
export function driver_reclaim(driver: usize): i32 {
  enter(driver, 0);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  const program = load<u32>(driver, L.DRIVER_RECLAIM);
  const before = load<u32>(driver, L.DRIVER_POSTED);
  // Each round takes at least one buffer, so as many rounds as are posted must be enough.
  for (let round: u32 = 0; round <= before; round++) {
    const taken = <i32>call_indirect<i64>(program, <u64>context);
    if (taken == 0) break;
    if (taken < 0) return fault(driver, L.FAULT_PROGRAM);
    if (!takeBack(driver, context)) return fault(driver, L.FAULT_COMPLETION);
  }
  return before - load<u32>(driver, L.DRIVER_POSTED);
}

/** What the programs did not give back after a reclaim is free all the same. Returns how many buffers that were: 0 unless device or program lie. */
export function driver_seize(driver: usize, buffers: u32): u32 {
  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  let seized: u32 = 0;
  for (let i: u32 = 0; i < buffers; i++) {
    if (load<u8>(owner + i) == L.OWNER_FREE) continue;
    setFree(driver, i);
    seized++;
  }
  store<u32>(driver, 0, L.DRIVER_POSTED);
  if (seized != 0) count(driver + L.DRIVER_STATS, L.STAT_ERRORS, seized);
  return seized;
}

export function driver_fail(driver: usize, reason: u32): void {
  fault(driver, reason);
}

// --- Helpers that programs call (docs/bpfhv.md, "Helpers"). Pointers to memory have been checked by whoever runs the program.

/** rx_pkt_alloc(ctx): makes a packet of bufs[0..num_bufs). Returns 0, -ENOMEM without room, -EINVAL on nonsense. */
export function helper_rx_pkt_alloc(context: u64): i64 {
  const at = <usize>context;
  const n = load<u32>(at, L.CTX_NUM_BUFS);
  const driver = activeDriver;
  if (activeBatch == 0 || n == 0 || n > load<u32>(driver, L.DRIVER_FRAME_BUFFERS)) return refuse();
  if (delivered++ != 0 || !hasRoom(activeBatch, n)) return ENOMEM;

  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  const buffers = load<u32>(driver, L.DRIVER_NUM);
  const room = load<u32>(driver, L.DRIVER_ROOM);
  const base = load<u64>(activeBatch, L.BATCH_BASE);
  const frame = beginFrame(activeBatch);
  for (let i: u32 = 0; i < n; i++) {
    const buf = at + L.CTX_BUFS + <usize>i * L.BUF_SIZE;
    const cookie = load<u64>(buf, L.BUF_COOKIE);
    const length = load<u32>(buf, L.BUF_LEN);
    if (cookie >= buffers || length > room || load<u8>(owner + <usize>cookie) != L.OWNER_DEVICE)
      return refuse();
    store<u8>(owner + <usize>cookie, L.OWNER_DRIVER);
    store<u32>(driver, load<u32>(driver, L.DRIVER_POSTED) - 1, L.DRIVER_POSTED);
    const window = bufferAt(driver, <u32>cookie);
    addBuffer(frame, base + window, window, length);
  }
  activeFrame = frame;
  endFrame(activeBatch, frame, 0);
  store<u64>(at, <u64>frame, L.CTX_PACKET);
  return 0;
}

/** pkt_l4_csum_md_get(ctx, u16 *start, u16 *offset): 1 when the checksum is still to be computed. */
export function helper_csum_get(_context: u64, start: u64, offset: u64): i64 {
  if (activeFrame == 0) return EINVAL;
  const header = activeHeader();
  store<u16>(<usize>start, load<u16>(header, 6));
  store<u16>(<usize>offset, load<u16>(header, 8));
  return load<u8>(header) & 1;
}

/** pkt_l4_csum_md_set(ctx, start, offset) */
export function helper_csum_set(_context: u64, start: u64, offset: u64): i64 {
  if (activeFrame == 0) return EINVAL;
  const header = activeHeader();
  store<u8>(header, load<u8>(header) | 1);
  store<u16>(header, <u16>start, 6);
  store<u16>(header, <u16>offset, 8);
  return 0;
}

/** pkt_virtio_net_md_get(ctx, hdr *): copies the 10-byte header out; 1 when the checksum is still to be computed. */
export function helper_vnet_get(_context: u64, to: u64): i64 {
  if (activeFrame == 0) return EINVAL;
  const header = activeHeader();
  memory.copy(<usize>to, header, 10);
  return load<u8>(header) & 1;
}

/** pkt_virtio_net_md_set(ctx, const hdr *) */
export function helper_vnet_set(_context: u64, from: u64): i64 {
  if (activeFrame == 0) return EINVAL;
  memory.copy(activeHeader(), <usize>from, 10);
  return 0;
}

/** rx|tx_buf_dma_map(ctx, vaddr, len, u64 *paddr): 0, or -ENOMEM for what is no buffer of this queue. */
export function helper_dma_map(_context: u64, vaddr: u64, length: u64, paddr: u64): i64 {
  const first = <u64>load<u32>(activeDriver, L.DRIVER_BUFFERS);
  const size = <u64>load<u32>(activeDriver, L.DRIVER_STRIDE) * load<u32>(activeDriver, L.DRIVER_NUM);
  const offset = vaddr - first;
  if (offset >= size || length > size - offset) return ENOMEM;
  store<u64>(<usize>paddr, load<u64>(activeDriver, L.DRIVER_BUFFERS_GPA) + offset);
  return 0;
}

/** rx|tx_buf_dma_unmap(ctx, vaddr, len, paddr): nothing to undo, buffers stay mapped. */
export function helper_dma_unmap(_context: u64, _vaddr: u64, _length: u64, _paddr: u64): i64 {
  return 0;
}

function activeHeader(): usize {
  return <usize>load<u32>(activeFrame, L.FRAME_HEADER);
}

/** Whether the packet at hand asks for nothing but what was agreed on. */
function soundHeader(driver: usize): bool {
  const length = load<u32>(activeFrame, L.FRAME_LENGTH);
  return sound(activeHeader(), length, load<u32>(driver, L.DRIVER_OFFLOADS));
}

/** The batch's last frame, the packet at hand, is none that the netdev may get. */
function discard(driver: usize, batch: usize): void {
  const shift = ctz(load<u32>(driver, L.DRIVER_STRIDE));
  release(driver, activeFrame, load<u32>(driver, L.DRIVER_BUFFERS), shift);
  count(driver + L.DRIVER_STATS, L.STAT_DROPPED, 1);
  store<u32>(batch, load<u32>(batch, L.BATCH_COUNT) - 1, L.BATCH_COUNT);
  const iovs = load<u32>(activeFrame, L.FRAME_IOVS);
  store<u32>(batch, load<u32>(batch, L.BATCH_IOV_USED) - iovs, L.BATCH_IOV_USED);
}

function refuse(): i64 {
  fault(activeDriver, L.FAULT_COMPLETION);
  return EINVAL;
}

function fault(driver: usize, reason: u32): i32 {
  store<u32>(driver, reason, L.DRIVER_FAULT);
  count(driver + L.DRIVER_STATS, L.STAT_ERRORS, 1);
  return -1;
}

function account(driver: usize, packets: u32, bytes: u64, buffers: u32): void {
  const stats = driver + L.DRIVER_STATS;
  count(stats, L.STAT_PACKETS, packets);
  count(stats, L.STAT_BYTES, bytes);
  count(stats, L.STAT_BUFFERS, buffers);
  count(stats, L.STAT_BATCHES, 1);
}
