/** Frames that one device leaves behind, whatever it has done to the ring, are what the next one finds in it: all of them, whole, in order, once. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import type { VirtioQueue } from '../../src/guest/virtio/commands.js';
import { offerUnsent, unsentFrames } from '../../src/guest/virtio/unsent.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { pieces as framePieces, setHeader } from '../compliance/packets.js';
import { arena, randomFrom, window } from '../compliance/testbed.js';
import { ModelEnd, VdrvBed } from '../compliance/virtio-driver-bed.js';
import { contentOf, headerOf } from '../compliance/virtio-flows.js';
import type { Chain } from '../compliance/virtio-model.js';

const NUM = 128;
const LONGEST = 20_000;
const FRAME_BUFFERS = Math.ceil(LONGEST / 2032);
const LARGE = F.CSUM | F.HOST_TSO4;
const SETS: readonly (readonly [string, bigint])[] = [
  ['split', F.VERSION_1 | LARGE],
  ['split, event index, indirect', F.VERSION_1 | F.EVENT_IDX | F.INDIRECT_DESC | LARGE],
  ['packed', F.VERSION_1 | F.RING_PACKED | LARGE],
  ['packed, event index, indirect', F.VERSION_1 | F.RING_PACKED | F.EVENT_IDX | F.INDIRECT_DESC | LARGE],
];

for (const [name, features] of SETS) {
  test(`frames that were not sent, ${name}`, () => {
    const { live } = arena;
    const bed = new VdrvBed({
      ...{ features, num: NUM, buffers: NUM, frameBuffers: FRAME_BUFFERS, maxFrame: L.LARGE_FRAME },
    });
    const { calls } = bed.datapath;
    const { address } = bed.tx.driver;
    const queue: VirtioQueue = {
      ...{ index: 1, address, buffers: NUM, frameBuffers: FRAME_BUFFERS, kick: -1, call: -1 },
    };
    const random = randomFrom(7);
    /** By their first buffers: which frame it is. */
    const numbers = new Map<number, number>();
    let next = 0;
    const publish = (want: number): void => {
      for (; want > 0; want--) {
        if (calls.vdrv_tx_room(address, bed.batch.address, 1) === 0) return;
        const payload = contentOf(next, LONGEST);
        let done = 0;
        for (const piece of framePieces(bed.batch, 0, payload.length)) {
          piece.set(payload.subarray(done, done + piece.length));
          done += piece.length;
        }
        bed.batch.setLength(0, payload.length);
        setHeader(bed.batch, 0, headerOf(next, payload.length, [1]));
        const before = new Set(unsentFrames(window, queue));
        calls.vdrv_tx_publish(address, bed.batch.address, 1);
        const [first] = unsentFrames(window, queue).filter(buffer => !before.has(buffer));
        numbers.set(first!, next++);
      }
    };
    const left = (): number[] => unsentFrames(window, queue).map(first => numbers.get(first)!);

    for (let round = 0; round < 40; round++) {
      publish(1 + random(12));
      // A device takes some, and gives some of them back, in any order.
      const model = bed.model(bed.tx);
      const taken: Chain[] = [];
      for (let n = random(12), chain: Chain | null; n > 0 && (chain = model.next()); n--) taken.push(chain);
      const back = new Set<number>();
      for (let n = random(taken.length + 1); n > 0; n--) {
        const { id } = taken.splice(random(taken.length), 1)[0]!;
        back.add(numbers.get(id)!);
        model.use(id, 0);
      }
      model.publish();
      const before = left();
      assert.equal(calls.vdrv_tx_complete(address, NUM), back.size);
      const expected = before.filter(n => !back.has(n));
      assert.deepEqual(left(), expected);
      // It scribbles over all that it can write to, and is gone.
      for (const area of Object.values(bed.tx.driver.areas)) {
        bed.write(
          area,
          Uint8Array.from({ length: 4 + random(60) }, () => random(256)),
        );
      }
      assert.equal(offerUnsent(window, calls, queue), expected.length);
      assert.deepEqual(left(), expected);
      bed.audit(bed.tx);
      if (round % 4 < 3) continue;
      const { frames } = new ModelEnd(bed, bed.tx).drain(NUM, random);
      assert.equal(frames.length, expected.length);
      for (const [i, { header, payload }] of frames.entries()) {
        const content = contentOf(expected[i]!, LONGEST);
        assert.ok(payload.equals(content), `payload of frame ${expected[i]}`);
        assert.deepEqual(header, headerOf(expected[i]!, content.length, [1]));
      }
      assert.equal(calls.vdrv_tx_complete(address, NUM), frames.length);
      assert.deepEqual(bed.audit(bed.tx), { free: NUM, driver: 0, device: 0 });
      assert.equal(offerUnsent(window, calls, queue), 0);
    }
    assert.equal(bed.faultOf(bed.tx), L.FAULT_NONE);
    assert.ok(next > 100);
    bed.checkCanaries();
    bed.close();
    assert.equal(arena.live, live, 'leaks');
  });
}
