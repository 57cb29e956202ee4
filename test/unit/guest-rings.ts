/** A guest's virtqueues, with numbered frames that a test publishes and takes when it likes. How the device is told of them, and kicked, is not known here. */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { type FlowCounters, readFlow } from '../../src/port/flow.js';
import { Batch } from '../../src/ring/batch.js';
import { loadDatapath } from '../../src/ring/datapath.js';
import { type GuestSpace, VirtqDriver } from '../../src/ring/virtio/driver.js';
import { arena, payload, window } from '../compliance/testbed.js';

const { calls } = loadDatapath(window);

export interface GuestRingsOptions {
  readonly space: GuestSpace;
  /** What was negotiated. */
  readonly features: bigint;
  /** Descriptors of each ring. */
  readonly num: number;
  readonly pairs: number;
  /** Bytes of payload that a buffer holds; default: the driver's. */
  readonly room?: number | undefined;
  /** Buffers that a frame may take; default: the driver's. */
  readonly frameBuffers?: number | undefined;
  readonly kick: (ring: number) => void;
}

export class GuestRings {
  /** As virtio numbers them. */
  readonly drivers: readonly VirtqDriver[];
  /** How often the guest has begun anew, and lost what it had received and not looked at. */
  resets = 0;
  readonly #kick: (ring: number) => void;
  readonly #flows: readonly number[];
  readonly #batch = Batch.allocate(window, arena);

  constructor({ space, features, num, pairs, room, frameBuffers, kick }: GuestRingsOptions) {
    const all = Array.from({ length: 2 * pairs }, (_, i) => i);
    this.#kick = kick;
    this.#flows = all.map(() => arena.allocate(L.PORT_SIZE));
    this.drivers = all.map(i => {
      const direction = i % 2 === 0 ? 'rx' : 'tx';
      const shape = {
        direction,
        ...{ features, num },
        ...(room === undefined ? {} : { room }),
        ...(frameBuffers === undefined ? {} : { frameBuffers }),
      } as const;
      return new VirtqDriver({ window, arena, calls }, space, shape);
    });
  }

  /** The guest's driver begins anew on all rings. */
  reset(): void {
    this.resets++;
    for (const driver of this.drivers) driver.reset();
  }

  /**
   * The guest publishes up to `want` numbered frames and kicks when the device wants it. Returns how many. `from`, `to`: the last octets of their
   * addresses.
   */
  publish(want: number, { pair = 0, kick = true, length = 60, from = 0, to = 0 } = {}): number {
    const { address } = this.drivers[2 * pair + 1]!;
    const batch = this.#batch;
    assert.ok(calls.vdrv_tx_complete(address, 256) >= 0, 'a completion that makes no sense');
    calls.vdrv_tx_room(address, batch.address, Math.min(want, 64));
    const n = calls.source_fill(this.#flows[2 * pair + 1]!, batch.address, batch.count, length);
    for (let i = 0; i < n && (from || to); i++) {
      const at = payload(batch, i);
      window.bytes[at + 5] = to;
      window.bytes[at + 11] = from;
    }
    const wanted = calls.vdrv_tx_publish(address, batch.address, n);
    assert.ok(wanted >= 0);
    if (wanted > 0 && kick) this.#kick(2 * pair + 1);
    return n;
  }

  /** The guest posts receive buffers: all that it has. */
  refill(pair = 0): void {
    const wanted = calls.vdrv_rx_refill(this.drivers[2 * pair]!.address);
    assert.ok(wanted >= 0);
    if (wanted > 0) this.#kick(2 * pair);
  }

  /** The guest takes what has come, and posts the buffers again. Returns the frames. */
  poll(pair = 0): number {
    const { address } = this.drivers[2 * pair]!;
    const batch = this.#batch;
    const n = calls.vdrv_rx_poll(address, batch.address, 64);
    assert.ok(n >= 0, 'a completion that makes no sense');
    calls.sink_drain(this.#flows[2 * pair]!, batch.address);
    calls.vdrv_rx_release(address, batch.address);
    this.refill(pair);
    return n;
  }

  /** What a pair's guest has sent and received. */
  guest(pair = 0): { sent: number; received: FlowCounters } {
    return {
      sent: readFlow(window, this.#flows[2 * pair + 1]!).sequence,
      received: readFlow(window, this.#flows[2 * pair]!),
    };
  }

  /** No device uses them any more. */
  closeRings(): void {
    for (const driver of this.drivers) driver.close();
    for (const flow of this.#flows) arena.free(flow);
    arena.free(this.#batch.address);
  }
}
