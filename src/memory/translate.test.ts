/** The datapath's look-up of guest addresses against the obvious one. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { createMemfd } from '../linux/memfd.js';
import { leakTest } from '../linux/testing.js';
import { loadDatapath } from '../ring/datapath.js';
import { Arena } from './arena.js';
import { GuestMemory } from './guest-memory.js';
import { Window } from './window.js';

const SIZE = 1 << 20;
const U64 = 2n ** 64n;

/** Regions one behind the other from a start anywhere: [gap before, size, offset]. */
const layout = fc.record({
  start: fc.oneof(
    fc.constant(0n),
    fc.bigInt({ min: 0n, max: U64 - 2n ** 30n }),
    fc.constant(U64 - 4n * 65536n),
  ),
  pieces: fc.array(
    fc.record({
      gap: fc.oneof(fc.constant(0), fc.nat({ max: 5000 })),
      size: fc.integer({ min: 1, max: 60_000 }),
      offset: fc.oneof(fc.constant(-1), fc.nat({ max: SIZE - 60_000 })), // -1: behind the last one in the file
    }),
    { minLength: 1, maxLength: 12 },
  ),
});
const questions = fc.array(
  fc.record({
    piece: fc.nat(),
    from: fc.oneof(fc.integer({ min: -3, max: 60_010 }), fc.nat({ max: 300 })),
    length: fc.oneof(
      fc.integer({ min: 0, max: 70_000 }).map(BigInt),
      fc.integer({ min: 0, max: 2000 }).map(BigInt),
      fc.constantFrom(U64 - 1n, U64 / 2n, 2n ** 32n, 2n ** 32n + 1n),
    ),
  }),
  { minLength: 1, maxLength: 60 },
);

leakTest('translate finds what one region holds as a whole, and nothing else', () => {
  const window = Window.create();
  const { calls } = loadDatapath(window);
  const arena = new Arena(window);
  const hint = arena.allocate(4);
  const file = createMemfd({ name: 'guest', size: SIZE });
  const memory = new GuestMemory(window, arena);
  // The whole file stays mapped, so that every table shows it at the same place.
  const whole = memory.build([{ guestPhysicalAddress: 0n, size: BigInt(SIZE), mmapOffset: 0n, fd: file }]);
  const base = whole.pin(0n, 1, 8);
  let found = 0;
  fc.assert(
    fc.property(layout, questions, ({ start, pieces }, asked) => {
      let gpa = start;
      let fileEnd = 0;
      const regions: { gpa: bigint; size: bigint; offset: number }[] = [];
      for (const { gap, size, offset } of pieces) {
        gpa += BigInt(gap);
        const at = offset < 0 ? fileEnd : offset;
        if (gpa + BigInt(size) > U64 || at + size > SIZE) break;
        regions.push({ gpa, size: BigInt(size), offset: at });
        gpa += BigInt(size);
        fileEnd = at + size;
      }
      fc.pre(regions.length > 0);
      const table = memory.build(
        regions.map(r => ({
          guestPhysicalAddress: r.gpa,
          size: r.size,
          mmapOffset: BigInt(r.offset),
          fd: file,
        })),
      );
      // Neighbours in both spaces are one; a question may span them.
      const seen: typeof regions = [];
      for (const r of regions) {
        const last = seen.at(-1);
        if (last && last.gpa + last.size === r.gpa && last.offset + Number(last.size) === r.offset)
          last.size += r.size;
        else seen.push({ ...r });
      }
      window.words[hint >>> 2] = 0;
      for (const { piece, from, length } of asked) {
        const target = BigInt.asUintN(64, regions[piece % regions.length]!.gpa + BigInt(from));
        const home = seen.find(r => target >= r.gpa && length > 0n && target + length <= r.gpa + r.size);
        const expected = home ? base + home.offset + Number(target - home.gpa) : 0;
        if (home) found++;
        const where = `0x${target.toString(16)} + ${length}`;
        assert.equal(calls.translate(table.address, hint, target, length) >>> 0, expected, where);
      }
      table.close();
    }),
    { numRuns: 300 },
  );
  assert.ok(found > 100, `${found} questions had an answer`);
  whole.close();
  arena.free(hint);
  file.close();
});
