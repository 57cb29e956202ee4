/**
 * A backend and a guest joined with each other, as two processes that share nothing but what the protocol hands over.
 *
 * ```
 *   netdev ── guest ◄── socket pair, guest memory, doorbells, interrupts ──► backend ── port
 * ```
 * The socket pair has no name in the file system, so whatever kills us, no file is left.
 */

import type { Blackout } from '../guest/bpfhv/commands.js';
import { socketPair } from '../linux/unix-socket.js';
import type { ChildCounters, Leaks } from '../observe/child-report.js';
import { Child, type Reply, SOCKET } from './child.js';

export interface NicPairOptions {
  readonly device: string;
  readonly spin: boolean;
  readonly verbose: boolean;
  /** Port specifications, of the guest's network device and of the backend's port. */
  readonly netdev: string;
  readonly port: string;
  /** Keep each process on one processor; default: wherever the kernel likes. */
  readonly cpus?: { readonly guest: number; readonly backend: number };
}

/** Counters of both processes, read at about the same time. */
export interface Reading {
  readonly guest: ChildCounters;
  readonly backend: ChildCounters;
}

/** What crossed the NIC between two readings. */
export interface Crossing {
  readonly packets: number;
  /** Doorbells that the guest rang, interrupts that the backend sent, for each packet in either direction. */
  readonly kicksPerPacket: number;
  readonly interruptsPerPacket: number;
}

export class NicPair {
  readonly #guest: Child;
  readonly #backend: Child;
  /** Of all changes of contract that the guest has told of so far. */
  readonly blackouts: Blackout[] = [];
  /** Rejects when one of the two ends unasked; never resolves. */
  readonly broken: Promise<never>;

  constructor({ device, spin, verbose, netdev, port, cpus }: NicPairOptions) {
    const [a, b] = socketPair('demo');
    const common = ['--bpfhv-proxy', SOCKET, ...(spin ? ['--spin'] : [])];
    try {
      this.#guest = new Child({
        name: 'guest',
        args: ['guest', ...common, '--netdev', netdev],
        ...{ socket: a.owner.fd, cpu: cpus?.guest, verbose },
      });
      const backend = ['serve', ...common, '--device', device, '--port', port];
      this.#backend = new Child({
        name: 'backend',
        args: backend,
        ...{ socket: b.owner.fd, cpu: cpus?.backend, verbose },
      });
    } finally {
      a.close();
      b.close();
    }
    this.broken = Promise.race([this.#guest.ended, this.#backend.ended]);
    this.broken.catch(() => {}); // whoever waits for something races it
  }

  /** What went wrong in the processes, by their own account. */
  get errors(): string[] {
    return [this.#guest, this.#backend].flatMap(child => child.errors);
  }

  async read(): Promise<Reading> {
    const [guest, backend] = await Promise.all([this.#guest.counters(), this.#backend.counters()]);
    this.blackouts.push(...(guest.blackouts ?? []));
    return { guest, backend };
  }

  /** Has the backend change the contract to another device type under the running guest. */
  upgrade(device: string): Promise<Reply> {
    return this.#backend.request({ op: 'upgrade', device });
  }

  /**
   * Shuts the guest down; the backend ends by itself when its guest has left. Returns what they could not give back. Throws DemoError
   * when one does not end in good order.
   */
  async close(): Promise<Leaks> {
    this.#backend.expectEnd();
    const [guest, backend] = [await settle(this.#guest.stop()), await settle(this.#backend.end())];
    for (const result of [guest, backend]) if (result instanceof Error) throw result;
    const [a, b] = [guest, backend] as [Leaks, Leaks];
    return { fds: a.fds + b.fds, mappings: a.mappings + b.mappings, buffers: a.buffers + b.buffers };
  }
}

/** What happened at the NIC between two readings; both processes count, the guest its doorbells, the backend its interrupts. */
export function crossing(before: Reading, after: Reading): Crossing {
  const packets = sum(after.guest, 'packets') - sum(before.guest, 'packets');
  const kicks = sum(after.guest, 'kicks') - sum(before.guest, 'kicks');
  const interrupts = sum(after.backend, 'interrupts') - sum(before.backend, 'interrupts');
  const each = Math.max(1, packets);
  return { packets, kicksPerPacket: kicks / each, interruptsPerPacket: interrupts / each };
}

function sum({ queues }: ChildCounters, counter: 'packets' | 'kicks' | 'interrupts'): number {
  return queues.reduce((total, queue) => total + queue[counter], 0);
}

function settle<T>(promise: Promise<T>): Promise<T | Error> {
  return promise.catch((error: Error) => error);
}
