/**
 * The ring alone: guest and backend as two processes that spin, each on a core of its own, numbered frames from a source to a sink.
 *
 *   tx-sink     guest: source ──► txp, txc ──► ring ──► backend: sink
 *   source-rx   backend: source ──► ring ──► rxc, rxp ──► guest: sink
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { NicPair, type Reading } from '../demo/nic-pair.js';
import { getAffinity } from '../linux/process.js';
import { BenchError } from './errors.js';
import { type BenchResult, median, result } from './result.js';

const WARM_UP_MS = 1500;
const SAMPLE_MS = 700;
const SAMPLES = 5;

/** Measures one direction. Throws BenchError when frames are out of order, or there are not two processors. */
export async function measureRing(
  device: string,
  direction: 'tx' | 'rx',
  length: number,
): Promise<BenchResult> {
  const [guest, backend] = getAffinity();
  if (guest === undefined || backend === undefined)
    throw new BenchError('two spinning processes need two processors');
  const source = `source:len=${length}`;
  const pair = new NicPair({
    device,
    spin: true,
    verbose: false,
    netdev: direction === 'tx' ? source : 'sink',
    port: direction === 'tx' ? 'sink' : source,
    cpus: { guest, backend },
  });
  const rates: number[] = [];
  try {
    await Promise.race([sleep(WARM_UP_MS), pair.broken]);
    let before = await sample(pair, direction);
    for (let i = 0; i < SAMPLES; i++) {
      await sleep(SAMPLE_MS);
      const after = await sample(pair, direction);
      rates.push((after.frames - before.frames) / (after.ms - before.ms) / 1e3);
      before = after;
    }
  } finally {
    await pair.close();
  }
  return result(`${direction === 'tx' ? 'tx-sink' : 'source-rx'}/${device}/${length}`, 'Mpps', median(rates));
}

/** What the sink has seen so far. */
async function sample(pair: NicPair, direction: 'tx' | 'rx'): Promise<{ frames: number; ms: number }> {
  const reading: Reading = await pair.read();
  const ms = performance.now();
  const flow = (direction === 'tx' ? reading.backend : reading.guest).flow;
  if (flow && flow.outOfOrder > 0) throw new BenchError(`${flow.outOfOrder} frames out of order`);
  return { frames: flow?.sequence ?? 0, ms };
}
