/**
 * The vring_packed programs do what the ring format says: against a device written down as simply as possible, with events taken one
 * descriptor at a time, and with the device moving at the worst moment. (That they are well formed: programs.test.ts.)
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type Buf, EINVAL, ENOMEM, HEAD, OPAQUE, objectOf, programsOf } from './program-bed.js';
import { AVAIL, asksFor, EVENT, FIELD, PackedQueue, USED, WRITE } from './vring-packed-bed.js';

const programs = programsOf(objectOf('vring_packed'));
const DIRECTIONS = ['rx', 'tx'] as const;
const NUM = 16;
/** Every place in a ring of NUM, in both laps. */
const places = [0, 1].flatMap(laps => Array.from({ length: NUM }, (_, index) => ({ laps, index })));

function publish(queue: PackedQueue, direction: 'rx' | 'tx', bufs: readonly Buf[]): number {
  for (const [i, buf] of bufs.entries()) queue.setBuf(i, buf);
  queue.set(HEAD.NUM_BUFS, bufs.length);
  assert.equal(queue.run(`${direction}p`), 0);
  return queue.get(HEAD.OFLAGS);
}

const bufs = (n: number): Buf[] =>
  Array.from({ length: n }, (_, i) => ({ cookie: BigInt(i) + 7n, paddr: 4096n * BigInt(i), len: 100 + i }));

