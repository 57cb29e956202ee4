/**
 * Where the nanoseconds of a packet go: guest driver, programs and backend in one thread, taking turns of 128 packets, each timed by itself.
 *
 * There is no second core here, so cache lines stay where they are: the sum is the work, and what two processes need beyond it is the price of sharing.
 */
import { readFileSync } from 'node:fs';
import * as L from '../../datapath/layout.js';
import { loadObject } from '../ebpf/elf.js';
import { compile, instantiate } from '../ebpf/jit/index.js';
import { decodeProgram } from '../ebpf/program.js';
import { STACK_BYTES } from '../ebpf/sandbox.js';
import { DriverQueues, type OwnQueue } from '../guest/bpfhv/contract.js';
import { BPFHV_HELPERS, helperImplementations } from '../guest/bpfhv/helpers.js';
import { PROGRAMS, type ProgramSection, programNumber } from '../guest/bpfhv/registers.js';
import { GuestRam } from '../guest/guest-ram.js';
import { Arena } from '../memory/arena.js';
import { GuestMemory } from '../memory/guest-memory.js';
import { WINDOW_PAGES, Window } from '../memory/window.js';
import { Queue } from '../nic/queue.js';
import { Batch } from '../ring/batch.js';
import { loadDatapath } from '../ring/datapath.js';
import { frameLimits } from '../ring/features.js';
import type { DeviceType } from '../ring/ring.js';
import { type BenchResult, median, result } from './result.js';

const NUM = 256;
const WARM_UP_TURNS = 2000;
const TURNS = 100;
const ROUNDS = 15;
/** Where a second copy of the programs stands in the function table, that for `programsAlone`. */
const ALONE = 100;
const RX_PKT_ALLOC = 0x4b8f0000;

