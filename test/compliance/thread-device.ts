/** The device's thread of a stress (threads.test.ts): works on one queue as a NIC's worker does, but it spins where that sleeps. */
import { parentPort, workerData } from 'node:worker_threads';
import * as L from '../../datapath/layout.js';
import { Window } from '../../src/memory/window.js';
import { Batch } from '../../src/ring/batch.js';
import { loadDatapath } from '../../src/ring/datapath.js';
import { deviceType } from '../../src/ring/registry.js';
import type { Ring } from '../../src/ring/ring.js';
import { ThreadControl } from './thread-control.js';

export interface DeviceTask {
  readonly device: string;
  readonly direction: 'tx' | 'rx';
  readonly queue: number;
  readonly batch: number;
  /** Window address of the control words. */
  readonly control: number;
  /**
   * `kicks`, `interrupts`: it looks before it tells, and takes its time in between. `order`: it tells and then looks, but by a store that the load may
   * overtake. The ring is sring.
   */
  readonly mistake: 'none' | 'kicks' | 'interrupts' | 'order';
}

const window = Window.attach((workerData as { memory: WebAssembly.Memory }).memory);
const datapath = loadDatapath(window);
const { calls } = datapath;

/** So many frames at most that are filled at a time. */
const BURST = 3;
/** Of sring. */
const INTR = 4;
const KICK_ENABLED = 132;
const MISTAKE_ROUNDS = 3000; // of `relax`: some microseconds

const word = (address: number) => window.words[address >>> 2]!;

function withMistake(ring: Ring, mistake: DeviceTask['mistake']): Pick<Ring, 'kicks' | 'complete'> {
  return {
    kicks(queue, on) {
      if (mistake === 'order') {
        window.words[(word(queue + L.QUEUE_RING) + KICK_ENABLED) >>> 2] = on ? 1 : 0;
        return ring.pending(queue) !== 0;
      }
      if (mistake !== 'kicks' || !on) return ring.kicks(queue, on);
      const waiting = ring.pending(queue) !== 0;
      calls.relax(MISTAKE_ROUNDS);
      ring.kicks(queue, on);
      return waiting;
    },
    complete(queue, batch, n) {
      if (mistake !== 'interrupts') return ring.complete(queue, batch, n);
      const at = word(word(queue + L.QUEUE_RING) + INTR);
      const old = word(queue + L.QUEUE_CONS);
      calls.relax(MISTAKE_ROUNDS);
      ring.complete(queue, batch, n);
      const cons = word(queue + L.QUEUE_CONS);
      return (cons - at - 1) >>> 0 < (cons - old) >>> 0;
    },
  };
}

/** Returns how often it slept. */
function run({ device, direction, queue, batch: at, control: address, mistake }: DeviceTask): number {
  const ring = deviceType(device)!.ring(datapath);
  const { kicks, complete } = withMistake(ring, mistake);
  const control = new ThreadControl(window, address);
  const batch = new Batch(window, at);
  let done = 0;
  let naps = 0;
  let seed = 1;
  const work = (): boolean => {
    if (direction === 'tx') {
      const frames = ring.pop(queue, at, L.MAX_BATCH);
      const interrupt = complete(queue, at, frames);
      control.set('done', (done += frames));
      if (interrupt) control.tell('guestTold');
      return frames > 0;
    }
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    const room = ring.room(queue, at, L.MAX_BATCH);
    const frames = Math.min(room, (seed >>> 16) % (BURST + 1));
    for (let i = 0; i < frames; i++) batch.setLength(i, 60);
    const interrupt = ring.push(queue, at, frames);
    control.set('done', (done += frames));
    if (interrupt) control.tell('guestTold');
    calls.relax((seed >>> 20) % 64);
    return room > 0;
  };
  while (control.get('stop') === 0) {
    if (work()) continue;
    if (kicks(queue, true)) {
      ring.kicks(queue, false);
      continue;
    }
    control.set('deviceNap', 2 * naps++ + 1);
    control.wait('deviceTold', () => control.get('stop') !== 0);
    control.set('deviceNap', 2 * naps); // before the next: who has seen one nap all the time can't have seen a new one
    control.set('deviceTold', 0);
    ring.kicks(queue, false);
  }
  return naps;
}

parentPort!.on('message', (task: DeviceTask) => parentPort!.postMessage(run(task)));
