/** A virtio NIC whose front end changes its mind while frames move: doorbells, memory, dirty log, port, enabling, mistakes. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EventFd } from '../../src/linux/eventfd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { eventually } from '../../src/linux/testing.js';
import { portFlow } from '../../src/port/flow.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena } from '../compliance/testbed.js';
import { anFd } from './vhost-user-peer.js';
import { qemu7, qemu11, type Step } from './vhost-user-scripts.js';
import { type VirtioRig, virtioTest, window } from './virtio-rig.js';

/** QEMU's conversation up to rings that run. */
async function run(rig: VirtioRig): Promise<void> {
  const { connect, reset, start } = qemu11(rig.place);
  await rig.say(connect, reset, start);
  assert.deepEqual(rig.peer.refusals, []);
}

/** Frames go out, all of them. */
async function goOut(rig: VirtioRig, frames = 50, kick = true): Promise<void> {
  const before = rig.packets(1);
  const n = rig.publish(frames, { kick });
  assert.ok(n > 0);
  await eventually(() => rig.packets(1) === before + n);
}

async function comeIn(rig: VirtioRig): Promise<void> {
  rig.refill();
  await eventually(() => rig.poll() > 0);
  assert.equal(rig.guest().received.outOfOrder, 0);
}

virtioTest('doorbells are replaced, given up and taken back while frames move', async start => {
  const rig = await start({ portSpec: 'source' });
  await run(rig);
  await goOut(rig);
  const kick = EventFd.create('another doorbell');
  assert.ok(await rig.peer.confirm('SET_VRING_KICK', { value: 1n }, [kick.owner.dup()]));
  const before = rig.packets(1);
  assert.equal(rig.publish(5, { kick: false }), 5);
  kick.signal();
  await eventually(() => rig.packets(1) === before + 5);
  kick.close(); // the front end's end of it: nobody can ring any more
  assert.ok(await rig.peer.confirm('SET_VRING_KICK', { value: 0x101n }));
  await goOut(rig, 10, false); // looked at by itself
  assert.ok(await rig.peer.confirm('SET_VRING_KICK', { value: 1n }, [rig.kicks[1]!.owner.dup()]));
  await goOut(rig);
  await comeIn(rig);
  assert.equal(rig.nic.stats().queues.length, 2);
});

virtioTest('interrupts: none, one that comes late, another one', async start => {
  const rig = await start({ portSpec: 'source' });
  await run(rig);
  await comeIn(rig);
  assert.ok(rig.calls[0]!.drain() > 0);
  assert.ok(await rig.peer.confirm('SET_VRING_CALL', { value: 0x100n }));
  const interrupts = rig.nic.stats().queues[0]!.interrupts;
  await comeIn(rig);
  rig.calls[0]!.drain();
  await comeIn(rig);
  assert.equal(rig.nic.stats().queues[0]!.interrupts, interrupts);
  assert.equal(rig.calls[0]!.drain(), 0);
  const another = EventFd.create('another interrupt');
  assert.ok(await rig.peer.confirm('SET_VRING_CALL', { value: 0n }, [another.owner.dup()]));
  await eventually(() => another.drain() > 0); // what was due is told at once
  another.close();
});

virtioTest('a ring that is disabled: what is sent goes nowhere, nothing is received', async start => {
  const rig = await start({ portSpec: 'source' });
  await run(rig);
  await goOut(rig);
  await comeIn(rig);
  assert.ok(await rig.peer.confirm('SET_VRING_ENABLE', { index: 0, num: 0 }));
  assert.ok(await rig.peer.confirm('SET_VRING_ENABLE', { index: 1, num: 0 }));
  assert.ok(!rig.nic.running);
  while (rig.poll() > 0) {}
  const { sent, received } = rig.port.counters();
  await goOut(rig, 20);
  await goOut(rig, 20);
  assert.deepEqual([rig.port.counters().sent, rig.port.counters().received], [sent, received]);
  assert.equal(rig.poll(), 0);
  assert.ok(await rig.peer.confirm('SET_VRING_ENABLE', { index: 0, num: 1 }));
  assert.ok(await rig.peer.confirm('SET_VRING_ENABLE', { index: 1, num: 1 }));
  await goOut(rig, 20);
  assert.equal(rig.port.counters().sent, sent + 20);
  await comeIn(rig);
});

