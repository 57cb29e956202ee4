/** `polynic serve`: a NIC backend for one guest. */
import { Command } from '@commander-js/extra-typings';
import { Backend } from './backend.js';
import { childOf, cleaningUp, createHost, untilStopped, wholeNumber, writePidfile } from './host.js';
import { createLog } from './log.js';
import { DEFAULT_NAME, nicOptions, readNicOptions } from './nic-options.js';
import { answerParent } from './parent.js';
import { whenAborted } from './peers.js';
import { printStats } from './stats.js';

export function serveCommand() {
  return nicOptions(new Command('serve'))
    .description('be the backend of a virtual NIC: process its queues and join them to a port')
    .option(
      '--stats [seconds]',
      'print rates every so many seconds (2 when not said)',
      wholeNumber('--stats', 1, 3600),
    )
    .option('--pidfile <file>', 'write the process id there')
    .option('-v, --verbose', 'say what happens')
    .addOption(childOf())
    .action((options, command) =>
      cleaningUp(async later => {
        const nic = readNicOptions(command);
        const log = createLog(options.name ?? DEFAULT_NAME, options.verbose ?? false);
        const stop = untilStopped();
        const host = createHost();
        let goodbye = (): void => {};
        later(() => goodbye());
        const leave = () => stop.abort('SIGTERM');
        const backend = await Backend.open({ ...nic, childOf: options.childOf, leave }, host, log);
        later(() => backend.close());
        later(writePidfile(options.pidfile));
        later(printStats(options.stats, () => backend.queues, { counters: () => backend.portCounters() }));
        const report = answerParent(options.childOf, backend.controlled);
        goodbye = () => report(host.arena.live);
        whenAborted(stop.signal, () => void backend.stop());
        await backend.run();
      }),
    );
}
