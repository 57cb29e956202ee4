/**
 * Traffic between the two ends, each end in a thread of its own, so that neither waits for the other or for the test.
 *
 * ```
 *   test ── starts ──► traffic-worker (sender)   ══ cable ══►   traffic-worker (receiver) ── Tally ──► test
 *                            ▲                                        │
 *                            └── shared counter of what has come ─────┘    a sender with a window waits for it
 * ```
 * With a window nothing can be lost but by the cable. Without one the sender keeps its pace whatever happens, even if the interface is gone.
 */
import { Worker } from 'node:worker_threads';
import type { End } from './harness.js';

/** Words of the shared counters. TARGET: the receiver tells when it has so many; 0: it need not. REPEATED: of RECEIVED, those that came once more. */
export const SHARED = { RECEIVED: 0, STOP: 1, TARGET: 2, REPEATED: 3, WORDS: 4 } as const;

/** What a worker tells. */
export type Message = 'ready' | 'reached' | { readonly result: Sent | Tally | Transfer };

export interface Tally {
  readonly packets: number;
  readonly bytes: number;
  /** Datagrams that were not, byte for byte, what was sent. */
  readonly corrupt: number;
  /** Datagrams that came once more. */
  readonly repeated: number;
  /** Datagrams whose number is not beyond all earlier ones. */
  readonly late: number;
  /** From the first to the last, seconds. */
  readonly seconds: number;
}

export interface Sent {
  readonly packets: number;
  readonly bytes: number;
  /** Datagrams that the kernel refused: no interface, no route. */
  readonly refused: number;
}

/** What a worker is told. */
export type Task =
  | {
      readonly role: 'udp-send';
      readonly to: string;
      readonly port: number;
      readonly seed: number;
      readonly count: number;
      /** Datagrams under way at most; 0: no window. */
      readonly window: number;
      /** Without a window: datagrams a second. */
      readonly pace: number;
    }
  | { readonly role: 'udp-receive'; readonly port: number; readonly seed: number; readonly count: number }
  | {
      readonly role: 'tcp-send';
      readonly to: string;
      readonly port: number;
      readonly seed: number;
      readonly bytes: number;
    }
  | { readonly role: 'tcp-receive'; readonly at: string; readonly port: number };

export interface TaskData {
  readonly task: Task;
  readonly netns: string;
  readonly shared: SharedArrayBuffer;
}

/** What a TCP end reports. */
export interface Transfer {
  readonly bytes: number;
  readonly sha256: string;
  readonly seconds: number;
}

const ENTRY = new URL('./traffic-worker.js', import.meta.url);

/** One worker and what it tells. */
class Actor<Result> {
  readonly done: Promise<Result>;
  readonly #worker: Worker;

  constructor(task: Task, end: End, shared: SharedArrayBuffer) {
    const workerData: TaskData = { task, netns: end.path, shared };
    this.#worker = new Worker(ENTRY, { workerData });
    this.done = new Promise<Result>((resolve, reject) => {
      let result: Result;
      this.#worker.on('message', (message: Message) => {
        if (typeof message === 'object') result = message.result as Result;
      });
      this.#worker.once('error', reject);
      this.#worker.once('exit', () => resolve(result));
    });
    this.done.catch(() => {}); // whoever waits for the result hears of it
  }

  /** Resolves when the worker says so, or has ended well; rejects when it fails. */
  async says(word: Exclude<Message, object>): Promise<void> {
    let listener: (message: Message) => void = () => {};
    const said = new Promise<void>(resolve => {
      listener = message => void (message === word && resolve());
      this.#worker.on('message', listener);
    });
    await Promise.race([said, this.done]);
    this.#worker.off('message', listener);
  }
}

/** See the task `udp-send`. Without `count` a flow goes on until it is stopped. */
export interface FlowOptions {
  readonly seed: number;
  readonly count?: number;
  readonly window?: number;
  readonly pace?: number;
}

/** A flow of datagrams, from one end to the other. */
export class UdpFlow {
  readonly #counters: Int32Array;
  readonly #sender: Actor<Sent>;
  readonly #receiver: Actor<Tally>;

  private constructor(counters: Int32Array, sender: Actor<Sent>, receiver: Actor<Tally>) {
    this.#counters = counters;
    this.#sender = sender;
    this.#receiver = receiver;
  }

  /** Starts it: the sender once the receiver listens. */
  static async start(
    from: End,
    to: End,
    { seed, count = 2 ** 31 - 1, window = 0, pace = 0 }: FlowOptions,
  ): Promise<UdpFlow> {
    const shared = new SharedArrayBuffer(SHARED.WORDS * 4);
    const port = 7000 + (seed % 1000);
    const receiver = new Actor<Tally>({ role: 'udp-receive', port, seed, count }, to, shared);
    await receiver.says('ready');
    const task = { role: 'udp-send', to: to.ip, port, seed, count, window, pace } as const;
    return new UdpFlow(new Int32Array(shared), new Actor<Sent>(task, from, shared), receiver);
  }

  /** Datagrams that have come so far. */
  get received(): number {
    return Atomics.load(this.#counters, SHARED.RECEIVED);
  }

  /** Of these, such as had come before. */
  get repeated(): number {
    return Atomics.load(this.#counters, SHARED.REPEATED);
  }

  /** Resolves when `n` more datagrams have come than now; rejects when an end fails first. One call at a time. */
  async more(n: number): Promise<void> {
    const reached = this.#receiver.says('reached');
    Atomics.store(this.#counters, SHARED.TARGET, this.received + n);
    await Promise.race([reached, this.#sender.done]);
  }

  /** Waits for the last datagram. */
  async finished(): Promise<{ sent: Sent; got: Tally }> {
    return { sent: await this.#sender.done, got: await this.#receiver.done };
  }

  /** Ends a flow that has no end of its own. */
  async stop(): Promise<{ sent: Sent; got: Tally }> {
    await this.abandon();
    return this.finished();
  }

  /** Stops it without a word about how it went. */
  async abandon(): Promise<void> {
    Atomics.store(this.#counters, SHARED.STOP, 1);
    await Promise.allSettled([this.#sender.done, this.#receiver.done]);
  }
}

/** Sends a stream of seeded bytes over TCP. Both ends report what they saw. */
export async function tcpTransfer(
  from: End,
  to: End,
  { seed, bytes }: { seed: number; bytes: number },
): Promise<{ sent: Transfer; got: Transfer }> {
  const shared = new SharedArrayBuffer(SHARED.WORDS * 4);
  const port = 8000 + (seed % 1000);
  const receiver = new Actor<Transfer>({ role: 'tcp-receive', at: to.ip, port }, to, shared);
  await receiver.says('ready');
  const sender = new Actor<Transfer>({ role: 'tcp-send', to: to.ip, port, seed, bytes }, from, shared);
  const [sent, got] = await Promise.all([sender.done, receiver.done]);
  return { sent, got };
}
