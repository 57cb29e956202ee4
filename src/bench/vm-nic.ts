/**
 * A bpfhv NIC in a virtual machine, as its guest sees it: the demo's machine (src/demo/vm-run.ts), measured.
 *
 *   vm-nic/first-ping            from the start of QEMU to the first answer, the guest's boot and our driver's start in it included
 *         /upgrade-blackout/p50, max   how long packets waited at its upgrades
 */
import { silent } from '../demo/display.js';
import { runMachine } from '../demo/vm-run.js';
import { BenchError } from './errors.js';
import { type BenchResult, median, result } from './result.js';

/** Throws BenchError when something was lost; VmError, DemoError where there is no QEMU, or no kernel for it. */
export async function measureVmNic(): Promise<BenchResult[]> {
  const { signal } = new AbortController();
  const { failures, first_ping_ms, blackout_ms } = await runMachine({
    verbose: false,
    signal,
    display: silent,
  });
  if (failures.length > 0) throw new BenchError(failures.join('; '));
  return [
    result('vm-nic/first-ping', 'ms', first_ping_ms),
    result('vm-nic/upgrade-blackout/p50', 'ms', median(blackout_ms)),
    result('vm-nic/upgrade-blackout/max', 'ms', Math.max(...blackout_ms)),
  ];
}
