/** The parts of which verifier-programs.ts makes random programs: a few instructions each, which one register does something with. */
import fc from 'fast-check';

/** Lines of assembly; a label in it gets a number of its own when the program is put together: `@name`. */
export type Piece = readonly string[];

const scratch = fc.constantFrom('r0', 'r2', 'r3', 'r4', 'r5');
export const pick = <T>(...values: readonly T[]) => fc.constantFrom(...values);
export const int = (min: number, max: number) => fc.integer({ min, max });
const INTERESTING = [
  0, 1, -1, 2, 7, 8, 31, 32, 33, 63, 64, 255, 256, 0x7fff, 0x8000, 0xffff, 0x7fffffff, -0x80000000,
];
const imm = fc.oneof(pick(...INTERESTING), int(-70, 70), int(-0x80000000, 0x7fffffff));

const ALU = [
  'add',
  'sub',
  'mul',
  'div',
  'sdiv',
  'or',
  'and',
  'lsh',
  'rsh',
  'mod',
  'smod',
  'xor',
  'mov',
  'arsh',
];
const alu = fc
  .tuple(pick(...ALU), pick('', '32'), scratch, fc.oneof(scratch, imm))
  .map(([op, width, dst, src]): Piece => [`${op}${width} ${dst}, ${src}`]);
const UNARY = ['neg', 'neg32', 'le16', 'le32', 'le64', 'be16', 'be32', 'be64', 'swap16', 'swap32', 'swap64'];
const unary = fc.tuple(pick(...UNARY), scratch).map(([op, dst]): Piece => [`${op} ${dst}`]);
const extend = fc
  .tuple(pick('movsx864', 'movsx1664', 'movsx3264', 'movsx832', 'movsx1632'), scratch, scratch)
  .map(([op, dst, src]): Piece => [`${op} ${dst}, ${src}`]);
const cleared = fc
  .tuple(scratch, scratch, pick('rsh', 'arsh'))
  .map(([dst, src, shift]): Piece => [`mov ${dst}, ${src}`, `lsh ${dst}, 32`, `${shift} ${dst}, 32`]);

const SIZES = ['b', 'h', 'w', 'dw'];
const size = pick(...SIZES);

const contextLoad = fc
  .tuple(pick('b', 'h', 'w', 'dw', 'sb', 'sh', 'sw'), scratch, int(0, 56))
  .map(([kind, dst, off]): Piece => [`ldx${kind} ${dst}, [r6+${off}]`]);
const contextStore = fc
  .tuple(size, fc.oneof(scratch, pick('r9')), int(0, 56))
  .map(([kind, src, off]): Piece => [`stx${kind} [r6+${off}], ${src}`]);
const stackStore = fc.oneof(
  fc.tuple(size, scratch, int(-40, -8)).map(([kind, src, off]): Piece => [`stx${kind} [r7${off}], ${src}`]),
  fc.tuple(size, imm, int(-40, -8)).map(([kind, value, off]): Piece => [`st${kind} [r7${off}], ${value}`]),
);
const stackLoad = fc
  .tuple(pick('b', 'h', 'w', 'dw', 'sw'), scratch, int(-40, -8))
  .map(([kind, dst, off]): Piece => [`ldx${kind} ${dst}, [r7${off}]`]);
const spill = fc
  .tuple(pick('r6', 'r7', 'r8', 'r9'), pick(-48, -56, -64))
  .map(([src, off]): Piece => [`stxdw [r10${off}], ${src}`]);
const fill = fc
  .tuple(pick('r6', 'r9', 'r1'), pick(-48, -56, -64))
  .map(([dst, off]): Piece => [`ldxdw ${dst}, [r10${off}]`]);
const extra = fc.oneof(
  fc.tuple(size, scratch, int(0, 16)).map(([kind, dst, off]): Piece => [`ldx${kind} ${dst}, [r8+${off}]`]),
  fc.tuple(size, scratch, int(0, 16)).map(([kind, src, off]): Piece => [`stx${kind} [r8+${off}], ${src}`]),
);

