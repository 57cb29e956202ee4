/** Where a packed ring stands, found in the ring: whatever a front end says, after a stop, and after a kill at any store. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, randomFrom, window } from '../compliance/testbed.js';
import { type Random, VirtioBed, type VirtioSide } from '../compliance/virtio-bed.js';
import { VirtioRx, VirtioTx } from '../compliance/virtio-flows.js';

const PACKED = F.VERSION_1 | F.EVENT_IDX | F.RING_PACKED;
const NEXT = 1;
const beds: VirtioBed[] = [];
let live: number;
before(() => {
  live = arena.live;
});
after(() => {
  for (const bed of beds) {
    bed.checkCanaries();
    bed.close();
  }
  assert.equal(arena.live, live, 'leaks');
});

function bedOf(num: number, features = PACKED): VirtioBed {
  const bed = new VirtioBed({ features, num, slots: Math.min(128, 4 * num) });
  beds.push(bed);
  return bed;
}

/** Another backend takes the ring, told that it stands there. */
function resume(bed: VirtioBed, { queue }: VirtioSide, told: number): boolean {
  queue.negotiate(bed.features, bed.num, 1518);
  return queue.setBase(told) && bed.ring.resume(queue.address);
}

/** A position as VRING_BASE. */
const told = (num: number, at: number) => (at < num ? at | 0x8000 : at - num) * 0x1_0001;
const positionOf = (num: number, base: number) => (base & 0x7fff) + ((base & 0x8000) !== 0 ? 0 : num);

/** The descriptors of a ring. */
const slotsOf = (bed: VirtioBed, side: VirtioSide): DataView => {
  const at = Number(side.areas.descriptor - bed.ram.guestPhysicalAddress);
  return new DataView(bed.memory.buffer, bed.memory.byteOffset + at, 16 * bed.num);
};
const bytesOf = (view: DataView) => Buffer.from(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength);

describe('a packed ring goes on where it was, whatever it is told', () => {
  for (const num of [1, 2, 3, 29, 32])
    it(`${num} descriptors, chains of up to ${Math.min(4, num)}, over many laps`, () => {
      const bed = bedOf(num);
      const random = randomFrom(num);
      const style = { pieces: Math.min(4, num), longest: 1000 };
      for (const start of [0, num - 1, num, 2 * num - 1]) {
        bed.reset(start);
        const tx = new VirtioTx(bed, style);
        const rx = new VirtioRx(bed, style);
        for (let round = 0; round < 100; round++) {
          tx.publish(random(5), random);
          tx.drain(1 + random(num), random(4));
          if (random(2) === 0) rx.refill(num, random);
          rx.fill(num, random(3));
          if (random(3) > 0) tx.reap();
          if (random(3) > 0) rx.poll();
          for (const side of bed.sides) {
            const { base } = side.queue;
            assert.ok(resume(bed, side, told(num, random(2 * num))));
            assert.equal(side.queue.base, base, `start ${start}, round ${round}, ${side.direction}`);
          }
        }
        while (tx.drain(128).frames > 0);
        tx.reap();
        rx.poll();
        assert.deepEqual([tx.arrived, rx.arrived], [tx.sent, rx.sent]);
        assert.ok(tx.sent > 20 && rx.sent > 20, `${tx.sent}, ${rx.sent}`);
      }
    });

  it('nothing was made available, some, or all', () => {
    const bed = bedOf(8);
    for (const posted of [0, 3, 8])
      for (const base of [0x8000, 0x8000_8000, 0x0000_0000, 0x8003_8003]) {
        bed.reset();
        new VirtioRx(bed, { pieces: 1, longest: 1518 }).refill(posted, randomFrom(1));
        assert.ok(resume(bed, bed.rx, base));
        assert.equal(bed.rx.queue.base, 0x8000_8000, `${posted} posted, told ${base.toString(16)}`);
      }
  });

  it('the driver is in the middle of a chain, whose first slot it has not written yet', () => {
    for (const start of [0, 6, 7, 13, 15]) {
      const bed = bedOf(8);
      bed.reset(start);
      const random = randomFrom(start);
      const tx = new VirtioTx(bed, { pieces: 1, longest: 60 });
      for (const waiting of [0, 2]) {
        tx.publish(waiting, random);
        const { base } = bed.tx.queue;
        bed.tx.driver.add(
          bed.cut(0, 90, 3, () => 2),
          false,
        );
        for (let at = 0; at < 16; at++) {
          assert.ok(resume(bed, bed.tx, told(8, at)));
          assert.equal(bed.tx.queue.base, base, `start ${start}, ${waiting} waiting, told ${at}`);
        }
        bed.reset(start);
      }
    }
  });
});

