/** Both ends of vfio-user with each other, over a function that takes notes. */
import assert from 'node:assert/strict';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  type ClientMemory,
  FEATURE_FLAG,
  IRQ_SET,
  serveVfioUser,
  type VfioClientOptions,
  type VfioServerOptions,
  VfioUserAccess,
  VfioUserClient,
} from '../../src/control/vfio-user/index.js';
import { PciError } from '../../src/guest/pci/access.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { NoteTakingFunction } from './vfio-user-peer.js';

async function pair(
  fn: NoteTakingFunction,
  { server, client }: { server?: VfioServerOptions; client?: VfioClientOptions } = {},
) {
  const [mine, theirs] = socketPair('vfio-user');
  const refusals: string[] = [];
  const onRefused = (command: string, error: Error) => void refusals.push(`${command}: ${error.message}`);
  const ended = serveVfioUser(socketChannel(theirs), fn, { onRefused, ...server });
  return { client: await VfioUserClient.connect(socketChannel(mine), client), ended, refusals };
}

leakTest('a client learns what there is, reads, writes, maps and connects', async () => {
  const fn = new NoteTakingFunction();
  const { client, ended, refusals } = await pair(fn);
  assert.deepEqual(client.capabilities, {
    maxMsgFds: 8,
    maxDataXferSize: 1 << 20,
    maxDmaMaps: 65535,
    pgsizes: 4096,
    writeMultiple: false,
  });
  assert.deepEqual(await client.getInfo(), { flags: 3, numRegions: 9, numIrqs: 5 });
  const bar0 = { index: 0, flags: 3, size: 8192n, offset: 0n, areas: null, caps: [], fd: null };
  assert.deepEqual(await client.getRegionInfo(0), bar0);
  assert.deepEqual(await client.getIrqInfo(IRQ.MSIX), { flags: 1, count: 32 });

  const ram = createMemfd({ name: 'ram', size: 1 << 20 });
  await client.dmaMap({ iova: 0n, size: 1n << 20n, fd: ram });
  await client.dmaUnmap(0n, 1n << 20n);
  await client.regionWrite(0, 0x10, Uint8Array.of(1, 2, 3, 4));
  await client.regionWrite(0, 0x14, Uint8Array.of(5), { posted: true });
  assert.deepEqual([...(await client.regionRead(0, 0x10, 8))], [1, 2, 3, 4, 5, 0, 0, 0]);
  const eventfds = Array.from({ length: 20 }, (_, i) => EventFd.create(`vector ${i}`));
  await client.connectIrqs(
    IRQ.MSIX,
    0,
    eventfds.map(({ owner }) => owner),
  );
  assert.ok(fn.signal(IRQ.MSIX, 19));
  assert.equal(eventfds[19]!.drain(), 1);
  await client.setIrqs({
    ...{ flags: IRQ_SET.DATA_NONE | IRQ_SET.TRIGGER, index: IRQ.MSIX, start: 3, count: 2 },
  });
  assert.equal(eventfds[4]!.drain(), 1);
  await client.disableIrqs(IRQ.MSIX);
  await client.reset();
  await assert.rejects(client.deviceFeature(1 | FEATURE_FLAG.PROBE), { code: 'VFIO_REFUSED', errno: 25 });
  await assert.rejects(client.migDataRead(100), { code: 'VFIO_REFUSED', errno: 95 });
  assert.deepEqual(await client.getIoFds(0), { entries: [], fds: [] });
  client.close();
  assert.equal(await client.closed, null);
  const end = await ended;
  assert.equal(end.error, null);
  assert.equal(end.refused, 2);
  assert.equal(refusals.length, 2);
  assert.equal(fn.calls.at(-1), 'disconnect()');
  ram.close();
  for (const eventfd of eventfds) eventfd.close();
});

leakTest('thousands of maps that are under way together, and a doorbell behind them', async () => {
  const fn = new NoteTakingFunction();
  const { client, ended } = await pair(fn);
  const ram = createMemfd({ name: 'ram', size: 1 << 24 });
  const COUNT = 2000;
  const page = (i: number) => (i * 7919) % COUNT;
  const maps = Array.from({ length: COUNT }, (_, i) =>
    client.dmaMap({ iova: BigInt(page(i)) << 13n, size: 4096n, fd: ram, offset: BigInt(page(i)) << 12n }),
  );
  await client.regionWrite(0, 0, new Uint8Array(4));
  assert.equal(fn.memory.length, COUNT);
  await Promise.all(maps);
  const changes = fn.calls.filter(call => call.startsWith('setMemory'));
  assert.ok(changes.length < COUNT / 20, `${changes.length} changes of memory`);
  // Side by side in the file as well, they are one region.
  await Promise.all(
    Array.from({ length: COUNT }, (_, i) =>
      client.dmaMap({ iova: (BigInt(page(i)) << 13n) + 4096n, size: 4096n, fd: null }),
    ),
  );
  await client.dmaUnmapAll();
  await Promise.all(
    Array.from({ length: COUNT }, (_, i) =>
      client.dmaMap({ iova: BigInt(page(i)) << 12n, size: 4096n, fd: ram, offset: BigInt(page(i)) << 12n }),
    ),
  );
  assert.equal(fn.memory.length, 1);
  assert.equal(fn.memory[0]!.size, BigInt(COUNT) << 12n);
  client.close();
  assert.equal((await ended).error, null);
  ram.close();
});

