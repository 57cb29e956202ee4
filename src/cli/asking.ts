/** What the commands that ask a running process share: the argument that names it, and its counters. */
import type { ChildCounters } from '../observe/child-report.js';
import { ask } from '../observe/control/client.js';
import { ControlError } from '../observe/control/messages.js';
import { total } from './stats.js';

export const NAME_ARGUMENT = [
  '<name>',
  'of a serve or guest, as `polynic ls` shows it; or the path of its control socket',
] as const;

/** Counters of the process, and when they were read, in seconds. */
export interface Sample {
  readonly counters: ChildCounters;
  readonly at: number;
}

/** Rejects as `ask`. */
export async function sample(name: string): Promise<Sample> {
  const counters = (await ask(name, { op: 'stats' })) as ChildCounters;
  if (!Array.isArray(counters.queues) || typeof counters.port !== 'object' || counters.port === null) {
    throw new ControlError('CONTROL_ANSWER', `what ${name} answers are no counters`);
  }
  return { counters, at: performance.now() / 1000 };
}

/** Packets of both directions. */
export function packets({ queues }: ChildCounters): number {
  return total(queues, 'rx').packets + total(queues, 'tx').packets;
}
