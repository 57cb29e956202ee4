/**
 * Hostile programs and hostile rings in the driver, to the end: what the verifier refuses never runs; what it lets run is stopped by its guards and
 * its budget, at once and once, and nothing else suffers.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { assemble } from '../../src/ebpf/asm.js';
import { loadObject } from '../../src/ebpf/elf.js';
import { createMemfd } from '../../src/linux/memfd.js';
import type { NicControl } from '../../src/nic/control.js';
import type { Nic } from '../../src/nic/nic.js';
import { deviceType } from '../../src/ring/registry.js';
import { ReceiveFlow, TransmitFlow } from '../compliance/actors.js';
import { arena, eventually, Testbed, window } from '../compliance/testbed.js';
import { type Guest, guestTest } from './driver-rig.js';
import { writeObject } from './ebpf-elf-writer.js';

const QMASK = CTX_OPAQUE + 256;
const BUFS = 64;
/** Of sring's context with so many buffers. */
const CONTEXT_SIZE = CTX_OPAQUE + 512 + 24 * BUFS;

/** The shipped programs. */
const SRING = loadObject(readFileSync(deviceType('sring')!.programs)).programs;

/** The NIC with other programs: the shipped ones of sring, but for some sections. */
function withPrograms(nic: Nic, changes: Record<string, Uint8Array>): { nic: NicControl; close(): void } {
  const sections = [...SRING].map(([name, bytes]) => ({
    ...{ name, type: 1, flags: 6 },
    bytes: changes[name] ?? bytes,
  }));
  const object = writeObject(sections);
  const file = createMemfd({ name: 'programs', size: object.length });
  writeSync(file.fd, object, 0, object.length, 0);
  const lying = new Proxy<NicControl>(nic, {
    get(target, key) {
      if (key === 'programs') return () => file;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  return { nic: lying, close: () => file.close() };
}

/** Window address of a queue's context: they are the first in guest memory, each followed by its buffers. */
function contextOf(guest: Guest, queue: 'rx' | 'tx'): number {
  const probe = guest.ram.allocate(64);
  const start = probe - Number(guest.ram.toGuest(probe) - guest.ram.guestPhysicalAddress);
  guest.ram.free(probe);
  return queue === 'rx' ? start : start + Math.ceil(CONTEXT_SIZE / 2048) * 2048 + BUFS * 2048;
}

const errorsOf = (guest: Guest, direction: 'rx' | 'tx') =>
  guest.driver
    .stats()
    .queues.filter(queue => queue.direction === direction)
    .reduce((sum, { errors }) => sum + errors, 0);

/** Programs that would do harm, and what is said of them. */
const REFUSED: Readonly<Record<string, readonly [section: string, text: string, why: RegExp]>> = {
  'a pointer handed out': [
    'rxp',
    'stxdw [r1+8], r1\nmov r0, 0\nexit',
    /it stores a pointer, r1 \(context\+0\)/,
  ],
  'a pointer returned': ['txc', 'mov r0, r10\nexit', /it returns a pointer/],
  'an address out of the ring': ['txp', 'ldxdw r2, [r1+2096]\nldxdw r0, [r2]\nexit', /as an address/],
  'a store behind the context': [
    'rxi',
    `mov r0, 0\nstxdw [r1+${CONTEXT_SIZE - 7}], r0\nexit`,
    /it accesses 8 bytes at offset \d+ of the context, which is 4144 bytes long/,
  ],
  'a wait for the device': [
    'txi',
    'mov r0, 0\nl: ldxw r2, [r1+2096]\njne r2, 0, l\nexit',
    /a loop starts here that may never end/,
  ],
  'a helper that there is not': ['txr', 'call 0x4b8f00ff\nexit', /there is no helper/],
};

guestTest('what is refused does not run: one clear line, and nothing of the device is in use', async make => {
  const guest = await make.guest({ netdev: 'source', bufs: BUFS });
  const [good, bad] = [await make.backend('sink'), await make.backend('sink')];
  await guest.driver.setInterfaceUp(true);
  const idle = { live: arena.live, ram: guest.ram.live };
  for (const [what, [section, text, why]] of Object.entries(REFUSED)) {
    const { length } = guest.log;
    const { probes } = guest.driver.stats();
    const device = withPrograms(bad.nic, { [section]: assemble(text) });
    const session = guest.connect(device.nic);
    const [error] = await eventually(() => {
      const lines = guest.lines('error', length);
      return lines.length > 0 && lines;
    });
    assert.match(
      error!,
      new RegExp(`^error: program ${section}: insn \\d+ \\(.*\\) is refused: .*\\.$`),
      what,
    );
    assert.match(error!, why, what);
    await session.end();
    assert.deepEqual(guest.lines('error', length), [error], what);
    const { running, probes: now } = guest.driver.stats();
    assert.deepEqual([running, now], [false, probes], `${what}: it was taken`);
    assert.deepEqual({ live: arena.live, ram: guest.ram.live }, idle, what);
    assert.equal(
      guest.log.slice(length).some(line => /programs accepted|device running/.test(line)),
      false,
      what,
    );
    device.close();
  }
  guest.connect(good.nic);
  await eventually(() => good.flow.sequence > 200);
  const [summary] = guest.lines('info').filter(line => line.includes('programs accepted'));
  assert.match(
    summary!,
    /^info: 8 programs accepted: \d+ instructions, \d+ guards, verified in [\d.]+ ms, compiled in [\d.]+ ms$/,
  );
});

/** The shipped txp counts on the mask that the device has set; the device, or who shares its memory, sets another one. */
guestTest('a guard that is hit stops the queue, is counted and told once; the guest lives on', async make => {
  const guest = await make.guest({ netdev: 'source', bufs: BUFS });
  const other = await make.guest({ netdev: 'source', bufs: BUFS });
  const [bad, good] = [await make.backend('sink'), await make.backend('sink')];
  guest.connect(bad.nic);
  other.connect(good.nic);
  await other.driver.setInterfaceUp(true);
  await eventually(() => guest.driver.stats().probes === 1);
  for (let round = 1; round <= 3; round++) {
    await guest.driver.setInterfaceUp(true);
    assert.equal(guest.driver.running, true);
    await eventually(() => bad.flow.sequence > 200);
    const { length } = guest.log;
    const before = errorsOf(guest, 'tx');
    await eventually(() => {
      // Again and again, until it is read: each start sets it right.
      if (guest.driver.running) window.words[(contextOf(guest, 'tx') + QMASK) >>> 2] = 0xffff_ffff;
      return (
        !guest.driver.running && guest.lines('info', length).some(line => line.includes('device stopped'))
      );
    });
    const [line, ...more] = guest.lines('error', length);
    assert.match(line!, /^error: queue 1 stopped: insn \d+: access outside the program's memory/);
    assert.deepEqual(more, []);
    const past = other.flow.sequence;
    await eventually(() => other.flow.sequence > past + 200);
    await guest.driver.setInterfaceUp(false);
    await guest.driver.setInterfaceUp(true);
    assert.ok(errorsOf(guest, 'tx') > before, 'counted');
    assert.equal(errorsOf(guest, 'rx'), 0);
  }
  assert.deepEqual(other.lines('error'), []);
});

guestTest('a budget that is spent stops the queue in the same way', async make => {
  const guest = await make.guest({ netdev: 'source', bufs: BUFS });
  const [bad, good] = [await make.backend('sink'), await make.backend('sink')];
  await guest.driver.setInterfaceUp(true);
  // As many rounds as a word of the ring says that nobody uses, which are none until the device writes there.
  const wait = assemble('mov r0, 0\nl: ldxw r2, [r1+2356]\nadd r0, 1\njlt r0, r2, l');
  const txp = Buffer.concat([wait, SRING.get('txp')!]);
  const device = withPrograms(bad.nic, { txp });
  const session = guest.connect(device.nic);
  await guest.driver.whenRunning();
  assert.ok(guest.lines('info').some(line => line.includes(', txp under a budget, ')));
  assert.deepEqual(guest.lines('error'), []);
  await eventually(() => bad.flow.sequence > 200);
  const { length } = guest.log;
  await eventually(() => {
    if (guest.driver.running) window.words[(contextOf(guest, 'tx') + 2356) >>> 2] = 0xffff_ffff;
    return !guest.driver.running && guest.lines('info', length).some(line => line.includes('device stopped'));
  });
  assert.deepEqual(guest.lines('error', length), [
    'error: queue 1 stopped: insn 1: the instruction budget is spent',
  ]);
  await session.end();
  device.close();
  const past = good.flow.sequence;
  guest.connect(good.nic);
  await eventually(() => good.flow.sequence > past + 200);
});

test('where one queue has stopped at a guard the other goes on', t => {
  const bed = new Testbed({ device: 'sring' });
  t.after(() => bed.close());
  const [tx, rx] = [new TransmitFlow(bed), new ReceiveFlow(bed)];
  tx.publish(3);
  window.words[(bed.tx.context + QMASK) >>> 2] = 0x7fff_ffff;
  window.words[(bed.tx.context + CTX_OPAQUE) >>> 2] = 0x0100_0000;
  assert.throws(() => tx.publish(1), WebAssembly.RuntimeError);
  rx.refill();
  rx.fill(5);
  assert.equal(rx.poll(16), 5);
});