leakTest('the largest accesses, both ways, many at a time', async () => {
  const fn = new NoteTakingFunction();
  const ram = new Uint8Array(1 << 20).map((_, i) => i * 7);
  const handler = {
    read: (address: bigint, into: Uint8Array) =>
      into.set(ram.subarray(Number(address), Number(address) + into.length)),
    write: (address: bigint, bytes: Uint8Array) => ram.set(bytes, Number(address)),
  };
  let memory: ClientMemory | null = null;
  const { client, ended } = await pair(fn, {
    server: { onMemory: m => (memory = m) },
    client: { memory: handler },
  });
  fn.regions[REGION.BAR1] = { size: 4 << 20, readable: true, writable: true };
  fn.bytes[REGION.BAR1] = new Uint8Array(4 << 20);
  const bytes = Uint8Array.from({ length: 1 << 20 }, (_, i) => i * 13);
  await Promise.all([0, 1, 2, 3].map(i => client.regionWrite(1, i << 20, bytes)));
  const [all, read] = await Promise.all([
    Promise.all([0, 1, 2, 3].map(i => client.regionRead(1, i << 20, 1 << 20))),
    memory!.read(0n, 1 << 20),
  ]);
  for (const piece of all) assert.ok(Buffer.from(piece).equals(bytes));
  assert.ok(Buffer.from(read).equals(ram));
  await memory!.write(1000n, bytes.subarray(0, 500_000));
  assert.ok(Buffer.from(ram.subarray(1000, 501_000)).equals(bytes.subarray(0, 500_000)));
  client.close();
  assert.equal((await ended).error, null);
});

/** A configuration space whose third capability is MSI-X's. */
function configure(fn: NoteTakingFunction): void {
  const config = fn.bytes[REGION.CONFIG]!;
  [config[0x06], config[0x34]] = [0x10, 0x40];
  config.set([0x01, 0x50], 0x40);
  config.set([0x09, 0x60], 0x50);
  config.set([0x11, 0x00, 0x1f, 0x40], 0x60);
}

async function access(fn: NoteTakingFunction, client: VfioClientOptions = {}) {
  const [mine, theirs] = socketPair('vfio-user');
  const stop = new AbortController();
  const ended = serveVfioUser(socketChannel(theirs), fn, { signal: stop.signal });
  return { access: await VfioUserAccess.open(socketChannel(mine), client), ended, stop };
}

