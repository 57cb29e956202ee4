/**
 * That nobody sleeps while a frame waits for him, and nobody is woken for nothing for ever: all orders in which two senders and a receiver can get on,
 * one after the other.
 *
 * ```
 *   receiver   switch_get │ switch_arm │ read the eventfd │ switch_waiting │ … then sleeps, until the eventfd can be read
 *   sender 1   put, mark, take ARMED │ signal                             each does its steps in this order; at each │ any other may get on
 *   sender 2   put, mark, take ARMED │ signal
 * ```
 * The receiver is the port as it is; between its calls of the datapath stand the others' steps, as a schedule says.
 */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { monotonicNs } from '../../src/linux/clock.js';
import { signalEventFd } from '../../src/linux/eventfd.js';
import { POLLIN, Poller } from '../../src/linux/poll.js';
import type { DatapathExports } from '../../src/ring/datapath.js';
import { window } from '../compliance/testbed.js';
import { calls, frame, hello, type Station, switchTest } from './switch-bed.js';

const A = '02:00:00:00:00:0a';
const B = '02:00:00:00:00:0b';
const C = '02:00:00:00:00:0c';
/** Points at which the others may get on: more than the receiver passes in any order. */
const POINTS = 10;

/** A sender, step by step: puts a frame, then signals whom it has to, as often as it is told. */
class Sender {
  readonly #station: Station;
  readonly #address: string;
  #steps: (() => void)[] = [];
  sent = 0;

  constructor(station: Station, address: string) {
    this.#station = station;
    this.#address = address;
  }

  begin(puts: number): void {
    this.#steps = Array.from({ length: puts }, () => [() => this.#put(), () => this.#signal()]).flat();
  }

  step(): void {
    this.#steps.shift()?.();
  }

  get done(): boolean {
    return this.#steps.length === 0;
  }

  #put(): void {
    const state = this.#station.state();
    const batch = this.#station.batchOf([frame(C, this.#address)]);
    assert.equal(calls.switch_put(state, batch.address, 0, monotonicNs()), 1);
    this.sent++;
  }

  #signal(): void {
    const state = this.#station.state() >>> 2;
    const wakes = window.words[state + (L.SWLANE_WAKES >>> 2)]!;
    for (let i = 0; i < wakes; i++) signalEventFd(window.words[state + (L.SWLANE_WAKE_FDS >>> 2) + i]!);
    if (wakes > 0) calls.switch_leave(this.#station.state());
  }
}

/** All ways to choose, for `steps` steps in a row, points that never go back. */
function* placements(steps: number, from = 0): Generator<number[]> {
  if (steps === 0) yield [];
  else {
    for (let point = from; point < POINTS; point++) {
      for (const rest of placements(steps - 1, point)) yield [point, ...rest];
    }
  }
}

switchTest('no order of steps loses a wake-up, or leaves one behind', join => {
  const [a, b] = [join(), join()];
  let point = 0;
  let atPoint = (): void => {};
  const pass = (): void => {
    atPoint();
    point++;
  };
  /** The datapath as the receiver sees it: others may get on before its calls and behind them. */
  const seen: DatapathExports = {
    ...calls,
    switch_get(lane, batch, from) {
      pass();
      return calls.switch_get(lane, batch, from);
    },
    switch_arm(lane) {
      pass();
      const owed = calls.switch_arm(lane);
      pass();
      return owed;
    },
    switch_waiting(lane) {
      pass();
      const waits = calls.switch_waiting(lane);
      pass();
      return waits;
    },
  };
  const c = join({ calls: seen });
  c.send(hello(C));
  for (const station of [a, b]) station.take();
  for (const [station, address] of [
    [a, A],
    [b, B],
  ] as const) {
    station.send(hello(address));
  }
  c.take();
  const fd = c.lanes[0]!.fd;
  const poller = new Poller(1);
  poller.set(0, fd, POLLIN);
  const readable = (): boolean => poller.wait(0) > 0;
  const senders = [new Sender(a, A), new Sender(b, B)] as const;
  let orders = 0;

  for (const one of placements(4)) {
    for (const other of placements(2)) {
      orders++;
      senders[0].begin(2);
      senders[1].begin(1);
      const sentBefore = senders[0].sent + senders[1].sent;
      let got = 0;
      point = 0;
      atPoint = () => {
        for (const at of one) if (at === point) senders[0].step();
        for (const at of other) if (at === point) senders[1].step();
      };
      const show = () => `steps of one at ${one}, of the other at ${other}`;
      // As a worker does: asks while there is more, sleeps when there is none.
      const run = (): void => {
        for (let looks = 0; ; looks++) {
          assert.ok(looks < 50, `it never sleeps: ${show()}`);
          const n = c.get(2).length;
          got += n;
          if (n < 2 && !readable()) return;
        }
      };
      run();
      while (!senders.every(({ done }) => done)) {
        // It sleeps: only what can be read from the eventfd wakes it.
        for (const sender of senders) {
          sender.step();
          if (readable()) run();
        }
      }
      assert.equal(
        got,
        senders[0].sent + senders[1].sent - sentBefore,
        `it sleeps while frames wait: ${show()}`,
      );
      assert.ok(!readable(), `woken for nothing: ${show()}`);
    }
  }
  assert.equal(orders, 715 * 55);
});
