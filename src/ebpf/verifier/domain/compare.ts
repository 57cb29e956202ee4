/**
 * What is known of two numbers once a comparison of them came out one way. All jumps come down to six relations:
 *
 * ```
 *   jgt a b = ltu b a     not ltu a b = leu b a     not eq = ne     not set = clear     and so on
 * ```
 */
import { JMP } from '../../isa.js';
import { type Bounds, boundsInclude, boundsOf, max, min, type Width } from './bounds.js';
import { meet, meetLow, type Num, reduce } from './number.js';
import { ALL_64, andBits, lowBits, tnum } from './tnum.js';

type Relation = 'eq' | 'ne' | 'ltu' | 'leu' | 'lts' | 'les' | 'set' | 'clear';

interface Rule {
  readonly relation: Relation;
  /** The operands change places. */
  readonly swapped: boolean;
}

const TAKEN: Readonly<Record<number, Rule>> = {
  [JMP.JEQ]: { relation: 'eq', swapped: false },
  [JMP.JNE]: { relation: 'ne', swapped: false },
  [JMP.JSET]: { relation: 'set', swapped: false },
  [JMP.JLT]: { relation: 'ltu', swapped: false },
  [JMP.JLE]: { relation: 'leu', swapped: false },
  [JMP.JGT]: { relation: 'ltu', swapped: true },
  [JMP.JGE]: { relation: 'leu', swapped: true },
  [JMP.JSLT]: { relation: 'lts', swapped: false },
  [JMP.JSLE]: { relation: 'les', swapped: false },
  [JMP.JSGT]: { relation: 'lts', swapped: true },
  [JMP.JSGE]: { relation: 'les', swapped: true },
};

/** The relation that holds when this one does not. */
const NEGATED: Readonly<Record<Relation, Rule>> = {
  eq: { relation: 'ne', swapped: false },
  ne: { relation: 'eq', swapped: false },
  set: { relation: 'clear', swapped: false },
  clear: { relation: 'set', swapped: false },
  ltu: { relation: 'leu', swapped: true },
  leu: { relation: 'ltu', swapped: true },
  lts: { relation: 'les', swapped: true },
  les: { relation: 'lts', swapped: true },
};

export type Pair = readonly [a: Num, b: Num];

/**
 * The two operands of the jump `op` (a value of JMP) after it was taken, or was not. Null when it cannot come out so.
 */
export function refine(op: number, width: Width, taken: boolean, a: Num, b: Num): Pair | null {
  const key = 4 * op + (width === 64 ? 2 : 0) + (taken ? 1 : 0);
  const index = (a.serial * 31 + b.serial * 7 + key) & (REMEMBERED - 1);
  const before = memory[index];
  if (before !== undefined && before.key === key && before.a === a && before.b === b) return before.pair;
  const pair = refined(op, width, taken, a, b);
  memory[index] = { key, a, b, pair };
  return pair;
}

/** Compared before, as in arithmetic.ts. */
const REMEMBERED = 512;
const memory: (
  | { readonly key: number; readonly a: Num; readonly b: Num; readonly pair: Pair | null }
  | undefined
)[] = new Array(REMEMBERED).fill(undefined);

function refined(op: number, width: Width, taken: boolean, a: Num, b: Num): Pair | null {
  let { relation, swapped } = TAKEN[op]!;
  if (!taken) {
    const rule = NEGATED[relation];
    relation = rule.relation;
    swapped = swapped !== rule.swapped;
  }
  if (!swapped) return assume(relation, width, a, b);
  const pair = assume(relation, width, b, a);
  return pair === null ? null : [pair[1], pair[0]];
}

function assume(relation: Relation, width: Width, a: Num, b: Num): Pair | null {
  switch (relation) {
    case 'eq':
      return both(a, b, width === 64 ? meet : meetLow);
    case 'ne':
      return ordered(width, a, b, differing);
    case 'set':
    case 'clear':
      return masked(relation, width, a, b);
    default:
      return ordered(width, a, b, ORDER[relation]);
  }
}

