/**
 * The switch: learns which addresses are behind which of its ports, and brings each frame to the port that it is for.
 *
 * ```
 *   ring ──► batch ─ switch_put ─► whose is the destination?  ─┬─ a port's ───────────► inbox of the lane of its flow
 *            of port A    │        (switch-table.ts)           ├─ a group's, or unknown ► one of each other port, as far as A's flooding is paid for
 *                         └ learns the source                  └─ A's own, … ──────────► nowhere
 *
 *   ring ◄── batch ◄ switch_get ── inbox                       in the worker of port B (switch-inbox.ts)
 * ```
 * While it uses other ports a lane's epoch is odd. A port that leaves is taken out of the list first, and its memory is given up when every lane
 * has been seen outside, or in another epoch.
 */
import { frameAt } from './batch';
import * as L from './layout';
import { bufferAt, bufferLength, inWindow, sound } from './offload';
import { flowOf } from './switch-flow';
import { arm, clearMark, deposit, free, takeArmed, waiting, withdraw } from './switch-inbox';
import { addressesOf, forget, LEARNED, learn, lookUp, MOVED, memberAt } from './switch-table';

const ETHERNET: u32 = 14;
const GROUP: u64 = 1; // bit of an address, the first byte of which is the lowest here
const ADDRESS: u64 = 0xffff_ffff_ffff;
/** 01:80:c2:00:00:0x: what bridges say to each other, and do not pass on. */
const RESERVED: u64 = 0x0000_00c2_8001;
const RESERVED_MASK: u64 = 0xf0ff_ffff_ffff;
const SECOND: u64 = 1_000_000_000;
/** A longer frame counts as several when it is flooded. */
const FLOOD_UNIT: u32 = 1514;
const ATTEMPTS: u32 = 8;
/** Beyond it the list of those to be woken has no room for one of each port. */
const MOST_WAKES: u32 = L.SWLANE_MAX_WAKES - L.SWITCH_MAX_PORTS;
const UNKNOWN: i32 = -1;
const NOWHERE: i32 = -2;

/**
 * Takes the batch's frames from `from` on, at `now`, monotonic nanoseconds. Returns the index behind the last one; less than there are: those in
 * SWLANE_WAKE_FDS have to be woken first. Whenever SWLANE_WAKES is not 0, they have to be, and `switch_leave` is to be called afterwards.
 */
export function switch_put(lane: usize, batch: usize, from: u32, now: f64): u32 {
  const table = <usize>load<u32>(lane, L.SWLANE_SWITCH);
  const member = <usize>load<u32>(lane, L.SWLANE_MEMBER);
  const time = <u64>now;
  const seconds = <u32>(time / SECOND);
  const n = load<u32>(batch, L.BATCH_COUNT);
  let source: u64 = 0;
  let destination: u64 = 0;
  let port: i32 = UNKNOWN;
  let sent: u32 = 0;
  store<u32>(lane, 0, L.SWLANE_WAKES);
  atomic.add<u32>(lane, 1, L.SWLANE_EPOCH);
  let i = from;
  for (; i < n && load<u32>(lane, L.SWLANE_WAKES) <= MOST_WAKES; i++) {
    const frame = frameAt(batch, i);
    const length = load<u32>(frame, L.FRAME_LENGTH);
    const fault = faultOf(frame, length);
    if (fault != 0) {
      count(lane, fault);
      continue;
    }
    const head = headOf(lane, frame, length);
    const low = load<u64>(head);
    const high = load<u32>(head, 8);

    const address = (low >> 48) | ((<u64>high) << 16);
    if (address != source && (address & GROUP) == 0 && address != 0) {
      source = address;
      const learned = learn(table, member, address, seconds);
      if (learned == LEARNED) count(lane, L.SWLANE_LEARNED);
      else if (learned == MOVED) count(lane, L.SWLANE_MOVED);
    }

    const target = low & ADDRESS;
    if (target != destination || port == UNKNOWN) {
      destination = target;
      port = whose(table, member, target, seconds);
    }
    if (port == NOWHERE) count(lane, L.SWLANE_FILTERED);
    else if (port != UNKNOWN) {
      const to = memberAt(table, port);
      if (to != 0) deliver(lane, to, frame, length, low, high, head);
      sent++;
    } else if (!mayFlood(member, (length + FLOOD_UNIT - 1) / FLOOD_UNIT, time)) count(lane, L.SWLANE_LIMITED);
    else {
      flood(lane, table, member, frame, length, low, high, head);
      sent++;
    }
  }
  add(lane, L.PORT_SENT, sent);
  if (load<u32>(lane, L.SWLANE_WAKES) == 0) switch_leave(lane);
  return i;
}

/** The lane uses no other port any more. */
export function switch_leave(lane: usize): void {
  atomic.add<u32>(lane, 1, L.SWLANE_EPOCH);
}

/**
 * Fills the batch's frames from `from` on. Returns the index behind them. Negative: the frame at its complement (~) is there, but asks for more than
 * PORT_OFFLOADS, or is longer than its room.
 */
export function switch_get(lane: usize, batch: usize, from: u32): i32 {
  const inbox = <usize>load<u32>(lane, L.SWLANE_INBOX);
  const offloads = load<u32>(lane, L.PORT_OFFLOADS);
  const n = load<u32>(batch, L.BATCH_COUNT);
  let head = load<u32>(inbox, L.INBOX_HEAD);
  let i = from;
  let soft = false;
  for (let looks: u32 = 0; i < n && !soft && looks < <u32>L.MAX_BATCH; looks++) {
    const length = waiting(inbox, head);
    if (length == 0) break;
    const frame = frameAt(batch, i);
    if (inWindow(frame)) {
      withdraw(inbox, head, batch, frame, length);
      store<u32>(frame, length, L.FRAME_LENGTH);
      soft =
        length > load<u32>(frame, L.FRAME_ROOM) ||
        !sound(<usize>load<u32>(frame, L.FRAME_HEADER), length, offloads);
      if (!soft) i++;
    } else count(lane, L.SWLANE_UNREACHABLE);
    head = clearMark(inbox, head, length);
  }
  free(inbox, head);
  return soft ? ~i : i;
}

