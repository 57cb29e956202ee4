/**
 * A hostile device, and hostile programs, against the guest driver's datapath: they complete what they like, and write into the shared context
 * at any moment.
 *
 * What must hold: every buffer has one owner at all times and the lists agree; frames that reach the netdev are buffers of this queue, no longer
 * than they are; a fault stops the queue and is counted; seizing makes every buffer free again; a new context works.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { assemble } from '../../src/ebpf/asm.js';
import { STACK_BYTES } from '../../src/ebpf/sandbox.js';
import { ReceiveFlow, TransmitFlow } from '../compliance/actors.js';
import { arena, payload, randomFrom, type Side, Testbed, window } from '../compliance/testbed.js';
import { allTypes, titleOf } from '../compliance/types.js';
import { Invariants } from './invariants.js';
import { mutate } from './mutations.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const NUM = 16;
const RX_PKT_ALLOC = 0x4b8f0000;

/** Calls into the datapath as the driver's loop does: a program that traps stops its queue. */
function guarded(bed: Testbed, side: Side, call: () => number): number {
  try {
    return call();
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    bed.datapath.calls.driver_fail(side.driver, L.FAULT_PROGRAM);
    return -1;
  }
}

const faultOf = (bed: Testbed, side: Side) => bed.driver(side, L.DRIVER_FAULT);
const errorsOf = (side: Side) => Number(window.longs[(side.driver + L.DRIVER_STATS + L.STAT_ERRORS) / 8]!);

/** Every frame in the guest's batch is made of this queue's buffers. */
function checkBatch(bed: Testbed, side: Side): void {
  const frames = window.words[(bed.guestBatch.address + L.BATCH_FRAMES) >>> 2]!;
  for (let i = 0; i < bed.guestBatch.count; i++) {
    const iovs = bed.guestBatch.iovs(i);
    const iov = window.words[(frames + i * L.FRAME_SIZE + L.FRAME_IOV) >>> 2]! / 8;
    assert.ok(iovs >= 2 && iovs <= L.CTX_MAX_BUFS + 1);
    for (let b = 1; b < iovs; b++) {
      const at = Number(window.longs[iov + 2 * b]!) - window.base - side.buffers;
      const length = Number(window.longs[iov + 2 * b + 1]!);
      assert.ok(at >= 0 && at < NUM * 2048 && at % 2048 === 0, `a frame at ${at} of the buffers`);
      assert.ok(length <= bed.driver(side, L.DRIVER_ROOM), `a frame of ${length} bytes`);
    }
  }
}

/** Stops the queue as the driver does: reclaim, take the rest by force. Afterwards everything is free. */
function stop(bed: Testbed, side: Side): void {
  const { calls } = bed.datapath;
  guarded(bed, side, () => calls.driver_reclaim(side.driver));
  bed.audit(side);
  calls.driver_seize(side.driver, NUM);
  assert.deepEqual(bed.audit(side), { free: NUM, driver: 0, device: 0 });
}

/** On a new context, with the programs as shipped, frames go through. */
function worksAgain(bed: Testbed): void {
  bed.reset();
  const tx = new TransmitFlow(bed);
  const rx = new ReceiveFlow(bed);
  rx.refill();
  tx.publish(NUM);
  tx.drain(NUM);
  rx.fill(NUM);
  rx.poll(NUM);
  assert.deepEqual([tx.arrived, rx.arrived], [NUM, NUM]);
}

