/**
 * What every ring format has to keep, whatever it looks like inside. A format runs all of it with one call of `ringCompliance`: its device side
 * (datapath.wasm) against its programs as they are shipped, with the JIT and with the interpreter.
 */
import assert from 'node:assert/strict';
import { basename } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { impossibleClaims, publishClaim, ReceiveFlow, refillClaim, TransmitFlow } from './actors.js';
import { interleave } from './interleavings.js';
import { arena, type Engine, randomFrom, type Side, Testbed } from './testbed.js';
import { receiveRace, transmitRace } from './wake-ups.js';

export interface RingUnderTest {
  readonly device: string;
  /** Path of an object with other programs for this type; default: the shipped one. */
  readonly object?: string;
  /** Moves all indices of a fresh, empty context to `index`, both sides' shared ones; the device resumes from there. */
  seek(bed: Testbed, side: Side, index: number): void;
  /** Indices at which something wraps. */
  readonly seams: readonly number[];
  /** Bytes of a buffer at most that a descriptor can tell; default: 2^32 - 1. */
  readonly longestBuffer?: number;
  /** Breaks the shared state of a stopped ring so that no device may go on from it. */
  spoil(bed: Testbed, side: Side): void;
}

const NUM = 16;

export function ringCompliance(ring: RingUnderTest): void {
  for (const engine of ['jit', 'interpreter'] as const) {
    describe(`${basename(ring.object ?? ring.device)}, programs by ${engine}`, () =>
      compliance(ring, engine));
  }
}

