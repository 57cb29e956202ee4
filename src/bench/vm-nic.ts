/**
 * A bpfhv NIC in a virtual machine, as its guest sees it: the demo's machine (src/demo/vm-run.ts), measured.
 *
 *   vm-nic/first-ping            from the start of QEMU to the first answer, the guest's boot and our driver's start in it included
 *         /upgrade-blackout/p50, max   how long packets waited at its upgrades
 */
import { silent } from '../demo/display.js';
import { runMachine } from '../demo/vm-run.js';
import { missingFor } from '../vm/needs.js';
import { BenchError } from './errors.js';
import { type BenchResult, median, result } from './result.js';

/** Throws BenchError: BENCH_MISSING where there is no QEMU, or no kernel for a guest; otherwise when something was lost. */
export async function measureVmNic(): Promise<BenchResult[]> {
  const missing = missingFor('11.1', { vfioUser: true });
  if (missing) throw new BenchError(missing, 'BENCH_MISSING');
  const { signal } = new AbortController();
  const { failures, first_ping_ms, blackout_ms } = await runMachine({
    verbose: false,
    signal,
    display: silent,
  });
  if (failures.length > 0) throw new BenchError(failures.join('; '));
  if (blackout_ms.length === 0) throw new BenchError('no packet came after an upgrade');
  return [
    result('vm-nic/first-ping', 'ms', first_ping_ms),
    result('vm-nic/upgrade-blackout/p50', 'ms', median(blackout_ms)),
    result('vm-nic/upgrade-blackout/max', 'ms', Math.max(...blackout_ms)),
  ];
}
