/** Virtqueues, device side: what every set of features has to keep, against the model's driver. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, randomFrom } from './testbed.js';
import { VirtioBed } from './virtio-bed.js';
import { isLarge, MATRIX, styleOf, VirtioRx, VirtioTx } from './virtio-flows.js';
import { receiveRace, transmitRace } from './virtio-wake-ups.js';

for (const [name, features] of MATRIX) describe(`virtqueue, ${name}`, () => compliance(features));

describe('virtqueue, the smallest and the largest', () => {
  const sizes = [
    ['split', [1, 2, 32768]],
    ['packed', [1, 2, 3, 32767, 32768]],
  ] as const;
  for (const [format, nums] of sizes)
    for (const num of nums)
      it(`${format}, ${num} descriptors`, () => {
        const merge = num > 2 ? F.MRG_RXBUF : 0n; // the model's buffers to merge are too short for one to be enough
        const features = F.VERSION_1 | F.EVENT_IDX | merge | (format === 'packed' ? F.RING_PACKED : 0n);
        const bed = new VirtioBed({ features, num, slots: 8 });
        const random = randomFrom(num);
        for (const seam of format === 'packed' ? [num, 2 * num] : [num, 0x10000]) {
          bed.reset(Math.max(0, seam - 3) % (format === 'packed' ? 2 * num : 0x10000));
          const tx = new VirtioTx(bed, { pieces: 1, longest: 1518 });
          const rx = new VirtioRx(bed, { pieces: 1, longest: 1000 });
          for (let round = 0; round < 20; round++) {
            tx.publish(4, random);
            tx.drain(128);
            tx.reap();
            rx.refill(4, random);
            rx.fill(128, 2);
            rx.poll();
          }
          assert.ok(tx.sent >= 20 && tx.arrived === tx.sent && bed.tx.driver.posted === 0, `${tx.sent} sent`);
          assert.ok(rx.sent > 5 && rx.arrived === rx.sent, `${rx.sent} received`);
          assert.equal(bed.stats(bed.tx).errors + bed.stats(bed.rx).errors, 0);
        }
        bed.checkCanaries();
        bed.close();
      });
});

function compliance(features: bigint): void {
  const packed = (features & F.RING_PACKED) !== 0n;
  const num = packed ? 29 : 32; // a packed ring may have any size
  const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
  const style = styleOf(features);
  /** Positions at which something wraps. */
  const seams = packed ? [num, 2 * num] : [0x10000, num];
  let bed: VirtioBed;
  let heldBefore: ReturnType<typeof held>;
  before(() => {
    heldBefore = held();
    bed = new VirtioBed({ features, num });
  });
  after(() => {
    bed.checkCanaries();
    bed.close();
    assert.deepEqual(held(), heldBefore, 'leaks');
  });
  const startAt = (seam: number, offset: number) => bed.reset(seam - 1 - (offset % num));
  const settle = () => {
    for (const side of bed.sides) {
      assert.equal(side.queue.fault, 0);
      assert.deepEqual([bed.stats(side).errors, bed.stats(side).dropped], [0, 0]);
    }
  };

  it('frames arrive once, in order and whole, with their headers, in chains of any cut', () => {
    for (const seam of seams) {
      for (const offset of [0, 7, 20]) {
        startAt(seam, offset);
        const random = randomFrom(seam + offset);
        const tx = new VirtioTx(bed, style);
        const rx = new VirtioRx(bed, style);
        for (let round = 0; round < 40; round++) {
          tx.publish(random(8), random);
          tx.drain(1 + random(num), random(num));
          if (random(3) > 0) tx.reap();
          if (random(3) > 0) rx.refill(num, random);
          for (let n = random(4); n > 0; n--) rx.fill(1 + random(num), random(num));
          rx.poll();
        }
        while (tx.drain(128).frames > 0);
        tx.reap();
        rx.poll();
        assert.deepEqual([tx.arrived, rx.arrived], [tx.sent, rx.sent], 'lost');
        assert.ok(tx.sent > 20 && rx.sent > 20, `too little traffic: ${tx.sent}, ${rx.sent}`);
        assert.equal(bed.tx.driver.free, num);
        settle();
      }
    }
  });

  it('a batch is taken in part, and nothing is lost or done twice', () => {
    bed.reset();
    const random = randomFrom(1);
    const tx = new VirtioTx(bed, { ...style, pieces: 1 });
    tx.publish(10, random);
    for (const take of [0, 3, 0, 1]) assert.equal(tx.drain(num, take).frames, take);
    assert.equal(tx.reap(), 4);
    assert.equal(tx.drain(num).frames, 6);
    const rx = new VirtioRx(bed, { ...style, pieces: 1 });
    rx.refill(num, random);
    while (rx.sent < 4) rx.fill(num, Math.min(random(3), 4 - rx.sent));
    assert.equal(rx.poll(), 4);
    settle();
  });

  it('a full ring takes no more, an empty one gives nothing', () => {
    bed.reset();
    const random = randomFrom(2);
    const tx = new VirtioTx(bed, { ...style, pieces: 1 });
    assert.deepEqual([tx.drain(num).frames, bed.ring.pending(bed.tx.queue.address)], [0, 0]);
    assert.equal(tx.publish(num + 5, random).sent, num);
    assert.equal(bed.ring.pending(bed.tx.queue.address), num);
    assert.equal(tx.drain(1).frames, 1);
    assert.equal(tx.reap(), 1);
    assert.equal(tx.publish(5, random).sent, 1);
    assert.equal(tx.drain(128).frames, num);
    assert.equal(tx.drain(128).frames, 0);
    assert.equal(new VirtioRx(bed, style).fill(num).room, 0, 'no buffers yet');
    settle();
  });

  it('interrupts come when the driver asked for them, and kicks when the device did', () => {
    for (const seam of seams) {
      startAt(seam, 1);
      const random = randomFrom(3);
      const tx = new VirtioTx(bed, { ...style, pieces: 1 });
      const { queue, driver } = bed.tx;
      assert.equal(tx.publish(4, random).kick, true, 'a fresh device wants kicks');
      assert.equal(tx.drain(1).interrupt, true, 'the first completion is told');
      assert.equal(bed.ring.kicks(queue.address, false), true, 'something is waiting');
      assert.equal(tx.publish(2, random).kick, false);
      tx.reap();
      driver.arm(0);
      assert.equal(tx.drain(2).interrupt, false);
      tx.reap();
      assert.equal(driver.arm(3), false, 'nothing has come back');
      const each = (features & F.EVENT_IDX) === 0n;
      assert.equal(tx.drain(2).interrupt, each, 'two of three');
      assert.equal(tx.drain(1).interrupt, true, 'the third');
      assert.equal(tx.reap(), 3);
      assert.equal(bed.ring.kicks(queue.address, true), false, 'nothing is waiting');
      assert.equal(tx.publish(1, random).kick, true);
      assert.equal(tx.publish(1, random).kick, each, 'told once, with event index');
      assert.equal(bed.ring.kicks(queue.address, true), true);
    }
    settle();
  });

  it('no wake-up is lost, whoever moves when', () => {
    let naps = 0;
    const races = isLarge(features) ? 10 : 40;
    for (let seed = 1; seed <= races; seed++) {
      startAt(seams[seed % 2]!, seed);
      naps += transmitRace(bed, seed, 120);
      startAt(seams[seed % 2]!, seed);
      naps += receiveRace(bed, seed, 120);
    }
    settle();
    assert.ok(naps > 3 * races, `only ${naps} times was somebody asleep`);
  });

  it('goes on after a stop, where it was or elsewhere', () => {
    startAt(seams[0]!, 5);
    const random = randomFrom(4);
    const tx = new VirtioTx(bed, style);
    const rx = new VirtioRx(bed, style);
    rx.refill(num, random);
    for (let round = 0; round < 30; round++) {
      tx.publish(random(5), random);
      tx.drain(1 + random(num), random(4));
      rx.fill(num, random(3));
      if (random(2) === 0) rx.refill(num, random);
      for (const side of bed.sides) {
        // A batch is under way while the queue stops; another process starts with the base that this one tells.
        if (random(2) === 0)
          bed.ring[side.direction === 'tx' ? 'pop' : 'room'](side.queue.address, bed.batch.address, num);
        const { base } = side.queue;
        side.queue.negotiate(features, num, 1518);
        assert.ok(side.queue.setBase(packed && random(2) === 0 ? base & 0xffff : base));
        assert.ok(bed.ring.resume(side.queue.address));
        assert.equal(side.queue.base, base);
      }
      tx.reap();
      rx.poll();
    }
    while (tx.drain(128).frames > 0);
    tx.reap();
    assert.deepEqual([tx.arrived, rx.arrived], [tx.sent, rx.sent]);
    settle();
  });
}