for (const device of allTypes)
  test(`${titleOf(device)}: a device that mutates the shared context between any two steps of the driver`, t => {
    const live = arena.live;
    const bed = new Testbed({ device, num: NUM });
    const { calls } = bed.datapath;
    const goal = LONG ? 1_000_000 : 80_000;
    let mutations = 0;
    const faults = { [L.FAULT_COMPLETION]: 0, [L.FAULT_PROGRAM]: 0 };
    let frames = 0;
    for (let burst = 0; mutations < goal; burst++) {
      const random = randomFrom(burst ^ 0x5eed);
      const side = burst % 2 === 0 ? bed.tx : bed.rx;
      const other = burst % 2 === 0 ? bed.rx : bed.tx;
      bed.reset();
      const otherBefore = window.bytes.slice(other.driver, other.driver + L.DRIVER_SIZE);
      for (let step = 0; step < 120 && faultOf(bed, side) === 0; step++) {
        // Mostly an honest device, so that the ring gets somewhere, with a few writes in the wrong place.
        for (let i = random(8) === 0 ? 1 + random(4) : 0; i > 0; i--, mutations++) mutate(bed, side, random);
        for (let i = random(30) === 0 ? 1 : 0; i > 0; i--, mutations++) {
          window.words[(side.context + 4 * random(L.CTX_OPAQUE / 4)) >>> 2] = random(70); // bufs, num_bufs …
        }
        guarded(bed, side, () => {
          if (side.direction === 'tx') {
            const taken = calls.driver_tx_complete(side.driver, 1 + random(NUM));
            if (taken < 0 || random(2) === 0) return taken;
            const room = calls.driver_tx_room(side.driver, bed.guestBatch.address, random(NUM + 1));
            checkBatch(bed, side);
            for (let i = 0; i < room; i++) {
              window.bytes[payload(bed.guestBatch, i)] = i;
              bed.guestBatch.setLength(i, 60);
            }
            return calls.driver_tx_publish(side.driver, bed.guestBatch.address, room);
          }
          const taken = calls.driver_rx_poll(side.driver, bed.guestBatch.address, 1 + random(NUM));
          checkBatch(bed, side);
          frames += bed.guestBatch.count;
          calls.driver_rx_release(side.driver, bed.guestBatch.address);
          return taken < 0 ? taken : calls.driver_rx_refill(side.driver);
        });
        if (random(4) === 0) guarded(bed, side, () => Math.max(0, calls.driver_arm(side.driver, random(3))));
        bed.audit(side);
        // The device's own, honest part; its memory is the guest's, so it stops on nonsense by itself.
        const { address } = side.queue;
        if (side.direction === 'tx') {
          const n = bed.ring.pop(address, bed.deviceBatch.address, random(NUM));
          bed.ring.complete(address, bed.deviceBatch.address, n);
        } else {
          const n = bed.ring.room(address, bed.deviceBatch.address, random(NUM));
          for (let i = 0; i < n; i++) bed.deviceBatch.setLength(i, 60);
          bed.ring.push(address, bed.deviceBatch.address, n);
        }
      }
      const fault = faultOf(bed, side);
      if (fault !== 0) {
        faults[fault as keyof typeof faults]++;
        assert.ok(errorsOf(side) > 0);
        // A queue with a fault does nothing more.
        assert.equal(calls.driver_tx_complete(side.driver, NUM), 0);
        assert.equal(calls.driver_tx_room(side.driver, bed.guestBatch.address, NUM), 0);
        assert.equal(calls.driver_rx_refill(side.driver), 0);
        assert.equal(calls.driver_rx_poll(side.driver, bed.guestBatch.address, NUM), 0);
      }
      assert.deepEqual(window.bytes.slice(other.driver, other.driver + L.DRIVER_SIZE), otherBefore);
      stop(bed, side);
      bed.checkCanaries();
      if (burst % 16 === 0) worksAgain(bed);
    }
    t.diagnostic(
      `${mutations} mutations: ${JSON.stringify(faults)} faults of either kind, ${frames} frames got through`,
    );
    const enough = goal / 2000;
    assert.ok(
      faults[L.FAULT_COMPLETION] > enough && faults[L.FAULT_PROGRAM] > enough && frames > goal / 100,
      'too tame to mean anything',
    );
    worksAgain(bed);
    bed.close();
    assert.equal(arena.live, live);
  });

/** Words of an sring context that a lying device would write. */
const SRING = { CONS: 128, QMASK: 256, DESCRIPTORS: 512, DESC_SIZE: 24, DESC_LEN: 16 };

