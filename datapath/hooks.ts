/**
 * Packets on their way through the optional programs: txh before a packet is published, rxh after it was received. 0 lets it pass, anything else drops it.
 *
 * With a staging area, frames live in private memory while plaintext is in them, and the device only ever sees what comes out of txh:
 *
 * ```
 *             netdev ──► staging ── txh ──► staging ──copy──► lent buffer ──► device
 *             netdev ◄── staging ◄── rxh ── staging ◄──copy── lent buffer ◄── device
 *                        plaintext          sealed            sealed
 * ```
 * The programs are the device's, so their word is not enough there: a packet goes on only if a helper has worked on it as well.
 */
import {
  beginHook,
  deliveries,
  endHook,
  enter,
  expectPacket,
  HOOK_FINISH,
  HOOK_NONE,
  HOOK_PREPARE,
  packetAtHand,
  setPacket,
} from './active';
import { addFrame, clear, count, frameAt, hasRoom } from './batch';
import { account, fault } from './books';
import { bufferAt, lend, release, setFree } from './buffers';
import * as L from './layout';
import { sound } from './offload';

/** `driver_tx_room` with frames in the staging area, each with room to grow. */
export function stagingRoom(driver: usize, batch: usize, staging: usize, want: u32): u32 {
  const unposted = load<u32>(driver, L.DRIVER_NUM) - load<u32>(driver, L.DRIVER_POSTED);
  const n = min(want, min(load<u32>(driver, L.DRIVER_FREE_COUNT), unposted));
  const base = load<u64>(batch, L.BATCH_BASE);
  const room = load<u32>(driver, L.DRIVER_ROOM) - L.SEAL_GROWTH;
  for (let i: u32 = 0; i < n && hasRoom(batch, 1); i++) {
    const slot = slotAt(staging, i);
    addFrame(batch, base + slot, slot, room, true, i);
  }
  return load<u32>(batch, L.BATCH_COUNT);
}

/**
 * `driver_tx_publish` where there is a txh. Buffers of frames that it drops stay free: what is lent takes the place of what is free on the
 * stack (picture there).
 */
export function publishPrepared(driver: usize, batch: usize, n: u32): i32 {
  enter(driver, 0);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  const program = load<u32>(driver, L.DRIVER_PUBLISH);
  const prepare = load<u32>(driver, L.DRIVER_PREPARE);
  const staging = load<u32>(driver, L.DRIVER_STAGING);
  const perFrame = load<u32>(driver, L.DRIVER_FRAME_BUFFERS);
  const room = perFrame * load<u32>(driver, L.DRIVER_ROOM);
  const free = <usize>load<u32>(driver, L.DRIVER_FREE);
  let freeCount = load<u32>(driver, L.DRIVER_FREE_COUNT);
  let next = free + ((<usize>freeCount) << 2); // behind the next frame's first buffer
  let oflags: u32 = 0;
  let bytes: u64 = 0;
  let buffers: u32 = 0;
  let sent: u32 = 0;
  for (let i: u32 = 0; i < n; i++) {
    const frame = frameAt(batch, i);
    const first = next;
    if (staging == 0) next -= (<usize>perFrame) << 2;
    store<u64>(context, i, L.CTX_PACKET);
    store<u32>(context, 0, L.CTX_NUM_BUFS);
    store<u32>(context, 0, L.CTX_OFLAGS);
    beginHook(frame, staging == 0 ? HOOK_NONE : HOOK_PREPARE);
    const verdict = <i32>call_indirect<i64>(prepare, <u64>context);
    const changed = endHook();
    if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return -1; // set by a helper that has no business here
    const length = load<u32>(frame, L.FRAME_LENGTH);
    if (verdict != 0 || (staging != 0 && !changed) || length > room) {
      count(driver + L.DRIVER_STATS, L.STAT_DROPPED, 1);
      continue;
    }

    let used: u32 = 1;
    if (staging == 0) {
      used = lend(driver, context, first, freeCount, length);
    } else {
      const top = free + ((<usize>freeCount) << 2);
      const index = load<u32>(top - 4);
      memory.copy(bufferAt(driver, index), <usize>load<u32>(<usize>load<u32>(frame, L.FRAME_WIN)), length);
      lend(driver, context, top, freeCount, length);
    }
    freeCount -= used;
    store<u64>(context, i, L.CTX_PACKET);
    store<u32>(context, used, L.CTX_NUM_BUFS);
    store<u32>(context, 0, L.CTX_OFLAGS);
    store<u32>(driver, freeCount, L.DRIVER_FREE_COUNT);
    store<u32>(driver, load<u32>(driver, L.DRIVER_POSTED) + used, L.DRIVER_POSTED);
    setPacket(frame);
    if (<i32>call_indirect<i64>(program, <u64>context) != 0) return fault(driver, L.FAULT_PROGRAM);
    oflags |= load<u32>(context, L.CTX_OFLAGS);
    bytes += length;
    buffers += used;
    sent++;
  }
  if (sent != 0) account(driver, sent, bytes, buffers);
  return (oflags & L.OFLAG_KICK) != 0 ? 1 : 0;
}