function both(a: Num, b: Num, met: (a: Num, b: Num) => Num | null): Pair | null {
  const left = met(a, b);
  const right = met(b, a);
  return left === null || right === null ? null : [left, right];
}

/** Gives bounds that may be empty. */
type Narrow = (width: Width, a: Bounds, b: Bounds) => readonly [Bounds, Bounds];

const ORDER: Readonly<Record<'ltu' | 'leu' | 'lts' | 'les', Narrow>> = {
  ltu: (_, a, b) => [
    boundsOf(a.ulo, min(a.uhi, b.uhi - 1n), a.slo, a.shi),
    boundsOf(max(b.ulo, a.ulo + 1n), b.uhi, b.slo, b.shi),
  ],
  leu: (_, a, b) => [
    boundsOf(a.ulo, min(a.uhi, b.uhi), a.slo, a.shi),
    boundsOf(max(b.ulo, a.ulo), b.uhi, b.slo, b.shi),
  ],
  lts: (_, a, b) => [
    boundsOf(a.ulo, a.uhi, a.slo, min(a.shi, b.shi - 1n)),
    boundsOf(b.ulo, b.uhi, max(b.slo, a.slo + 1n), b.shi),
  ],
  les: (_, a, b) => [
    boundsOf(a.ulo, a.uhi, a.slo, min(a.shi, b.shi)),
    boundsOf(b.ulo, b.uhi, max(b.slo, a.slo), b.shi),
  ],
};

/** A number that is not another one: tells something when that is the end of a range. */
const differing: Narrow = (_, a, b) => {
  return [b.ulo === b.uhi ? without(a, b) : a, a.ulo === a.uhi ? without(b, a) : b];
};

function without(from: Bounds, one: Bounds): Bounds {
  return boundsOf(
    from.ulo === one.ulo ? from.ulo + 1n : from.ulo,
    from.uhi === one.ulo ? from.uhi - 1n : from.uhi,
    from.slo === one.slo ? from.slo + 1n : from.slo,
    from.shi === one.slo ? from.shi - 1n : from.shi,
  );
}

function ordered(width: Width, a: Num, b: Num, narrow: Narrow): Pair | null {
  const part = width === 64 ? 'wide' : 'low';
  const [left, right] = narrow(width, a[part], b[part]);
  return pairOf(narrowed(a, part, left), narrowed(b, part, right));
}

function narrowed(number: Num, part: 'wide' | 'low', to: Bounds): Num | null {
  if (isEmpty(to)) return null;
  if (boundsInclude(to, number[part])) return number;
  return part === 'wide' ? reduce(to, number.low, number.bits) : reduce(number.wide, to, number.bits);
}

function isEmpty({ ulo, uhi, slo, shi }: Bounds): boolean {
  return ulo > uhi || slo > shi;
}

function pairOf(a: Num | null, b: Num | null): Pair | null {
  return a === null || b === null ? null : [a, b];
}

/** `set`: some bit is in both; `clear`: none is. */
function masked(relation: 'set' | 'clear', width: Width, a: Num, b: Num): Pair | null {
  const cut = (number: Num) => (width === 64 ? number.bits : lowBits(number.bits));
  const common = andBits(cut(a), cut(b));
  if (relation === 'clear') {
    return common.value !== 0n ? null : pairOf(withZeros(a, cut(b).value), withZeros(b, cut(a).value));
  }
  const possible = common.value | common.mask;
  if (possible === 0n) return null;
  const single = (possible & (possible - 1n)) === 0n;
  return single ? pairOf(withOnes(a, possible), withOnes(b, possible)) : [a, b];
}

function withZeros(number: Num, zeros: bigint): Num | null {
  const { value, mask } = number.bits;
  if ((value & zeros) !== 0n) return null;
  return (mask & zeros) === 0n
    ? number
    : reduce(number.wide, number.low, tnum(value, mask & (ALL_64 ^ zeros)));
}

function withOnes(number: Num, ones: bigint): Num | null {
  const { value, mask } = number.bits;
  return reduce(number.wide, number.low, tnum(value | (mask & ones), mask & (ALL_64 ^ ones)));
}
