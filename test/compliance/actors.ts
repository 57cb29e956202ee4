/** The two sides of a testbed as actors that move one step when told: numbered frames, checked where they arrive. */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { payload, type Side, type Testbed, window } from './testbed.js';

/** Frames carry their number in the first 8 bytes and its low byte in the last one; their length follows from it. */
const MIN = 24;
export const lengthOf = (number: number): number => MIN + ((number * 131) % (1518 - MIN + 1));

function write(at: number, number: number): number {
  const length = lengthOf(number);
  window.longs[at / 8] = BigInt(number);
  window.bytes[at + length - 1] = number;
  return length;
}

function check(at: number, length: number, number: number): void {
  assert.equal(Number(window.longs[at / 8]), number, 'order: this frame was not the next one');
  assert.equal(length, lengthOf(number), `length of frame ${number}`);
  assert.equal(window.bytes[at + length - 1], number & 0xff, `last byte of frame ${number}`);
}

/** Flows number their frames from a start of their own, so that what an earlier one left in a buffer is never right. */
let flows = 0;
const nextBase = (): number => ++flows * 100_003;

/** Guest to device. */
export class TransmitFlow {
  sent = 0;
  arrived = 0;
  readonly #base = nextBase();
  readonly #bed: Testbed;
  readonly #side: Side;

  constructor(bed: Testbed) {
    this.#bed = bed;
    this.#side = bed.tx;
  }

