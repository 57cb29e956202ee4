/** Messages for the operator, on stderr: a line each, `12:34:56.789 warn guest: text`, or JSON with POLYNIC_LOG=json. */
import { writeSync } from 'node:fs';
import { pino } from 'pino';

export type Level = 'debug' | 'info' | 'warn' | 'error';
export type Log = (level: Level, message: string) => void;

const STDERR = 2;

/** A log whose lines begin with `name`. `verbose` shows info, else only warnings and errors. Written at once: nothing is lost at exit. */
export function createLog(name: string, verbose: boolean): Log {
  const json = process.env.POLYNIC_LOG === 'json';
  const logger = pino(
    { name, base: { name }, level: verbose ? 'debug' : 'warn' },
    { write: (line: string) => writeAll(json ? line : `${humanLine(line)}\n`) },
  );
  return (level, message) => logger[level](message);
}

function humanLine(line: string): string {
  const { level, time, name, msg } = JSON.parse(line) as {
    level: number;
    time: number;
    name: string;
    msg: string;
  };
  const clock = new Date(time).toISOString().slice(11, 23);
  return `${clock} ${pino.levels.labels[level]} ${name}: ${msg}`;
}

/** A closed or full stderr must not end a process that moves packets. */
function writeAll(text: string): void {
  try {
    writeSync(STDERR, text);
  } catch {}
}

/**
 * The same log for messages that a peer can cause at will: at most `most` of them in any second; the next one that passes is
 * preceded by how many did not.
 */
export function sparing(log: Log, most = 20): Log {
  let second = 0;
  let passed = 0;
  let leftOut = 0;
  return (level, message) => {
    const now = Math.floor(performance.now() / 1000);
    if (now !== second) passed = 0;
    second = now;
    if (passed >= most) {
      leftOut++;
      return;
    }
    passed++;
    if (leftOut > 0) log(level, `${leftOut} messages like the next one were left out`);
    leftOut = 0;
    log(level, message);
  };
}
