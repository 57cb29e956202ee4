/**
 * Our vhost-user backend under stock QEMU and a stock kernel: every ring, with and without offloads, one queue and several, both
 * QEMUs, either side listening; and a backend that dies and comes back. Every byte of TCP is checked both ways.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { Program } from '../link/program.js';
import { Cable, configure, shown } from './kit/cable.js';
import { LONG, QEMUS, type QemuName, vmTest } from './kit/needs.js';
import { Vm } from './kit/vm.js';

const BYTES = LONG ? 100_000_000 : 20_000_000;

const WITHOUT_OFFLOADS = [
  ...['csum', 'host_tso4', 'host_tso6', 'host_ecn', 'host_ufo'],
  ...['guest_csum', 'guest_tso4', 'guest_tso6', 'guest_ecn', 'guest_ufo', 'mrg_rxbuf'],
].map(name => `${name}=off`);

interface Wish {
  readonly packed?: boolean;
  readonly offloads?: boolean;
  readonly queues?: number;
  readonly listener?: 'qemu' | 'backend';
}

/** A guest, its backend and the cable between them. */
class Setup {
  readonly cable = new Cable();
  readonly folder = mkdtempSync(join(tmpdir(), 'polynic-vhost-'));
  readonly socket = join(this.folder, 'nic.sock');
  readonly #wish: Wish;
  readonly #programs: Program[] = [];
  vm!: Vm;
  backend!: Program;

  private constructor(wish: Wish) {
    this.#wish = wish;
  }

  /** The guest's kernel uses no more queue pairs than it has processors. */
  static async open(qemu: QemuName, wish: Wish): Promise<Setup> {
    const setup = new Setup(wish);
    const { packed = false, offloads = true, queues = 1, listener = 'qemu' } = wish;
    try {
      await setup.serve();
      const properties = [...(packed ? ['packed=on'] : []), ...(offloads ? [] : WITHOUT_OFFLOADS)];
      const nic = { kind: 'vhost-user', socket: setup.socket, listener, queues, properties } as const;
      setup.vm = await Vm.start({ qemu, memoryMb: 512, cpus: queues, nics: [nic] });
      await configure(setup.vm);
      return setup;
    } catch (error) {
      await setup.close();
      throw new Error(`${(error as Error).message}\n${setup.output}`);
    }
  }

  /** Starts a backend; its end of the cable is configured when it returns. */
  async serve(): Promise<void> {
    const how = this.#wish.listener === 'backend' ? '--listen' : '--connect';
    const words = ['serve', '--vhost-user', this.socket, how, '--port', this.cable.port, '-v'];
    this.backend = new Program([...words, '--child-of', String(process.pid)]);
    this.#programs.push(this.backend);
    await this.cable.appear(this.backend);
  }

  get output(): string {
    return this.#programs.map(program => program.output).join('\n');
  }

  async close(): Promise<void> {
    await this.vm?.stop();
    await Promise.all(this.#programs.filter(program => program.alive).map(program => program.end()));
    this.cable.close();
    const files = readdirSync(this.folder);
    rmSync(this.folder, { recursive: true });
    assert.deepEqual(files, [], 'files left behind');
    for (const { ending, left, output } of this.#programs) {
      if (ending?.signal === 'SIGKILL') continue;
      assert.equal(ending?.code, 0, output);
      assert.deepEqual(left, { fds: 0, mappings: 0, buffers: 0 }, output);
    }
  }
}

function vhostTest(
  name: string,
  qemu: QemuName,
  wish: Wish,
  body: (setup: Setup, t: TestContext) => Promise<void>,
): void {
  vmTest(name, qemu, async t => {
    const setup = await Setup.open(qemu, wish);
    try {
      await body(setup, t);
    } catch (error) {
      t.diagnostic(`${setup.output}\n${setup.vm.console}`);
      throw error;
    } finally {
      await setup.close();
    }
  });
}

async function pingAndTcp({ cable, vm }: Setup, t: TestContext, streams = 1): Promise<void> {
  t.diagnostic(await cable.ping(vm));
  t.diagnostic(shown(await cable.tcp(vm, BYTES, streams)));
}

/** All that the guest's driver negotiated with QEMU, as bits from 0. */
async function features(vm: Vm): Promise<string> {
  return (await vm.run('cat /sys/class/net/eth0/device/features')).trim();
}

const PACKED_BIT = 34;
const HOST_TSO4_BIT = 11;

/** Everyday: what every part of the backend is used by. `test:vm`: every combination. */
const WISHES: readonly (Wish & { readonly everyday?: QemuName })[] = [
  { everyday: '7.2' },
  { packed: true, everyday: '11.1' },
  { offloads: false },
  { packed: true, offloads: false },
  { queues: 4 },
  { packed: true, queues: 4 },
  { offloads: false, queues: 4 },
  { packed: true, offloads: false, queues: 4 },
  { listener: 'backend' },
];

for (const qemu of QEMUS) {
  for (const { everyday, ...wish } of WISHES) {
    if (!LONG && everyday !== qemu) continue;
    const { packed = false, offloads = true, queues = 1, listener = 'qemu' } = wish;
    const name = `${packed ? 'packed' : 'split'}, ${offloads ? '' : 'no '}offloads, ${queues} queue pairs, ${listener} listens`;
    vhostTest(name, qemu, wish, async (setup, t) => {
      const bits = await features(setup.vm);
      assert.equal(bits[PACKED_BIT], packed ? '1' : '0', 'packed ring');
      assert.equal(bits[HOST_TSO4_BIT], offloads ? '1' : '0', 'segmentation by the host');
      if (queues > 1) {
        assert.equal(
          (await setup.vm.run('ls -d /sys/class/net/eth0/queues/tx-* | wc -l')).trim(),
          String(queues),
        );
      }
      await pingAndTcp(setup, t, queues);
    });
  }

  if (LONG || qemu === '11.1') {
    vhostTest('a backend that is killed, and another in its place', qemu, {}, async (setup, t) => {
      const { cable, vm } = setup;
      await cable.ping(vm);
      for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
        await setup.backend.end(signal);
        await setup.serve();
        await vm.run(`until ping -c 1 -W 1 10.9.0.1; do :; done`);
        await pingAndTcp(setup, t);
      }
    });

    vhostTest(
      'the guest pauses, reboots its driver, and comes back',
      qemu,
      { packed: true },
      async (setup, t) => {
        const { cable, vm } = setup;
        await cable.ping(vm);
        await vm.monitor.execute('stop');
        await vm.monitor.execute('cont');
        await cable.ping(vm);
        await vm.run('rmmod virtio_net && load boot');
        await configure(vm);
        await pingAndTcp(setup, t);
      },
    );
  }
}