test('completions that can not be are refused: never posted, too long, twice, an index that jumps', () => {
  const bed = new Testbed({ device: 'sring', num: NUM });
  const { calls } = bed.datapath;
  const word = (side: Side, offset: number) => (side.context + L.CTX_OPAQUE + offset) >>> 2;
  const descriptor = (side: Side, slot: number, field: number) =>
    word(side, SRING.DESCRIPTORS + slot * SRING.DESC_SIZE + field);
  const poll = (side: Side) =>
    side.direction === 'tx'
      ? calls.driver_tx_complete(side.driver, NUM)
      : calls.driver_rx_poll(side.driver, bed.guestBatch.address, NUM);
  /** [what, how the device lies about three completions, in which direction that is a lie] */
  const lies: [string, (side: Side) => void, 'tx' | 'rx' | 'both'][] = [
    ['a cookie beyond all buffers', s => (window.words[descriptor(s, 0, 0)] = NUM), 'both'],
    ['a cookie with an upper half', s => (window.words[descriptor(s, 0, 4)] = 1), 'both'],
    ['a huge cookie', s => window.words.fill(0xffff_ffff, descriptor(s, 0, 0), descriptor(s, 0, 8)), 'both'],
    [
      'the same cookie twice',
      s => (window.words[descriptor(s, 1, 0)] = window.words[descriptor(s, 0, 0)]!),
      'both',
    ],
    ['a buffer that was never posted', s => (window.words[descriptor(s, 0, 0)] = neverPosted(bed, s)), 'tx'],
    ['longer than posted, by a byte', s => (window.words[descriptor(s, 0, SRING.DESC_LEN)] = 1519), 'rx'],
    ['longer than memory', s => (window.words[descriptor(s, 0, SRING.DESC_LEN)] = 0xffff_ffff), 'rx'],
    ['an index far ahead', s => (window.words[word(s, SRING.CONS)] = 1000), 'both'],
    ['an index one behind', s => (window.words[word(s, SRING.CONS)] = 0xffff_ffff), 'both'],
    ['a mask that folds the ring', s => (window.words[word(s, SRING.QMASK)] = 0), 'both'],
  ];
  for (const [what, lie, directions] of lies) {
    for (const side of bed.sides) {
      if (directions !== 'both' && directions !== side.direction) continue;
      bed.reset();
      const flow = side.direction === 'tx' ? new TransmitFlow(bed) : new ReceiveFlow(bed);
      if (flow instanceof TransmitFlow) flow.publish(8);
      else flow.refill();
      window.words[word(side, SRING.CONS)] = 3;
      if (flow instanceof ReceiveFlow) {
        for (const slot of [0, 1, 2]) window.words[descriptor(side, slot, SRING.DESC_LEN)] = 60;
      }
      lie(side);
      const errors = errorsOf(side);
      let result = 0;
      for (let i = 0; i < 70 && result >= 0 && faultOf(bed, side) === 0; i++) {
        result = guarded(bed, side, () => poll(side));
        checkBatch(bed, side);
        if (side.direction === 'rx') calls.driver_rx_release(side.driver, bed.guestBatch.address);
        bed.audit(side);
        if (result === 0) break;
      }
      assert.notEqual(faultOf(bed, side), 0, `${side.direction}: ${what}`);
      assert.equal(errorsOf(side), errors + 1, `${side.direction}: ${what}`);
      stop(bed, side);
      bed.checkCanaries();
    }
    worksAgain(bed);
  }
  bed.close();
});

function neverPosted(bed: Testbed, side: Side): number {
  const owner = bed.driver(side, L.DRIVER_OWNER);
  return window.bytes.subarray(owner, owner + NUM).indexOf(L.OWNER_FREE);
}

