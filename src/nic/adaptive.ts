/**
 * What contract, and which way of waiting, suits the traffic there is: a judgement from the NIC's own counters, with hysteresis.
 *
 * ```
 *   bytes of a packet, on average        below 300          between            above 700
 *   at 100 Mbit/s or 20 000 packets/s    fastest ring       as it is           segmentation, where it would be offered
 *
 *   packets a second                     below 20 000       between            above 100 000
 *                                        poll               as it is           spin
 * ```
 * The direction that moves more bytes decides. A change is advised when the same one has been due for several looks in a row, and not soon
 * after another one; a contract that the guest has declined is left alone for a while, each time twice as long.
 */
import type { Direction } from './control.js';

/** For large flows: the format that has segmentation. It is several times as fast as the others between TAPs (README, `tap-tcp`). */
export const SEGMENTING = 'sring_gso';
/**
 * What a packet of 60 bytes costs, in nanoseconds: driver, programs and backend together, as in the README's table under "Where the time goes" (`npm run bench
 * parts`; a test holds the two together). These formats are exchanged for one another. One that seals, or comes from outside, was chosen for other reasons
 * than speed.
 */
export const SMALL_PACKET_NS: Readonly<Record<string, Readonly<Record<Direction, number>>>> = {
  sring: { tx: 56, rx: 51 },
  sring_gso: { tx: 68, rx: 63 },
  vring_packed: { tx: 63, rx: 58 },
};
const EXCHANGEABLE = Object.keys(SMALL_PACKET_NS);

export interface AdaptiveLimits {
  /** Looks in a row that must agree. */
  readonly looks: number;
  /** Between two changes, ms. */
  readonly restMs: number;
  /** First time that a declined contract is left alone, ms. */
  readonly declinedMs: number;
  /** Spinning takes a processor away from everybody else: not with fewer than this. */
  readonly processors: number;
}

const ADAPTIVE_LIMITS: AdaptiveLimits = {
  looks: 3,
  restMs: 5000,
  declinedMs: 60_000,
  processors: 2,
};

const SMALL_BYTES = 300;
const LARGE_BYTES = 700;
const MANY_BITS = 100e6;
const MANY_PACKETS = 20_000;
const SPIN_PACKETS = 100_000;

/** What has moved in one direction between two looks. */
export interface Moved {
  readonly packets: number;
  readonly bytes: number;
}

export interface Look {
  /** When, and how long after the look before, ms. */
  readonly at: number;
  readonly elapsed: number;
  readonly rx: Moved;
  readonly tx: Moved;
  /** Whether large frames would be offered in a direction, seen from the guest, with the format that can have them. */
  readonly segments: Readonly<Record<Direction, boolean>>;
  /** As it is now. */
  readonly device: string;
  readonly spin: boolean;
}

/** What to change, and why, for the operator's log. */
export interface Advice {
  readonly device?: string;
  readonly spin?: boolean;
  readonly reason: string;
}

export class Adaptive {
  readonly #limits: AdaptiveLimits;
  readonly #processors: number;
  readonly #declined = new Map<string, { until: number; forMs: number }>();
  #due = { device: '', looks: 0 };
  #dueSpin = { spin: false, looks: 0 };
  #changedAt = Number.NEGATIVE_INFINITY;

  /** `processors`: how many this process may use. */
  constructor(processors: number, limits: Partial<AdaptiveLimits> = {}) {
    this.#processors = processors;
    this.#limits = { ...ADAPTIVE_LIMITS, ...limits };
  }

  /** At most one change at a time: the contract first. */
  advise(look: Look): Advice | null {
    return this.#contract(look) ?? this.#waiting(look);
  }

  /** A change has been carried out, at that time. */
  changed(at: number): void {
    this.#changedAt = at;
  }

  /** The guest did not take that contract, or took it without what it was to have it for. */
  declined(device: string, at: number): void {
    const forMs = 2 * (this.#declined.get(device)?.forMs ?? this.#limits.declinedMs / 2);
    this.#declined.set(device, { until: at + forMs, forMs });
    this.#changedAt = at;
  }

  #contract({ at, elapsed, rx, tx, segments, device }: Look): Advice | null {
    const direction = rx.bytes > tx.bytes ? 'rx' : 'tx';
    const { packets, bytes } = direction === 'rx' ? rx : tx;
    const bits = (bytes * 8000) / elapsed;
    const rate = (packets * 1000) / elapsed;
    const size = packets === 0 ? 0 : bytes / packets;
    let wanted = device;
    if (bits >= MANY_BITS && size >= LARGE_BYTES) {
      if (segments[direction]) wanted = SEGMENTING;
    } else if (rate >= MANY_PACKETS && size <= SMALL_BYTES) wanted = this.#fastest(direction, device, at);

    const looks = wanted === this.#due.device ? this.#due.looks + 1 : 1;
    this.#due = { device: wanted, looks };
    if (!EXCHANGEABLE.includes(device) || wanted === device || looks < this.#limits.looks) return null;
    if (at - this.#changedAt < this.#limits.restMs || !this.#isWelcome(wanted, at)) return null;
    const traffic = `${(bits / 1e6).toFixed(0)} Mbit/s, ${(rate / 1000).toFixed(0)} kpps, ${size.toFixed(0)} bytes a packet`;
    return { device: wanted, reason: `${wanted} instead of ${device}: ${traffic}` };
  }

  /** For small packets, of what the guest has and of what it may take. */
  #fastest(direction: Direction, device: string, at: number): string {
    const cost = (format: string) => SMALL_PACKET_NS[format]?.[direction] ?? Number.POSITIVE_INFINITY;
    return EXCHANGEABLE.reduce(
      (best, format) => (cost(format) < cost(best) && this.#isWelcome(format, at) ? format : best),
      device,
    );
  }

  #isWelcome(device: string, at: number): boolean {
    return at >= (this.#declined.get(device)?.until ?? 0);
  }

  #waiting({ at, elapsed, rx, tx, spin }: Look): Advice | null {
    const rate = ((rx.packets + tx.packets) * 1000) / elapsed;
    let wanted = spin;
    if (rate >= SPIN_PACKETS && this.#processors >= this.#limits.processors) wanted = true;
    else if (rate < MANY_PACKETS) wanted = false;
    const looks = wanted === this.#dueSpin.spin ? this.#dueSpin.looks + 1 : 1;
    this.#dueSpin = { spin: wanted, looks };
    if (wanted === spin || looks < this.#limits.looks || at - this.#changedAt < this.#limits.restMs)
      return null;
    return {
      spin: wanted,
      reason: `${wanted ? 'spin instead of sleeping' : 'sleep instead of spinning'}: ${(rate / 1000).toFixed(0)} kpps`,
    };
  }
}
