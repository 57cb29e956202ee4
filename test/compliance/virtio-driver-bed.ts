/**
 * One queue pair of virtqueues with the datapath's driver on the guest's side; on the device's the datapath again, or the model.
 *
 * ```
 *   VirtqDriver (vdrv.ts) ──► areas, buffers in a memfd ◄── region table ── Virtq (virtq.ts)     DatapathEnd
 *                                                       ◄── DataView ────── ModelDevice          ModelEnd
 * ```
 * In front of either queue's memory is a canary, which is in no region: neither driver nor device may touch it.
 */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { GuestMemory, type RegionTable } from '../../src/memory/guest-memory.js';
import { Batch } from '../../src/ring/batch.js';
import { type Datapath, loadDatapath } from '../../src/ring/datapath.js';
import type { Ring } from '../../src/ring/ring.js';
import { VirtqDriver } from '../../src/ring/virtio/driver.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { Virtq, virtqRing } from '../../src/ring/virtio/virtq.js';
import { pieces as framePieces, getHeader, setHeader } from './packets.js';
import { arena, window } from './testbed.js';
import type { Random } from './virtio-bed.js';
import { type Chain, type ModelDevice, PackedDevice, SplitDevice } from './virtio-model.js';

const PAGE = 4096;
const CANARY = 0xa5;

export interface DriverSide {
  readonly direction: 'rx' | 'tx';
  readonly driver: VirtqDriver;
  readonly queue: Virtq;
}

export type Header = ReturnType<typeof getHeader>;

export interface Sent {
  readonly header: Header;
  readonly payload: Buffer;
}

/** A device's side of one queue. */
export interface DeviceEnd {
  /** Takes up to `most` frames that the driver has published. */
  drain(most: number, random: Random): { frames: Sent[]; interrupt: boolean };
  /** Receives one frame, if there is room for it. */
  fill(payload: Buffer, header: Header): boolean;
  /** Shows what was received. True: the driver wants an interrupt. */
  publish(): boolean;
  arm(on: boolean): boolean;
}

export interface VdrvBedOptions {
  readonly features: bigint;
  readonly num: number;
  readonly buffers: number;
  readonly frameBuffers: number;
  readonly maxFrame: number;
}

export class VdrvBed {
  readonly features: bigint;
  readonly num: number;
  readonly buffers: number;
  readonly datapath: Datapath = loadDatapath(window);
  readonly ring: Ring = virtqRing(this.datapath);
  readonly batch = Batch.allocate(window, arena);
  readonly deviceBatch = Batch.allocate(window, arena);
  readonly ram: GuestRam;
  readonly memory: DataView;
  readonly table: RegionTable;
  readonly tx: DriverSide;
  readonly rx: DriverSide;
  /** Runs between the store and the load of the model's `publish` and `arm`. */
  between: () => void = () => {};
  readonly #canaries: readonly number[];

  constructor({ features, num, buffers, frameBuffers, maxFrame }: VdrvBedOptions) {
    this.features = features;
    this.num = num;
    this.buffers = buffers;
    const size = Math.ceil((2 * (buffers * (2048 + 16 * frameBuffers) + 32 * num) + 16 * PAGE) / PAGE) * PAGE;
    this.ram = new GuestRam(window, size);
    const first = this.ram.allocate(PAGE);
    const host = { window, arena, calls: this.datapath.calls };
    const side = (direction: 'rx' | 'tx'): DriverSide => {
      const driver = new VirtqDriver(host, this.ram, { direction, features, num, buffers, frameBuffers });
      const queue = new Virtq(host, direction);
      queue.negotiate(features, num, maxFrame);
      return { direction, driver, queue };
    };
    this.tx = side('tx');
    const between = this.ram.allocate(64);
    window.bytes.fill(CANARY, between, between + 64);
    this.rx = side('rx');
    this.#canaries = [first, between];
    window.bytes.fill(CANARY, first, first + 64);
    this.memory = new DataView(window.bytes.buffer, first, size);
    const start = this.ram.guestPhysicalAddress;
    const region = (from: number, to: number) => ({
      guestPhysicalAddress: start + BigInt(from - first),
      size: BigInt(to - from),
      mmapOffset: BigInt(from - first),
      fd: this.ram.fd,
    });
    this.table = new GuestMemory(window, arena).build([
      region(first + 64, between),
      region(between + 64, first + size),
    ]);
    for (const { driver, queue } of this.sides) queue.place(driver.areas, this.table);
    this.reset();
  }