/** Nanoseconds per packet in driver, programs and backend, completions included: medians over ROUNDS runs of TURNS turns each. */
export function measureParts(device: DeviceType, direction: 'tx' | 'rx', length: number): BenchResult[] {
  const window = Window.create();
  const arena = new Arena(window);
  const ram = new GuestRam(window, 8 * 1024 * 1024);
  const datapath = loadDatapath(window);
  const { calls } = datapath;
  const ring = device.ring(datapath);
  const contextSize = ring.contextSize(NUM);
  const table = new GuestMemory(window, arena).build([
    { guestPhysicalAddress: ram.guestPhysicalAddress, size: BigInt(ram.size), mmapOffset: 0n, fd: ram.fd },
  ]);
  const own = new DriverQueues(
    {
      ...{ numRxQueues: 1, numTxQueues: 1, numRxBufs: NUM, numTxBufs: NUM, features: 0n },
      ...{ rxContextSize: contextSize, txContextSize: contextSize, mac: new Uint8Array(6) },
    },
    { transport: { ram, doorbell: () => -1, interrupt: () => -1 }, arena, window },
  ).all.find(side => side.direction === direction)!;
  const { address: driver, context } = own;
  const hostQueue = new Queue({ window, arena }, { index: own.index, direction, num: NUM, contextSize });
  const { maxFrame, offloads } = frameLimits(device, 0n, direction);
  hostQueue.setFrames(maxFrame, offloads);
  hostQueue.setContext(ram.toGuest(context), table, ring);
  const { address: queue } = hostQueue;
  const { programs } = loadObject(readFileSync(device.programs));
  const stackBase = arena.allocate(STACK_BYTES);
  const helpers = helperImplementations(calls, () => {});
  const idle = new Map([...helpers, [RX_PKT_ALLOC, calls.helper_nothing]]);
  for (const { number: index, section } of PROGRAMS) {
    const bytes = programs.get(section);
    if (!bytes) continue;
    const options = { contextSize, stackBase, helpers: BPFHV_HELPERS, budget: 65536, sharedMemory: true };
    const compiled = compile(decodeProgram(bytes, section), { ...options, memoryPages: WINDOW_PAGES });
    datapath.table.set(index, instantiate(compiled, window.memory, helpers).run);
    datapath.table.set(index + ALONE, instantiate(compiled, window.memory, idle).run);
  }
  calls.driver_reset(driver, NUM);

  const guestBatch = Batch.allocate(window, arena).address;
  const deviceBatch = Batch.allocate(window, arena).address;
  const flow = arena.allocate(L.PORT_SIZE);
  const reader = arena.allocate(L.PORT_SIZE);
  /** Each turn adds the milliseconds of guest and device to these. */
  const times = { guest: 0, device: 0 };

  function transmit(): void {
    const start = performance.now();
    calls.driver_tx_complete(driver, L.MAX_BATCH);
    const room = calls.driver_tx_room(driver, guestBatch, L.MAX_BATCH);
    calls.driver_tx_publish(driver, guestBatch, calls.source_fill(flow, guestBatch, room, length));
    const middle = performance.now();
    ring.pop(queue, deviceBatch, L.MAX_BATCH);
    ring.complete(queue, deviceBatch, calls.sink_drain(reader, deviceBatch));
    times.device += performance.now() - middle;
    times.guest += middle - start;
  }

  function receive(): void {
    const start = performance.now();
    calls.driver_rx_refill(driver);
    const middle = performance.now();
    const room = ring.room(queue, deviceBatch, L.MAX_BATCH);
    ring.push(queue, deviceBatch, calls.source_fill(flow, deviceBatch, room, length));
    const end = performance.now();
    calls.driver_rx_poll(driver, guestBatch, L.MAX_BATCH / 2);
    calls.driver_rx_release(driver, guestBatch);
    calls.driver_rx_poll(driver, guestBatch, L.MAX_BATCH / 2);
    calls.driver_rx_release(driver, guestBatch);
    times.guest += performance.now() - end + (middle - start);
    times.device += end - middle;
  }

  /** The same calls of programs, without a driver around them; a helper that they call does nothing. */
  function programsAlone(): void {
    const call = (section: ProgramSection, n: number) =>
      calls.call_many(programNumber(section) + ALONE, BigInt(context), n);
    const start = performance.now();
    if (direction === 'tx') call('txp', L.MAX_BATCH);
    else call('rxp', L.MAX_BATCH / L.CTX_MAX_BUFS);
    const middle = performance.now();
    if (direction === 'tx') ring.complete(queue, deviceBatch, ring.pop(queue, deviceBatch, L.MAX_BATCH));
    else ring.push(queue, deviceBatch, ring.room(queue, deviceBatch, L.MAX_BATCH));
    const end = performance.now();
    call(`${direction}c`, L.MAX_BATCH);
    times.guest += performance.now() - end + (middle - start);
  }

  const whole = timeTurns(direction === 'tx' ? transmit : receive, times);
  // The driver has no part in the programs' own turns: what it had posted is taken out of the ring first.
  ring.complete(queue, deviceBatch, ring.pop(queue, deviceBatch, L.MAX_BATCH));
  calls.driver_reclaim(driver);
  ring.resume(queue);
  prepareContext(window, own, ram);
  const alone = timeTurns(programsAlone, times);
  hostQueue.close();
  table.close();
  ram.close();
  const name = `parts/${device.name}/${direction}/${length}`;
  return [
    result(`${name}/driver`, 'ns', whole.guest - alone.guest),
    result(`${name}/programs`, 'ns', alone.guest),
    result(`${name}/backend`, 'ns', whole.device),
  ];
}

/** Nanoseconds per packet of guest and device: medians of ROUNDS runs. */
function timeTurns(
  turn: () => void,
  times: { guest: number; device: number },
): { guest: number; device: number } {
  for (let i = 0; i < WARM_UP_TURNS; i++) turn();
  const samples = Array.from({ length: ROUNDS }, () => {
    times.guest = 0;
    times.device = 0;
    for (let i = 0; i < TURNS; i++) turn();
    const perPacket = 1e6 / (TURNS * L.MAX_BATCH);
    return { guest: times.guest * perPacket, device: times.device * perPacket };
  });
  return { guest: median(samples.map(s => s.guest)), device: median(samples.map(s => s.device)) };
}

/** Fills the context as the driver does before it publishes: 64 buffers for a receive queue, of which a transmit queue takes one. */
function prepareContext(window: Window, { address, context, bufferBase }: OwnQueue, ram: GuestRam): void {
  const [stride, room] = [L.DRIVER_STRIDE, L.DRIVER_ROOM].map(
    field => window.words[(address + field) >>> 2]!,
  );
  for (let i = 0; i < L.CTX_MAX_BUFS; i++) {
    const buf = context + L.CTX_BUFS + i * L.BUF_SIZE;
    window.longs[(buf + L.BUF_COOKIE) / 8] = BigInt(i);
    window.longs[(buf + L.BUF_PADDR) / 8] = ram.toGuest(bufferBase + i * stride!);
    window.words[(buf + L.BUF_LEN) >>> 2] = room!;
  }
}