describe('a backend that was killed while it gave chains back', () => {
  /** Has the device do something, undone but for the first `stores` that it made to the ring. False: it made no more than that. */
  function killedAfter(bed: VirtioBed, side: VirtioSide, stores: number, act: () => void): boolean {
    const view = slotsOf(bed, side);
    const former = Buffer.from(bytesOf(view));
    const at = positionOf(bed.num, side.queue.base) % bed.num;
    act();
    const latter = Buffer.from(bytesOf(view));
    const now = positionOf(bed.num, side.queue.base) % bed.num;
    // In which order: a chain's last slot first, the first one of all at the end.
    const order: number[] = [];
    let end = now;
    for (let slot = at, chain: number[] = []; ; ) {
      chain.unshift(slot);
      const last = (former.readUInt16LE(16 * slot + 14) & NEXT) === 0;
      slot = (slot + 1) % bed.num;
      if (!last) continue;
      order.push(...chain);
      chain = [];
      end = slot;
      if (end === now) break;
    }
    order.splice(order.indexOf(at), 1);
    order.push(at);
    for (const slot of order.slice(stores)) former.copy(bytesOf(view), 16 * slot, 16 * slot, 16 * slot + 16);
    assert.ok(latter.equals(bytesOf(view)) || stores < order.length);
    return stores <= order.length;
  }

  it('transmits again what it had not given back, and nothing else', () => {
    const bed = bedOf(13);
    const style = { pieces: 3, longest: 1000 };
    for (let seed = 1; seed < 40; seed++) {
      for (let stores = 0; ; stores++) {
        bed.reset(seed % 26);
        const random = randomFrom(seed);
        const tx = new VirtioTx(bed, style);
        tx.publish(3, random);
        tx.drain(13);
        tx.reap();
        const { sent } = tx.publish(8, random);
        const take = 1 + random(sent);
        let before = 0;
        const more = killedAfter(bed, bed.tx, stores, () => {
          before = tx.arrived;
          assert.equal(tx.drain(13, take).frames, take);
        });
        if (!more) break;
        assert.ok(resume(bed, bed.tx, 0x8000_8000));
        const back = bed.tx.driver.taken();
        const again = bed.ring.pop(bed.tx.queue.address, bed.batch.address, 128);
        assert.equal(back.length + again, sent, `seed ${seed}, ${stores} stores`);
        assert.ok(again >= sent - take);
        tx.arrived = before + back.length;
        while (tx.drain(128).frames > 0);
        assert.equal(tx.arrived, tx.sent);
        const rest = bed.tx.driver.taken();
        assert.deepEqual([back.length + rest.length, bed.tx.driver.free], [sent, 13]);
        assert.ok([...back, ...rest].every(({ length }) => length === 0));
      }
    }
  });

  it('gives what it had received back empty, not in parts', () => {
    const bed = bedOf(13, PACKED | F.MRG_RXBUF);
    let kills = 0;
    for (let seed = 1; seed < 40; seed++) {
      for (let stores = 0; ; stores++) {
        bed.reset(seed % 26);
        const random = randomFrom(seed);
        const rx = new VirtioRx(bed, { pieces: 1, longest: 900 });
        rx.refill(13, random);
        const more = killedAfter(bed, bed.rx, stores, () => {
          if (rx.fill(13, 5).frames === 0) rx.fill(13, 5);
        });
        if (!more) break;
        assert.ok(resume(bed, bed.rx, 0x8000_8000));
        const back = bed.rx.driver.taken();
        const whole = rx.sent > 0 && back.some(({ length }) => length > 0);
        assert.ok(!whole || back.every(({ length }) => length > 0), 'all of it, or none');
        if (back.length > 0 && !whole) kills++;
        assert.equal(bed.rx.driver.posted, 13 - back.length);
        const room = bed.ring.room(bed.rx.queue.address, bed.batch.address, 128);
        assert.ok(room > 0 || bed.rx.driver.posted < 4, `seed ${seed}, ${stores} stores: room ${room}`);
      }
    }
    assert.ok(kills > 5, `${kills} in the middle`);
  });
});

