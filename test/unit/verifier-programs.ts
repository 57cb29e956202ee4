/**
 * Random programs of which the verifier accepts many: registers are set, pointers have their registers, jumps go forward or count.
 * What is done with them is as wild as it can be without being refused at once.
 *
 * ```
 *   r6 context   r7 stack   r8 extra region   r9 a counter   r0, r2 … r5 numbers   r1 any pointer
 * ```
 */
import fc from 'fast-check';
import { assemble } from '../../src/ebpf/asm.js';
import { decodeProgram, type Program } from '../../src/ebpf/program.js';
import {
  blurred,
  condition,
  flat,
  helper,
  int,
  merge,
  overwritten,
  type Piece,
  pick,
  RESET,
} from './verifier-pieces.js';

const several = (part: fc.Arbitrary<Piece>, most: number) =>
  fc.array(part, { minLength: 1, maxLength: most }).map((parts): Piece => parts.flatMap(distinct));

const branch = (part: fc.Arbitrary<Piece>) =>
  fc
    .tuple(condition, several(part, 4), several(part, 3), fc.boolean())
    .map(
      ([test, then, other, both]): Piece =>
        both
          ? [`${test}, @else`, ...then, 'ja @end', '@else:', ...other, '@end:']
          : [`${test}, @end`, ...then, '@end:'],
    );

const BOUNDED = pick('up', 'down', 'not equal', 'number', 'low', 'pointer', 'uneven', 'data', 'late');

/** Counting loops of several kinds; r9 counts, and the body may go on with a pointer that moves along. */
const loop = (part: fc.Arbitrary<Piece>, kind = BOUNDED) =>
  fc
    .tuple(several(part, 4), int(1, 30), int(1, 3), kind, pick(-40, -8))
    .map(([body, count, step, kind, off]): Piece => {
      switch (kind) {
        case 'down':
          return [`mov r9, ${count}`, '@head:', ...body, 'add r9, -1', 'jne r9, 0, @head'];
        case 'not equal':
          return ['mov r9, 0', '@head:', ...body, `add r9, ${step}`, `jne r9, ${count * step}, @head`];
        case 'number':
          return [
            'ldxb r1, [r6+3]',
            `and r1, 31`,
            'stxdw [r10-72], r1',
            'mov r9, 0',
            '@head:',
            'ldxdw r1, [r10-72]',
            'jge r9, r1, @out',
            ...body,
            `add r9, ${step}`,
            'ja @head',
            '@out:',
          ];
        // As far as the other side says, in each round anew: no bound, or that of a guard.
        case 'shared':
          return [
            'mov r9, 0',
            '@head:',
            ...body,
            'ldxw r1, [r6+8]',
            'jge r9, r1, @out',
            'mov r1, r6',
            'add r1, r9',
            ...(off < -20 ? ['ldxb r3, [r1+0]'] : []),
            `add r9, ${step}`,
            'ja @head',
            '@out:',
          ];
        case 'low':
          return ['mov32 r9, 0', '@head:', ...body, `add32 r9, ${step}`, `jlt32 r9, ${count}, @head`];
        // What moves does not always move, or not by the same step.
        case 'uneven':
          return [
            'mov r9, 0',
            'mov r4, 0',
            '@head:',
            ...body,
            'ldxb r3, [r6+2]',
            'jeq r3, 0, @even',
            `add r9, ${step}`,
            '@even:',
            `jlt r9, ${count}, @more`,
            `mov r9, ${count + 2}`,
            '@more:',
            'mov r1, r6',
            'add r1, r9',
            'ldxb r3, [r1+0]',
            'add r9, 1',
            `jlt r9, ${count}, @head`,
          ];
        case 'late':
          return [
            'mov r9, 0',
            'stdw [r10-80], 0',
            '@head:',
            ...body,
            'ldxdw r3, [r10-80]',
            'mov r1, r6',
            'add r1, r3',
            'ldxb r0, [r1+0]',
            'jle r9, 6, @early',
            `add r3, ${step * 20}`,
            '@early:',
            'add r3, 1',
            'stxdw [r10-80], r3',
            'add r9, 1',
            `jlt r9, ${count}, @head`,
          ];
        case 'data':
          return [
            'mov r9, 0',
            'stdw [r10-80], 0',
            '@head:',
            ...body,
            'ldxdw r3, [r10-80]',
            'mov r1, r6',
            'add r1, r3',
            'ldxb r0, [r1+0]',
            'jset r0, 1, @odd',
            `add r3, ${step}`,
            '@odd:',
            'add r3, 1',
            'stxdw [r10-80], r3',
            'add r9, 1',
            `jlt r9, ${count}, @head`,
          ];
        case 'pointer':
          return [
            'mov r9, 0',
            'stxdw [r10-80], r6',
            '@head:',
            ...body,
            'ldxdw r1, [r10-80]',
            'ldxb r3, [r1+0]',
            `stxb [r1${off < -20 ? '+1' : '+0'}], r3`,
            `add r1, ${step}`,
            'stxdw [r10-80], r1',
            'add r9, 1',
            `jlt r9, ${count}, @head`,
          ];
        default:
          return ['mov r9, 0', '@head:', ...body, `add r9, ${step}`, `jlt r9, ${count}, @head`];
      }
    });

