/** `--name` and `--control`: the control socket of a `serve` or `guest`, by which `ls`, `stats`, `dump` and `upgrade` find it. */
import { Option } from '@commander-js/extra-typings';
import { controlPath, isControlName, makeFolder, nameUsage } from '../observe/control/address.js';
import { type Claim, claim } from '../observe/control/claim.js';
import { ControlError, type Controlled } from '../observe/control/messages.js';
import { ControlServer } from '../observe/control/server.js';
import { type Later, UsageError } from './host.js';
import type { Log } from './log.js';

/** So many processes may have the default name, told apart by numbers. */
const MAX_NUMBER = 1000;

/** `fallback`: the name of who is not given one. */
export function nameOption(fallback: string) {
  const parse = (text: string): string => {
    if (!isControlName(text)) throw new UsageError(`--name takes ${nameUsage}, not "${text}"`);
    return text;
  };
  return new Option(
    '--name <name>',
    `the name in messages, and for ls, stats, dump and upgrade (default: "${fallback}", with a number when that is taken)`,
  ).argParser(parse);
}

export function controlOption() {
  return new Option('--control <path>', 'the control socket; none: have none (default: by the name)');
}

export interface ControlOptions {
  /** As the user gave them. */
  readonly name?: string | undefined;
  readonly control?: string | undefined;
  /** A child of another process answers that one alone. */
  readonly childOf?: number | undefined;
}

/** A claimed socket, at which nobody is answered yet. */
export interface Control {
  /** Answers from now on. */
  answer(controlled: Controlled): void;
}

/**
 * Takes the socket of this process, until the end. Where there can be none that is said, and no reason not to run; but ControlError
 * CONTROL_TAKEN is thrown when another process has the name or path that was asked for.
 */
export function openControl(options: ControlOptions, fallback: string, log: Log, later: Later): Control {
  if (options.childOf !== undefined || options.control === 'none') return { answer: () => {} };
  let claimed: Claim;
  try {
    claimed = claimSocket(options, fallback);
  } catch (error) {
    if (error instanceof ControlError && error.code === 'CONTROL_TAKEN') throw error;
    log('warn', `no control socket: ${(error as Error).message}`);
    return { answer: () => {} };
  }
  later(() => claimed.release());
  log('info', `control socket ${claimed.path}`);
  return {
    answer(controlled) {
      const lost = (error: Error) => log('warn', `the control socket is closed: ${error.message}`);
      const server = new ControlServer(claimed.listener, controlled, lost);
      later(() => {
        claimed.release(); // nobody shall come to a process that ends
        server.close();
      });
    },
  };
}

function claimSocket({ name, control }: ControlOptions, fallback: string): Claim {
  if (control !== undefined) {
    const claimed = claim(control);
    if (claimed) return claimed;
    throw new ControlError('CONTROL_TAKEN', `another process answers at ${control}`);
  }
  makeFolder();
  const candidates = name === undefined ? numbered(fallback) : [name];
  for (const candidate of candidates) {
    const claimed = claim(controlPath(candidate));
    if (claimed) return claimed;
  }
  const taken = name ?? `${fallback}-${MAX_NUMBER}`;
  throw new ControlError('CONTROL_TAKEN', `the name "${taken}" is taken: another process answers to it`);
}

function numbered(name: string): string[] {
  return [name, ...Array.from({ length: MAX_NUMBER - 1 }, (_, i) => `${name}-${i + 2}`)];
}
