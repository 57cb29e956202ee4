/**
 * The driver on a device behind vfio-user: what `guest --vfio-user` does with each connection, in one process with the device and its server.
 *
 * ```
 *   source ── BpfhvDriver ── BpfhvPci ── VfioUserLink ══ socket pair ══ serveVfioUser ── ProxyFunction ── ProxyDevice ══ Nic ── sink
 * ```
 */
import assert from 'node:assert/strict';
import { BpfhvDevice, slotFor } from '../../src/cli/pci-device.js';
import { VfioUserLink } from '../../src/cli/vfio-user-link.js';
import { ProxyDevice } from '../../src/control/bpfhv-proxy/device.js';
import { serveBackend, socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { encodeReply, serveVfioUser } from '../../src/control/vfio-user/index.js';
import { BpfhvDriver } from '../../src/guest/bpfhv/driver.js';
import { REG, STATUS } from '../../src/guest/bpfhv/registers.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { BpfhvPci } from '../../src/guest/pci/bpfhv-pci.js';
import { drainEventFd, EventFd, signalEventFd } from '../../src/linux/eventfd.js';
import { dupFd, type OwnedFd } from '../../src/linux/fd.js';
import { leakTest } from '../../src/linux/testing.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { IRQ, NUM_IRQS, NUM_REGIONS, REGION } from '../../src/linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../src/linux/watch.js';
import type { MemoryRegionSpec } from '../../src/nic/control.js';
import type { PciFunction, RegionDoorbell, RegionShape } from '../../src/pci/function.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { Backend } from './driver-rig.js';
import { BPFHV_ID, configSpace, previewCapability } from './fake-pci.js';
import { NoteTakingFunction } from './vfio-user-peer.js';

const QUEUES = 2;
const SIZES = new Map<number, number>([
  [REGION.BAR0, 256],
  [REGION.BAR1, 4096],
  [REGION.BAR3, 0x2_0000],
  [REGION.CONFIG, 256],
]);

/** A device in this process as a function on PCI, for a server. Its memory is what it has anyway. */
class ProxyFunction implements PciFunction {
  readonly regions: RegionShape[] = Array.from({ length: NUM_REGIONS }, (_, i) => ({
    ...{ size: SIZES.get(i) ?? 0, readable: true, writable: true },
  }));
  readonly irqs = Array.from({ length: NUM_IRQS }, (_, kind) => (kind === IRQ.MSIX ? QUEUES + 1 : 0));
  readonly #device: ProxyDevice;
  readonly #config = configSpace(BPFHV_ID, [previewCapability()]);
  readonly #doorbells: readonly OwnedFd[];
  readonly #vectors: (OwnedFd | null)[] = [null, null, null];
  readonly #watches: readonly Watch[];
  /** What was mapped and unmapped, in MiB. */
  readonly memory: number[] = [];

  constructor(device: ProxyDevice) {
    this.#device = device;
    this.#doorbells = [0, 1].map(queue => dupFd(device.doorbell(queue), `doorbell ${queue}`));
    this.#watches = [0, 1].map(queue =>
      watchReadable(device.interrupt(queue), () => {
        if (drainEventFd(device.interrupt(queue)) > 0) this.raise(IRQ.MSIX, queue);
      }),
    );
    device.onChange = () => void this.#changed();
  }

  async read(region: number, offset: number, into: Uint8Array): Promise<void> {
    if (region === REGION.CONFIG) into.set(this.#config.subarray(offset, offset + into.length));
    else if (region === REGION.BAR0)
      new DataView(into.buffer).setUint32(0, await this.#device.read(offset), true);
    else into.set(await this.#device.readProgram((offset + into.length) / 8));
  }

  async write(region: number, offset: number, bytes: Uint8Array): Promise<void> {
    if (region !== REGION.BAR0) return;
    await this.#device.write(offset, new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true));
  }

  connect(_kind: number, index: number, fd: OwnedFd | null): void {
    this.#vectors[index]?.close();
    this.#vectors[index] = fd && EventFd.adopt(fd).owner;
  }

  mask(): void {}

  raise(_kind: number, index: number): void {
    const vector = this.#vectors[index];
    if (vector) signalEventFd(vector.fd);
  }

  doorbells(region: number): readonly RegionDoorbell[] {
    return region === REGION.BAR1 ? this.#doorbells.map((fd, i) => ({ offset: 8 * i, size: 8, fd })) : [];
  }

  async setMemory(regions: readonly MemoryRegionSpec[]): Promise<void> {
    for (const fd of new Set(regions.map(region => region.fd))) fd.close();
    this.memory.push(regions.reduce((sum, { size }) => sum + Number(size) / (1 << 20), 0));
  }

  async reset(): Promise<void> {}

  async disconnect(): Promise<void> {
    for (const index of this.#vectors.keys()) this.connect(IRQ.MSIX, index, null);
  }

  close(): void {
    for (const watch of this.#watches) watch.close();
    for (const fd of this.#doorbells) fd.close();
  }

  async #changed(): Promise<void> {
    if (((await this.#device.read(REG.STATUS)) & STATUS.UPGRADE) !== 0) this.raise(IRQ.MSIX, QUEUES);
  }
}

/** A server's connection to the guest. */
interface Session {
  /** The server dies. */
  hangUp(): void;
  /** Whether it was of use. */
  readonly useful: Promise<boolean>;
}

function connect(link: VfioUserLink, fn: PciFunction): Session {
  const [mine, theirs] = socketPair('vfio-user');
  const server = new AbortController();
  const ended = serveVfioUser(socketChannel(theirs), fn, { signal: server.signal });
  const useful = link.serve(socketChannel(mine)).then(async useful => {
    await ended;
    return useful;
  });
  return { hangUp: () => server.abort(), useful };
}

leakTest('a guest takes a device from a server, follows it, and takes it from the next server', async () => {
  const log: string[] = [];
  const note = (level: string, message: string) => void log.push(`${level}: ${message}`);
  const backend = await Backend.start('sink');
  const ram = new GuestRam(window, 8 << 20);
  const device = new ProxyDevice({ ram, queuePairs: 1, bufs: 64, mac: Uint8Array.of(2, 0, 0, 0, 0, 9) });
  const [ours, theirs] = socketPair('bpfhv-proxy');
  const leave = new AbortController();
  const over = Promise.all([
    device.serve(socketChannel(ours)),
    serveBackend(socketChannel(theirs), backend.nic, { signal: leave.signal }),
  ]);
  await eventually(() => device.present);
  const fn = new ProxyFunction(device);

  const link = new VfioUserLink(note);
  const first = connect(link, fn);
  const found = await link.first;
  assert.ok(found instanceof BpfhvDevice);
  assert.deepEqual([found.queues, found.found.sizes.numRxBufs, found.found.previews], [1, 64, true]);
  const slot = new BpfhvPci({ ram, queues: QUEUES, lookMs: 5 });
  const netdev = openPort('source', { window, arena }, 1);
  const driver = await BpfhvDriver.start({ window, arena, transport: slot, netdev, log: note });
  link.use(slotFor(BpfhvDevice, slot));
  await driver.setInterfaceUp(true);
  const flows = async () => {
    const taken = backend.flow.sequence;
    await eventually(() => backend.flow.sequence > taken + 1000);
  };
  await flows();
  await backend.nic.upgrade({ device: deviceType('vring_packed')! });
  await flows();
  await eventually(() => driver.stats().upgrades === 1);

  first.hangUp();
  assert.equal(await first.useful, true);
  await eventually(() => !driver.running && ram.live === 0);
  assert.match(log.join('\n'), /warn: device lost: /);

  const other = connect(link, new NoteTakingFunction());
  assert.equal(await other.useful, false);
  assert.match(log.at(-1)!, /error: device refused: .*not a bpfhv device/);

  assert.equal(await connect(link, new NoteTakingFunction()).useful, false);
  assert.equal(log.filter(line => line.includes('refused')).length, 1, 'the same again is no news');

  const second = connect(link, fn);
  await eventually(() => driver.running);
  await flows();

  await driver.close();
  await slot.close();
  link.end();
  assert.equal(await second.useful, true);
  assert.deepEqual(fn.memory, [8, 8, 0], 'mapped twice, and unmapped at the end');
  assert.equal(ram.live, 0);
  fn.close();
  leave.abort();
  await over;
  device.close();
  ram.close();
  netdev.close();
  await backend.close();
});

leakTest('a server with another kind of device: the guest need not wait for the next', async () => {
  const link = new VfioUserLink(() => {});
  const { useful } = connect(link, new NoteTakingFunction());
  await assert.rejects(link.first, { name: 'PciError', code: 'PCI_DEVICE' });
  assert.equal(await useful, false);
});

/** What comes of a server that answers the greeting with this, and of what the guest waits for. */
async function greet(answer: (id: number) => Uint8Array | null): Promise<unknown> {
  const link = new VfioUserLink(() => {});
  const [mine, theirs] = socketPair('vfio-user');
  const bytes = new Uint8Array(4096);
  const useful = link.serve(socketChannel(mine));
  await eventually(() => theirs.receive(bytes) !== null);
  const said = answer(new DataView(bytes.buffer).getUint16(0, true));
  if (said) theirs.send(said);
  else theirs.close();
  assert.equal(await useful, false);
  theirs.close();
  return Promise.race([link.first, Promise.resolve('waits')]).catch(error => error.cause.code);
}

leakTest('a server that speaks something else is not waited for; one that has gone is', async () => {
  const version = (major: number) => (id: number) => encodeReply('VERSION', id, { major, minor: 0 });
  assert.equal(await greet(version(1)), 'VFIO_VERSION');
  assert.equal(await greet(id => version(0)(id).with(8, 0xf1)), 'VFIO_FLAGS');
  assert.equal(await greet(() => null), 'waits');
});
