/**
 * The demo where no network can be made: the same two processes and the same rings, with numbered frames from a source at one side to
 * a sink at the other, in one direction after the other. The sink reads every byte and checks every number.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { thousands } from './display.js';
import { DemoError } from './errors.js';
import type { Reading } from './nic-pair.js';
import type { Direction } from './report.js';
import { meter, Run, type RunOptions } from './run.js';

const DIRECTIONS = {
  guest_to_host: {
    title: 'frames guest to host',
    netdev: 'source',
    port: 'sink',
    end: 'backend',
    queue: 'tx',
  },
  host_to_guest: { title: 'frames host to guest', netdev: 'sink', port: 'source', end: 'guest', queue: 'rx' },
} as const;

const LOOK_MS = 100;
const START_LIMIT_LOOKS = 100;

/** Runs both directions and fills the report. Throws as runTraffic does. */
export async function runFrames(options: RunOptions): Promise<void> {
  for (const direction of ['guest_to_host', 'host_to_guest'] as const) {
    const run = new Run(options, DIRECTIONS[direction]);
    let failure: unknown = null;
    try {
      await oneWay(run, direction, options);
    } catch (error) {
      failure = error;
    }
    await run.close(failure);
  }
}

async function oneWay(
  run: Run,
  direction: Direction,
  { seconds, report, upgrades }: RunOptions,
): Promise<void> {
  const { title } = DIRECTIONS[direction];
  let now = await flowing(run, direction);
  const first = arrived(now, direction);
  const live = meter(() => arrived(now, direction) - first);
  const forMs = (seconds / 2) * 1000;
  const changed = upgrades?.count ?? 0;
  const { result } = await run.phase({
    title,
    key: direction,
    rate: () => `${thousands(live())} frames/s`,
    work: async () => {
      const start = performance.now();
      const looking = async () => {
        for (const end = start + forMs; performance.now() < end; now = await run.pair.read()) {
          await sleep(Math.min(LOOK_MS, Math.max(0, end - performance.now())));
        }
      };
      await Promise.all([looking(), upgrades?.run(run.pair, forMs, run.signal)]);
      return { received: arrived(now, direction) - first, took: (performance.now() - start) / 1000 };
    },
    words: () =>
      `${outOfOrder(now, direction)} out of order${upgrades ? `, ${upgrades.count - changed} upgrades` : ''}`,
  });
  const { received, took } = result;
  const out = outOfOrder(now, direction);
  report.frames[direction] = { received, out_of_order: out, pps: Math.round(received / took) };
  if (received === 0) report.failures.push(`${title}: nothing arrives any more`);
  if (out > 0) report.failures.push(`${title}: ${out} frames lost, doubled or out of order`);
}

/** The first reading with frames in it. */
async function flowing(run: Run, direction: Direction): Promise<Reading> {
  for (let looks = 0; looks < START_LIMIT_LOOKS; looks++) {
    const reading = await run.during(run.pair.read());
    if (arrived(reading, direction) > 0) return reading;
    await run.during(sleep(LOOK_MS));
  }
  throw new DemoError(`${DIRECTIONS[direction].title}: nothing arrives`);
}

function arrived(reading: Reading, direction: Direction): number {
  const { end, queue } = DIRECTIONS[direction];
  return reading[end].queues.reduce(
    (sum, { direction, packets }) => sum + (direction === queue ? packets : 0),
    0,
  );
}

function outOfOrder(reading: Reading, direction: Direction): number {
  return reading[DIRECTIONS[direction].end].flow!.outOfOrder;
}
