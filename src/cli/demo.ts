/** `polynic demo`: a guest and its NIC, in full, on this machine, with nothing to set up and nothing left behind. */
import { spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { Command, Option } from '@commander-js/extra-typings';
import { type Display, duration, silent, tableOn } from '../demo/display.js';
import { DemoError } from '../demo/errors.js';
import { runFrames } from '../demo/frames-run.js';
import { drawn } from '../demo/histogram.js';
import { Network } from '../demo/network.js';
import { addLeaks, type DemoReport, emptyReport } from '../demo/report.js';
import { heldHere } from '../demo/run.js';
import { runTraffic } from '../demo/traffic-run.js';
import { type UpgradeReport, Upgrades } from '../demo/upgrades.js';
import { LinuxError } from '../linux/errors.js';
import { enteredUserNamespace, getAffinity, reexecInUserNamespace } from '../linux/process.js';
import { deviceTypeNames } from '../ring/registry.js';
import { UsageError, untilStopped, wholeNumber } from './host.js';

/** Of `--upgrade-every`. */
const SHORTEST_INTERVAL_S = 0.05;

export function demoCommand() {
  return new Command('demo')
    .description('run a guest and its NIC on this machine and send traffic through them')
    .addOption(new Option('--device <type>', 'the ring format').choices(deviceTypeNames).default('sring'))
    .option('--seconds <n>', 'how long the traffic takes', wholeNumber('--seconds', 1, 86_400), 10)
    .option(
      '--upgrade-every <s>',
      'change to the next ring format every so many seconds, under load',
      interval,
    )
    .addOption(
      new Option(
        '--vm',
        'with a virtual machine in QEMU, whose NIC is upgraded three times while it talks',
      ).conflicts(['device', 'seconds', 'upgradeEvery', 'spin']),
    )
    .option('--spin', 'never sleep: lowest latency, two cores always busy')
    .option('--json', 'print nothing but the results, as one JSON object')
    .option('-v, --verbose', 'say what happens')
    .action(async ({ vm, device, seconds, upgradeEvery, spin = false, json = false, verbose = false }) => {
      if (upgradeEvery !== undefined && upgradeEvery > seconds / 2) {
        throw new UsageError(
          `--upgrade-every ${upgradeEvery} leaves no time for it: at most half of --seconds ${seconds}`,
        );
      }
      const inUserNamespace = enteredUserNamespace();
      const where = findNetwork(inUserNamespace);
      if (where === 'user namespace') {
        process.exitCode = await reexecInUserNamespace();
        return;
      }
      if (vm) {
        if (!(where instanceof Network)) throw new DemoError(`no network can be made here: ${where.reason}`);
        where.close();
        return machine(json, verbose);
      }
      const report = emptyReport(device, spin);
      const display = json ? silent : tableOn(process.stdout);
      const { signal } = untilStopped();
      const upgrades = upgradeEvery === undefined ? null : new Upgrades(device, upgradeEvery);
      const options = { device, spin, verbose, seconds, upgrades, signal, report, display };
      try {
        if (where instanceof Network) {
          introduce(display, report, 'two network namespaces of this machine, joined by a NIC in userspace');
          await runTraffic(where, options).finally(() => where.close());
        } else {
          report.link = 'ports';
          report.note = where.reason;
          introduce(
            display,
            report,
            `no network can be made here (${where.reason}),\n  so numbered frames go from a source to a sink`,
          );
          await runFrames(options);
        }
      } catch (error) {
        if (signal.aborted) {
          console.error(`polynic: stopped by ${signal.reason}`);
          process.exitCode = 128 + constants.signals[signal.reason as NodeJS.Signals];
          return;
        }
        if (!(error instanceof DemoError)) throw error;
        report.failures.push(error.message);
      }
      if (upgrades) judge(report, upgrades.report());
      if (report.leaks) report.leaks = addLeaks(report.leaks, heldHere());
      conclude(display, report);
      if (json) console.log(JSON.stringify(report));
      if (report.failures.length > 0) throw new DemoError(report.failures.join('; '));
    });
}

/** `--vm`. What only it needs is loaded for it alone. */
async function machine(json: boolean, verbose: boolean): Promise<void> {
  const { runMachine } = await import('../demo/vm-run.js');
  const display = json ? silent : tableOn(process.stdout);
  const { signal } = untilStopped();
  display.line('polynic demo: a virtual machine with a bpfhv NIC, on stock QEMU');
  display.line();
  const report = await runMachine({ verbose, signal, display }).catch((error: Error) => {
    if (!signal.aborted) throw error;
    console.error(`polynic: stopped by ${signal.reason}`);
    process.exitCode = 128 + constants.signals[signal.reason as NodeJS.Signals];
    return null;
  });
  if (!report) return;
  if (json) console.log(JSON.stringify(report));
  if (report.failures.length > 0) throw new DemoError(report.failures.join('; '));
  display.line();
  display.line('  Nothing lost, nothing corrupted.');
}

/** Parses `--upgrade-every`. */
function interval(text: string): number {
  const value = Number(text);
  if (!(/^\d+(\.\d+)?$/.test(text) && value >= SHORTEST_INTERVAL_S && value <= 3600)) {
    throw new UsageError(`--upgrade-every takes seconds from ${SHORTEST_INTERVAL_S} to 3600, not "${text}"`);
  }
  return value;
}

/** The network for the traffic; or how to get one; or why there is none to be had. */
function findNetwork(inUserNamespace: boolean): Network | 'user namespace' | { reason: string } {
  try {
    return Network.create();
  } catch (error) {
    if (!(error instanceof LinuxError)) throw error;
    if (inUserNamespace || !error.call.startsWith('unshare')) return { reason: error.message };
    const reason = userNamespaceRefusal();
    return reason === null ? 'user namespace' : { reason };
  }
}

/** Why a user namespace can't be had here; null: it can. */
function userNamespaceRefusal(): string | null {
  const { error, status, stderr } = spawnSync('unshare', ['-Urn', 'true'], { encoding: 'utf8' });
  if (error) return `unshare of util-linux can't be run: ${error.message}`;
  return status === 0 ? null : (stderr.split('\n')[0] ?? `unshare ended with ${status}`);
}

function introduce(display: Display, { device, spin }: DemoReport, what: string): void {
  const cpus = getAffinity().length;
  display.line(
    `polynic demo: device ${device}, ${spin ? 'spinning' : 'poll mode'}, ${cpus} CPU${cpus === 1 ? '' : 's'}`,
  );
  display.line(`  ${what}`);
  display.line();
  display.heading();
}

/** Who upgrades promises that all of it goes through. */
function judge(report: DemoReport, upgrades: UpgradeReport): void {
  const { count, refused, refusals } = upgrades;
  report.upgrades = upgrades;
  if (refused > 0)
    report.failures.push(`${refused} of ${count + refused} upgrades refused: ${refusals!.join('; ')}`);
  else if (count === 0) report.failures.push('no upgrade was carried out');
}

function conclude(display: Display, report: DemoReport): void {
  const { leaks } = report;
  if (leaks) {
    const { fds, mappings, buffers } = leaks;
    if (fds + mappings + buffers > 0) {
      report.failures.push(`not given back: ${fds} descriptors, ${mappings} mappings, ${buffers} buffers`);
    }
  }
  display.line();
  if (report.upgrades.blackout_us) showBlackouts(display, report.upgrades);
  if (report.failures.length > 0) return; // the line on stderr says it
  const fine = report.link === 'tap' ? 'Nothing lost, nothing corrupted' : 'No frame lost';
  display.line(`  ${fine}; every descriptor, mapping and buffer was given back.`);
}

function showBlackouts(
  display: Display,
  { blackout_us, tx_us, rx_us, stopped_us, histogram }: UpgradeReport,
): void {
  const rows = {
    blackout: blackout_us,
    '  packets out': tx_us,
    '  packets in': rx_us,
    '  driver stopped': stopped_us,
  };
  for (const [name, times] of Object.entries(rows)) {
    if (!times) continue;
    const { p50, p99, max } = times;
    display.row(name, `p50 ${duration(p50)}, p99 ${duration(p99)}, longest ${duration(max)}`);
  }
  display.line();
  for (const line of drawn(histogram!)) display.line(`  ${line}`);
  display.line();
}
