/**
 * The verifier's numbers against concrete ones: whatever an operation makes of members of its operands is a member of what the domain
 * makes of the operands (γ-inclusion), and a comparison takes away no pair for which it holds.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { arithmetic, branches, signExtend, swapBytes } from '../../src/ebpf/alu.js';
import { ALU, JMP } from '../../src/ebpf/isa.js';
import { compute, extendSign, negate, swap, truncate } from '../../src/ebpf/verifier/domain/arithmetic.js';
import { refine } from '../../src/ebpf/verifier/domain/compare.js';
import { combineLines, rounds, stretch } from '../../src/ebpf/verifier/domain/line.js';
import {
  ANY,
  constant,
  constantOf,
  contains,
  includes,
  join,
  loaded,
  meet,
  meetLow,
  type Num,
  reduce,
  signedRange,
  unsignedRange,
  zeroExtended,
} from '../../src/ebpf/verifier/domain/number.js';
import {
  addBits,
  andBits,
  bitsInclude,
  bitsOf,
  joinBits,
  mulBits,
  orBits,
  shiftLeftBits,
  shiftRightBits,
  shiftRightSignedBits,
  subBits,
  type Tnum,
  xorBits,
} from '../../src/ebpf/verifier/domain/tnum.js';

const RUNS = process.env.POLYNIC_LONG === 'hostile' ? 200_000 : 1_500;
const check = <T extends [unknown, ...unknown[]]>(property: fc.IProperty<T>, runs = RUNS): void => {
  fc.assert(property, { numRuns: runs });
};

const EDGES = [0n, 1n, 2n, 7n, 8n, 31n, 32n, 63n, 64n, 255n, 0x7fffn, 0x8000n, 0xffffn];
const WIDE_EDGES = [31n, 32n, 33n, 62n, 63n].flatMap(bit => [(1n << bit) - 1n, 1n << bit, (1n << bit) + 1n]);
const value = fc
  .oneof(
    fc.constantFrom(...EDGES, ...WIDE_EDGES),
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    fc.bigInt({ min: 0n, max: (1n << 32n) - 1n }),
    fc.bigInt({ min: -300n, max: 300n }),
    fc.constantFrom(...EDGES, ...WIDE_EDGES).map(edge => -edge),
  )
  .map(number => BigInt.asUintN(64, number));

/** A number that stands for several, and one of those. */
interface Sample {
  readonly num: Num;
  readonly member: bigint;
}

const hull = (values: readonly bigint[]): Num => values.map(constant).reduce(join);

const samples: fc.Arbitrary<Sample> = fc.oneof(
  value.map(member => ({ num: constant(member), member })),
  // Few values joined: bounds and bits at once.
  fc
    .array(value, { minLength: 1, maxLength: 4 })
    .chain(values => fc.constantFrom(...values).map(member => ({ num: hull(values), member }))),
  // A range around a member, unsigned or signed, sharpened with nothing.
  fc.tuple(value, value, value).map(([a, b, c]) => {
    const [lo, member, hi] = [a, b, c].sort((x, y) => (x < y ? -1 : 1)) as [bigint, bigint, bigint];
    return { num: unsignedRange(lo, hi), member };
  }),
  fc.tuple(value, value, value).map(numbers => {
    const [lo, member, hi] = numbers
      .map(number => BigInt.asIntN(64, number))
      .sort((x, y) => (x < y ? -1 : 1)) as [bigint, bigint, bigint];
    return { num: signedRange(lo, hi), member: BigInt.asUintN(64, member) };
  }),
  // Known bits and nothing else.
  fc.tuple(value, value).map(([member, mask]) => {
    return { num: reduce(ANY.wide, ANY.low, { value: member & ~mask, mask })!, member };
  }),
  // Known of the low half alone.
  fc.tuple(value, fc.array(value, { minLength: 1, maxLength: 3 })).map(([member, others]) => {
    return { num: meetLow(ANY, hull([member, ...others]))!, member };
  }),
  fc.tuple(value, fc.constantFrom(1, 2, 4, 8), fc.boolean()).map(([number, bytes, signed]) => ({
    num: loaded(bytes, signed),
    member: signed ? signExtend(number, 8 * bytes, 64) : BigInt.asUintN(8 * bytes, number),
  })),
);

const shown = ({ wide, low, bits }: Num): string =>
  JSON.stringify({ wide, low, bits }, (_, field) =>
    typeof field === 'bigint' ? `0x${field.toString(16)}` : field,
  );

function assertIn(num: Num, member: bigint, what: string): void {
  assert.ok(contains(num, member), `${what}: 0x${member.toString(16)} is not in ${shown(num)}`);
}

