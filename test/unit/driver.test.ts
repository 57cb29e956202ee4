/** The guest driver with real backends in the same process: traffic, down and up, backends that come and go, and hostile ones. */
import assert from 'node:assert/strict';
import { readFileSync, writeSync } from 'node:fs';
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { assemble } from '../../src/ebpf/asm.js';
import { loadObject } from '../../src/ebpf/elf.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { type NicControl, NicError } from '../../src/nic/control.js';
import type { Nic } from '../../src/nic/nic.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { type Guest, guestTest } from './driver-rig.js';
import { writeObject } from './ebpf-elf-writer.js';

for (const spin of [false, true]) {
  const how = spin ? 'spinning' : 'sleeping';
  guestTest(`what the guest sends arrives in order, all of it, ${how}`, async make => {
    const guest = await make.guest({ netdev: 'source:len=200', spin });
    const backend = await make.backend('sink', { spin });
    guest.connect(backend.nic);
    await guest.driver.setInterfaceUp(true);
    await guest.driver.whenRunning();
    await eventually(() => backend.flow.sequence > 20_000);
    await guest.driver.setInterfaceUp(false);
    assert.equal(guest.driver.running, false);
    const tx = guest.driver.stats().queues.find(({ direction }) => direction === 'tx')!;
    const seen = backend.nic.stats().queues.find(({ direction }) => direction === 'tx')!;
    assert.deepEqual(backend.flow, { sequence: guest.flow.sequence, outOfOrder: 0 });
    assert.equal(tx.packets, guest.flow.sequence);
    assert.deepEqual(
      [seen.packets, seen.bytes, seen.errors, tx.errors],
      [tx.packets, 200 * tx.packets, 0, 0],
    );
    assert.equal(guest.driver.stats().seized, 0);
  });

  guestTest(`what comes from the port reaches the guest in order, ${how}`, async make => {
    const guest = await make.guest({ netdev: 'sink', spin });
    const backend = await make.backend('source:len=1518', { spin });
    guest.connect(backend.nic);
    await guest.driver.setInterfaceUp(true);
    await eventually(() => guest.flow.sequence > 20_000);
    await guest.driver.setInterfaceUp(false);
    // What the device had received when it stopped was still delivered.
    assert.deepEqual(guest.flow, { sequence: backend.flow.sequence, outOfOrder: 0 });
    const rx = guest.driver.stats().queues.find(({ direction }) => direction === 'rx')!;
    assert.equal(rx.packets, backend.flow.sequence);
    assert.equal(rx.bytes, 1518 * rx.packets);
    assert.equal(guest.driver.stats().seized, 0);
  });
}

guestTest('down and up, again and again: no frame is lost or doubled, no buffer missing', async make => {
  const guest = await make.guest({ netdev: 'source', bufs: 16 });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await eventually(() => guest.driver.stats().probes === 1);
  const before = { live: arena.live, ram: guest.ram.live };
  for (let round = 0; round < 20; round++) {
    await guest.driver.setInterfaceUp(true);
    assert.equal(guest.driver.running, true);
    const past = backend.flow.sequence;
    await eventually(() => backend.flow.sequence > past + 50);
    await guest.driver.setInterfaceUp(false);
    assert.deepEqual(backend.flow, { sequence: guest.flow.sequence, outOfOrder: 0 });
  }
  assert.equal(guest.driver.stats().probes, 1, 'the same contexts all the time');
  assert.deepEqual({ live: arena.live, ram: guest.ram.live }, before);
  assert.deepEqual([guest.lines('warn'), guest.lines('error')], [[], []]);
  assert.deepEqual(guest.carrier.slice(0, 3), [false, true, false]);
});

guestTest('two queue pairs', async make => {
  const guest = await make.guest({ netdev: 'source', queuePairs: 2 });
  const backend = await make.backend('sink');
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await eventually(() => backend.flow.sequence > 2000);
  await guest.driver.setInterfaceUp(false);
  assert.deepEqual(backend.flow, { sequence: guest.flow.sequence, outOfOrder: 0 });
  assert.equal(guest.driver.stats().queues.length, 4);
});

