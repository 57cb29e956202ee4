/** Both ends of the traffic through one network: a worker in each namespace, and what they share. */
import type { Machine, Network } from '../network.js';
import { TrafficEnd } from './end.js';
import { OVER, Shared, STOP } from './shared.js';
import type { Results, Work } from './worker.js';

export class TrafficEnds {
  readonly shared = new Shared();
  readonly #network: Network;
  readonly #ends = new Map<Machine, TrafficEnd>();

  constructor(network: Network) {
    this.#network = network;
  }

  async start(): Promise<void> {
    for (const machine of [this.#network.guest, this.#network.host]) {
      const path = `/proc/self/fd/${machine.netns.fd}`;
      this.#ends.set(machine, await TrafficEnd.start(machine.name, path, this.shared));
    }
  }

  /** The end in that machine. Before a piece of work, `shared.reset()`. */
  of(machine: Machine): TrafficEnd {
    return this.#ends.get(machine)!;
  }

  /** One end receives, the other one sends as soon as that is possible. */
  async flow<R extends Work, S extends Work>(
    to: Machine,
    receive: R,
    from: Machine,
    send: S,
  ): Promise<[Results[R['op']], Results[S['op']]]> {
    const receiving = this.of(to).work(receive);
    await receiving.ready;
    const sending = this.of(from).work(send);
    return Promise.all([receiving.result, sending.result.finally(() => this.shared.raise(OVER))]);
  }

  /** Lets both ends finish, and go. Returns the descriptors that they leave behind; null: none had been started. */
  async close(): Promise<number | null> {
    this.shared.raise(STOP);
    let left: number | null = null;
    for (const end of this.#ends.values()) left = (left ?? 0) + (await end.close());
    return left;
  }
}
