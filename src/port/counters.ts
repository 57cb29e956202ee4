/** A port's counters: f64 fields in the window for each lane, written by the worker that moves its frames, read by anyone. */
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';
import type { PortCounters, PortDescriptor } from './port.js';

/** Adds `n` to the counter at `field` of the port's state. */
export function add(window: Window, state: number, field: number, n: number): void {
  window.doubles[(state + field) / 8]! += n;
}

/** Of these lanes together. */
export function readCounters(window: Window, lanes: readonly PortDescriptor[]): PortCounters {
  const sum = (field: number) => lanes.reduce((n, { state }) => n + window.doubles[(state + field) / 8]!, 0);
  return {
    received: sum(L.PORT_RECEIVED),
    sent: sum(L.PORT_SENT),
    dropped: sum(L.PORT_DROPPED),
    tooLong: sum(L.PORT_TOO_LONG),
    errors: sum(L.PORT_ERRORS),
    softened: sum(L.PORT_SOFTENED),
  };
}