guestTest('backends come and go: the driver takes its buffers back and runs on the next one', async make => {
  const guest = await make.guest({ netdev: 'source' });
  // The second one speaks another ring format: a change of contract.
  const backends = [
    await make.backend('sink'),
    await make.backend('sink', { device: 'vring_packed', spin: true }),
  ] as const;
  await guest.driver.setInterfaceUp(true);
  assert.equal(guest.driver.running, false, 'nobody is there yet');
  const idle = { live: arena.live, ram: guest.ram.live };
  for (let round = 0; round < 10; round++) {
    const backend = backends[round % 2]!;
    const past = backend.flow.sequence;
    const session = guest.connect(backend.nic);
    await guest.driver.whenRunning();
    assert.equal(guest.driver.stats().probes, round + 1);
    await eventually(() => guest.carrier.at(-1) === true && backend.flow.sequence > past + 500);
    await session.end();
    await eventually(() => !guest.driver.running && guest.ram.live === idle.ram);
    assert.equal(guest.carrier.at(-1), false, 'no carrier without a backend');
    assert.equal(arena.live, idle.live);
  }
  assert.equal(guest.driver.stats().seized, 0, 'the programs gave every buffer back');
  assert.deepEqual(guest.lines('error'), []);
});

guestTest('a backend that is replaced before the driver has looked', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const [a, b] = [await make.backend('sink'), await make.backend('sink')];
  await guest.driver.setInterfaceUp(true);
  const first = guest.connect(a.nic);
  await guest.driver.whenRunning();
  const ended = first.end();
  guest.connect(b.nic);
  await ended;
  await eventually(() => b.flow.sequence > 500);
  assert.equal(guest.driver.stats().seized, 0);
});

guestTest(
  'a device that lies once: the queue stops, says so, and runs again after down and up',
  async make => {
    const guest = await make.guest({ netdev: 'source', bufs: 16 });
    const backend = await make.backend('sink');
    guest.connect(backend.nic);
    await eventually(() => guest.driver.stats().probes === 1);
    for (let round = 0; round < 5; round++) {
      await guest.driver.setInterfaceUp(true);
      assert.equal(guest.driver.running, true);
      const past = backend.flow.sequence;
      await eventually(() => backend.flow.sequence > past + 100);
      const { length } = guest.log;
      // All completed descriptors name a buffer that there is not, until one is looked at.
      await eventually(() => {
        spoilCookies(guest, 16);
        return !guest.driver.running;
      });
      const [line, ...more] = guest.lines('error', length);
      assert.match(line!, /queue 1 stopped: the device completed a buffer that it does not have/);
      assert.deepEqual(more, []);
      assert.equal(guest.carrier.at(-1), false);
      await guest.driver.setInterfaceUp(false);
    }
    assert.ok(guest.driver.stats().seized > 0);
    await guest.driver.setInterfaceUp(true);
    const past = backend.flow.sequence;
    await eventually(() => backend.flow.sequence > past + 1000);
  },
);

/** Cookies of the transmit ring: behind the receive queue's context and buffers, which come first in guest memory. */
function spoilCookies(guest: Guest, bufs: number): void {
  const probe = guest.ram.allocate(64);
  const start = probe - Number(guest.ram.toGuest(probe) - guest.ram.guestPhysicalAddress);
  guest.ram.free(probe);
  const contextSize = CTX_OPAQUE + 512 + 24 * bufs;
  const tx = start + Math.ceil(contextSize / 2048) * 2048 + bufs * 2048;
  for (let i = 0; i < bufs; i++) window.words[(tx + CTX_OPAQUE + 512 + 24 * i) >>> 2] = 0xdead;
}

/** The NIC as it is, but for some answers. */
function lying(nic: Nic, lies: Partial<NicControl>): NicControl {
  const honest: NicControl = {
    features: () => nic.features(),
    setFeatures: accepted => nic.setFeatures(accepted),
    setParameters: parameters => nic.setParameters(parameters),
    programs: () => nic.programs(),
    setMemoryTable: regions => nic.setMemoryTable(regions),
    setQueueContext: (queue, gpa) => nic.setQueueContext(queue, gpa),
    setQueueKick: (queue, fd) => nic.setQueueKick(queue, fd),
    setQueueIrq: (queue, fd) => nic.setQueueIrq(queue, fd),
    setUpgrade: fd => nic.setUpgrade(fd),
    enable: direction => nic.enable(direction),
    disable: direction => nic.disable(direction),
    disconnect: () => nic.disconnect(),
  };
  return { ...honest, ...lies };
}

