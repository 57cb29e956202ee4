/** The NIC as control protocols see it: what is allowed when, what stops and starts, and that nothing is left behind. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as L from '../../datapath/layout.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { ARENA_START } from '../../src/memory/window.js';
import type { NicParameters } from '../../src/nic/control.js';
import { Nic } from '../../src/nic/nic.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { refillClaim } from '../compliance/actors.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { nicTest, RX, TX } from './nic-rig.js';

const code = (code: string) => ({ code });

nicTest('what is refused while it runs, and what is not', async start => {
  const rig = await start();
  const { nic } = rig;
  await rig.prepare();
  const requests: [string, boolean, () => unknown][] = [
    ['features', true, () => nic.features()],
    ['programs', true, () => nic.programs()],
    ['setFeatures', false, () => nic.setFeatures(0n)],
    ['setParameters', false, () => rig.parameters()],
    ['setQueueContext', false, () => nic.setQueueContext(TX, rig.context(TX))],
    ['setQueueContext 0', false, () => nic.setQueueContext(RX, 0n)],
    ['setQueueKick', false, () => nic.setQueueKick(TX, rig.kicks[TX]!.owner.dup())],
    ['setQueueKick none', false, () => nic.setQueueKick(TX, null)],
    ['setQueueIrq', true, () => nic.setQueueIrq(TX, rig.irqs[TX]!.owner.dup())],
    ['setMemoryTable', true, () => nic.setMemoryTable(rig.regions())],
    ['setUpgrade', true, () => nic.setUpgrade(EventFd.create('upgrade').owner)],
    ['enable again', true, () => nic.enable('tx')],
  ];
  const ask = async (running: boolean) => {
    for (const [name, whileRunning, request] of requests) {
      const fds = openFds().length;
      const asked = (async () => request())();
      if (running && !whileRunning) {
        await assert.rejects(asked, code('NIC_RUNNING'), name);
        assert.equal(openFds().length, fds, `${name}: what it gave away was closed`);
      } else await asked;
    }
  };
  for (const directions of [['tx'], ['rx'], ['rx', 'tx']] as const) {
    for (const direction of directions) await nic.enable(direction);
    requests.at(-1)![2] = () => nic.enable(directions[0]);
    await ask(true);
    for (const direction of directions) await nic.disable(direction);
  }
  assert.equal(nic.running, false);
  requests.pop();
  await ask(false);
  // Not everything is there any more: the parameters were set anew.
  await assert.rejects(nic.enable('rx'), code('NIC_INCOMPLETE'));
});

nicTest('enable needs every context, kick and interrupt; disable needs nothing', async start => {
  const rig = await start();
  const { nic } = rig;
  for (const direction of ['tx', 'rx', 'tx'] as const) await nic.disable(direction);
  await assert.rejects(nic.enable('tx'), code('NIC_INCOMPLETE'), 'no queues');
  await rig.prepare();
  const lacking: [() => Promise<void>, () => Promise<void>][] = [
    [() => nic.setQueueContext(RX, 0n), () => nic.setQueueContext(RX, rig.context(RX))],
    [() => nic.setQueueContext(TX, 0n), () => nic.setQueueContext(TX, rig.context(TX))],
    ...[RX, TX].flatMap(queue => [
      [() => nic.setQueueKick(queue, null), () => nic.setQueueKick(queue, rig.kicks[queue]!.owner.dup())] as [
        () => Promise<void>,
        () => Promise<void>,
      ],
      [() => nic.setQueueIrq(queue, null), () => nic.setQueueIrq(queue, rig.irqs[queue]!.owner.dup())] as [
        () => Promise<void>,
        () => Promise<void>,
      ],
    ]),
  ];
  for (const [take, give] of lacking) {
    await take();
    for (const direction of ['tx', 'rx'] as const) {
      await assert.rejects(nic.enable(direction), code('NIC_INCOMPLETE'));
    }
    assert.equal(nic.running, false);
    await give();
  }
  await rig.enable();
  assert.equal(nic.rxEnabled && nic.txEnabled, true);
  // An interrupt may be taken away under way, and the queue goes on without.
  await nic.setQueueIrq(TX, null);
  rig.publish(5);
  await eventually(() => rig.packets(TX) === 5);
});

nicTest(
  'an interrupt that was due while there was no eventfd for it comes with the next one',
  async start => {
    const rig = await start();
    const { nic, bed } = rig;
    await rig.prepare();
    await rig.enable();
    await nic.setQueueIrq(TX, null);
    rig.publish(5);
    bed.datapath.calls.driver_arm(bed.tx.driver, 5);
    await eventually(() => rig.packets(TX) === 5);
    const next = EventFd.create('next irq');
    await nic.setQueueIrq(TX, next.owner.dup());
    assert.equal(next.drain(), 1);
    next.close();
  },
);

nicTest('everyone who asks for the programs can read them from the start', async start => {
  const { nic } = await start();
  const expected = readFileSync(deviceType('sring')!.programs);
  for (let time = 0; time < 3; time++) {
    const bytes = Buffer.alloc(expected.length + 1);
    const file = nic.programs();
    assert.equal(readSync(file.fd, bytes, 0, bytes.length, null), expected.length); // at the file's own position
    assert.deepEqual(bytes.subarray(0, -1), expected);
    assert.throws(() => writeSync(file.fd, 'x'), { code: 'EBADF' });
  }
});

nicTest('values that can not be are refused and change nothing', async start => {
  const rig = await start({ limits: { queuePairs: 4, bufs: 256 } });
  const { nic, bed } = rig;
  const good = { numRxQueues: 1, numTxQueues: 1, numRxBufs: 64, numTxBufs: 64 };
  const bad: Partial<NicParameters>[] = [
    ...[0, 5, 0xffff_ffff].flatMap(n => [{ numRxQueues: n }, { numTxQueues: n }]),
    ...[0, 1, 8, 17, 63, 65, 96, 512, 0x8000_0000, 0xffff_ffff].flatMap(n => [
      { numRxBufs: n },
      { numTxBufs: n },
    ]),
  ];
  await assert.rejects(nic.setQueueContext(0, 4096n), code('NIC_QUEUE'), 'before any parameters');
  await rig.prepare();
  for (const values of bad) {
    assert.throws(() => nic.setParameters({ ...good, ...values }), code('NIC_PARAMETERS'));
  }
  for (const features of [1n, 1n << 63n, 2n ** 64n - 1n]) {
    assert.throws(() => nic.setFeatures(features), code('NIC_FEATURES'));
  }
  const eventfd = () => EventFd.create('stray').owner;
  for (const queue of [2, 64, 0xffff_ffff]) {
    await assert.rejects(nic.setQueueContext(queue, 0n), code('NIC_QUEUE'));
    await assert.rejects(nic.setQueueKick(queue, eventfd()), code('NIC_QUEUE'));
    await assert.rejects(nic.setQueueIrq(queue, eventfd()), code('NIC_QUEUE'));
  }
  const file = () => createMemfd({ name: 'no eventfd', size: 8 });
  await assert.rejects(nic.setQueueKick(TX, file()), code('EINVAL'));
  await assert.rejects(nic.setQueueIrq(TX, file()), code('EINVAL'));
  assert.throws(() => nic.setUpgrade(file()), code('EINVAL'));

  const first = bed.ram.guestPhysicalAddress;
  const end = first + BigInt(bed.ram.size);
  const contexts = [4096n, first - 4096n, end - 64n, end, 2n ** 64n - 8n];
  for (const odd of [1n, 2n, 4n, 7n]) contexts.push(first + 4096n + odd); // not aligned for its atomics
  for (const gpa of contexts) await assert.rejects(nic.setQueueContext(TX, gpa), code('MEMORY_ADDRESS'));
  const [dropped, ...missing] = rig.regions(2);
  dropped!.fd.close();
  // A guest that reboots leaves contexts behind in memory that goes: the table counts, they are let go.
  await nic.setMemoryTable(missing);
  await assert.rejects(nic.enable('rx'), code('NIC_INCOMPLETE'), 'a table without the contexts');
  await rig.prepare();
  await assert.rejects(nic.setMemoryTable([...rig.regions(), ...rig.regions()]), code('MEMORY_REGION'));

  // And after all that, what was set before works.
  await rig.enable();
  rig.publish(3);
  await eventually(() => rig.packets(TX) === 3);
  assert.deepEqual(rig.sink, { sequence: 3, outOfOrder: 0 });
});

nicTest('frames go both ways, numbered, counted, with interrupts', async start => {
  const rig = await start({ portSpec: 'source:len=100' });
  await rig.prepare();
  await rig.enable();
  rig.poll();
  await eventually(() => rig.poll() >= 0 && rig.guest.received.sequence > 5000);
  assert.equal(rig.guest.received.outOfOrder, 0);
  for (let sent = 0; sent < 2000; sent += rig.publish(64)) {
    await eventually(() => rig.bed.driver(rig.bed.tx, 0) !== 0 && rig.packets(TX) + 64 > sent);
  }
  await eventually(() => rig.packets(TX) === rig.guest.sent);
  await rig.disable();
  const [rx, tx] = rig.nic.stats().queues;
  assert.ok(rx!.packets >= rig.guest.received.sequence, 'counted what arrived');
  assert.equal(rx!.bytes, rx!.packets * 100);
  assert.equal(tx!.bytes, tx!.packets * 60);
  assert.deepEqual([rx!.errors, tx!.errors, tx!.buffers], [0, 0, tx!.packets]);
  assert.ok(tx!.kicks > 0 && rx!.interrupts > 0);
});

nicTest('down and up on the same contexts, again and again', async start => {
  const rig = await start();
  await rig.prepare();
  for (let round = 0; round < 25; round++) {
    await rig.enable();
    rig.poll();
    const past = rig.sink.sequence;
    const n = rig.publish(1 + ((round * 7) % 60));
    if (round % 3 === 0) await eventually(() => rig.sink.sequence === past + n);
    await rig.disable();
    // Drained or not drained before, all of it has left, once.
    assert.deepEqual(rig.sink, { sequence: rig.guest.sent, outOfOrder: 0 }, `round ${round}`);
    rig.reclaim();
    rig.publish(5, false); // posted while the device stands still …
    const { device } = rig.bed.audit(rig.bed.tx);
    assert.equal(device, 5);
    if (round % 2 === 0) {
      rig.bed.datapath.calls.driver_reclaim(rig.bed.tx.driver); // … and thought better of
      rig.bed.datapath.calls.driver_reset(rig.bed.tx.driver, rig.bed.num);
      await rig.enable();
      await rig.disable();
      assert.equal(rig.sink.sequence, rig.guest.sent - 5, 'nothing stale was sent');
      rig.publish(1, false);
      await rig.enable();
      await rig.disable();
      assert.equal(rig.sink.outOfOrder, 1, 'the gap of five');
    } else {
      await rig.enable();
      await rig.disable();
      assert.equal(rig.sink.sequence, rig.guest.sent, 'sent at the start');
    }
    rig.reclaim();
    window.longs[(rig.port.lanes[0]!.state + 8) / 8] = 0n; // forget the gap
  }
});

nicTest('a kick before the start is as good as one after it, a late one does no harm', async start => {
  const rig = await start();
  await rig.prepare();
  rig.publish(10);
  await rig.enable();
  await eventually(() => rig.packets(TX) === 10);
  await rig.disable();
  rig.publish(3, false);
  for (let i = 0; i < 100; i++) for (const kick of rig.kicks) kick.signal();
  await rig.nic.setQueueIrq(TX, rig.irqs[TX]!.owner.dup());
  assert.equal(rig.packets(TX), 10, 'stopped is stopped');
  await rig.enable();
  await eventually(() => rig.packets(TX) === 13);
  await rig.nic.disconnect();
  for (const kick of rig.kicks) kick.signal();
  assert.deepEqual(rig.nic.stats().queues, []);
  assert.equal(rig.sink.sequence, 13);
});

nicTest('a storm of kicks starves nobody', async start => {
  const rig = await start({ portSpec: 'source' });
  await rig.prepare();
  await rig.enable();
  rig.poll();
  let received = 0;
  await eventually(() => {
    for (let i = 0; i < 200; i++) for (const kick of rig.kicks) kick.signal();
    rig.publish(1, false);
    received += rig.poll();
    return received > 1000 && rig.packets(TX) > 50;
  });
  assert.equal(rig.guest.received.outOfOrder, 0);
});

nicTest('set again ten thousand times, descriptors do not pile up', async start => {
  const rig = await start();
  await rig.prepare();
  const before = {
    names: openFds()
      .map(({ name }) => name)
      .sort(),
    all: countProcessFds(),
    live: arena.live,
  };
  for (let i = 0; i < 10_000; i++) {
    const queue = i & 1;
    await rig.nic.setQueueKick(queue, rig.kicks[queue]!.owner.dup());
    await rig.nic.setQueueIrq(queue, rig.irqs[queue]!.owner.dup());
    if (i % 10 === 0) rig.nic.setUpgrade(rig.kicks[RX]!.owner.dup('upgrade'));
    if (i % 100 === 0) await rig.nic.setQueueContext(queue, rig.context(queue));
  }
  await rig.enable();
  for (let i = 0; i < 1000; i++) await rig.nic.setQueueIrq(i & 1, rig.irqs[i & 1]!.owner.dup());
  await rig.disable();
  const after = {
    names: openFds()
      .map(({ name }) => name)
      .sort(),
    all: countProcessFds(),
    live: arena.live,
  };
  assert.deepEqual(after, before);
});

nicTest('the memory table changes under traffic, and no frame is lost', async start => {
  const rig = await start({ portSpec: 'source' });
  await rig.prepare();
  await rig.enable();
  const mappings = openMappings().length;
  const { live } = arena;
  for (let round = 0; round < 120; round++) {
    rig.poll();
    rig.publish(20);
    const asked = rig.nic.setMemoryTable(rig.regions(1 + (round % 8)));
    rig.publish(20);
    rig.poll();
    await asked;
    if (round % 10 === 5) {
      const [dropped, ...rest] = rig.regions();
      dropped!.fd.close();
      await assert.rejects(rig.nic.setMemoryTable(rest), code('MEMORY_ADDRESS'));
    }
    await eventually(() => rig.packets(TX) === rig.guest.sent);
  }
  assert.deepEqual([openMappings().length, arena.live], [mappings, live]);
  await rig.disable();
  while (rig.poll() > 0);
  assert.equal(rig.guest.received.outOfOrder, 0);
  assert.ok(rig.guest.received.sequence > 1000);
  assert.equal(rig.nic.stats().queues[TX]!.errors, 0);
});

nicTest('the peer goes after every step, and another one finds the NIC as new', async start => {
  const rig = await start();
  const held = () => ({ fds: openFds(), mappings: openMappings(), live: arena.live });
  const before = held();
  const enabling = [() => rig.nic.enable('rx'), () => rig.nic.enable('tx'), () => rig.publish(9)];
  const conversation = [...rig.steps, ...enabling];
  for (let length = 0; length <= conversation.length; length++) {
    for (const step of conversation.slice(0, length)) await step();
    await rig.nic.disconnect();
    await rig.nic.disconnect();
    assert.equal(rig.nic.running, false);
    assert.deepEqual(held(), before, `after ${length} steps`);
    rig.bed.datapath.calls.driver_reset(rig.bed.tx.driver, rig.bed.num);
  }
  await rig.prepare();
  await rig.enable();
  const past = rig.sink.sequence;
  const n = rig.publish(9);
  await eventually(() => rig.packets(TX) === n);
  assert.ok(rig.sink.sequence >= past + n);
});

nicTest(
  'a guest that leaves nonsense in a stopped ring gets that queue stopped, not the other',
  async start => {
    const rig = await start();
    await rig.prepare();
    await rig.enable();
    rig.poll();
    await rig.disable();
    window.words[(rig.bed.rx.context + L.CTX_OPAQUE) >>> 2]! += 1000;
    await rig.enable();
    assert.ok(rig.log.some(line => /warn: queue 0: indices make no sense/.test(line)));
    rig.publish(7);
    await eventually(() => rig.packets(TX) === 7);
    await rig.disable();
    rig.reclaim([rig.bed.tx]);
    await rig.nic.setQueueContext(RX, rig.context(RX));
    rig.bed.datapath.calls.driver_reset(rig.bed.rx.driver, rig.bed.num);
    const warned = rig.log.length;
    await rig.enable();
    assert.ok(!rig.log.slice(warned).some(line => line.startsWith('warn')));
  },
);

nicTest('a guest of 16 GiB may move its contexts for ever', async start => {
  const rig = await start();
  rig.parameters();
  const file = createMemfd({ name: 'large guest', size: 2 ** 34 });
  const region = () => ({
    ...{ guestPhysicalAddress: 0n, size: 2n ** 34n, hypervisorVirtualAddress: 0n, mmapOffset: 0n },
    fd: file.dup(),
  });
  await rig.nic.setMemoryTable([region()]);
  const mappings = openMappings().length;
  for (let i = 1n; i <= 4000n; i++) {
    await rig.nic.setQueueContext(Number(i & 1n), i * 0x30_0000n);
    if (i % 500n === 0n) await rig.nic.setMemoryTable([region()]);
  }
  assert.equal(openMappings().length, mappings + 2);
  file.close();
});

nicTest('a worker that fails is told, and the NIC still gives everything back', async start => {
  const rig = await start();
  await rig.prepare();
  await rig.enable();
  // No guest can do this: the address of the transmit ring, in the host's own memory, now ends beyond the window.
  const own = rig.bed.sides.map(({ queue }) => queue.address);
  const word = (address: number, field: number) => window.words[(address + field) >>> 2]!;
  const queues: number[] = [];
  for (let at = ARENA_START; at < ARENA_START + 2 ** 20; at += 64) {
    const fits = word(at, L.QUEUE_RING) === word(at, L.QUEUE_CONTEXT) + L.CTX_OPAQUE;
    if (fits && word(at, L.QUEUE_NUM) === rig.bed.num && !own.includes(at)) queues.push(at);
  }
  assert.ok(queues.length >= 2); // and what earlier NICs left behind in free memory
  const rings = queues.map(at => word(at, L.QUEUE_RING));
  for (const at of queues) window.words[(at + L.QUEUE_RING) >>> 2] = 0xffff_fff8;
  rig.kicks[TX]!.signal();
  await eventually(() => rig.log.some(line => line.startsWith('error: the datapath worker failed')));
  for (const [i, at] of queues.entries()) window.words[(at + L.QUEUE_RING) >>> 2] = rings[i]!;
  await rig.nic.disable('rx');
  assert.equal(rig.nic.rxEnabled, false);
  await assert.rejects(rig.nic.enable('rx'), code('THREAD_FAILED'));
  await rig.nic.disconnect();
});

nicTest('receive buffers too short for any frame come back empty and hold up nobody', async start => {
  const rig = await start({ portSpec: 'source', num: 16 });
  const { bed } = rig;
  await rig.prepare();
  await rig.enable();
  const short = { gpa: bed.ram.toGuest(bed.rx.buffers), length: 10 };
  for (const claim of [short, short, null, short, null]) refillClaim(bed, claim);
  rig.kicks[RX]!.signal();
  await eventually(() => rig.packets(RX) === 5);
  assert.equal(bed.datapath.calls.driver_rx_poll(bed.rx.driver, bed.guestBatch.address, 16), 5);
  assert.deepEqual(
    [0, 1, 2, 3, 4].map(i => bed.guestBatch.length(i)),
    [0, 0, 60, 0, 60],
  );
  bed.datapath.calls.driver_rx_release(bed.rx.driver, bed.guestBatch.address);
  assert.equal(bed.audit(bed.rx).free, 16);
});

nicTest('a NIC whose worker can not start leaves nothing', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-'));
  const device = { ...deviceType('sring')!, name: 'no such ring' };
  const port = openPort('sink', { window, arena });
  const capture = join(folder, 'capture');
  try {
    await assert.rejects(Nic.start({ window, arena, device, port, capture }), { code: 'THREAD_FAILED' });
  } finally {
    port.close();
    rmSync(folder, { recursive: true });
  }
});
