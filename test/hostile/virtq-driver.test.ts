/**
 * A hostile device against the guest's driver for virtqueues: it gives back what it likes, and writes into the ring, the tables and the buffers at any moment.
 *
 * What must hold: every buffer has one owner at all times and the lists agree; frames that reach the netdev are buffers of this queue, no longer than they
 * are, and ask for what they may; a fault stops the queue and is counted; a reclaim frees everything; after a reset the queue works.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { pieces as framePieces, getHeader } from '../compliance/packets.js';
import { arena, randomFrom, window } from '../compliance/testbed.js';
import type { Random } from '../compliance/virtio-bed.js';
import { type DriverSide, VdrvBed } from '../compliance/virtio-driver-bed.js';
import { anyWord } from './mutations.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const NUM = 32;
const BUFFERS = 24;
const FRAME_BUFFERS = 4;
const OFFLOADS = F.CSUM | F.HOST_TSO4 | F.GUEST_CSUM | F.GUEST_TSO4;
const SETS = [
  ['split', F.VERSION_1 | F.EVENT_IDX | F.MRG_RXBUF | F.INDIRECT_DESC | OFFLOADS],
  ['split, plain', F.VERSION_1],
  ['packed', F.VERSION_1 | F.EVENT_IDX | F.MRG_RXBUF | F.RING_PACKED | OFFLOADS],
  ['packed, indirect', F.VERSION_1 | F.INDIRECT_DESC | F.RING_PACKED],
  ['split, in order', F.VERSION_1 | F.EVENT_IDX | F.MRG_RXBUF | F.IN_ORDER | OFFLOADS],
  ['packed, in order', F.VERSION_1 | F.MRG_RXBUF | F.RING_PACKED | F.IN_ORDER | OFFLOADS],
] as const;

const bedOf = (features: bigint) =>
  new VdrvBed({ features, num: NUM, buffers: BUFFERS, frameBuffers: FRAME_BUFFERS, maxFrame: L.LARGE_FRAME });

const errorsOf = (side: DriverSide) =>
  Number(window.longs[(side.driver.address + L.DRIVER_STATS + L.STAT_ERRORS) / 8]!);

/** Every frame in the batch is made of this queue's buffers, and asks for what it may. */
function checkBatch(bed: VdrvBed, side: DriverSide, received: boolean): void {
  const { batch } = bed;
  const start = side.driver.bufferBase;
  const seen = new Set<number>();
  for (let i = 0; i < batch.count; i++) {
    const length = received ? batch.length(i) : batch.room(i);
    assert.ok(length > 0 && length <= L.LARGE_FRAME);
    assert.ok(batch.iovs(i) <= FRAME_BUFFERS + 1);
    for (const piece of framePieces(batch, i, length)) {
      const at = piece.byteOffset - start;
      const buffer = Math.floor(at / 2048);
      assert.ok(buffer >= 0 && buffer < BUFFERS && !seen.has(buffer), `a frame at ${at} of the buffers`);
      assert.ok((at % 2048) + piece.length <= 2048, 'longer than the buffer');
      seen.add(buffer);
    }
    const { flags, type, gsoSize, hdrLen, start: from, offset } = getHeader(batch, i);
    if (!received || (flags === 0 && type === 0)) continue;
    assert.ok((bed.features & F.GUEST_CSUM) !== 0n, 'nothing was agreed on');
    if ((flags & 1) !== 0) assert.ok(from + offset + 2 <= length);
    if (type !== 0) assert.ok((type & 0x7f) === 1 && gsoSize > 0 && hdrLen <= length && (flags & 1) !== 0);
  }
}

/** The honest part of a device that is not: its own datapath, which stops on nonsense by itself. */
function deviceTurn(bed: VdrvBed, side: DriverSide, random: Random): void {
  const { ring, deviceBatch } = bed;
  const { address } = side.queue;
  if (side.direction === 'tx') {
    const n = ring.pop(address, deviceBatch.address, 1 + random(NUM));
    ring.complete(address, deviceBatch.address, random(n + 1));
    return;
  }
  const n = ring.room(address, deviceBatch.address, 1 + random(NUM));
  const done = random(n + 1);
  for (let i = 0; i < done; i++) deviceBatch.setLength(i, random(Math.min(6000, deviceBatch.room(i)) + 1));
  ring.push(address, deviceBatch.address, done);
}

