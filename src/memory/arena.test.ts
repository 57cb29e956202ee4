/** The arena against a model: what is given out never overlaps, is zeroed, and comes back together. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Arena } from './arena.js';
import { ARENA_END, ARENA_START, Window } from './window.js';

const window = Window.create();
const START = ARENA_START;
const SIZE = 64 * 64;

type Step = { readonly take: number } | { readonly give: number };
const steps = fc.array(
  fc.oneof(fc.record({ take: fc.integer({ min: 0, max: 1000 }) }), fc.record({ give: fc.nat({ max: 100 }) })),
  { maxLength: 120 },
);

test('pieces are disjoint, aligned, zeroed and inside; what is free is one piece again at the end', () => {
  fc.assert(
    fc.property(steps as fc.Arbitrary<Step[]>, script => {
      const arena = new Arena(window, START, START + SIZE);
      const live: { at: number; size: number; mark: number }[] = [];
      let mark = 0;
      for (const step of script) {
        if ('take' in step) {
          const needed = Math.max(64, Math.ceil(step.take / 64) * 64);
          let at: number;
          try {
            at = arena.allocate(step.take);
          } catch (error) {
            assert.equal((error as { code?: string }).code, 'MEMORY_FULL');
            assert.ok(largestGap(live) < needed, 'refused, though there was room');
            continue;
          }
          assert.equal(at % 64, 0);
          assert.ok(at >= START && at + needed <= START + SIZE, 'outside');
          assert.ok(
            live.every(piece => at + needed <= piece.at || at >= piece.at + piece.size),
            'overlaps a live piece',
          );
          assert.ok(
            window.bytes.subarray(at, at + needed).every(byte => byte === 0),
            'not zeroed',
          );
          mark = (mark % 255) + 1;
          window.bytes.fill(mark, at, at + needed);
          live.push({ at, size: needed, mark });
        } else if (live.length > 0) {
          const [piece] = live.splice(step.give % live.length, 1);
          assert.ok(
            window.bytes.subarray(piece!.at, piece!.at + piece!.size).every(byte => byte === piece!.mark),
            'somebody wrote into a live piece',
          );
          arena.free(piece!.at);
        }
        assert.equal(arena.live, live.length);
      }
      for (const { at } of live) arena.free(at);
      assert.equal(arena.allocate(SIZE), START, 'neighbours were not joined');
    }),
  );
});

function largestGap(live: readonly { at: number; size: number }[]): number {
  let end = START;
  let largest = 0;
  for (const piece of live.toSorted((a, b) => a.at - b.at)) {
    largest = Math.max(largest, piece.at - end);
    end = piece.at + piece.size;
  }
  return Math.max(largest, START + SIZE - end);
}

test('what was not given out, or came back already, is refused', () => {
  const arena = new Arena(window);
  const at = arena.allocate(1);
  assert.throws(() => arena.free(at + 64), { code: 'MEMORY_ADDRESS' });
  arena.free(at);
  assert.throws(() => arena.free(at), { code: 'MEMORY_ADDRESS' });
  assert.equal(arena.live, 0);
});

test('sizes that are none, and sizes beyond the whole, are refused; empty pieces are distinct', () => {
  const arena = new Arena(window);
  for (const size of [Number.NaN, Number.POSITIVE_INFINITY, ARENA_END - ARENA_START + 1, 2 ** 53]) {
    assert.throws(() => arena.allocate(size), { code: 'MEMORY_FULL' });
  }
  const pieces = [arena.allocate(0), arena.allocate(0), arena.allocate(0)];
  assert.equal(new Set(pieces).size, 3);
  for (const at of pieces) arena.free(at);
});

test('pieces that are to be aligned, or in one page, are; what they leave free is given out all the same', () => {
  const [alignment, page] = [1024, 4096];
  const arena = new Arena(window, START, START + 4 * page);
  const first = arena.allocate(64);
  const aligned = arena.allocate(100, { alignment });
  assert.equal(aligned - START, alignment);
  assert.equal(arena.allocate(64), first + 64, 'before the aligned one');
  const long = arena.allocate(2900, { page });
  assert.equal(long - START, alignment + 128, 'it fits where it is');
  const whole = arena.allocate(page - 64, { page });
  assert.equal(whole - START, page, 'the rest of the page is too short');
  const longer = arena.allocate(page + 64, { page, alignment });
  assert.equal((longer - START) % alignment, 0, 'in no page as a whole, but aligned');
  for (const address of [first, first + 64, aligned, long, whole, longer]) arena.free(address);
  assert.equal(arena.live, 0);
  assert.equal(arena.allocate(4 * page), START, 'all of it is one range again');
});
