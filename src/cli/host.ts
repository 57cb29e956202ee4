/** What every command that moves frames begins and ends with: memory, signals, pid file, exit codes. */
import { rmSync, writeFileSync } from 'node:fs';
import { Option } from '@commander-js/extra-typings';
import { Arena } from '../memory/arena.js';
import { Window } from '../memory/window.js';

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

/** Runs `action`; whatever happens, the steps that it gave to `later` are done then, the last one first. */
export async function cleaningUp(action: (later: Later) => Promise<void>): Promise<void> {
  const steps: (() => unknown)[] = [];
  try {
    await action(step => steps.unshift(step));
  } finally {
    for (const step of steps) await step();
  }
}

/** What the user asked for can't be: one line on stderr, exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly code = 'USAGE';
}

/** A signal that aborts on SIGINT, SIGTERM and SIGHUP; a second one ends the process at once. */
export function untilStopped(): AbortController {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (controller.signal.aborted) process.exit(1);
      controller.abort(signal);
    });
  }
  return controller;
}

/** Writes our process id; the file goes when the returned function is called. */
export function writePidfile(path: string | undefined): () => void {
  if (path === undefined) return () => {};
  try {
    writeFileSync(path, `${process.pid}\n`);
  } catch (error) {
    throw new Error(`can't write the pid file: ${(error as Error).message}`);
  }
  return () => rmSync(path, { force: true });
}

/** `--child-of PID`: see parent.ts. Of no use at a shell, so not in the help. */
export function childOf() {
  const parse = wholeNumber('--child-of', 1, 0x7fff_ffff);
  return new Option('--child-of <pid>', 'die with that process and report to it').argParser(parse).hideHelp();
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
