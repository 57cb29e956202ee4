/** A guest behind an IOMMU: the NIC asks for what it does not know, uses what it is told, and forgets what is taken back. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  decodeBackendRequest,
  IOTLB,
  IOTLB_PERM,
  VhostUserStream,
} from '../../src/control/vhost-user/index.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { eventually } from '../../src/linux/testing.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena } from '../compliance/testbed.js';
import { qemu7 } from './vhost-user-scripts.js';
import { type VirtioRig, virtioTest } from './virtio-rig.js';

const SHIFT = 0x4000_0000_0000n;
const USER = 0x7f00_0000_0000n;
const PAGE = 4096n;
const { READ, WRITE } = IOTLB_PERM;

/** The front end's IOMMU: notes what it is asked for, and tells it when the test says so. */
class Iommu {
  readonly #rig: VirtioRig;
  readonly #stream: VhostUserStream;
  /** Pages that were asked for, and for what. */
  readonly asked = new Map<bigint, number>();
  /** Questions so far. */
  questions = 0;
  perm: number = READ | WRITE;
  size = PAGE;

  constructor(rig: VirtioRig) {
    this.#rig = rig;
    this.#stream = new VhostUserStream(socketChannel(rig.channels.at(-1)!));
    void this.#serve();
  }

  message(type: number, iova: bigint, size: bigint, perm = 0) {
    const userspaceAddress = iova - SHIFT - this.#rig.ram.guestPhysicalAddress + USER;
    return { iova, size, userspaceAddress, permType: (type << 8) | perm };
  }

  update(iova: bigint): Promise<boolean> {
    const message = this.message(IOTLB.UPDATE, (iova / this.size) * this.size, this.size, this.perm);
    return this.#rig.peer.confirm('IOTLB_MSG', message);
  }

  invalidate(iova: bigint, size: bigint): Promise<boolean> {
    return this.#rig.peer.confirm('IOTLB_MSG', this.message(IOTLB.INVALIDATE, iova, size));
  }

  close(): void {
    this.#stream.close();
  }

  async #serve(): Promise<void> {
    try {
      for (let m = await this.#stream.next(); m !== null; m = await this.#stream.next()) {
        const { iova, permType } = decodeBackendRequest(m);
        assert.equal(permType >>> 8, IOTLB.MISS);
        this.questions++;
        this.asked.set(iova / PAGE, permType & 0xff);
      }
    } catch {
      // closed by the test
    }
  }
}

async function begin(rig: VirtioRig): Promise<Iommu> {
  const { connect, reset, start } = qemu7(rig.place);
  await rig.say(connect);
  const iommu = new Iommu(rig);
  await rig.say(reset, start);
  return iommu;
}

/** Tells what was asked for until the rings run. */
async function answerAll(iommu: Iommu, done: () => boolean): Promise<void> {
  for (let round = 0; !done(); round++) {
    assert.ok(round < 1000, 'it asks for ever');
    await eventually(() => iommu.asked.size > 0 || done());
    for (const page of iommu.asked.keys()) {
      iommu.asked.delete(page);
      assert.ok(await iommu.update(page * PAGE));
    }
  }
}

for (const [what, accept] of [
  ['split', F.VERSION_1 | F.ACCESS_PLATFORM],
  ['packed', F.VERSION_1 | F.ACCESS_PLATFORM | F.RING_PACKED],
] as const) {
  virtioTest(`${what}: rings and buffers are asked for page by page`, async start => {
    const rig = await start({ accept, portSpec: 'source', iommu: SHIFT });
    const iommu = await begin(rig);
    assert.ok(!rig.nic.running, 'nothing is known yet');
    await answerAll(iommu, () => rig.nic.dump().match(/fault none/g)?.length === 2 && rig.nic.running);
    let sent = 0;
    while (sent < 200) {
      sent += rig.publish(32);
      await answerAll(iommu, () => rig.packets(1) === sent);
    }
    rig.refill();
    await answerAll(iommu, () => rig.packets(0) > 0);
    await answerAll(iommu, () => rig.poll() > 0);
    assert.equal(rig.guest().received.outOfOrder, 0);

    // All of it is taken back: rings lose their place, and get it again.
    assert.ok(await iommu.invalidate(0n, (1n << 64n) - 1n));
    await eventually(() => iommu.asked.size > 0);
    const before = rig.packets(1);
    const more = rig.publish(10);
    assert.equal(rig.packets(1), before);
    await answerAll(iommu, () => rig.packets(1) === before + more);
    iommu.close();
  });
}