/** One write: into the area that belongs to the device, the ring, or a buffer's header. */
function mutate(bed: VdrvBed, side: DriverSide, random: Random): void {
  const packed = (bed.features & F.RING_PACKED) !== 0n;
  const view = bed.memory;
  const offset = (gpa: bigint) => Number(gpa - bed.ram.guestPhysicalAddress);
  const { descriptor, device } = side.driver.areas;
  switch (random(6)) {
    case 0: {
      // An entry of the used ring, or a descriptor: its id, length or flags.
      const at = packed ? offset(descriptor) + 16 * random(NUM) + 8 : offset(device) + 4 + 8 * random(NUM);
      view.setUint32(at + 4 * random(2), random(2) === 0 ? random(BUFFERS + 4) : anyWord(random), true);
      return;
    }
    case 1:
      if (packed)
        view.setUint16(
          offset(descriptor) + 16 * random(NUM) + 14,
          [0, 0x80, 0x8000, 0x8080][random(4)]! | random(8),
          true,
        );
      else view.setUint16(offset(device) + 2, view.getUint16(offset(device) + 2, true) + random(7) - 2, true);
      return;
    case 2:
      bed.memory.setUint8(offset(descriptor) + random(16 * NUM), random(256));
      return;
    case 3:
      view.setUint32(offset(device), anyWord(random), true);
      return;
    default: {
      const header = side.driver.bufferBase - view.byteOffset + 2048 * random(BUFFERS) + L.VDRV_HEADROOM - 12;
      if (random(2) === 0) view.setUint16(header + 10, random(6), true);
      else view.setUint8(header + random(10), random(4) === 0 ? random(256) : random(6));
    }
  }
}

for (const [name, features] of SETS)
  test(`${name}: a device that mutates ring and buffers between any two steps of the driver`, t => {
    const live = arena.live;
    const bed = bedOf(features);
    const { calls } = bed.datapath;
    const goal = (LONG ? 1_000_000 : 100_000) / 2;
    const seen = { faults: 0, frames: 0, dropped: 0 };
    let mutations = 0;
    for (let burst = 0; mutations < goal; burst++) {
      const random = randomFrom(burst);
      const [side, other] = burst % 2 === 0 ? [bed.tx, bed.rx] : [bed.rx, bed.tx];
      bed.reset();
      const { address } = side.driver;
      const before = window.bytes.slice(other.driver.address, other.driver.address + L.VDRV_SIZE);
      const dropped = bed.dropped(side);
      const errors = errorsOf(side);
      for (let step = 0; step < 150 && bed.faultOf(side) === 0; step++) {
        for (let i = random(6) === 0 ? 1 + random(4) : 0; i > 0; i--, mutations++) mutate(bed, side, random);
        if (side.direction === 'tx') {
          if (calls.vdrv_tx_complete(address, 1 + random(NUM)) >= 0 && random(2) === 0) {
            const room = calls.vdrv_tx_room(address, bed.batch.address, random(8));
            checkBatch(bed, side, false);
            for (let i = 0; i < room; i++) bed.batch.setLength(i, 1 + random(bed.batch.room(i)));
            calls.vdrv_tx_publish(address, bed.batch.address, room);
          }
        } else {
          const taken = calls.vdrv_rx_poll(address, bed.batch.address, 1 + random(NUM));
          checkBatch(bed, side, true);
          seen.frames += bed.batch.count;
          calls.vdrv_rx_release(address, bed.batch.address);
          if (taken >= 0) calls.vdrv_rx_refill(address);
        }
        if (random(4) === 0) calls.vdrv_arm(address, random(3));
        bed.audit(side);
        deviceTurn(bed, side, random);
      }
      seen.dropped += bed.dropped(side) - dropped;
      if (bed.faultOf(side) !== 0) {
        seen.faults++;
        assert.equal(errorsOf(side), errors + 1);
        assert.deepEqual(
          [
            calls.vdrv_tx_complete(address, NUM),
            calls.vdrv_tx_room(address, bed.batch.address, NUM),
            calls.vdrv_rx_refill(address),
            calls.vdrv_rx_poll(address, bed.batch.address, NUM),
          ],
          [0, 0, 0, 0],
          'it stands still',
        );
      }
      assert.deepEqual(window.bytes.slice(other.driver.address, other.driver.address + L.VDRV_SIZE), before);
      calls.vdrv_reclaim(address, BUFFERS);
      assert.deepEqual(bed.audit(side), { free: BUFFERS, driver: 0, device: 0 });
      bed.checkCanaries();
      if (burst % 16 === 0) worksAgain(bed);
    }
    t.diagnostic(`${mutations} mutations: ${JSON.stringify(seen)}`);
    const enough = goal / 1000;
    assert.ok(
      seen.faults > enough && seen.frames > enough && seen.dropped > enough,
      'too tame to mean anything',
    );
    worksAgain(bed);
    bed.close();
    assert.equal(arena.live, live);
  });

