/** What every command that moves frames begins and ends with: memory, signals, pid file, exit codes. */
import { lstatSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Option } from '@commander-js/extra-typings';
import { Arena } from '../memory/arena.js';
import { Window } from '../memory/window.js';
import { MAX_WORKERS } from '../nic/crew.js';

const SAME_WISH_MS = 1000;

export interface Host {
  readonly window: Window;
  readonly arena: Arena;
}

export function createHost(): Host {
  const window = Window.create();
  return { window, arena: new Arena(window) };
}

/** Registers a step to be done at the end. */
export type Later = (step: () => unknown) => void;

/** Steps that undo what was done, each given where that was done. */
export class Undo {
  readonly #steps: (() => unknown)[] = [];
  readonly later: Later = step => void this.#steps.unshift(step);

  /** Does all of them, the last one first, whatever fails. Rejects with what failed first. */
  async run(): Promise<void> {
    const failures: unknown[] = [];
    for (const step of this.#steps.splice(0)) {
      try {
        await step();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  }
}

/** Runs `action`; whatever happens, the steps that it gave to `later` are done then, all of them, the last one first. Rejects with what failed first. */
export async function cleaningUp(action: (later: Later) => Promise<void>): Promise<void> {
  const undo = new Undo();
  try {
    await action(undo.later);
  } catch (error) {
    await undo.run().catch(() => {}); // what came of it is not what the user is to hear
    throw error;
  }
  await undo.run();
}

/** What the user asked for can't be: one line on stderr, exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly code = 'USAGE';
}

/**
 * A signal that aborts on SIGINT, SIGTERM and SIGHUP, or those given; a second one, a second later or more, kills the process, since a peer
 * that blocks a worker in a system call would make any other end wait. One within that second is the same wish: `timeout`, npm and a terminal's ^C reach us twice.
 */
export function untilStopped(
  signals: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'],
): AbortController {
  const controller = new AbortController();
  let stoppedAt = 0;
  for (const signal of signals) {
    process.on(signal, () => {
      if (!controller.signal.aborted) stoppedAt = performance.now();
      else if (performance.now() - stoppedAt >= SAME_WISH_MS) process.kill(process.pid, 'SIGKILL');
      controller.abort(signal);
    });
  }
  return controller;
}

/** Writes our process id; the file goes when the returned function is called, if it is a file that still names us. */
export function writePidfile(path: string | undefined): () => void {
  if (path === undefined) return () => {};
  const text = `${process.pid}\n`;
  try {
    writeFileSync(path, text);
  } catch (error) {
    throw new Error(`can't write the pid file: ${(error as Error).message}`);
  }
  return () => {
    const regular = lstatSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
    if (regular && readFileSync(path, 'latin1') === text) rmSync(path);
  };
}

/** `--child-of PID`: see parent.ts. Of no use at a shell, so not in the help. */
export function childOf() {
  const parse = wholeNumber('--child-of', 1, 0x7fff_ffff);
  return new Option('--child-of <pid>', 'die with that process and report to it').argParser(parse).hideHelp();
}

/** `--workers N`, of `serve` and `guest`. */
export function workersOption() {
  const help =
    'worker threads that the queue pairs are dealt out to; fewer when queues or port have no work for so many';
  return new Option('--workers <n>', help).argParser(wholeNumber('--workers', 1, MAX_WORKERS)).default(1);
}

/** Parses a whole number in a range, for commander. Throws UsageError. */
export function wholeNumber(option: string, min: number, max: number): (text: string) => number {
  return text => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new UsageError(`${option} takes a whole number from ${min} to ${max}, not "${text}"`);
    }
    return value;
  };
}

/** A power of two in a range. Throws UsageError. */
export function powerOfTwo(option: string, min: number, max: number): (text: string) => number {
  return text => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max || (value & (value - 1)) !== 0) {
      throw new UsageError(`${option} takes a power of two from ${min} to ${max}, not "${text}"`);
    }
    return value;
  };
}
