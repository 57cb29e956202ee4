/** The virtio guest driver against our own backend: frames both ways, interface and backend that come and go, devices that offer little or break the rules. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { KernelDevice } from '../../src/guest/virtio/kernel-device.js';
import { negotiate, type VirtioWish } from '../../src/guest/virtio/negotiate.js';
import type { RingPlace, VirtioOffer, VirtioTransport } from '../../src/guest/virtio/transport.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { eventually } from '../../src/linux/testing.js';
import { encodeAddresses, encodeMemory, VHOST } from '../../src/linux/vhost.js';
import { NET_FEATURE } from '../../src/nic/virtio-offers.js';
import { readFlow } from '../../src/port/flow.js';
import type { TapHandle } from '../../src/port/tap.js';
import { VIRTIO_FEATURE as F, VIRTQ_FEATURES } from '../../src/ring/virtio/features.js';
import { window } from '../compliance/testbed.js';
import { guestTest, type VirtioGuest } from './virtio-driver-rig.js';

const FRAMES = 5_000;

for (const packed of [false, true])
  for (const [offloads, pairs, workers] of [
    [VIRTQ_FEATURES, 1, 1],
    [0n, 4, 2],
  ] as const) {
    const name = `${packed ? 'packed' : 'split'}, ${offloads === 0n ? 'no ' : ''}offloads, ${pairs} pairs`;
    guestTest(`${name}: frames both ways, in order, none lost`, async start => {
      const guest = await start({ packed, offloads, queuePairs: pairs, workers });
      const { nic, port } = await guest.backend('source', { workers });
      assert.equal((nic.agreed & F.RING_PACKED) !== 0n, packed);
      assert.equal((nic.agreed & F.HOST_TSO4) !== 0n, offloads !== 0n);
      for (let lane = 0; lane < pairs; lane++) {
        await eventually(() => guest.swallowed(lane).sequence > FRAMES);
        await eventually(() => readFlow(window, port.lanes[lane]!.state + L.PORT_SIZE).sequence > FRAMES);
        assert.equal(guest.swallowed(lane).outOfOrder, 0, 'to the guest');
        assert.equal(readFlow(window, port.lanes[lane]!.state + L.PORT_SIZE).outOfOrder, 0, 'from the guest');
      }
      const { queues } = guest.driver.stats();
      assert.equal(queues.length, 2 * pairs);
      assert.ok(queues.every(({ packets, errors, dropped }) => packets > FRAMES && errors + dropped === 0));
      assert.match(guest.driver.dump(), /^driver running[\s\S]*ring 0 rx: 256 buffers/);
    });
  }

const published = ({ driver }: VirtioGuest): number => driver.stats().queues[1]!.packets;

for (const packed of [false, true]) {
  guestTest(`${packed ? 'packed' : 'split'}: backends end and others come, no frame is lost`, async start => {
    const guest = await start({ packed });
    const ROUNDS = 5;
    let before = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const { nic, port, end } = await guest.backend('sink');
      await eventually(() => port.counters().sent > FRAMES);
      await nic.quiesce();
      await eventually(() => published(guest) > before + port.counters().sent);
      const { sent, flow } = await end();
      // A sink expects number 0 first, and then always the next one.
      assert.equal(flow.outOfOrder, round === 0 ? 0 : 1);
      assert.equal(flow.sequence - sent, before, 'it begins where the last one ended');
      before = flow.sequence;
    }
    await guest.driver.setInterfaceUp(false);
    const { again, starts, lost } = guest.driver.stats();
    assert.equal(starts, ROUNDS);
    assert.ok(again > 0, 'a source never leaves a ring empty');
    assert.equal(before + lost, guest.sent().sequence);
  });
}

guestTest('the interface goes down and up: rings stop and go on', async start => {
  const guest = await start({ netdev: 'source', bufs: 64 });
  const { nic, port } = await guest.backend('source');
  for (let round = 0; round < 5; round++) {
    const before = guest.driver.stats().queues.map(({ packets }) => packets);
    await guest.driver.setInterfaceUp(true);
    await guest.driver.whenRunning();
    await eventually(() => guest.driver.stats().queues.every(({ packets }, i) => packets > before[i]! + 100));
    await guest.driver.setInterfaceUp(false);
    assert.ok(!guest.driver.running && !nic.running);
  }
  const { lost } = guest.driver.stats();
  assert.equal(port.counters().sent + lost, guest.sent().sequence);
  assert.ok(guest.driver.stats().queues.every(({ errors }) => errors === 0));
});

guestTest('the next backend has other features: what the last one left is given up', async start => {
  const guest = await start({ packed: true });
  const first = await guest.backend('sink');
  await eventually(() => first.port.counters().sent > FRAMES);
  await first.nic.quiesce();
  await eventually(() => published(guest) > first.port.counters().sent);
  await first.end();
  await guest.backend('sink', { offloads: 0n });
  const { lost, again } = guest.driver.stats();
  assert.ok(lost > 0 && again === 0);
  assert.ok(guest.log.some(line => /given up: the device has other features/.test(line)));
});

/** A device that a test is, by hand. */
class Manual implements VirtioTransport {
  offer: VirtioOffer | null = null;
  onChange = (): void => {};
  rings: readonly RingPlace[] = [];
  stops = 0;
  refuses = false;
  readonly ram: GuestRam;
  readonly #fds = [0, 1, 2, 3].map(i => EventFd.create(`fd ${i}`));

