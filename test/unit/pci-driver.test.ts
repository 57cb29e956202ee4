/**
 * The bpfhv driver on a device that is a function on PCI, all in one process: contracts that change, memory that is too small, a function that goes.
 *
 * ```
 *   source ── BpfhvDriver ── BpfhvPci ── PciFace ── ProxyDevice ── socket pair ── Nic ── sink
 * ```
 */
import assert from 'node:assert/strict';
import { ProxyDevice } from '../../src/control/bpfhv-proxy/device.js';
import { serveBackend, socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { BpfhvDriver } from '../../src/guest/bpfhv/driver.js';
import { REG } from '../../src/guest/bpfhv/registers.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { BpfhvPci, probeBpfhv } from '../../src/guest/pci/bpfhv-pci.js';
import { leakTest } from '../../src/linux/testing.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { Backend } from './driver-rig.js';
import { PciFace } from './fake-pci.js';

type FaceOptions = NonNullable<ConstructorParameters<typeof PciFace>[2]>;
const MEGABYTE = 1 << 20;

class Machine {
  readonly ram = new GuestRam(window, 8 * MEGABYTE);
  readonly slot = new BpfhvPci({ ram: this.ram, queues: 2, lookMs: 5 });
  readonly log: string[] = [];
  readonly backend: Backend;
  readonly #netdev = openPort('source', { window, arena }, 1);
  readonly #device: ProxyDevice;
  readonly #faces: PciFace[] = [];
  readonly #hangUp = new AbortController();
  readonly #over: Promise<unknown>;
  driver!: BpfhvDriver;

  constructor(backend: Backend) {
    this.backend = backend;
    this.#device = new ProxyDevice({
      ram: this.ram,
      queuePairs: 1,
      bufs: 64,
      mac: Uint8Array.of(2, 0, 0, 0, 0, 9),
    });
    const [ours, theirs] = socketPair('bpfhv-proxy');
    this.#over = Promise.all([
      this.#device.serve(socketChannel(ours)),
      serveBackend(socketChannel(theirs), backend.nic, { signal: this.#hangUp.signal }),
    ]);
  }

  /** Puts a function into the slot. */
  async plug(options?: FaceOptions): Promise<PciFace> {
    await eventually(() => this.#device.present);
    const face = new PciFace(this.#device, 2, options);
    this.#faces.push(face);
    await this.slot.plug(face, await probeBpfhv(face));
    return face;
  }

  async start(): Promise<void> {
    this.driver = await BpfhvDriver.start({
      ...{ window, arena, transport: this.slot, netdev: this.#netdev },
      log: (level, message) => this.log.push(`${level}: ${message}`),
    });
    await this.driver.setInterfaceUp(true);
  }

  /** Frames arrive that have not arrived yet. */
  async flows(): Promise<void> {
    const taken = this.backend.flow.sequence;
    await eventually(() => this.backend.flow.sequence > taken + 1000);
  }

  async close(): Promise<void> {
    await this.driver?.close();
    this.#hangUp.abort();
    await this.#over;
    await this.slot.close();
    for (const face of this.#faces) await face.close();
    this.#device.close();
    assert.equal(this.ram.live, 0, 'guest memory that did not come back');
    this.ram.close();
    this.#netdev.close();
    await this.backend.close();
  }
}

function machineTest(name: string, body: (machine: Machine) => Promise<void>): void {
  leakTest(name, async () => {
    const machine = new Machine(await Backend.start('sink'));
    try {
      await body(machine);
    } catch (error) {
      console.log(machine.log.join('\n'));
      throw error;
    } finally {
      await machine.close();
    }
  });
}

const type = (name: string) => deviceType(name)!;

for (const own of [true, false]) {
  machineTest(
    `frames, and a change of contract, ${own ? 'doorbells of the device’s own' : 'wired doorbells'}`,
    async machine => {
      await machine.plug({ own });
      await machine.start();
      await machine.flows();
      const { to } = await machine.backend.nic.upgrade({ device: type('vring_packed') });
      assert.equal(to, 'vring_packed');
      await machine.flows();
      await eventually(() => machine.driver.stats().upgrades === 1);
      assert.match(machine.log.join('\n'), /info: upgraded, \d+ unused buffers reclaimed/);
    },
  );
}

machineTest('a device that shows nothing beforehand: stop, look, start', async machine => {
  await machine.plug({ previews: false });
  await machine.start();
  await machine.flows();
  const { to } = await machine.backend.nic.upgrade({ device: type('vring_packed') });
  assert.equal(to, 'vring_packed');
  await machine.flows();
  assert.deepEqual([machine.driver.stats().upgrades, machine.driver.stats().probes], [0, 2]);
  assert.doesNotMatch(machine.log.join('\n'), /error|warn/);
});

machineTest('rings that memory is too small for are declined, and the old ones go on', async machine => {
  const face = await machine.plug();
  await machine.start();
  await machine.flows();
  face.overrides.set(REG.NUM_RX_BUFS, 8192).set(REG.NUM_TX_BUFS, 8192);
  await assert.rejects(machine.backend.nic.upgrade({ device: type('vring_packed') }));
  const said = machine.log.find(line => line.startsWith('error'));
  assert.match(
    said!,
    /declined: 1\/1 queues of 8192\/8192 buffers do not fit into 8 MiB of guest memory beside what is in use/,
  );
  face.overrides.clear();
  await machine.flows();
  assert.equal(machine.driver.running, true);
  await machine.backend.nic.upgrade({ device: type('sring_gso') });
  await machine.flows();
});

machineTest('a function that is pulled out, and another one in its place', async machine => {
  const face = await machine.plug();
  await machine.start();
  await machine.flows();
  face.pull();
  await eventually(() => !machine.driver.running && machine.ram.live === 0);
  const next = await machine.plug({ own: false });
  await machine.flows();
  next.pull();
  await machine.plug(); // before the driver has noticed
  await machine.flows();
});
