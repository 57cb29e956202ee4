/**
 * Where the nanoseconds of a packet go: guest's driver, programs, backend, kernel. Each is timed by itself, in one thread, in turns of a batch.
 *
 *   parts/TYPE/DIRECTION/LENGTH/driver     the guest's loop without the programs
 *                              /programs   as the driver runs them, beside the same all guarded and on a budget
 *                              /backend    ring, and source or sink
 *                              /kernel     the system calls of a TAP, in the place of source or sink
 */
import * as L from '../../datapath/layout.js';
import { programNumber } from '../guest/bpfhv/registers.js';
import type { DeviceType } from '../ring/ring.js';
import { type BpfhvBed, bpfhvBed, type Direction } from './bed.js';
import { BenchError } from './errors.js';
import { openTapMover } from './kernel.js';
import { compileAllGuarded, loadAsDriver, type Modules } from './programs.js';
import { type BenchResult, result } from './result.js';
import { type Effort, perPacket, QUICK, type Spent, type Turn } from './timing.js';
import { flowMover, takeTurn } from './turns.js';

/** The kernel takes microseconds for a packet. */
const SLOW: Effort = { warmUp: 200, turns: 4 };

/** Driver, programs, backend. */
export async function measureParts(
  device: DeviceType,
  direction: Direction,
  length: number,
  effort = QUICK,
): Promise<BenchResult[]> {
  using whole = bpfhvBed(device, direction, length);
  using alone = bpfhvBed(device, direction, length);
  using guarded = bpfhvBed(device, direction, length);
  const {
    programs: [modules],
  } = await loadAsDriver(device, whole.place);
  whole.install(modules!);
  using mover = flowMover(whole);
  const turns = [
    (spent: Spent) => takeTurn(whole, mover, spent),
    programsAlone(alone, modules!),
    programsAlone(guarded, compileAllGuarded(device, guarded.place).modules),
  ];
  const [all, programs, before] = perPacket(turns, effort) as [Spent, Spent, Spent];
  const name = `parts/${device.name}/${direction}/${length}`;
  const unproved = result(`${name}/programs-guarded`, 'ns', before.guest);
  return [
    result(`${name}/driver`, 'ns', all.guest - programs.guest),
    result(`${name}/programs`, 'ns', programs.guest, unproved),
    unproved,
    result(`${name}/backend`, 'ns', all.ring + all.port),
  ];
}

/** What writev or readv takes, per packet. Throws LinuxError without the rights for namespaces and TAPs. */
export async function measureKernel(
  device: DeviceType,
  direction: Direction,
  length: number,
  effort = SLOW,
): Promise<BenchResult[]> {
  using bed = bpfhvBed(device, direction, length);
  const {
    programs: [modules],
  } = await loadAsDriver(device, bed.place);
  bed.install(modules!);
  using mover = openTapMover(bed);
  const [spent] = perPacket([spent => takeTurn(bed, mover, spent)], effort);
  return [result(`parts/${device.name}/${direction}/${length}/kernel`, 'ns', spent!.port)];
}

/** Turns of the same calls of programs, without a driver around them; receiving, the helper that makes a packet does nothing. */
function programsAlone(bed: BpfhvBed, modules: Modules): Turn {
  bed.install(modules, true);
  if (bed.direction === 'rx') return spent => receiveAlone(bed, spent);
  transmitOne(bed);
  return spent => transmitAlone(bed, spent);
}

/** By the driver's loop. From then on its header is what programs see when they ask for one. */
function transmitOne(bed: BpfhvBed): void {
  const { guest, driver, ring, queue, calls, source, guestBatch, deviceBatch, length } = bed;
  guest.room(driver, guestBatch.address, 1);
  guest.publish(driver, guestBatch.address, calls.source_fill(source, guestBatch.address, 1, length));
  ring.complete(queue, deviceBatch.address, ring.pop(queue, deviceBatch.address, L.MAX_BATCH));
  call(bed, 'txc', 1);
}

function transmitAlone(bed: BpfhvBed, spent: Spent): number {
  const { ring, queue, deviceBatch, frames } = bed;
  lend(bed, bed.buffers);
  const start = performance.now();
  const refused = call(bed, 'txp', frames);
  const published = performance.now();
  const n = ring.pop(queue, deviceBatch.address, L.MAX_BATCH);
  ring.complete(queue, deviceBatch.address, n);
  const begun = performance.now();
  const taken = call(bed, 'txc', frames);
  spent.guest += performance.now() - begun + (published - start);
  return checked(bed, refused, n, taken);
}

function receiveAlone(bed: BpfhvBed, spent: Spent): number {
  const { ring, queue, calls, source, deviceBatch, frames, buffers, length } = bed;
  const posted = frames * buffers;
  const lent = Math.min(L.CTX_MAX_BUFS, posted);
  lend(bed, lent);
  const start = performance.now();
  const refused = call(bed, 'rxp', posted / lent);
  const published = performance.now();
  const n = ring.room(queue, deviceBatch.address, L.MAX_BATCH);
  ring.push(queue, deviceBatch.address, calls.source_fill(source, deviceBatch.address, n, length));
  const begun = performance.now();
  const taken = call(bed, 'rxc', frames);
  spent.guest += performance.now() - begun + (published - start);
  return checked(bed, refused, n, taken);
}

/** Runs a program so many times. Returns the sum of what it returned. */
function call({ calls, own }: BpfhvBed, section: 'txp' | 'txc' | 'rxp' | 'rxc', times: number): number {
  return Number(calls.call_many(programNumber(section), BigInt(own.context), times));
}

/** Publishing returns 0, completing 1. */
function checked({ frames }: BpfhvBed, refused: number, n: number, taken: number): number {
  if (refused === 0 && n === frames && taken === frames) return frames;
  throw new BenchError(`programs by themselves: ${frames} packets, ${n} in the ring, ${taken} completed`);
}

/** Fills the context as the driver does before it publishes `n` buffers. */
function lend({ host: { window }, own, ram, length, buffers }: BpfhvBed, n: number): void {
  const { address, context, bufferBase } = own;
  const [stride, room] = [L.DRIVER_STRIDE, L.DRIVER_ROOM].map(
    field => window.words[(address + field) >>> 2]!,
  ) as [number, number];
  for (let i = 0; i < n; i++) {
    const buf = context + L.CTX_BUFS + i * L.BUF_SIZE;
    window.longs[(buf + L.BUF_COOKIE) / 8] = BigInt(i);
    window.longs[(buf + L.BUF_PADDR) / 8] = ram.toGuest(bufferBase + i * stride);
    window.words[(buf + L.BUF_LEN) >>> 2] = buffers === 1 && n === 1 ? length : room;
  }
  window.words[(context + L.CTX_NUM_BUFS) >>> 2] = n;
}
