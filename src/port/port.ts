/**
 * A port: where frames go when they leave a queue, and where they come from. Ports know no rings.
 *
 * A port has lanes: streams of frames that know nothing of each other, each with a descriptor and a state of its own, so that several queue
 * pairs, and several workers, can use one port without sharing anything. Most kinds have one.
 *
 * A port has two halves. The main thread opens it and owns its descriptors; what a worker needs to know of a lane travels to it as plain
 * data, and the worker makes the moving half of it.
 *
 * ```
 *   spec ──parse──► options ──open──► PortHandle {lanes, close}              main thread
 *                                           │ a lane's descriptor, by message
 *                                     attach▼
 *                                        Port {get, put}                      the one worker that uses the lane
 * ```
 */
import type { Arena } from '../memory/arena.js';
import type { Window } from '../memory/window.js';
import type { Batch } from '../ring/batch.js';
import type { DatapathExports } from '../ring/datapath.js';

/** The half that moves frames, of one lane. Neither call blocks, throws or allocates. */
export interface Port {
  /** Polled for reading before `get`, for writing after a `put` that took too little. -1: there is nothing to wait for. */
  readonly fd: number;
  /** `get` will never return a frame again: a sink, a file at its end, a device that is gone. */
  readonly exhausted: boolean;
  /** Takes frames from the front of the batch, sent or dropped; returns how many. Fewer than there are: it is full. */
  put(batch: Batch): number;
  /** Fills frames from the front of the batch, each with its length; returns how many. Fewer than there are: there is no more. */
  get(batch: Batch): number;
}

/** Plain data from which a worker attaches a lane. `state` is the window address of what both halves share, PORT_SIZE bytes at least. */
export interface PortDescriptor {
  readonly kind: string;
  readonly name: string;
  readonly state: number;
  readonly fds: readonly number[];
  readonly options: Readonly<Record<string, string | number>>;
}

/** Lanes of a port at most: as many as a NIC can have queue pairs. */
export const MAX_LANES = 32;

export interface PortHandle {
  /** One at least, MAX_LANES at most. */
  readonly lanes: readonly PortDescriptor[];
  /** What became of frames, summed over the lanes. */
  counters(): PortCounters;
  /** Only the first `n` lanes are read from now on, at least one: nothing more is to come in on the others. Without it, or before it is called: all. */
  useLanes?(n: number): void;
  /** What frames from this port may ask of us from now on (OFFLOAD_*); without it, or before it is called, nothing. */
  setOffloads?(offloads: number): void;
  /** Whether frames can be delivered now; a NIC's link follows it. */
  setCarrier?(up: boolean): void;
  close(): void;
}

export interface PortCounters {
  readonly received: number;
  readonly sent: number;
  readonly dropped: number;
  readonly tooLong: number;
  readonly errors: number;
  /** Frames that were finished or cut in software (soften.ts): they asked for more than who got them had agreed to. */
  readonly softened: number;
}

/** What opening or attaching needs of the process. */
export interface PortHost {
  readonly window: Window;
  readonly arena: Arena;
}
export interface PortWorker {
  readonly window: Window;
  readonly calls: DatapathExports;
}

/** A bad specification, a file that can't be used, an interface that was deleted. `code`: PORT_SPEC (the user's words), PORT_OPEN, PORT_GONE. */
export class PortError extends Error {
  override readonly name = 'PortError';
  readonly code: 'PORT_SPEC' | 'PORT_OPEN' | 'PORT_GONE';

  constructor(code: PortError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

/** What a kind of port is made of. */
export interface PortKind {
  readonly kind: string;
  /** For `--help`: how it is written. */
  readonly usage: string;
  /** Names of the options it takes; `_` is the word right behind the kind. */
  readonly options: readonly string[];
  /** Others, which are written without a value. */
  readonly flags?: readonly string[];
  /** `lanes`: how many would be of use; a kind that has fewer gives fewer. */
  open(options: ReadonlyMap<string, string>, host: PortHost, lanes: number): PortHandle;
  attach(descriptor: PortDescriptor, worker: PortWorker): Port;
}