/** The next frame that comes brings a signal. Returns the signals still to be read from the eventfd; then ask `switch_waiting` again. */
export function switch_arm(lane: usize): i32 {
  return arm(<usize>load<u32>(lane, L.SWLANE_INBOX));
}

/** Whether a frame can be taken now. */
export function switch_waiting(lane: usize): bool {
  const inbox = <usize>load<u32>(lane, L.SWLANE_INBOX);
  return waiting(inbox, load<u32>(inbox, L.INBOX_HEAD)) != 0;
}

/** The port has left: its addresses are forgotten. */
export function switch_forget(table: usize, port: u32): void {
  forget(table, port);
}

/** How many addresses the port has at present. */
export function switch_addresses(member: usize): u32 {
  return addressesOf(member);
}

/** What is wrong with the frame: a counter, 0 = nothing. */
function faultOf(frame: usize, length: u32): usize {
  if (length < ETHERNET) return L.PORT_DROPPED;
  if (length > <u32>L.LARGE_FRAME) return L.PORT_TOO_LONG;
  if (!sound(<usize>load<u32>(frame, L.FRAME_HEADER), length, L.OFFLOAD_ALL)) return L.PORT_DROPPED;
  const buffers = load<u32>(frame, L.FRAME_IOVS) - 1;
  let bytes: u64 = 0;
  for (let b: u32 = 0; b < buffers; b++) bytes += bufferLength(frame, b);
  if (bytes < length) return L.PORT_DROPPED;
  return inWindow(frame) ? 0 : L.SWLANE_UNREACHABLE;
}

/** Where the frame's first bytes are, in one piece: SWLANE_HEAD_SIZE, or all if there are fewer, or as many as its first buffer has. */
function headOf(lane: usize, frame: usize, length: u32): usize {
  const wanted = min(length, <u32>L.SWLANE_HEAD_SIZE);
  if (bufferLength(frame, 0) >= wanted) return bufferAt(frame, 0);
  const head = lane + L.SWLANE_HEAD;
  for (let b: u32 = 0, copied: u32 = 0; copied < wanted; b++) {
    const n = min(bufferLength(frame, b), wanted - copied);
    memory.copy(head + copied, bufferAt(frame, b), n);
    copied += n;
  }
  return head;
}

/** The port that a frame for that address goes to, or UNKNOWN: to all, or NOWHERE. */
function whose(table: usize, member: usize, address: u64, seconds: u32): i32 {
  if ((address & GROUP) != 0) return (address & RESERVED_MASK) == RESERVED ? NOWHERE : UNKNOWN;
  const port = lookUp(table, address, seconds);
  if (port < 0) return UNKNOWN;
  const to = memberAt(table, port);
  return to == 0 || to == member || apart(member, to) ? NOWHERE : port;
}

function apart(a: usize, b: usize): bool {
  return load<u32>(a, L.MEMBER_ISOLATED) != 0 && load<u32>(b, L.MEMBER_ISOLATED) != 0;
}

function flood(
  lane: usize,
  table: usize,
  member: usize,
  frame: usize,
  length: u32,
  low: u64,
  high: u32,
  head: usize,
): void {
  for (let port: u32 = 0; port < <u32>L.SWITCH_MAX_PORTS; port++) {
    const to = memberAt(table, port);
    if (to != 0 && to != member && !apart(member, to)) deliver(lane, to, frame, length, low, high, head);
  }
  count(lane, L.SWLANE_FLOODED);
}

function deliver(lane: usize, to: usize, frame: usize, length: u32, low: u64, high: u32, head: usize): void {
  const lanes = load<u32>(to, L.MEMBER_LANES);
  const flow = lanes == 1 ? 0 : flowOf(head, min(length, <u32>L.SWLANE_HEAD_SIZE)) % lanes;
  const inbox = <usize>load<u32>(to + ((<usize>flow) << 2), L.MEMBER_INBOXES);
  if (!deposit(inbox, frame, length, low, high) || !takeArmed(inbox)) return;
  const wakes = load<u32>(lane, L.SWLANE_WAKES);
  store<u32>(lane + ((<usize>wakes) << 2), load<u32>(inbox, L.INBOX_FD), L.SWLANE_WAKE_FDS);
  store<u32>(lane, wakes + 1, L.SWLANE_WAKES);
}

/**
 * Whether the port may flood `units` frames now: a token bucket, kept as the time up to which its flooding is paid for. That may be ahead of now by
 * the burst, and never falls behind.
 */
function mayFlood(member: usize, units: u32, now: u64): bool {
  const cost = <u64>units * load<u64>(member, L.MEMBER_FLOOD_INTERVAL);
  const limit = now + load<u64>(member, L.MEMBER_FLOOD_BURST);
  for (let attempt: u32 = 0; attempt < ATTEMPTS; attempt++) {
    const paid = atomic.load<u64>(member, L.MEMBER_FLOOD_PAID);
    const next = max(paid, now) + cost;
    if (next > limit) return false;
    if (atomic.cmpxchg<u64>(member, paid, next, L.MEMBER_FLOOD_PAID) == paid) return true;
  }
  return false;
}

function count(lane: usize, counter: usize): void {
  add(lane, counter, 1);
}

function add(lane: usize, counter: usize, n: u32): void {
  store<f64>(lane + counter, load<f64>(lane + counter) + <f64>n);
}
