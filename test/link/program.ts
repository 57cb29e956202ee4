/** A polynic process under test: what it prints, how it ends, and what it holds, as /proc tells. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { ChildCounters, Leaks } from '../../src/observe/child-report.js';

const POLYNIC = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));

/** A machine with more to do than cores to do it takes its time to start a process. */
export const PATIENCE_MS = 60_000;

export interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** What a process holds: descriptors by what they lead to, and shared mappings of files by name. */
export interface Holdings {
  readonly fds: readonly string[];
  readonly mappings: readonly string[];
}

export class Program {
  readonly pid: number;
  readonly ended: Promise<Ending>;
  stdout = '';
  stderr = '';
  ending: Ending | null = null;
  readonly #child: ChildProcess;
  readonly #listeners = new Set<() => void>();

  /** Runs `polynic` with these words; with `--child-of` it dies with us. */
  constructor(words: readonly string[]) {
    this.#child = spawn(process.execPath, [POLYNIC, ...words], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stdin!.on('error', () => {}); // it was killed while we asked
    this.pid = this.#child.pid!;
    this.#child.stdout!.setEncoding('utf8').on('data', text => {
      this.stdout += text;
      this.#tell();
    });
    this.#child.stderr!.setEncoding('utf8').on('data', text => {
      this.stderr += text;
      this.#tell();
    });
    this.ended = new Promise(resolve => {
      this.#child.once('close', (code, signal) => {
        this.ending = { code, signal };
        this.#tell();
        resolve(this.ending);
      });
    });
  }

  /** Waits until it has printed a match, on either stream, in what came after the `after` first characters of that stream. */
  async says(pattern: RegExp, { after = 0, ms = PATIENCE_MS } = {}): Promise<void> {
    const said = () => pattern.test(this.stderr.slice(after)) || pattern.test(this.stdout.slice(after));
    await this.#until(said, ms, `to say ${pattern}`);
  }

  /** Sends a signal and waits for the end. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<Ending> {
    this.#child.kill(signal);
    await this.#until(() => this.ending !== null, PATIENCE_MS, `to end after ${signal}`);
    return this.ending!;
  }

  /** Its counters now; only from one that was started with `--child-of`. */
  async counters(): Promise<ChildCounters> {
    const { length } = this.stdout;
    this.#child.stdin!.write('\n');
    await this.says(/^\{"queues.*\}$/m, { after: length });
    return JSON.parse(/^\{"queues.*\}$/m.exec(this.stdout.slice(length))![0]) as ChildCounters;
  }

  /** Has it carry out a request of a control socket, one at a time; only from one that was started with `--child-of`. */
  async request(request: object): Promise<{ ok?: object; error?: { code: string; message: string } }> {
    const { length } = this.stdout;
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    await this.says(/^\{"reply.*\}$/m, { after: length });
    return JSON.parse(/^\{"reply.*\}$/m.exec(this.stdout.slice(length))![0]).reply;
  }

  /** What it held after it had closed everything, by its own account; null: it did not say. */
  get left(): Leaks | null {
    const line = /^\{"left.*\}$/m.exec(this.stdout);
    return line && (JSON.parse(line[0]) as { left: Leaks }).left;
  }

  get alive(): boolean {
    return this.ending === null;
  }

  /** What it holds now. */
  holdings(): Holdings {
    const fds = readdirSync(`/proc/${this.pid}/fd`).flatMap(fd => {
      try {
        return [readlinkSync(`/proc/${this.pid}/fd/${fd}`).replace(/^(socket|pipe):\[\d+\]$/, '$1')];
      } catch {
        return []; // closed while we looked
      }
    });
    const mappings = readFileSync(`/proc/${this.pid}/maps`, 'utf8')
      .split('\n')
      .filter(line => /^\S+ \S{3}s /.test(line))
      .map(line => line.replace(/^(?:\S+ +){5}/, ''));
    return { fds: fds.sort(), mappings: mappings.sort() };
  }

  /** Everything it printed, for messages about failures. */
  get output(): string {
    return `pid ${this.pid} ${JSON.stringify(this.ending)}\n${this.stderr}${this.stdout}`;
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  #until(done: () => boolean, ms: number, what: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error?: Error): void => {
        clearTimeout(timer);
        this.#listeners.delete(look);
        if (error) reject(error);
        else resolve();
      };
      const fail = (why: string) => settle(new Error(`waited for polynic ${what}: ${why}\n${this.output}`));
      const look = (): void => {
        if (done()) settle();
        else if (this.ending !== null) fail('it ended');
      };
      const timer = setTimeout(() => fail(`${ms} ms were not enough`), ms);
      this.#listeners.add(look);
      look();
    });
  }
}
