/** `polynic demo`: a guest and its NIC, in full, on this machine, with nothing to set up and nothing left behind. */
import { spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { Command, Option } from '@commander-js/extra-typings';
import { type Display, silent, tableOn } from '../demo/display.js';
import { DemoError } from '../demo/errors.js';
import { runFrames } from '../demo/frames-run.js';
import { Network } from '../demo/network.js';
import { addLeaks, type DemoReport, emptyReport } from '../demo/report.js';
import { heldHere } from '../demo/run.js';
import { runTraffic } from '../demo/traffic-run.js';
import { LinuxError } from '../linux/errors.js';
import { enteredUserNamespace, getAffinity, reexecInUserNamespace } from '../linux/process.js';
import { deviceTypeNames } from '../ring/registry.js';
import { untilStopped, wholeNumber } from './host.js';

export function demoCommand() {
  return new Command('demo')
    .description('run a guest and its NIC on this machine and send traffic through them')
    .addOption(new Option('--device <type>', 'the ring format').choices(deviceTypeNames).default('sring'))
    .option('--seconds <n>', 'how long the traffic takes', wholeNumber('--seconds', 1, 86_400), 10)
    .option('--spin', 'never sleep: lowest latency, two cores always busy')
    .option('--json', 'print nothing but the results, as one JSON object')
    .option('-v, --verbose', 'say what happens')
    .action(async ({ device, seconds, spin = false, json = false, verbose = false }) => {
      const inUserNamespace = enteredUserNamespace();
      const where = findNetwork(inUserNamespace);
      if (where === 'user namespace') {
        process.exitCode = await reexecInUserNamespace();
        return;
      }
      const report = emptyReport(device, spin);
      const display = json ? silent : tableOn(process.stdout);
      const { signal } = untilStopped();
      const options = { device, spin, verbose, seconds, signal, report, display };
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
      if (report.leaks) report.leaks = addLeaks(report.leaks, heldHere());
      conclude(display, report);
      if (json) console.log(JSON.stringify(report));
      if (report.failures.length > 0) throw new DemoError(report.failures.join('; '));
    });
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

function conclude(display: Display, report: DemoReport): void {
  const { leaks } = report;
  if (leaks) {
    const { fds, mappings, buffers } = leaks;
    if (fds + mappings + buffers > 0) {
      report.failures.push(`not given back: ${fds} descriptors, ${mappings} mappings, ${buffers} buffers`);
    }
  }
  display.line();
  if (report.failures.length > 0) return; // the line on stderr says it
  const fine = report.link === 'tap' ? 'Nothing lost, nothing corrupted' : 'No frame lost';
  display.line(`  ${fine}; every descriptor, mapping and buffer was given back.`);
}
