/**
 * Our virtio driver on our virtio card, register by register: frames both ways, cards that are pulled out and others that come, cards that are not what they
 * should be.
 *
 * ```
 *   netdev ──► VirtioDriver ── VirtioPci ── FunctionAccess ── VirtioNetFunction ── VirtioNic ──► port
 * ```
 */
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { PCI_NET_FEATURE as P } from '../../src/guest/pci/virtio-numbers.js';
import { probeVirtioNet, VirtioPci } from '../../src/guest/pci/virtio-pci.js';
import { VirtioDriver } from '../../src/guest/virtio/driver.js';
import { virtioRamSize } from '../../src/guest/virtio/queues.js';
import { EventFd, signalEventFd } from '../../src/linux/eventfd.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { REGION } from '../../src/linux/vfio-numbers.js';
import { VirtioNic } from '../../src/nic/virtio-nic.js';
import { NET_FEATURE } from '../../src/nic/virtio-offers.js';
import { VirtioNetFunction, type VirtioNetFunctionOptions } from '../../src/pci/virtio/index.js';
import { readFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTIO_FEATURE as F, VIRTQ_FEATURES } from '../../src/ring/virtio/features.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { configSpace, RegisterFile } from './fake-pci.js';
import { FunctionAccess } from './function-access.js';

const FRAMES = 3000;
const MAC = Uint8Array.of(2, 0, 0, 1, 2, 3);

interface LinkOptions {
  readonly pairs?: number;
  /** Of the guest; default: as many as the card has. */
  readonly guestPairs?: number;
  readonly packed?: boolean;
  readonly offloads?: bigint;
  readonly bufs?: number;
}

/** A card in its slot. */
interface Card {
  readonly fn: VirtioNetFunction;
  readonly nic: VirtioNic;
  readonly port: PortHandle;
  readonly access: FunctionAccess;
  end(): Promise<void>;
}

class Link {
  readonly log: string[] = [];
  /** What the guest's network device was told. */
  readonly carrier: boolean[] = [];
  readonly netdev: PortHandle;
  readonly slot: VirtioPci;
  driver!: VirtioDriver;
  readonly ram: GuestRam;
  readonly #cards: Card[] = [];
  readonly #pairs: number;

  private constructor({ pairs = 1, guestPairs = pairs, bufs = 256 }: LinkOptions) {
    this.#pairs = pairs;
    this.netdev = Object.assign(openPort('source', { window, arena }, guestPairs), {
      setCarrier: (up: boolean) => void this.carrier.push(up),
    });
    this.ram = new GuestRam(window, virtioRamSize(guestPairs, bufs) + (1 << 20));
    this.slot = new VirtioPci({ window, ram: this.ram, queuePairs: guestPairs, lookMs: 20 });
  }

  static async start(options: LinkOptions = {}): Promise<Link> {
    const { pairs = 1, guestPairs = pairs, packed = false, offloads = VIRTQ_FEATURES, bufs = 256 } = options;
    const link = new Link(options);
    link.driver = await VirtioDriver.start({
      ...{ window, arena, netdev: link.netdev, transport: link.slot },
      wish: { queuePairs: guestPairs, bufs, packed, offloads },
      log: (level, message) => link.log.push(`${level}: ${message}`),
    });
    void link.driver.setInterfaceUp(true);
    return link;
  }