const OPERATIONS = Object.entries(ALU).filter(([name]) => name !== 'NEG' && name !== 'END');
const RELATIONS = Object.entries(JMP).filter(([name]) => !['JA', 'CALL', 'EXIT'].includes(name));

describe('the number domain', () => {
  for (const [name, op] of OPERATIONS) {
    for (const width of [32, 64] as const) {
      for (const signed of name === 'DIV' || name === 'MOD' ? [false, true] : [false]) {
        test(`${signed ? 'signed ' : ''}${name} of ${width} bits keeps every result`, () => {
          check(
            fc.property(samples, samples, (a, b) => {
              const result = arithmetic(op, width, a.member, b.member, signed);
              assertIn(compute(op, width, a.num, b.num, signed), result, `${shown(a.num)} ${shown(b.num)}`);
            }),
          );
        });
      }
    }
  }

  for (const [name, op] of RELATIONS) {
    for (const width of [32, 64] as const) {
      test(`${name} of ${width} bits takes away no pair for which it holds`, () => {
        check(
          fc.property(samples, samples, (a, b) => {
            const taken = branches(op, width, a.member, b.member);
            const pair = refine(op, width, taken, a.num, b.num);
            const what = `${taken} ${shown(a.num)} ${shown(b.num)}`;
            assert.ok(pair !== null, what);
            assertIn(pair[0], a.member, what);
            assertIn(pair[1], b.member, what);
            assert.ok(includes(a.num, pair[0]) && includes(b.num, pair[1]), `wider than before: ${what}`);
          }),
        );
      });
    }
  }

  test('negation, extension, truncation and swaps keep every result', () => {
    check(
      fc.property(samples, fc.constantFrom(32, 64), ({ num, member }, width) => {
        assertIn(
          negate(width as 32 | 64, num),
          arithmetic(ALU.SUB, width as 32 | 64, 0n, member, false),
          'neg',
        );
        assertIn(zeroExtended(num), BigInt.asUintN(32, member), 'zero-extended');
        for (const bits of [16, 32, 64]) {
          assertIn(truncate(num, bits), BigInt.asUintN(bits, member), `truncate ${bits}`);
          assertIn(swap(num, bits), swapBytes(member, bits), `swap ${bits}`);
        }
        for (const from of width === 64 ? [8, 16, 32] : [8, 16]) {
          assertIn(
            extendSign(num, from, width as 32 | 64),
            signExtend(member, from, width as 32 | 64),
            `extend ${from} to ${width}`,
          );
        }
      }),
    );
  });

  test('a join holds both, a meet what is in both', () => {
    check(
      fc.property(samples, samples, (a, b) => {
        const joined = join(a.num, b.num);
        assertIn(joined, a.member, 'join');
        assertIn(joined, b.member, 'join');
        assert.ok(includes(joined, a.num) && includes(joined, b.num));
        if (contains(b.num, a.member)) assertIn(meet(a.num, b.num)!, a.member, 'meet');
        const low = { ...b, member: (b.member & ~0xffffffffn) | (a.member & 0xffffffffn) };
        if (contains(b.num, low.member)) assertIn(meetLow(a.num, b.num)!, a.member, 'meetLow');
      }),
    );
  });

  test('reducing loses no member, and leaves nothing looser', () => {
    check(
      fc.property(samples, samples, samples, (a, b, c) => {
        const wide = join(a.num, b.num).wide;
        const low = join(a.num, c.num).low;
        const reduced = reduce(wide, low, a.num.bits);
        assert.ok(reduced !== null);
        assertIn(reduced, a.member, 'reduce');
      }),
    );
  });

  test('inclusion means that every member of the one is one of the other', () => {
    check(
      fc.property(samples, samples, (a, b) => {
        if (includes(a.num, b.num)) assertIn(a.num, b.member, 'includes');
        const known = constantOf(a.num);
        if (known !== null) assert.equal(known, a.member);
      }),
    );
  });

  test('what compilers write is exact', () => {
    const u32 = loaded(4, false);
    const masked = compute(ALU.AND, 64, u32, constant(63n), false);
    const scaled = compute(ALU.MUL, 64, masked, constant(24n), false);
    assert.deepEqual([scaled.wide.ulo, scaled.wide.uhi], [0n, 63n * 24n]);
    assert.equal(scaled.bits.mask & 7n, 0n);
    const up = compute(ALU.LSH, 64, meetLow(ANY, masked)!, constant(32n), false);
    assert.deepEqual(compute(ALU.RSH, 64, up, constant(32n), false).wide.uhi, 63n);
    assert.deepEqual(compute(ALU.ARSH, 64, up, constant(32n), false).wide.shi, 63n);
    const [below] = refine(JMP.JLE, 64, true, u32, constant(64n))!;
    assert.equal(below.wide.uhi, 64n);
    assert.equal(compute(ALU.ADD, 64, below, constant(BigInt.asUintN(64, -1n)), false).wide.slo, -1n);
    assert.equal(compute(ALU.DIV, 64, u32, constant(0n), false), constant(0n));
    assert.equal(refine(JMP.JGT, 64, true, below, constant(64n)), null);
    assert.equal(refine(JMP.JEQ, 64, true, below, constant(65n)), null);
    assert.equal(compute(ALU.MOD, 64, ANY, constant(10n), false).wide.uhi, 9n);
  });
});

