/** `polynic serve`: a NIC backend for one guest. */
import { Command, Option } from '@commander-js/extra-typings';
import { Backend } from './backend.js';
import {
  childOf,
  cleaningUp,
  createHost,
  UsageError,
  untilStopped,
  wholeNumber,
  writePidfile,
} from './host.js';
import { createLog } from './log.js';
import { DEFAULT_NAME, nicOptions, readNicOptions } from './nic-options.js';
import { answerParent } from './parent.js';
import { whenAborted } from './peers.js';
import { printStats } from './stats.js';

/** Everything else is said in the file. */
const WITH_CONFIG: ReadonlySet<string> = new Set(['--config', '--check', '--pidfile', '--verbose']);

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
    .option(
      '--config <file>',
      'serve the NICs of this file instead; SIGHUP has it read again (docs/config.md)',
    )
    .option('--check', 'with --config: only say what is wrong with the file')
    .addOption(childOf())
    .addOption(new Option('--members <what>', 'serve what that process says').hideHelp())
    .action((options, command) => {
      const { config, check = false, members, childOf: parent, pidfile, verbose = false } = options;
      if (members !== undefined && parent !== undefined) return serveMembers(parent, verbose);
      if (config !== undefined) {
        const given = command.options.filter(
          option => command.getOptionValueSource(option.attributeName()) === 'cli',
        );
        const other = given.find(({ long }) => !WITH_CONFIG.has(long!));
        if (other) throw new UsageError(`${other.long} does not go with --config: write it into the file`);
        return serveFile(config, check, { pidfile, verbose });
      }
      if (check) throw new UsageError('--check belongs to --config FILE');
      return cleaningUp(async later => {
        const nic = readNicOptions(command);
        const log = createLog(options.name ?? DEFAULT_NAME, verbose);
        const stop = untilStopped();
        const host = createHost();
        let goodbye = (): void => {};
        later(() => goodbye());
        const leave = () => stop.abort('SIGTERM');
        const backend = await Backend.open({ ...nic, childOf: parent, leave }, host, log);
        later(() => backend.close());
        later(writePidfile(pidfile));
        later(printStats(options.stats, () => backend.queues, { counters: () => backend.portCounters() }));
        const report = answerParent(parent, backend.controlled);
        goodbye = () => report(host.arena.live);
        whenAborted(stop.signal, () => void backend.stop());
        await backend.run();
      });
    });
}

/** What only `--config` needs is loaded for it alone. */
async function serveFile(
  path: string,
  check: boolean,
  options: { readonly pidfile: string | undefined; readonly verbose: boolean },
): Promise<void> {
  const { checkConfig, serveConfig } = await import('./config/serve-config.js');
  if (!check) return serveConfig(path, options);
  if (!checkConfig(path)) process.exitCode = 2;
}

async function serveMembers(parent: number, verbose: boolean): Promise<void> {
  const { runMembers } = await import('./config/members.js');
  return runMembers(parent, verbose);
}
