/** Times in figures and bars: percentiles are times that occurred, every time is in one bar. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { drawn, histogram, percentile, summary } from '../../src/demo/histogram.js';

test('percentiles: the smallest time that so many do not exceed', () => {
  const hundred = Array.from({ length: 100 }, (_, i) => i + 1);
  assert.deepEqual(
    [0, 0.01, 0.5, 0.99, 1].map(share => percentile(hundred, share)),
    [1, 1, 50, 99, 100],
  );
  assert.equal(percentile([7.26], 0.5), 7.3);
});

test('a summary sorts numbers, not words, and leaves its argument alone', () => {
  const times = [1000, 9, 200];
  assert.deepEqual(summary(times), { p50: 200, p99: 1000, max: 1000 });
  assert.deepEqual(times, [1000, 9, 200]);
  assert.equal(summary([]), null);
});

test('bars: bounds are below, what is outside is in the first and the last', () => {
  assert.deepEqual(histogram([1000, 1599, 1600]), [
    { from_us: 1000, to_us: 1600, count: 2 },
    { from_us: 1600, to_us: 2500, count: 1 },
  ]);
  assert.deepEqual(histogram([3]), [{ from_us: 100, to_us: 160, count: 1 }]);
  assert.deepEqual(histogram([5e6]), [{ from_us: 63_000, to_us: 100_000, count: 1 }]);
  assert.deepEqual(histogram([]), []);
});

test('bars touch each other, count every time, and the outermost are not empty', () => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 2e5, noNaN: true }), { minLength: 1 }), times => {
      const bars = histogram(times);
      assert.equal(
        bars.reduce((sum, { count }) => sum + count, 0),
        times.length,
      );
      for (const [i, { from_us }] of bars.entries()) if (i > 0) assert.equal(from_us, bars[i - 1]!.to_us);
      assert.ok(bars[0]!.count > 0 && bars.at(-1)!.count > 0);
    }),
  );
});

test('drawn: as long as their share of the longest', () => {
  const lines = drawn(histogram([...Array(16).fill(1000), ...Array(2).fill(700), 2500]));
  assert.deepEqual(lines, [
    ' 0.63 -   1.0 ms  ███                      2',
    '  1.0 -   1.6 ms  ████████████████████████ 16',
    '  1.6 -   2.5 ms                           0',
    '  2.5 -   4.0 ms  █▌                       1',
  ]);
  assert.deepEqual(drawn([]), []);
});
