/**
 * A virtqueue, device side, as TypeScript keeps it: its structure in the arena, its three areas pinned in guest memory. The ring itself is datapath/virtq.ts.
 *
 * Order of calls: `negotiate`, `place`, `setBase` unless it is new, `ring.resume`; while it runs only `ring`'s calls; then `base`. A queue in use by a
 * worker is not to be touched by another thread.
 */
import * as L from '../../../datapath/layout.js';
import type { Arena } from '../../memory/arena.js';
import type { RegionTable } from '../../memory/guest-memory.js';
import type { Window } from '../../memory/window.js';
import type { Datapath, DatapathExports } from '../datapath.js';
import type { Ring } from '../ring.js';
import { type Areas, areaAlignments, areaSizes, areaWritten, checkSize } from './areas.js';
import { queueSettings } from './features.js';

const NAMES = ['descriptor', 'driver', 'device'] as const;
const FIELDS = { descriptor: L.QUEUE_RING, driver: L.VIRTQ_DRIVER, device: L.VIRTQ_DEVICE } as const;

const MISSES: Readonly<Record<number, Miss['kind']>> = { [L.MISS_READ]: 'read', [L.MISS_WRITE]: 'write' };

/** The nine calls for virtqueues of both formats: which one a queue has stands in its structure. */
export function virtqRing({ calls }: Datapath): Ring {
  return {
    // The three areas of a split ring in a row, each aligned; those of a packed one are shorter.
    contextSize: num => 16 * num + (8 + 2 * num) + (8 + 8 * num),
    initialise: queue => calls.virtq_init(queue),
    resume: queue => calls.virtq_resume(queue) !== 0,
    pending: queue => calls.virtq_pending(queue) >>> 0,
    pop: (queue, batch, budget) => calls.virtq_tx_pop(queue, batch, budget),
    complete: (queue, batch, n) => calls.virtq_tx_complete(queue, batch, n) !== 0,
    room: (queue, batch, budget) => calls.virtq_rx_room(queue, batch, budget),
    push: (queue, batch, n) => calls.virtq_rx_push(queue, batch, n) !== 0,
    kicks: (queue, on) => calls.virtq_kicks(queue, on) !== 0,
  };
}

/** What stopped a queue: an address that no region holds yet, and that is to be read or written, or one outside of the window. */
export interface Miss {
  readonly kind: 'read' | 'write' | 'window';
  readonly address: bigint;
  /** Bytes. */
  readonly length: number;
}

/** Where dirty pages are marked, and what of the ring is at which guest physical address; undefined: not logged. */
export interface DirtyLog {
  /** Window address of the bitmap, and its bytes. */
  readonly bitmap: number;
  readonly size: number;
  /** By which addresses of this process become guest physical ones. */
  readonly table: RegionTable;
  /** The used ring (split), the descriptor ring (packed). */
  readonly ring?: bigint;
  /** The device's event (packed). */
  readonly event?: bigint;
}

