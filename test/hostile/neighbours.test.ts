/**
 * Queues of one worker: the transmit queue is kept full of descriptors that point nowhere, by a guest that does nothing else, and that for ever.
 * The receive queue keeps its share: what is skipped is charged like what is sent.
 */
import assert from 'node:assert/strict';
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { eventually, window } from '../compliance/testbed.js';
import { nicTest, RX, TX } from '../unit/nic-rig.js';

/** Of an sring, behind CTX_OPAQUE; the last two are of a descriptor. */
const SRING = { PROD: 0, CONS: 128, DESCRIPTORS: 512, SIZE: 24, ADDRESS: 8 };
const ENOUGH = 20_000;

for (const spin of [false, true]) {
  nicTest(`a queue full of nonsense takes no more than its share: ${spin ? 'spin' : 'poll'}`, async start => {
    const rig = await start({ portSpec: 'source', spin });
    await rig.prepare();
    await rig.enable();
    const { num, tx } = rig.bed;
    const ring = tx.context + CTX_OPAQUE;
    for (let i = 0; i < num; i++) {
      const descriptor = ring + SRING.DESCRIPTORS + i * SRING.SIZE;
      window.longs[(descriptor + SRING.ADDRESS) / 8] = 0xdead_0000_0000_0000n;
    }
    const errors = () => rig.nic.stats().queues[TX]!.errors;
    let received = 0;
    await eventually(() => {
      for (let i = 0; i < 500; i++) {
        window.words[(ring + SRING.PROD) >>> 2] = (window.words[(ring + SRING.CONS) >>> 2]! + num) >>> 0;
        rig.kicks[TX]!.signal();
        received += rig.poll();
      }
      return errors() > ENOUGH && received > ENOUGH / 20;
    });
    assert.equal(rig.guest.received.outOfOrder, 0);
    assert.equal(rig.nic.stats().queues[RX]!.errors, 0);
    assert.equal(rig.packets(TX), 0, 'nothing of it has reached the port');
    assert.doesNotMatch(rig.nic.dump(), /fault (?!none)/, 'it is nonsense, but within the rules of the ring');
  });
}
