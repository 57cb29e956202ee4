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
 * Programs are called through the function table, as (context) → r0. What a helper needs to know about the call under way is in active.ts. A
 * queue with one of the optional programs, txh or rxh, goes the longer way through hooks.ts.
 */
import { deliveries, enter, expectPacket, packetAtHand, setPacket } from './active';
import { addBuffer, beginFrame, clear, count, endRoom, frameAt, hasRoom } from './batch';
import { account, fault } from './books';
import { bufferAt, lend, release, setBuffer, setFree, takeBack } from './buffers';
import { dropLast, pollFinished, publishPrepared, releaseStaged, stagingRoom } from './hooks';
import * as L from './layout';
import { sound } from './offload';

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
  const staging = <usize>load<u32>(driver, L.DRIVER_STAGING);
  if (staging != 0) return stagingRoom(driver, batch, staging, want);
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
  if (load<u32>(driver, L.DRIVER_PREPARE) != 0) return publishPrepared(driver, batch, n);
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
    setPacket(frame);
    let used: u32 = 1;
    if (perFrame == 1) {
      const index = load<u32>(free + ((<usize>(freeCount - 1)) << 2));
      setBuffer(context, 0, index, gpa + <u64>index * stride, length);
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
      setBuffer(context, i, index, gpa + <u64>index * stride, room);
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
  if (load<u32>(driver, L.DRIVER_FINISH) != 0) return pollFinished(driver, batch, budget);
  enter(driver, batch);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  const program = load<u32>(driver, L.DRIVER_COMPLETE);
  let done: u32 = 0;
  while (done < budget && hasRoom(batch, L.CTX_MAX_BUFS)) {
    expectPacket();
    const taken = <i32>call_indirect<i64>(program, <u64>context);
    if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return -1; // set by rx_pkt_alloc
    if (taken == 0 && deliveries() == 0) break;
    if (taken != 1 || deliveries() != 1 || packetAtHand() == 0) return fault(driver, L.FAULT_PROGRAM);
    done++;
    const frame = packetAtHand();
    const header = <usize>load<u32>(frame, L.FRAME_HEADER);
    if (load<u16>(header) != 0 && !soundHeader(driver, frame)) dropLast(driver, batch, frame); // flags and gso_type
  }
  return done;
}

/** The netdev has taken the batch that `driver_rx_poll` filled: its buffers are free again. */
export function driver_rx_release(driver: usize, batch: usize): void {
  if (load<u32>(driver, L.DRIVER_STAGING) != 0) {
    releaseStaged(driver, batch);
    return;
  }
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

/** Whether the packet asks for nothing but what was agreed on. */
function soundHeader(driver: usize, frame: usize): bool {
  const header = <usize>load<u32>(frame, L.FRAME_HEADER);
  return sound(header, load<u32>(frame, L.FRAME_LENGTH), load<u32>(driver, L.DRIVER_OFFLOADS));
}