virtioTest('a dirty log: what is written is marked where it is in guest memory', async start => {
  for (const packed of [false, true]) {
    const accept = F.VERSION_1 | F.ACCESS_PLATFORM | (packed ? F.RING_PACKED : 0n);
    const rig = await start({ accept, portSpec: 'source', iommu: SHIFT });
    const iommu = await begin(rig);
    const running = () => rig.nic.running && rig.nic.dump().match(/fault none/g)?.length === 2;
    await answerAll(iommu, running);
    const end = rig.ram.guestPhysicalAddress + BigInt(rig.ram.size);
    const size = Number(end / PAGE / 8n) + 1;
    const memfd = createMemfd({ name: 'log', size });
    const marked = (gpa: bigint) => {
      const page = gpa / PAGE;
      const bitmap = readFileSync(`/proc/self/fd/${memfd.fd}`);
      return (bitmap[Number(page / 8n)]! & (1 << Number(page % 8n))) !== 0;
    };
    const { descriptor, used, available } = rig.place.ring(0);
    await rig.peer.number('SET_LOG_BASE', { size: BigInt(size), offset: 0n }, [memfd.dup()]);
    assert.ok(await rig.peer.confirm('SET_FEATURES', { value: accept | F.LOG_ALL | (1n << 30n) }));
    const addresses = { index: 0, flags: 1, descriptor, used, available, logGuestAddress: used };
    assert.ok(await rig.peer.confirm('SET_VRING_ADDR', addresses));
    await answerAll(iommu, running);
    rig.refill();
    await answerAll(iommu, () => rig.packets(0) > 0);
    // I/O addresses are the guest's own, further up.
    const written = (packed ? descriptor : used) - SHIFT;
    await eventually(() => marked(written));
    assert.doesNotMatch(rig.log.join('\n'), /can't run|loses its place/);
    iommu.close();
    memfd.close();
    await rig.close();
  }
});

virtioTest('what is asked for is what is needed: to be read, or to be written', async start => {
  const accept = F.VERSION_1 | F.ACCESS_PLATFORM;
  const rig = await start({ accept, portSpec: 'source', iommu: SHIFT });
  const iommu = await begin(rig);
  await eventually(() => iommu.asked.size >= 2);
  const places = [0, 1].map(index => rig.place.ring(index));
  const pages = (key: 'descriptor' | 'available' | 'used') => places.map(place => place[key] / PAGE);
  const written = new Set(pages('used'));
  for (const [page, perm] of iommu.asked)
    assert.equal(perm, written.has(page) ? WRITE : READ, `page ${page}`);
  // Only what was asked for is allowed, and it is enough.
  for (const key of ['descriptor', 'available', 'used'] as const)
    for (const page of pages(key)) {
      iommu.perm = written.has(page) ? READ | WRITE : READ;
      assert.ok(await iommu.update(page * PAGE));
    }
  await eventually(() => rig.nic.running);
  iommu.perm = READ | WRITE; // buffers may be in the same pages
  for (const place of places) for (const at of Object.values(place)) assert.ok(await iommu.update(at));
  iommu.asked.clear();
  rig.publish(32);
  await eventually(() => iommu.asked.size > 0);
  assert.deepEqual(new Set(iommu.asked.values()), new Set([READ]), 'frames to transmit');
  iommu.asked.clear();
  rig.refill();
  await eventually(() => iommu.asked.size > 0);
  assert.deepEqual(new Set(iommu.asked.values()), new Set([WRITE]), 'buffers to receive into');
  iommu.close();
});

virtioTest('a ring that waits asks once, whatever others are told meanwhile', async start => {
  const accept = F.VERSION_1 | F.ACCESS_PLATFORM;
  const rig = await start({ accept, portSpec: 'source', iommu: SHIFT });
  const iommu = await begin(rig);
  await answerAll(iommu, () => rig.nic.dump().match(/fault none/g)?.length === 2 && rig.nic.running);
  const before = iommu.questions;
  const frames = rig.publish(32);
  await eventually(() => iommu.asked.size === 1);
  const [page] = iommu.asked.keys();
  const others = iommu.message(IOTLB.UPDATE, 2n * SHIFT, PAGE, READ);
  for (let i = 0; i < 20; i++) assert.ok(await rig.peer.confirm('IOTLB_MSG', others));
  rig.refill();
  await eventually(() => iommu.asked.size === 2);
  assert.equal(iommu.questions, before + 2, 'one for each ring');

  // What is taken back before it was given is asked for again.
  assert.ok(await iommu.invalidate(page! * PAGE, PAGE));
  assert.ok(await rig.peer.confirm('IOTLB_MSG', others));
  await eventually(() => iommu.questions === before + 3);
  await answerAll(iommu, () => rig.packets(1) === frames);
  iommu.close();
});

virtioTest(
  'a front end that can not be asked any more: it is told, and what it tells by itself is used',
  async start => {
    const accept = F.VERSION_1 | F.ACCESS_PLATFORM;
    for (const how of ['another channel', 'none']) {
      const rig = await start({ accept, portSpec: 'source', iommu: SHIFT });
      const { connect, reset, start: rest } = qemu7(rig.place);
      await rig.say(
        how === 'none' ? connect.filter(({ name }) => name !== 'SET_BACKEND_REQ_FD') : connect,
        reset,
        rest,
      );
      if (how !== 'none')
        assert.ok(await rig.peer.confirm('SET_BACKEND_REQ_FD', {}, [EventFd.create('no socket').owner]));
      const tell = async (iova: bigint, size: bigint) => {
        const userspaceAddress = iova - SHIFT - rig.ram.guestPhysicalAddress + USER;
        const permType = (IOTLB.UPDATE << 8) | READ | WRITE;
        assert.ok(await rig.peer.confirm('IOTLB_MSG', { iova, size, userspaceAddress, permType }));
      };
      for (const index of [0, 1])
        for (const at of Object.values(rig.place.ring(index))) await tell((at / PAGE) * PAGE, PAGE);
      assert.ok(rig.nic.running);
      rig.errors[1]!.drain();
      const n = rig.publish(20);
      await eventually(() => rig.errors[1]!.drain() > 0);
      assert.match(rig.log.join('\n'), /ring 1 waits for the translation of 0x/);
      await tell(SHIFT + rig.ram.guestPhysicalAddress, 1n << 32n);
      await eventually(() => rig.packets(1) === n);
      await rig.close();
    }
  },
);

virtioTest('large translations, and permissions', async start => {
  const accept = F.VERSION_1 | F.ACCESS_PLATFORM;
  const rig = await start({ accept, portSpec: 'source', iommu: SHIFT });
  const iommu = await begin(rig);
  const whole = 1n << 32n; // more than there is, over all regions
  iommu.size = whole;
  assert.ok(await iommu.update(SHIFT + rig.ram.guestPhysicalAddress));
  await eventually(() => rig.nic.running);
  const n = rig.publish(20);
  await eventually(() => rig.packets(1) === n);
  // Read only: rings lose their place, and ask for what they lack.
  iommu.perm = READ;
  iommu.asked.clear();
  assert.ok(await iommu.update(SHIFT + rig.ram.guestPhysicalAddress));
  await eventually(() => iommu.asked.size > 0);
  assert.ok(!rig.nic.running, 'used rings are to be written');
  iommu.close();
});

virtioTest(
  'no room for a table: what was taken back is not used, memory goes, nothing stays behind',
  async start => {
    const accept = F.VERSION_1 | F.ACCESS_PLATFORM;
    const rig = await start({ accept, portSpec: 'source', iommu: SHIFT });
    const iommu = await begin(rig);
    iommu.size = 1n << 32n;
    const all = SHIFT + rig.ram.guestPhysicalAddress;
    assert.ok(await iommu.update(all));
    await eventually(() => rig.nic.running);
    const filled = fillArena();
    const last = rig.place.regions.at(-1)!;
    await rig.peer.confirm('REM_MEM_REG', { pad: 0n, ...last }); // done or refused
    assert.ok(await iommu.invalidate(all, 1n << 32n));
    assert.ok(!rig.nic.running);
    const before = rig.packets(1);
    rig.publish(10);
    await rig.peer.settle();
    assert.equal(rig.packets(1), before);
    for (const address of filled) arena.free(address);
    await rig.peer.confirm('REM_MEM_REG', { pad: 0n, ...last });
    assert.ok(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...last }, [rig.ram.fd.dup()]));
    assert.ok(await iommu.update(all));
    await eventually(() => rig.packets(1) === before + 10);
    iommu.close();
  },
);