/** A function of its own, jumped over; it gets a pointer in r1 and numbers, and may use the caller's stack by r7. */
const localCall = fc
  .tuple(several(flat, 4), pick('r6', 'r7'))
  .map(
    ([body, pointer]): Piece => [
      'ja @over',
      '@function:',
      ...body,
      'mov r0, r2',
      'exit',
      '@over:',
      `mov r1, ${pointer}`,
      'call local @function',
      ...RESET,
    ],
  );

const inner = fc.oneof({ weight: 10, arbitrary: flat }, { weight: 2, arbitrary: branch(flat) });
const piece: fc.Arbitrary<Piece> = fc.oneof(
  { weight: 12, arbitrary: flat },
  { weight: 4, arbitrary: branch(inner) },
  { weight: 4, arbitrary: loop(inner) },
  { weight: 1, arbitrary: loop(fc.oneof({ weight: 3, arbitrary: flat }, { weight: 1, arbitrary: helper })) },
  { weight: 2, arbitrary: helper },
  { weight: 1, arbitrary: localCall },
  { weight: 3, arbitrary: merge },
  { weight: 1, arbitrary: overwritten },
  { weight: 1, arbitrary: blurred },
);

const PROLOGUE: Piece = [
  'mov r6, r1',
  'mov r7, r10',
  'lddw r8, 0xc000',
  'mov r9, 5',
  'ldxdw r0, [r6+0]',
  'ldxw r2, [r6+8]',
  'ldxh r3, [r6+12]',
  'ldxb r4, [r6+16]',
  'mov r5, 77',
  'stdw [r10-8], 0',
  'stdw [r10-16], 1',
  'stdw [r10-24], -1',
  'stxdw [r10-32], r2',
  'stxdw [r10-40], r3',
  'stxdw [r10-48], r6',
  'stxdw [r10-56], r9',
  'stxdw [r10-64], r6',
  'stdw [r10-72], 0',
];

let labels = 0;
/** Gives the labels of a piece names that no other piece has. */
function distinct(lines: Piece): string[] {
  const suffix = `_${labels++}`;
  return lines.map(line => line.replace(/@(\w+)/g, `L$1${suffix}`));
}

const shared = loop(inner, fc.constant('shared'));

/** Programs with a context of at least 64 bytes and the helpers of verifier-harness.ts. */
export const programs = programsOf(piece, 10);
/** The same, with loops of which shared memory says in each round whether they go on. */
export const unboundedPrograms = programsOf(
  fc.oneof({ weight: 2, arbitrary: flat }, { weight: 1, arbitrary: piece }, { weight: 1, arbitrary: shared }),
  5,
);

function programsOf(
  part: fc.Arbitrary<Piece>,
  most: number,
): fc.Arbitrary<{ readonly text: string; readonly program: Program }> {
  return fc.array(part, { minLength: 1, maxLength: most }).map(pieces => {
    const lines = [...PROLOGUE, ...pieces.flatMap(distinct), 'mov r0, r2', 'exit'];
    const text = lines.join('\n');
    return { text, program: decodeProgram(assemble(text)) };
  });
}
