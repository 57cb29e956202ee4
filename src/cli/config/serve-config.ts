/** `polynic serve --config FILE`: the NICs of a file, each in a process of its own unless a switch joins them; SIGHUP has the file read again. */
import { cleaningUp, untilStopped, writePidfile } from '../host.js';
import { createLog } from '../log.js';
import { whenAborted } from '../peers.js';
import { ConfigDocument } from './document.js';
import { ConfigError } from './errors.js';
import { MemberProcess } from './member-process.js';
import { readNics } from './nics.js';
import { Supervisor } from './supervisor.js';

const STAYS_MS = 3_600_000;

export interface ServeConfigOptions {
  readonly pidfile: string | undefined;
  readonly verbose: boolean;
}

/** Runs until SIGINT or SIGTERM. Rejects with ConfigError when the file is no good to begin with. */
export function serveConfig(path: string, { pidfile, verbose }: ServeConfigOptions): Promise<void> {
  return cleaningUp(async later => {
    const stop = untilStopped(['SIGINT', 'SIGTERM']);
    let wantsAgain = (): void => {};
    process.on('SIGHUP', () => wantsAgain());
    const nics = readNics(ConfigDocument.read(path));
    const log = createLog('serve', verbose);
    const start = (what: string, events: ConstructorParameters<typeof MemberProcess>[2]): MemberProcess =>
      new MemberProcess(what, verbose, events);
    const supervisor = new Supervisor({ start, log });
    later(() => supervisor.stop());
    later(writePidfile(pidfile));

    const apply = async (wanted: typeof nics): Promise<void> => {
      log('info', `${path} is applied: ${await supervisor.apply(wanted)}`);
    };
    wantsAgain = () => {
      try {
        void apply(readNics(ConfigDocument.read(path)));
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error;
        log('error', `everything stays as it is: ${error.message}`);
      }
    };
    void apply(nics);
    // Without NICs there is nothing else to stay for.
    const stays = setInterval(() => {}, STAYS_MS);
    later(() => clearInterval(stays));
    await new Promise<void>(resolve => whenAborted(stop.signal, resolve));
  });
}

/** `--check`: says what there would be; or, on stderr, everything that is wrong. Returns whether the file is good. */
export function checkConfig(path: string): boolean {
  try {
    const nics = readNics(ConfigDocument.read(path));
    const processes = new Set(nics.map(({ process }) => process));
    console.log(`${path}: ${count(nics.length, 'NIC')} in ${count(processes.size, 'process', 'es')}`);
    return true;
  } catch (error) {
    if (!(error instanceof ConfigError) || error.code !== 'CONFIG_INVALID') throw error;
    for (const problem of error.problems) console.error(`polynic: ${problem}`);
    return false;
  }
}

function count(n: number, what: string, plural = 's'): string {
  return `${n} ${what}${n === 1 ? '' : plural}`;
}
