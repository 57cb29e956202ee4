/**
 * A contract: what a guest and its NIC agree on. A device type, the features offered and accepted, the programs that the guest runs, and the
 * queues made for it. A NIC keeps one, and for a while two: the present one and the one that an upgrade has announced.
 */
import { readFileSync } from 'node:fs';
import { type OwnedFd, reopenFd } from '../linux/fd.js';
import { memfdOf } from '../linux/memfd.js';
import type { Arena } from '../memory/arena.js';
import type { Window } from '../memory/window.js';
import type { Datapath } from '../ring/datapath.js';
import { frameLimits } from '../ring/features.js';
import type { DeviceType, Ring } from '../ring/ring.js';
import { NicError, type NicParameters } from './control.js';
import { checkParameters, MAX_BUFS, type NicLimits } from './limits.js';
import { Queue } from './queue.js';

export interface ContextSizes {
  readonly rxContextSize: number;
  readonly txContextSize: number;
}

/** What contracts of one NIC are made with. */
export interface ContractHost {
  readonly window: Window;
  readonly arena: Arena;
  readonly datapath: Datapath;
  readonly limits: NicLimits;
}

export class Contract {
  readonly device: DeviceType;
  readonly ring: Ring;
  /** Feature bits that may be offered; undefined: all that the device type has. */
  readonly mask: bigint | undefined;
  /** Feature bits offered. */
  readonly features: bigint;
  #agreed = 0n;
  #parameters: NicParameters | null = null;
  #queues: readonly Queue[] = [];
  readonly #host: ContractHost;
  readonly #programs: OwnedFd;
  /** What was given for `programs` last. */
  #handedOut: OwnedFd | null = null;

  /** Throws when the programs can't be read. */
  constructor(host: ContractHost, device: DeviceType, mask?: bigint) {
    this.#host = host;
    this.device = device;
    this.mask = mask;
    this.features = mask === undefined ? device.features : device.features & mask;
    this.ring = device.ring(host.datapath);
    this.#programs = memfdOf(`${device.name} programs`, readFileSync(device.programs));
  }

  /** Receive queues first. */
  get queues(): readonly Queue[] {
    return this.#queues;
  }

  get parameters(): NicParameters | null {
    return this.#parameters;
  }

  /** Feature bits accepted. */
  get agreed(): bigint {
    return this.#agreed;
  }

  /** Some queue has a context: the guest has begun to use it. */
  get begun(): boolean {
    return this.#queues.some(queue => queue.contextGpa !== null);
  }

  /** What frames may be from now on. Throws NicError NIC_FEATURES for what was not offered. */
  agree(accepted: bigint): void {
    if ((accepted & ~this.features) !== 0n) {
      throw new NicError('NIC_FEATURES', `features 0x${accepted.toString(16)} are not all offered`);
    }
    this.#agreed = accepted;
    for (const queue of this.#queues) this.#setFrames(queue);
  }

  /** Makes the queues. Throws NicError NIC_PARAMETERS, MemoryError, and keeps those that it had. */
  prepare(parameters: NicParameters): ContextSizes {
    const { numRxQueues, numTxQueues, numRxBufs, numTxBufs } = parameters;
    const { queuePairs, bufs } = this.#host.limits;
    checkParameters(parameters, { queuePairs, bufs: Math.min(bufs, this.device.maxBufs ?? MAX_BUFS) });
    const sizes = {
      rxContextSize: this.ring.contextSize(numRxBufs),
      txContextSize: this.ring.contextSize(numTxBufs),
    };
    const queues: Queue[] = [];
    try {
      for (let index = 0; index < numRxQueues + numTxQueues; index++) {
        const receives = index < numRxQueues;
        const shape = {
          index,
          direction: receives ? 'rx' : 'tx',
          num: receives ? numRxBufs : numTxBufs,
          contextSize: receives ? sizes.rxContextSize : sizes.txContextSize,
        } as const;
        const queue = new Queue(this.#host, shape);
        queues.push(queue);
        this.#setFrames(queue);
      }
    } catch (error) {
      for (const queue of queues) queue.close();
      throw error;
    }
    this.dropQueues();
    this.#queues = queues;
    this.#parameters = parameters;
    return sizes;
  }

  dropQueues(): void {
    for (const queue of this.#queues) queue.close();
    this.#queues = [];
    this.#parameters = null;
  }

  /** The guest is gone, with all that it has said and got. */
  left(): void {
    this.dropQueues();
    this.agree(0n);
    this.#handedOut?.close();
    this.#handedOut = null;
  }

  /** The guest has to say again where it has its contexts. */
  dropContexts(): void {
    for (const queue of this.#queues) queue.dropContext();
  }

  /** Counters go on where those of `former` have stopped. */
  inherit(former: Contract): void {
    for (const queue of this.#queues) {
      const before = former.queues[queue.index];
      if (before?.direction === queue.direction) queue.inherit(before);
    }
  }

  /** A memfd with the programs' ELF object, positioned at its start; ours, until it is asked for again or the guest leaves. */
  programs(): OwnedFd {
    // Whoever gets it may read it on from where the one before has stopped: so each gets a position of its own.
    this.#handedOut?.close();
    this.#handedOut = reopenFd(this.#programs.fd, this.#programs.name);
    return this.#handedOut;
  }

  close(): void {
    this.dropQueues();
    this.#programs.close();
    this.#handedOut?.close();
  }

  #setFrames(queue: Queue): void {
    const { maxFrame, offloads } = frameLimits(this.device, this.#agreed, queue.direction);
    queue.setFrames(maxFrame, offloads);
  }
}
