/** A vhost-user backend under test: `polynic serve`, its socket, and the cable at its port. It can be killed and started anew. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Cable } from '../../../src/vm/cable.js';
import type { VhostUserNic } from '../../../src/vm/command-line.js';
import { Program } from '../../link/program.js';

/** A NIC to be. */
export interface Wish {
  /** Where its port leads; default: a cable of its own. */
  readonly cable?: Cable;
  /** Further properties of QEMU's device. */
  readonly properties?: readonly string[];
  readonly packed?: boolean;
  readonly offloads?: boolean;
  /** False: chains take as many descriptors as they have buffers. */
  readonly indirect?: boolean;
  readonly queues?: number;
  /** Of both ends; default: Ethernet's. */
  readonly mtu?: number;
  readonly listener?: 'qemu' | 'backend';
}

/** Of QEMU's device: a guest that cuts and sums all by itself. */
export const WITHOUT_OFFLOADS = [
  ...['csum', 'host_tso4', 'host_tso6', 'host_ecn', 'host_ufo'],
  ...['guest_csum', 'guest_tso4', 'guest_tso6', 'guest_ecn', 'guest_ufo', 'mrg_rxbuf'],
].map(name => `${name}=off`);

export class Backend {
  readonly cable: Cable;
  readonly folder = mkdtempSync(join(tmpdir(), 'polynic-vhost-'));
  readonly socket = join(this.folder, 'nic.sock');
  readonly #wish: Wish;
  readonly #programs: Program[] = [];

  private constructor(wish: Wish) {
    this.#wish = wish;
    this.cable = wish.cable ?? new Cable();
  }

  static async start(wish: Wish = {}): Promise<Backend> {
    const backend = new Backend(wish);
    try {
      await backend.serve();
      return backend;
    } catch (error) {
      await backend.abandon();
      throw error;
    }
  }

  /** Starts the process; its end of the cable is configured when this resolves. */
  async serve(): Promise<void> {
    const how = this.#wish.listener === 'backend' ? '--listen' : '--connect';
    const words = ['serve', '--vhost-user', this.socket, how, '--port', this.cable.port, '-v'];
    const program = new Program([...words, '--child-of', String(process.pid)]);
    this.#programs.push(program);
    await this.cable.appear(program, this.#wish.mtu);
  }

  /** The process of now. */
  get program(): Program {
    return this.#programs.at(-1)!;
  }

  /** Waits until the process of now has carried so many packets; also over when `other` is. */
  async carries(packets: number, other: Promise<unknown>): Promise<void> {
    let over = false;
    void other.then(
      () => (over = true),
      () => (over = true),
    );
    for (let carried = 0; carried < packets && !over; ) {
      const { queues } = await this.program.counters();
      carried = queues.reduce((sum, queue) => sum + queue.packets, 0);
    }
  }

  /** What QEMU is to be told. */
  get nic(): VhostUserNic {
    const { packed = false, offloads = true, indirect = true } = this.#wish;
    const { queues = 1, listener = 'qemu', mtu, properties: more = [] } = this.#wish;
    const properties = [
      ...more,
      ...(packed ? ['packed=on'] : []),
      ...(offloads ? [] : WITHOUT_OFFLOADS),
      ...(indirect ? [] : ['indirect_desc=off']),
      ...(mtu === undefined ? [] : [`host_mtu=${mtu}`]),
    ];
    const mac = '02:00:00:00:00:02';
    return { kind: 'vhost-user', socket: this.socket, listener, queues, mac, properties };
  }

  get output(): string {
    return this.#programs.map(program => program.output).join('\n');
  }

  /** Ends everything. Returns the files that are left. */
  async abandon(): Promise<string[]> {
    await Promise.all(this.#programs.filter(program => program.alive).map(program => program.end()));
    this.cable.close();
    const files = readdirSync(this.folder);
    rmSync(this.folder, { recursive: true });
    return files;
  }

  /** Ends everything in an orderly way, after QEMU: nothing may be left. */
  async close(): Promise<void> {
    assert.deepEqual(await this.abandon(), [], 'files left behind');
    for (const { ending, left, output } of this.#programs) {
      if (ending?.signal === 'SIGKILL') continue;
      assert.equal(ending?.code, 0, output);
      assert.deepEqual(left, { fds: 0, mappings: 0, buffers: 0 }, output);
    }
  }
}
