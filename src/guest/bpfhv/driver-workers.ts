/** The driver's workers together: queues, stacks and programs are dealt out to them, and what they answer is summed up. */
import type { KeyObject } from 'node:crypto';
import * as L from '../../../datapath/layout.js';
import { STACK_BYTES } from '../../ebpf/sandbox.js';
import type { Arena } from '../../memory/arena.js';
import type { Window } from '../../memory/window.js';
import type { Direction } from '../../nic/control.js';
import { Crew, deal } from '../../nic/crew.js';
import type { PortHandle } from '../../port/port.js';
import type {
  CompiledPrograms,
  DriverCommand,
  DriverEvent,
  DriverLoopData,
  DriverReply,
} from './commands.js';
import type { DriverQueues } from './contract.js';

export interface DriverWorkersOptions {
  readonly window: Window;
  readonly arena: Arena;
  /** The guest's network device: a TAP, or a source or sink. */
  readonly netdev: PortHandle;
  readonly spin?: boolean;
  /** Workers that the queue pairs are dealt out to; no more than the network device has lanes, and one with a key. Default: one. */
  readonly workers?: number;
  /** 32 bytes: packets are sealed with it, and no contract is taken that does not (docs/sealing.md). */
  readonly key?: KeyObject;
}

export class DriverWorkers {
  /** Where programs have their stacks: each worker runs them by itself. */
  readonly stacks: readonly number[];
  /** Where frames lie while they are plaintext; null: there is no key. */
  readonly staging: Readonly<Record<Direction, number>> | null;
  readonly #crew: Crew<DriverCommand, DriverReply>;

  private constructor(crew: Crew<DriverCommand, DriverReply>, withKey: boolean) {
    this.#crew = crew;
    this.stacks = Array.from({ length: crew.size }, () => crew.allocate(STACK_BYTES));
    const staging = () => crew.allocate(L.STAGING_SIZE);
    this.staging = withKey ? { rx: staging(), tx: staging() } : null;
  }

  /** Throws ThreadError, MemoryError, and leaves nothing behind. */
  static async start(options: DriverWorkersOptions): Promise<DriverWorkers> {
    const { window, arena, netdev, spin = false, workers = 1, key = null } = options;
    // What has come before, so that no sealed packet is taken twice, one worker alone can know.
    const size = key ? 1 : Math.min(workers, netdev.lanes.length);
    const lanes = deal(netdev.lanes, size);
    const crew = await Crew.start<DriverCommand, DriverReply>(new URL('./driver-loop.js', import.meta.url), {
      ...{ window, arena, name: 'guest', size },
      data: (worker, batches): DriverLoopData => ({ lanes: lanes[worker]!, spin, ...batches, key }),
    });
    try {
      return new DriverWorkers(crew, key !== null);
    } catch (error) {
      await crew.stop();
      throw error;
    }
  }

  /** Called with what a worker says unasked. */
  set onEvent(handler: (event: DriverEvent) => void) {
    this.#crew.onEvent = event => handler(event as DriverEvent);
  }

  /** Called once when a worker fails; the others end then. */
  set onFailure(handler: (error: Error) => void) {
    this.#crew.onFailure = handler;
  }

  /** Gets these programs ready to run, one set for each worker. */
  async prepare(programs: readonly CompiledPrograms[]): Promise<void> {
    await this.#crew.call(worker => ({ op: 'prepare', programs: programs[worker]! }));
  }

  /** Takes the prepared programs and these queues in use; `switch`: under way, in place of those in use. */
  async hand(op: 'attach' | 'switch', queues: DriverQueues): Promise<DriverReply> {
    const [rx, tx] = [deal(queues.rx, this.#crew.size), deal(queues.tx, this.#crew.size)];
    return sum(await this.#crew.call(worker => ({ op, rx: rx[worker]!, tx: tx[worker]! })));
  }

  /** The same for all, one of those that need no dealing. */
  async all(
    command: Extract<DriverCommand, { op: 'up' | 'stopTransmit' | 'down' | 'go' }>,
  ): Promise<DriverReply> {
    return sum(await this.#crew.call(() => command));
  }

  /** Ends them after their present turns. */
  stop(): Promise<void> {
    return this.#crew.stop();
  }
}

function sum(replies: readonly DriverReply[]): DriverReply {
  const add = (of: (reply: DriverReply) => number) => replies.reduce((n, reply) => n + of(reply), 0);
  return { reclaimed: add(one => one.reclaimed), seized: add(one => one.seized) };
}
