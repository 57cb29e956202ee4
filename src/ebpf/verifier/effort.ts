/** What verifying costs, counted so that no program takes long: see the limits. */
import type { Insn } from '../program.js';
import type { State } from './state.js';
import { Refusal } from './step.js';

/** Units of work, each about that of one instruction on a state with little on its stack: less than a second in all. */
const MAX_WORK = 1 << 16;
/** Instructions that a run may execute: more than any guest lets it run for. */
const MAX_LENGTH = 1 << 20;

/** A loop that is being followed. */
export interface FollowedLoop {
  /** Where it starts. */
  readonly insn: Insn;
  rounds: number;
  /** One of the states in which the latest round started. */
  state: State | null;
}

export class Effort {
  /** Instructions looked at, each once per state. */
  visited = 0;
  /** Instructions that a run executes at most, up to here. */
  length = 0;
  /** Outermost first. */
  readonly loops: FollowedLoop[] = [];
  readonly #refusesLong: boolean;
  #work = 0;

  /** @param refusesLong programs whose runs may be longer than the limit; else that is only noted */
  constructor(refusesLong: boolean) {
    this.#refusesLong = refusesLong;
  }

  get tooLong(): boolean {
    return this.length > MAX_LENGTH;
  }

  /** What each instruction of a block costs on a state. */
  weight(state: State): number {
    return 1 + cells(state) / 64;
  }

  /** @throws Refusal when it is too much */
  instruction(insn: Insn, state: State, weight: number): void {
    this.visited++;
    const length = ++this.length;
    const work = (this.#work += weight);
    if (length > MAX_LENGTH && this.#refusesLong) {
      const why = `the program is not seen to end: it may execute more than ${MAX_LENGTH} instructions`;
      throw new Refusal(insn, why, state);
    }
    if (work > MAX_WORK) throw this.#tooMuch(insn, state);
  }

  /** Blames the loop with the most rounds. */
  #tooMuch(insn: Insn, state: State): Refusal {
    const why = `the program is not seen to end: ${this.visited} instructions were looked at`;
    const loop = this.loops.reduce<FollowedLoop | null>(
      (a, b) => (a === null || b.rounds > a.rounds ? b : a),
      null,
    );
    if (loop === null || loop.rounds === 0) return new Refusal(insn, `${why}, on too many paths`, state);
    return new Refusal(
      loop.insn,
      `${why}, and the loop that starts here went on for ${loop.rounds} rounds`,
      loop.state,
    );
  }

  /** A state compared with those that wait at the same place, and joined with one of them when they are many. */
  comparison(state: State, others: number): void {
    if (others > 0) this.#work += others * (1 / 2 + cells(state) / 64);
  }

  /** A round of a loop of so many blocks, most of which may have nothing to do. */
  round(blocks: number): void {
    this.#work += blocks / 16;
  }
}

function cells({ frames }: State): number {
  let sum = 0;
  for (const frame of frames) sum += frame.size;
  return sum;
}