/** Leaves no room in the arena, and returns what is to be freed. */
function fillArena(): number[] {
  const filled: number[] = [];
  for (let size = 2 ** 26; size >= 64; ) {
    try {
      filled.push(arena.allocate(size));
    } catch {
      size /= 2;
    }
  }
  return filled;
}

virtioTest('translations that can not be are refused', async start => {
  const accept = F.VERSION_1 | F.ACCESS_PLATFORM;
  const rig = await start({ accept, iommu: SHIFT });
  const iommu = await begin(rig);
  const of = (iova: bigint, size: bigint, userspaceAddress: bigint) =>
    rig.peer.confirm('IOTLB_MSG', { iova, size, userspaceAddress, permType: (IOTLB.UPDATE << 8) | 3 });
  assert.equal(await of(0n, 0n, 0n), false);
  assert.equal(await of((1n << 64n) - 4096n, 8192n, 0n), false);
  assert.equal(await of(0n, 8192n, (1n << 64n) - 4096n), false);
  assert.ok(await of(0n, (1n << 64n) - 1n, 0n), 'all of it is odd, but no mistake');
  // Many, small ones, overlapping each other.
  for (let i = 0; i < 300; i++) assert.ok(await of(BigInt(i) * 512n, 1024n, USER + BigInt(i)));
  assert.ok(await iommu.invalidate(0n, (1n << 64n) - 1n));
  assert.ok(!rig.nic.running);
  iommu.close();
});