  /** Publishes up to `want` frames. `kick`: the device wants to know. */
  publish(want: number): { sent: number; kick: boolean } {
    const { datapath, guestBatch } = this.#bed;
    const { driver } = this.#side;
    assert.ok(datapath.calls.driver_tx_complete(driver, 128) >= 0, 'fault');
    const room = datapath.calls.driver_tx_room(driver, guestBatch.address, want);
    for (let i = 0; i < room; i++)
      guestBatch.setLength(i, write(payload(guestBatch, i), this.#base + this.sent++));
    const kick = datapath.calls.driver_tx_publish(driver, guestBatch.address, room);
    assert.ok(kick >= 0, 'fault');
    return { sent: room, kick: kick > 0 };
  }

  /** The device takes up to `take` of the frames in `budget` descriptors. */
  drain(budget: number, take = budget): { frames: number; interrupt: boolean } {
    const { ring, deviceBatch } = this.#bed;
    const { address } = this.#side.queue;
    const frames = Math.min(take, ring.pop(address, deviceBatch.address, budget));
    for (let i = 0; i < frames; i++)
      check(payload(deviceBatch, i), deviceBatch.length(i), this.#base + this.arrived++);
    return { frames, interrupt: ring.complete(address, deviceBatch.address, frames) };
  }
}

/** Device to guest. */
export class ReceiveFlow {
  sent = 0;
  arrived = 0;
  readonly #base = nextBase();
  readonly #bed: Testbed;
  readonly #side: Side;

  constructor(bed: Testbed) {
    this.#bed = bed;
    this.#side = bed.rx;
  }

  refill(): boolean {
    const kick = this.#bed.datapath.calls.driver_rx_refill(this.#side.driver);
    assert.ok(kick >= 0, 'fault');
    return kick > 0;
  }

  /** The device fills up to `want` of the buffers in `budget` descriptors. `room`: buffers that there were. */
  fill(budget: number, want = budget): { frames: number; room: number; interrupt: boolean } {
    const { ring, deviceBatch } = this.#bed;
    const { address } = this.#side.queue;
    const room = ring.room(address, deviceBatch.address, budget);
    const frames = Math.min(want, room);
    for (let i = 0; i < frames; i++) {
      deviceBatch.setLength(i, write(payload(deviceBatch, i), this.#base + this.sent++));
    }
    return { frames, room, interrupt: ring.push(address, deviceBatch.address, frames) };
  }

  /** The guest takes up to `budget` packets. Empty ones, which bad buffers come back as, are not counted. */
  poll(budget: number): number {
    const { datapath, guestBatch } = this.#bed;
    const { driver } = this.#side;
    const taken = datapath.calls.driver_rx_poll(driver, guestBatch.address, budget);
    assert.ok(taken >= 0, 'fault');
    for (let i = 0; i < guestBatch.count; i++) {
      const length = guestBatch.length(i);
      if (length > 0) check(payload(guestBatch, i), length, this.#base + this.arrived++);
    }
    datapath.calls.driver_rx_release(driver, guestBatch.address);
    return taken;
  }
}

/** Where and how long a posted buffer claims to be. */
export interface Claim {
  readonly gpa: bigint;
  readonly length: number;
}

/** Posts one transmit buffer that claims to be somewhere else; the program does the rest as always. */
export function publishClaim(bed: Testbed, { gpa, length }: Claim): void {
  const { calls } = bed.datapath;
  const { driver } = bed.tx;
  const base = (driver + L.DRIVER_BUFFERS_GPA) / 8;
  const honest = window.longs[base]!;
  assert.equal(calls.driver_tx_room(driver, bed.guestBatch.address, 1), 1, 'no buffer left');
  const frames = window.words[(bed.guestBatch.address + L.BATCH_FRAMES) >>> 2]!;
  const index = window.words[(frames + L.FRAME_END) >>> 2]!;
  const stride = bed.driver(bed.tx, L.DRIVER_STRIDE);
  window.longs[base] = BigInt.asUintN(64, gpa - BigInt(index * stride));
  bed.guestBatch.setLength(0, length);
  assert.ok(calls.driver_tx_publish(driver, bed.guestBatch.address, 1) >= 0);
  window.longs[base] = honest;
}

/** Posts one receive buffer; null: an honest one. */
export function refillClaim(bed: Testbed, claim: Claim | null): void {
  const { rx } = bed;
  const base = (rx.driver + L.DRIVER_BUFFERS_GPA) / 8;
  const honest = window.longs[base]!;
  const room = bed.driver(rx, L.DRIVER_ROOM);
  if (claim) {
    const free = bed.driver(rx, L.DRIVER_FREE) >>> 2;
    const index = window.words[free + bed.driver(rx, L.DRIVER_FREE_COUNT) - 1]!;
    window.longs[base] = BigInt.asUintN(64, claim.gpa - BigInt(index * bed.driver(rx, L.DRIVER_STRIDE)));
    bed.setDriver(rx, L.DRIVER_ROOM, claim.length);
  }
  const posted = bed.driver(rx, L.DRIVER_POSTED);
  bed.setDriver(rx, L.DRIVER_NUM, posted + 1); // so that it posts one
  assert.ok(bed.datapath.calls.driver_rx_refill(rx.driver) >= 0);
  assert.equal(bed.driver(rx, L.DRIVER_POSTED), posted + 1);
  bed.setDriver(rx, L.DRIVER_NUM, bed.num);
  bed.setDriver(rx, L.DRIVER_ROOM, room);
  window.longs[base] = honest;
}

/** Buffers that no device may accept, for either direction. */
export function impossibleClaims(bed: Testbed): [string, Claim][] {
  const [first, hole, last] = bed.forbidden as [bigint, bigint, bigint];
  const top = 2n ** 64n;
  return [
    ['below the first region', { gpa: first, length: 64 }],
    ['at address 0', { gpa: 0n, length: 64 }],
    ['in a hole', { gpa: hole + 8n, length: 64 }],
    ['beyond the last region', { gpa: last, length: 1 }],
    ['into a region', { gpa: first + 4090n, length: 64 }],
    ['out of a region by one byte', { gpa: hole - 63n, length: 64 }],
    ['out of a region by all but one', { gpa: hole - 1n, length: 64 }],
    ['out of the last region', { gpa: last - 8n, length: 9 }],
    ['empty', { gpa: hole - 64n, length: 0 }],
    ['empty, at a bad address', { gpa: hole, length: 0 }],
    ['wrapping', { gpa: top - 8n, length: 64 }],
    ['wrapping into a region', { gpa: top - 8n, length: 0xffff_ffff }],
    ['longer than any region', { gpa: first + 4096n, length: 0xffff_ffff }],
    ['a good address with its upper half cut off', { gpa: (first + 8192n) & 0xffff_ffffn, length: 64 }],
    ['a good address with another upper half', { gpa: first + 8192n + (1n << 63n), length: 64 }],
  ];
}
