/** How much of the machine others used meanwhile: a rate says something about us only if it was ours. */
import { readFileSync } from 'node:fs';

/** USER_HZ: the unit of CPU times in /proc. */
const TICKS_PER_SECOND = 100;

interface Reading {
  /** Ticks of all CPUs together. */
  readonly busy: number;
  readonly total: number;
  readonly own: number;
}

export class CpuShare {
  readonly #pids: readonly number[];
  readonly #start: Reading;

  /** Begins to measure; `pids` are ours besides this process and its children that end meanwhile. */
  constructor(pids: readonly number[]) {
    this.#pids = [process.pid, ...pids];
    this.#start = this.#read();
  }

  /** What others used of all CPUs' time since the start, 0 to 1. */
  others(): number {
    const now = this.#read();
    const d = (field: keyof Reading) => now[field] - this.#start[field];
    return d('total') === 0 ? 0 : Math.max(0, d('busy') - d('own')) / d('total');
  }

  /** CPU seconds that our processes used since the start. */
  seconds(): number {
    return (this.#read().own - this.#start.own) / TICKS_PER_SECOND;
  }

  #read(): Reading {
    const times = /^cpu +(.*)$/m.exec(readFileSync('/proc/stat', 'utf8'))![1]!.split(' ').map(Number);
    const [user, nice, system, idle, ioWait, irq, softIrq, steal] = times as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const busy = user + nice + system + irq + softIrq + steal;
    const own = this.#pids.reduce((sum, pid) => sum + ticksOf(pid), 0);
    return { busy, total: busy + idle + ioWait, own };
  }
}

/** CPU seconds that a process has used, and its children that have ended. */
export function processSeconds(pid: number): number {
  return ticksOf(pid) / TICKS_PER_SECOND;
}

function ticksOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ');
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0); // utime, stime, and the children's
}