  /** Puts a card in. */
  async plug(
    portSpec: string,
    options: Partial<VirtioNetFunctionOptions> & { own?: boolean; offloads?: bigint } = {},
  ): Promise<Card> {
    const { own = false, offloads = VIRTQ_FEATURES, ...rest } = options;
    const port = openPort(portSpec, { window, arena }, this.#pairs);
    const nic = await VirtioNic.start({
      ...{ window, arena, port, offloads, limits: { queuePairs: this.#pairs, bufs: 8192 } },
    });
    const fn = new VirtioNetFunction({ nic, window, mac: MAC, ...rest });
    const access = new FunctionAccess(fn, { own });
    let ended: Promise<void> | null = null;
    const end = async () => {
      await access.close();
      fn.close();
      await nic.close();
      port.close();
    };
    const card = { fn, nic, port, access, end: () => (ended ??= end()) };
    this.#cards.push(card);
    await this.slot.plug(access, await probeVirtioNet(access));
    await this.driver.whenRunning();
    return card;
  }

  /** Frames that a source and sink behind the guest has got. */
  swallowed(lane = 0) {
    return readFlow(window, this.netdev.lanes[lane]!.state + L.PORT_SIZE);
  }

  async close(): Promise<void> {
    await this.driver.close();
    await this.slot.close();
    for (const { end } of this.#cards) await end();
    this.ram.close();
    this.netdev.close();
  }
}

function linkTest(
  name: string,
  body: (start: (options?: LinkOptions) => Promise<Link>) => Promise<void>,
): void {
  test(name, { timeout: 60_000 }, async () => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const [before, all] = [held(), countProcessFds()];
    const links: Link[] = [];
    try {
      await body(async options => {
        const link = await Link.start(options);
        links.push(link);
        return link;
      });
    } finally {
      for (const link of links) await link.close();
    }
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, 'descriptors left behind the table');
  });
}

const arrived = (port: PortHandle, lane = 0) => readFlow(window, port.lanes[lane]!.state + L.PORT_SIZE);

for (const packed of [false, true]) {
  for (const [pairs, own, transitional] of [
    [1, false, false],
    [1, true, true],
    [3, true, false],
  ] as const) {
    const how = `${pairs} pairs, ${own ? 'its own doorbells' : 'notifications'}${transitional ? ', transitional' : ''}`;
    linkTest(`${packed ? 'packed' : 'split'}, ${how}: frames both ways, in order, none lost`, async start => {
      const link = await start({ packed, pairs });
      const { nic, port } = await link.plug('source', { own, transitional });
      assert.equal((nic.agreed & F.RING_PACKED) !== 0n, packed);
      assert.equal(nic.agreed & F.ACCESS_PLATFORM, 0n); // of the bus, not of the NIC
      for (let lane = 0; lane < pairs; lane++) {
        await eventually(() => link.swallowed(lane).sequence > FRAMES);
        await eventually(() => arrived(port, lane).sequence > FRAMES);
        assert.equal(link.swallowed(lane).outOfOrder, 0, 'to the guest');
        assert.equal(arrived(port, lane).outOfOrder, 0, 'from the guest');
      }
      assert.equal(link.driver.stats().queues.length, 2 * pairs);
    });
  }

  linkTest(
    `${packed ? 'packed' : 'split'}: cards are pulled out and others come, no frame is lost`,
    async start => {
      const link = await start({ packed, pairs: 2 });
      const published = (ring: number) => link.driver.stats().queues[ring]!.packets;
      let before = [0, 0];
      for (let round = 0; round < 3; round++) {
        const { nic, port, access } = await link.plug('sink', { own: round === 1 });
        const lanes = [0, 1].slice(0, port.lanes.length);
        await eventually(() => port.counters().sent > FRAMES);
        await nic.quiesce();
        await eventually(() => published(1) + published(3) > before[0]! + before[1]! + port.counters().sent);
        await access.pull();
        await eventually(() => !link.driver.running);
        for (const lane of lanes) {
          const flow = readFlow(window, port.lanes[lane]!.state);
          assert.ok(flow.sequence > before[lane]!);
          before = before.map((sequence, i) => (i === lane ? flow.sequence : sequence));
        }
      }
      assert.equal(link.driver.stats().lost, 0);
      assert.ok(link.driver.stats().again > 0);
    },
  );
}

linkTest('the interface goes down and up', async start => {
  const link = await start({ bufs: 64, packed: true, pairs: 2 });
  const { nic } = await link.plug('source');
  for (let round = 0; round < 4; round++) {
    const before = link.driver.stats().queues.map(({ packets }) => packets);
    await link.driver.setInterfaceUp(true);
    await link.driver.whenRunning();
    await eventually(() => link.driver.stats().queues.every(({ packets }, i) => packets > before[i]! + 100));
    await link.driver.setInterfaceUp(false);
    assert.ok(!link.driver.running && !nic.running);
  }
  assert.deepEqual(
    link.log.filter(line => /^(warn|error)/.test(line)),
    [],
  );
});

linkTest('port and way of waiting change under a running guest, none lost', async start => {
  const link = await start();
  const { nic, port } = await link.plug('sink');
  const other = openPort('sink', { window, arena });
  await eventually(() => port.counters().sent > FRAMES);
  await nic.change({ port: other, spin: true });
  await eventually(() => other.counters().sent > FRAMES);
  await nic.change({ port, spin: false });
  const before = port.counters().sent;
  await eventually(() => port.counters().sent > before + FRAMES);
  await link.driver.setInterfaceUp(false);
  const { lost } = link.driver.stats();
  const sent = readFlow(window, link.netdev.lanes[0]!.state).sequence;
  assert.equal(port.counters().sent + other.counters().sent + lost, sent);
  other.close();
});

linkTest('a card without a link: the guest sees it, and that it comes again', async start => {
  const link = await start();
  const { fn, port } = await link.plug('sink');
  for (const up of [false, true]) {
    assert.equal(link.carrier.at(-1), !up);
    fn.device.setLink(up);
    await eventually(() => link.carrier.at(-1) === up);
  }
  const { sent } = port.counters();
  await eventually(() => port.counters().sent > sent + FRAMES);
  assert.deepEqual(link.carrier, [false, true, false, true]);
  assert.equal(link.driver.stats().starts, 1);
});

for (const pairs of [1, 2]) {
  linkTest(`a card with ${pairs} pairs that breaks is reset and goes on, no frame is lost`, async start => {
    const link = await start({ pairs });
    const starting = mock.method(link.slot, 'start');
    const { port } = await link.plug('sink');
    await eventually(() => port.counters().sent > FRAMES);
    const { driver } = starting.mock.calls[0]!.arguments[1][1]!.areas;
    const index = Number(driver - link.ram.toGuest(0)) + 2;
    const view = new DataView(window.memory.buffer);
    await eventually(() => {
      if (link.driver.stats().starts > 1) return true;
      view.setUint16(index, view.getUint16(index, true) + 0x4000, true); // more than the ring holds
      return false;
    });
    const { sent } = port.counters();
    await eventually(() => port.counters().sent > sent + FRAMES);
    assert.equal(link.driver.stats().lost, 0);
    assert.deepEqual(
      link.log.filter(line => /^(warn|error)/.test(line)),
      [],
    );
  });
}

linkTest('a card with more pairs than the guest wants, and one whose rings are too small', async start => {
  const link = await start({ pairs: 4, guestPairs: 2 });
  const card = await link.plug('source');
  await eventually(() => arrived(card.port, 1).sequence > FRAMES);
  assert.match(card.nic.dump(), /ring 3 tx: started, enabled/);
  const small = await start({ bufs: 512 });
  await assert.rejects(
    Promise.race([
      small.plug('source').then(() => {}),
      eventually(() => small.log.some(line => /has 256 descriptors, not 512/.test(line))).then(() => {
        throw new Error('refused');
      }),
    ]),
    /refused/,
  );
});

test('what is found of a card', async () => {
  const port = openPort('sink', { window, arena }, 2);
  const nic = await VirtioNic.start({ window, arena, port, limits: { queuePairs: 2, bufs: 1024 } });
  const fn = new VirtioNetFunction({ nic, window, mac: MAC, mtu: 1500 });
  const access = new FunctionAccess(fn);
  await access.write(4, 20, 1, 1);
  const found = await probeVirtioNet(access);
  assert.equal(await access.read(4, 20, 1), 0); // stopped before anything else
  assert.deepEqual([found.queuePairs, found.queueSize, found.control?.index, found.mac], [2, 256, 4, MAC]);
  const wanted = F.VERSION_1 | F.ACCESS_PLATFORM | NET_FEATURE.MQ | NET_FEATURE.MTU | P.CTRL_VQ;
  assert.equal(found.features & wanted, wanted);
  await access.close();
  fn.close();
  await nic.close();
  port.close();
});

/** A card's registers, of which any can lie. */
class FakeCard extends RegisterFile {
  readonly values = new Map<number, number>();
  features = F.VERSION_1 | F.ACCESS_PLATFORM;
  /** Bits of the status that never come. */
  refused = 0;
  /** Those that never go. */
  stuck = 0;
  #half = 0;

  constructor() {
    super();
    const structure = (type: number, offset: number, length: number, ...more: number[]) => {
      const words = [offset, length].flatMap(word => [0, 8, 16, 24].map(shift => (word >>> shift) & 0xff));
      return [9, 16 + more.length, type, 4, 0, 0, 0, ...words, ...more];
    };
    this.config = configSpace(0x1041_1af4, [
      structure(1, 0, 60),
      structure(2, 0x3000, 64, 4, 0, 0, 0),
      structure(4, 0x2000, 12),
    ]);
    this.sizes.set(REGION.BAR4, 0x4000);
    this.values.set(18, 3);
    this.values.set(24, 256);
  }

  offers(features: bigint, pairs: number): void {
    this.features = features;
    this.values.set(0x2008, pairs);
  }

  override async read(_region: number, offset: number): Promise<number> {
    this.here();
    if (offset === 4) return Number((this.features >> BigInt(32 * this.#half)) & 0xffff_ffffn);
    return this.values.get(offset) ?? 0;
  }

  override async write(_region: number, offset: number, value: number): Promise<void> {
    this.here();
    if (offset === 0) this.#half = value;
    if (offset === 26) this.values.set(26, value); // the vector of whichever queue
    if (offset === 20) this.values.set(20, (value & ~this.refused) | this.stuck);
  }
}

test('cards that can not be driven', async () => {
  const several = F.VERSION_1 | F.ACCESS_PLATFORM | NET_FEATURE.MQ | P.CTRL_VQ;
  const cases: [(card: FakeCard) => void, RegExp, string?][] = [
    [card => (card.config = configSpace(0x1042_1af4)), /it is 1af4:1042/],
    [card => (card.config = configSpace(0x000e_1b36)), /it is 1b36:000e/],
    [card => (card.config = configSpace(0x1041_1af4)), /notifications is nowhere/],
    [card => card.sizes.set(REGION.BAR4, 0x3020), /notifications is nowhere/],
    [card => (card.config[0x40 + 4] = 6), /common configuration is nowhere/],
    [card => (card.config[0x40 + 12] = 40), /common configuration is nowhere/],
    [card => (card.config[0x40 + 1] = 0x40), /notifications is nowhere/],
    [card => (card.features = F.ACCESS_PLATFORM), /before the standard/],
    [card => (card.features = F.VERSION_1), /bus's addresses/],
    [card => (card.vectors = 1), /1 MSI-X vectors/],
    [card => card.values.set(18, 1), /1 queues for 1 pairs/],
    [card => card.values.set(24, 2), /has 2 descriptors/],
    [card => card.offers(several, 0xffff), /3 queues for 65535 pairs/],
    [card => card.offers(several, 0), /3 queues for 0 pairs/],
    [card => (card.gone = true), /pulled out/, 'PCI_GONE'],
  ];
  for (const [spoil, message, code = 'PCI_DEVICE'] of cases) {
    const card = new FakeCard();
    spoil(card);
    await assert.rejects(probeVirtioNet(card), { code, message });
  }
});

test('a card that answers nothing, or says no', { timeout: 60_000 }, async () => {
  const ram = new GuestRam(window, 1 << 20);
  const slot = new VirtioPci({ window, ram, queuePairs: 1 });
  const areas = { descriptor: 0n, driver: 0n, device: 0n };
  const rings = [0, 1].map(index => ({ index, num: 64, base: 0, areas }));
  const card = new FakeCard();
  card.values.set(30, 1000);
  await assert.rejects(probeVirtioNet(card), { code: 'PCI_DEVICE', message: /nowhere/ });
  card.values.set(30, 0);
  await slot.plug(card, await probeVirtioNet(card));
  assert.deepEqual(
    card.wires.map(([region, offset, value, size]) => [region, offset, value, size]).slice(-2),
    [
      [4, 0x3000, 0, 2],
      [4, 0x3000, 1, 2],
    ],
  );
  card.refused = 8;
  await assert.rejects(slot.start(F.VERSION_1, rings), { code: 'PCI_DEVICE', message: /refuses features/ });
  card.stuck = 8;
  const late = slot.start(F.VERSION_1, rings);
  setTimeout(() => card.pull(), 20);
  await assert.rejects(late, { code: 'PCI_GONE' });
  assert.equal(slot.offer, null);
  await assert.rejects(slot.stop(), { code: 'PCI_GONE' });
  await slot.close();
  ram.close();
});

for (const how of ['is pulled out', 'does not reset itself'] as const) {
  test(`a card that answers no command, and ${how}: nothing of the queue is kept or looked at`, {
    timeout: 60_000,
  }, async t => {
    const ram = new GuestRam(window, 1 << 20);
    const slot = new VirtioPci({ window, ram, queuePairs: 2 });
    const card = new FakeCard();
    card.vectors = 5;
    card.values.set(18, 5);
    card.offers(F.VERSION_1 | F.ACCESS_PLATFORM | NET_FEATURE.MQ | P.CTRL_VQ, 2);
    await slot.plug(card, await probeVirtioNet(card));
    const areas = { descriptor: 0n, driver: 0n, device: 0n };
    const rings = [0, 1, 2, 3].map(index => ({ index, num: 64, base: 0, areas }));
    const started = slot.start(F.VERSION_1 | NET_FEATURE.MQ, rings);
    if (how === 'is pulled out') {
      const refused = assert.rejects(started, { code: 'PCI_GONE' });
      await eventually(() => ram.live === 1);
      card.pull();
      assert.equal(ram.live, 0);
      ram.allocate(4096); // the same memory, for something else
      await refused;
    } else {
      let clock = 0;
      t.mock.method(performance, 'now', () => (clock += 1000));
      await assert.rejects(started, { code: 'PCI_DEVICE', message: /does not answer/ });
      card.stuck = 8;
      await assert.rejects(slot.stop(), { code: 'PCI_DEVICE', message: /does not reset/ });
      assert.equal(ram.live, 0);
    }
    await slot.close();
    ram.close();
  });
}

test('the doorbells of a card that is gone are not rung for the next one', async () => {
  const ram = new GuestRam(window, 1 << 20);
  const slot = new VirtioPci({ window, ram, queuePairs: 1 });
  const bell = EventFd.create('doorbell');
  const [first, second] = [new FakeCard(), new FakeCard()];
  first.own = new Map([[0x3000, bell.owner]]);
  for (const [card, rung] of [
    [first, 1],
    [second, 0],
  ] as const) {
    await slot.plug(card, await probeVirtioNet(card));
    signalEventFd(slot.kick(1));
    assert.equal(bell.drain(), rung);
    card.pull();
  }
  await slot.close();
  bell.close();
  ram.close();
});

test('a card that answers nothing but ones is gone; one that breaks and can not be reset as well', async t => {
  for (const ones of [true, false]) {
    const ram = new GuestRam(window, 1 << 20);
    const slot = new VirtioPci({ window, ram, queuePairs: 1, lookMs: 5 });
    const card = new FakeCard();
    const areas = { descriptor: 0n, driver: 0n, device: 0n };
    const reasons: string[] = [];
    slot.onGone = reason => void reasons.push(reason.message);
    await slot.plug(card, await probeVirtioNet(card));
    await slot.start(
      F.VERSION_1,
      [0, 1].map(index => ({ index, num: 64, base: 0, areas })),
    );
    const first = slot.offer;
    card.values.set(20, 0x4f);
    await eventually(() => slot.offer !== first);
    assert.deepEqual([slot.offer, card.values.get(20), reasons], [first, 0, []]);
    await slot.start(F.VERSION_1, []);
    let clock = 0;
    const fast = t.mock.method(performance, 'now', () => (clock += 1000));
    card.stuck = ones ? 0 : 8;
    card.values.set(20, ones ? 0xff : 0x4f);
    while (slot.offer) await new Promise(resolve => setTimeout(resolve, 1));
    fast.mock.restore();
    assert.match(reasons.join(), ones ? /^[^,]* all its bits are ones$/ : /^[^,]*does not reset itself$/);
    await slot.close();
    ram.close();
  }
});