describe('known bits', () => {
  const pairs = fc
    .tuple(value, value)
    .map(([member, mask]) => ({ bits: { value: member & ~mask, mask }, member }));
  const TWO: readonly [string, (a: Tnum, b: Tnum) => Tnum, (a: bigint, b: bigint) => bigint][] = [
    ['add', addBits, (a, b) => a + b],
    ['sub', subBits, (a, b) => a - b],
    ['mul', mulBits, (a, b) => a * b],
    ['and', andBits, (a, b) => a & b],
    ['or', orBits, (a, b) => a | b],
    ['xor', xorBits, (a, b) => a ^ b],
    ['join', joinBits, a => a],
  ];
  for (const [name, onBits, onValues] of TWO) {
    test(`${name} keeps every result`, () => {
      check(
        fc.property(pairs, pairs, (a, b) => {
          const result = onBits(a.bits, b.bits);
          assert.ok(bitsInclude(result, bitsOf(BigInt.asUintN(64, onValues(a.member, b.member)))));
          assert.equal(result.value & result.mask, 0n);
        }),
      );
    });
  }

  test('shifts keep every result', () => {
    check(
      fc.property(pairs, fc.bigInt({ min: 0n, max: 63n }), ({ bits, member }, count) => {
        const assertBits = (result: Tnum, expected: bigint) =>
          assert.ok(bitsInclude(result, bitsOf(BigInt.asUintN(64, expected))));
        assertBits(shiftLeftBits(bits, count), member << count);
        assertBits(shiftRightBits(bits, count), member >> count);
        assertBits(shiftRightSignedBits(bits, count, 64), BigInt.asIntN(64, member) >> count);
      }),
    );
  });
});

describe('lines', () => {
  const lines = fc
    .record({
      base: fc.bigInt({ min: -1000n, max: 1n << 33n }),
      step: fc.bigInt({ min: -70n, max: 70n }).filter(step => step !== 0n),
      most: fc.bigInt({ min: 0n, max: 1n << 17n }),
    })
    .chain(({ base, step, most }) =>
      fc.bigInt({ min: 0n, max: most }).map(k => ({ line: { id: 1, base, step }, most, k })),
    );
  const at = ({ base, step }: { base: bigint; step: bigint }, k: bigint) =>
    BigInt.asUintN(64, base + step * k);

  test('a stretch holds its numbers, and tells the rounds from them', () => {
    check(
      fc.property(lines, ({ line, most, k }) => {
        const num = stretch(line, 0n, most);
        assertIn(num, at(line, k), 'stretch');
        const possible = rounds(line, num);
        assert.deepEqual([possible.first, possible.last], [0n, most]);
        const rest = rounds(line, meet(num, stretch(line, k, most))!);
        assert.ok(rest.first <= k && rest.last >= k);
      }),
    );
  });

  const ops = fc.constantFrom(ALU.ADD, ALU.SUB, ALU.MUL, ALU.LSH, ALU.RSH, ALU.AND);
  const by = fc.oneof(fc.bigInt({ min: -64n, max: 64n }), value).map(number => BigInt.asUintN(64, number));
  test('the line of a result goes through it in every round', () => {
    let kept = 0;
    check(
      fc.property(
        lines,
        ops,
        by,
        fc.constantFrom(32 as const, 64 as const),
        ({ line, most, k }, op, operand, width) => {
          const moving = { num: stretch(line, 0n, most), line };
          const still = { num: constant(operand), line: null };
          const forward = combineLines(op, width, moving, still);
          if (forward !== null) {
            kept++;
            assert.equal(at(forward, k), arithmetic(op, width, at(line, k), operand, false));
          }
          const backward = combineLines(op, width, still, moving);
          if (backward !== null) {
            assert.equal(at(backward, k), arithmetic(op, width, operand, at(line, k), false));
          }
        },
      ),
    );
    assert.ok(kept > RUNS / 20, `only ${kept} lines`);
  });
});