virtioTest('features are said again while rings run: they go on', async start => {
  const rig = await start({ portSpec: 'source' });
  await run(rig);
  await goOut(rig);
  for (let i = 0; i < 3; i++)
    assert.ok(await rig.peer.confirm('SET_FEATURES', { value: F.VERSION_1 | (1n << 30n) }));
  assert.equal(await rig.peer.confirm('SET_FEATURES', { value: 1n << 60n }), false, 'not offered');
  await goOut(rig);
  await comeIn(rig);
});

for (const [format, accept] of [
  ['split', F.VERSION_1 | F.EVENT_IDX],
  ['packed', F.VERSION_1 | F.EVENT_IDX | F.RING_PACKED],
] as const)
  virtioTest(
    `${format}: a backend that comes after another goes on where that one was, whatever QEMU says`,
    async start => {
      const rig = await start({ portSpec: 'source', accept });
      for (let backend = 0; backend < 12; backend++) {
        await run(rig); // each time from where the first one began
        rig.poll();
        for (let i = 0; i < 3; i++) await goOut(rig, 7 + 3 * backend);
        await comeIn(rig);
        assert.equal(rig.poll() >= 0, true);
        const gone = rig.peer;
        await rig.reconnect();
        assert.notEqual(rig.peer, gone);
      }
      assert.equal(rig.port.counters().sent, rig.guest().sent, 'each frame once');
    },
  );

virtioTest('regions come and go under running rings', async start => {
  const rig = await start({ portSpec: 'source', cut: 4 });
  await run(rig);
  await goOut(rig);
  const { regions } = rig.place;
  const region = regions[3]!; // holds nothing that is in use
  for (let i = 0; i < 5; i++) {
    assert.ok(
      await rig.peer.confirm('REM_MEM_REG', { pad: 0n, ...region }, i % 2 === 0 ? [anFd('stray')] : []),
    );
    await goOut(rig, 10);
    assert.ok(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...region }, [rig.ram.fd.dup()]));
    await goOut(rig, 10);
  }
  // What QEMU 7.2 does: each once per queue pair.
  assert.ok(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...region }, [rig.ram.fd.dup()]));
  for (let i = 0; i < 2; i++) assert.ok(await rig.peer.confirm('REM_MEM_REG', { pad: 0n, ...region }));
  for (let i = 0; i < 2; i++)
    assert.ok(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...region }, [rig.ram.fd.dup()]));
  await goOut(rig, 10);
  const elsewhere = { ...region, mmapOffset: 0n };
  assert.equal(
    await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...elsewhere }, [rig.ram.fd.dup()]),
    false,
    'another one is there',
  );
  assert.equal(
    await rig.peer.confirm('REM_MEM_REG', { pad: 0n, ...region, size: 4096n }),
    false,
    'a part of one',
  );
  // The one with the rings: they stand still until it is back, and go on where they were.
  const home = regions[0]!;
  assert.ok(await rig.peer.confirm('REM_MEM_REG', { pad: 0n, ...home }));
  assert.ok(!rig.nic.running);
  const before = rig.packets(1);
  const n = rig.publish(7);
  await rig.peer.settle();
  assert.equal(rig.packets(1), before);
  assert.ok(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...home }, [rig.ram.fd.dup()]));
  await eventually(() => rig.packets(1) === before + n);
  await comeIn(rig);
  // The whole table at once, again and again.
  for (let i = 0; i < 5; i++) {
    const fds = regions.map(() => rig.ram.fd.dup());
    assert.ok(await rig.peer.confirm('SET_MEM_TABLE', { count: 4, each: regions }, fds));
    await goOut(rig, 10);
  }
  assert.ok(await rig.peer.confirm('SET_MEM_TABLE', { count: 0, each: [] }));
  assert.ok(!rig.nic.running);
});

virtioTest('509 regions, and not one more', async start => {
  const rig = await start({ cut: 510, ramSize: 510 * 4096 * 4 });
  const { connect, start: all } = qemu7(rig.place);
  await rig.say(connect);
  const adds = all.filter(({ name }) => name === 'ADD_MEM_REG');
  await rig.say(adds.slice(0, 509));
  const [last] = adds.slice(509) as [Step<'ADD_MEM_REG'>];
  assert.equal(await rig.peer.confirm('ADD_MEM_REG', last.values, [rig.ram.fd.dup()]), false);
  await rig.say(all.filter(({ name }) => name !== 'ADD_MEM_REG'));
  await goOut(rig);
});

