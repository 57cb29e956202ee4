/** Virtqueues, device side: what every set of features has to keep, against the model's driver. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, randomFrom } from './testbed.js';
import { VirtioBed } from './virtio-bed.js';
import { MATRIX, styleOf, VirtioRx, VirtioTx } from './virtio-flows.js';

for (const [name, features] of MATRIX) describe(`virtqueue, ${name}`, () => compliance(features));

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
}