/** The shipped object with sections replaced, or left out (null). */
function objectWith(changes: Record<string, Uint8Array | null>): Uint8Array {
  const { programs } = loadObject(readFileSync(deviceType('sring')!.programs));
  const sections = [...programs].filter(([name]) => changes[name] !== null);
  return writeObject(
    sections.map(([name, bytes]) => ({ name, type: 1, flags: 6, bytes: changes[name] ?? bytes })),
  );
}

const text = (program: string) => assemble(program);
const sizes = (size: number, other = size) => ({ rxContextSize: size, txContextSize: other });

/** [what, the object file, the context sizes, what is said about it] */
const HOSTILE: readonly [string, Uint8Array | null, ReturnType<typeof sizes> | null, RegExp][] = [
  ['an empty object', new Uint8Array(), null, /backend refused: /],
  ['no object', Buffer.from('#!/bin/sh\nexit 0\n'.repeat(100)), null, /backend refused: /],
  ['a cut object', readFileSync(deviceType('sring')!.programs).subarray(0, 900), null, /backend refused: /],
  ['an object of 5 MiB', new Uint8Array(5 << 20), null, /backend refused: .*5242880 bytes/],
  ['no txc', objectWith({ txc: null }), null, /the device has no program txc/],
  ['no rxp', objectWith({ rxp: null }), null, /the device has no program rxp/],
  ['no instruction', objectWith({ rxi: Buffer.from('ff'.repeat(16), 'hex') }), null, /program rxi: /],
  ['a jump out of it', objectWith({ txp: text('ja +100\nexit') }), null, /./],
  ['a program without an end', objectWith({ txp: text('mov %r0, 0') }), null, /program txp: /],
  ['contexts of 0 bytes', null, sizes(0), /backend refused: /],
  ['contexts without a ring', null, sizes(2095), /backend refused: /],
  ['contexts beyond all limits', null, sizes(2 ** 24 + 1), /backend refused: /],
  ['contexts larger than memory', null, sizes(2 ** 24), /bytes left/],
  ['a second context that does not fit', null, sizes(8752, 2 ** 24), /bytes left/],
  ['contexts that end with the head', null, sizes(2096), /program rxp: insn \d+ .* 2096 bytes long/],
  ['contexts that end with the indices', null, sizes(2608), /program rxp: insn \d+ .* 2608 bytes long/],
  [
    'a txp that never ends',
    objectWith({ txp: text('ja -1') }),
    null,
    /program txp: insn 0 \(ja l0\) is refused: .* may never end/,
  ],
  [
    'an rxp that fails',
    objectWith({ rxp: text('mov %r0, -12\nexit') }),
    null,
    /queue 0 stopped: a program failed/,
  ],
  [
    'a txc that gives back one buffer for ever',
    objectWith({ txc: text('mov %r0, 1\nstxw [%r1+16], %r0\nexit') }),
    null,
    /queue 1 stopped: the device completed/,
  ],
  [
    'an rxr that reads elsewhere',
    objectWith({ rxr: text('ldxb %r0, [%r1-1]\nexit'), txp: text('mov %r0, -1\nexit') }),
    null,
    /program rxr: insn 0 .* at offset -1 of the context/,
  ],
];

