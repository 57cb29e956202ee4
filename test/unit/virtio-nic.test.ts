/** A virtio NIC behind vhost-user: what real front ends say, with frames that move when they should and not otherwise. */
import assert from 'node:assert/strict';
import { eventually } from '../../src/linux/testing.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { dpdk, plain, qemu7, qemu11 } from './vhost-user-scripts.js';
import { type VirtioRig, virtioTest } from './virtio-rig.js';

const RINGS = [
  ['split', F.VERSION_1],
  ['split, event index, mergeable', F.VERSION_1 | F.EVENT_IDX | F.MRG_RXBUF],
  ['packed', F.VERSION_1 | F.RING_PACKED],
  ['packed, event index, indirect', F.VERSION_1 | F.RING_PACKED | F.EVENT_IDX | F.INDIRECT_DESC],
] as const;

/** Frames go out and come in, numbered, none lost. */
async function flows(rig: VirtioRig, pair = 0): Promise<void> {
  const [sent, received] = [rig.packets(2 * pair + 1), rig.packets(2 * pair)];
  let published = 0;
  while (published < 100) {
    published += rig.publish(40, { pair });
    await eventually(() => rig.packets(2 * pair + 1) === sent + published);
  }
  rig.refill(pair);
  await eventually(() => rig.poll(pair) > 0 && rig.packets(2 * pair) > received + 100);
  assert.ok(rig.guest(pair).received.outOfOrder <= rig.resets, 'frames are missing');
}

for (const [what, accept] of RINGS) {
  for (const [who, scripts] of [
    ['QEMU 7.2', qemu7],
    ['QEMU 11.1', qemu11],
  ] as const) {
    virtioTest(`${who}, ${what}: start, stop, start, reboot, gone and back`, async start => {
      const rig = await start({ accept, portSpec: 'source' });
      const { connect, reset, start: run, stop } = scripts(rig.place);
      await rig.say(connect, reset, reset, run);
      await flows(rig);
      for (let round = 0; round < 3; round++) {
        const bases: number[] = [];
        for (const { name, values } of stop) {
          const { payload } = await rig.peer.ask(name, values);
          bases.push(new DataView(payload.buffer).getUint32(4, true));
        }
        assert.ok(!rig.nic.running);
        const before = rig.packets(1);
        rig.publish(5);
        // On `cont` the memory is not told again, and bases are those that were given.
        const again = run
          .filter(({ name }) => name !== 'ADD_MEM_REG')
          .map(step =>
            step.name === 'SET_VRING_BASE'
              ? { ...step, values: { ...step.values, num: bases[(step.values as { index: number }).index]! } }
              : step,
          ) as typeof run;
        await rig.say(again);
        await eventually(() => rig.packets(1) >= before + 5);
        await flows(rig);
      }
      // Reboot: rings stop, the device is reset, the driver begins anew.
      await rig.say(stop, reset);
      rig.reset();
      await rig.say(run.filter(({ name }) => name !== 'ADD_MEM_REG'));
      await flows(rig);
      await rig.reconnect();
      rig.reset();
      await rig.say(connect, reset, run);
      await flows(rig);
      assert.deepEqual(rig.peer.refusals, []);
    });
  }

  virtioTest(`DPDK, ${what}: guest addresses are its own, two pairs, base 0x8000`, async start => {
    const rig = await start({ accept, portSpec: 'source', pairs: 2, userspace: 0x1_0000_0000n });
    const place = { ...rig.place, base: (accept & F.RING_PACKED) === 0n ? 0 : 0x8000 };
    const { connect, start: run, stop } = dpdk(place, 2);
    await rig.say(connect, run);
    await flows(rig, 0);
    // Pair 1 is not enabled: what it sends goes nowhere, nothing comes.
    rig.refill(1);
    const sent = rig.port.counters().received;
    const n = rig.publish(20, { pair: 1 });
    await eventually(() => rig.packets(3) === n);
    assert.equal(rig.packets(2), 0);
    assert.ok(rig.port.counters().received >= sent);
    rig.peer.tell('SET_VRING_ENABLE', { index: 2, num: 1 });
    rig.peer.tell('SET_VRING_ENABLE', { index: 3, num: 1 });
    await flows(rig, 1);
    await flows(rig, 0);
    await rig.say(stop);
    rig.reset();
    await rig.say(run);
    await flows(rig, 0);
  });
}

virtioTest('a front end without protocol features: rings run as soon as they are kicked', async start => {
  const rig = await start({ portSpec: 'source' });
  const { connect, start: run, stop } = plain(rig.place);
  await rig.say(connect, run);
  await flows(rig);
  await rig.say(stop);
  assert.ok(!rig.nic.running);
});
