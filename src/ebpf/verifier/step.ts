/** One instruction about to change a state: what every transfer function gets, and the reads that they share. */
import { SRC } from '../isa.js';
import type { Insn } from '../program.js';
import { constant } from './domain/number.js';
import { isPointer, type Scalar, scalar, type Value } from './domain/value.js';
import type { ContextPromise, VerifyOptions } from './options.js';
import { describeValue } from './report.js';
import type { State } from './state.js';

/** What is gathered over all states. */
export interface Findings {
  readonly options: VerifyOptions;
  /** Slots of accesses and calls that were reached. */
  accesses: Set<number>;
  /** Those of them that were not proved in every state: slots of accesses, and what `guardArgument` makes of helpers' arguments. */
  guards: Set<number>;
  /** Slots of loads that relied on a promise. Of loads that were tried in vain, too: that is true of them as well. */
  readonly promised: Map<number, ContextPromise>;
  /** Slots of loads that did not. */
  readonly plain: Set<number>;
  /** Some loop has no bound that was seen. */
  unbounded: boolean;
  /** While a loop is tried out: the rounds in which a value that moves along would meet a constant it is compared with. */
  meetings: Set<bigint> | null;
  /** A number that no link has as its name. */
  readonly fresh: () => number;
}

export interface Step {
  readonly insn: Insn;
  readonly state: State;
  readonly findings: Findings;
}

/** Slots are smaller. */
const ARGUMENT = 1 << 16;

/** Notes that an argument of the helper called there, the `index`-th, has to be checked when it runs. */
export function guardArgument({ guards }: Findings, pc: number, index: number): void {
  guards.add(pc + ARGUMENT * (1 + index));
}

/** Slots of all that has to be checked, and by slot of a call which arguments: bit n for the n-th. */
export function listGuards({ guards }: Findings): {
  readonly slots: readonly number[];
  readonly guardedArguments: ReadonlyMap<number, number>;
} {
  const slots = new Set<number>();
  const guardedArguments = new Map<number, number>();
  for (const guard of guards) {
    const slot = guard % ARGUMENT;
    slots.add(slot);
    if (guard < ARGUMENT) continue;
    const bit = 1 << (Math.floor(guard / ARGUMENT) - 1);
    guardedArguments.set(slot, (guardedArguments.get(slot) ?? 0) | bit);
  }
  return { slots: [...slots].sort((a, b) => a - b), guardedArguments };
}

/** Ends the analysis: the program is refused. */
export class Refusal extends Error {
  readonly insn: Insn;
  readonly why: string;
  readonly state: State | null;

  constructor(insn: Insn, why: string, state: State | null) {
    super(why);
    this.insn = insn;
    this.why = why;
    this.state = state;
  }
}

export function refuse({ insn, state }: Step, why: string): never {
  throw new Refusal(insn, why, state);
}

/** A register that is set. */
export function readValue(step: Step, register: number): Exclude<Value, { kind: 'unset' }> {
  const value = step.state.registers[register]!;
  if (value.kind === 'unset') refuse(step, `it reads r${register}, which ${value.why}`);
  return value;
}

/** A register that holds a number. @param doing completes "it … r3, which is a pointer" */
export function readNumber(step: Step, register: number, doing: string): Scalar {
  const value = readValue(step, register);
  if (isPointer(value))
    refuse(step, `it ${doing} r${register}, which is a pointer (${describeValue(value)})`);
  return value;
}

/** The second operand of ALU instructions and jumps: a register, or the constant sign-extended to 64 bits. */
export function operandValue(step: Step): Exclude<Value, { kind: 'unset' }> {
  const { opcode, src, imm } = step.insn;
  if ((opcode & SRC.X) !== 0) return readValue(step, src);
  const index = imm & (immediates.length - 1);
  const before = immediates[index];
  if (before !== undefined && before.imm === imm) return before.value;
  const value = scalar(constant(BigInt(imm)));
  immediates[index] = { imm, value };
  return value;
}

/** Those that programs use are few. */
const immediates: ({ readonly imm: number; readonly value: Scalar } | undefined)[] = new Array(256).fill(
  undefined,
);
