/**
 * source and sink: ports without a kernel, for measuring and for tests. Both read and write frames in the datapath module.
 *
 *   source[:len=60]   hands out numbered frames as fast as they are taken, and swallows what it is given, with a count of its own
 *   sink              swallows frames, reading every byte and checking their numbers; hands out none
 *
 * Each lane counts for itself.
 */
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';
import type { Batch } from '../ring/batch.js';
import { add, readCounters } from './counters.js';
import {
  type Port,
  type PortDescriptor,
  PortError,
  type PortHandle,
  type PortHost,
  type PortKind,
  type PortWorker,
} from './port.js';

/** Smallest and largest frame of a source: room for its number, and what a buffer of 2 KiB holds. */
const MIN_LENGTH = L.SOURCE_MIN_LENGTH;
const MAX_LENGTH = 1518;

/** Behind a source's state: what it swallows is numbered by somebody else. */
const SWALLOWED = L.PORT_SIZE;
/** A multiple of a cache line: lanes of several workers share none. */
const LANE_SIZE = SWALLOWED + L.FLOW_SIZE;

export interface FlowCounters {
  /** The number that comes next. */
  readonly sequence: number;
  /** Frames that did not carry the number that was expected. */
  readonly outOfOrder: number;
}

/** What a flow counted, read from a lane's state. */
export function readFlow(window: Window, state: number): FlowCounters {
  const at = (field: number) => Number(window.longs[(state + field) / 8]!);
  return { sequence: at(L.FLOW_SEQUENCE), outOfOrder: at(L.FLOW_OUT_OF_ORDER) };
}

/** Window address of the u64 that counts what a lane of a source or sink was given. */
export function swallowedAt({ kind, state }: PortDescriptor): number {
  return state + (kind === source.kind ? SWALLOWED : 0) + L.FLOW_SEQUENCE;
}

/** What source or sink counted, summed over the port's lanes: `sequence` is then how many frames. Null: the port is another. */
export function portFlow(window: Window, port: Pick<PortHandle, 'lanes'>): FlowCounters | null {
  return sumOf(window, port, 0);
}

/** What source or sink was given, likewise: of a sink that is its one flow. */
export function portSwallowed(window: Window, port: Pick<PortHandle, 'lanes'>): FlowCounters | null {
  return sumOf(window, port, port.lanes[0]!.kind === source.kind ? SWALLOWED : 0);
}

function sumOf(window: Window, { lanes }: Pick<PortHandle, 'lanes'>, offset: number): FlowCounters | null {
  if (lanes[0]!.kind !== source.kind && lanes[0]!.kind !== sink.kind) return null;
  const flows = lanes.map(({ state }) => readFlow(window, state + offset));
  const sum = (counter: keyof FlowCounters) => flows.reduce((n, flow) => n + flow[counter], 0);
  return { sequence: sum('sequence'), outOfOrder: sum('outOfOrder') };
}

function open(kind: string, length: number, { window, arena }: PortHost, count: number): PortHandle {
  const state = arena.allocate(count * LANE_SIZE);
  const lanes = Array.from({ length: count }, (_, i) => ({
    ...{ kind, name: kind, state: state + i * LANE_SIZE, fds: [], options: { length } },
  }));
  return {
    lanes,
    counters: () => readCounters(window, lanes),
    close: () => arena.free(state),
  };
}

function attach({ state, options }: PortDescriptor, { window, calls }: PortWorker): Port {
  const length = options.length as number;
  const swallowed = length === 0 ? state : state + SWALLOWED;
  return {
    fd: -1,
    exhausted: length === 0,
    put(batch: Batch): number {
      const n = calls.sink_drain(swallowed, batch.address);
      add(window, state, L.PORT_SENT, n);
      return n;
    },
    get(batch: Batch): number {
      const n = length === 0 ? 0 : calls.source_fill(state, batch.address, batch.count, length);
      add(window, state, L.PORT_RECEIVED, n);
      return n;
    },
  };
}

export const source: PortKind = {
  kind: 'source',
  usage: 'source[:len=60]',
  options: ['len'],
  open(options, host, lanes) {
    const text = options.get('len') ?? '60';
    const length = Number(text);
    if (!/^\d+$/.test(text) || length < MIN_LENGTH || length > MAX_LENGTH) {
      throw new PortError('PORT_SPEC', `source: len must be ${MIN_LENGTH} to ${MAX_LENGTH}, not "${text}"`);
    }
    return open('source', length, host, lanes);
  },
  attach,
};

export const sink: PortKind = {
  kind: 'sink',
  usage: 'sink',
  options: [],
  open: (_options, host, lanes) => open('sink', 0, host, lanes),
  attach,
};
