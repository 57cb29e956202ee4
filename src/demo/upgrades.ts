/**
 * Changes of contract, one after the other, while something else keeps the traffic going.
 *
 * ```
 *   sring ──► sring_gso ──► vring_packed ──┐      one step every so many seconds; what was refused is tried again at the next
 *     ▲────────────────────────────────────┘
 * ```
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { deviceTypeNames } from '../ring/registry.js';
import { type Bar, histogram, type Summary, summary } from './histogram.js';
import type { NicPair } from './nic-pair.js';

/** No change begins so shortly before the traffic ends: its first packets would be missed. */
const LAST_MS = 200;

/** Times in microseconds. */
export interface UpgradeReport {
  readonly count: number;
  readonly refused: number;
  /** How long packets had to wait at a change: the longest of the three times below. Null: there was no change. */
  readonly blackout_us: Summary | null;
  /** From the last packet out to the first one, the same of packets in, and from the driver's stop to its go. */
  readonly tx_us?: Summary | null;
  readonly rx_us?: Summary | null;
  readonly stopped_us?: Summary | null;
  readonly histogram?: Bar[];
  /** Why, every reason once. */
  readonly refusals?: string[];
}

export class Upgrades {
  readonly #first: string;
  readonly #everyMs: number;
  readonly #pairs: NicPair[] = [];
  readonly #refusals: string[] = [];
  #count = 0;

  /** `first`: the device type that every pair begins with. */
  constructor(first: string, everySeconds: number) {
    this.#first = first;
    this.#everyMs = everySeconds * 1000;
  }

  /** Those that were carried out. */
  get count(): number {
    return this.#count;
  }

  /** Changes a pair for so long, less a moment; begins after half an interval. Rejects with an AbortError when `signal` aborts. */
  async run(pair: NicPair, forMs: number, signal: AbortSignal): Promise<void> {
    this.#pairs.push(pair);
    const begin = performance.now();
    const end = begin + forMs - LAST_MS;
    let device = this.#first;
    for (let at = begin + this.#everyMs / 2; at < end; ) {
      await sleep(Math.max(0, at - performance.now()), undefined, { signal });
      device = await this.#change(pair, device);
      do at += this.#everyMs;
      while (at < performance.now());
    }
  }

  /** What has happened so far, as far as the pairs have been read. */
  report(): UpgradeReport {
    const blackouts = this.#pairs.flatMap(pair => pair.blackouts);
    const longest = blackouts.map(({ stopped, tx, rx }) => Math.max(stopped, tx ?? 0, rx ?? 0));
    const known = (times: (number | null)[]) => summary(times.filter(time => time !== null));
    return {
      count: this.#count,
      refused: this.#refusals.length,
      blackout_us: summary(longest),
      tx_us: known(blackouts.map(({ tx }) => tx)),
      rx_us: known(blackouts.map(({ rx }) => rx)),
      stopped_us: known(blackouts.map(({ stopped }) => stopped)),
      histogram: histogram(longest),
      refusals: [...new Set(this.#refusals)],
    };
  }

  /** Returns the device type that the pair has now. */
  async #change(pair: NicPair, device: string): Promise<string> {
    const next = successor(device);
    const reply = await pair.upgrade(next);
    await pair.read();
    if ('error' in reply) {
      this.#refusals.push(`${device} to ${next}: ${reply.error.message}`);
      return device;
    }
    this.#count++;
    return next;
  }
}

/** The device type that comes behind this one. */
function successor(device: string): string {
  return deviceTypeNames[(deviceTypeNames.indexOf(device) + 1) % deviceTypeNames.length]!;
}
