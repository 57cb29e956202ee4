/** What `serve` and `guest` count, in the form in which they tell it. */
import type { Window } from '../memory/window.js';
import type { ChildCounters } from '../observe/child-report.js';
import { portFlow } from '../port/flow.js';
import type { PortHandle } from '../port/port.js';

export function readCounters(
  window: Window,
  port: PortHandle,
  queues: ChildCounters['queues'],
): ChildCounters {
  return { queues, flow: portFlow(window, port), port: port.counters() };
}
