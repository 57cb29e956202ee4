/**
 * A bpfhv guest that is larger than the window: 16 GiB, sparse, contexts and buffers all over it. No driver of ours runs in it: a test posts buffers by
 * the ring's layout.
 *
 * ```
 *   file    0          3 GiB │                                       16 GiB
 *   guest   0          3 GiB │ hole │ 4 GiB                          17 GiB
 * ```
 */
import assert from 'node:assert/strict';
import { readSync, writeSync } from 'node:fs';
import * as L from '../../datapath/layout.js';
import { EventFd } from '../../src/linux/eventfd.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import type { Mapping } from '../../src/linux/mmap.js';
import type { MemoryRegionSpec } from '../../src/nic/control.js';
import type { Nic } from '../../src/nic/nic.js';
import { window } from '../compliance/testbed.js';
import { SringQueue } from '../link/sring-driver.js';
import { SringGsoQueue } from './sring-gso-driver.js';

export const GIB = 2 ** 30;
export const SIZE = 16 * GIB;
const HOLE = 3 * GIB; // from here on, guest addresses are a GiB higher
/** Where contexts may be in the file: in the middle of nowhere, not at the start of a chunk. Two for each contract. */
const CONTEXTS = [9 * GIB + 0x12_3000, 10 * GIB + 0x1f_f000, 2 * GIB + 0x5000, 15 * GIB - 0x1000];
const CONTEXT_ROOM = 16 * 4096;
export const NUM = 64;
export const RX = 0;
export const TX = 1;

export interface Piece {
  readonly gpa: bigint;
  readonly length: number;
}

export const toGuest = (offset: number): bigint => BigInt(offset < HOLE ? offset : offset + GIB);
const toOffset = (gpa: bigint): number => Number(gpa) - (gpa >= BigInt(HOLE + GIB) ? GIB : 0);

export class LargeGuest {
  readonly nic: Nic;
  readonly kicks = [RX, TX].map(queue => EventFd.create(`kick ${queue}`));
  readonly upgrade = EventFd.create('upgrade');
  readonly #irqs = [RX, TX].map(queue => EventFd.create(`irq ${queue}`));
  readonly #memory: OwnedFd = createMemfd({ name: 'large guest', size: SIZE });
  readonly #mappings = new Map<number, { readonly address: number; readonly mapping: Mapping }>();
  #random = 1;

  constructor(nic: Nic) {
    this.nic = nic;
  }

  /** All of it; or only what lies between two places in the file. */
  regions(from = 0, to = SIZE): MemoryRegionSpec[] {
    const spans = [
      [from, Math.min(to, HOLE)],
      [Math.max(from, HOLE), to],
    ] as const;
    return spans
      .filter(([start, end]) => start < end)
      .map(([start, end]) => ({
        guestPhysicalAddress: toGuest(start),
        size: BigInt(end - start),
        hypervisorVirtualAddress: 0n,
        mmapOffset: BigInt(start),
        fd: this.#memory.dup(),
      }));
  }

  /** Tells the NIC everything, of the memory what lies between two places in the file; then it runs. */
  async start(from?: number, to?: number): Promise<void> {
    const { nic } = this;
    await nic.setMemoryTable(this.regions(from, to));
    nic.setFeatures(nic.features());
    this.parameters();
    nic.programs();
    for (const queue of [RX, TX]) {
      await nic.setQueueKick(queue, this.kicks[queue]!.owner.dup());
      await nic.setQueueIrq(queue, this.#irqs[queue]!.owner.dup());
    }
    nic.setUpgrade(this.upgrade.owner.dup());
    await this.setContexts(0);
    await this.enable();
  }

  parameters(): void {
    this.nic.setParameters({ numRxQueues: 1, numTxQueues: 1, numRxBufs: NUM, numTxBufs: NUM });
  }

  async setContexts(contract: 0 | 1): Promise<void> {
    for (const queue of [RX, TX])
      await this.nic.setQueueContext(queue, toGuest(CONTEXTS[2 * contract + queue]!));
  }

  async enable(): Promise<void> {
    for (const direction of ['rx', 'tx'] as const) await this.nic.enable(direction);
  }

  async disable(): Promise<void> {
    for (const direction of ['rx', 'tx'] as const) await this.nic.disable(direction);
  }

  sring(contract: 0 | 1, queue: number): SringQueue {
    return new SringQueue(
      window.memory.buffer as ArrayBufferLike,
      this.#context(contract, queue),
      CONTEXT_ROOM,
    );
  }

  sringGso(contract: 0 | 1, queue: number): SringGsoQueue {
    return new SringGsoQueue(
      window.memory.buffer as ArrayBufferLike,
      this.#context(contract, queue),
      CONTEXT_ROOM,
    );
  }

  /** What is in the context behind its head, whatever the ring. */
  opaque(contract: 0 | 1, queue: number): DataView {
    const head = this.#context(contract, queue) + L.CTX_OPAQUE;
    return new DataView(window.memory.buffer as ArrayBufferLike, head, CONTEXT_ROOM - L.CTX_OPAQUE);
  }

  /** A buffer somewhere, but not where contexts are. */
  somewhere(length: number, from = 0, to = SIZE): Piece {
    for (;;) {
      const at = from + this.random((to - from) / 64) * 64 - (this.random(8) === 0 ? 16 : 0); // some reach into the next page
      const free =
        at > from && CONTEXTS.every(context => at + length < context || at > context + CONTEXT_ROOM);
      if (free && (at + length <= HOLE || at >= HOLE) && at + length <= to)
        return { gpa: toGuest(at), length };
    }
  }

  random(below: number): number {
    this.#random = (this.#random * 1103515245 + 12345) % 2 ** 31;
    return Math.floor((this.#random / 2 ** 31) * below);
  }

  write({ gpa, length }: Piece, bytes: Uint8Array): void {
    assert.equal(writeSync(this.#memory.fd, bytes, 0, length, toOffset(gpa)), length);
  }

  read({ gpa, length }: Piece): Buffer {
    const bytes = Buffer.alloc(length);
    assert.equal(readSync(this.#memory.fd, bytes, 0, length, toOffset(gpa)), length);
    return bytes;
  }

  /** The NIC is its owner's to close, before this. */
  close(): void {
    for (const { mapping } of this.#mappings.values()) mapping.close();
    for (const eventfd of [...this.kicks, ...this.#irqs, this.upgrade]) eventfd.close();
    this.#memory.close();
  }

  /** The context as the guest sees it: a mapping of our own. */
  #context(contract: 0 | 1, queue: number): number {
    const at = CONTEXTS[2 * contract + queue]!;
    let known = this.#mappings.get(at);
    if (!known) {
      const range = { fd: this.#memory.fd, fileOffset: at, length: CONTEXT_ROOM, name: 'context' };
      known = window.overlay(range, 4096)!;
      this.#mappings.set(at, known);
    }
    return known.address;
  }
}

/** A numbered frame, as source and sink have them. */
export function numbered(number: number, length: number): Buffer {
  const frame = Buffer.alloc(length);
  frame.writeBigUInt64LE(BigInt(number), 16);
  assert.ok(length >= L.SOURCE_MIN_LENGTH);
  return frame;
}