virtioTest('a dirty log: pages that were written are marked, as long as that is wanted', async start => {
  for (const packed of [false, true]) {
    const accept = F.VERSION_1 | (packed ? F.RING_PACKED : 0n);
    const rig = await start({ portSpec: 'source', accept });
    await run(rig);
    await comeIn(rig);
    const end = rig.ram.guestPhysicalAddress + BigInt(rig.ram.size);
    const size = Number(end / 4096n / 8n) + 8; // not in whole pages
    const memfd = createMemfd({ name: 'log', size: size + 4096 });
    const bitmap = () => {
      const bytes = Buffer.alloc(size);
      const view = readFileSync(`/proc/self/fd/${memfd.fd}`);
      view.copy(bytes, 0, 4096);
      return bytes;
    };
    const marked = (gpa: bigint) => (bitmap()[Number(gpa >> 15n)]! & (1 << Number((gpa >> 12n) & 7n))) !== 0;
    const { descriptor, used, available } = rig.place.ring(0);
    const toGuest = (address: bigint) => address - 0x7f00_0000_0000n + rig.ram.guestPhysicalAddress;
    const log = (flags: number) => ({
      ...{ index: 0, flags, descriptor, used, available, logGuestAddress: toGuest(used) },
    });
    assert.equal(
      await rig.peer.number('SET_LOG_BASE', { size: BigInt(size), offset: 4096n }, [memfd.dup()]),
      0n,
    );
    assert.ok(!bitmap().some(byte => byte !== 0), 'nothing before it is wanted');
    assert.ok(await rig.peer.confirm('SET_FEATURES', { value: accept | F.LOG_ALL | (1n << 30n) }));
    assert.ok(await rig.peer.confirm('SET_VRING_ADDR', log(1)));
    await comeIn(rig);
    await eventually(() => marked(toGuest(packed ? descriptor : used)), 2000);
    assert.ok(bitmap().some((byte, i) => byte !== 0 && i >= Number(rig.ram.guestPhysicalAddress >> 15n)));
    // Off again.
    assert.ok(await rig.peer.confirm('SET_FEATURES', { value: accept | (1n << 30n) }));
    writeFileSync(`/proc/self/fd/${memfd.fd}`, Buffer.alloc(size + 4096), { flag: 'r+' });
    await comeIn(rig);
    assert.ok(!bitmap().some(byte => byte !== 0), 'nothing when it is not wanted any more');
    for (const [bytes, offset] of [
      [0n, 0n],
      [BigInt(size), 8192n],
      [1n << 40n, 0n],
      [(1n << 64n) - 1n, (1n << 64n) - 1n],
    ] as const) {
      const answer = await rig.peer.ask('SET_LOG_BASE', { size: bytes, offset }, [memfd.dup()]);
      assert.equal(answer.payload.length, 0, `${bytes} at ${offset}`);
    }
    memfd.close();
    await rig.close();
  }
});

virtioTest('the network is told where the guest is', async start => {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-rarp-'));
  const file = join(folder, 'out.pcap');
  const rig = await start({ portSpec: `pcap:out=${file}` });
  await rig.say(qemu7(rig.place).connect);
  const mac = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
  const value = new DataView(new Uint8Array([...mac, 0, 0]).buffer).getBigUint64(0, true);
  assert.ok(await rig.peer.confirm('SEND_RARP', { value }));
  const frame = Buffer.from([
    ...[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ...mac, 0x80, 0x35],
    ...[0, 1, 8, 0, 6, 4, 0, 3, ...mac, 0, 0, 0, 0, ...mac, 0, 0, 0, 0],
  ]);
  await rig.close();
  const captured = readFileSync(file);
  const at = captured.indexOf(frame);
  assert.ok(at > 0, 'the frame is in the file');
  rmSync(folder, { recursive: true });
});

virtioTest('an MTU that can be, and those that can not', async start => {
  const rig = await start();
  await rig.say(qemu7(rig.place).connect);
  assert.ok(await rig.peer.confirm('NET_SET_MTU', { value: 9000n }));
  for (const value of [0n, 67n, 65536n, 1n << 63n]) {
    assert.equal(await rig.peer.confirm('NET_SET_MTU', { value }), false);
  }
  assert.match(rig.nic.dump(), /MTU 9000/);
});

