/** A NIC that stops and starts again, as a whole or one direction, at the ends of what its indices can say. */
import assert from 'node:assert/strict';
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { eventually, window } from '../compliance/testbed.js';
import { nicTest, TX } from './nic-rig.js';

/** Fields of an sring context, behind CTX_OPAQUE. */
const SRING = { prod: 0, cons: 128, clear: 384 };

nicTest('a stop drains a ring whose indices wrap, and says so rightly', async start => {
  const rig = await start({ sleepMicroseconds: 50_000 }); // long enough to publish behind the worker's back
  await rig.prepare();
  await rig.enable();
  await rig.disable();
  const ring = rig.bed.tx.context + CTX_OPAQUE;
  for (const field of Object.values(SRING)) window.words[(ring + field) >>> 2] = 0xffff_ffe0;
  await rig.enable();
  assert.equal(rig.publish(60, false), 60);
  await rig.nic.disable('tx');
  assert.equal(rig.packets(TX), 60);
  assert.deepEqual(
    rig.log.filter(line => !line.startsWith('info')),
    [],
  );
  await rig.nic.enable('tx');
  rig.publish(64);
  await eventually(() => rig.packets(TX) === 124);
  assert.equal(rig.sink.outOfOrder, 0);
});
