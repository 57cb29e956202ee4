/** A NIC that stops and starts again, as a whole or one direction, at the ends of what its indices can say. */
import assert from 'node:assert/strict';
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { deviceType, deviceTypeNames } from '../../src/ring/registry.js';
import { eventually, window } from '../compliance/testbed.js';
import { nicTest, RX, TX } from './nic-rig.js';

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

nicTest('one direction stops, is reclaimed and starts while the other runs on', async start => {
  const rig = await start({ portSpec: 'source' });
  await rig.prepare();
  await rig.enable();
  for (let round = 0; round < 5; round++) {
    await eventually(() => rig.poll() > 0);
    await rig.nic.disable('rx');
    while (rig.poll() > 0) {} // and lends all buffers again, which the device does not use any more
    rig.reclaim([rig.bed.rx]);
    await rig.nic.enable('rx');
    await eventually(() => rig.poll() > 0);
    assert.equal(rig.guest.received.outOfOrder, 0, 'no frame went to buffers that were reclaimed');
    rig.publish(10);
    await eventually(() => rig.packets(TX) === rig.guest.sent);
  }
  await rig.nic.disable('rx');
  while (rig.poll() > 0) {}
  assert.equal(rig.packets(RX), rig.guest.received.sequence);
});

for (const name of deviceTypeNames) {
  nicTest(
    `${name}: a guest that stops and starts without taking anything back loses nothing`,
    async start => {
      const rig = await start({ device: deviceType(name)! });
      await rig.prepare();
      await rig.enable();
      for (let round = 1; round <= 10; round++) {
        rig.publish(30);
        await eventually(() => rig.packets(TX) === 30 * round);
        await rig.disable();
        await rig.enable();
      }
      assert.equal(rig.sink.outOfOrder, 0);
    },
  );
}
