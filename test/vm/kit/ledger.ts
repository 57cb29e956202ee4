/** What has come of numbered datagrams (test/link/content.ts): whole or not, once or again, in order or late, and which never did. */

/** Of the content. */
export const SEED = 4;
/** Bytes that a socket holds for a program that is late: what waited for a backend comes all at once. */
export const BUFFER = 8 << 20;

export interface Tally {
  readonly packets: number;
  readonly corrupt: number;
  readonly repeated: number;
  readonly late: number;
}

export class Ledger {
  packets = 0;
  corrupt = 0;
  repeated = 0;
  late = 0;
  /** Milliseconds of this machine, by number. */
  readonly arrived: number[] = [];

  /** Takes note of a datagram; -1: it is not what was sent. */
  note(n: number): void {
    this.packets++;
    if (n < 0) this.corrupt++;
    else if (this.arrived[n] !== undefined) this.repeated++;
    else {
      if (n < this.arrived.length) this.late++;
      this.arrived[n] = performance.now();
    }
  }

  get tally(): Tally {
    const { packets, corrupt, repeated, late } = this;
    return { packets, corrupt, repeated, late };
  }

  /** Runs of numbers that are missing before the last one that has come, first and last of each. */
  get gaps(): [from: number, to: number][] {
    const gaps: [number, number][] = [];
    for (let n = 0; n < this.arrived.length; n++) {
      if (this.arrived[n] !== undefined) continue;
      const from = n;
      while (this.arrived[n + 1] === undefined) n++;
      gaps.push([from, n]);
    }
    return gaps;
  }
}