  constructor(ram: GuestRam) {
    this.ram = ram;
  }

  async start(_features: bigint, rings: readonly RingPlace[]): Promise<void> {
    if (this.refuses) throw new Error('not today');
    this.rings = rings;
  }

  async stop(): Promise<void> {
    this.stops++;
  }

  kick = (ring: number): number => this.#fds[ring]!.fd;
  call = (ring: number): number => this.#fds[2 + ring]!.fd;

  /** Writes a word of a ring's used ring, and interrupts. */
  use(ring: number, words: readonly number[]): void {
    const { device } = this.rings[ring]!.areas;
    const at = Number(device - this.ram.toGuest(0));
    for (const [i, word] of words.entries()) window.words[(at >>> 2) + 1 + i] = word;
    Atomics.store(window.words, at >>> 2, 1 << 16);
    this.#fds[2 + ring]!.signal();
  }

  close(): void {
    for (const fd of this.#fds) fd.close();
  }
}

guestTest(
  'a device that gives back what it does not have stops; another one gets its chance',
  async start => {
    let device!: Manual;
    const guest = await start({
      netdev: 'sink',
      offloads: 0n,
      transport: ram => (device = new Manual(ram)),
    });
    const { driver } = guest;
    for (const [id, length] of [
      [9999, 60], // no such buffer
      [3, 5000], // more than it holds
    ] as const) {
      device.offer = { features: F.VERSION_1, queuePairs: 1 };
      device.onChange();
      await driver.whenRunning();
      device.use(0, [id, length]);
      await eventually(() => !driver.running && device.stops > 0);
      assert.match(
        guest.log.join('\n'),
        /ring 0 stopped: the device gave back a buffer that it does not have/,
      );
      device.stops = 0;
    }
    // The same one, after the interface was down.
    await driver.setInterfaceUp(false);
    await driver.setInterfaceUp(true);
    assert.ok(driver.running);
    assert.equal(driver.stats().queues[0]!.errors, 2);
    device.use(0, [3, 72]);
    await eventually(() => driver.stats().queues[0]!.packets === 1);
  },
);

guestTest('a device that does not start is stopped, and said so', async start => {
  let device!: Manual;
  const guest = await start({ netdev: 'sink', transport: ram => (device = new Manual(ram)) });
  device.refuses = true;
  device.offer = { features: F.VERSION_1, queuePairs: 1 };
  device.onChange();
  await eventually(() => guest.log.includes('error: not today'));
  assert.equal(device.stops, 1);
  assert.ok(!guest.driver.running);
  device.refuses = false;
  device.offer = { features: F.VERSION_1, queuePairs: 1 };
  device.onChange();
  await guest.driver.whenRunning();
  device.offer = { features: F.MRG_RXBUF, queuePairs: 1 };
  device.onChange();
  await eventually(() => guest.log.some(line => /neither VERSION_1 nor ANY_LAYOUT/.test(line)));
  assert.ok(!guest.driver.running);
});

const WISH: VirtioWish = { queuePairs: 4, bufs: 256, packed: true, offloads: VIRTQ_FEATURES };
const taken = (features: bigint, wish: Partial<VirtioWish> = {}, queuePairs = 1): bigint =>
  negotiate({ features, queuePairs }, { ...WISH, ...wish }).features;

test('features: what is taken, and what is of no use without another', () => {
  const all = VIRTQ_FEATURES | NET_FEATURE.MQ;
  assert.equal(taken(all) & (F.ACCESS_PLATFORM | F.LOG_ALL | F.ANY_LAYOUT | NET_FEATURE.MQ), 0n);
  assert.ok(taken(all) & F.RING_PACKED);
  assert.ok(taken(all) & F.IN_ORDER);
  assert.equal(taken(all, { packed: false }) & F.RING_PACKED, 0n);
  assert.equal(taken(all, {}, 4) & NET_FEATURE.MQ, NET_FEATURE.MQ);
  assert.equal(taken(all & ~F.CSUM) & (F.HOST_TSO4 | F.HOST_TSO6 | F.HOST_ECN | F.HOST_UFO | F.HOST_USO), 0n);
  assert.equal(taken(all & ~F.MRG_RXBUF) & (F.GUEST_TSO4 | F.GUEST_ECN | F.GUEST_USO4), 0n);
  assert.equal(taken(all & ~F.GUEST_USO6) & F.GUEST_USO4, 0n);
  assert.equal(
    taken(F.VERSION_1 | F.CSUM | F.HOST_ECN | F.HOST_TSO6),
    F.VERSION_1 | F.CSUM | F.HOST_ECN | F.HOST_TSO6,
  );
  assert.equal(taken(F.VERSION_1 | F.CSUM | F.HOST_ECN), F.VERSION_1 | F.CSUM);
  assert.equal(taken(F.ANY_LAYOUT | F.RING_PACKED), F.ANY_LAYOUT);
  assert.equal(taken(all, { offloads: 0n }) & (F.CSUM | F.GUEST_CSUM | F.HOST_TSO4), 0n);
  assert.equal(negotiate({ features: all, queuePairs: 9 }, WISH).queuePairs, 4);
  assert.throws(() => taken(F.MRG_RXBUF), { code: 'DRIVER_DEVICE' });
});

test('vhost: numbers and layouts', () => {
  assert.deepEqual(VHOST, {
    GET_FEATURES: 0x8008af00,
    SET_FEATURES: 0x4008af00,
    SET_OWNER: 0xaf01,
    SET_MEM_TABLE: 0x4008af03,
    SET_VRING_NUM: 0x4008af10,
    SET_VRING_ADDR: 0x4028af11,
    SET_VRING_BASE: 0x4008af12,
    GET_VRING_BASE: 0xc008af12,
    SET_VRING_KICK: 0x4008af20,
    SET_VRING_CALL: 0x4008af21,
    NET_SET_BACKEND: 0x4008af30,
  });
  const memory = encodeMemory([
    { guestPhysicalAddress: 0x1_0000_0000n, size: 0x20_0000n, userspaceAddress: 0x7f00_1234_5000n },
  ]);
  assert.deepEqual(
    [...new BigUint64Array(memory.buffer)],
    [1n, 0x1_0000_0000n, 0x20_0000n, 0x7f00_1234_5000n, 0n],
  );
  const ring = {
    num: 256,
    base: 0,
    descriptor: 0x1000n,
    available: 0x2000n,
    used: 0x3000n,
    kick: 5,
    call: 6,
  };
  const addresses = encodeAddresses(1, ring);
  assert.deepEqual([...new BigUint64Array(addresses.buffer)], [1n, 0x1000n, 0x3000n, 0x2000n, 0n]);
});

test('no vhost-net in this kernel: an error that says so, and nothing left', t => {
  const ram = new GuestRam(window, 4 << 20);
  t.after(() => ram.close());
  const before = { fds: openFds(), all: countProcessFds() };
  const backend = { lanes: [{}] } as unknown as TapHandle;
  const missing = { path: '/nonexistent/vhost-net' };
  assert.throws(() => new KernelDevice({ window, ram, backend, ...missing }), { errno: 2 });
  assert.deepEqual(openFds(), before.fds);
  assert.ok(countProcessFds() <= before.all);
});
