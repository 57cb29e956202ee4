/**
 * What a ring format is to the rest: the device side of one queue, behind nine calls. Rings know no ports, ports know no rings.
 *
 * `queue` and `batch` are window addresses of the structures in datapath/layout.ts. All calls do bounded work and none throws, whatever the
 * guest has written.
 */
import type { Window } from '../memory/window.js';
import type { Datapath } from './datapath.js';

export interface Ring {
  /** Bytes of a queue context for `num` descriptors. */
  contextSize(num: number): number;
  /** Sets up a new context. */
  initialise(queue: number, receive: boolean): void;
  /** Takes the device's private state from the context again, checked. False: the guest left nonsense, the queue stands still. */
  resume(queue: number): boolean;
  /** Descriptors that wait for the device. */
  pending(queue: number): number;
  /** Fills the batch with packets to transmit, from `budget` descriptors at most. Returns the frames. */
  pop(queue: number, batch: number, budget: number): number;
  /** The batch's first `n` frames have left. True: the guest wants an interrupt. */
  complete(queue: number, batch: number, n: number): boolean;
  /** Fills the batch with buffers to receive into, from `budget` descriptors at most. Returns the frames. */
  room(queue: number, batch: number, budget: number): number;
  /** The batch's first `n` frames have been filled. True: the guest wants an interrupt. */
  push(queue: number, batch: number, n: number): boolean;
  /** Switches the guest's kicks on or off. True: descriptors are waiting all the same. */
  kicks(queue: number, on: boolean): boolean;
}

/** A kind of ring that a NIC can have: a name, what it offers, the programs that the guest's driver runs. */
export interface DeviceType {
  /** How it is found: a word, or the path of the module that it comes from. */
  readonly name: string;
  /** What such a module calls it. */
  readonly title?: string;
  /** bpfhv feature bits. */
  readonly features: bigint;
  /** Bytes of a frame at most, unless features say that it may be larger. */
  readonly maxFrame: number;
  /** Descriptors of a ring at most, where the format can't hold as many as a NIC may have. */
  readonly maxBufs?: number;
  /** Its descriptors carry a received frame's time and mark: every batch to be pushed has them. */
  readonly metadata?: boolean;
  /** The ELF object with the eBPF programs. */
  readonly programs: URL;
  ring(datapath: Datapath): Ring;
  /** A queue's ring as text, for people: lines, the last one without an end. `queue` as for Ring; it has a context. */
  dump?(window: Window, queue: number, receive: boolean): string;
}
