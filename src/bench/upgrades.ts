/**
 * How long packets wait when the contract changes: the demo's upgrades under the demo's load, one ring format after the other.
 *
 *   upgrade/blackout/p50 … p99 … max     of the longest of these three
 *          /tx  /rx                      from the last packet out to the first one, the same of packets in
 *          /stopped                      from the driver's stop to its go
 */
import { silent } from '../demo/display.js';
import type { Summary } from '../demo/histogram.js';
import { Network } from '../demo/network.js';
import { emptyReport } from '../demo/report.js';
import { runTraffic } from '../demo/traffic-run.js';
import { Upgrades } from '../demo/upgrades.js';
import { BenchError } from './errors.js';
import { type BenchResult, result } from './result.js';

const COUNT = 100;
const EVERY_S = 0.2;
/** The demo's load takes nine tenths of its time. */
const SECONDS = (COUNT * EVERY_S + 0.2) / 0.9;
const DEVICE = 'sring';

/** Throws BenchError when an upgrade was refused or a packet lost, LinuxError without the rights for namespaces. */
export async function measureUpgrades(seconds = SECONDS): Promise<BenchResult[]> {
  const report = emptyReport(DEVICE, false);
  const upgrades = new Upgrades(DEVICE, EVERY_S);
  const network = Network.create();
  try {
    await runTraffic(network, {
      ...{ device: DEVICE, spin: false, verbose: false, seconds, upgrades },
      ...{ signal: new AbortController().signal, report, display: silent },
    });
  } finally {
    network.close();
  }
  const { refused, refusals, blackout_us, tx_us, rx_us, stopped_us } = upgrades.report();
  if (refused > 0) throw new BenchError(`${refused} upgrades refused: ${refusals!.join('; ')}`);
  if (report.failures.length > 0) throw new BenchError(report.failures.join('; '));
  const times = { blackout: blackout_us, tx: tx_us, rx: rx_us, stopped: stopped_us };
  return Object.entries(times).flatMap(([what, summary]) => {
    if (!summary) throw new BenchError('no upgrade was carried out');
    return (['p50', 'p99', 'max'] as const satisfies (keyof Summary)[]).map(of =>
      result(`upgrade/${what}/${of}`, 'us', summary[of]),
    );
  });
}