/** An access to the context or the stack at a number that is bounded in one of several ways, or not at all. */
const bound = fc.oneof(
  fc
    .tuple(scratch, pick(0, 1, 3, 7, 15, 31, 63, 255))
    .map(([index, mask]): Piece => [`and ${index}, ${mask}`]),
  fc.tuple(scratch, int(1, 64)).map(([index, by]): Piece => [`mod ${index}, ${by}`]),
  fc.tuple(scratch, pick(56, 58, 60, 62)).map(([index, by]): Piece => [`rsh ${index}, ${by}`]),
  fc
    .tuple(scratch, int(0, 64))
    .map(([index, most]): Piece => [`jle ${index}, ${most}, @in`, `mov ${index}, 1`, '@in:']),
  fc
    .tuple(scratch, int(0, 64), int(0, 32))
    .map(
      ([index, most, least]): Piece => [
        `jsgt ${index}, ${most}, @bad`,
        `jsge ${index}, ${-least}, @in`,
        '@bad:',
        `mov ${index}, 0`,
        '@in:',
      ],
    ),
  scratch.map((index): Piece => [`mov ${index}, ${index}`]),
);
const indexed = fc
  .tuple(
    bound,
    pick('r6', 'r6', 'r7', 'r8'),
    size,
    pick('add', 'add', 'sub'),
    pick(1, 1, 2, 8),
    int(-40, 40),
    fc.boolean(),
  )
  .map(([limit, base, kind, op, scale, off, load]): Piece => {
    const index = /r\d/.exec(limit[0]!)![0];
    const at = `[r1${off < 0 ? off : `+${off}`}]`;
    return [
      ...limit,
      ...(scale === 1 ? [] : [`mul ${index}, ${scale}`]),
      `mov r1, ${base}`,
      `${op} r1, ${index}`,
      load ? `ldx${kind} ${index}, ${at}` : `stx${kind} ${at}, ${index}`,
    ];
  });

const ATOMICS = [
  'add',
  'or',
  'and',
  'xor',
  'fetch add',
  'fetch or',
  'fetch and',
  'fetch xor',
  'xchg',
  'cmpxchg',
];
const atomic = fc
  .tuple(pick(...ATOMICS), pick('', '32'), pick('r6', 'r7'), scratch, int(0, 6))
  .map(([op, width, base, src, slot]): Piece => {
    const at = base === 'r6' ? `[r6+${slot * 8}]` : `[r7${-8 * (1 + (slot % 4))}]`;
    return [`lock ${op}${width} ${at}, ${src}`];
  });

/** After a call r1 … r5 hold nothing. */
export const RESET: Piece = ['mov r2, r0', 'mov r3, 3', 'ldxw r4, [r6+4]', 'mov r5, r9', 'mov r1, r6'];
export const helper = fc
  .oneof(
    fc.constant<Piece>(['mov r1, r6', 'call 1']),
    int(-32, -16).map((off): Piece => ['mov r1, r7', `add r1, ${off}`, 'call 2']),
    int(-32, -16).map((off): Piece => ['mov r1, r7', `add r1, ${off}`, 'call 3']),
    fc.constant<Piece>(['mov r1, r6', 'add r1, r4', 'call 2']),
    fc.constant<Piece>(['and r3, 7', 'mov r1, r0', 'mov r2, r7', 'add r2, -16', 'call 4']),
    scratch.map((src): Piece => ['mov r1, r6', `mov r2, ${src}`, 'call 5']),
    // Addresses as numbers: refused, or they would come back in r0.
    pick('r6', 'r7', 'r8', 'r9').map((src): Piece => ['mov r1, r6', `mov r2, ${src}`, 'call 5']),
    pick(-48, -56).map((off): Piece => ['mov r1, r6', `ldxdw r2, [r10${off}]`, 'call 5']),
    pick('r6', 'r7', 'r9').map(
      (src): Piece => ['and r3, 7', `mov r1, ${src}`, 'mov r2, r7', 'add r2, -16', 'call 4'],
    ),
    fc.constant<Piece>(['call -5']),
  )
  .map((lines): Piece => [...lines, ...RESET]);

const JUMPS = ['jeq', 'jne', 'jgt', 'jge', 'jlt', 'jle', 'jsgt', 'jsge', 'jslt', 'jsle', 'jset'];
export const condition = fc
  .tuple(pick(...JUMPS), pick('', '32'), scratch, fc.oneof(scratch, imm))
  .map(([op, width, dst, src]) => `${op}${width} ${dst}, ${src}`);

/** What depends on where memory is, unless it is refused: pointers against each other, near and far, and against 0. */
const compared = fc
  .tuple(
    pick(...JUMPS),
    pick('r6', 'r6', 'r7'),
    pick('add', 'sub'),
    fc.oneof(scratch, pick('r9'), imm),
    pick('same', 'null', 'swapped'),
    int(0, 63),
  )
  .map(([op, base, move, by, other, told]): Piece => {
    const operands = { same: `r1, ${base}`, swapped: `${base}, r1`, null: 'r1, 0' }[other];
    return [`mov r1, ${base}`, `${move} r1, ${by}`, `${op} ${operands}, @so`, `stb [r6+${told}], 12`, '@so:'];
  });