/** `driver_rx_poll` where there is an rxh. */
export function pollFinished(driver: usize, batch: usize, budget: u32): i32 {
  enter(driver, batch);
  const context = <usize>load<u32>(driver, L.DRIVER_CONTEXT);
  const program = load<u32>(driver, L.DRIVER_COMPLETE);
  const finish = load<u32>(driver, L.DRIVER_FINISH);
  const staging = load<u32>(driver, L.DRIVER_STAGING);
  const offloads = load<u32>(driver, L.DRIVER_OFFLOADS);
  let done: u32 = 0;
  while (done < budget && hasRoom(batch, L.CTX_MAX_BUFS)) {
    expectPacket();
    const taken = <i32>call_indirect<i64>(program, <u64>context);
    if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return -1; // set by rx_pkt_alloc
    if (taken == 0 && deliveries() == 0) break;
    const frame = packetAtHand();
    if (taken != 1 || deliveries() != 1 || frame == 0) return fault(driver, L.FAULT_PROGRAM);
    done++;
    if (staging != 0) stage(driver, batch, frame, staging);
    beginHook(frame, staging == 0 ? HOOK_NONE : HOOK_FINISH);
    const verdict = <i32>call_indirect<i64>(finish, <u64>context);
    const changed = endHook();
    const header = <usize>load<u32>(frame, L.FRAME_HEADER);
    // The header last: rxh may have written it.
    if (
      verdict != 0 ||
      (staging != 0 && !changed) ||
      !sound(header, load<u32>(frame, L.FRAME_LENGTH), offloads)
    ) {
      dropLast(driver, batch, frame);
    }
    if (load<u32>(driver, L.DRIVER_FAULT) != L.FAULT_NONE) return -1; // set by a helper that has no business here
  }
  return done;
}

/** `driver_rx_release` of frames in the staging area: their buffers are free since they were copied. */
export function releaseStaged(driver: usize, batch: usize): void {
  const n = load<u32>(batch, L.BATCH_COUNT);
  let bytes: u64 = 0;
  for (let i: u32 = 0; i < n; i++) bytes += load<u32>(frameAt(batch, i), L.FRAME_LENGTH);
  if (n != 0) account(driver, n, bytes, n);
  clear(batch);
}

/** The batch's last frame is none that the netdev may get. */
export function dropLast(driver: usize, batch: usize, frame: usize): void {
  if (load<u32>(driver, L.DRIVER_STAGING) == 0) {
    const shift = ctz(load<u32>(driver, L.DRIVER_STRIDE));
    release(driver, frame, load<u32>(driver, L.DRIVER_BUFFERS), shift);
  }
  count(driver + L.DRIVER_STATS, L.STAT_DROPPED, 1);
  store<u32>(batch, load<u32>(batch, L.BATCH_COUNT) - 1, L.BATCH_COUNT);
  const iovs = load<u32>(frame, L.FRAME_IOVS);
  store<u32>(batch, load<u32>(batch, L.BATCH_IOV_USED) - iovs, L.BATCH_IOV_USED);
}

/** Takes a received frame, which has one buffer, out of the device's reach: what it holds now is what is looked at. The buffer is free again. */
function stage(driver: usize, batch: usize, frame: usize, staging: usize): void {
  const win = <usize>load<u32>(frame, L.FRAME_WIN);
  const buffer = load<u32>(win);
  const slot = slotAt(staging, load<u32>(batch, L.BATCH_COUNT) - 1);
  memory.copy(slot, <usize>buffer, load<u32>(frame, L.FRAME_LENGTH));
  setFree(driver, (buffer - load<u32>(driver, L.DRIVER_BUFFERS)) >> ctz(load<u32>(driver, L.DRIVER_STRIDE)));
  store<u32>(win, <u32>slot);
  const iov = <usize>load<u32>(frame, L.FRAME_IOV) + L.IOVEC_SIZE;
  store<u64>(iov, load<u64>(batch, L.BATCH_BASE) + slot, L.IOVEC_BASE);
}

function slotAt(staging: usize, i: u32): usize {
  return staging + <usize>i * L.STAGING_SLOT;
}
