/** `polynic stats NAME`: what a running NIC or guest has counted, or its rates from now on. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from '@commander-js/extra-typings';
import type { ChildCounters } from '../observe/child-report.js';
import { NAME_ARGUMENT, type Sample, sample } from './asking.js';
import { wholeNumber } from './host.js';
import { lossLine, rateLine, total } from './stats.js';
import { table } from './table.js';

const COLUMNS = [
  'packets',
  'bytes',
  'buffers',
  'batches',
  'kicks',
  'interrupts',
  'errors',
  'dropped',
] as const;

export function statsCommand() {
  return new Command('stats')
    .description('print the counters of a running NIC or guest, or its rates')
    .argument(...NAME_ARGUMENT)
    .option('--watch <seconds>', 'print rates every so many seconds', wholeNumber('--watch', 1, 3600))
    .option('--json', 'print counters as one JSON object, with --watch one every time')
    .action(async (name, { watch, json = false }) => {
      let before = await sample(name);
      if (watch === undefined || json) console.log(json ? JSON.stringify(before.counters) : text(before));
      while (watch !== undefined) {
        await sleep(watch * 1000);
        const after = await sample(name);
        console.log(json ? JSON.stringify(after.counters) : rates(before, after));
        before = after;
      }
    });
}

function rates(before: Sample, after: Sample): string {
  const lines = (['tx', 'rx'] as const).map(direction => {
    const [a, b] = [before, after].map(({ counters }) => total(counters.queues, direction)) as [
      ReturnType<typeof total>,
      ReturnType<typeof total>,
    ];
    return rateLine(direction, a, b, after.at - before.at);
  });
  return [...lines, lossLine(after.counters.port)].filter(line => line !== '').join('\n');
}

function text({ counters }: Sample): string {
  const { queues, flow, port, ...more } = counters as ChildCounters & Record<string, unknown>;
  const rows = queues.map((queue, i) => [
    `${i} ${queue.direction}`,
    ...COLUMNS.map(column => String(queue[column])),
  ]);
  const numbers = COLUMNS.map((_, i) => i + 1);
  return [
    table([['queue', ...COLUMNS], ...rows], numbers),
    line('port', port),
    ...(flow ? [line('flow', flow)] : []),
    ...Object.entries(more).flatMap(([name, value]) =>
      typeof value === 'object' ? [] : [table([[name, String(value)]])],
    ),
  ].join('\n');
}

function line(title: string, values: object): string {
  return table([[title, ...Object.entries(values).map(([name, value]) => `${name} ${value}`)]]);
}
