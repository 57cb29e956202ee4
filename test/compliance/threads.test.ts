/**
 * Guest and device on threads of their own, as fast as they can: what only shows when both really run at the same time, such as a store that a load
 * overtakes. Who has nothing to do says so in a word and waits to be told. A wake-up is lost when the device waits untold and there is work, or
 * when both wait: that is found at once, by looking, and no clock is asked.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, it } from 'node:test';
import { Worker } from 'node:worker_threads';
import * as L from '../../datapath/layout.js';
import { arena, randomFrom, Testbed, window } from './testbed.js';
import { CONTROL_BYTES, ThreadControl } from './thread-control.js';
import type { DeviceTask } from './thread-device.js';
import { allTypes, titleOf } from './types.js';

const NUM = 16;
const LONG = process.env.POLYNIC_LONG === 'hostile';
const RUN_MS = LONG ? 20_000 : 150;
/** For a mistake to show: it takes less than a second, one of order some seconds; but the machine may be busy. */
const SEARCH_MS = 60_000;

type Outcome = 'nothing lost' | 'kick lost' | 'interrupt lost';

interface Result {
  readonly outcome: Outcome;
  readonly frames: number;
  readonly guestNaps: number;
  readonly deviceNaps: number;
}

let worker: Worker;
before(() => {
  worker = new Worker(new URL('./thread-device.js', import.meta.url), {
    workerData: { memory: window.memory },
  });
});
after(() => worker.terminate());

/** The guest's part, in this thread, until the time is up or a wake-up is lost. */
class GuestThread {
  naps = 0;
  sent = 0;
  outcome: Outcome = 'nothing lost';
  readonly #bed: Testbed;
  readonly #control: ThreadControl;
  readonly #random = randomFrom(1);

  constructor(bed: Testbed, control: ThreadControl) {
    this.#bed = bed;
    this.#control = control;
  }

  transmit(): void {
    const { datapath, guestBatch, tx } = this.#bed;
    const { calls } = datapath;
    assert.ok(calls.driver_tx_complete(tx.driver, NUM) >= 0, 'fault');
    const room = calls.driver_tx_room(tx.driver, guestBatch.address, 1 + this.#random(3));
    for (let i = 0; i < room; i++) guestBatch.setLength(i, 60);
    const kick = calls.driver_tx_publish(tx.driver, guestBatch.address, room);
    assert.ok(kick >= 0, 'fault');
    this.sent += room;
    if (kick > 0) this.#control.tell('deviceTold');
    const posted = this.#bed.driver(tx, L.DRIVER_POSTED);
    const choice = this.#random(4);
    if (room === 0 || choice === 0) this.#sleepUntil(calls.driver_arm(tx.driver, 1 + this.#random(posted)));
    else if (choice === 1) this.#watch(() => this.#pending);
    else {
      let looks = this.#random(50);
      this.#watch(() => looks-- > 0);
    }
  }

  receive(): void {
    const { datapath, guestBatch, rx } = this.#bed;
    const { calls } = datapath;
    const taken = calls.driver_rx_poll(rx.driver, guestBatch.address, 1 + this.#random(NUM));
    assert.ok(taken >= 0, 'fault');
    calls.driver_rx_release(rx.driver, guestBatch.address);
    // Posting seldom has the device wait for buffers.
    if (taken > 0 ? this.#random(4) > 0 : this.#bed.driver(rx, L.DRIVER_FREE_COUNT) > 0) {
      if (calls.driver_rx_refill(rx.driver) > 0) this.#control.tell('deviceTold');
    } else if (taken === 0) {
      this.#sleepUntil(calls.driver_arm(rx.driver, 1));
      calls.driver_arm(rx.driver, 0);
    }
  }

  get #pending(): boolean {
    return this.#control.get('done') !== this.sent >>> 0;
  }

  /** The device waits untold, and meanwhile that is so as well. Nobody but this thread tells it, so it waits for ever. */
  #waitsWhile(condition: () => boolean): boolean {
    const nap = this.#control.get('deviceNap');
    if (nap % 2 === 0 || this.#control.get('deviceTold') !== 0 || !condition()) return false;
    return this.#control.get('deviceNap') === nap; // all of that was in one nap
  }

  /** Looks for frames that the device has been told nothing of. */
  #watch(goOn: () => boolean): void {
    this.#control.watch(() => {
      if (this.#waitsWhile(() => this.#pending)) this.outcome = 'kick lost';
      return goOn() && this.outcome === 'nothing lost';
    });
  }

  /** `armed`: what the driver has found after it had asked for an interrupt; none was due. */
  #sleepUntil(armed: number): void {
    assert.ok(armed >= 0, 'fault');
    if (armed > 0) return;
    this.naps++;
    this.#control.wait('guestTold', () => {
      if (this.#waitsWhile(() => this.#control.get('guestTold') === 0)) this.outcome = 'interrupt lost';
      return this.outcome !== 'nothing lost';
    });
    this.#control.set('guestTold', 0);
  }
}

async function stress(
  task: Pick<DeviceTask, 'device' | 'direction' | 'mistake'>,
  forMs: number,
): Promise<Result> {
  const bed = new Testbed({ device: task.device, num: NUM });
  const address = arena.allocate(CONTROL_BYTES);
  const control = new ThreadControl(window, address);
  try {
    const guest = new GuestThread(bed, control);
    if (task.direction === 'rx') assert.ok(bed.datapath.calls.driver_rx_refill(bed.rx.driver) >= 0);
    const queue = bed[task.direction].queue.address;
    worker.postMessage({
      ...task,
      queue,
      batch: bed.deviceBatch.address,
      control: address,
    } satisfies DeviceTask);
    const ended = once(worker, 'message');
    for (
      const end = performance.now() + forMs;
      performance.now() < end && guest.outcome === 'nothing lost';
    ) {
      for (let i = 0; i < 100 && guest.outcome === 'nothing lost'; i++) {
        if (task.direction === 'tx') guest.transmit();
        else guest.receive();
      }
    }
    control.set('stop', 1);
    control.tell('deviceTold');
    const [deviceNaps] = (await ended) as [number];
    return { outcome: guest.outcome, frames: control.get('done'), guestNaps: guest.naps, deviceNaps };
  } finally {
    bed.close();
    arena.free(address);
  }
}

for (const device of allTypes) {
  for (const direction of ['tx', 'rx'] as const) {
    it(`${titleOf(device)}, ${direction}: no wake-up is lost between two threads`, async t => {
      const result = await stress({ device, direction, mistake: 'none' }, RUN_MS);
      t.diagnostic(JSON.stringify(result));
      assert.equal(result.outcome, 'nothing lost');
      assert.ok(result.frames > 0);
    });
  }
}

for (const [mistake, direction, lost] of [
  ['kicks', 'tx', /kick lost|interrupt lost/],
  ['kicks', 'rx', /interrupt lost/],
  ['interrupts', 'tx', /interrupt lost/],
  ['order', 'tx', /lost$/],
] as const) {
  it(`noticed: sring, ${direction}, with a mistake: ${mistake}`, async t => {
    if (mistake === 'order' && !LONG) return t.skip('takes seconds: npm run test:hostile');
    const result = await stress({ device: 'sring', direction, mistake }, SEARCH_MS);
    t.diagnostic(JSON.stringify(result));
    assert.match(result.outcome, lost);
  });
}
