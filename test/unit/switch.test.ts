/** The switch: who gets which frame. Time, where it matters, is the test's. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as L from '../../datapath/layout.js';
import { monotonicNs } from '../../src/linux/clock.js';
import { openPort } from '../../src/port/registry.js';
import { arena, window } from '../compliance/testbed.js';
import { frame, hello, SECOND, type Station, type StationOptions, switchTest } from './switch-bed.js';

const A = '02:00:00:00:00:0a';
const B = '02:00:00:00:00:0b';
const C = '02:00:00:00:00:0c';
const NOBODY = '02:00:00:00:00:ff';

/** Three stations that know where the others are. */
function three(join: (options?: StationOptions) => Station, options: StationOptions = {}) {
  const [a, b, c] = [join(options), join(options), join(options)] as const;
  for (const [station, address] of [
    [a, A],
    [b, B],
    [c, C],
  ] as const) {
    station.send(hello(address));
  }
  for (const station of [a, b, c]) assert.equal(station.take().length, 2);
  return { a, b, c };
}

const counts = (...stations: Station[]) => stations.map(station => station.take().length);

switchTest('a frame for an unknown address goes to all others, for a known one to its port alone', join => {
  const [a, b, c] = [join(), join(), join()];
  a.send(frame(B, A, 60, 1));
  const [toB, toC] = [b.take(), c.take()];
  assert.deepEqual([toB, toC], [[frame(B, A, 60, 1)], [frame(B, A, 60, 1)]]);
  assert.deepEqual(a.take(), [], 'nothing comes back');
  b.send(frame(A, B, 61, 2));
  assert.deepEqual(counts(a, b, c), [1, 0, 0]);
  a.send(frame(B, A, 62, 3), frame('ff:ff:ff:ff:ff:ff', A), frame('01:00:5e:00:00:01', A));
  assert.deepEqual(counts(a, b, c), [0, 3, 2]);
  const { received, sent, flooded, learned, addresses } = a.port.counters();
  assert.deepEqual(
    { received, sent, flooded, learned, addresses },
    { received: 1, sent: 4, flooded: 3, learned: 1, addresses: 1 },
  );
  assert.equal(b.port.counters().received, 4);
});

switchTest('a frame for an address behind its own port, or for bridges only, goes nowhere', join => {
  const { a, b, c } = three(join);
  a.send(hello(NOBODY)); // one more behind the same port
  assert.deepEqual(counts(a, b, c), [0, 1, 1]);
  a.send(frame(NOBODY, A), frame('01:80:c2:00:00:00', A), frame('01:80:c2:00:00:0e', A));
  assert.deepEqual(counts(a, b, c), [0, 0, 0]);
  assert.equal(a.port.counters().filtered, 3);
  a.send(frame('01:80:c2:00:00:10', A));
  assert.deepEqual(counts(a, b, c), [0, 1, 1]);
});

switchTest('an address that is not used for mac-age seconds is forgotten, one that is stays', join => {
  const [a, b, c] = [join(), join({ macAge: 10 }), join()];
  const start = 1000 * SECOND;
  b.sendAt(start, hello(B));
  counts(a, c);
  const known = (seconds: number): boolean => {
    a.sendAt(start + seconds * SECOND, frame(B, A));
    const [atB, atC] = counts(b, c);
    assert.equal(atB, 1);
    return atC === 0;
  };
  assert.ok(known(0) && known(10));
  assert.ok(!known(11));
  b.sendAt(start + 12 * SECOND, frame(A, B));
  assert.ok(known(22));
  assert.ok(!known(23));
  assert.ok(known(11.9), 'by a clock that is a moment behind');
});

switchTest('addresses follow their station to another port', join => {
  const { a, b, c } = three(join);
  c.send(hello(B));
  counts(a, b);
  a.send(frame(B, A));
  assert.deepEqual(counts(a, b, c), [0, 0, 1]);
  assert.deepEqual(
    [b, c].map(station => station.port.counters().addresses),
    [0, 2],
  );
  assert.equal(c.port.counters().moved, 1);
  b.send(frame(A, B));
  a.send(frame(B, A));
  assert.deepEqual(counts(a, b, c), [1, 1, 0]);
});

