/** DPDK's testpmd with a virtio-user or a vhost device: the other end of vhost-user, written by others. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { getAffinity } from '../../src/linux/process.js';
import { eventually } from '../../src/linux/testing.js';

/** Why it can't be used here; null: it can. */
export function noTestpmd(): string | null {
  const { error } = spawnSync('dpdk-testpmd', ['--version'], { timeout: 10_000 });
  return error ? "dpdk-testpmd isn't installed (Debian: dpdk-dev)" : null;
}

export interface TestpmdOptions {
  /** What it is on that socket: a front end with a driver (the default), or a backend. */
  readonly role?: 'virtio-user' | 'vhost';
  readonly socket: string;
  readonly device?: string;
  readonly mode: 'io' | 'rxonly' | 'txonly';
  readonly queues?: number;
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
  readonly #ended: Promise<number | null>;

  /** Starts it; it begins to forward by itself. Without huge pages, so that it needs nothing of the machine. */
  constructor({ role = 'virtio-user', socket, device = '', mode, queues = 1 }: TestpmdOptions) {
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
        ...['--lcores', `0@(${processors}),1@(${processors})`, `--vdev=${vdev}`],
        ...['--', '-i', '--auto-start', '--no-flush-rx', '--total-num-mbufs=4096', `--forward-mode=${mode}`],
        ...[`--rxq=${queues}`, `--txq=${queues}`],
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output += chunk;
      });
    }
    this.#child.stdin!.on('error', () => {}); // it has ended: that is seen otherwise
    this.#ended = new Promise(resolve => this.#child.once('close', resolve));
  }

  get output(): string {
    return this.#output;
  }

  /** Says a word at its prompt, and waits until it has printed something. */
  async say(words: string, until: RegExp): Promise<string> {
    const from = this.#output.length;
    this.#child.stdin!.write(`${words}\n`);
    await eventually(() => until.test(this.#output.slice(from)) || this.#child.exitCode !== null, 15_000);
    return this.#output.slice(from);
  }

  /** Has it stop forwarding; what it has counted. */
  async stop(): Promise<TestpmdCounts> {
    const text = await this.say('stop', /Accumulated[\s\S]*Done/);
    const total = /Accumulated[\s\S]*RX-packets: (\d+)[\s\S]*TX-packets: (\d+) +TX-dropped: (\d+)/.exec(text);
    if (!total) throw new Error(`testpmd says nothing of what it counted:\n${this.#output}`);
    const [received, sent, dropped] = total.slice(1).map(Number) as [number, number, number];
    return { received, sent, dropped };
  }

  /** Ends it, in good order if it can. Throws when it has to be killed, or fails. */
  async quit(): Promise<void> {
    this.#child.stdin!.end('quit\n');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 15_000);
    const status = await this.#ended;
    clearTimeout(timer);
    if (status !== 0) throw new Error(`testpmd ended with ${status}:\n${this.#output}`);
  }

  /** Ends it in no order at all. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}
