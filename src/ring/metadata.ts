/**
 * Rings whose descriptors carry what virtio-net has no field for: when a frame came, and which flow it belongs to (datapath/metadata.ts).
 *
 * ```
 *   worker ── room ──► [ the type's room, then: stamps wanted ] ──► port.get: sets the stamps that it knows
 *          ── push ──► [ the others' stamps, all marks, then: the type's push ]
 * ```
 * A port that knows nothing of time is stamped by the clock right after its `get`: frames of one batch share a time. Other types have none of this.
 */
import { WallClock } from '../linux/wall-clock.js';
import type { Datapath, DatapathExports } from './datapath.js';
import type { DeviceType, Ring } from './ring.js';

/** The type, with metadata in every batch that its rings push; or as it is, if it wants none. */
export function withMetadata(type: DeviceType): DeviceType {
  if (type.metadata !== true) return type;
  return { ...type, ring: datapath => new MetadataRing(type.ring(datapath), datapath) };
}

class MetadataRing implements Ring {
  readonly #ring: Ring;
  readonly #calls: DatapathExports;
  readonly #clock = new WallClock();

  constructor(ring: Ring, { calls }: Datapath) {
    this.#ring = ring;
    this.#calls = calls;
  }

  contextSize(num: number): number {
    return this.#ring.contextSize(num);
  }
  initialise(queue: number, receive: boolean): void {
    this.#ring.initialise(queue, receive);
  }
  resume(queue: number): boolean {
    return this.#ring.resume(queue);
  }
  pending(queue: number): number {
    return this.#ring.pending(queue);
  }
  pop(queue: number, batch: number, budget: number): number {
    return this.#ring.pop(queue, batch, budget);
  }
  complete(queue: number, batch: number, n: number): boolean {
    return this.#ring.complete(queue, batch, n);
  }
  kicks(queue: number, on: boolean): boolean {
    return this.#ring.kicks(queue, on);
  }

  room(queue: number, batch: number, budget: number): number {
    const frames = this.#ring.room(queue, batch, budget);
    if (frames > 0) this.#calls.metadata_want(batch);
    return frames;
  }

  push(queue: number, batch: number, n: number): boolean {
    if (n > 0) {
      this.#clock.read();
      this.#calls.metadata_fill(batch, n, this.#clock.low, this.#clock.high);
    }
    return this.#ring.push(queue, batch, n);
  }
}
