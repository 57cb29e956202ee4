/**
 * The worker of switch-threads.test.ts: one station with its own thread. It sends numbered frames to each of the others and checks what comes; it
 * sleeps in ppoll when nothing moves, as a NIC's worker does.
 *
 * ```
 *   0            6            12      14    16      20        24        28
 *   destination  source       88b5    00    from    number    length    words that follow from all three
 * ```
 */
import { parentPort, workerData } from 'node:worker_threads';
import * as L from '../../datapath/layout.js';
import { POLLIN, Poller } from '../../src/linux/poll.js';
import { Window } from '../../src/memory/window.js';
import type { PortDescriptor } from '../../src/port/port.js';
import { attachPort } from '../../src/port/registry.js';
import { Batch } from '../../src/ring/batch.js';
import { loadDatapath } from '../../src/ring/datapath.js';

export interface StationTask {
  readonly memory: WebAssembly.Memory;
  readonly lane: PortDescriptor;
  readonly me: number;
  readonly stations: number;
  /** Frames for each other station. */
  readonly count: number;
  /** Frames under way at most on each flow; 0: no limit. */
  readonly under: number;
  /** Window address of u32: what has arrived of each flow, by sender and receiver; then how many stations have sent all. */
  readonly control: number;
  /** Batches of one buffer a frame, and so many frames. */
  readonly tx: number;
  readonly rx: number;
  readonly frames: number;
}

export interface StationReport {
  /** By sender. */
  readonly received: readonly number[];
  readonly torn: number;
  readonly outOfOrder: number;
  /** Times that it slept on though a frame was waiting. */
  readonly lost: number;
  readonly slept: number;
}

const PATIENCE_MS = 3000;
const NAP_MS = 50;
const HEAD = 28;
const SMALLEST = 60;
const LARGE_EVERY = 61;

class StationThread {
  readonly #task = workerData as StationTask;
  readonly #window = Window.attach(this.#task.memory);
  readonly #calls = loadDatapath(this.#window).calls;
  readonly #port = attachPort(this.#task.lane, { window: this.#window, calls: this.#calls });
  readonly #tx = new Batch(this.#window, this.#task.tx);
  readonly #rx = new Batch(this.#window, this.#task.rx);
  readonly #sent: number[];
  readonly #next: number[];
  readonly #received: number[];
  readonly #report = { torn: 0, outOfOrder: 0, lost: 0, slept: 0 };
  #finished = false;
  #turn = 0;

  constructor() {
    const none = () => Array.from({ length: this.#task.stations }, () => 0);
    this.#sent = none();
    this.#next = none();
    this.#received = none();
  }

  run(): StationReport {
    const poller = new Poller(1);
    poller.set(0, this.#port.fd, POLLIN);
    for (;;) {
      const allHaveSent = Atomics.load(this.#window.words, this.#doneIndex) === this.#task.stations;
      const moved = this.#send() + this.#receive();
      if (moved > 0) continue;
      if (allHaveSent && this.#complete()) break;
      this.#report.slept++;
      // A frame that is there without a signal: whoever brought it is just about to give it, or nobody ever will.
      const napped = poller.wait(this.#finished ? NAP_MS : 1) === 0;
      if (napped && this.#calls.switch_waiting(this.#task.lane.state) && poller.wait(PATIENCE_MS) === 0) {
        this.#report.lost++;
      }
    }
    return { received: this.#received, ...this.#report };
  }

  /** Nothing more can come: without a limit frames are lost, so all we know is that nobody sends any more. */
  #complete(): boolean {
    const { under, count, me } = this.#task;
    return under === 0 || this.#received.every((n, from) => from === me || n === count);
  }

  /** Some frames to one of the others. */
  #send(): number {
    const { me, stations, count, under, frames } = this.#task;
    const { words } = this.#window;
    const to = (me + 1 + (this.#turn++ % (stations - 1))) % stations;
    const sent = this.#sent[to]!;
    const out = sent - Atomics.load(words, (this.#task.control >>> 2) + me * stations + to);
    const n = Math.min(count - sent, 1 + (this.#turn % frames), under === 0 ? frames : under - out);
    if (n <= 0) return 0;
    for (let i = 0; i < n; i++) this.#write(i, to, sent + i);
    words[(this.#tx.address + L.BATCH_COUNT) >>> 2] = n;
    this.#port.put(this.#tx);
    this.#sent[to] = sent + n;
    if (!this.#finished && this.#sent.every((all, other) => other === me || all === count)) {
      this.#finished = true;
      Atomics.add(words, this.#doneIndex, 1);
    }
    return n;
  }

  #write(i: number, to: number, number: number): void {
    const { me } = this.#task;
    const { words, bytes } = this.#window;
    const at = this.#buffer(this.#tx, i);
    const length = lengthOf(me, number);
    bytes.set([2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, me, 0x88, 0xb5], at);
    let word = (at + 16) >>> 2;
    words[word++] = me;
    words[word++] = number;
    words[word++] = length;
    for (let k = HEAD; k + 4 <= length; k += 4) words[word++] = wordOf(me, number, k);
    this.#tx.setLength(i, length);
  }

  #receive(): number {
    const { stations, frames, me, control } = this.#task;
    const { words } = this.#window;
    words[(this.#rx.address + L.BATCH_COUNT) >>> 2] = frames;
    const n = this.#port.get(this.#rx);
    for (let i = 0; i < n; i++) {
      const at = this.#buffer(this.#rx, i);
      const [from, number, length] = [
        words[(at + 16) >>> 2]!,
        words[(at + 20) >>> 2]!,
        words[(at + 24) >>> 2]!,
      ];
      const whole =
        from < stations &&
        this.#window.bytes[at + 5] === me &&
        length === lengthOf(from, number) &&
        length === this.#rx.length(i);
      if (!whole || !this.#isWhole(at, from, number, length)) {
        this.#report.torn++;
        continue;
      }
      if (number < this.#next[from]!) this.#report.outOfOrder++;
      this.#next[from] = number + 1;
      this.#received[from]!++;
      Atomics.add(words, (control >>> 2) + from * stations + me, 1);
    }
    return n;
  }

  #isWhole(at: number, from: number, number: number, length: number): boolean {
    const { words } = this.#window;
    for (let k = HEAD; k + 4 <= length; k += 4) {
      if (words[(at + k) >>> 2] !== wordOf(from, number, k)) return false;
    }
    return true;
  }

  /** Window address of the only buffer. */
  #buffer(batch: Batch, i: number): number {
    const { words } = this.#window;
    const frame = words[(batch.address + L.BATCH_FRAMES) >>> 2]! + i * L.FRAME_SIZE;
    return words[words[(frame + L.FRAME_WIN) >>> 2]! >>> 2]!;
  }

  get #doneIndex(): number {
    return (this.#task.control >>> 2) + this.#task.stations ** 2;
  }
}

/** From the smallest frame to a large one, the same for whoever knows the number. */
function lengthOf(from: number, number: number): number {
  const mixed = Math.imul(number + from * 77 + 1, 0x9e3779b1) >>> 8;
  return number % LARGE_EVERY === 7 ? 20_000 + (mixed % 45_000) : SMALLEST + (mixed % 1455);
}

function wordOf(from: number, number: number, k: number): number {
  return (Math.imul(number + 1, 0x85ebca6b) ^ Math.imul(from + 1, 0xc2b2ae35) ^ k) >>> 0;
}

parentPort!.postMessage(new StationThread().run());