export class Virtq {
  /** Window address of the structure. */
  readonly address: number;
  readonly direction: 'rx' | 'tx';
  readonly #window: Window;
  readonly #arena: Arena;
  readonly #calls: DatapathExports;
  #packed = false;
  #num = 0;
  #placed: {
    readonly areas: Areas<bigint>;
    readonly sizes: Areas<number>;
    readonly table: RegionTable;
  } | null = null;

  constructor(host: { window: Window; arena: Arena; calls: DatapathExports }, direction: 'rx' | 'tx') {
    this.#window = host.window;
    this.#arena = host.arena;
    this.#calls = host.calls;
    this.direction = direction;
    this.address = host.arena.allocate(L.VIRTQ_SIZE);
  }

  /**
   * What was agreed on: virtio feature bits, the number of descriptors, the largest frame in bytes when frames may not be cut into segments.
   * Throws VirtqError.
   */
  negotiate(features: bigint, num: number, maxFrame: number): void {
    const { flags, header, offloads } = queueSettings(features, this.direction);
    const packed = (flags & L.VIRTQ_PACKED) !== 0;
    checkSize(num, packed);
    this.#packed = packed;
    this.#num = num;
    this.#set(L.QUEUE_NUM, num);
    this.#set(L.VIRTQ_FLAGS, flags);
    this.#set(L.VIRTQ_HEADER, header);
    this.#set(L.QUEUE_OFFLOADS, offloads);
    this.#set(L.QUEUE_MAX_FRAME, (offloads & ~L.OFFLOAD_CSUM) !== 0 ? L.LARGE_FRAME : maxFrame);
  }

  /** Takes the areas at these addresses of `table`. Throws MemoryError (not there, not aligned, no room in the window) and keeps what it had. */
  place(areas: Areas<bigint>, table: RegionTable): void {
    const sizes = areaSizes(this.#num, this.#packed);
    const alignments = areaAlignments(this.#packed);
    const written = areaWritten(this.#packed);
    const pinned: (typeof NAMES)[number][] = [];
    const found: Partial<Record<(typeof NAMES)[number], number>> = {};
    try {
      for (const name of NAMES) {
        found[name] = table.pin(areas[name], sizes[name], alignments[name], written[name]);
        pinned.push(name);
      }
    } catch (error) {
      for (const name of pinned) table.unpin(areas[name], sizes[name]);
      throw error;
    }
    this.drop();
    this.#placed = { areas, sizes, table };
    for (const name of NAMES) this.#set(FIELDS[name], found[name]!);
    this.#set(L.QUEUE_REGIONS, table.address);
    this.#set(L.QUEUE_HINT, 0);
  }

  /** Forgets the areas. */
  drop(): void {
    if (!this.#placed) return;
    const { areas, sizes, table } = this.#placed;
    for (const name of NAMES) table.unpin(areas[name], sizes[name]);
    this.#placed = null;
  }

  /** Where the ring stands, in the form of vhost's VRING_BASE. */
  get base(): number {
    return this.#calls.virtq_base_get(this.address) >>> 0;
  }

  /** Where it is to go on. False when there is no such position. */
  setBase(base: number): boolean {
    return this.#calls.virtq_base_set(this.address, base) !== 0;
  }

  /** Marks written pages from now on; null: no longer. */
  setLog(log: DirtyLog | null): void {
    this.#set(L.VIRTQ_LOG, 0);
    if (log === null) return;
    this.#set(L.VIRTQ_LOG_SIZE, log.size);
    this.#set(L.VIRTQ_LOG_REGIONS, log.table.address);
    this.#set(L.VIRTQ_LOG_HINT, 0);
    this.#window.longs[(this.address + L.VIRTQ_LOG_RING) / 8] = log.ring ?? BigInt(L.LOG_NOWHERE);
    this.#window.longs[(this.address + L.VIRTQ_LOG_EVENT) / 8] = log.event ?? BigInt(L.LOG_NOWHERE);
    this.#set(L.VIRTQ_LOG, log.bitmap);
  }

  /** What the queue waits for; null: nothing. */
  get miss(): Miss | null {
    const length = this.#get(L.VIRTQ_MISS_LENGTH);
    if (length === 0) return null;
    return {
      kind: MISSES[this.#get(L.VIRTQ_MISS_KIND)] ?? 'window',
      address: this.#window.longs[(this.address + L.VIRTQ_MISS) / 8]!,
      length,
    };
  }

  /** What it waited for is there: it may go on. */
  clearMiss(): void {
    this.#set(L.VIRTQ_MISS_LENGTH, 0);
  }

  /** One of FAULT_*; not 0: the guest broke the ring's rules and the queue stands still. */
  get fault(): number {
    return this.#get(L.QUEUE_FAULT);
  }

  close(): void {
    this.drop();
    this.#arena.free(this.address);
  }

  #get(field: number): number {
    return this.#window.words[(this.address + field) >>> 2]!;
  }

  #set(field: number, value: number): void {
    this.#window.words[(this.address + field) >>> 2] = value;
  }
}
