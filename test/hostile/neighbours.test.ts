/**
 * Queues of one worker: the transmit queue is kept full of descriptors that point nowhere, by a guest that does nothing else, and that for ever.
 * The receive queue keeps its share: what is skipped is charged like what is sent.
 */
import assert from 'node:assert/strict';
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually, window } from '../compliance/testbed.js';
import { allTypes, STAMP_RING, titleOf } from '../compliance/types.js';
import { nicTest, RX, TX } from '../unit/nic-rig.js';

const NOWHERE = 0xdead_0000_0000_0000n;
const LENGTH = 64;
const ENOUGH = 10_000;

/** Keeps a ring full, whatever the device has done with it. `ring`: window address of the opaque part. */
type Filler = (ring: number, num: number) => () => void;

/** Of formats with sring's indices: descriptors of so many bytes, the word behind the address saying what it says. */
const freeRunning =
  (size: number, word: number): Filler =>
  (ring, num) => {
    const [PROD, CONS, DESCRIPTORS, ADDRESS, LEN] = [0, 128, 512, 8, 16];
    for (let i = 0; i < num; i++) {
      const descriptor = ring + DESCRIPTORS + i * size;
      window.longs[(descriptor + ADDRESS) / 8] = NOWHERE;
      window.words[(descriptor + LEN) >>> 2] = word;
    }
    return () => {
      window.words[(ring + PROD) >>> 2] = (window.words[(ring + CONS) >>> 2]! + num) >>> 0;
    };
  };

/** A descriptor is available when its flags say so for this lap, and used when both bits are alike. */
const packed: Filler = (ring, num) => {
  const [DESCRIPTORS, SIZE, AVAILABLE, USED] = [320, 16, 0x80, 0x8000];
  const view = new DataView(window.bytes.buffer, ring + DESCRIPTORS, num * SIZE);
  let index = 0;
  let wrap = true;
  return () => {
    for (let i = 0; i < num; i++) {
      const at = index * SIZE;
      const flags = view.getUint16(at + 14, true);
      if (((flags & AVAILABLE) !== 0) !== ((flags & USED) !== 0)) return; // the device has it
      view.setBigUint64(at, NOWHERE, true);
      view.setUint32(at + 8, LENGTH, true);
      view.setUint16(at + 12, index, true);
      view.setUint16(at + 14, wrap ? AVAILABLE : USED, true);
      index = (index + 1) % num;
      if (index === 0) wrap = !wrap;
    }
  };
};

const END_OF_PACKET = 1 << 16;
const FILLERS: Readonly<Record<string, Filler>> = {
  sring: freeRunning(24, LENGTH),
  sring_gso: freeRunning(32, LENGTH | END_OF_PACKET),
  vring_packed: packed,
  [STAMP_RING]: freeRunning(32, LENGTH),
};

for (const type of allTypes) {
  for (const spin of [false, true]) {
    const name = `${titleOf(type)}: a queue full of nonsense takes no more than its share: ${spin ? 'spin' : 'poll'}`;
    nicTest(name, async start => {
      const rig = await start({ device: deviceType(type)!, portSpec: 'source', spin });
      await rig.prepare();
      await rig.enable();
      const { num, tx } = rig.bed;
      const fill = FILLERS[type]!(tx.context + CTX_OPAQUE, num);
      const errors = () => rig.nic.stats().queues[TX]!.errors;
      let received = 0;
      await eventually(() => {
        for (let i = 0; i < 500; i++) {
          fill();
          rig.kicks[TX]!.signal();
          received += rig.poll();
        }
        return errors() > ENOUGH && received > ENOUGH / 20;
      });
      assert.equal(rig.guest.received.outOfOrder, 0);
      assert.equal(rig.nic.stats().queues[RX]!.errors, 0);
      assert.equal(rig.packets(TX), 0, 'nothing of it has reached the port');
      assert.doesNotMatch(
        rig.nic.dump(),
        /fault (?!none)/,
        'it is nonsense, but within the rules of the ring',
      );
    });
  }
}
