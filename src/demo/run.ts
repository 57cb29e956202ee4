/** What both kinds of demo are run with, and how each of them is carried through: measured, shown, ended. */
import { performance } from 'node:perf_hooks';
import { openFds } from '../linux/fd.js';
import { openMappings } from '../linux/mmap.js';
import type { Leaks } from '../observe/child-report.js';
import type { Display } from './display.js';
import { DemoError } from './errors.js';
import { type Crossing, crossing, NicPair, type NicPairOptions } from './nic-pair.js';
import { addLeaks, type DemoReport, signalsOf } from './report.js';
import type { Upgrades } from './upgrades.js';

export interface RunOptions {
  readonly device: string;
  readonly spin: boolean;
  readonly verbose: boolean;
  /** Of all phases together, about. */
  readonly seconds: number;
  /** Null: the contract stays. */
  readonly upgrades: Upgrades | null;
  readonly signal: AbortSignal;
  readonly report: DemoReport;
  readonly display: Display;
}

export interface Phase<T> {
  /** In the table, and in the report. */
  readonly title: string;
  readonly key: string;
  /** Words for the row while the phase runs; called a few times a second. */
  readonly rate: () => string;
  readonly work: () => Promise<T>;
  /** Words for the row when it is done. */
  readonly words: (result: T) => string;
}

/** A NIC pair in use: every wait ends early, with an error, when one of its processes ends or the user wants to stop. */
export class Run {
  readonly pair: NicPair;
  readonly #options: RunOptions;
  readonly #stop = new AbortController();
  readonly #stopped: Promise<never>;

  constructor(options: RunOptions, ports: Pick<NicPairOptions, 'netdev' | 'port'>) {
    const { signal } = options;
    this.#options = options;
    signal.throwIfAborted();
    this.pair = new NicPair({ ...options, ...ports });
    this.#stopped = new Promise((_, reject) => {
      this.signal.addEventListener('abort', () => reject(this.signal.reason));
    });
    this.#stopped.catch(() => {}); // whoever waits for something races it
    signal.addEventListener('abort', () => this.#stop.abort(signal.reason));
    this.pair.broken.catch(error => this.#stop.abort(error));
  }

  /** Aborts, with the reason, when nothing more can come. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  during<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#stopped]);
  }

  async phase<T>({ title, key, rate, work, words }: Phase<T>): Promise<{ result: T; crossing: Crossing }> {
    const { display, report } = this.#options;
    const before = await this.during(this.pair.read());
    const start = performance.now();
    const finish = display.phase(title, rate);
    try {
      const result = await this.during(work());
      const seconds = (performance.now() - start) / 1000;
      const crossed = crossing(before, await this.during(this.pair.read()));
      report.signals[key] = signalsOf(crossed);
      finish(words(result), { ...crossed, seconds });
      return { result, crossing: crossed };
    } catch (error) {
      finish(error instanceof Error ? 'failed' : 'stopped');
      throw error;
    }
  }

  /** Ends both processes. `error`: why, if it is not the plan; it is thrown on with what the processes know about it. */
  async close(error: unknown): Promise<void> {
    const { report } = this.#options;
    try {
      report.leaks = addLeaks(report.leaks, await this.pair.close());
    } catch (problem) {
      error ??= problem;
    }
    if (error === null) return;
    const cause = this.pair.errors[0];
    throw error instanceof DemoError && cause ? new DemoError(`${error.message} (${cause})`) : error;
  }
}

/** What this thread itself still holds. */
export function heldHere(): Leaks {
  return { fds: openFds().length, mappings: openMappings().length, buffers: 0 };
}

/** Turns a growing amount into a rate since the last call, or since the start. */
export function meter(amount: () => number): () => number {
  let last = 0;
  let then = performance.now();
  return () => {
    const now = performance.now();
    const total = amount();
    const rate = ((total - last) / Math.max(1, now - then)) * 1000;
    last = total;
    then = now;
    return Math.max(0, rate);
  };
}
