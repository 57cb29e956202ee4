/**
 * DPDK's testpmd with a virtio-user or a vhost device: the other end of vhost-user, or both, written by others.
 *
 * ```
 *   us ── stdin ──► testpmd> show port stats 0        it has a prompt; what it prints is all that it says
 *      ◄─ stdout ── RX-packets: …
 * ```
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { getAffinity } from '../linux/process.js';
import { BenchError } from './errors.js';

const ANSWER_MS = 15_000;

/** Why it can't be used here; null: it can. */
export function noTestpmd(): string | null {
  const { error } = spawnSync('dpdk-testpmd', ['--version'], { timeout: 10_000 });
  return error ? "dpdk-testpmd isn't installed (Debian: dpdk-dev)" : null;
}

export interface TestpmdOptions {
  /** What it is on that socket: a front end with a driver (the default), or a backend. */
  readonly role?: 'virtio-user' | 'vhost';
  readonly socket: string;
  /** Further arguments of the device. */
  readonly device?: string;
  readonly mode: 'io' | 'rxonly' | 'txonly';
  readonly queues?: number;
  /** Bytes of the frames that `txonly` makes; default 64. */
  readonly length?: number;
  /** The processor that its loop keeps busy; default: wherever the kernel likes. */
  readonly cpu?: number;
  /** Further words for DPDK itself. */
  readonly words?: readonly string[];
}

/** What it has counted, in all. */
export interface TestpmdCounts {
  readonly received: number;
  readonly sent: number;
  /** Frames that it wanted to send and the ring had no room for. */
  readonly dropped: number;
}

export class Testpmd {
  readonly #child: ChildProcess;
  #output = '';
  #over = false;
  readonly #ended: Promise<number | null>;
  readonly #listeners = new Set<() => void>();

  /** Starts it; it begins to forward by itself. Without huge pages, so that it needs nothing of the machine. */
  constructor(options: TestpmdOptions) {
    const {
      role = 'virtio-user',
      socket,
      device = '',
      mode,
      queues = 1,
      length = 64,
      cpu,
      words = [],
    } = options;
    const processors = getAffinity().join(',');
    const of = {
      'virtio-user': `virtio_user0,path=${socket},queue_size=256`,
      vhost: `net_vhost0,iface=${socket}`,
    };
    const vdev = `${of[role]},queues=${queues}${device && `,${device}`}`;
    this.#child = spawn(
      'stdbuf', // a pipe gets what it prints line by line
      [
        ...['-oL', 'dpdk-testpmd', '--no-pci', '--no-huge', '-m', '256', '--no-telemetry', '--no-shconf'],
        ...['--lcores', `0@(${processors}),1@(${cpu ?? processors})`, `--vdev=${vdev}`, ...words],
        ...['--', '-i', '--auto-start', '--no-flush-rx', '--total-num-mbufs=4096', `--forward-mode=${mode}`],
        ...[`--txpkts=${length}`, `--rxq=${queues}`, `--txq=${queues}`],
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output += chunk;
        this.#tell();
      });
    }
    this.#child.stdin!.on('error', () => {}); // it has ended: that is seen otherwise
    this.#ended = new Promise(resolve =>
      this.#child.once('close', status => {
        this.#over = true;
        this.#tell();
        resolve(status);
      }),
    );
  }

  get output(): string {
    return this.#output;
  }

  /** Waits until it has printed a match, in what came after the first `after` characters. Throws BenchError when it does not, or ends. */
  async says(pattern: RegExp, after = 0): Promise<string> {
    await new Promise<void>((resolve, reject) => {
      const settle = (why?: string): void => {
        clearTimeout(timer);
        this.#listeners.delete(look);
        if (why === undefined) resolve();
        else reject(new BenchError(`testpmd did not say ${pattern}: ${why}\n${this.#output}`));
      };
      const look = (): void => {
        if (pattern.test(this.#output.slice(after))) settle();
        else if (this.#over) settle('it has ended');
      };
      const timer = setTimeout(settle, ANSWER_MS, `${ANSWER_MS / 1000} s were not enough`);
      this.#listeners.add(look);
      look();
    });
    return this.#output.slice(after);
  }

  /** Says a word at its prompt, and waits until it has printed something. Throws BenchError as `says` does. */
  say(words: string, until: RegExp): Promise<string> {
    const { length } = this.#output;
    this.#child.stdin!.write(`${words}\n`);
    return this.says(until, length);
  }

  /** What it has counted so far. Throws BenchError as `says` does. */
  async counts(): Promise<Omit<TestpmdCounts, 'dropped'>> {
    const pattern = /RX-packets: (\d+)[\s\S]*TX-packets: (\d+)[\s\S]*Throughput/;
    const [received, sent] = pattern
      .exec(await this.say('show port stats 0', pattern))!
      .slice(1)
      .map(Number);
    return { received: received!, sent: sent! };
  }

  /** Has it stop forwarding; what it has counted. Throws BenchError as `says` does. */
  async stop(): Promise<TestpmdCounts> {
    const pattern =
      /Accumulated[\s\S]*RX-packets: (\d+)[\s\S]*TX-packets: (\d+) +TX-dropped: (\d+)[\s\S]*Done/;
    const text = await this.say('stop', pattern);
    const [received, sent, dropped] = pattern.exec(text)!.slice(1).map(Number);
    return { received: received!, sent: sent!, dropped: dropped! };
  }

  /** Ends it, in good order if it can. Throws BenchError when it has to be killed, or fails. */
  async quit(): Promise<void> {
    this.#child.stdin!.end('quit\n');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), ANSWER_MS);
    const status = await this.#ended;
    clearTimeout(timer);
    if (status !== 0) throw new BenchError(`testpmd ended with ${status}:\n${this.#output}`);
  }

  /** Ends it in no order at all. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}
