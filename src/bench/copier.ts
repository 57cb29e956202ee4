/**
 * The yardstick for everything between two TAPs: a thread that reads a frame here and writes it there, and nothing else. No ring, no header, no
 * second process. It ends when the shared flag is set.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { addressOf, read, write } from '../linux/libc.js';
import { POLLIN, Poller } from '../linux/poll.js';

const BURST = 64;
const LOOK_MS = 100;

export interface CopierStart {
  readonly taps: readonly [number, number];
  /** One word; not 0: end. */
  readonly stop: SharedArrayBuffer;
}

const { taps, stop } = workerData as CopierStart;
const stopped = new Int32Array(stop);
const frame = new Uint8Array(65536);
const address = addressOf(frame);
const poller = new Poller(2);
poller.set(0, taps[0], POLLIN);
poller.set(1, taps[1], POLLIN);
parentPort!.postMessage('ready');

while (Atomics.load(stopped, 0) === 0) {
  poller.wait(LOOK_MS);
  for (let side = 0; side < 2; side++) {
    if (poller.ready(side)) copy(taps[side]!, taps[1 - side]!);
  }
}
frame.fill(0); // the address kept nothing alive: this reference does

function copy(from: number, to: number): void {
  for (let i = 0; i < BURST; i++) {
    const length = read(from, address, frame.length);
    if (length <= 0) return;
    write(to, address, length);
  }
}
