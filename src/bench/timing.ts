/** Time of things that take turns: each turn adds what its parts took, and says how many packets that was. */
import { median } from './result.js';

/** Short ones, and many: the median then forgets those that were interrupted. */
const ROUNDS = 101;

/** Milliseconds. Guest: driver, its programs, its source or sink. Ring: the device's calls. Port: what moves frames at the device's side. */
export interface Spent {
  guest: number;
  ring: number;
  port: number;
}

export interface Effort {
  readonly warmUp: number;
  /** In a round, of which there are 101. */
  readonly turns: number;
}

/** Without a kernel in it a turn takes some microseconds. */
export const QUICK: Effort = { warmUp: 3000, turns: 100 };

/** A turn adds to what its parts have taken, and returns its packets. */
export type Turn = (spent: Spent) => number;

/** Nanoseconds per packet, for each of these turns: of each part the median over the rounds. They take rounds in turn, so that the machine's moods hit all of them alike. */
export function perPacket(turns: readonly Turn[], effort: Effort): Spent[] {
  for (const turn of turns) round(turn, effort.warmUp);
  const rounds = Array.from({ length: ROUNDS }, () => turns.map(turn => round(turn, effort.turns)));
  return turns.map((_, i) => {
    const of = (part: keyof Spent) => median(rounds.map(samples => samples[i]![part]));
    return { guest: of('guest'), ring: of('ring'), port: of('port') };
  });
}

/** So many turns, nanoseconds per packet. */
function round(turn: Turn, turns: number): Spent {
  const spent: Spent = { guest: 0, ring: 0, port: 0 };
  let packets = 0;
  for (let i = 0; i < turns; i++) packets += turn(spent);
  const scale = 1e6 / packets;
  return { guest: spent.guest * scale, ring: spent.ring * scale, port: spent.port * scale };
}