export const flat: fc.Arbitrary<Piece> = fc.oneof(
  { weight: 6, arbitrary: alu },
  { weight: 1, arbitrary: unary },
  { weight: 1, arbitrary: extend },
  { weight: 1, arbitrary: cleared },
  { weight: 4, arbitrary: contextLoad },
  { weight: 2, arbitrary: contextStore },
  { weight: 2, arbitrary: stackStore },
  { weight: 2, arbitrary: stackLoad },
  { weight: 1, arbitrary: spill },
  { weight: 1, arbitrary: fill },
  { weight: 1, arbitrary: extra },
  { weight: 8, arbitrary: indexed },
  { weight: 1, arbitrary: atomic },
  { weight: 2, arbitrary: compared },
);
/** One path comes with less known than the other, in all else alike: neither must hide the other. */
export const merge = fc
  .tuple(scratch, scratch, pick('ldxb', 'ldxdw', 'spill', 'copy', 'low'), pick(7, 63), pick('r6', 'r6', 'r7'))
  .map(([index, other, kind, most, base]): Piece => {
    const flag = ['r2', 'r3', 'r4', 'r5'].find(register => register !== index && register !== other)!;
    const setup: Readonly<Record<string, readonly [before: Piece, changed: Piece, after: Piece]>> = {
      ldxb: [[`mov ${index}, 0`], [`ldxb ${index}, [r6+9]`], []],
      ldxdw: [[`mov ${index}, 0`], [`ldxdw ${index}, [r6+16]`], []],
      spill: [
        ['stdw [r10-72], 1'],
        [`ldxh ${index}, [r6+24]`, `stxdw [r10-72], ${index}`, `mov ${index}, 1`],
        [`ldxdw ${index}, [r10-72]`],
      ],
      copy: [
        [`ldxb ${other}, [r6+32]`, `mov ${index}, ${other}`],
        [`ldxb ${index}, [r6+40]`],
        [`jle ${other}, ${most}, @small`, `mov ${index}, 0`, '@small:'],
      ],
      low: [
        [`ldxdw ${index}, [r6+48]`, `mov ${other}, ${index}`, `lsh ${other}, 32`],
        [`mov32 ${other}, ${other}`, `lsh ${other}, 32`],
        [`rsh ${other}, 32`, `jle ${other}, ${most}, @small`, `mov ${index}, 0`, '@small:'],
      ],
    };
    const [before, changed, after] = setup[kind]!;
    return [
      ...(kind === 'spill' ? [`mov ${index}, 1`] : []),
      ...before,
      `ldxb ${flag}, [r6+1]`,
      `jeq ${flag}, 0, @merged`,
      ...changed,
      `mov ${flag}, 0`,
      '@merged:',
      ...after,
      `mov r1, ${base}`,
      ...(base === 'r7' ? ['add r1, -16', `and ${index}, 15`] : []),
      `add r1, ${index}`,
      `ldxb ${index}, [r1+0]`,
    ];
  });

/** A guarded store that may hit the stack, and does in one layout or another, between keeping something there and using it. */
export const overwritten = fc
  .tuple(pick(-72, -48), pick(0x1000 + 64, 0), pick('add', 'sub'), size)
  .map(
    ([slot, distance, op, kind]): Piece => [
      ...(slot === -72 ? ['stdw [r10-72], 8'] : ['stxdw [r10-48], r6']),
      'ldxb r3, [r6+5]',
      'and r3, 1',
      `mul r3, ${Math.abs(distance + slot)}`,
      'mov r1, r6',
      `${distance === 0 ? 'sub' : op} r1, r3`,
      `stx${kind} [r1+0], r5`,
      `ldxdw r1, [r10${slot}]`,
      ...(slot === -72 ? ['mov r4, r6', 'add r4, r1', 'ldxb r4, [r4+0]'] : ['ldxb r4, [r1+0]']),
    ],
  );

/** A store to one of two slots, and a use of what was in one of them. */
export const blurred = fc
  .tuple(scratch, pick('r0', 'r5'), size)
  .map(
    ([index, value, kind]): Piece => [
      'stdw [r10-8], 1',
      'stdw [r10-16], 2',
      `ldxb ${index}, [r6+24]`,
      `and ${index}, 8`,
      'mov r1, r10',
      'add r1, -16',
      `add r1, ${index}`,
      `stx${kind} [r1+0], ${value}`,
      'ldxdw r1, [r10-8]',
      `mov ${index}, r6`,
      `add ${index}, r1`,
      `ldxb ${index}, [${index}+0]`,
    ],
  );