leakTest('a driver reaches a function: registers, memory, interrupts, doorbells', async () => {
  const fn = new NoteTakingFunction();
  configure(fn);
  const bell = EventFd.create('bell');
  fn.bells.push({ offset: 0x1000, size: 4, fd: bell.owner });
  const { access: pci, ended } = await access(fn);
  assert.equal(pci.vectors, 32);
  assert.deepEqual(
    [0, 1, 2, 7, 8].map(region => pci.regionSize(region)),
    [8192, 0, 4096, 4096, 0],
  );

  await pci.write(0, 0, 0xfedcba98, 4);
  await pci.write(0, 4, 0x1234, 2);
  await pci.write(0, 6, 0x56, 1);
  assert.deepEqual(
    [await pci.read(0, 0, 4), await pci.read(0, 4, 2), await pci.read(0, 6, 1)],
    [0xfedcba98, 0x1234, 0x56],
  );
  assert.deepEqual([...(await pci.readWords(0, 0, 8))], [0x98, 0xba, 0xdc, 0xfe, 0x34, 0x12, 0x56, 0]);

  const ram = createMemfd({ name: 'ram', size: 1 << 20 });
  await pci.map({ iova: 1n << 32n, size: 8192, fd: ram, offset: 4096 });
  const { guestPhysicalAddress, size, mmapOffset, writable } = fn.memory[0]!;
  assert.deepEqual([guestPhysicalAddress, size, mmapOffset, writable], [1n << 32n, 8192n, 4096n, true]);
  await pci.unmap(1n << 32n, 8192);
  assert.equal(fn.memory.length, 0);
  await pci.map({ iova: 1n << 32n, size: 8192, fd: ram, offset: 4096 });

  const vectors = Array.from({ length: 20 }, (_, i) => EventFd.create(`vector ${i}`));
  await pci.connect(vectors.map(({ owner }) => owner));
  const config = fn.bytes[REGION.CONFIG]!;
  assert.equal(config[0x63], 0x80, 'MSI-X is on, and not masked');
  assert.ok(fn.signal(IRQ.MSIX, 19) && !fn.signal(IRQ.MSIX, 20));
  assert.equal(vectors[19]!.drain(), 1);
  await pci.connect(vectors.slice(0, 2).map(({ owner }) => owner));
  assert.ok(fn.signal(IRQ.MSIX, 1) && !fn.signal(IRQ.MSIX, 2));
  await pci.connect([]);
  assert.equal(config[0x63], 0);
  assert.ok(!fn.signal(IRQ.MSIX, 0));
  await pci.connect([vectors[0]!.owner]);
  await assert.rejects(pci.connect(new Array(33).fill(vectors[0]!.owner)), { code: 'PCI_DEVICE' });

  // A doorbell of the function's own, and one through this thread.
  const own = pci.doorbell(0, 0x1000)!;
  EventFd.adopt(own).signal();
  assert.equal(bell.drain(), 1);
  assert.equal(pci.doorbell(0, 0x1004), null);
  const kick = EventFd.create('kick');
  await pci.wire(0, 0x1004, 0x0a0b, 2, kick.owner);
  const rung = () => fn.calls.filter(call => call === 'write(0, 0x1004, 0b0a)').length;
  for (let n = 1; n <= 3; n++) {
    kick.signal();
    await eventually(() => rung() === n);
  }
  await pci.wire(0, 0x1004, 7, 1, kick.owner);
  kick.signal();
  await eventually(() => fn.calls.at(-1) === 'write(0, 0x1004, 07)');

  await assert.rejects(pci.read(0, 8192, 4), { code: 'PCI_DEVICE' });
  await assert.rejects(pci.map({ iova: 1n, size: 4096, fd: ram, offset: 0 }), { code: 'PCI_DEVICE' });
  let gone = 0;
  pci.onGone = () => gone++;
  const calls = fn.calls.length;
  await pci.close();
  assert.deepEqual(fn.calls.slice(calls, calls + 2), ['connect(2.0, nothing)', 'connect(2.1, nothing)']);
  assert.ok(fn.calls.includes('reset()', calls));
  assert.deepEqual(fn.memory, [], 'memory is not reached any more when close resolves');
  await pci.close();
  assert.equal((await ended).error, null);
  await assert.rejects(pci.read(0, 0, 4), { code: 'PCI_GONE' });
  await assert.rejects(pci.wire(0, 0, 1, 4, kick.owner), { code: 'PCI_GONE' });
  assert.equal(gone, 0);
  for (const eventfd of [...vectors, bell, kick]) eventfd.close();
  ram.close();
});

leakTest('a function that goes away says so, once', async () => {
  const fn = new NoteTakingFunction();
  const { access: pci, ended, stop } = await access(fn);
  const kick = EventFd.create('kick');
  await pci.wire(0, 0x1000, 1, 4, kick.owner);
  const gone = new Promise<Error | null>(resolve => {
    pci.onGone = reason => resolve(reason);
  });
  stop.abort();
  assert.equal(await gone, null);
  kick.signal();
  for (const call of [
    () => pci.read(0, 0, 4),
    () => pci.readWords(0, 0, 8),
    () => pci.write(0, 0, 1, 4),
    () => pci.connect([kick.owner]),
    () => pci.map({ iova: 0n, size: 4096, fd: kick.owner, offset: 0 }),
    () => pci.unmap(0n, 4096),
  ]) {
    await assert.rejects(call(), (error: unknown) => error instanceof PciError && error.code === 'PCI_GONE');
  }
  await pci.close();
  await ended;
  kick.close();
});

leakTest('functions that no driver can have', async () => {
  const open = (fn: NoteTakingFunction) => access(fn);
  const huge = new NoteTakingFunction();
  huge.irqs[IRQ.MSIX] = 2049;
  await assert.rejects(open(huge), { code: 'PCI_DEVICE' });
  const bad = new NoteTakingFunction();
  const file = createMemfd({ name: 'no doorbell', size: 4096 });
  bad.bells.push({ offset: 0, size: 4, fd: file });
  await assert.rejects(open(bad), { code: 'PCI_DEVICE' });
  file.close();
  // A list of capabilities that is a ring: there is no MSI-X to switch on.
  const ring = new NoteTakingFunction();
  ring.bytes[REGION.CONFIG]![0x34] = 0x40;
  ring.bytes[REGION.CONFIG]!.set([0x05, 0x40], 0x40);
  const { access: pci, ended } = await open(ring);
  await pci.close();
  await ended;
  const [mine, theirs] = socketPair('vfio-user');
  theirs.close();
  await assert.rejects(VfioUserAccess.open(socketChannel(mine)), { code: 'PCI_GONE' });
});