switchTest('what a port may have flooded at once and in the long run is limited', join => {
  const limits = { floodRate: 100, floodBurst: 10 };
  const [a, b, c] = [join({ limits }), join({ limits }), join({ limits })];
  const start = 50 * SECOND;
  const flood = (station: Station, now: number, n: number, length = 60): number => {
    for (let i = 0; i < n; i++) station.sendAt(now, frame(NOBODY, A, length));
    const got = c.take(70_000).length;
    assert.equal(b.take(70_000).length, got);
    return got;
  };
  assert.equal(flood(a, start, 20), 10);
  assert.equal(flood(a, start, 5), 0);
  assert.equal(flood(a, start + SECOND / 20, 20), 5, 'a hundred a second');
  assert.equal(flood(a, start + 60 * SECOND, 20), 10, 'and never more than ten at once');
  assert.equal(flood(a, start + 120 * SECOND, 20, 1515), 5, 'long ones count more');
  assert.equal(flood(a, start + 180 * SECOND, 1, 65_000), 0);
  assert.equal(a.port.counters().limited, 10 + 5 + 15 + 10 + 15 + 1);
  assert.equal(a.port.counters().dropped, a.port.counters().limited);
  a.sendAt(start + 180 * SECOND, ...Array.from({ length: 11 }, () => hello(A)));
  assert.deepEqual(counts(b, c), [10, 10]);
  b.sendAt(start + 180 * SECOND, hello(B));
  assert.deepEqual(counts(a, c), [1, 1], 'each port for itself');
  a.sendAt(start + 180 * SECOND, ...Array.from({ length: 50 }, () => frame(B, A)));
  assert.deepEqual(counts(b, c), [50, 0], 'what is for somebody is not limited');
});

switchTest('isolated ports have traffic with the others only', join => {
  const [a, b, c] = [join({ isolated: true }), join({ isolated: true }), join()];
  a.send(hello(A));
  assert.deepEqual(counts(a, b, c), [0, 0, 1]);
  b.send(hello(B), frame(A, B));
  assert.deepEqual(counts(a, b, c), [0, 0, 1]);
  assert.equal(b.port.counters().filtered, 1);
  c.send(hello(C), frame(A, C), frame(B, C));
  assert.deepEqual(counts(a, b, c), [2, 2, 0]);
  a.send(frame(C, A));
  assert.deepEqual(counts(a, b, c), [0, 0, 1]);
});

switchTest('a flood of invented sources costs nobody else his address, and the table no room', join => {
  const { a, b, c } = three(join, { limits: { addresses: 8, floodRate: 1e9, floodBurst: 1e5 } });
  const start = monotonicNs();
  const invented = (i: number) =>
    `02:ee:00:${[i >> 16, i >> 8, i].map(n => (n & 255).toString(16)).join(':')}`;
  for (let i = 0; i < 20_000; i += 100) {
    c.sendAt(
      start + (i / 100) * SECOND,
      ...Array.from({ length: 100 }, (_, k) => frame('01:80:c2:00:00:00', invented(i + k))),
    );
  }
  assert.deepEqual(counts(a, b, c), [0, 0, 0]);
  assert.deepEqual(
    [a, b, c].map(station => station.port.counters().addresses),
    [1, 1, 8],
  );
  const now = start + 200 * SECOND;
  a.sendAt(now, hello(A), frame(B, A));
  assert.deepEqual(counts(a, b, c), [0, 2, 1]);
  b.sendAt(now, hello(B), frame(A, B));
  assert.deepEqual(counts(a, b, c), [2, 0, 1]);
});

switchTest('the address that gives way is the one that its port has not used for the longest time', join => {
  const { a, c } = three(join, { limits: { addresses: 3 } });
  const start = monotonicNs();
  const addresses = ['02:11:00:00:00:01', '02:11:00:00:00:02', '02:11:00:00:00:03'] as const;
  for (const [i, address] of addresses.entries()) c.sendAt(start + (i + 1) * SECOND, hello(address));
  c.sendAt(start + 4 * SECOND, hello(addresses[0]));
  c.sendAt(start + 5 * SECOND, hello(NOBODY));
  a.take();
  const known = [...addresses, NOBODY].map(address => {
    const before = a.port.counters().flooded;
    a.sendAt(start + 6 * SECOND, frame(address, A));
    return a.port.counters().flooded === before;
  });
  assert.deepEqual(known, [true, false, true, true]);
});

switchTest('a source that is a group, or nothing, is not learned', join => {
  const { a, b, c } = three(join);
  for (const source of ['03:00:00:00:00:01', 'ff:ff:ff:ff:ff:ff', '00:00:00:00:00:00']) {
    const { learned } = a.port.counters();
    a.send(frame(B, source));
    assert.equal(a.port.counters().learned, learned);
  }
  assert.deepEqual(counts(a, b, c), [0, 3, 0]);
});

