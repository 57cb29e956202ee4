/** A NIC of this process as the device's registers ask it. */
import type { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import type { Direction, NicControl, NicParameters } from '../../nic/control.js';
import type { Preview, RegisterBackend } from './backend.js';
import { type Offer, readPrograms } from './offer.js';

/** What a device needs of its NIC; `Nic` of `src/nic/` has it. */
export interface DeviceNic extends NicControl {
  /** Queues and buffers of the present contract; null: nobody has asked for any. */
  readonly parameters: NicParameters | null;
  /** Those of the announced contract; null: none is announced. */
  readonly announced: NicParameters | null;
  take(): Promise<void>;
  reset(): Promise<void>;
  dump(): string;
}

/** What the NIC is asked for at first, and what it is lent: it gets descriptors of its own. */
export interface DeviceSide {
  readonly parameters: NicParameters;
  readonly kicks: readonly EventFd[];
  /** What the queue's interrupt signals now. */
  irq(queue: number): OwnedFd;
  readonly upgrade: EventFd;
}

export class NicBackend implements RegisterBackend {
  readonly open = true;
  readonly #nic: DeviceNic;
  readonly #side: DeviceSide;

  constructor(nic: DeviceNic, side: DeviceSide) {
    this.#nic = nic;
    this.#side = side;
  }

  async preview(): Promise<Preview> {
    const { announced } = this.#nic;
    return announced ? this.#ask(announced) : 'nothing';
  }

  /** `parameters`: what to ask for; null: what is asked for at first. */
  async offer(parameters = this.#nic.parameters): Promise<Offer> {
    const { kicks, upgrade } = this.#side;
    this.#nic.setUpgrade(upgrade.owner.dup());
    this.#nic.setFeatures(0n);
    const offer = this.#ask(parameters ?? this.#side.parameters);
    for (const [queue, kick] of kicks.entries()) {
      await this.#nic.setQueueKick(queue, kick.owner.dup());
      await this.#nic.setQueueIrq(queue, this.#side.irq(queue).dup());
    }
    return offer;
  }

  async setFeatures(accepted: bigint): Promise<void> {
    this.#nic.setFeatures(accepted);
  }

  setQueueContext(queue: number, guestPhysicalAddress: bigint): Promise<void> {
    return this.#nic.setQueueContext(queue, guestPhysicalAddress);
  }

  enable(direction: Direction): Promise<void> {
    return this.#nic.enable(direction, 'own');
  }

  disable(direction: Direction): Promise<void> {
    return this.#nic.disable(direction);
  }

  async decline(): Promise<void> {
    this.#nic.setUpgrade(this.#side.upgrade.owner.dup());
  }

  take(): Promise<void> {
    return this.#nic.take();
  }

  /** In one breath, so that all of it is of one contract. */
  #ask(parameters: NicParameters): Offer {
    const features = this.#nic.features();
    const sizes = this.#nic.setParameters(parameters);
    return { parameters, features, ...sizes, programs: readPrograms(this.#nic.programs().dup()) };
  }
}
