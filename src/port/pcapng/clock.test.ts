/** Times of capture files against arithmetic without limits. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Clock } from './clock.js';

const u32 = fc.oneof(fc.constantFrom(0, 1, 65535, 65536, 2 ** 31, 2 ** 32 - 1), fc.nat(2 ** 32 - 1));
const resolution = fc.record({
  base: fc.constantFrom(2 as const, 10 as const),
  exponent: fc.oneof(fc.constantFrom(0, 6, 9, 10, 12, 18, 30, 60, 127), fc.nat(127)),
});
const offset = fc.oneof(fc.constantFrom(0n, 1n, -1n), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }));
const stamp = ({ high, low }: Clock) => (BigInt(high) << 32n) | BigInt(low);
const cut = (nanoseconds: bigint) => BigInt.asUintN(64, nanoseconds);

test('units of any resolution, with any offset', () => {
  fc.assert(
    fc.property(u32, u32, resolution, offset, (high, low, resolution, seconds) => {
      const clock = new Clock(resolution, seconds);
      const units = (BigInt(high) << 32n) | BigInt(low);
      const expected = (units * 10n ** 9n) / BigInt(resolution.base) ** BigInt(resolution.exponent);
      for (let again = 0; again < 2; again++) {
        clock.read(high, low);
        assert.equal(stamp(clock), cut(expected + seconds * 10n ** 9n));
      }
    }),
    { numRuns: 3000 },
  );
});

test('seconds and parts of them', () => {
  fc.assert(
    fc.property(u32, u32, fc.constantFrom(6, 9), (seconds, parts, exponent) => {
      const clock = new Clock({ base: 10, exponent });
      clock.readSeconds(seconds, parts);
      assert.equal(stamp(clock), BigInt(seconds) * 10n ** 9n + BigInt(parts) * 10n ** BigInt(9 - exponent));
    }),
    { numRuns: 3000 },
  );
});
