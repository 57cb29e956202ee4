/**
 * TCP of a Linux guest through polynic, beside QEMU's own TAP backend in the same machine: a guest with two NICs that take turns.
 *
 * ```
 *   guest   eth0 ── vhost-user ── polynic serve ── TAP     iperf3 at both ends
 *           eth1 ── QEMU itself ────────────────── TAP
 *
 *   vm-tcp/FORMAT/to-guest                Gbit/s; FORMAT: the rings of both NICs
 *                         /cpu            CPU seconds of QEMU and backend together, for each gigabyte
 *                         /cpu-backend    of the backend's process alone
 * ```
 * The machine is that of the tests (test/vm/kit), which are not in the package: these cases are for who has the source.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { BenchError } from './errors.js';
import { type BenchResult, median, result } from './result.js';
import type { VirtioFormat } from './vhost-user.js';

const MACHINE = fileURLToPath(new URL('../..', import.meta.url)).concat('test/vm/kit/tcp-bench.js');
const LIMIT_MS = 300_000;

export const WAYS = ['to-guest', 'to-host'] as const;
export type Way = (typeof WAYS)[number];

/** One transfer, as test/vm/kit/tcp-bench.ts prints them. */
export interface VmSample {
  readonly nic: 'polynic' | 'tap';
  readonly way: Way;
  readonly bytes: number;
  readonly seconds: number;
  /** CPU seconds that the processes took meanwhile. */
  readonly cpu: { readonly qemu: number; readonly backend: number };
}

/** What that program prints: samples, or what it lacks. */
export type VmReport = { readonly samples: readonly VmSample[] } | { readonly missing: string };

/** Throws BenchError: BENCH_MISSING where no such machine can be had, BENCH when it fails. */
export async function measureVmTcp(format: VirtioFormat, ways: readonly Way[]): Promise<BenchResult[]> {
  if (!existsSync(MACHINE))
    throw new BenchError('virtual machines are for who has the source', 'BENCH_MISSING');
  const report = await run([MACHINE, format, ...ways]);
  if ('missing' in report) throw new BenchError(report.missing, 'BENCH_MISSING');
  return ways.flatMap(way => {
    const of = (nic: VmSample['nic'], value: (sample: VmSample) => number) =>
      median(report.samples.filter(sample => sample.nic === nic && sample.way === way).map(value));
    const rate = ({ bytes, seconds }: VmSample) => (bytes * 8) / seconds / 1e9;
    const perGigabyte = (seconds: number, { bytes }: VmSample) => (seconds * 1e9) / bytes;
    const all = (sample: VmSample) => perGigabyte(sample.cpu.qemu + sample.cpu.backend, sample);
    const own = (sample: VmSample) => perGigabyte(sample.cpu.backend, sample);
    const name = `vm-tcp/${format}/${way}`;
    const tap = result(`${name}/tap`, 'Gbit/s', of('tap', rate));
    const tapCpu = result(`${name}/tap/cpu`, 's/GB', of('tap', all));
    return [
      result(name, 'Gbit/s', of('polynic', rate), tap),
      tap,
      result(`${name}/cpu`, 's/GB', of('polynic', all), tapCpu),
      result(`${name}/cpu-backend`, 's/GB', of('polynic', own)),
      tapCpu,
    ];
  });
}

/** In a process of its own: a machine that can't be ended takes nobody with it. */
async function run(words: readonly string[]): Promise<VmReport> {
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'pipe'], timeout: LIMIT_MS });
  let [output, complaints] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', text => void (output += text));
  child.stderr.setEncoding('utf8').on('data', text => void (complaints += text));
  const how = await new Promise(resolve => child.once('close', (code, signal) => resolve(signal ?? code)));
  if (how !== 0) throw new BenchError(`the virtual machine's process ended with ${how}: ${complaints}`);
  return JSON.parse(output) as VmReport;
}
