/** A port's counters: f64 fields in the window, written by the worker that moves frames, read by anyone. */
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';
import type { PortCounters } from './port.js';

/** Adds `n` to the counter at `field` of the port's state. */
export function add(window: Window, state: number, field: number, n: number): void {
  window.doubles[(state + field) / 8]! += n;
}

export function readCounters(window: Window, state: number): PortCounters {
  const at = (field: number) => window.doubles[(state + field) / 8]!;
  return {
    received: at(L.PORT_RECEIVED),
    sent: at(L.PORT_SENT),
    dropped: at(L.PORT_DROPPED),
    tooLong: at(L.PORT_TOO_LONG),
    errors: at(L.PORT_ERRORS),
  };
}
