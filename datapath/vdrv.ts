/**
 * A virtio-net driver for a guest in this process: the calls of driver.ts over virtqueues of either format, with the same buffers and batches.
 *
 * ```
 *             tx_room, tx_publish                    rx_refill
 *   free ───────────────────────────► device   free ───────────► device
 *        ◄───────────────────────────               ◄── rx_release ── batch ◄── rx_poll
 *             tx_complete, reclaim                        reclaim
 *
 *   vdrv.ts ──► vdrv-chain.ts ──► vdrv-split.ts | vdrv-packed.ts
 * ```
 * The device is not trusted: a chain comes back only if the device has it, once, and no longer than it is. Anything else is a fault, which stops the queue.
 * After a stop every buffer is the driver's again, whatever the device said; the ring begins anew, with the frames that were not sent if they are to be. A received frame that is shorter than its header, or asks
 * for offloads which make no sense, is dropped. Features: VERSION_1 or ANY_LAYOUT (header and payload share a descriptor).
 */
import { addBuffer, beginFrame, clear, count, endFrame, endRoom, frameAt, hasRoom } from './batch';
import { account, fault } from './books';
import { setFree } from './buffers';
import { driver_reset, driver_rx_release } from './driver';
import { dropLast } from './hooks';
import * as L from './layout';
import { sound } from './offload';
import {
  freeChain,
  holdBuffer,
  isPacked,
  NONSENSE,
  NOTHING,
  offerAgain,
  offerFrame,
  offerRoom,
  payloadAt,
  show,
  takeChain,
  takenLength,
} from './vdrv-chain';
import { clearOrder, nothingBack } from './vdrv-order';
import { packedArm, packedTake } from './vdrv-packed';
import { splitArm, splitReady } from './vdrv-split';

const NUM_BUFFERS = 10; // u16, in the header

/** All buffers free, the ring empty and all zero, no fault. `buffers` is how many there are. */
export function vdrv_reset(driver: usize, buffers: u32): void {
  clearRing(driver);
  memory.fill(<usize>load<u32>(driver, L.VDRV_LINKS), 0, (<usize>buffers) << 2);
  driver_reset(driver, buffers);
}

/** The ring empty and all zero; what the device had, when it stopped, stays lent: `vdrv_tx_again` for each of those frames, then `vdrv_show`. */
export function vdrv_tx_restart(driver: usize): void {
  clearRing(driver);
}

/** Offers a frame again that begins with this buffer. */
export function vdrv_tx_again(driver: usize, first: u32): void {
  offerAgain(driver, first);
}

/** Shows the device what has been offered since the ring was cleared. Returns 1 when it wants a kick, else 0. */
export function vdrv_show(driver: usize): i32 {
  return show(driver, 0);
}

/** Fills the batch with up to `want` empty frames, each of as many free buffers as a frame may take. Returns how many; they stay free until published. */
export function vdrv_tx_room(driver: usize, batch: usize, want: u32): u32 {
  clear(batch);
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  const freeCount = load<u32>(driver, L.DRIVER_FREE_COUNT);
  const perFrame = load<u32>(driver, L.DRIVER_FRAME_BUFFERS);
  const n = min(want, freeCount / perFrame);
  let top = <usize>load<u32>(driver, L.DRIVER_FREE) + ((<usize>freeCount) << 2);
  const base = load<u64>(batch, L.BATCH_BASE);
  const room = load<u32>(driver, L.DRIVER_ROOM);
  for (let i: u32 = 0; i < n && hasRoom(batch, perFrame); i++) {
    const frame = beginFrame(batch);
    const first = load<u32>(top - 4);
    for (let b: u32 = 0; b < perFrame; b++) {
      top -= 4;
      const window = payloadAt(driver, load<u32>(top));
      addBuffer(frame, base + window, window, room);
    }
    endRoom(batch, frame, first);
  }
  return load<u32>(batch, L.BATCH_COUNT);
}

/** Publishes the first `n` frames of the batch that `vdrv_tx_room` made, each with the buffers that it needs. Returns 1 when the device wants a kick, else 0. */
export function vdrv_tx_publish(driver: usize, batch: usize, n: u32): i32 {
  const perFrame = load<u32>(driver, L.DRIVER_FRAME_BUFFERS);
  const room = load<u32>(driver, L.DRIVER_ROOM);
  const size = load<u32>(driver, L.VDRV_HEADER);
  const free = <usize>load<u32>(driver, L.DRIVER_FREE);
  const old = load<u32>(driver, L.VDRV_AVAIL);
  let freeCount = load<u32>(driver, L.DRIVER_FREE_COUNT);
  let posted = load<u32>(driver, L.DRIVER_POSTED);
  let next = free + ((<usize>freeCount) << 2); // behind the next frame's first buffer
  let bytes: u64 = 0;
  let buffers: u32 = 0;
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const length = load<u32>(frame, L.FRAME_LENGTH);
    const used = length <= room ? 1 : min((length + room - 1) / room, perFrame);
    const header = payloadAt(driver, load<u32>(next - 4)) - size;
    const from = <usize>load<u32>(frame, L.FRAME_HEADER);
    store<u64>(header, load<u64>(from));
    store<u16>(header, load<u16>(from, 8), 8);
    if (size == 12) store<u16>(header, 0, NUM_BUFFERS);
    offerFrame(driver, next, free + ((<usize>freeCount) << 2), used, length);
    next -= (<usize>perFrame) << 2;
    freeCount -= used;
    posted += used;
    bytes += length;
    buffers += used;
  }
  store<u32>(driver, freeCount, L.DRIVER_FREE_COUNT);
  store<u32>(driver, posted, L.DRIVER_POSTED);
  account(driver, n, bytes, buffers);
  return show(driver, old);
}

