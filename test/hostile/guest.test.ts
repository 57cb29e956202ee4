/**
 * A hostile guest against the device: it writes anything into its ring at any moment.
 *
 * What must hold, whatever it writes: a call does no more than its budget; every frame that reaches a port lies in the guest's regions; of
 * the host's memory only what belongs to that queue changes, and of the guest's only the ring itself; mistakes are counted; the other queue goes on;
 * a new context works.
 *
 * POLYNIC_LONG=hostile makes a million mutations and more, an everyday run a share of that.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { STACK_BYTES } from '../../src/ebpf/sandbox.js';
import { ARENA_END, ARENA_START } from '../../src/memory/window.js';
import { deviceType } from '../../src/ring/registry.js';
import { ReceiveFlow, TransmitFlow } from '../compliance/actors.js';
import { arena, eventually, randomFrom, type Side, Testbed, window } from '../compliance/testbed.js';
import { allTypes, titleOf } from '../compliance/types.js';
import { nicTest, RX, TX } from '../unit/nic-rig.js';
import { Invariants } from './invariants.js';
import { mutate, publishAnything } from './mutations.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const NUM = 16;

for (const device of allTypes) {
  test(`${titleOf(device)}: a guest that mutates its ring between any two steps of the device`, t => {
    const live = arena.live;
    const bed = new Testbed({ device, num: NUM });
    const goal = LONG ? 1_000_000 : 200_000;
    let mutations = 0;
    let faults = 0;
    let frames = 0;
    let errors = 0;
    for (let burst = 0; mutations < goal; burst++) {
      const random = randomFrom(burst);
      const [hostile, honest] = burst % 2 === 0 ? [bed.tx, bed.rx] : [bed.rx, bed.tx];
      const invariants = new Invariants(bed, hostile, [
        { start: bed.stack, end: bed.stack + STACK_BYTES }, // the guest's programs run, too
      ]);
      const past = hostile.queue.stats;
      for (let step = 0; step < 400; step++) {
        const what = random(16);
        if (what < 6) {
          mutate(bed, hostile, random);
          mutations++;
        } else if (what < 9) publishAnything(bed, hostile, random);
        else if (what < 14) {
          mutations += deviceTurn(bed, hostile, random, invariants);
        } else if (what === 14) bed.ring.kicks(hostile.queue.address, random(2) === 0);
        else if (random(2) === 0) bed.ring.resume(hostile.queue.address);
        if (hostile.queue.fault !== 0) {
          faults++;
          assert.equal(bed.ring.pending(hostile.queue.address), 0, 'it stands still');
          if (random(2) === 0)
            hostile.queue.setContext(bed.ram.toGuest(hostile.context), bed.table, bed.ring);
          else bed.ring.resume(hostile.queue.address);
        }
      }
      invariants.check(`burst ${burst}`);
      const now = hostile.queue.stats;
      frames += now.packets - past.packets;
      errors += now.errors - past.errors;

      // The other queue has noticed nothing, and a new context makes this one work as well.
      runHonestly(bed, honest);
      hostile.queue.setContext(bed.ram.toGuest(hostile.context), bed.table, bed.ring);
      bed.datapath.calls.driver_reset(hostile.driver, NUM);
      runHonestly(bed, hostile);
    }
    t.diagnostic(
      `${mutations} mutations: ${faults} faults, ${errors} counted errors, ${frames} frames got through`,
    );
    assert.ok(
      faults > goal / 1000 && errors > goal / 1000 && frames > goal / 1000,
      'too tame to mean anything',
    );
    bed.checkCanaries();
    bed.close();
    assert.equal(arena.live, live);
    assert.ok(
      window.bytes.subarray(ARENA_END - 4096, ARENA_END).every(byte => byte === 0),
      'the far end of the arena',
    );
    assert.ok(
      window.bytes.subarray(4096, ARENA_START).every(byte => byte === 0),
      'below the arena',
    );
  });
}

/** The device's side of one turn, the guest writing in between. Returns how often it did. */
function deviceTurn(
  bed: Testbed,
  side: Side,
  random: (below: number) => number,
  invariants: Invariants,
): number {
  const { ring, deviceBatch } = bed;
  const { address } = side.queue;
  const budget = 1 + random(20);
  const past = side.queue.stats.errors;
  const receives = side.direction === 'rx';
  assert.ok(ring.pending(address) <= NUM, 'more waiting than the ring holds');
  const frames = ring[receives ? 'room' : 'pop'](address, deviceBatch.address, budget);
  assert.ok(frames <= budget, `${frames} frames for a budget of ${budget}`);
  assert.ok(side.queue.stats.errors - past + frames <= budget + 1, 'more descriptors than the budget');
  invariants.checkFrames(frames);
  const done = random(frames + 1);
  const written = random(4);
  for (let i = 0; i < written; i++) mutate(bed, side, random);
  if (receives) {
    for (let i = 0; i < done; i++) deviceBatch.setLength(i, random(deviceBatch.room(i) + 1));
  } else invariants.checkFrames(frames);
  ring[receives ? 'push' : 'complete'](address, deviceBatch.address, done);
  return written;
}

function runHonestly(bed: Testbed, side: Side): void {
  if (side.direction === 'tx') {
    const flow = new TransmitFlow(bed);
    for (let i = 0; i < 3; i++) {
      flow.publish(7);
      flow.drain(NUM);
    }
    assert.equal(flow.arrived, 21, 'transmit');
  } else {
    const flow = new ReceiveFlow(bed);
    for (let i = 0; i < 3; i++) {
      flow.refill();
      flow.fill(NUM, 7);
      flow.poll(NUM);
    }
    assert.equal(flow.arrived, 21, 'receive');
  }
  assert.equal(side.queue.fault, 0);
}

for (const name of allTypes)
  nicTest(
    `${titleOf(name)}: a guest that mutates its rings while the worker is at them`,
    async (start, t) => {
      const rig = await start({ portSpec: 'source', spin: true, device: deviceType(name)! });
      const { bed, nic } = rig;
      const milliseconds = LONG ? 20_000 : 400;
      const random = randomFrom(7);
      const until = performance.now() + milliseconds;
      let mutations = 0;
      let resets = 0;
      while (performance.now() < until) {
        await rig.prepare();
        await rig.enable();
        rig.poll();
        rig.publish(60);
        for (let burst = 0; burst < 5; burst++) {
          for (let i = 0; i < 2000; i++, mutations++) mutate(bed, random(2) === 0 ? bed.tx : bed.rx, random);
          await rig.nic.setMemoryTable(rig.regions(1 + random(3)));
        }
        await nic.disconnect();
        for (const { driver } of bed.sides) bed.datapath.calls.driver_reset(driver, bed.num);
        resets++;
      }
      // Whoever comes next finds a NIC that works.
      await rig.prepare();
      await rig.enable();
      const { received } = rig.guest;
      rig.poll();
      rig.publish(9);
      await eventually(() => {
        rig.poll();
        return rig.packets(TX) === 9 && rig.guest.received.sequence > received.sequence;
      });
      assert.deepEqual(
        rig.nic.stats().queues.map(({ errors }) => errors),
        [0, 0],
      );
      t.diagnostic(`${mutations} mutations, ${resets} resets; queue ${RX} and ${TX} work`);
      assert.ok(resets > 0);
      assert.equal(bed.driver(bed.tx, L.DRIVER_FAULT), 0);
    },
  );
