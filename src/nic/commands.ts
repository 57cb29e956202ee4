/** What the main thread tells a NIC's worker: plain data, by message. Queue structures are window addresses; descriptors belong to the main thread. */
import type { PortDescriptor } from '../port/port.js';
import type { Direction } from './control.js';

/** The "device type" of virtqueues, which no bpfhv device has: their format stands in their structures. */
export const VIRTIO = 'virtio';

/** What a worker starts with. */
export interface WorkerData {
  readonly device: string;
  /** Of the port: one at least. */
  readonly lanes: readonly PortDescriptor[];
  readonly spin: boolean;
  readonly sleepMicroseconds: number;
  /** Window addresses of the two batches, one for each direction. */
  readonly txBatch: number;
  readonly rxBatch: number;
  /** A capture file that every frame is written to, -1 = none. */
  readonly capture: number;
}

/** One queue of a direction that starts. */
export interface QueueStart {
  readonly queue: number;
  /** -1: none, the queue is looked at again and again. */
  readonly kick: number;
  readonly irq: number;
  /** Transmit: what the guest sends goes nowhere. */
  readonly discard: boolean;
}

/** With the place of its pair among the worker's: pairs and lanes of the same number belong together. */
export interface SlotStart extends QueueStart {
  readonly slot: number;
}

/** Where a queue's context is after the memory table has changed. */
export interface QueueMove {
  readonly queue: number;
  readonly context: number;
}

export type WorkerCommand =
  /** `device` is the type of ring that the queues have; these run from now on and no others, those that did go on where they are. */
  | {
      readonly op: 'start';
      readonly device: string;
      readonly direction: Direction;
      readonly queues: readonly SlotStart[];
      /** Not all of the guest's memory is in the window. */
      readonly partial: boolean;
    }
  /** A frame of our own goes out: bytes at a window address. */
  | { readonly op: 'send'; readonly address: number; readonly length: number }
  /** With `drain`, transmit what the guest has published so far. */
  | { readonly op: 'stop'; readonly direction: Direction; readonly drain: boolean }
  /** Frames go to, and come from, these lanes of another port; queues are to be started again. */
  | { readonly op: 'port'; readonly lanes: readonly PortDescriptor[] }
  | { readonly op: 'spin'; readonly spin: boolean }
  | { readonly op: 'irq'; readonly queue: number; readonly irq: number }
  | {
      readonly op: 'remap';
      readonly regions: number;
      readonly partial: boolean;
      readonly queues: readonly QueueMove[];
    };

/** What a worker tells without being asked. */
export type WorkerEvent =
  | { readonly note: string }
  /** A queue stands still until it is started again: these buffers are to be in the window; null: its structure says what it lacks. */
  | { readonly miss: number; readonly lacks: Lacks | null };

/** A buffer: its address in this process, and its bytes. */
export type Lack = readonly [flat: bigint, length: number];

/** Buffers that are not in the window. */
export interface Lacks {
  /** Of the first frame that lacks any: all of its buffers, since all have to be there at once. */
  readonly first: readonly Lack[];
  /** Of frames behind it: as many of them as there is room for would be of use. */
  readonly others: readonly Lack[];
}
