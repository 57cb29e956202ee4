/**
 * The call of a program that is under way: which queue it is for, and which packet is at hand. What helpers may touch is what stands here.
 *
 * Globals of this instance: an instance belongs to one worker.
 */
import { count } from './batch';
import * as L from './layout';

let activeDriver: usize = 0;
let activeBatch: usize = 0; // 0 outside of rxc: no packet may be made
let activePacket: usize = 0; // 0 while no packet is at hand
let delivered: u32 = 0; // calls of rx_pkt_alloc in this rxc
let activeHook: u32 = 0; // the optional program that runs on the packet, HOOK_*; HOOK_NONE also when the packet is not in private memory
let changed: bool = false; // this hook has called `packet_done`

export const HOOK_NONE = 0;
export const HOOK_PREPARE = 1; // txh
export const HOOK_FINISH = 2; // rxh

/** A program of this queue is about to run, without a packet. */
export function enter(driver: usize, batch: usize): void {
  activeDriver = driver;
  activeBatch = batch;
  activePacket = 0;
  activeHook = HOOK_NONE;
}

export function driverAtHand(): usize {
  return activeDriver;
}

export function batchAtHand(): usize {
  return activeBatch;
}

export function packetAtHand(): usize {
  return activePacket;
}

export function setPacket(frame: usize): void {
  activePacket = frame;
}

/** rxc is about to run. */
export function expectPacket(): void {
  delivered = 0;
  activePacket = 0;
}

/** Packets that this rxc has made, or tried to. */
export function deliveries(): u32 {
  return delivered;
}

/** Counts one more; returns how many there were. */
export function deliver(): u32 {
  return delivered++;
}

/** A hook is about to run on a packet; with HOOK_NONE, on one that it may not change. */
export function beginHook(frame: usize, hook: u32): void {
  activePacket = frame;
  activeHook = hook;
  changed = false;
}

/** The hook has returned. True: a helper has worked on the packet. */
export function endHook(): bool {
  activeHook = HOOK_NONE;
  return changed;
}

// --- The packet at hand, for helpers outside of this module: one buffer in private memory, once in a hook.

/** Window address of the packet that txh (HOOK_PREPARE) or rxh (HOOK_FINISH) may have changed, 0 = none. */
export function packet_of(hook: u32): usize {
  if (activeHook == HOOK_NONE || activeHook != hook || changed) return 0;
  return <usize>load<u32>(<usize>load<u32>(activePacket, L.FRAME_WIN));
}

/** Its bytes. */
export function packet_length(): u32 {
  return load<u32>(activePacket, L.FRAME_LENGTH);
}

/** It was changed in place, or found good as it is; it has `length` bytes now. */
export function packet_done(length: u32): void {
  store<u32>(activePacket, length, L.FRAME_LENGTH);
  store<u64>(<usize>load<u32>(activePacket, L.FRAME_IOV) + L.IOVEC_SIZE, <u64>length, L.IOVEC_LENGTH);
  changed = true;
}

/** It is none that the other side has sealed, or not for the first time. */
export function packet_unauthentic(): void {
  count(activeDriver + L.DRIVER_STATS, L.STAT_UNAUTHENTIC, 1);
}
