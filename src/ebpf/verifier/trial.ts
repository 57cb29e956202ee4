/**
 * All further rounds of a loop at once. After three rounds of a loop that counts, a state is guessed that stands for every
 * round to come, with k for the number of the round (rounds.ts):
 *
 * ```
 *   try it for any k          → what is left at the end of the round bounds k, or nothing does: back to round by round
 *   try it for k up to that   → leads to k + 1 of the same guess: then that was all rounds; else back
 * ```
 * What a try finds, its states behind the loop included, counts only when the guess holds. It holds by induction: the round to come is the guess
 * for k = 0, and each round of the guess leads to its next one, where k has not passed the bound. So the loop also ends.
 */
import type { Activation, Move, Span, Try } from './activation.js';
import type { Explorer } from './explore.js';
import { forgetLines, type Guess, guess, lastRound, MOST_ROUNDS, nextRound } from './rounds.js';
import { joinStates, type State, stateCovers } from './state.js';
import { Refusal } from './step.js';

/** What a round of guesses led to. */
interface Outcome {
  readonly guesses: readonly Guess[];
  /** Back at the head. */
  readonly back: readonly State[];
  readonly left: readonly Move[];
  readonly guards: Set<number>;
  readonly accesses: Set<number>;
  readonly unbounded: boolean;
  /** Instructions looked at. */
  readonly length: number;
  /** Rounds in which a test for equality would come out the other way. */
  readonly meetings: ReadonlySet<bigint>;
}

const MAX_CANDIDATES = 3;

/**
 * @param starts what the last two rounds and the one to come start with
 * @returns whether all rounds are done; if not, all is as before
 */
export function guessRounds(
  explorer: Explorer,
  activation: Activation,
  span: Span,
  starts: readonly (readonly State[])[],
): boolean {
  const { fresh } = explorer.findings;
  const head = activation.order.blocks[span.head]!;
  const waiting = activation.waiting(head);
  const rounds = paired(starts, fresh);
  const [second, third] = rounds.slice(-2) as [readonly State[], readonly State[]];
  const first = rounds.at(-3) ?? null;
  const ids = third.map(fresh);
  const attempt = (most: bigint): Outcome | null => {
    const guesses = ids.map((id, at) => guess(first?.[at] ?? null, second[at]!, third[at]!, id, most));
    const complete = guesses.every(one => one !== null);
    return complete ? tryRound(explorer, activation, span, guesses) : null;
  };

  const open = attempt(MOST_ROUNDS);
  const bounds = open === null ? [] : open.back.length === 0 ? [MOST_ROUNDS] : candidates(open);
  for (const most of bounds) {
    const outcome = attempt(most);
    if (outcome === null || !leadsOn(outcome)) continue;
    // A guess from two rounds is good enough when it costs nothing.
    if (first === null && outcome.guards.size > explorer.findings.guards.size) break;
    explorer.hasty ||= first === null;
    explorer.findings.guards = outcome.guards;
    explorer.findings.accesses = outcome.accesses;
    explorer.findings.unbounded = outcome.unbounded;
    explorer.effort.length += outcome.length * (outcome.back.length === 0 ? 1 : Number(most) + 1);
    for (const move of outcome.left) {
      forgetLines(move.state, new Set(ids));
      activation.hand(span.head, move);
    }
    return true;
  }
  activation.await(head, waiting);
  return false;
}

/** The states of rounds that belong together: by their order, where no round has more than another; else all as one. */
function paired(starts: readonly (readonly State[])[], fresh: () => number): readonly (readonly State[])[] {
  if (starts.every(states => states.length === starts[0]!.length)) return starts;
  return starts.map(states => [states.reduce((a, b) => joinStates(a, b, fresh))]);
}

/** Runs one round, and leaves everything but the count of what was looked at as it was, with nothing waiting in the loop. */
function tryRound(
  explorer: Explorer,
  activation: Activation,
  span: Span,
  guesses: readonly Guess[],
): Outcome | null {
  const { findings, effort } = explorer;
  const { guards, accesses, unbounded, meetings } = findings;
  const { length } = effort;
  const loops = effort.loops.length;
  const tries = activation.tries.length;
  const attempt: Try = { ...span, left: [] };
  const met = new Set<bigint>();
  findings.guards = new Set(guards);
  findings.accesses = new Set(accesses);
  findings.meetings = met;
  activation.tries.push(attempt);
  const head = activation.order.blocks[span.head]!;
  activation.await(
    head,
    guesses.map(({ state }) => state),
  );
  try {
    explorer.round(activation, span);
    return {
      guesses,
      back: activation.takeNext(head),
      left: attempt.left,
      guards: findings.guards,
      accesses: findings.accesses,
      unbounded: findings.unbounded,
      length: effort.length - length,
      meetings: met,
    };
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  } finally {
    findings.guards = guards;
    findings.accesses = accesses;
    findings.unbounded = unbounded;
    findings.meetings = meetings;
    effort.length = length;
    effort.loops.length = loops;
    activation.tries.length = tries;
    activation.clear(span);
  }
}

/** How many rounds there may be, to be tried one after another: the bound that was seen, and where tests for equality would end it. */
function candidates({ guesses, back, meetings }: Outcome): readonly bigint[] {
  const lasts = guesses.flatMap(one => back.map(state => lastRound(state, one)));
  const bound = lasts.reduce<bigint>((a, b) => (b !== null && b > a ? b : a), -1n) + 1n;
  return [...new Set([bound, ...meetings])]
    .filter(most => most >= 0n && most < MOST_ROUNDS)
    .sort((a, b) => (a < b ? -1 : 1))
    .slice(0, MAX_CANDIDATES);
}

/** Whether a round leads to nothing but the next round of a guess. */
function leadsOn({ guesses, back }: Outcome): boolean {
  const expected = guesses.map(nextRound);
  return back.every(state => expected.some(next => stateCovers(next, state)));
}