  get sides(): readonly DriverSide[] {
    return [this.tx, this.rx];
  }

  /** Both sides anew. */
  reset(): void {
    for (const { driver, queue } of this.sides) {
      driver.reset();
      assert.ok(queue.setBase(driver.base) && this.ring.resume(queue.address));
    }
  }

  model(side: DriverSide): ModelDevice {
    const options = {
      memory: this.memory,
      base: this.ram.guestPhysicalAddress,
      areas: side.driver.areas,
      num: this.num,
      eventIdx: (this.features & F.EVENT_IDX) !== 0n,
      inOrder: (this.features & F.IN_ORDER) !== 0n,
      between: () => this.between(),
    };
    return (this.features & F.RING_PACKED) !== 0n ? new PackedDevice(options) : new SplitDevice(options);
  }

  word(side: DriverSide, field: number): number {
    return window.words[(side.driver.address + field) >>> 2]!;
  }

  faultOf(side: DriverSide): number {
    return this.word(side, L.DRIVER_FAULT);
  }

  dropped(side: DriverSide): number {
    return Number(window.longs[(side.driver.address + L.DRIVER_STATS + L.STAT_DROPPED) / 8]!);
  }

  /** How many buffers each owner has, and whether lists and counters agree with that. Throws when they do not. */
  audit(side: DriverSide): { free: number; driver: number; device: number } {
    const owner = this.word(side, L.DRIVER_OWNER);
    const owners = [0, 0, 0];
    for (let i = 0; i < this.buffers; i++) owners[window.bytes[owner + i]!]!++;
    const [free, driver, device] = owners as [number, number, number];
    const stack = this.word(side, L.DRIVER_FREE) >>> 2;
    const listed = new Set(window.words.subarray(stack, stack + this.word(side, L.DRIVER_FREE_COUNT)));
    assert.deepEqual([this.word(side, L.DRIVER_FREE_COUNT), listed.size], [free, free], 'free ones');
    for (const index of listed) assert.equal(window.bytes[owner + index], L.OWNER_FREE, `buffer ${index}`);
    assert.equal(this.word(side, L.DRIVER_POSTED), device, 'the device’s');
    return { free, driver, device };
  }

  bytesOf(pieces: Chain['pieces']): Buffer {
    const at = ({ gpa }: { gpa: bigint }) =>
      this.memory.byteOffset + Number(gpa - this.ram.guestPhysicalAddress);
    return Buffer.concat(pieces.map(piece => window.bytes.subarray(at(piece), at(piece) + piece.length)));
  }

  write(gpa: bigint, bytes: Uint8Array): void {
    window.bytes.set(bytes, this.memory.byteOffset + Number(gpa - this.ram.guestPhysicalAddress));
  }

  checkCanaries(): void {
    for (const at of this.#canaries) {
      assert.ok(
        window.bytes.subarray(at, at + 64).every(byte => byte === CANARY),
        `bytes at ${at} were overwritten`,
      );
    }
  }

  close(): void {
    for (const { driver, queue } of this.sides) {
      queue.close();
      driver.close();
    }
    this.table.close();
    this.ram.close();
    arena.free(this.batch.address);
    arena.free(this.deviceBatch.address);
  }
}

/** The datapath's device. */
export class DatapathEnd implements DeviceEnd {
  readonly #bed: VdrvBed;
  readonly #queue: number;
  #filled = false;

  constructor(bed: VdrvBed, side: DriverSide) {
    this.#bed = bed;
    this.#queue = side.queue.address;
  }

