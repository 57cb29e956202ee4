/** The main thread's hold on one end of the traffic (worker.ts). */
import { Worker } from 'node:worker_threads';
import { DemoError } from '../errors.js';
import type { Shared } from './shared.js';
import type { Results, Work, WorkerMessage, WorkerStart } from './worker.js';

interface Expectation {
  ready(): void;
  result(value: never): void;
  failed(error: Error): void;
}

export class TrafficEnd {
  readonly name: string;
  readonly #worker: Worker;
  readonly #exited: Promise<void>;
  #expecting: Expectation | null = null;
  #left = 0;

  private constructor(name: string, start: WorkerStart) {
    this.name = name;
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: start, name });
    this.#exited = new Promise(resolve => this.#worker.once('exit', () => resolve()));
    this.#worker.on('message', (message: WorkerMessage) => this.#hear(message));
    this.#worker.on('error', error => this.#expecting?.failed(error));
  }

  /** An end in the namespace that `netns`, a path in /proc, leads to; resolves when it can work. */
  static async start(name: string, netns: string, shared: Shared): Promise<TrafficEnd> {
    const end = new TrafficEnd(name, { netns, shared: shared.buffer });
    await new Promise<void>((resolve, reject) => {
      end.#expecting = { ready: resolve, result: () => {}, failed: reject };
    });
    return end;
  }

  /** Does one piece of work; one at a time. `ready` resolves when the other end may begin. Failures are DemoErrors. */
  work<W extends Work>(work: W): { ready: Promise<void>; result: Promise<Results[W['op']]> } {
    const expectation: Partial<Expectation> = {};
    const result = new Promise<Results[W['op']]>((resolve, reject) => {
      expectation.result = resolve;
      expectation.failed = error => reject(new DemoError(`${this.name}: ${error.message}`));
    });
    const ready = new Promise<void>((resolve, reject) => {
      expectation.ready = resolve;
      result.catch(reject);
    });
    ready.catch(() => {}); // the same failure is in `result`
    this.#expecting = expectation as Expectation;
    this.#worker.postMessage(work);
    return { ready, result };
  }

  /** Lets the thread end, once its work is done. Returns the descriptors that it leaves behind. */
  async close(): Promise<number> {
    this.#worker.postMessage({ op: 'end' });
    await this.#exited;
    return this.#left;
  }

  #hear(message: WorkerMessage): void {
    if ('ready' in message) this.#expecting?.ready();
    else if ('result' in message) this.#expecting?.result(message.result as never);
    else if ('error' in message) this.#expecting?.failed(new Error(message.error));
    else this.#left = message.left;
  }
}
