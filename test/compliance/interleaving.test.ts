/**
 * No wake-up is lost at any single access to the ring, of either side: device sides in WebAssembly and in JavaScript, programs as the JIT makes them. And
 * what would go unnoticed otherwise is noticed: rings with the mistakes that this is about.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import * as L from '../../datapath/layout.js';
import { assemble } from '../../src/ebpf/asm.js';
import { openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import type { Ring } from '../../src/ring/ring.js';
import { interleave } from './interleavings.js';
import * as preempt from './preempt.js';
import { RINGS } from './rings.js';
import type { RingUnderTest } from './suite.js';
import { arena, Testbed, window } from './testbed.js';
import { STAMP_RING, titleOf } from './types.js';
import { receiveRace, transmitRace } from './wake-ups.js';

const NUM = 16;
const LONG = process.env.POLYNIC_LONG === 'hostile';
const RACES = LONG ? 3000 : 30;

/** Makes both queues new, with a seam a few descriptors ahead, or right here. */
function restart(bed: Testbed, { seams, seek }: RingUnderTest, round: number): void {
  bed.reset();
  for (const side of bed.sides) {
    const index = (seams[round % seams.length]! - (round % (NUM + 1))) >>> 0;
    seek(bed, side, index);
    assert.ok(bed.ring.resume(side.queue.address), `resume at ${index}`);
  }
}

/** All rounds of meetings that differ. Returns the runs. */
function meetAll(bed: Testbed, ring: RingUnderTest): number {
  let total = 0;
  // A prime number of steps: all seams, and all distances from them.
  for (let round = 0; round < ring.seams.length * (NUM + 1); round += LONG ? 1 : 5) {
    const { runs, stops } = interleave(bed, round, () => restart(bed, ring, round));
    total += runs;
    assert.ok(stops.device >= 2 && stops.guest >= 2, `stopped too rarely: ${JSON.stringify(stops)}`);
  }
  return total;
}

/** Both sides at random. Returns how often somebody slept. */
function raceAll(bed: Testbed, ring: RingUnderTest, races: number): number {
  let naps = 0;
  for (let seed = 1; seed <= races; seed++) {
    for (const race of [transmitRace, receiveRace]) {
      restart(bed, ring, seed);
      naps += race(bed, seed, 60);
    }
    for (const side of bed.sides) bed.audit(side);
  }
  return naps;
}

/** Its indices run free as sring's do, and stand in the same places. */
const STAMP: RingUnderTest = { ...RINGS.sring, device: STAMP_RING };

for (const ring of [RINGS.sring, RINGS.sring_gso, RINGS.vring_packed, STAMP]) {
  describe(titleOf(ring.device), () => {
    let bed: Testbed;
    before(() => {
      bed = new Testbed({ device: ring.device, num: NUM, preempt });
      bed.load('jit', undefined, true);
    });
    after(() => bed.close());

    it('each part of a meeting whole, at every access of the other', t => {
      t.diagnostic(`${meetAll(bed, ring)} meetings`);
    });

    it('both sides at random, in the middle of each other', t => {
      const naps = raceAll(bed, ring, RACES);
      t.diagnostic(`${naps} naps`);
      assert.ok(naps > RACES);
    });
  });
}

/** All of `ring`, but for some calls. */
function but(ring: Ring, other: Partial<Ring>): Ring {
  return {
    contextSize: num => ring.contextSize(num),
    initialise: (queue, receive) => ring.initialise(queue, receive),
    resume: queue => ring.resume(queue),
    pending: queue => ring.pending(queue),
    pop: (queue, batch, budget) => ring.pop(queue, batch, budget),
    complete: (queue, batch, n) => ring.complete(queue, batch, n),
    room: (queue, batch, budget) => ring.room(queue, batch, budget),
    push: (queue, batch, n) => ring.push(queue, batch, n),
    kicks: (queue, on) => ring.kicks(queue, on),
    ...other,
  };
}

const word = (address: number) => window.words[address >>> 2]!;
/** Of sring: what the guest has said about interrupts. */
const wish = (queue: number) => word(word(queue + L.QUEUE_RING) + 4);

/** Rings that look before they tell, where they should tell and then look. */
const MISTAKES: Readonly<Record<string, (ring: Ring) => Partial<Ring>>> = {
  'looks for work, then switches kicks on': ring => ({
    kicks(queue, on) {
      const waiting = ring.pending(queue) !== 0;
      ring.kicks(queue, on);
      return waiting;
    },
  }),
  'looks whether an interrupt is wanted, then completes': ring => ({
    complete(queue, batch, n) {
      const at = wish(queue);
      const old = word(queue + L.QUEUE_CONS);
      ring.complete(queue, batch, n);
      const cons = word(queue + L.QUEUE_CONS);
      return (cons - at - 1) >>> 0 < (cons - old) >>> 0;
    },
  }),
  'looks whether interrupts are on, then fills': ring => ({
    push(queue, batch, n) {
      const on = wish(queue) !== 0;
      ring.push(queue, batch, n);
      return on && n > 0;
    },
  }),
};

for (const [mistake, change] of Object.entries(MISTAKES)) {
  it(`noticed: a ring that ${mistake}`, () => {
    for (const check of [meetAll, raceAll]) {
      const held = { live: arena.live, fds: openFds(), mappings: openMappings() };
      const bed = new Testbed({ device: 'sring', num: NUM, preempt, wrap: ring => but(ring, change(ring)) });
      bed.load('jit', undefined, true);
      assert.throws(() => check(bed, RINGS.sring, 1000), /both (sides )?sleep/);
      bed.close();
      assert.deepEqual({ live: arena.live, fds: openFds(), mappings: openMappings() }, held);
    }
  });
}

/** sring's txp, but it looks at kick_enabled before it has published. */
const LOOKS_FIRST = assemble(`
  ldxw r7, [r1+${L.CTX_OPAQUE + 132}]
  ldxw r2, [r1+${L.CTX_OPAQUE}]
  ldxw r3, [r1+${L.CTX_OPAQUE + 256}]
  and r3, r2
  mul r3, 24
  add r3, r1
  ldxdw r4, [r1+${L.CTX_BUFS + L.BUF_COOKIE}]
  stxdw [r3+${L.CTX_OPAQUE + 512}], r4
  ldxdw r4, [r1+${L.CTX_BUFS + L.BUF_PADDR}]
  stxdw [r3+${L.CTX_OPAQUE + 520}], r4
  ldxw r4, [r1+${L.CTX_BUFS + L.BUF_LEN}]
  stxw [r3+${L.CTX_OPAQUE + 528}], r4
  add r2, 1
  stxw [r1+${L.CTX_OPAQUE}], r2
  stxw [r1+${L.CTX_OFLAGS}], r7
  mov r0, 0
  exit`);

it('noticed: a program that looks at kick_enabled, then publishes', () => {
  const bed = new Testbed({ device: 'sring', num: NUM, preempt });
  bed.load('jit', new Map([['txp', LOOKS_FIRST]]), true);
  for (const check of [meetAll, raceAll]) {
    assert.throws(() => check(bed, RINGS.sring, 1000), /both (sides )?sleep/);
    bed.onBarrier = () => {};
    bed.onAccess = () => {};
  }
  bed.close();
});