function compliance(
  { device, object, seek, seams, spoil, longestBuffer = 0xffff_ffff }: RingUnderTest,
  engine: Engine,
): void {
  const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
  const thorough = engine === 'jit';
  let bed: Testbed;
  let heldBefore: ReturnType<typeof held>;
  before(() => {
    heldBefore = held();
    bed = new Testbed({ device, ...(object ? { object } : {}), num: NUM, engine });
  });
  after(() => {
    bed.checkCanaries();
    bed.close();
    assert.deepEqual(held(), heldBefore, 'leaks');
  });

  const startAt = (index: number) => {
    bed.reset();
    for (const side of bed.sides) {
      seek(bed, side, index);
      assert.ok(bed.ring.resume(side.queue.address), `resume at ${index}`);
    }
  };
  const settle = () => {
    for (const side of bed.sides) {
      bed.audit(side);
      assert.equal(side.queue.fault, 0);
    }
  };

  it('frames arrive once, in order and whole, across the end of ring and indices', () => {
    for (const seam of seams) {
      for (let offset = 0; offset <= NUM; offset += thorough ? 1 : 5) {
        startAt((seam - offset) >>> 0);
        const random = randomFrom(offset);
        const tx = new TransmitFlow(bed);
        const rx = new ReceiveFlow(bed);
        rx.refill();
        for (let round = 0; round < (thorough ? 30 : 10); round++) {
          tx.publish(random(NUM + 1));
          tx.drain(1 + random(NUM), random(NUM + 1));
          rx.fill(1 + random(NUM), random(NUM + 1));
          rx.poll(1 + random(NUM));
          if (random(3) > 0) rx.refill();
        }
        tx.drain(NUM);
        rx.poll(NUM);
        assert.deepEqual([tx.arrived, rx.arrived], [tx.sent, rx.sent], 'lost');
        assert.ok(tx.sent > NUM && rx.sent > NUM, `too little traffic: ${tx.sent}, ${rx.sent}`);
        bed.datapath.calls.driver_tx_complete(bed.tx.driver, NUM);
        assert.equal(bed.audit(bed.tx).free, NUM);
        settle();
      }
    }
  });

  it('a full ring takes no more, an empty one gives nothing', () => {
    for (const seam of seams) {
      startAt((seam - 3) >>> 0);
      const tx = new TransmitFlow(bed);
      assert.deepEqual([tx.drain(NUM).frames, bed.ring.pending(bed.tx.queue.address)], [0, 0]);
      assert.equal(tx.publish(NUM + 5).sent, NUM);
      assert.equal(tx.publish(1).sent, 0);
      assert.equal(bed.ring.pending(bed.tx.queue.address), NUM);
      assert.equal(tx.drain(1).frames, 1);
      assert.equal(tx.publish(5).sent, 1);
      assert.equal(tx.drain(128).frames, NUM);
      assert.equal(tx.drain(128).frames, 0);

      const rx = new ReceiveFlow(bed);
      assert.equal(rx.fill(NUM).room, 0, 'no buffers yet');
      assert.equal(rx.poll(NUM), 0);
      rx.refill();
      rx.refill();
      assert.equal(rx.fill(128).frames, NUM);
      assert.equal(rx.fill(128).room, 0);
      assert.equal(rx.poll(128), NUM);
      assert.equal(rx.poll(128), 0);
      settle();
    }
  });

  it('takes no more of a batch than was done with it', () => {
    startAt(0);
    const tx = new TransmitFlow(bed);
    tx.publish(10);
    for (const take of [0, 3, 0, 1]) assert.equal(tx.drain(NUM, take).frames, take);
    assert.equal(tx.drain(NUM).frames, 6);
    const rx = new ReceiveFlow(bed);
    rx.refill();
    for (const fill of [0, 3, 0, 1]) assert.equal(rx.fill(NUM, fill).frames, fill);
    assert.equal(rx.poll(NUM), 4);
    settle();
  });

  it('interrupts come when they were asked for, and kicks', () => {
    startAt((seams[0]! - 2) >>> 0);
    const { calls } = bed.datapath;
    const tx = new TransmitFlow(bed);
    assert.equal(tx.publish(NUM).kick, true, 'a fresh device wants kicks');
    assert.equal(bed.ring.kicks(bed.tx.queue.address, false), true, 'something is waiting');
    tx.drain(4);
    assert.equal(tx.publish(4).kick, false);
    assert.equal(calls.driver_arm(bed.tx.driver, 4), 0, 'nothing is completed');
    assert.equal(tx.drain(3).interrupt, false);
    assert.equal(tx.drain(1).interrupt, true, 'the fourth');
    assert.equal(tx.drain(NUM).interrupt, false, 'once');
    assert.ok(calls.driver_arm(bed.tx.driver, 4) > 0, 'completed already');
    assert.equal(bed.ring.kicks(bed.tx.queue.address, true), false, 'nothing is waiting');
    assert.equal(tx.publish(1).kick, true);

    const rx = new ReceiveFlow(bed);
    rx.refill();
    calls.driver_arm(bed.rx.driver, 0);
    assert.equal(rx.fill(2).interrupt, false);
    assert.ok(calls.driver_arm(bed.rx.driver, 1) > 0, 'completed already');
    rx.poll(NUM);
    assert.equal(calls.driver_arm(bed.rx.driver, 1), 0);
    assert.equal(rx.fill(1).interrupt, true);
    settle();
  });

  it('no wake-up is lost, whoever moves when', () => {
    bed.load(engine, undefined, true);
    for (const [i, seam] of seams.entries()) {
      for (let n = 0; n <= NUM; n += thorough ? 1 : 8)
        interleave(bed, n + i, () => startAt((seam - n) >>> 0));
    }
    let naps = 0;
    for (let seed = 1; seed <= (thorough ? 400 : 12); seed++) {
      startAt((seams[seed % seams.length]! - (seed % 40)) >>> 0);
      naps += transmitRace(bed, seed, thorough ? 120 : 60);
      startAt((seams[seed % seams.length]! - (seed % 40)) >>> 0);
      naps += receiveRace(bed, seed, thorough ? 120 : 60);
      settle();
    }
    assert.ok(naps > (thorough ? 1000 : 50), `only ${naps} times was somebody asleep`);
    bed.load(engine);
  });

  it('reclaim returns every buffer; the same contexts go on after a stop', () => {
    const { calls } = bed.datapath;
    for (const seam of seams) {
      startAt((seam - 20) >>> 0);
      const random = randomFrom(seam);
      for (let round = 0; round < (thorough ? 60 : 8); round++) {
        for (const { driver } of bed.sides) calls.driver_reset(driver, NUM);
        const tx = new TransmitFlow(bed);
        const rx = new ReceiveFlow(bed);
        if (random(8) > 0) {
          rx.refill();
          tx.publish(random(NUM + 1));
          tx.drain(1 + random(NUM), random(NUM + 1));
          tx.publish(random(4));
          rx.fill(1 + random(NUM), random(NUM + 1));
          rx.poll(1 + random(NUM));
        }
        // The device has stopped: it takes nothing from here on.
        for (const side of bed.sides) {
          const { device: posted } = bed.audit(side);
          assert.equal(calls.driver_reclaim(side.driver), posted);
          assert.equal(bed.audit(side).free, NUM);
          assert.equal(calls.driver_seize(side.driver, NUM), 0, 'nothing is left to be taken by force');
        }
        for (const { queue } of bed.sides) {
          assert.ok(bed.ring.resume(queue.address));
          assert.equal(bed.ring.pending(queue.address), 0, 'stale descriptors');
        }
      }
      settle();
    }
  });

  it('does not resume from indices that make no sense, and starts again on a new context', () => {
    for (const side of bed.sides) {
      startAt(0);
      spoil(bed, side);
      assert.equal(bed.ring.resume(side.queue.address), false);
      assert.notEqual(side.queue.fault, 0);
      assert.equal(bed.ring.pending(side.queue.address), 0);
      assert.equal(bed.ring.pop(side.queue.address, bed.deviceBatch.address, NUM), 0);
      assert.equal(bed.ring.complete(side.queue.address, bed.deviceBatch.address, 0), false);
      assert.equal(bed.ring.kicks(side.queue.address, true), false);
    }
    bed.reset();
    const tx = new TransmitFlow(bed);
    tx.publish(5);
    assert.equal(tx.drain(NUM).frames, 5);
    settle();
  });

  it('buffers that can not be are skipped, counted and given back, the others arrive', () => {
    const bad = impossibleClaims(bed).filter(([, { length }]) => length <= longestBuffer);
    const tooLong = ['longer than a frame', { gpa: bed.forbidden[0]! + 4096n, length: 1519 }] as const;
    for (const [what, claim] of [...bad, tooLong]) {
      startAt((seams.at(-1)! - 2) >>> 0);
      const errors = () => bed.tx.queue.stats.errors;
      const past = errors();
      const tx = new TransmitFlow(bed);
      tx.publish(2);
      publishClaim(bed, claim);
      publishClaim(bed, claim);
      tx.publish(2);
      publishClaim(bed, claim);
      assert.equal(tx.drain(NUM).frames, 4, what);
      assert.equal(errors() - past, 3, what);
      assert.equal(bed.datapath.calls.driver_tx_complete(bed.tx.driver, NUM), 7, what);
      assert.equal(bed.audit(bed.tx).free, NUM, what);
    }
    for (const [what, claim] of bad) {
      startAt((seams.at(-1)! - 2) >>> 0);
      const errors = () => bed.rx.queue.stats.errors;
      const past = errors();
      const rx = new ReceiveFlow(bed);
      for (const posted of [null, claim, claim, null, claim]) refillClaim(bed, posted);
      assert.equal(rx.fill(NUM).frames, 2, what);
      assert.equal(errors() - past, 3, what);
      assert.equal(rx.poll(NUM), 5, what);
      assert.equal(rx.arrived, 2, what);
      assert.equal(bed.audit(bed.rx).free, NUM, what);
    }
    settle();
  });

  it('a run of bad descriptors is charged to the budget', () => {
    const [, claim] = impossibleClaims(bed)[0]!;
    startAt(0);
    for (let i = 0; i < NUM; i++) publishClaim(bed, claim);
    for (let i = 0; i < NUM; i++) refillClaim(bed, claim);
    const steps = [
      [bed.tx, () => new TransmitFlow(bed).drain(3)],
      [bed.rx, () => new ReceiveFlow(bed).fill(3)],
    ] as const;
    for (const [{ queue }, step] of steps) {
      for (let left: number = NUM; left > 0; left -= 3) {
        assert.equal(bed.ring.pending(queue.address), left);
        const past = queue.stats.errors;
        assert.equal(step().frames, 0);
        assert.equal(queue.stats.errors - past, Math.min(3, left));
      }
      assert.equal(bed.ring.pending(queue.address), 0);
    }
    settle();
  });
}