function worksAgain(bed: VdrvBed): void {
  bed.reset();
  const { calls } = bed.datapath;
  const { tx, rx, ring, batch, deviceBatch } = bed;
  const room = calls.vdrv_tx_room(tx.driver.address, batch.address, 4);
  for (let i = 0; i < room; i++) batch.setLength(i, 100 + i);
  calls.vdrv_tx_publish(tx.driver.address, batch.address, room);
  assert.equal(ring.pop(tx.queue.address, deviceBatch.address, 128), 4);
  ring.complete(tx.queue.address, deviceBatch.address, 4);
  assert.equal(calls.vdrv_tx_complete(tx.driver.address, 128), 4);
  calls.vdrv_rx_refill(rx.driver.address);
  assert.ok(ring.room(rx.queue.address, deviceBatch.address, 128) > 0);
  deviceBatch.setLength(0, 100);
  ring.push(rx.queue.address, deviceBatch.address, 1);
  calls.vdrv_rx_poll(rx.driver.address, batch.address, 128);
  assert.deepEqual([batch.count, batch.length(0)], [1, 100]);
  calls.vdrv_rx_release(rx.driver.address, batch.address);
}

test('what can not have come back is refused: never lent, too long, twice, in the middle of a chain, an index that jumps', () => {
  for (const [name, features] of SETS) {
    const bed = bedOf(features);
    const packed = (features & F.RING_PACKED) !== 0n;
    const { calls } = bed.datapath;
    const view = bed.memory;
    const offset = (gpa: bigint) => Number(gpa - bed.ram.guestPhysicalAddress);
    /** Gives these back one after the other, as they are; descriptors of the packed ring at these slots. */
    const giveBack = (
      side: DriverSide,
      list: readonly (readonly [id: number, length: number, slot?: number])[],
    ) => {
      const { descriptor, device } = side.driver.areas;
      for (const [i, [id, length, slot = i]] of list.entries()) {
        if (packed) {
          const at = offset(descriptor) + 16 * slot;
          view.setUint32(at + 8, length, true);
          view.setUint16(at + 12, id, true);
          view.setUint16(at + 14, 0x8080, true);
        } else {
          view.setUint32(offset(device) + 4 + 8 * i, id, true);
          view.setUint32(offset(device) + 8 + 8 * i, length, true);
          view.setUint16(offset(device) + 2, i + 1, true);
        }
      }
    };
    /** The free stack gives out 0, 1, 2 … after a reset: frame 0 of three buffers begins with buffer 0. */
    const sendOne = () => {
      assert.equal(calls.vdrv_tx_room(bed.tx.driver.address, bed.batch.address, 1), 1);
      bed.batch.setLength(0, 5000);
      calls.vdrv_tx_publish(bed.tx.driver.address, bed.batch.address, 1);
    };
    const txLies: [string, () => void][] = [
      ['beyond all buffers', () => giveBack(bed.tx, [[BUFFERS, 0]])],
      ['never lent', () => giveBack(bed.tx, [[7, 0]])],
      ['in the middle of a chain', () => giveBack(bed.tx, [[1, 0]])],
      [
        'twice',
        () =>
          giveBack(bed.tx, [
            [0, 0],
            [0, 0, features & F.INDIRECT_DESC ? 1 : 3],
          ]),
      ],
    ];
    if (!packed) {
      txLies.push(
        ['an id with an upper half', () => giveBack(bed.tx, [[0x10000, 0]])],
        ['an index far ahead', () => view.setUint16(offset(bed.tx.driver.areas.device) + 2, 100, true)],
        ['an index one behind', () => view.setUint16(offset(bed.tx.driver.areas.device) + 2, 0xffff, true)],
      );
    }
    if (!packed && (features & F.IN_ORDER) !== 0n)
      txLies.push(['the second of two, where the index says one', () => giveBack(bed.tx, [[3, 0]])]);
    for (const [what, lie] of txLies) {
      bed.reset();
      sendOne();
      sendOne();
      lie();
      assert.equal(calls.vdrv_tx_complete(bed.tx.driver.address, 10), -1, `${name}: ${what}`);
      assert.equal(bed.faultOf(bed.tx), L.FAULT_COMPLETION, `${name}: ${what}`);
      bed.audit(bed.tx);
      calls.vdrv_reclaim(bed.tx.driver.address, BUFFERS);
      assert.equal(bed.audit(bed.tx).free, BUFFERS);
    }
    const merge = (features & F.MRG_RXBUF) !== 0n;
    const setBuffers = (buffer: number, n: number) =>
      view.setUint16(
        bed.rx.driver.bufferBase - view.byteOffset + 2048 * buffer + L.VDRV_HEADROOM - 2,
        n,
        true,
      );
    const rxLies: [string, () => void][] = [
      ['longer than lent by a byte', () => giveBack(bed.rx, [[0, 2032 + 13]])],
      ['longer than memory', () => giveBack(bed.rx, [[0, 0xffff_ffff]])],
      ['beyond all buffers', () => giveBack(bed.rx, [[BUFFERS, 100]])],
      [
        'twice',
        () =>
          giveBack(bed.rx, [
            [0, 100],
            [0, 100],
          ]),
      ],
    ];
    if (merge) {
      rxLies.push(
        [
          'of no buffers',
          () => {
            giveBack(bed.rx, [[0, 100]]);
            setBuffers(0, 0);
          },
        ],
        [
          'of more buffers than a frame may have',
          () => {
            giveBack(bed.rx, [[0, 100]]);
            setBuffers(0, 5);
          },
        ],
        [
          'of more buffers than have come',
          () => {
            giveBack(bed.rx, [
              [0, 2044],
              [1, 100],
            ]);
            setBuffers(0, 3);
          },
        ],
        [
          'with a second one that is too long',
          () => {
            giveBack(bed.rx, [
              [0, 2044],
              [1, 2045],
            ]);
            setBuffers(0, 2);
          },
        ],
      );
    }
    for (const [what, lie] of rxLies) {
      bed.reset();
      calls.vdrv_rx_refill(bed.rx.driver.address);
      for (let i = 0; i < BUFFERS; i++) setBuffers(i, 1);
      lie();
      assert.equal(calls.vdrv_rx_poll(bed.rx.driver.address, bed.batch.address, 10), -1, `${name}: ${what}`);
      assert.equal(bed.faultOf(bed.rx), L.FAULT_COMPLETION, `${name}: ${what}`);
      calls.vdrv_rx_release(bed.rx.driver.address, bed.batch.address);
      bed.audit(bed.rx);
      calls.vdrv_reclaim(bed.rx.driver.address, BUFFERS);
      assert.equal(bed.audit(bed.rx).free, BUFFERS);
    }
    // Too short for its header, or empty: no fault, but no frame.
    bed.reset();
    calls.vdrv_rx_refill(bed.rx.driver.address);
    for (let i = 0; i < BUFFERS; i++) setBuffers(i, 1);
    const dropped = bed.dropped(bed.rx);
    giveBack(bed.rx, [
      [0, 0],
      [1, 11],
      [2, 12],
      [3, 13],
    ]);
    assert.equal(calls.vdrv_rx_poll(bed.rx.driver.address, bed.batch.address, 10), 4);
    assert.deepEqual([bed.batch.count, bed.batch.length(0), bed.dropped(bed.rx) - dropped], [1, 1, 3]);
    calls.vdrv_rx_release(bed.rx.driver.address, bed.batch.address);
    assert.deepEqual(bed.audit(bed.rx), { free: 4, driver: 0, device: BUFFERS - 4 });
    worksAgain(bed);
    bed.checkCanaries();
    bed.close();
  }
});