guestTest('hostile backends: one clear error each, and the next good one works', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const [good, bad] = [await make.backend('sink'), await make.backend('sink')];
  await guest.driver.setInterfaceUp(true);
  const idle = { live: arena.live, ram: guest.ram.live };
  for (const [what, object, contextSizes, expected] of HOSTILE) {
    const { length } = guest.log;
    let programs: OwnedFd | null = null;
    const lies: { -readonly [K in keyof NicControl]?: NicControl[K] } = {};
    if (object) {
      programs = createMemfd({ name: what, size: object.length });
      writeSync(programs.fd, object, 0, object.length, 0);
      lies.programs = () => programs!;
    }
    if (contextSizes) {
      lies.setParameters = parameters => {
        bad.nic.setParameters(parameters);
        return contextSizes;
      };
    }
    const session = guest.connect(lying(bad.nic, lies));
    await eventually(() => guest.lines('error', length).length > 0);
    await eventually(() => !guest.driver.running);
    await session.end();
    await eventually(() => guest.ram.live === idle.ram);
    const errors = guest.lines('error', length);
    assert.match(errors[0]!, expected, what);
    assert.ok(errors.length <= 2, `${what}: ${errors.join('\n')}`);
    assert.ok(
      errors.every(line => line.length < 600 && !line.includes('\n')),
      `${what}: ${errors[0]}`,
    );
    assert.equal(arena.live, idle.live, what);
    programs?.close();

    const past = good.flow.sequence;
    const honest = guest.connect(good.nic);
    await guest.driver.whenRunning();
    await eventually(() => good.flow.sequence > past + 200);
    await honest.end();
    await eventually(() => !guest.driver.running && guest.ram.live === idle.ram);
    assert.deepEqual(guest.lines('error', length), errors, `${what}: an error with the good one`);
  }
});

guestTest('a device of which only one direction can be enabled is stopped again', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const { nic } = await make.backend('sink');
  let refuse = true;
  guest.connect(
    lying(nic, {
      async enable(direction) {
        if (refuse && direction === 'tx') throw new NicError('NIC_TEST', 'not this one');
        await nic.enable(direction);
      },
    }),
  );
  await eventually(() => guest.driver.stats().probes === 1);
  await guest.driver.setInterfaceUp(true);
  assert.deepEqual(guest.lines('error'), ['error: the device refuses to be enabled']);
  assert.equal(nic.running, false);
  refuse = false;
  await guest.driver.setInterfaceUp(false);
  await guest.driver.setInterfaceUp(true);
  assert.equal(guest.driver.running, true);
});

guestTest('programs that print without end fill no memory with it', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const backend = await make.backend('sink');
  const rxi =
    'mov %r6, 200\nagain: mov %r1, 0\nmov %r2, %r6\ncall 0x4b8f000a\nsub %r6, 1\njne %r6, 0, again\nmov %r0, 0\nexit';
  const object = objectWith({ rxi: text(rxi) });
  const programs = createMemfd({ name: 'talkative', size: object.length });
  writeSync(programs.fd, object, 0, object.length, 0);
  guest.connect(lying(backend.nic, { programs: () => programs }));
  await guest.driver.setInterfaceUp(true);
  await eventually(() => backend.flow.sequence > 5000);
  const prints = () => guest.lines('info').filter(line => line.includes('a program prints'));
  await eventually(() => prints().length >= 64); // they come by message
  const sent = backend.flow.sequence;
  await eventually(() => backend.flow.sequence > sent + 1000);
  const printed = prints();
  assert.equal(printed.length, 64);
  assert.equal(printed[0], 'info: a program prints 200');
  programs.close();
});

guestTest('programs of one device type with the contexts of another do no harm', async make => {
  const guest = await make.guest({ netdev: 'source' });
  const good = await make.backend('sink');
  await guest.driver.setInterfaceUp(true);
  for (const [contexts, other] of [
    ['sring', 'vring_packed'],
    ['vring_packed', 'sring'],
  ] as const) {
    const [bad, strange] = [
      await make.backend('sink', { device: contexts }),
      await make.backend('sink', { device: other }),
    ];
    const idle = { live: arena.live, ram: guest.ram.live };
    const { length } = guest.log;
    const session = guest.connect(lying(bad.nic, { programs: () => strange.nic.programs() }));
    await eventually(() => guest.log.slice(length).some(line => line === 'info: device running'));
    await guest.driver.setInterfaceUp(false);
    await session.end();
    await eventually(() => guest.ram.live === idle.ram);
    await guest.driver.setInterfaceUp(true);
    assert.equal(arena.live, idle.live);
    const past = good.flow.sequence;
    const honest = guest.connect(good.nic);
    await eventually(() => good.flow.sequence > past + 200);
    await honest.end();
    await eventually(() => guest.ram.live === idle.ram);
  }
});
