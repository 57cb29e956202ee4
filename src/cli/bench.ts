/** `polynic bench`: what it costs, and against what. Every ratio is between two cases of the same run. */
import { Command } from '@commander-js/extra-typings';
import { type Group, groupsOf } from '../bench/cases.js';
import { BenchError } from '../bench/errors.js';
import type { BenchResult } from '../bench/result.js';
import { LinuxError } from '../linux/errors.js';
import { UsageError } from './host.js';

/** Namespaces or TAPs that are refused, or a kernel without them. */
const MISSING_RIGHTS: ReadonlySet<string> = new Set(['EPERM', 'EACCES', 'ENOENT', 'ENODEV']);

export function benchCommand() {
  return new Command('bench')
    .description(
      'measure the rings and their parts, upgrades, and the link beside a bare copier and a veth pair',
    )
    .argument('[case]', 'only cases whose name begins so, such as tx-sink or tap-tcp/sring')
    .option('--json', 'print an array of {case, value, unit, against, ratio}')
    .action(async (wanted = '', { json = false }) => {
      const chosen = groupsOf(wanted);
      if (chosen.length === 0) {
        const all = groupsOf('').flatMap(({ names }) => names);
        throw new UsageError(`no case "${wanted}": ${all.join('  ')}`);
      }
      const all: BenchResult[] = [];
      if (!json) console.log(row('case', 'value', 'unit', 'ratio', 'against'));
      for (const group of chosen) {
        const results = await runGroup(group);
        all.push(...results);
        if (json) continue;
        for (const { case: name, value, unit, ratio, against } of results) {
          console.log(row(name, String(value), unit, ratio === null ? '' : String(ratio), against ?? ''));
        }
      }
      if (json) console.log(JSON.stringify(all, null, 2));
    });
}

/** Cases that need rights, devices or programs which we lack are left out, and that is said. */
async function runGroup({ names, run }: Group): Promise<readonly BenchResult[]> {
  try {
    return await run(names);
  } catch (error) {
    const missing =
      error instanceof BenchError
        ? error.code === 'BENCH_MISSING'
        : error instanceof LinuxError && MISSING_RIGHTS.has(error.code);
    if (!missing) throw error;
    console.error(`polynic: ${names.join(', ')} left out: ${(error as Error).message}`);
    return [];
  }
}

function row(name: string, value: string, unit: string, ratio: string, against: string): string {
  return `${name.padEnd(42)}${value.padStart(9)} ${unit.padEnd(8)}${ratio.padStart(7)}  ${against}`.trimEnd();
}
