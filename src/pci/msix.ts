/**
 * MSI-X: vectors, each of which somebody signals by an eventfd, and a BAR with their table and pending bits.
 *
 * ```
 *   NIC worker ── signals ──► target of the vector:  peer's eventfd   connected, and nothing holds it back
 *                                                    holding eventfd  otherwise: what it has got is the pending bit
 *
 *   BAR    0: table, 16 bytes a vector: address u64, data u32, control u32 (bit 0: masked)    half way: pending bits, a u64 for 64 vectors
 * ```
 * A vector can always be signalled. When its target changes, whoever signals it is told first (`onTarget`); then what the holding eventfd has got is
 * handed on, so nothing is lost on the way.
 *
 * A vector is held back while it has no peer, while its peer has masked it, while the function mask is on, and while its entry of the table says so, if the
 * table has been written: a host that keeps the table to itself (QEMU does) never writes it here, and what it says after a reset, masked, is not meant then.
 */
import { EventFd } from '../linux/eventfd.js';
import type { OwnedFd } from '../linux/fd.js';
import { POLLIN, Poller } from '../linux/poll.js';

const ENTRY_SIZE = 16;
const CONTROL_AT = 12;
const MASKED = 1;
/** Table and pending bits are on different halves of the BAR, each half at least so long. */
const HALF_PAGE = 2048;

/** The BAR of so many vectors. Sizes and offsets in bytes. */
export function msixLayout(vectors: number): { size: number; table: number; pba: number } {
  let half = HALF_PAGE;
  while (half < vectors * ENTRY_SIZE) half *= 2;
  return { size: 2 * half, table: 0, pba: half };
}

interface Vector {
  /** Takes what must not go to the peer, or not yet. */
  readonly hold: EventFd;
  peer: EventFd | null;
  /** By the peer, on the way that connects it. */
  masked: boolean;
  /** By the guest, in the table. */
  shut: boolean;
  target: EventFd;
}

export class Msix {
  /**
   * Whoever signals vector `index` uses `fd` from now on, which stays ours and is open until it is told of another one. Resolves when nobody uses the former
   * one any more.
   */
  onTarget: (index: number, fd: OwnedFd) => void | Promise<void> = () => {};
  readonly #vectors: readonly Vector[];
  readonly #table: Uint8Array;
  readonly #pba: number;
  readonly #poller: Poller;
  #functionMask = false;

  constructor(vectors: number, name: string) {
    this.#vectors = Array.from({ length: vectors }, (_, i) => {
      const hold = EventFd.create(`${name}: vector ${i}, pending`);
      return { hold, peer: null, masked: false, shut: false, target: hold };
    });
    this.#table = new Uint8Array(vectors * ENTRY_SIZE);
    this.#pba = msixLayout(vectors).pba;
    this.#poller = new Poller(vectors);
    for (const [i, { hold }] of this.#vectors.entries()) this.#poller.set(i, hold.fd, POLLIN);
    this.#clearTable();
  }

  get count(): number {
    return this.#vectors.length;
  }

  /** Some vector has a peer. */
  get connected(): boolean {
    return this.#vectors.some(({ peer }) => peer !== null);
  }

  /** What to signal for vector `index` now; stays ours. */
  target(index: number): OwnedFd {
    return this.#vectors[index]!.target.owner;
  }

  /** Gives a vector another peer, or none: then it is not masked either. Takes `fd` over. Throws LinuxError when it is no eventfd. */
  async connect(index: number, fd: OwnedFd | null): Promise<void> {
    const vector = this.#vectors[index]!;
    const next = fd && EventFd.adopt(fd);
    const former = vector.peer;
    vector.peer = next;
    if (!next) vector.masked = false;
    try {
      await this.#aim(index);
    } finally {
      former?.close();
    }
  }

  mask(index: number, masked: boolean): Promise<void> {
    this.#vectors[index]!.masked = masked;
    return this.#aim(index);
  }

  /** Holds all vectors back, or none for this reason. */
  async setFunctionMask(masked: boolean): Promise<void> {
    if (masked === this.#functionMask) return;
    this.#functionMask = masked;
    for (const index of this.#vectors.keys()) await this.#aim(index);
  }

  raise(index: number): void {
    this.#vectors[index]!.target.signal();
  }

  /** Reads the BAR, which holds 0 where nothing is. */
  read(offset: number, into: Uint8Array): void {
    into.fill(0);
    overlay(into, offset, this.#table, 0);
    if (offset + into.length > this.#pba) overlay(into, offset, this.#pendingBits(), this.#pba);
  }

  /** Writes the BAR, of which only the table can be written. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const end = Math.min(offset + bytes.length, this.#table.length);
    if (offset >= end) return;
    this.#table.set(bytes.subarray(0, end - offset), offset);
    for (let i = Math.floor(offset / ENTRY_SIZE); i * ENTRY_SIZE < end; i++) {
      const control = i * ENTRY_SIZE + CONTROL_AT;
      if (control + 4 <= offset || control >= end) continue;
      const masked = this.#table[control]! & MASKED;
      this.#table.set([masked, 0, 0, 0], control);
      this.#vectors[i]!.shut = masked !== 0;
      await this.#aim(i);
    }
  }

  /** As after power-on, but for peers and what they mask. Nothing is pending. */
  async reset(): Promise<void> {
    this.#clearTable();
    this.#functionMask = false;
    for (const [index, vector] of this.#vectors.entries()) {
      vector.hold.drain();
      vector.shut = false;
      await this.#aim(index);
    }
  }

  /** All peers are gone. */
  async disconnect(): Promise<void> {
    for (const [index, { peer, masked }] of this.#vectors.entries())
      if (peer || masked) await this.connect(index, null);
  }

  close(): void {
    for (const { hold, peer } of this.#vectors) {
      hold.close();
      peer?.close();
    }
  }

  /** Has a vector signal what it ought to. */
  async #aim(index: number): Promise<void> {
    const vector = this.#vectors[index]!;
    const { hold, peer, masked, shut } = vector;
    const target = peer === null || masked || shut || this.#functionMask ? hold : peer;
    if (target !== vector.target) {
      vector.target = target;
      await this.onTarget(index, target.owner);
    }
    if (target !== hold && hold.drain() > 0) target.signal();
  }

  #pendingBits(): Uint8Array {
    const bits = new Uint8Array(8 * Math.ceil(this.#vectors.length / 64));
    if (this.#poller.wait(0) <= 0) return bits;
    for (const i of this.#vectors.keys()) if (this.#poller.ready(i)) bits[i >>> 3]! |= 1 << (i & 7);
    return bits;
  }

  #clearTable(): void {
    this.#table.fill(0);
    for (const i of this.#vectors.keys()) this.#table[i * ENTRY_SIZE + CONTROL_AT] = MASKED;
  }
}

/** Copies what `into`, a piece of a region from `offset` on, has in common with `from`, which begins there `at`. */
function overlay(into: Uint8Array, offset: number, from: Uint8Array, at: number): void {
  const start = Math.max(offset, at);
  const end = Math.min(offset + into.length, at + from.length);
  if (start < end) into.set(from.subarray(start - at, end - at), start - offset);
}
