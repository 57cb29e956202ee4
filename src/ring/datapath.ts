/**
 * The datapath module, instantiated: one instance a thread, over the window's memory and a function table of its own.
 *
 * Signatures are those of datapath/*.ts. All addresses are window addresses; i64 parameters are BigInt and appear only in calls that are not hot.
 */
import { readFileSync } from 'node:fs';
import type { Window } from '../memory/window.js';
import { RingView } from './view.js';

export interface DatapathExports {
  translate(regions: number, hint: number, gpa: bigint, length: bigint): number;
  bump(stats: number, counter: number): void;
  relax(rounds: number): number;

  kit_clear(batch: number): void;
  kit_has_room(batch: number, buffers: number): number;
  kit_take(
    queue: number,
    batch: number,
    low: number,
    high: number,
    length: number,
    receive: boolean,
    end: number,
  ): void;
  kit_refuse(queue: number): void;
  kit_end(queue: number, batch: number, n: number): number;
  kit_account(queue: number, batch: number, n: number, buffers: number): void;
  metadata_want(batch: number): void;
  metadata_fill(batch: number, n: number, low: number, high: number): void;

  helper_nothing(context: bigint): bigint;
  call_many(program: number, context: bigint, n: number): bigint;
  sink_drain(flow: number, batch: number): number;
  source_fill(flow: number, batch: number, n: number, length: number): number;

  sring_size(num: number): number;
  sring_init(queue: number, receive: boolean): void;
  sring_resume(queue: number): number;
  sring_pending(queue: number): number;
  sring_tx_pop(queue: number, batch: number, budget: number): number;
  sring_tx_complete(queue: number, batch: number, n: number): number;
  sring_rx_room(queue: number, batch: number, budget: number): number;
  sring_rx_push(queue: number, batch: number, n: number): number;
  sring_kicks(queue: number, on: boolean): number;

  vring_packed_size(num: number): number;
  vring_packed_init(queue: number): void;
  vring_packed_resume(queue: number): number;
  vring_packed_pending(queue: number): number;
  vring_packed_tx_pop(queue: number, batch: number, budget: number): number;
  vring_packed_tx_complete(queue: number, batch: number, n: number): number;
  vring_packed_rx_room(queue: number, batch: number, budget: number): number;
  vring_packed_rx_push(queue: number, batch: number, n: number): number;
  vring_packed_kicks(queue: number, on: boolean): number;

  sring_gso_size(num: number): number;
  sring_gso_init(queue: number, receive: boolean): void;
  sring_gso_resume(queue: number): number;
  sring_gso_pending(queue: number): number;
  sring_gso_tx_pop(queue: number, batch: number, budget: number): number;
  sring_gso_tx_complete(queue: number, batch: number, n: number): number;
  sring_gso_rx_room(queue: number, batch: number, budget: number): number;
  sring_gso_rx_push(queue: number, batch: number, n: number): number;
  sring_gso_kicks(queue: number, on: boolean): number;

  virtq_init(queue: number): void;
  virtq_resume(queue: number): number;
  virtq_pending(queue: number): number;
  virtq_tx_pop(queue: number, batch: number, budget: number): number;
  virtq_tx_complete(queue: number, batch: number, n: number): number;
  virtq_rx_room(queue: number, batch: number, budget: number): number;
  virtq_rx_push(queue: number, batch: number, n: number): number;
  virtq_kicks(queue: number, on: boolean): number;
  virtq_base_get(queue: number): number;
  virtq_base_set(queue: number, base: number): number;
  vdrv_reset(driver: number, buffers: number): void;
  vdrv_tx_room(driver: number, batch: number, want: number): number;
  vdrv_tx_publish(driver: number, batch: number, n: number): number;
  vdrv_tx_complete(driver: number, budget: number): number;
  vdrv_tx_restart(driver: number): void;
  vdrv_tx_again(driver: number, first: number): void;
  vdrv_show(driver: number): number;
  vdrv_rx_refill(driver: number): number;
  vdrv_rx_poll(driver: number, batch: number, budget: number): number;
  vdrv_rx_release(driver: number, batch: number): void;
  vdrv_arm(driver: number, minimum: number): number;
  vdrv_reclaim(driver: number, buffers: number): number;
  dirty_mark(queue: number, gpa: bigint, length: bigint): void;

  switch_put(lane: number, batch: number, from: number, now: number): number;
  switch_leave(lane: number): void;
  switch_get(lane: number, batch: number, from: number): number;
  switch_arm(lane: number): number;
  switch_waiting(lane: number): number;
  switch_forget(table: number, port: number): void;
  switch_addresses(member: number): number;

  offload_undo(batch: number, index: number, offloads: number): number;
  segment_begin(segments: number, batch: number, index: number): number;
  segment_pending(segments: number): number;
  segment_next(segments: number, batch: number, index: number): number;
  segment_fill(segments: number): number;
  checksums_finish(batch: number, n: number, first?: number): void;
  checksums_restore(batch: number, n: number, first?: number): void;

  driver_reset(driver: number, buffers: number): void;
  driver_fail(driver: number, reason: number): void;
  driver_tx_room(driver: number, batch: number, want: number): number;
  driver_tx_publish(driver: number, batch: number, n: number): number;
  driver_tx_complete(driver: number, budget: number): number;
  driver_rx_refill(driver: number): number;
  driver_rx_poll(driver: number, batch: number, budget: number): number;
  driver_rx_release(driver: number, batch: number): void;
  driver_arm(driver: number, minimum: number): number;
  driver_reclaim(driver: number): number;
  driver_seize(driver: number, buffers: number): number;

  packet_of(hook: number): number;
  packet_length(): number;
  packet_done(length: number): void;
  packet_unauthentic(): void;

  helper_rx_pkt_alloc(context: bigint): bigint;
  helper_csum_get(context: bigint, start: bigint, offset: bigint): bigint;
  helper_csum_set(context: bigint, start: bigint, offset: bigint): bigint;
  helper_vnet_get(context: bigint, to: bigint): bigint;
  helper_vnet_set(context: bigint, from: bigint): bigint;
  helper_dma_map(context: bigint, vaddr: bigint, length: bigint, paddr: bigint): bigint;
  helper_dma_unmap(context: bigint, vaddr: bigint, length: bigint, paddr: bigint): bigint;
  helper_meta_set(context: bigint, stamp: bigint, mark: bigint): bigint;
}

/** Room for the programs of 64 queue pairs, ten each. */
const TABLE_SIZE = 1280;

let compiled: WebAssembly.Module | undefined;

export interface Datapath {
  readonly calls: DatapathExports;
  /** Where programs are put for the driver's loop to call, as (context) → r0. Index 0 stays empty. */
  readonly table: WebAssembly.Table;
  /** For rings whose device side is not in the module. */
  readonly view: RingView;
}

/** Instantiates the module for this thread. */
export function loadDatapath(window: Window): Datapath {
  compiled ??= new WebAssembly.Module(readFileSync(new URL('../../datapath.wasm', import.meta.url)));
  const table = new WebAssembly.Table({ element: 'anyfunc', initial: TABLE_SIZE });
  const instance = new WebAssembly.Instance(compiled, {
    env: { memory: window.memory, table },
    process: {
      copyIn: (to: number, from: bigint, length: number) => window.copyIn(to >>> 0, Number(from), length),
      copyOut: (to: bigint, from: number, length: number) => window.copyOut(Number(to), from >>> 0, length),
    },
  });
  const calls = instance.exports as unknown as DatapathExports;
  return { calls, table, view: new RingView(window, calls) };
}