for (const merge of [false, true])
  virtioTest(
    `frames as long as the MTU, ${merge ? 'over several buffers' : 'in one buffer'}`,
    async start => {
      const length = 9000 + 14;
      const accept = F.VERSION_1 | (merge ? F.MRG_RXBUF : 0n);
      const buffers = merge ? { frameBuffers: 8 } : { room: length };
      const guest = async (mtu: bigint | null) => {
        const rig = await start({ accept, portSpec: 'switch:jumbo', ramSize: 16 << 20, ...buffers });
        const { connect, reset, start: rest } = qemu11(rig.place);
        await rig.say(connect, reset);
        if (mtu) assert.ok(await rig.peer.confirm('NET_SET_MTU', { value: mtu }));
        await rig.say(rest);
        rig.refill();
        return rig;
      };
      const [sender, receiver] = [await guest(9000n), await guest(9000n)];
      let sent = 0;
      for (let round = 0; round < 5; round++) {
        sent += sender.publish(4, { length, from: 1, to: 2 });
        let got = 0;
        await eventually(() => (got += receiver.poll()) === 4);
      }
      const [rx, tx] = [receiver.nic.stats().queues[0]!, sender.nic.stats().queues[1]!];
      assert.deepEqual([tx.bytes, rx.bytes, rx.packets], [sent * length, sent * length, sent]);
      assert.equal(rx.buffers, sent * (merge ? Math.ceil((length + 12) / 2048) : 1));
      assert.equal(receiver.guest().received.outOfOrder, 0);
      // One that was told nothing has Ethernet's own length.
      const other = await guest(null);
      other.publish(1, { from: 3, to: 4 });
      await eventually(() => receiver.poll() === 1);
      await eventually(() => {
        sender.publish(1, { length, from: 1, to: 3 });
        sender.publish(1, { length: 1518, from: 1, to: 3 });
        return other.poll() > 0;
      });
      assert.equal(other.nic.stats().queues[0]!.bytes, other.packets(0) * 1518);
      assert.ok(other.port.counters().tooLong > 0);
    },
  );

virtioTest('port and way of waiting are changed under traffic', async start => {
  const rig = await start({ portSpec: 'source' });
  await run(rig);
  await goOut(rig);
  const sink = openPort('sink', { window, arena });
  assert.equal((await rig.nic.change({ port: sink, spin: true })).outcome, 'done');
  await goOut(rig, 20);
  assert.equal(portFlow(window, sink)!.sequence > 0, true);
  await rig.nic.change({ port: rig.port, spin: false });
  sink.close();
  await goOut(rig, 20);
  await comeIn(rig);
});

/** What can be said wrongly of a ring, each instead of what is right. */
const WRONG: readonly (readonly [what: string, name: string, values: object])[] = [
  ['more descriptors than allowed', 'SET_VRING_NUM', { num: 16384 }],
  ['no descriptors', 'SET_VRING_NUM', { num: 0 }],
  ['no power of two', 'SET_VRING_NUM', { num: 63 }],
  ['descriptors misaligned', 'SET_VRING_ADDR', { descriptor: 0x7f00_0000_0008n }],
  ['used ring misaligned', 'SET_VRING_ADDR', { used: 0x7f00_0000_0002n }],
  ['available ring misaligned', 'SET_VRING_ADDR', { available: 0x7f00_0000_0001n }],
  ['descriptors nowhere', 'SET_VRING_ADDR', { descriptor: 0n }],
  ['descriptors beyond the memory', 'SET_VRING_ADDR', { descriptor: 0x7f00_007f_fff0n }],
  ['descriptors that wrap', 'SET_VRING_ADDR', { descriptor: (1n << 64n) - 16n }],
  ['a base that no ring has', 'SET_VRING_BASE', { num: 0x1_0000 }],
];

for (const [what, name, values] of WRONG) {
  virtioTest(`a ring with ${what} does not run, the other one does; said rightly, it runs`, async start => {
    const rig = await start({ portSpec: 'source' });
    const { connect, reset, start: right, stop } = qemu11(rig.place);
    const wrong = right.map(step =>
      step.name === name && (step.values as { index: number }).index === 0
        ? ({ ...step, values: { ...step.values, ...values } } as Step)
        : step,
    );
    await rig.say(connect, reset);
    for (const step of wrong) {
      const { how, fds = [] } = step;
      const kept = fds.map(attached => rig.supply(attached, step));
      if (how === 'ack') await rig.peer.confirm(step.name, step.values, kept);
      else rig.peer.tell(step.name, step.values, kept);
    }
    await rig.peer.settle();
    assert.ok(rig.peer.refusals.length > 0);
    await goOut(rig);
    rig.refill();
    assert.equal(rig.packets(0), 0);
    await rig.say(stop);
    await rig.say(right.filter(step => step.name !== 'ADD_MEM_REG'));
    await goOut(rig);
    await comeIn(rig);
  });
}
