/**
 * `serve` or `guest` as a child process of the demo: this same program, started again. What is said between the two is in
 * src/cli/parent.ts. The child dies with us, and its end is ours to explain: `ended` rejects when it goes unasked.
 */
import { type ChildProcessByStdio, type StdioOptions, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { getAffinity, setAffinity } from '../linux/process.js';
import type { ChildCounters, Leaks } from '../observe/child-report.js';
import { DemoError } from './errors.js';

const PROGRAM = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));
const END_LIMIT_MS = 10_000;
/** What the child finds our end of the conversation under: `fd:3`. */
export const SOCKET = 'fd:3';

/** What became of a request. */
export type Reply =
  | { readonly ok: object }
  | { readonly error: { readonly code: string; readonly message: string } };

export interface ChildOptions {
  /** For messages: `backend`, `guest`. */
  readonly name: string;
  /** Behind `node bin/polynic.js`. */
  readonly args: readonly string[];
  /** A connected socket, for the child's fd 3; stays open here. Default: none. */
  readonly socket?: number;
  /** The processor that it stays on, with all its threads; default: wherever the kernel likes. */
  readonly cpu?: number;
  /** Its messages go to our stderr as they come. */
  readonly verbose: boolean;
}

export class Child {
  readonly name: string;
  readonly pid: number;
  readonly #process: ChildProcessByStdio<Writable, Readable, Readable | null>;
  readonly #exited: Promise<string>;
  readonly #waiting: ((counters: ChildCounters) => void)[] = [];
  readonly #asked: ((reply: Reply) => void)[] = [];
  #left: Leaks | null = null;
  #stopping = false;
  /** Its messages, when they are not shown as they come. */
  readonly complaints: string[] = [];
  /** Never resolves; rejects when the process ends without having been asked to. */
  readonly ended: Promise<never>;

  constructor({ name, args, socket, cpu, verbose }: ChildOptions) {
    this.name = name;
    const all = [PROGRAM, ...args, '--child-of', String(process.pid), ...(verbose ? ['-v'] : [])];
    // In a session of its own: Ctrl-C in a terminal reaches the demo, which then stops its children one after the other.
    const stdio = ['pipe', 'pipe', verbose ? 'inherit' : 'pipe', ...(socket === undefined ? [] : [socket])];
    this.#process = onCpu(cpu, () =>
      spawn(process.execPath, all, { stdio: stdio as StdioOptions, detached: true }),
    ) as ChildProcessByStdio<Writable, Readable, Readable | null>;
    this.pid = this.#process.pid!;
    const { stdin, stdout, stderr } = this.#process;
    stdin.on('error', () => {}); // it has ended: `ended` says so
    createInterface(stdout).on('line', line => this.#hear(line));
    if (stderr) createInterface(stderr).on('line', line => this.complaints.push(line));
    this.#exited = new Promise(resolve => {
      this.#process.once('error', error => resolve(error.message));
      this.#process.once('close', (code, signal) => resolve(signal ?? `exit code ${code}`));
    });
    this.ended = this.#exited.then(how => {
      if (this.#stopping) return new Promise<never>(() => {});
      throw new DemoError(`the ${name} process ended (${how}): ${this.complaints.at(-1) ?? 'no message'}`);
    });
    this.ended.catch(() => {});
  }

  /** Its counters as they are now. */
  counters(): Promise<ChildCounters> {
    const answer = new Promise<ChildCounters>(resolve => this.#waiting.push(resolve));
    this.#process.stdin.write('\n');
    return Promise.race([answer, this.ended]);
  }

  /** Asks it to do something, and waits for the answer. Several at a time are answered in order. */
  request(request: object): Promise<Reply> {
    const answer = new Promise<Reply>(resolve => this.#asked.push(resolve));
    this.#process.stdin.write(`${JSON.stringify(request)}\n`);
    return Promise.race([answer, this.ended]);
  }

  /** Those of its messages that are errors. */
  get errors(): string[] {
    return this.complaints.flatMap(line => / error (.*)/.exec(line)?.[1] ?? []);
  }

  /** From now on it may end by itself. */
  expectEnd(): void {
    this.#stopping = true;
  }

  /** Tells it to end in good order, and waits as `end` does. */
  stop(): Promise<Leaks> {
    this.expectEnd();
    this.#process.kill('SIGTERM');
    return this.end();
  }

  /** Waits for its end. Returns what it could not give back. Throws DemoError when it does not end, or ends badly. */
  async end(): Promise<Leaks> {
    this.expectEnd();
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), END_LIMIT_MS);
    const how = await this.#exited;
    clearTimeout(timer);
    if (this.#left !== null && how === 'exit code 0') return this.#left;
    const message = this.complaints.at(-1) ?? 'no message';
    throw new DemoError(`the ${this.name} process ended badly (${how}): ${message}`);
  }

  #hear(line: string): void {
    const message = JSON.parse(line) as ChildCounters | { left: Leaks } | { reply: Reply };
    if ('left' in message) this.#left = message.left;
    else if ('reply' in message) this.#asked.shift()?.(message.reply);
    else this.#waiting.shift()?.(message);
  }
}

/** Starts a process on one processor, where it and its threads stay: they inherit it from the thread that starts them. */
function onCpu<T>(cpu: number | undefined, start: () => T): T {
  if (cpu === undefined) return start();
  const all = getAffinity();
  setAffinity([cpu]);
  try {
    return start();
  } finally {
    setAffinity(all);
  }
}
