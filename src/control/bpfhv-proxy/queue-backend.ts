/** The backend behind a connection as the device's registers ask it: each request a message, or a few. */
import type { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import type { Direction, NicParameters } from '../../nic/control.js';
import type { Preview, RegisterBackend } from '../../pci/bpfhv/backend.js';
import { type Offer, readPrograms } from '../../pci/bpfhv/offer.js';
import { ProxyError } from './errors.js';
import type { ProxyFrontend } from './frontend.js';

/** What a backend is asked for, and lent. Queues in order, receive queues first. */
export interface Lent {
  readonly parameters: NicParameters;
  readonly kicks: readonly EventFd[];
  readonly irqs: readonly EventFd[];
  readonly upgrade: OwnedFd;
}

export class ProxyQueueBackend implements RegisterBackend {
  readonly #frontend: ProxyFrontend;
  readonly #lent: Lent;
  /** It told of a next contract while it ran: it is one that can be sent requests ahead. */
  #readsOn = false;

  constructor(frontend: ProxyFrontend, lent: Lent) {
    this.#frontend = frontend;
    this.#lent = lent;
  }

  get open(): boolean {
    return this.#frontend.open;
  }

  get both(): RegisterBackend['both'] {
    return this.#readsOn ? action => this.#frontend.both(action) : undefined;
  }

  /** `later`: it refuses to tell while it runs. */
  async preview(): Promise<Preview> {
    try {
      const offer = await this.#ask({ accept: false });
      this.#readsOn = true;
      return offer;
    } catch (error) {
      if (error instanceof ProxyError && error.code === 'PROXY_REFUSED') return 'later';
      throw error;
    }
  }

  /** It makes all queues anew for that, so it is lent the eventfds again. */
  async offer(): Promise<Offer> {
    const { kicks, irqs, upgrade } = this.#lent;
    const offer = await this.#ask({ accept: true });
    for (const [queue, kick] of kicks.entries()) {
      await this.#frontend.setQueueKick(queue, kick.owner);
      await this.#frontend.setQueueIrq(queue, irqs[queue]!.owner);
    }
    await this.#frontend.setUpgrade(upgrade);
    return offer;
  }

  setFeatures(accepted: bigint): Promise<void> {
    return this.#frontend.setFeatures(accepted);
  }

  setQueueContext(queue: number, guestPhysicalAddress: bigint): Promise<void> {
    return this.#frontend.setQueueContext(queue, guestPhysicalAddress);
  }

  enable(direction: Direction): Promise<void> {
    return this.#frontend.enable(direction);
  }

  disable(direction: Direction): Promise<void> {
    return this.#frontend.disable(direction);
  }

  decline(): Promise<void> {
    return this.#frontend.setUpgrade(this.#lent.upgrade);
  }

  /**
   * Asks for all of it, in the order in which existing hypervisors do. `accept` tells the backend that no feature is accepted yet, which it
   * refuses while it runs. Throws ProxyError, and EbpfError for an object that is none.
   */
  async #ask({ accept }: { accept: boolean }): Promise<Offer> {
    const { parameters } = this.#lent;
    const features = await this.#frontend.getFeatures();
    if (accept) await this.#frontend.setFeatures(0n);
    const sizes = await this.#frontend.setParameters(parameters);
    return { parameters, features, ...sizes, programs: readPrograms(await this.#frontend.getPrograms()) };
  }
}
