/**
 * Our virtio card behind vfio-user, under stock QEMU with a stock kernel and its own driver: of the standard and from before it, split and packed, with MSI-X
 * and INTx, several pairs. Every byte of TCP is checked both ways.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import { serveVfioUser, type VfioSessionEnd } from '../../src/control/vfio-user/index.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { REGION } from '../../src/linux/vfio-numbers.js';
import { VirtioNic } from '../../src/nic/virtio-nic.js';
import type { PciFunction } from '../../src/pci/function.js';
import { VirtioNetFunction, type VirtioNetFunctionOptions } from '../../src/pci/virtio/index.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, window } from '../compliance/testbed.js';
import { Cable, configure, shown } from './kit/cable.js';
import { LONG, vmTest } from './kit/needs.js';
import { Vm } from './kit/vm.js';

const BYTES = LONG ? 100_000_000 : 10_000_000;
const MAC = Uint8Array.of(2, 0, 0, 0, 0, 2);

/** A card in this process, its socket, and the cable at its port. */
class Card {
  readonly log: string[];
  readonly socket: string;
  readonly nic: VirtioNic;
  readonly fn: VirtioNetFunction;
  readonly cable: Cable;
  readonly #folder = mkdtempSync(join(tmpdir(), 'polynic-vfio-'));
  readonly #port: PortHandle;
  readonly #listener: UnixListener;
  readonly #sessions: Promise<VfioSessionEnd>[] = [];

  private constructor(cable: Cable, port: PortHandle, nic: VirtioNic, log: string[], options: Case) {
    this.cable = cable;
    this.nic = nic;
    this.log = log;
    this.#port = port;
    this.fn = new VirtioNetFunction({
      ...{ nic, window, mac: MAC },
      log: (level, message) => log.push(`card ${level}: ${message}`),
      ...options,
    });
    const served = options.old ? disguised(this.fn) : this.fn;
    this.socket = join(this.#folder, 'nic.sock');
    this.#listener = UnixListener.listen(this.socket);
    this.#listener.onConnection(
      socket => {
        const onRefused = (command: string, error: Error) => log.push(`refused ${command}: ${error.message}`);
        this.#sessions.push(serveVfioUser(socketChannel(socket), served, { onRefused }));
      },
      error => log.push(`listener: ${error}`),
    );
  }

  static async start(queues: number, options: Case): Promise<Card> {
    const cable = new Cable();
    const port = openPort(cable.port, { window, arena }, queues);
    cable.connect();
    const log: string[] = [];
    const nic = await VirtioNic.start({
      ...{ window, arena, port, limits: { queuePairs: queues, bufs: 1024 } },
      log: (level, message) => log.push(`nic ${level}: ${message}`),
    });
    return new Card(cable, port, nic, log, options);
  }

  async close(): Promise<void> {
    this.#listener.close();
    const ends = await Promise.all(this.#sessions);
    this.fn.close();
    await this.nic.close();
    this.#port.close();
    this.cable.close();
    rmSync(this.#folder, { recursive: true });
    assert.ok(
      ends.every(({ refused }) => refused === 0),
      this.log.join('\n'),
    );
  }
}

/** The same card without the capabilities by which drivers of the standard find it: they leave it to the older one. */
function disguised(fn: VirtioNetFunction): PciFunction {
  const VENDOR_SPECIFIC = 0x09;
  const OTHER = 0x0a;
  const hide = async (region: number, offset: number, into: Uint8Array): Promise<void> => {
    await fn.read(region, offset, into);
    if (region !== REGION.CONFIG) return;
    const config = new Uint8Array(256);
    await fn.read(REGION.CONFIG, 0, config);
    for (let at = config[0x34]!; at !== 0; at = config[at + 1]!) {
      if (config[at] === VENDOR_SPECIFIC && at >= offset && at < offset + into.length)
        into[at - offset] = OTHER;
    }
  };
  return new Proxy(fn, {
    get: (_, name) => {
      if (name === 'read') return hide;
      const value = Reflect.get(fn, name, fn);
      return typeof value === 'function' ? value.bind(fn) : value;
    },
  });
}

interface Case extends Partial<VirtioNetFunctionOptions> {
  readonly queues?: number;
  /** For the kernel. */
  readonly append?: string;
  /** The guest is to use the driver from before the standard. */
  readonly old?: boolean;
  /** Also where time is short. */
  readonly everyday?: boolean;
}

function cardTest(
  name: string,
  { queues = 1, append, everyday = false, ...options }: Case,
  body: (vm: Vm, card: Card, t: TestContext) => Promise<void>,
): void {
  if (!LONG && !everyday) return;
  vmTest(
    name,
    '11.1',
    async t => {
      const card = await Card.start(queues, options);
      let vm: Vm | null = null;
      try {
        vm = await Vm.start({
          ...{ qemu: '11.1', memoryMb: 512, cpus: queues },
          nics: [{ kind: 'vfio-user', socket: card.socket }],
          ...(append ? { append } : {}),
        });
        await configure(vm);
        await body(vm, card, t);
      } catch (error) {
        t.diagnostic(`${card.log.join('\n')}\n${card.nic.dump()}\n${vm?.console}`);
        throw error;
      } finally {
        await vm?.stop();
        await card.close();
      }
    },
    { vfioUser: true },
  );
}

async function pingAndTcp(vm: Vm, { cable }: Card, t: TestContext, streams = 1): Promise<void> {
  t.diagnostic(await cable.ping(vm));
  t.diagnostic(shown(await cable.tcp(vm, BYTES, streams)));
}

const PACKED_BIT = 34;
const VERSION_1_BIT = 32;

/** All that the guest's driver has taken, as bits from 0. */
const bits = async (vm: Vm) => (await vm.run('cat /sys/class/net/eth0/device/features')).trim();

for (const packed of [true, false]) {
  cardTest(
    `${packed ? 'packed' : 'split'}, MSI-X`,
    packed ? { everyday: true } : { withhold: F.RING_PACKED },
    async (vm, card, t) => {
      assert.equal((await bits(vm))[PACKED_BIT], packed ? '1' : '0');
      assert.equal((await vm.run('cat /sys/class/net/eth0/address')).trim(), '02:00:00:00:00:02');
      await pingAndTcp(vm, card, t);
    },
  );
}

cardTest('two pairs, transitional', { queues: 2, transitional: true }, async (vm, card, t) => {
  assert.match(card.nic.dump(), /ring 3 tx: started, enabled/);
  await pingAndTcp(vm, card, t, 2);
  card.fn.device.setLink(false);
  await vm.run('until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do usleep 10000; done');
  card.fn.device.setLink(true);
  await vm.run('until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do usleep 10000; done');
  await card.cable.ping(vm);
  await vm.run('rmmod virtio_net && load boot');
  await configure(vm);
  await pingAndTcp(vm, card, t, 2);
  await vm.reset();
  await configure(vm);
  await pingAndTcp(vm, card, t, 2);
});

cardTest('INTx', { append: 'pci=nomsi' }, pingAndTcp);
cardTest('a driver from before the standard', { transitional: true, old: true }, async (vm, card, t) => {
  assert.equal((await bits(vm))[VERSION_1_BIT], '0');
  await pingAndTcp(vm, card, t);
});
cardTest(
  'a driver from before the standard, INTx',
  { everyday: true, transitional: true, old: true, append: 'pci=nomsi' },
  async (vm, card, t) => {
    assert.equal((await bits(vm))[VERSION_1_BIT], '0');
    await pingAndTcp(vm, card, t);
  },
);