/** [section, what it does, its text] */
const HOSTILE: readonly (readonly ['txp' | 'txc' | 'txr' | 'rxp' | 'rxc' | 'rxr', string, string])[] = [
  ['txc', 'gives back 65 buffers', 'mov %r0, 65\nstxw [%r1+16], %r0\nmov %r0, 1\nexit'],
  ['txc', 'gives back 2^32 - 1 buffers', 'mov %r0, -1\nstxw [%r1+16], %r0\nmov %r0, 1\nexit'],
  ['txc', 'gives back none', 'mov %r0, 0\nstxw [%r1+16], %r0\nmov %r0, 1\nexit'],
  ['txc', 'gives back the same buffer for ever', 'mov %r0, 1\nstxw [%r1+16], %r0\nexit'],
  ['txc', 'fails', 'mov %r0, -22\nexit'],
  ['txc', 'never ends', 'ja -1\nexit'],
  ['txc', 'reads below its context', 'ldxb %r0, [%r1-1]\nexit'],
  ['txc', 'writes beyond its context', 'mov %r2, %r1\nadd %r2, 0x10000\nstxw [%r2+0], %r2\nmov %r0, 0\nexit'],
  ['txc', 'reads address 0', 'mov %r2, 0\nldxdw %r0, [%r2+0]\nexit'],
  ['txc', 'reads a wrapped address', 'mov %r2, -4\nldxdw %r0, [%r2+0]\nexit'],
  [
    'txc',
    'reads by a 64-bit address whose low half is good',
    'lddw %r2, 0x100000000\nadd %r2, %r1\nldxb %r0, [%r2+0]\nexit',
  ],
  ['txc', 'goes below its stack', 'stxdw [%r10-4104], %r1\nmov %r0, 0\nexit'],
  ['txc', 'recurses for ever', 'again: call local again\nexit'],
  ['txc', 'calls a helper that there is not', 'call 0x1234\nexit'],
  [
    'txc',
    'makes a packet of transmit buffers',
    `mov %r6, 1\nstxw [%r1+16], %r6\ncall ${RX_PKT_ALLOC}\nmov %r0, 1\nexit`,
  ],
  ['txp', 'fails', 'mov %r0, -12\nexit'],
  ['txp', 'answers nonsense', 'mov %r0, 7\nexit'],
  ['txp', 'never ends', 'ja -1\nexit'],
  ['rxp', 'fails', 'mov %r0, -12\nexit'],
  ['rxp', 'writes beyond its context', 'stxw [%r1+32767], %r1\nmov %r0, 0\nexit'],
  ['rxc', 'says that it made a packet', 'mov %r0, 1\nexit'],
  ['rxc', 'made a packet and denies it', `call ${RX_PKT_ALLOC}\nmov %r0, 0\nexit`],
  [
    'rxc',
    'makes two packets',
    `mov %r6, %r1\ncall ${RX_PKT_ALLOC}\nmov %r1, %r6\ncall ${RX_PKT_ALLOC}\nmov %r0, 1\nexit`,
  ],
  [
    'rxc',
    'makes a packet of 65 buffers',
    `mov %r6, 65\nstxw [%r1+16], %r6\ncall ${RX_PKT_ALLOC}\nmov %r0, 1\nexit`,
  ],
  [
    'rxc',
    'makes a packet of no buffers',
    `mov %r6, 0\nstxw [%r1+16], %r6\ncall ${RX_PKT_ALLOC}\nmov %r0, 1\nexit`,
  ],
  ['rxc', 'makes a packet of another context', `add %r1, 8\ncall ${RX_PKT_ALLOC}\nmov %r0, 1\nexit`],
  ['rxc', 'has a header written to nowhere', `mov %r2, 8\ncall ${RX_PKT_ALLOC + 3}\nmov %r0, 1\nexit`],
  [
    'rxc',
    'has a header written across the end of its stack',
    `mov %r2, %r10\nadd %r2, -9\ncall ${RX_PKT_ALLOC + 3}\nmov %r0, 1\nexit`,
  ],
  ['rxc', 'never ends', 'ja -1\nexit'],
];

