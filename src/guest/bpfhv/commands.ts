/** What the driver tells its worker: plain data and compiled programs, by message. Structures are window addresses. */
import type { KeyObject } from 'node:crypto';
import type { PortDescriptor } from '../../port/port.js';
import type { ProgramSection } from './registers.js';

export interface DriverLoopData {
  /** Of the guest operating system's network device: one at least. */
  readonly lanes: readonly PortDescriptor[];
  readonly spin: boolean;
  readonly rxBatch: number;
  readonly txBatch: number;
  /** With what packets are sealed; null: they are not. */
  readonly key: KeyObject | null;
}

/** A queue that the driver runs. `index` is the device's. */
export interface DriverQueue {
  readonly index: number;
  /** Window address of the DRIVER_* structure. */
  readonly address: number;
  /** How many buffers it has. */
  readonly buffers: number;
  readonly doorbell: number;
  readonly interrupt: number;
}

/** The programs of a device, compiled for its context sizes. */
export type CompiledPrograms = Readonly<Partial<Record<ProgramSection, WebAssembly.Module>>>;

export type DriverCommand =
  /** Gets these programs ready to run; those in use go on. */
  | { readonly op: 'prepare'; readonly programs: CompiledPrograms }
  /** Takes the prepared programs and these queues in use; nothing is posted yet. */
  | { readonly op: 'attach'; readonly rx: readonly DriverQueue[]; readonly tx: readonly DriverQueue[] }
  /** The device has stopped: `down` for the queues in use, `attach`, `up`. */
  | { readonly op: 'switch'; readonly rx: readonly DriverQueue[]; readonly tx: readonly DriverQueue[] }
  /** The device runs with what was switched to, since that time: milliseconds since 1970. */
  | { readonly op: 'go'; readonly at: number }
  /** The device runs: lends it receive buffers, and transmits. */
  | { readonly op: 'up' }
  /** Transmits no more; goes on receiving. */
  | { readonly op: 'stopTransmit' }
  /** The device has stopped: takes what is completed, reclaims the rest. */
  | { readonly op: 'down' };

/** What the worker answers to `down` and `switch`: buffers that programs gave back, and those that they should have. */
export interface DriverReply {
  readonly reclaimed: number;
  readonly seized: number;
}

/** How long one change of contract kept packets waiting, in microseconds. */
export interface Blackout {
  /** From the driver's stop to its go. */
  readonly stopped: number;
  /** From the last packet out before to the first one out after; null: none came in time. */
  readonly tx: number | null;
  /** The same of packets in. */
  readonly rx: number | null;
}

/** What the worker says unasked: a queue broke (by its number and structure), a program has printed (queue -1), or packets flow again after a switch. */
export type DriverEvent =
  | { readonly queue: number; readonly address?: number; readonly reason: string }
  | { readonly blackout: Blackout };
