/**
 * Our vhost-user backend beside DPDK's, with the same driver of DPDK at the other end, each on a core of its own:
 *
 * ```
 *   vhost-user/FORMAT/LENGTH/tx         testpmd txonly, virtio-user ──► ring ──► polynic serve, sink
 *                              /dpdk                                        ──► testpmd rxonly, vhost
 *                           rx         testpmd rxonly, virtio-user ◄── ring ◄── polynic serve, source
 *                              /dpdk                                        ◄── testpmd txonly, vhost
 * ```
 * What is counted is counted by that driver, whoever the backend is.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Child } from '../demo/child.js';
import { getAffinity } from '../linux/process.js';
import type { Direction } from './bed.js';
import { BenchError } from './errors.js';
import { type BenchResult, median, result } from './result.js';
import { noTestpmd, Testpmd } from './testpmd.js';

export type VirtioFormat = 'split' | 'packed';

export interface Effort {
  /** Backends in turn, so that the machine's moods hit both alike. */
  readonly rounds: number;
  readonly warmUpMs: number;
  /** In a round, of each backend. */
  readonly samples: number;
  readonly sampleMs: number;
}

const EFFORT: Effort = { rounds: 3, warmUpMs: 500, samples: 2, sampleMs: 400 };
const START_MS = 15_000;
const LOOK_MS = 10;

/** The side under test. */
interface Backend {
  /** Frames that it found to be no good. */
  faults(): Promise<number>;
  end(): Promise<unknown>;
}

interface Place {
  readonly socket: string;
  readonly cpu: number;
  readonly direction: Direction;
  readonly length: number;
}

const BACKENDS: Readonly<Record<'polynic' | 'dpdk', (place: Place) => Backend>> = {
  polynic: servePolynic,
  dpdk: ({ socket, cpu, direction, length }) => {
    const mode = direction === 'tx' ? 'rxonly' : 'txonly';
    const testpmd = new Testpmd({ role: 'vhost', socket, mode, length, cpu });
    return { faults: async () => 0, end: () => testpmd.quit() };
  },
};

/** Throws BenchError: BENCH_MISSING without testpmd, BENCH when there are not two processors or nothing moves. */
export async function measureVhostUser(
  format: VirtioFormat,
  length: number,
  direction: Direction,
  effort = EFFORT,
): Promise<BenchResult[]> {
  const missing = noTestpmd();
  if (missing) throw new BenchError(missing, 'BENCH_MISSING');
  const rates = { polynic: [] as number[], dpdk: [] as number[] };
  for (let round = 0; round < effort.rounds; round++) {
    for (const backend of ['dpdk', 'polynic'] as const)
      rates[backend].push(...(await measureOnce(backend, format, length, direction, effort)));
  }
  const name = `vhost-user/${format}/${length}/${direction}`;
  const dpdk = result(`${name}/dpdk`, 'Mpps', median(rates.dpdk));
  return [result(name, 'Mpps', median(rates.polynic), dpdk), dpdk];
}

/** Some samples with a backend that is started for them, Mpps. */
async function measureOnce(
  kind: keyof typeof BACKENDS,
  format: VirtioFormat,
  length: number,
  direction: Direction,
  { warmUpMs, samples, sampleMs }: Effort,
): Promise<number[]> {
  const [driverCpu, cpu] = getAffinity();
  if (driverCpu === undefined || cpu === undefined)
    throw new BenchError('two spinning processes need two processors');
  const folder = mkdtempSync(join(tmpdir(), 'polynic-bench-'));
  const socket = join(folder, 'nic.sock');
  const backend = BACKENDS[kind]({ socket, cpu, direction, length });
  let driver: Testpmd | null = null;
  try {
    await until(() => existsSync(socket), `a ${kind} backend to listen`);
    driver = new Testpmd({
      ...{ socket, length, cpu: driverCpu, mode: direction === 'tx' ? 'txonly' : 'rxonly' },
      device: format === 'packed' ? 'packed_vq=1' : '',
    });
    await driver.says(/packet forwarding/);
    await sleep(warmUpMs);
    const rates: number[] = [];
    let before = await sample(driver, direction);
    for (let i = 0; i < samples; i++) {
      await sleep(sampleMs);
      const after = await sample(driver, direction);
      if (after.frames === before.frames) throw new BenchError(`no frames with ${kind}:\n${driver.output}`);
      rates.push((after.frames - before.frames) / (after.ms - before.ms) / 1e3);
      before = after;
    }
    const faults = await backend.faults();
    if (faults > 0) throw new BenchError(`${kind} counts ${faults} frames that were no good`);
    await driver.quit();
    return rates;
  } finally {
    await driver?.kill();
    await backend.end();
    rmSync(folder, { recursive: true, force: true });
  }
}

function servePolynic({ socket, cpu, direction, length }: Place): Backend {
  const port = direction === 'tx' ? 'sink' : `source:len=${length}`;
  const args = ['serve', '--vhost-user', socket, '--port', port, '--spin', '--control', 'none'];
  const child = new Child({ name: 'backend', args, cpu, verbose: false });
  return {
    async faults() {
      const { queues } = await child.counters();
      return queues.reduce((sum, { errors, dropped }) => sum + errors + dropped, 0);
    },
    end: () => child.stop(),
  };
}

async function sample(driver: Testpmd, direction: Direction): Promise<{ frames: number; ms: number }> {
  const { sent, received } = await driver.counts();
  return { frames: direction === 'tx' ? sent : received, ms: performance.now() };
}

async function until(condition: () => boolean, what: string): Promise<void> {
  const limit = performance.now() + START_MS;
  while (!condition()) {
    if (performance.now() > limit)
      throw new BenchError(`waited for ${what}: nothing for ${START_MS / 1000} s`);
    await sleep(LOOK_MS);
  }
}
