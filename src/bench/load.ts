/**
 * What a contract costs before its first packet: verifying and compiling all programs of a device, in processes that have never seen them.
 *
 *   load/TYPE/verify   load/TYPE/jit   ms, medians over fresh processes
 *   load/TYPE/guards                   accesses that are checked while programs run, beside as many as would be without a proof
 */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { DeviceType } from '../ring/ring.js';
import { bpfhvBed } from './bed.js';
import type { Loaded } from './load-once.js';
import { compileAllGuarded, loadAsDriver } from './programs.js';
import { type BenchResult, median, result } from './result.js';

const SAMPLES = 5;
const LIMIT_MS = 30_000;
const ONCE = fileURLToPath(new URL('./load-once.js', import.meta.url));

export async function measureLoad(device: DeviceType): Promise<BenchResult[]> {
  using bed = bpfhvBed(device, 'tx', 60);
  const { contextSize, num, stackBase } = bed.place;
  const samples: Loaded[] = [];
  for (let i = 0; i < SAMPLES; i++) {
    const args = [ONCE, device.name, ...[contextSize, num, stackBase].map(String)];
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: LIMIT_MS });
    samples.push(JSON.parse(stdout));
  }
  const name = `load/${device.name}`;
  const { reports } = await loadAsDriver(device, bed.place);
  const unproved = result(`${name}/guards-unproved`, 'guards', compileAllGuarded(device, bed.place).guards);
  return [
    result(`${name}/verify`, 'ms', median(samples.map(({ verifyMs }) => verifyMs))),
    result(`${name}/jit`, 'ms', median(samples.map(({ compileMs }) => compileMs))),
    result(
      `${name}/guards`,
      'guards',
      reports.reduce((sum, { guards }) => sum + guards, 0),
      unproved,
    ),
    unproved,
  ];
}
