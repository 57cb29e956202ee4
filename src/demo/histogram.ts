/**
 * Times in figures and in bars.
 *
 * ```
 *    0.6 -   1.0 ms  █                         2      five bars a decade: each is about 1.6 times
 *    1.0 -   1.6 ms  ████████████████████████  47     as wide as the one before
 * ```
 */

/** Microseconds. The first bar also counts what is shorter, the last one what is longer. */
const BOUNDS = [
  100, 160, 250, 400, 630, 1000, 1600, 2500, 4000, 6300, 10_000, 16_000, 25_000, 40_000, 63_000,
];
/** Where the last bar ends. */
const TOP = 100_000;
const WIDTH = 24;
/** Eighths of a character, none to seven. */
const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

export interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

export interface Summary extends Percentiles {
  readonly max: number;
}

export interface Bar {
  /** Microseconds: `from` inclusive, `to` exclusive. */
  readonly from_us: number;
  readonly to_us: number;
  readonly count: number;
}

/** The smallest of these times that at least a share of them do not exceed, to a tenth. `sorted` has at least one. */
export function percentile(sorted: readonly number[], share: number): number {
  return Math.round(sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)]! * 10) / 10;
}

/** Null when there are none. */
export function summary(times: readonly number[]): Summary | null {
  if (times.length === 0) return null;
  const sorted = times.toSorted((a, b) => a - b);
  return { p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99), max: percentile(sorted, 1) };
}

/** Every bar from the first that counts something to the last, microseconds. Empty when there are no times. */
export function histogram(times: readonly number[]): Bar[] {
  const bars = BOUNDS.map((from_us, i) => ({ from_us, to_us: BOUNDS[i + 1] ?? TOP, count: 0 }));
  for (const time of times) {
    const over = BOUNDS.findIndex(bound => time < bound);
    bars[over < 0 ? BOUNDS.length - 1 : Math.max(0, over - 1)]!.count++;
  }
  const counts = (bar: Bar) => bar.count > 0;
  return bars.slice(bars.findIndex(counts), bars.findLastIndex(counts) + 1);
}

/** One line a bar; the longest fills the width. */
export function drawn(bars: readonly Bar[]): string[] {
  const most = Math.max(...bars.map(({ count }) => count));
  return bars.map(({ from_us, to_us, count }) => {
    const eighths = Math.round((count / most) * WIDTH * 8);
    const bar = '█'.repeat(eighths >> 3) + EIGHTHS[eighths & 7];
    return `${bound(from_us)} - ${bound(to_us)} ms  ${bar.padEnd(WIDTH)} ${count}`;
  });
}

function bound(microseconds: number): string {
  const digits = microseconds < 1000 ? 2 : 1;
  return (microseconds / 1000).toFixed(digits).padStart(5);
}
