import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { packetCompliance, pieces } from './packets.js';
import { RINGS } from './rings.js';
import { ringCompliance } from './suite.js';
import { Testbed, window } from './testbed.js';

const [PROD, DESCRIPTORS] = [0, 512];
const [DESC_SIZE, DESC_LEN, DESC_FLAGS] = [32, 16, 18];

ringCompliance(RINGS.sring_gso);
packetCompliance(RINGS.sring_gso);

/** Posts descriptors of 100 bytes each without the programs' help, with EOP where `ends` says so. */
function post(bed: Testbed, ends: readonly boolean[]): void {
  const opaque = bed.tx.context + L.CTX_OPAQUE;
  const at = (offset: number) => (opaque + offset) >>> 2;
  const prod = window.words[at(PROD)]!;
  for (const [i, end] of ends.entries()) {
    const descriptor = opaque + DESCRIPTORS + ((prod + i) & (bed.num - 1)) * DESC_SIZE;
    window.bytes.fill(0, descriptor, descriptor + DESC_SIZE);
    window.longs[(descriptor + 8) / 8] = bed.ram.toGuest(bed.tx.buffers + i * 128);
    const view = new DataView(window.bytes.buffer, descriptor);
    view.setUint16(DESC_LEN, 100, true);
    view.setUint16(DESC_FLAGS, end ? 1 : 0, true);
  }
  window.words[at(PROD)] = prod + ends.length;
}

test('chains: one that has no end yet waits, one that can have none is an error', t => {
  const bed = new Testbed({ device: 'sring_gso', num: 128, features: 0x1ffn });
  t.after(() => bed.close());
  const { ring, deviceBatch, tx } = bed;
  const { address } = tx.queue;
  const step = (budget = 128) => {
    const frames = ring.pop(address, deviceBatch.address, budget);
    const buffers = Array.from(
      { length: frames },
      (_, i) => pieces(deviceBatch, i, deviceBatch.length(i)).length,
    );
    ring.complete(address, deviceBatch.address, frames);
    return buffers;
  };
  const chain = (n: number) => Array.from({ length: n }, (_, i) => i === n - 1);
  const endless = (n: number) => new Array<boolean>(n).fill(false);

  post(bed, [...chain(2), ...endless(3)]);
  assert.deepEqual(step(), [2]);
  assert.deepEqual(step(), []);
  assert.equal(ring.pending(address), 0, 'nothing that could be done');
  assert.equal(ring.kicks(address, true), false, 'nothing to wake up for');
  post(bed, [true]);
  assert.equal(ring.kicks(address, true), true);
  assert.deepEqual(step(), [4]);

  post(bed, [...chain(64), true]);
  assert.deepEqual(step(1), [64], 'a chain is taken whole, whatever the budget');
  assert.deepEqual(step(), [1]);
  assert.equal(tx.queue.stats.errors, 0);

  post(bed, [...chain(65), true]);
  assert.deepEqual(step(), [1, 1], 'the 65th begins another');
  assert.equal(tx.queue.stats.errors, 1);

  const small = new Testbed({ device: 'sring_gso', num: 16, features: 0x1ffn });
  t.after(() => small.close());
  post(small, endless(16));
  assert.equal(small.ring.pop(small.tx.queue.address, small.deviceBatch.address, 128), 0);
  small.ring.complete(small.tx.queue.address, small.deviceBatch.address, 0);
  assert.equal(small.tx.queue.stats.errors, 1);
  post(small, [true]);
  assert.equal(small.ring.pop(small.tx.queue.address, small.deviceBatch.address, 128), 1, 'the ring goes on');
});
