/** What the driver tells its worker: plain data, by message. Structures are window addresses. */
import type { PortDescriptor } from '../../port/port.js';

export interface VirtioLoopData {
  /** Of the guest operating system's network device: one at least. */
  readonly lanes: readonly PortDescriptor[];
  readonly spin: boolean;
  readonly rxBatch: number;
  readonly txBatch: number;
}

/** A ring that the driver runs. */
export interface VirtioQueue {
  /** The device's number. */
  readonly index: number;
  /** Window address of the VDRV_* structure. */
  readonly address: number;
  /** How many buffers it has, and of how many a frame may be made. */
  readonly buffers: number;
  readonly frameBuffers: number;
  readonly kick: number;
  readonly call: number;
}

export type VirtioCommand =
  /** No device runs. Takes these rings in use, empty but for the frames that the last device did not send, and receive buffers. */
  | { readonly op: 'attach'; readonly rx: readonly VirtioQueue[]; readonly tx: readonly VirtioQueue[] }
  /** The device runs. */
  | { readonly op: 'up' }
  /** Transmits no more; goes on receiving. */
  | { readonly op: 'stopTransmit' }
  /** The device has stopped: takes what is completed. What it has not sent waits for the next one, or is given up. */
  | { readonly op: 'down'; readonly keep: boolean };

/** What the worker answers: frames that go out again (`attach`), that wait (`down`), or that were given up. */
export interface VirtioReply {
  readonly unsent: number;
}

/** What the worker says unasked: a ring broke. */
export interface VirtioEvent {
  readonly queue: number;
  readonly reason: string;
}