/** Takes back up to `budget` transmitted frames. Returns how many, < 0 on a fault. */
export function vdrv_tx_complete(driver: usize, budget: u32): i32 {
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  let done: u32 = 0;
  while (done < budget) {
    const first = takeChain(driver);
    if (first == NOTHING) break;
    if (first == NONSENSE) return fault(driver, L.FAULT_COMPLETION);
    freeChain(driver, <u32>first);
    done++;
  }
  return done;
}

/** Lends all free buffers to the device, each as a chain of its own. Returns 1 when the device wants a kick, else 0. */
export function vdrv_rx_refill(driver: usize): i32 {
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  const free = <usize>load<u32>(driver, L.DRIVER_FREE);
  const old = load<u32>(driver, L.VDRV_AVAIL);
  const n = load<u32>(driver, L.DRIVER_FREE_COUNT);
  for (let i = n; i != 0; i--) offerRoom(driver, load<u32>(free + ((<usize>(i - 1)) << 2)));
  store<u32>(driver, 0, L.DRIVER_FREE_COUNT);
  store<u32>(driver, load<u32>(driver, L.DRIVER_POSTED) + n, L.DRIVER_POSTED);
  return show(driver, old);
}

/** Fills the batch with up to `budget` received frames. Returns how many came, < 0 on a fault; the batch is good in either case. */
export function vdrv_rx_poll(driver: usize, batch: usize, budget: u32): i32 {
  clear(batch);
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  const size = load<u32>(driver, L.VDRV_HEADER);
  const most = load<u32>(driver, L.DRIVER_ROOM) + size;
  const merge = (load<u32>(driver, L.VDRV_FLAGS) & L.VIRTQ_MERGE) != 0;
  const base = load<u64>(batch, L.BATCH_BASE);
  let done: u32 = 0;
  while (done < budget && hasRoom(batch, L.CTX_MAX_BUFS)) {
    const first = takeChain(driver);
    if (first == NOTHING) break;
    const length = takenLength(driver);
    if (first == NONSENSE || length > most) return fault(driver, L.FAULT_COMPLETION);
    done++;
    if (length < size) {
      freeChain(driver, <u32>first);
      count(driver + L.DRIVER_STATS, L.STAT_DROPPED, 1);
      continue;
    }
    holdBuffer(driver, <u32>first);
    const payload = payloadAt(driver, <u32>first);
    const header = payload - size;
    const chains: u32 = merge ? <u32>load<u16>(header, NUM_BUFFERS) : 1;
    if (chains == 0 || chains > load<u32>(driver, L.DRIVER_FRAME_BUFFERS))
      return fault(driver, L.FAULT_COMPLETION);
    const frame = beginFrame(batch);
    const to = <usize>load<u32>(frame, L.FRAME_HEADER);
    store<u64>(to, load<u64>(header));
    store<u16>(to, load<u16>(header, 8), 8);
    addBuffer(frame, base + payload, payload, length - size);
    for (let c: u32 = 1; c < chains; c++) {
      const more = takeChain(driver);
      const bytes = takenLength(driver);
      if (more < 0 || bytes > most) return fault(driver, L.FAULT_COMPLETION); // one that is missing, too
      holdBuffer(driver, <u32>more);
      const at = payloadAt(driver, <u32>more) - size;
      addBuffer(frame, base + at, at, bytes);
    }
    endFrame(batch, frame, 0);
    const total = load<u32>(frame, L.FRAME_LENGTH);
    const possible = total != 0 && total <= <u32>L.LARGE_FRAME;
    if (!possible || !sound(to, total, load<u32>(driver, L.DRIVER_OFFLOADS))) dropLast(driver, batch, frame);
  }
  return done;
}

/** The netdev has taken the batch that `vdrv_rx_poll` filled: its buffers are free again. */
export function vdrv_rx_release(driver: usize, batch: usize): void {
  driver_rx_release(driver, batch);
}

/** Arms (minimum > 0) or disarms the queue's interrupt. Returns 1 when `minimum` chains (split), or one (packed), have come back already. */
export function vdrv_arm(driver: usize, minimum: u32): i32 {
  if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return 0;
  let ready: bool = false;
  if (isPacked(driver)) {
    packedArm(driver, minimum);
    ready = !nothingBack(driver) || packedTake(driver) >= 0;
  } else {
    splitArm(driver, minimum);
    ready = splitReady(driver) >= max(minimum, 1);
  }
  return ready ? 1 : 0;
}

/** The device has stopped: all buffers are free. Returns how many it had. The queue has to be reset before it goes on. */
export function vdrv_reclaim(driver: usize, buffers: u32): u32 {
  const posted = load<u32>(driver, L.DRIVER_POSTED);
  const owner = <usize>load<u32>(driver, L.DRIVER_OWNER);
  for (let i: u32 = 0; i < buffers; i++) if (load<u8>(owner + i) != L.OWNER_FREE) setFree(driver, i);
  store<u32>(driver, 0, L.DRIVER_POSTED);
  return posted;
}

function clearRing(driver: usize): void {
  const num = load<u32>(driver, L.VDRV_RING);
  const packed = isPacked(driver);
  memory.fill(<usize>load<u32>(driver, L.VDRV_DESCRIPTOR), 0, (<usize>num) << 4);
  memory.fill(<usize>load<u32>(driver, L.VDRV_DRIVER), 0, packed ? 4 : ((<usize>num) << 1) + 6);
  memory.fill(<usize>load<u32>(driver, L.VDRV_DEVICE), 0, packed ? 4 : ((<usize>num) << 3) + 6);
  store<u32>(driver, 0, L.VDRV_AVAIL);
  store<u32>(driver, 0, L.VDRV_USED);
  clearOrder(driver);
}