switchTest(
  'what is no frame is dropped and counted: too short, too long, a header that lies, buffers nobody reaches',
  join => {
    const { a, b } = three(join);
    const sent = a.port.counters().sent;
    for (const length of [0, 1, 13]) a.send(frame(B, A, length));
    a.send({ bytes: frame(B, A, 100), ask: { flags: 1, start: 90, offset: 16 } });
    a.send({ bytes: frame(B, A, 100), ask: { flags: 1, type: 9, gsoSize: 50 } });
    assert.equal(a.port.counters().dropped, 5);
    // A batch that says more than its buffers have.
    const batch = a.batchOf([frame(B, A, 100)]);
    batch.setLength(0, 101);
    a.lanes[0]!.put(batch);
    assert.equal(a.port.counters().dropped, 6);
    a.send(frame(B, A, 65_537));
    assert.equal(a.port.counters().tooLong, 1);
    const win = window.words[(window.words[(batch.address + L.BATCH_FRAMES) >>> 2]! + L.FRAME_WIN) >>> 2]!;
    const elsewhere = a.batchOf([frame(B, A, 100)]);
    window.words[win >>> 2] = 0;
    a.lanes[0]!.put(elsewhere);
    assert.equal(a.port.counters().unreachable, 1);
    assert.equal(a.port.counters().dropped, 7);
    assert.equal(a.port.counters().sent, sent);
    a.send(frame(B, A, 14), frame(B, A, 65_536));
    assert.deepEqual(
      b.take(70_000).map(({ length }) => length),
      [14, 65_536],
    );
  },
);

switchTest('a full inbox loses its own port frames, and holds up nobody', join => {
  const small = { limits: { inboxBytes: 4096, laneBytes: 4096 } };
  const [a, b, c] = [join(), join(small), join()];
  b.send(hello(B));
  c.send(hello(C));
  counts(a, b, c);
  // 64 blocks, two for each of these.
  const sent = Array.from({ length: 100 }, (_, i) => frame(i % 2 === 0 ? B : C, A, 100, i));
  assert.equal(a.send(...sent), 100);
  assert.equal(c.take().length, 50);
  const got = b.take();
  assert.deepEqual(got, sent.filter((_, i) => i % 2 === 0).slice(0, 32), 'those that came first');
  assert.equal(b.port.counters().missed, 18);
  assert.equal(b.port.counters().dropped, 18);
  assert.equal(a.port.counters().dropped, 0);
  a.send(frame(B, A, 5000));
  assert.equal(b.port.counters().missed, 19, 'larger than the inbox as a whole');
  a.send(frame(B, A));
  assert.equal(b.take().length, 1);
});

switchTest(
  'frames of any length arrive as they were sent, however their buffers are cut, around the ring again and again',
  join => {
    const limits = { inboxBytes: 1 << 17, laneBytes: 1 << 17 };
    const { a, b } = three(join, { limits });
    const sendings = fc.array(
      fc.record({
        length: fc.oneof(fc.integer({ min: 14, max: 300 }), fc.integer({ min: 14, max: 20_000 })),
        cuts: fc.array(fc.integer({ min: 0, max: 40 }), { maxLength: 20 }),
        fill: fc.integer({ min: 0, max: 255 }),
      }),
      { minLength: 1, maxLength: 3 },
    );
    let bytes = 0;
    fc.assert(
      fc.property(sendings, fc.integer({ min: 1, max: 3000 }), (list, cut) => {
        const frames = list.map(({ length, fill }) => {
          const made = frame(B, A, length);
          for (let i = 14; i < length; i++) made[i] = fill + i * 7 + (i >> 8);
          return made;
        });
        a.send(...list.map(({ cuts }, i) => ({ bytes: frames[i]!, cuts })));
        const got = frames.flatMap(() => b.get(1, 20_000, { cut: Math.max(cut, 350) }));
        assert.equal(got.length, frames.length);
        for (const [i, made] of frames.entries()) assert.ok(got[i]!.bytes.equals(made), `frame ${i}`);
        bytes += frames.reduce((sum, { length }) => sum + length, 0);
      }),
      { numRuns: 300 },
    );
    assert.ok(bytes > 4 * limits.inboxBytes, `${bytes} bytes`);
  },
);

test('what the user may write, and what not', () => {
  const before = arena.live;
  const open = (spec: string) => openPort(spec, { window, arena }, 2);
  for (const spec of [
    'switch:lan',
    'switch:lan,isolated',
    'switch:lan,mac-age=60,isolated',
    'switch:a.b-c_9',
  ]) {
    const port = open(spec);
    assert.equal(port.lanes.length, 2);
    port.close();
  }
  for (const [spec, words] of [
    ['switch', /"" is no name/],
    ['switch:', /"" is no name/],
    ['switch:a/b', /"a\/b" is no name/],
    ['switch:lan,isolated=1', /"isolated=1" does not belong there/],
    ['switch:lan,isolated,isolated', /does not belong there/],
    ['switch:lan,other', /"other" does not belong there/],
    ['switch:lan,mac-age=0', /mac-age must be 1 to 1000000 seconds, not "0"/],
    ['switch:lan,mac-age=x', /mac-age/],
  ] as const) {
    assert.throws(() => open(spec), { code: 'PORT_SPEC', message: words }, spec);
  }
  assert.equal(arena.live, before);
});