describe('vring_packed programs', () => {
  const buf = fc.record({
    cookie: fc.bigInt(0n, 2n ** 64n - 1n),
    paddr: fc.bigInt(0n, 2n ** 64n - 1n),
    len: fc.nat(),
  });
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('publish' as const),
      bufs: fc.array(buf, { minLength: 1, maxLength: 64 }),
    }),
    fc.record({
      kind: fc.constant('device' as const),
      count: fc.integer({ min: 1, max: 20 }),
      len: fc.nat(),
    }),
    fc.record({ kind: fc.constant('complete' as const), times: fc.integer({ min: 1, max: 20 }) }),
  );
  const place = fc.record({ laps: fc.nat(1), index: fc.nat(15) });

  for (const direction of DIRECTIONS) {
    it(`${direction}: buffers come back in order, each once, with the device in between and reclaim at the end`, () => {
      fc.assert(
        // The format holds any number, not only powers of two.
        fc.property(
          place,
          fc.constantFrom(16, 17, 31, 128),
          fc.array(step, { maxLength: 30 }),
          (at, num, steps) => {
            const queue = new PackedQueue(programs, num, at);
            const flying: Buf[] = [];
            let used = 0; // of them
            for (const s of steps) {
              if (s.kind === 'publish') {
                const fit = s.bufs.slice(0, num - flying.length).map(b => ({ ...b }));
                if (direction === 'rx' && fit.length > 0) publish(queue, direction, fit);
                if (direction === 'tx') for (const one of fit) publish(queue, direction, [one]);
                flying.push(...fit);
              } else if (s.kind === 'device') {
                for (let i = 0; i < s.count && used < flying.length; i++)
                  queue.use((flying[used++]!.len = s.len));
              } else {
                for (let i = 0; i < s.times; i++) {
                  assert.equal(queue.run(`${direction}c`), used > 0 ? 1 : 0);
                  if (used === 0) continue;
                  assert.deepEqual(queue.bufs(), [flying.shift()]);
                  used -= 1;
                }
              }
              const busy = Array.from({ length: num }, (_, id) => queue.get16(queue.stateAt(id) + 8));
              assert.equal(
                busy.reduce((sum, bit) => sum + bit),
                flying.length,
              );
            }
            while (flying.length > 0) {
              assert.equal(queue.run(`${direction}r`), 1);
              assert.deepEqual(queue.bufs(), flying.splice(0, direction === 'rx' ? 64 : 1));
            }
            assert.equal(queue.run(`${direction}r`), 0);
            assert.equal(queue.get(HEAD.NUM_BUFS), 0);
            assert.equal(queue.get16(FIELD.USED_IDX), queue.get16(FIELD.AVAIL_IDX));
            assert.equal(queue.bytes[FIELD.USED_WRAP], queue.bytes[FIELD.AVAIL_WRAP]);
          },
        ),
        { numRuns: 150 },
      );
    });

    it(`${direction}p writes descriptor and state, and turns the flags at the end of the ring`, () => {
      for (const at of places) {
        const queue = new PackedQueue(programs, NUM, at);
        const [one, two] = bufs(2) as [Buf, Buf];
        for (const b of [one, two]) publish(queue, direction, [b]);
        const kind = direction === 'rx' ? WRITE! : 0;
        const second = (at.index + 1) % NUM;
        const turn = (wrap: number) => (wrap ? AVAIL! : USED!);
        const wrap = 1 - at.laps;
        const secondWrap = second === 0 ? 1 - wrap : wrap;
        assert.deepEqual(queue.desc(at.index), {
          addr: one.paddr,
          len: one.len,
          id: 0,
          flags: turn(wrap) | kind,
        });
        assert.deepEqual(queue.desc(second), {
          addr: two.paddr,
          len: two.len,
          id: 1,
          flags: turn(secondWrap) | kind,
        });
        assert.equal(queue.view.getBigUint64(queue.stateAt(1), true), two.cookie);
        assert.deepEqual(
          [8, 10, 14].map(field => queue.get16(queue.stateAt(1) + field)),
          [1, 1, 1],
          'busy, a chain of 1, its own last',
        );
        assert.equal(queue.get16(FIELD.FREE_ID), 2);
      }
    });

    it(`${direction}p kicks exactly when the device's event asks for it`, () => {
      for (const at of places) {
        for (const count of direction === 'rx' ? [1, 2, NUM - 1, NUM] : [1]) {
          const queue = new PackedQueue(programs, NUM, at);
          const fresh = queue.bytes.slice();
          for (const flags of [EVENT.ENABLE, EVENT.DISABLE, EVENT.DESC, 3]) {
            for (const { laps, index } of flags === EVENT.DESC ? places : places.slice(0, 1)) {
              const event = index | ((1 - laps) << 15) | (flags << 16);
              queue.bytes.set(fresh);
              // The device stores its event while the publisher is between its store of the flags and its load of the event.
              queue.set(FIELD.DEVICE_EVENT, EVENT.DISABLE << 16);
              queue.onBarrier = () => {
                assert.equal(queue.desc(at.index).addr, 0n);
                assert.equal(queue.desc(at.index).len, 100);
                queue.set(FIELD.DEVICE_EVENT, event);
              };
              const range = { index: at.index, wrap: 1 - at.laps, count, num: NUM };
              const kick = publish(queue, direction, bufs(count));
              assert.equal(
                kick,
                asksFor(event, range) ? 1 : 0,
                `${JSON.stringify(range)}, ${event.toString(16)}`,
              );
            }
          }
        }
      }
    });

    it(`${direction}i asks for the last descriptor wanted, or says that it is used already`, () => {
      for (const at of places) {
        for (const wanted of [1, 2, 5, NUM, NUM + 1, 0xffff_ffff]) {
          const last = Math.min(wanted, NUM);
          for (const used of [0, 1, 4, 5, NUM]) {
            const queue = new PackedQueue(programs, NUM, at);
            if (direction === 'rx') publish(queue, direction, bufs(NUM));
            else for (const b of bufs(NUM)) publish(queue, direction, [b]);
            queue.set(HEAD.MIN_COMPLETED, wanted);
            let event = 0;
            queue.onBarrier = () => {
              event = queue.get(FIELD.DRIVER_EVENT);
              for (let i = 0; i < used; i++) queue.use(60);
            };
            assert.equal(queue.run(`${direction}i`), used >= last ? 1 : 0);
            const before = { index: at.index, wrap: 1 - at.laps, num: NUM };
            assert.equal(asksFor(event, { ...before, count: last }), true);
            assert.equal(asksFor(event, { ...before, count: last - 1 }), false);
          }
        }
      }
    });

    it(`${direction}i with nothing wanted switches interrupts off`, () => {
      const queue = new PackedQueue(programs, NUM);
      queue.set(FIELD.DRIVER_EVENT, 0x8000 | (EVENT.DESC << 16));
      queue.onBarrier = () => assert.fail('no barrier');
      queue.run(`${direction}i`);
      assert.equal(queue.get(FIELD.DRIVER_EVENT) >>> 16, EVENT.DISABLE);
    });

    it(`${direction}c finds the cookie by the id, whatever order the device keeps`, () => {
      const queue = new PackedQueue(programs, NUM, { laps: 0, index: NUM - 2 });
      for (const b of bufs(4)) publish(queue, direction, [b]);
      for (const id of [2, 0, 3, 1]) {
        queue.set16(queue.descAt(queue.next) + 12, id);
        queue.use(60 + id);
      }
      for (const id of [2, 0, 3, 1]) {
        assert.equal(queue.run(`${direction}c`), 1);
        assert.equal(queue.bufs()[0]!.cookie, BigInt(id) + 7n);
        assert.equal(queue.bufs()[0]!.len, 60 + id);
      }
      for (const b of bufs(4)) publish(queue, direction, [b]);
      const ids = [2, 3, 4, 5].map(index => queue.desc(index).id);
      assert.equal(new Set(ids).size, 4, 'ids are free again, each once');
    });

    it(`${direction}c and ${direction}r refuse ids that are not out, and stay where they are`, () => {
      for (const id of [1, NUM - 1, NUM, NUM + 1, 0xffff]) {
        const queue = new PackedQueue(programs, NUM);
        publish(queue, direction, bufs(1));
        queue.set16(queue.descAt(0) + 12, id);
        const before = queue.bytes.slice(OPAQUE);
        assert.equal(queue.run(`${direction}r`), -EINVAL);
        assert.deepEqual(queue.bytes.slice(OPAQUE), before);
        queue.use(60);
        assert.equal(queue.run(`${direction}c`), -EINVAL);
        assert.equal(queue.get16(FIELD.USED_IDX), 0);
      }
    });
  }

  it('publish refuses what does not fit and changes nothing', () => {
    for (const [section, count] of [
      ['rxp', 65],
      ['rxp', 0xffff_ffff],
      ['txp', 0],
      ['txp', 2],
      ['txp', 0xffff_ffff],
    ] as const) {
      const queue = new PackedQueue(programs, NUM);
      queue.set(HEAD.NUM_BUFS, count);
      const before = queue.bytes.slice();
      assert.equal(queue.run(section), -EINVAL);
      assert.deepEqual(queue.bytes.slice(), before);
    }
  });

  it('rxc hands the buffer to rx_pkt_alloc, whose failure loses the packet and not the queue', () => {
    const queue = new PackedQueue(programs, NUM);
    publish(queue, 'rx', bufs(2));
    for (let i = 0; i < 2; i++) queue.use(60);
    queue.onAlloc = () => {
      assert.deepEqual(queue.bufs(), [{ cookie: 7n, paddr: 0n, len: 60 }]);
      return -ENOMEM;
    };
    assert.equal(queue.run('rxc'), -ENOMEM);
    queue.onAlloc = () => 0;
    assert.equal(queue.run('rxc'), 1);
    assert.equal(queue.bufs()[0]!.cookie, 8n);
    queue.onAlloc = () => assert.fail('there is no packet');
    assert.equal(queue.run('rxc'), 0);
  });

  it('indices and offsets that the device has falsified cannot lead outside the context', () => {
    const lies: readonly [string, (queue: PackedQueue) => void][] = [
      ['states behind the context', queue => queue.set(FIELD.STATE_OFS, 0x7fff_0000)],
      ['states before it', queue => queue.view.setBigInt64(FIELD.STATE_OFS, -100_000n, true)],
      ['next used', queue => queue.set16(FIELD.USED_IDX, 0xffff)],
      ['next available', queue => queue.set16(FIELD.AVAIL_IDX, 0xffff)],
      ['next free', queue => queue.set16(FIELD.FREE_ID, 0xffff)],
    ];
    const touched: Readonly<Record<string, readonly string[]>> = {
      'next used': ['rxc', 'rxr', 'txc', 'txr'],
      'next available': ['rxp', 'txp'],
      'next free': ['rxp', 'txp'],
    };
    for (const [lie, tell] of lies) {
      for (const section of touched[lie] ?? ['rxp', 'rxc', 'rxr', 'txp', 'txc', 'txr']) {
        const queue = new PackedQueue(programs, NUM);
        publish(queue, 'tx', bufs(1));
        publish(queue, 'tx', bufs(1));
        queue.use(60);
        tell(queue);
        queue.set(HEAD.NUM_BUFS, 1);
        assert.throws(() => queue.run(section), { code: 'EBPF_ACCESS' }, `${lie}: ${section}`);
      }
    }
  });
});