for (const device of allTypes)
  test(`${titleOf(device)}, hostile programs: a fault stops the queue, is counted, and every buffer comes back`, () => {
    const bed = new Testbed({ device, num: NUM });
    const { calls } = bed.datapath;
    for (const [section, what, text] of HOSTILE) {
      bed.reset();
      bed.load('jit', new Map([[section, assemble(text)]]));
      const side = section.startsWith('tx') ? bed.tx : bed.rx;
      const invariants = new Invariants(bed, side, [
        { start: side.driver, end: side.driver + L.DRIVER_SIZE },
        { start: bed.driver(side, L.DRIVER_FREE), end: bed.driver(side, L.DRIVER_OWNER) + NUM },
        { start: bed.stack, end: bed.stack + STACK_BYTES },
      ]);
      const errors = errorsOf(side);
      guarded(bed, side, () => {
        if (side.direction === 'tx') {
          calls.driver_tx_room(side.driver, bed.guestBatch.address, 5);
          for (let i = 0; i < 5; i++) bed.guestBatch.setLength(i, 60);
          const published = calls.driver_tx_publish(side.driver, bed.guestBatch.address, 5);
          if (published < 0) return published;
          const n = bed.ring.pop(side.queue.address, bed.deviceBatch.address, NUM);
          bed.ring.complete(side.queue.address, bed.deviceBatch.address, n);
          return calls.driver_tx_complete(side.driver, NUM);
        }
        const refilled = calls.driver_rx_refill(side.driver);
        if (refilled < 0) return refilled;
        const n = bed.ring.room(side.queue.address, bed.deviceBatch.address, 5);
        for (let i = 0; i < n; i++) bed.deviceBatch.setLength(i, 60);
        bed.ring.push(side.queue.address, bed.deviceBatch.address, n);
        const polled = calls.driver_rx_poll(side.driver, bed.guestBatch.address, NUM);
        checkBatch(bed, side);
        calls.driver_rx_release(side.driver, bed.guestBatch.address);
        return polled;
      });
      assert.notEqual(faultOf(bed, side), 0, `${section} ${what}: no fault`);
      assert.ok(errorsOf(side) > errors, `${section} ${what}: not counted`);
      invariants.check(`${section} ${what}`);
      bed.audit(side);
      stop(bed, side);
      bed.load('jit');
      worksAgain(bed);
    }
    bed.close();
  });

test('a reclaim program that lies gives nothing, and the buffers are taken all the same', () => {
  const bed = new Testbed({ device: 'sring', num: NUM });
  const { calls } = bed.datapath;
  for (const [what, text, faulty] of [
    ['has nothing', 'mov %r0, 0\nexit', false],
    ['has no end of the same', 'mov %r0, 1\nstxw [%r1+16], %r0\nexit', true],
    ['never ends', 'ja -1\nexit', true],
    ['says none in many words', 'mov %r0, 0\nstxw [%r1+16], %r0\nmov %r0, 1\nexit', true],
  ] as const) {
    bed.reset();
    bed.load('jit', new Map([['txr', assemble(text)]]));
    new TransmitFlow(bed).publish(9);
    const back = guarded(bed, bed.tx, () => calls.driver_reclaim(bed.tx.driver));
    assert.equal(back < 0, faulty, what);
    const { device } = bed.audit(bed.tx);
    assert.ok(device >= 8, `${what}: ${device}`);
    assert.equal(calls.driver_seize(bed.tx.driver, NUM), device, what);
    assert.deepEqual(bed.audit(bed.tx), { free: NUM, driver: 0, device: 0 }, what);
    bed.load('jit');
    worksAgain(bed);
  }
  bed.close();
});

test('context sizes that lie: too small, and the programs fault where it ends', () => {
  // 2096 is all head: the first access to the ring is beyond it. At 2608 the indices are inside, the descriptors are not.
  for (const contextSize of [2096, 2224, 2608, 2620]) {
    const bed = new Testbed({ device: 'sring', num: NUM, contextSize });
    const { calls } = bed.datapath;
    // Behind the context come the queue's own buffers: what is there must stay as it is.
    for (const side of bed.sides) {
      assert.ok(
        side.buffers >= side.context + contextSize && side.buffers < side.context + contextSize + 2 * 2048,
      );
      window.bytes.fill(0x77, side.context + contextSize, side.buffers + 64);
    }
    guarded(bed, bed.rx, () => calls.driver_rx_refill(bed.rx.driver));
    calls.driver_tx_room(bed.tx.driver, bed.guestBatch.address, 1);
    bed.guestBatch.setLength(0, 60);
    guarded(bed, bed.tx, () => calls.driver_tx_publish(bed.tx.driver, bed.guestBatch.address, 1));
    for (const side of bed.sides) {
      assert.equal(faultOf(bed, side), L.FAULT_PROGRAM, `${contextSize}: ${side.direction}`);
      const behind = window.bytes.subarray(side.context + contextSize, side.buffers + 64);
      assert.ok(
        behind.every(byte => byte === 0x77),
        `${contextSize}: ${side.direction} wrote beyond its context`,
      );
      calls.driver_seize(side.driver, NUM);
      assert.equal(bed.audit(side).free, NUM);
    }
    bed.close();
  }
});
