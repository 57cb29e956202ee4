/** Very many regions: each page of the guest by itself, as a guest behind an IOMMU may have it. Frames are found as before, and nearly as fast. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import type { RegionTable } from '../../src/memory/guest-memory.js';
import { MAX_PIECES } from '../../src/nic/iotlb.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, randomFrom, window } from '../compliance/testbed.js';
import { VirtioBed } from '../compliance/virtio-bed.js';
import { VirtioTx } from '../compliance/virtio-flows.js';

const PAGE = 4096n;

/** The bed's memory page by page, after so many other pages far below. */
function pageByPage(bed: VirtioBed, most: number): RegionTable {
  const regions = bed.table.address + L.REGIONS_HEAD;
  const whole = [0, 1].map(i => {
    const entry = (regions + i * L.REGION_SIZE) / 8;
    return {
      gpa: window.longs[entry + L.REGION_GPA / 8]!,
      length: window.longs[entry + L.REGION_LENGTH / 8]!,
    };
  });
  const pages = whole.flatMap(({ gpa, length }) =>
    Array.from({ length: Number(length / PAGE) }, (_, i) => gpa + BigInt(i) * PAGE),
  );
  const aliases = pages.map(gpa => ({ address: gpa, size: PAGE, target: gpa, denied: 0 }));
  for (let n = 0; aliases.length < most; n++)
    aliases.push({ address: BigInt(2 * n) * PAGE, size: PAGE, target: pages[n % pages.length]!, denied: 0 });
  return bed.table.aliased(aliases, most);
}

test(`${MAX_PIECES} regions: look-ups are found by halves`, t => {
  const live = arena.live;
  const bed = new VirtioBed({ features: F.VERSION_1, num: 64, slots: 128 });
  const many = pageByPage(bed, MAX_PIECES);
  assert.equal(window.words[(many.address + L.REGIONS_COUNT) >>> 2], MAX_PIECES);
  const regions = (bed.tx.queue.address + L.QUEUE_REGIONS) >>> 2;
  const hint = (bed.tx.queue.address + L.QUEUE_HINT) >>> 2;
  const frames = 64;
  /** Microseconds a frame: the best of some rounds. */
  const measure = (table: RegionTable): number => {
    window.words[regions] = table.address;
    window.words[hint] = 0;
    bed.reset();
    const tx = new VirtioTx(bed, { pieces: 1, longest: 1518 });
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < 200; round++) {
      assert.equal(tx.publish(frames, randomFrom(round)).sent, frames);
      const begun = performance.now();
      let n = 0;
      while (n < frames) {
        const got = bed.ring.pop(bed.tx.queue.address, bed.batch.address, frames);
        assert.ok(got > 0);
        bed.ring.complete(bed.tx.queue.address, bed.batch.address, got);
        n += got;
      }
      best = Math.min(best, ((performance.now() - begun) * 1000) / frames);
      tx.reap();
    }
    assert.equal(bed.stats(bed.tx).errors, 0);
    return best;
  };
  const [few, all] = [measure(bed.table), measure(many)];
  t.diagnostic(`${few.toFixed(2)} us a frame with 2 regions, ${all.toFixed(2)} us with ${MAX_PIECES}`);
  assert.ok(all < 10 * few + 1, `${all} us a frame, ${few} with 2 regions`);
  many.close();
  bed.close();
  assert.equal(arena.live, live);
});
