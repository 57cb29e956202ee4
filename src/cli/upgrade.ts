/** `polynic upgrade NAME`: changes a NIC under its running guest. */
import { resolve } from 'node:path';
import { Command, Option } from '@commander-js/extra-typings';
import { MAX_BUFS, MIN_BUFS } from '../nic/limits.js';
import { ask } from '../observe/control/client.js';
import { ControlError, printable, type UpgradeReport } from '../observe/control/messages.js';
import { NAME_ARGUMENT } from './asking.js';
import { deviceNames } from './device.js';
import { powerOfTwo, UsageError, wholeNumber } from './host.js';
import { offloadHelp, offloads } from './offload.js';

/** Longer than the process at the other end waits for its guest. */
const PATIENCE_S = 20;

export function upgradeCommand() {
  return new Command('upgrade')
    .description('change the ring format, the port or the offloads of a NIC under its running guest')
    .argument(...NAME_ARGUMENT)
    .option('--device <type>', 'the new ring format, as for serve', deviceWord)
    .option('--port <spec>', 'the new port')
    .option('--offload <list>', `the new ${offloadHelp}`, checkedOffloads)
    .option('--bufs <n>', 'descriptors per queue, of a PCI device', powerOfTwo('--bufs', MIN_BUFS, MAX_BUFS))
    .addOption(new Option('--spin', 'from now on never sleep').conflicts('poll'))
    .option('--poll', 'from now on sleep when there is nothing to do')
    .option(
      '--timeout <seconds>',
      'the guest may take so long (10 when not said)',
      wholeNumber('--timeout', 1, 3600),
    )
    .option('--json', 'print {outcome, from, to, ms}')
    .action(async (name, { device, port, offload, bufs, spin, poll, timeout, json = false }) => {
      const wish = {
        ...(device === undefined ? {} : { device }),
        ...(port === undefined ? {} : { port }),
        ...(offload === undefined ? {} : { offload }),
        ...(bufs === undefined ? {} : { bufs }),
        ...(spin || poll ? { spin: spin === true } : {}),
      };
      if (Object.keys(wish).length === 0) {
        throw new UsageError(
          'upgrade to what? --device, --port, --offload, --bufs, --spin or --poll says it',
        );
      }
      const request = { op: 'upgrade', ...wish, ...(timeout === undefined ? {} : { timeout }) } as const;
      const answer = await ask(name, request, { timeoutMs: ((timeout ?? 0) + PATIENCE_S) * 1000 });
      const report = answer as UpgradeReport;
      if (typeof report.ms !== 'number') throw new ControlError('CONTROL_ANSWER', 'the answer is no report');
      console.log(json ? JSON.stringify(report) : printable(sentence(name, report)));
    });
}

/** A word that every polynic knows, or the path of a module, which the other process must find from where it runs. */
function deviceWord(text: string): string {
  if (deviceNames.includes(text)) return text;
  if (text.includes('/') || text.includes('.')) return resolve(text);
  throw new UsageError(`there is no device type "${text}": write ${deviceNames.join(', ')} or a path`);
}

/** The words as they are, once they are known to make sense. */
function checkedOffloads(text: string): string {
  offloads(text);
  return text;
}

function sentence(name: string, { outcome, from, to, ms }: UpgradeReport): string {
  const change = from === to ? `changed, still ${to}` : `from ${from} to ${to}`;
  return outcome === 'done'
    ? `${name}: ${change}, in ${ms.toFixed(1)} ms`
    : `${name}: ${change}, for the next guest: none is there now`;
}
