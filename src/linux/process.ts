/** This process and its threads: which CPUs they run on, what they may do, and that children die with their parent. */
import { spawn } from 'node:child_process';
import { readFileSync, readlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { isatty } from 'node:tty';
import { check, EINVAL } from './errors.js';
import * as libc from './libc.js';

const PR_SET_PDEATHSIG = 1;
const CPU_MASK_BYTES = 128;
const CAP_NET_ADMIN = 12;
const CAP_SYS_ADMIN = 21;
const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const;

/** The kernel's id of the calling thread; that of the main thread is the process's pid. */
export function threadId(): number {
  return Number(readlinkSync('/proc/thread-self').split('/').pop());
}

/** Binds a thread (default: the calling one) to these CPUs. Throws LinuxError EINVAL when none of them exists. */
export function setAffinity(cpus: readonly number[], tid = 0): void {
  const mask = new Uint8Array(CPU_MASK_BYTES);
  const what = `CPUs ${cpus.join(',')}`;
  for (const cpu of cpus) {
    const possible = Number.isInteger(cpu) && cpu >= 0 && cpu < CPU_MASK_BYTES * 8;
    check(possible ? 0 : -EINVAL, 'sched_setaffinity', what);
    mask[cpu >> 3]! |= 1 << (cpu & 7);
  }
  check(libc.schedSetaffinity(tid, mask), 'sched_setaffinity', what);
}

/** The CPUs that a thread (default: the calling one) may run on, ascending. */
export function getAffinity(tid = 0): number[] {
  const mask = new Uint8Array(CPU_MASK_BYTES);
  check(libc.schedGetaffinity(tid, mask), 'sched_getaffinity', `thread ${tid}`);
  return Array.from({ length: CPU_MASK_BYTES * 8 }, (_, cpu) => cpu).filter(
    cpu => mask[cpu >> 3]! & (1 << (cpu & 7)),
  );
}

/**
 * Has the kernel send `signal` to this process when the thread that started it ends. Call it from the main thread, early;
 * `parentPid` is who the parent should be: if it is gone already, the process ends here.
 */
export function dieWithParent(parentPid: number, signal: NodeJS.Signals = 'SIGKILL'): void {
  check(libc.prctl(PR_SET_PDEATHSIG, constants.signals[signal]), 'prctl PR_SET_PDEATHSIG', signal);
  if (process.ppid !== parentPid) process.kill(process.pid, signal);
}

/** Whether this thread may configure networks and make namespaces: CAP_NET_ADMIN and CAP_SYS_ADMIN in effect. */
export function haveNetAdmin(): boolean {
  const status = readFileSync('/proc/thread-self/status', 'utf8');
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  const wanted = (1n << BigInt(CAP_NET_ADMIN)) | (1n << BigInt(CAP_SYS_ADMIN));
  return (effective & wanted) === wanted;
}

const USER_NAMESPACE_MARK = 'POLYNIC_USER_NAMESPACE';

/**
 * Runs this program again, with the same arguments, in a user and a network namespace of its own, where it is root
 * over the network: for unprivileged users. Input and output are shared and signals passed on. Resolves to the exit
 * code (128 + the signal's number when a signal ended it). Rejects when `unshare` (util-linux) is not installed; when
 * the machine forbids user namespaces, `unshare` says so on stderr and the code is 1.
 *
 * The program started this way must call `enteredUserNamespace()` early.
 */
export function reexecInUserNamespace(args: readonly string[] = process.argv.slice(1)): Promise<number> {
  // Without --fork, `unshare` becomes the program: the child's pid is the program's own, and signals reach it.
  const command = ['-Urn', process.execPath, ...process.execArgv, ...args];
  const env = { ...process.env, [USER_NAMESPACE_MARK]: String(process.pid) };
  return new Promise((resolve, reject) => {
    const child = spawn('unshare', command, { stdio: 'inherit', env });
    const stops = FORWARDED.map(signal => {
      // A terminal's Ctrl-C goes to the child as well: passed on, it would arrive twice.
      const forward = () => void (signal === 'SIGINT' && isatty(0) ? null : child.kill(signal));
      process.on(signal, forward);
      return () => process.off(signal, forward);
    });
    const settle = (then: () => void) => {
      for (const stop of stops) stop();
      then();
    };
    child.once('error', error => settle(() => reject(error)));
    child.once('exit', (code, signal) => settle(() => resolve(code ?? 128 + constants.signals[signal!])));
  });
}

/** Whether `reexecInUserNamespace` started this process; if so, it dies with the one that did from now on. */
export function enteredUserNamespace(): boolean {
  const parent = process.env[USER_NAMESPACE_MARK];
  if (parent === undefined) return false;
  delete process.env[USER_NAMESPACE_MARK];
  dieWithParent(Number(parent));
  return true;
}
