/** What dumps say: of a NIC's rings in every format, of a guest's driver, and of a device through its registers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { deviceDump } from '../../src/control/bpfhv-proxy/dump.js';
import { readDeviceDump } from '../../src/guest/bpfhv/dump.js';
import { CTRL, REG } from '../../src/guest/bpfhv/registers.js';
import type { BpfhvTransport } from '../../src/guest/bpfhv/transport.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { MAX_DUMP } from '../../src/pci/bpfhv/dump.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually, window } from '../compliance/testbed.js';
import { guestTest } from './driver-rig.js';
import { nicTest, RX, TX } from './nic-rig.js';

/** The lines of one queue, each without what leads it, by their first word; `head` is the first. */
function queueOf(dump: string, queue: number): Record<string, string> {
  const all = dump.split('\n');
  const start = all.findIndex(line => line.startsWith(`queue ${queue} `));
  assert.ok(start >= 0, dump);
  const rest = all.slice(start + 1);
  const end = rest.findIndex(line => !line.startsWith('  '));
  const details = rest.slice(0, end < 0 ? rest.length : end).map(line => /^ {2}(\w+) +(.*)$/.exec(line)!);
  return { head: all[start]!, ...Object.fromEntries(details.map(([, word, text]) => [word!, text!])) };
}

for (const name of ['sring', 'sring_gso']) {
  nicTest(`${name}: indices and flags, from the first descriptor to a fault`, async start => {
    const rig = await start({ device: deviceType(name)! });
    const { nic } = rig;
    assert.match(nic.dump(), new RegExp(`^device ${name}, features 0x0 of 0x[01f]+, rx off, tx off$`));
    rig.parameters();
    assert.equal(queueOf(nic.dump(), RX).head, 'queue 0 rx: 64 descriptors, no context, fault none');
    await rig.prepare();
    const gpa = (queue: number) => `0x${rig.context(queue).toString(16)}`;
    assert.deepEqual(queueOf(nic.dump(), RX), {
      head: `queue 0 rx: 64 descriptors, context ${gpa(RX)}, fault none`,
      ring: 'prod 0  cons 0  clear 0  posted 0  completed 0',
      flags: 'intr_enabled 1  kick_enabled 1',
      device: 'cons 0',
      counted: 'nothing counted',
    });
    rig.publish(5, false);
    const posted = queueOf(nic.dump(), TX);
    assert.equal(posted.head, `queue 1 tx: 64 descriptors, context ${gpa(TX)}, fault none`);
    assert.equal(posted.ring, 'prod 5  cons 0  clear 0  posted 5  completed 0');
    assert.equal(posted.flags, 'intr_at 0  kick_enabled 1');
    await rig.enable();
    await eventually(() => rig.packets(TX) === 5);
    const sent = queueOf(nic.dump(), TX);
    assert.equal(sent.ring, 'prod 5  cons 5  clear 0  posted 0  completed 5');
    assert.equal(sent.device, 'cons 5');
    assert.match(sent.counted!, /^packets 5 {2}bytes 300 {2}buffers 5 {2}batches \d+( {2}interrupts \d+)?$/);
    assert.match(nic.dump(), / rx on, tx on\n/);
    // The guest says that it has posted more than there is room for.
    window.words[(rig.bed.tx.context + L.CTX_OPAQUE) >>> 2] = 5 + 65;
    rig.kicks[TX]!.signal();
    await eventually(() => queueOf(nic.dump(), TX).head!.endsWith('fault index'));
    assert.match(queueOf(nic.dump(), TX).counted!, /kicks 1 .*errors 1$/);
    // What it writes over the device's part is shown, and moves nothing.
    window.words[(rig.bed.tx.context + L.CTX_OPAQUE + 128) >>> 2] = 77;
    assert.match(queueOf(nic.dump(), TX).ring!, / cons 77 /);
    assert.equal(queueOf(nic.dump(), TX).device, 'cons 5');
  });
}

nicTest('vring_packed: both sides of the ring, and who wants to be told when', async start => {
  const rig = await start({ device: deviceType('vring_packed')! });
  await rig.prepare();
  const fresh = queueOf(rig.nic.dump(), TX);
  assert.equal(fresh.guest, 'next_avail 0  avail_wrap 1  next_used 0  used_wrap 1');
  assert.equal(fresh.host, 'next_avail 0  avail_wrap 1  next_used 0  used_wrap 1');
  assert.equal(fresh.events, 'driver desc 0/1  device desc 0/1');
  assert.equal(fresh.device, 'index 0  wrap 1  next descriptor avail 0 used 0');
  rig.publish(3, false);
  assert.equal(queueOf(rig.nic.dump(), TX).device, 'index 0  wrap 1  next descriptor avail 1 used 0');
  assert.match(queueOf(rig.nic.dump(), TX).guest!, /^next_avail 3 {2}avail_wrap 1 /);
  await rig.enable();
  for (let sent = 3; sent < 70; sent += rig.publish(5)) await eventually(() => rig.packets(TX) >= sent);
  await eventually(() => rig.packets(TX) === 73);
  const later = queueOf(rig.nic.dump(), TX);
  assert.match(later.host!, /^next_avail 9 {2}avail_wrap 0 {2}next_used 9 {2}used_wrap 0$/);
  assert.match(later.device!, /^index 9 {2}wrap 0 /);
  await rig.disable();
});

