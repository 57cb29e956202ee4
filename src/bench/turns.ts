/**
 * One turn of a queue: a batch of packets from the guest to a mover of the device's, or the other way.
 *
 * ```
 *   transmit   complete, room, fill, publish │ pop    │ mover.move │ complete
 *   receive    refill                        │ room   │ mover.move │ push      │ poll, release
 *              guest                           ring     port         ring        guest
 * ```
 */
import * as L from '../../datapath/layout.js';
import type { Batch } from '../ring/batch.js';
import type { Bed } from './bed.js';
import { BenchError } from './errors.js';
import type { Spent } from './timing.js';

/** What takes the frames of a batch, or fills them. Only `move` is timed. */
export interface Mover {
  before(batch: Batch): void;
  /** Returns the frames. */
  move(batch: Batch): number;
  after(batch: Batch): void;
  [Symbol.dispose](): void;
}

/** The bed's source or sink, which are in the datapath too. */
export function flowMover({ calls, direction, length, host: { arena } }: Bed): Mover {
  const flow = arena.allocate(L.PORT_SIZE);
  return {
    before() {},
    move:
      direction === 'tx'
        ? batch => calls.sink_drain(flow, batch.address)
        : batch => calls.source_fill(flow, batch.address, batch.count, length),
    after() {},
    [Symbol.dispose]: () => arena.free(flow),
  };
}

/** One turn. Returns the packets. Throws BenchError when not all have gone through. */
export function takeTurn(bed: Bed, mover: Mover, spent: Spent): number {
  const moved = bed.direction === 'tx' ? transmit(bed, mover, spent) : receive(bed, mover, spent);
  if (moved !== bed.frames) throw new BenchError(`of ${bed.frames} packets of a turn ${moved} went through`);
  return moved;
}

function transmit(bed: Bed, mover: Mover, spent: Spent): number {
  const { guest, driver, ring, queue, calls, source, guestBatch, deviceBatch, frames, length } = bed;
  const start = performance.now();
  guest.complete(driver, L.MAX_BATCH);
  const room = guest.room(driver, guestBatch.address, frames);
  guest.publish(driver, guestBatch.address, calls.source_fill(source, guestBatch.address, room, length));
  const published = performance.now();
  const n = ring.pop(queue, deviceBatch.address, L.MAX_BATCH);
  const popped = performance.now();
  mover.before(deviceBatch);
  const begun = performance.now();
  const moved = mover.move(deviceBatch);
  const done = performance.now();
  mover.after(deviceBatch);
  const resumed = performance.now();
  ring.complete(queue, deviceBatch.address, n);
  const end = performance.now();
  spent.guest += published - start;
  spent.ring += popped - published + (end - resumed);
  spent.port += done - begun;
  return Math.min(n, moved);
}

function receive(bed: Bed, mover: Mover, spent: Spent): number {
  const { guest, driver, ring, queue, guestBatch, deviceBatch } = bed;
  const start = performance.now();
  guest.refill(driver);
  const filled = performance.now();
  const n = ring.room(queue, deviceBatch.address, L.MAX_BATCH);
  const ready = performance.now();
  mover.before(deviceBatch);
  const begun = performance.now();
  const moved = mover.move(deviceBatch);
  const done = performance.now();
  mover.after(deviceBatch);
  const resumed = performance.now();
  ring.push(queue, deviceBatch.address, moved);
  const pushed = performance.now();
  // The driver's budget is half a batch.
  for (let half = 0; half < 2; half++) {
    guest.poll(driver, guestBatch.address, L.MAX_BATCH / 2);
    guest.release(driver, guestBatch.address);
  }
  const end = performance.now();
  spent.guest += filled - start + (end - pushed);
  spent.ring += ready - filled + (pushed - resumed);
  spent.port += done - begun;
  return Math.min(n, moved);
}