  drain(most: number): { frames: Sent[]; interrupt: boolean } {
    const { ring, deviceBatch: batch } = this.#bed;
    const n = Math.min(most, ring.pop(this.#queue, batch.address, 128));
    const frames = Array.from({ length: n }, (_, i) => ({
      header: getHeader(batch, i),
      payload: Buffer.concat(framePieces(batch, i, batch.length(i))),
    }));
    return { frames, interrupt: ring.complete(this.#queue, batch.address, n) };
  }

  fill(payload: Buffer, header: Header): boolean {
    const { ring, deviceBatch: batch } = this.#bed;
    if (ring.room(this.#queue, batch.address, 1) === 0 || batch.room(0) < payload.length) return false;
    let done = 0;
    for (const piece of framePieces(batch, 0, payload.length)) {
      piece.set(payload.subarray(done, done + piece.length));
      done += piece.length;
    }
    batch.setLength(0, payload.length);
    setHeader(batch, 0, header);
    this.#filled = ring.push(this.#queue, batch.address, 1);
    return true;
  }

  publish(): boolean {
    return this.#filled;
  }

  arm(on: boolean): boolean {
    return this.#bed.ring.kicks(this.#queue, on);
  }
}

/** The model's device. */
export class ModelEnd implements DeviceEnd {
  readonly #bed: VdrvBed;
  readonly #model: ModelDevice;
  readonly #size: number;
  readonly #inOrder: boolean;
  readonly #waiting: Chain[] = [];

  constructor(bed: VdrvBed, side: DriverSide) {
    this.#bed = bed;
    this.#model = bed.model(side);
    this.#inOrder = (bed.features & F.IN_ORDER) !== 0n;
    this.#size = (bed.features & (F.VERSION_1 | F.MRG_RXBUF)) !== 0n ? 12 : 10;
  }

  drain(most: number, random: Random): { frames: Sent[]; interrupt: boolean } {
    const frames: Sent[] = [];
    const ids: number[] = [];
    for (let chain: Chain | null; frames.length < most && (chain = this.#model.next()); ) {
      assert.ok(chain.pieces.every(({ writable }) => !writable));
      const bytes = this.#bed.bytesOf(chain.pieces);
      if (this.#size === 12) assert.equal(bytes.readUInt16LE(10), 0, 'num_buffers');
      frames.push({ header: parse(bytes), payload: bytes.subarray(this.#size) });
      ids.push(chain.id);
    }
    while (ids.length > 0) {
      if (this.#inOrder) {
        const batch = ids.splice(0, 1 + random(ids.length));
        this.#model.use(batch.at(-1)!, 0, batch.length);
      } else this.#model.use(ids.splice(random(ids.length), 1)[0]!, 0);
    }
    return { frames, interrupt: this.#model.publish() };
  }

  fill(payload: Buffer, { flags, type, hdrLen, gsoSize, start, offset }: Header): boolean {
    const merge = (this.#bed.features & F.MRG_RXBUF) !== 0n;
    const whole = Buffer.concat([Buffer.alloc(this.#size), payload]);
    for (const [i, byte] of [flags, type].entries()) whole.writeUInt8(byte, i);
    for (const [i, word] of [hdrLen, gsoSize, start, offset].entries()) whole.writeUInt16LE(word, 2 + 2 * i);
    const room = () =>
      this.#waiting.reduce((sum, { pieces }) => sum + pieces.reduce((all, p) => all + p.length, 0), 0);
    while (this.#waiting.length === 0 || (merge && room() < whole.length)) {
      const chain = this.#model.next();
      if (!chain) return false;
      assert.ok(chain.pieces.every(({ writable }) => writable));
      this.#waiting.push(chain);
    }
    const used: { id: number; length: number }[] = [];
    const parts: { gpa: bigint; bytes: Uint8Array }[] = [];
    for (let done = 0; done < whole.length; ) {
      const { id, pieces } = this.#waiting.shift()!;
      let length = 0;
      for (const piece of pieces) {
        const bytes = whole.subarray(done, done + piece.length);
        parts.push({ gpa: piece.gpa, bytes });
        done += bytes.length;
        length += bytes.length;
      }
      used.push({ id, length });
    }
    if (this.#size === 12) whole.writeUInt16LE(used.length, 10);
    for (const { gpa, bytes } of parts) this.#bed.write(gpa, bytes);
    // All but the last are full.
    if (this.#inOrder) this.#model.use(used.at(-1)!.id, used.at(-1)!.length, used.length);
    else for (const { id, length } of used) this.#model.use(id, length);
    return true;
  }

  publish(): boolean {
    return this.#model.publish();
  }

  arm(on: boolean): boolean {
    return this.#model.arm(on);
  }
}

function parse(bytes: Buffer): Header {
  const [hdrLen, gsoSize, start, offset] = [2, 4, 6, 8].map(at => bytes.readUInt16LE(at)) as [
    number,
    number,
    number,
    number,
  ];
  return { flags: bytes[0]!, type: bytes[1]!, hdrLen, gsoSize, start, offset };
}
