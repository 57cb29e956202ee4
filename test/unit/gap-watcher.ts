/** A thread that watches counters of the window, and tells for how long at most each of them stood still: the main thread is busy with other things. */
import { parentPort, workerData } from 'node:worker_threads';
import { Window } from '../../src/memory/window.js';

export interface WatchTask {
  readonly memory: WebAssembly.Memory;
  /** Window addresses of u64 that count up. */
  readonly counters: readonly number[];
  /** The first word: not 0, stop. */
  readonly control: SharedArrayBuffer;
}

const LOOK_MS = 0.05;

const { memory, counters, control } = workerData as WatchTask;
const { longs } = Window.attach(memory);
const stop = new Int32Array(control);
const seen = counters.map(at => ({
  index: at / 8,
  last: longs[at / 8]!,
  since: performance.now(),
  longest: 0,
}));
parentPort!.postMessage('watching');
while (Atomics.load(stop, 0) === 0) {
  Atomics.wait(stop, 0, 0, LOOK_MS);
  const now = performance.now();
  for (const counter of seen) {
    const value = longs[counter.index]!;
    if (value === counter.last) continue;
    counter.longest = Math.max(counter.longest, now - counter.since);
    counter.last = value;
    counter.since = now;
  }
}
parentPort!.postMessage(seen.map(({ longest }) => longest));
