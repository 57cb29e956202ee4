/**
 * The ring of a control queue, device side, of either format. Data queues are the datapath's (datapath/virtq.ts); commands are few, and are taken here, one
 * at a time.
 *
 * ```
 *   take ──► chain: readable pieces, then writable ones ──► … ──► give ── interrupt? ──►     arm ──► kick
 * ```
 * The ring is the guest's to write at any time: each field is read once, a chain has no more descriptors than the ring, or MAX_TABLE in a table, and what
 * can't be understood goes back as it came. Only an index that can't be makes the ring useless.
 */

import { NicError } from '../../nic/control.js';
import { type Areas, areaAlignments, checkSize } from '../../ring/virtio/areas.js';
import type { GuestBytes } from './guest-bytes.js';

export const DESC_SIZE = 16;
export const DESC = { NEXT: 1, WRITE: 2, INDIRECT: 4, AVAIL: 0x80, USED: 0x8000 } as const;
/** Entries of an indirect table at most. */
const MAX_TABLE = 1024;

export interface Piece {
  readonly address: bigint;
  /** Bytes, not 0. */
  readonly length: number;
  readonly writable: boolean;
}

export interface Chain {
  /** What the guest knows it by. */
  readonly id: number;
  /** Descriptors of the ring that it takes. */
  readonly slots: number;
  /** Readable ones first; null: it makes no sense. */
  readonly pieces: readonly Piece[] | null;
}

/**
 * Every call throws MemoryError when the ring is not where the guest says, and can be made again then, with the same effect as if it had not been made
 * before; NicError NIC_RING when the ring is of no use any more.
 */
export interface ControlRing {
  /** The next command, in the order in which the guest made them available; null: none. It has to be given back before the next one is taken. */
  take(): Chain | null;
  /** Gives it back, with so many bytes written. Returns whether the guest wants an interrupt. */
  give(chain: Chain, written: number): boolean;
  /** Has the guest kick for the next command. True: there is one already. */
  arm(): boolean;
}

export interface ControlRingPlace {
  /** Descriptors. */
  readonly num: number;
  /** Guest addresses. */
  readonly areas: Areas<bigint>;
  readonly eventIdx: boolean;
  readonly memory: GuestBytes;
}

/** A ring that can't be used. */
export function ringError(what: string): NicError {
  return new NicError('NIC_RING', `control queue: ${what}`);
}

/** Whether the guest wants an interrupt for what it has been given back. If that can't be read: one too many does no harm. */
export function orInterrupt(wants: () => boolean): boolean {
  try {
    return wants();
  } catch {
    return true;
  }
}

/** Throws VirtqError for a size that there is not, NicError NIC_RING for areas that are not aligned. */
export function checkPlace({ num, areas }: ControlRingPlace, packed: boolean): void {
  checkSize(num, packed);
  const alignments = areaAlignments(packed);
  for (const name of ['descriptor', 'driver', 'device'] as const) {
    if (areas[name] % BigInt(alignments[name]) === 0n) continue;
    throw ringError(`its ${name} area at 0x${areas[name].toString(16)} is not aligned`);
  }
}

export interface Descriptor {
  readonly address: bigint;
  readonly length: number;
  /** The last two fields: flags and next, or id and flags. */
  readonly third: number;
  readonly fourth: number;
}

/** Descriptor `index` of a table or ring, read once. Throws MemoryError. */
export function readDescriptor(memory: GuestBytes, table: bigint, index: number): Descriptor {
  const bytes = memory.read(table + BigInt(DESC_SIZE * index), DESC_SIZE);
  return decode(new DataView(bytes.buffer), 0);
}

/** Collects the pieces of a chain, and finds out whether it makes sense. */
export class ChainPieces {
  readonly #memory: GuestBytes;
  readonly #linked: boolean;
  #pieces: Piece[] | null = [];

  /** `linked`: entries of a table name the next one, as in a split ring; else all of them count, in a row. */
  constructor(memory: GuestBytes, linked: boolean) {
    this.#memory = memory;
    this.#linked = linked;
  }

  get pieces(): readonly Piece[] | null {
    return this.#pieces?.length === 0 ? null : this.#pieces;
  }

  /** A descriptor of the ring, a buffer or a table of buffers, which ends the chain. */
  add({ address, length }: Descriptor, flags: number): void {
    if ((flags & DESC.INDIRECT) === 0) this.#buffer(address, length, flags);
    else if ((flags & DESC.NEXT) !== 0) this.refuse();
    else this.#table(address, length);
  }

  /** It makes no sense. */
  refuse(): void {
    this.#pieces = null;
  }

  #buffer(address: bigint, length: number, flags: number): void {
    const writable = (flags & DESC.WRITE) !== 0;
    const misplaced = !writable && this.#pieces?.at(-1)?.writable === true;
    if (length === 0 || misplaced || (flags & DESC.INDIRECT) !== 0) this.refuse();
    this.#pieces?.push({ address, length, writable });
  }

  #table(address: bigint, length: number): void {
    const entries = length / DESC_SIZE;
    const bytes = Number.isInteger(entries) && entries <= MAX_TABLE ? this.#tryRead(address, length) : null;
    if (!bytes) this.refuse();
    else this.#entries(new DataView(bytes.buffer), entries);
  }

  #entries(view: DataView, entries: number): void {
    let index = 0;
    for (let seen = 0; seen < entries && index < entries; seen++) {
      const { address, length, third, fourth } = decode(view, DESC_SIZE * index);
      const flags = this.#linked ? third : fourth;
      this.#buffer(address, length, flags);
      const more = this.#linked ? (flags & DESC.NEXT) !== 0 : index + 1 < entries;
      if (!more) return;
      index = this.#linked ? fourth : index + 1;
    }
    this.refuse(); // none at all, a circle, or a way out of the table
  }

  /** Null: it is not there, as a buffer may not be. */
  #tryRead(address: bigint, length: number): Uint8Array | null {
    try {
      return this.#memory.read(address, length);
    } catch {
      return null;
    }
  }
}

function decode(view: DataView, at: number): Descriptor {
  return {
    address: view.getBigUint64(at, true),
    length: view.getUint32(at + 8, true),
    third: view.getUint16(at + 12, true),
    fourth: view.getUint16(at + 14, true),
  };
}
