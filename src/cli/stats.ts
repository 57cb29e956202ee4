/** The line of rates that `--stats` prints: per direction kpps, Mbit/s, kicks and interrupts a second, packets and buffers a batch. */
import type { Direction } from '../nic/control.js';
import type { QueueStats } from '../nic/queue.js';
import type { PortCounters, PortHandle } from '../port/port.js';

type Queues = readonly ({ readonly direction: Direction } & QueueStats)[];

const COUNTERS = [
  'packets',
  'bytes',
  'buffers',
  'batches',
  'kicks',
  'interrupts',
  'errors',
  'dropped',
] as const;
type Totals = Record<(typeof COUNTERS)[number], number>;

/** Sums the counters of one direction. */
export function total(queues: Queues, direction: Direction): Totals {
  const sum = Object.fromEntries(COUNTERS.map(counter => [counter, 0])) as Totals;
  for (const queue of queues) {
    if (queue.direction !== direction) continue;
    for (const counter of COUNTERS) sum[counter] += queue[counter];
  }
  return sum;
}

/** One direction's rates between two readings, `seconds` apart. */
export function rateLine(direction: Direction, before: Totals, after: Totals, seconds: number): string {
  const d = (counter: (typeof COUNTERS)[number]) => Math.max(0, after[counter] - before[counter]);
  const perBatch = (counter: 'packets' | 'buffers') => (d('batches') === 0 ? 0 : d(counter) / d('batches'));
  return [
    `${direction} ${(d('packets') / seconds / 1e3).toFixed(1)} kpps`,
    `${((d('bytes') * 8) / seconds / 1e6).toFixed(1)} Mbit/s`,
    `${(d('kicks') / seconds).toFixed(0)} kicks/s`,
    `${(d('interrupts') / seconds).toFixed(0)} irqs/s`,
    `${perBatch('packets').toFixed(1)} pkts/batch`,
    `${perBatch('buffers').toFixed(1)} bufs/batch`,
    ...(after.errors > 0 ? [`${after.errors} errors`] : []),
    ...(after.dropped > 0 ? [`${after.dropped} dropped`] : []),
  ].join('  ');
}

/** What a port did not hand on since it was opened, for each reason there was; '' when nothing was lost. */
export function lossLine({ dropped, tooLong, errors }: PortCounters): string {
  const reasons = [
    [dropped, 'dropped'],
    [tooLong, 'too long'],
    [errors, 'errors'],
  ] as const;
  const words = reasons.filter(([n]) => n > 0).map(([n, reason]) => `${n} ${reason}`);
  return words.length === 0 ? '' : `port ${words.join('  ')}`;
}

/**
 * Prints both directions' rates every `seconds` on stdout, and what the port lost in all; `true` means 2. Returns a function that
 * ends it.
 */
export function printStats(
  seconds: number | true | undefined,
  read: () => Queues,
  port: Pick<PortHandle, 'counters'>,
): () => void {
  if (seconds === undefined) return () => {};
  const interval = seconds === true ? 2 : seconds;
  let before = { rx: total(read(), 'rx'), tx: total(read(), 'tx') };
  let then = performance.now();
  const timer = setInterval(() => {
    const queues = read();
    const now = performance.now();
    const after = { rx: total(queues, 'rx'), tx: total(queues, 'tx') };
    for (const direction of ['tx', 'rx'] as const) {
      console.log(rateLine(direction, before[direction], after[direction], (now - then) / 1000));
    }
    const loss = lossLine(port.counters());
    if (loss !== '') console.log(loss);
    before = after;
    then = now;
  }, interval * 1000);
  timer.unref();
  return () => clearInterval(timer);
}