guestTest('a guest: what the driver has lent, and what the device says of it', async ({ guest, backend }) => {
  const side = await guest({ netdev: 'sink', bufs: 16 });
  const { driver } = side;
  assert.equal(
    await driver.dump(),
    'driver stopped, probes 0, seized 0\ndevice, by its registers\n  there is none',
  );
  await driver.setInterfaceUp(true);
  side.connect((await backend('sink')).nic);
  await driver.whenRunning();
  const [dump, same] = await Promise.all([driver.dump(), driver.dump()]);
  assert.equal(same, dump);
  assert.match(dump, /^driver running, probes 1, seized 0\n/);
  assert.match(
    queueOf(dump, 0).head!,
    /^queue 0 rx: 16 buffers, context 0x1[0-9a-f]{8}, posted 16, free 0, fault none$/,
  );
  assert.match(queueOf(dump, 1).head!, /^queue 1 tx: 16 buffers, .*, posted 0, free 16, fault none$/);
  assert.equal(queueOf(dump, 1).counted, 'nothing counted');
  const device = dump.slice(dump.indexOf('device, by its registers'));
  assert.match(device, /^ {2}status link rx_enabled tx_enabled, features 0x0$/m);
  assert.match(
    device,
    /^ {2}queue 0 rx: 16 descriptors, context 0x1[0-9a-f]{8}, num_bufs 16, iflags 0, oflags \d, min_completed_bufs \d$/m,
  );
  assert.match(device, /^ {2}queue 1 tx: 16 descriptors, context 0x1[0-9a-f]{8}, num_bufs 0, /m);
});

/** A device that answers to its dump registers alone, with these bytes. */
function dumping(bytes: Uint8Array, length = bytes.length): BpfhvTransport {
  let offset = 0;
  let made = false;
  return {
    present: true,
    async write(register: number, value: number) {
      if (register === REG.CTRL) made = value === CTRL.QUEUES_DUMP;
      if (register === REG.DUMP_OFS) offset = value;
    },
    async read(register: number) {
      assert.ok(made, 'read before the dump was asked for');
      if (register === REG.DUMP_LEN) return length;
      assert.equal(register, REG.DUMP_INPUT);
      const word = Buffer.alloc(4);
      Buffer.from(bytes).copy(word, 0, offset);
      return word.readUInt32LE();
    },
  } as unknown as BpfhvTransport;
}

test("a device's dump is text, at most 4096 bytes, and can't steer a terminal", async () => {
  const text = (words: string) => Buffer.from(`${words}\0`);
  for (const length of [1, 2, 3, 4, 5, 7, 8, 9, 4094]) {
    assert.equal(await readDeviceDump(dumping(text('x'.repeat(length)))), 'x'.repeat(length));
  }
  assert.equal(await readDeviceDump(dumping(text('one\ntwo\n'))), 'one\ntwo');
  assert.equal(await readDeviceDump(dumping(Buffer.from('no end'))), 'no end');
  assert.equal(await readDeviceDump(dumping(Buffer.from('early\0late\0'))), 'early');
  assert.equal(await readDeviceDump(dumping(text('\x1b[2J\x9b\u00e4'))), '?[2J????');
  for (const length of [0, MAX_DUMP + 1, 2 ** 32 - 1]) {
    assert.equal(
      await readDeviceDump(dumping(text('x'), length)),
      `says that its dump has ${length} bytes: 1 to 4096 can be`,
    );
  }
  const gone = { ...dumping(text('x')), read: () => Promise.reject(new Error('gone')) };
  assert.equal(await readDeviceDump(gone as BpfhvTransport), 'did not answer: gone');
});

test('what a device shows fits its registers, however many queues there are', () => {
  const ram = new GuestRam(window, 1 << 20);
  try {
    const inside = ram.guestPhysicalAddress + 4096n;
    const show = (contexts: readonly bigint[]) =>
      deviceDump({ ram, status: 0, features: 0x1ffn, contexts, bufs: 8192 });
    const small = show([0n, inside, ram.guestPhysicalAddress - 8n, inside + BigInt(ram.size)]).toString();
    assert.deepEqual(small.split('\n'), [
      'status none, features 0x1ff',
      'queue 0 rx: 8192 descriptors, context none',
      `queue 1 rx: 8192 descriptors, context 0x${inside.toString(16)}, num_bufs 0, iflags 0, oflags 0, min_completed_bufs 0`,
      `queue 2 tx: 8192 descriptors, context 0x${(ram.guestPhysicalAddress - 8n).toString(16)}`,
      `queue 3 tx: 8192 descriptors, context 0x${(inside + BigInt(ram.size)).toString(16)}`,
      '\0',
    ]);
    const large = show(new Array<bigint>(64).fill(inside));
    assert.ok(large.length <= MAX_DUMP && large.length > MAX_DUMP - 200, `${large.length} bytes`);
    assert.match(large.toString(), /\nand more\n\0$/);
    assert.equal(large.indexOf(0), large.length - 1);
  } finally {
    ram.close();
  }
});