describe('a ring that another device has left', () => {
  /** Flags of a slot with wrap counter 1. */
  const [AVAILABLE, USED] = [0x80, 0x8080];
  const ring = (bed: VirtioBed, slots: readonly (readonly [id: number, flags: number])[]) => {
    bed.reset();
    const view = slotsOf(bed, bed.tx);
    slots.forEach(([id, flags], i) => {
      view.setUint16(16 * i + 12, id, true);
      view.setUint16(16 * i + 14, flags, true);
    });
    return Buffer.from(bytesOf(view));
  };
  const used = [4, USED] as const;
  const tail = [4, AVAILABLE | NEXT] as const;
  const end = [4, AVAILABLE] as const;

  it('slots of a chain that it did not mark are passed when the front end says so', () => {
    const bed = bedOf(8);
    const before = ring(bed, [[5, USED], [5, AVAILABLE], used, tail, end, [5, AVAILABLE]]);
    assert.ok(resume(bed, bed.tx, told(8, 5)));
    assert.equal(bed.tx.queue.base, told(8, 5));
    assert.ok(bytesOf(slotsOf(bed, bed.tx)).equals(before), 'nothing is touched');
    for (const wrong of [0, 1, 2, 6, 7, 13]) {
      ring(bed, [used, [5, AVAILABLE], [6, AVAILABLE]]);
      assert.ok(resume(bed, bed.tx, told(8, wrong)));
      assert.equal(bed.tx.queue.base, told(8, 1), `told ${wrong}`);
    }
  });

  it('what a front end has drained in the middle is passed, and what was before it given back', () => {
    const bed = bedOf(8);
    ring(bed, [
      [1, USED],
      [2, AVAILABLE],
      [3, AVAILABLE | NEXT],
      [3, AVAILABLE],
      used,
      [6, USED],
      [7, AVAILABLE],
    ]);
    assert.ok(resume(bed, bed.tx, told(8, 0)));
    assert.equal(bed.tx.queue.base, told(8, 6));
    const view = slotsOf(bed, bed.tx);
    assert.deepEqual(
      Array.from({ length: 8 }, (_, i) => [
        view.getUint16(16 * i + 12, true),
        view.getUint16(16 * i + 14, true),
      ]),
      [
        [1, USED],
        [2, USED],
        [3, USED],
        [3, USED],
        [4, USED],
        [6, USED],
        [7, AVAILABLE],
        [0, 0],
      ],
    );
  });

  it('nonsense: some position, soon, and nothing but the ring is touched', () => {
    const bed = bedOf(32768);
    const random: Random = randomFrom(7);
    for (let round = 0; round < 30; round++) {
      bed.reset();
      const bytes = bytesOf(slotsOf(bed, bed.tx));
      const kinds = [0x00, 0x80, 0x8000, 0x8080, 0x81, 0x8001].slice(round % 3, 2 + (round % 5));
      for (let i = 0; i < 32768; i++) {
        bytes.writeUInt16LE(random(65536), 16 * i + 12);
        bytes.writeUInt16LE(kinds[random(kinds.length)]!, 16 * i + 14);
      }
      const start = performance.now();
      assert.ok(resume(bed, bed.tx, told(32768, random(65536))));
      assert.ok(performance.now() - start < 500, 'too slow');
      assert.ok(positionOf(32768, bed.tx.queue.base) < 65536);
      bed.ring.pop(bed.tx.queue.address, bed.batch.address, 128);
      bed.checkCanaries();
    }
    assert.ok(window.bytes.length > 0);
  });

  it('a position that can not be is refused', () => {
    const bed = bedOf(8);
    assert.equal(resume(bed, bed.tx, 0x8008_8008), false);
  });
});
