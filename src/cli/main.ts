/** The command line: its commands, and how errors become exit codes (2: usage, 1: failure). */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, type CommandUnknownOpts } from '@commander-js/extra-typings';

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const USAGE_CODES = new Set(['USAGE', 'PORT_SPEC', 'ERR_ADDRESS', 'CONFIG_INVALID']);

/** The commands, in the order of the help; each module is loaded when it is wanted. */
const COMMANDS: ReadonlyMap<string, () => Promise<CommandUnknownOpts>> = new Map([
  ['demo', async () => (await import('./demo.js')).demoCommand() as CommandUnknownOpts],
  ['serve', async () => (await import('./serve.js')).serveCommand() as CommandUnknownOpts],
  ['guest', async () => (await import('./guest.js')).guestCommand() as CommandUnknownOpts],
  ['vm', async () => (await import('./vm.js')).vmCommand() as CommandUnknownOpts],
  ['ls', async () => (await import('./ls.js')).lsCommand() as CommandUnknownOpts],
  ['stats', async () => (await import('./stats-command.js')).statsCommand() as CommandUnknownOpts],
  ['dump', async () => (await import('./dump.js')).dumpCommand() as CommandUnknownOpts],
  ['upgrade', async () => (await import('./upgrade.js')).upgradeCommand() as CommandUnknownOpts],
  ['ebpf', async () => (await import('./ebpf.js')).ebpfCommand() as CommandUnknownOpts],
  ['bench', async () => (await import('./bench.js')).benchCommand() as CommandUnknownOpts],
]);

/** These move packets whether or not somebody still reads what they print; any other command has nothing left to do then. */
const GO_ON_UNREAD: ReadonlySet<string> = new Set(['serve', 'guest', 'vm']);

/** Runs the command that `argv` (as process.argv) names, and sets the process's exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  const debug = argv.includes('--debug');
  const command = argv[2] === 'help' ? argv[3] : argv[2];
  let goOnUnread = false;
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') reportOutput(error);
    else if (!goOnUnread) process.exit();
  });
  process.stderr.on('error', () => {}); // there is nowhere left to say it
  try {
    const program = new Command('polynic')
      .description('Network cards for virtual machines, in userspace.')
      .version(version)
      .option('--debug', 'show where errors come from')
      .exitOverride()
      .configureOutput({ writeErr: () => {} })
      .showSuggestionAfterError()
      .hook('preAction', (_, running) => {
        goOnUnread = GO_ON_UNREAD.has(running.name());
      });
    for (const [name, load] of COMMANDS) {
      // Loading all of them takes longer than most commands run; --help wants all.
      if (COMMANDS.has(command ?? '') && name !== command) continue;
      program.addCommand((await load()).exitOverride().configureOutput({ writeErr: () => {} }));
    }
    await program.parseAsync(argv as string[]);
  } catch (error) {
    process.exitCode = report(error as Error & { code?: string }, command, debug);
  }
}

/** One line on stderr. Returns the exit code. */
function report(error: Error & { code?: string }, command: string | undefined, debug: boolean): number {
  if (error instanceof CommanderError && error.exitCode === 0) return 0; // --help, --version
  if (error instanceof CommanderError && error.code === 'commander.help') error.message = noCommand(command);
  const usage = error instanceof CommanderError || USAGE_CODES.has(error.code ?? '');
  const text = debug
    ? (error.stack ?? error.message)
    : error.message.replace(/\n\((Did you mean .*)\)$/, '. $1').split('\n')[0];
  console.error(`polynic: ${text?.replace(/^error: /, '')}`);
  return usage ? 2 : 1;
}

/** What to say where a command is missing: there is none, it needs another behind it, or help was asked on one that there is not. */
function noCommand(command: string | undefined): string {
  if (command === undefined || command.startsWith('-')) {
    return 'no command given: `polynic demo` shows what this is, `polynic --help` lists the commands';
  }
  if (COMMANDS.has(command)) return `${command} needs a command: \`polynic ${command} --help\` lists them`;
  return `unknown command '${command}'`;
}

/** stdout can't be written: said once, and the command has failed. */
function reportOutput(error: Error): void {
  if (process.exitCode !== 1) console.error(`polynic: stdout: ${error.message}`);
  process.exitCode = 1;
}
