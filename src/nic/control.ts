/**
 * What a control protocol may ask of a NIC: the seam between `src/control/` (messages of one protocol) and `src/nic/`
 * (queues, features, workers). A protocol translates its messages into these calls and knows nothing behind them.
 */
import type { OwnedFd } from '../linux/fd.js';

/** One region of the guest's memory, as a hypervisor shares it. Addresses and sizes in bytes; nothing is checked yet. */
export interface MemoryRegionSpec {
  readonly guestPhysicalAddress: bigint;
  readonly size: bigint;
  /** Where the hypervisor has it mapped; protocols that address memory by this address need it, others ignore it. */
  readonly hypervisorVirtualAddress: bigint;
  /** Where the region starts inside the file behind `fd`. */
  readonly mmapOffset: bigint;
  readonly fd: OwnedFd;
  /** False: nothing may be written there. Default true. */
  readonly writable?: boolean;
}

/** Queues and buffers (descriptors per queue) that the hypervisor wants. */
export interface NicParameters {
  readonly numRxQueues: number;
  readonly numTxQueues: number;
  readonly numRxBufs: number;
  readonly numTxBufs: number;
}

/** Seen from the guest: `rx` is what it receives, `tx` what it transmits. */
export type Direction = 'rx' | 'tx';

/**
 * What a control protocol may ask of a NIC. Every method either takes effect as a whole or throws NicError and changes
 * nothing. Ownership of fds passes to the NIC, also on failure.
 */
export interface NicControl {
  /** The feature bits that the NIC offers. */
  features(): bigint;
  setFeatures(accepted: bigint): void;
  /** Returns the bytes of guest memory that one receive and one transmit queue's context take. */
  setParameters(parameters: NicParameters): { rxContextSize: number; txContextSize: number };
  /** A memfd with the ELF object of the guest's programs, positioned at its start; it stays owned by the NIC, until it is asked for again. */
  programs(): OwnedFd;
  setMemoryTable(regions: readonly MemoryRegionSpec[]): Promise<void>;
  /** Receive queues come first, then transmit queues. Address 0n takes the context away. */
  setQueueContext(queue: number, guestPhysicalAddress: bigint): Promise<void>;
  setQueueKick(queue: number, fd: OwnedFd | null): Promise<void>;
  setQueueIrq(queue: number, fd: OwnedFd | null): Promise<void>;
  /** The eventfd by which the NIC tells the hypervisor that an upgrade is pending. */
  setUpgrade(fd: OwnedFd): void;
  /** `complete`: the queues that must have context, kick and interrupt: all of the NIC (default), or only the direction's own. */
  enable(direction: Direction, complete?: 'all' | 'own'): Promise<void>;
  disable(direction: Direction): Promise<void>;
  /** The peer is gone: stop, drain nothing, drop contexts, regions and fds. */
  disconnect(): Promise<void>;
}

/** A request that the NIC refuses; `code` is stable, the message says what and why. */
export class NicError extends Error {
  override readonly name = 'NicError';
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
