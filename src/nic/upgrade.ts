/**
 * The contracts of a NIC: the present one, and for a while the next one, which an upgrade has announced to the guest.
 *
 * ```
 *           upgrade()            GET_PROGRAMS                 stopped, contexts set, enable
 *   idle ─────────────► announced ─────────────► read ───────────────────────────────────────► the swap
 *     ▲                     │                      │
 *     │                     │ nobody looks         │ declined, or time is up
 *     ├─────────────────────┴──────────────────────┘     the old contract goes on
 *     └── the guest leaves: the next guest gets the new contract
 * ```
 * The old contract runs until the swap, which is the first enable after a stop for which contexts of the new one have been set. Meanwhile features,
 * sizes and programs are the next one's for a guest that asks, and what it prepares goes there.
 */
import type { PortHandle } from '../port/port.js';
import type { DeviceType } from '../ring/ring.js';
import { Contract, type ContractHost } from './contract.js';
import { NicError } from './control.js';

/** How long a guest may take from the announcement to the swap. */
const UPGRADE_TIMEOUT_MS = 10_000;
/** So soon after a swap, a guest that finds the new contract unusable gets the former one back. */
const REGRET_MS = 5_000;

/** What is to change; what is not named stays. */
export interface UpgradeWish {
  readonly device?: DeviceType;
  /** Feature bits to offer. */
  readonly features?: bigint;
  /** The new port; the former one stays its owner's, and is not used any more when the upgrade is done. */
  readonly port?: PortHandle;
  readonly spin?: boolean;
  readonly timeoutMs?: number;
  /** Ends the conversation with a hypervisor that does not look at announcements: it gets the new contract when it comes back. */
  readonly hangUp?: () => void;
}

export interface UpgradeReport {
  /** `waiting`: no guest is there, the next one gets the contract. */
  readonly outcome: 'done' | 'waiting';
  /** Names of device types. */
  readonly from: string;
  readonly to: string;
  /** From the request to the swap, milliseconds. */
  readonly ms: number;
}

/** What the contracts need of their NIC. */
export interface UpgradeHost extends ContractHost {
  readonly running: boolean;
  /** Raises the guest's upgrade interrupt. */
  signal(): void;
  /** Changes port and way of waiting. */
  change(wish: Pick<UpgradeWish, 'port' | 'spin'>): Promise<void>;
  log(level: 'info' | 'warn' | 'error', message: string): void;
}

/** What has been announced. */
interface Announcement {
  readonly contract: Contract;
  /** Null: nobody waits for it; it takes another announcement back. */
  readonly wish: UpgradeWish | null;
  /** The guest has asked for features, sizes or programs since. */
  seen: boolean;
  /** It has the programs. */
  read: boolean;
  readonly settle: (result: UpgradeReport['outcome'] | NicError) => void;
}

export class Contracts {
  readonly #host: UpgradeHost;
  #present: Contract;
  #next: Announcement | null = null;
  /** What was before the last swap, and until when it can be had back. */
  #former: { readonly device: DeviceType; readonly features: bigint; readonly until: number } | null = null;

  constructor(host: UpgradeHost, device: DeviceType, mask: bigint | undefined) {
    this.#host = host;
    this.#present = new Contract(host, device, mask);
  }

  get present(): Contract {
    return this.#present;
  }

  get next(): Contract | null {
    return this.#next?.contract ?? null;
  }

  /** The guest asks what is offered. */
  look(): Contract {
    if (this.#next) this.#next.seen = true;
    return this.#next?.contract ?? this.#present;
  }

  /** The guest asks for the programs. */
  read(): Contract {
    if (this.#next) this.#next.read = true;
    return this.look();
  }

  /** The contract that the guest's features are for. */
  get looked(): Contract {
    return this.#next?.seen ? this.#next.contract : this.#present;
  }

  /** The contract that the guest's contexts are for. */
  get chosen(): Contract {
    return this.#next?.read ? this.#next.contract : this.#present;
  }

  /** Changes the contract (see `Nic.upgrade`). `mask` is what is offered where the wish says nothing. */
  async upgrade(wish: UpgradeWish, mask: bigint | undefined): Promise<UpgradeReport> {
    if (this.#next?.wish) throw new NicError('NIC_UPGRADE_BUSY', 'another upgrade is under way');
    const start = performance.now();
    const from = this.#present.device;
    const to = wish.device ?? from;
    const report = (outcome: UpgradeReport['outcome']): UpgradeReport => {
      return { outcome, from: from.name, to: to.name, ms: performance.now() - start };
    };
    if (wish.device === undefined && wish.features === undefined) {
      await this.#host.change(wish);
      return report('done');
    }
    const contract = this.#make(to, wish.features ?? mask);
    if (this.#present.parameters === null) {
      this.#replace(contract);
      await this.#host.change(wish);
      return report('waiting');
    }
    this.#host.log('info', `upgrade from ${from.name} to ${to.name} announced`);
    return report(await this.#announce(contract, wish));
  }

  /** The guest can't take what is announced, or can't go on with what it has just changed to. */
  refused(): void {
    if (this.#next?.read) {
      if (this.#next.wish) this.#withdraw('NIC_UPGRADE_DECLINED', 'the guest can not take the new contract');
    } else if (this.#former && performance.now() < this.#former.until) {
      const { device, features } = this.#former;
      this.#former = null;
      this.#host.log('warn', `the guest can not use ${this.#present.device.name}: back to ${device.name}`);
      this.#show(this.#make(device, features));
    }
  }

  /** Nothing runs, and the guest is about to start: whether it has prepared itself for what is announced. */
  get due(): Contract | null {
    return this.#next?.read && this.#next.contract.begun ? this.#next.contract : null;
  }

  /** From the present contract to the one that is due. */
  async swap(): Promise<void> {
    const { contract, wish, settle } = this.#next!;
    const { device, features } = this.#present;
    if (wish) await this.#host.change(wish);
    this.#next = null;
    this.#former = { device, features, until: performance.now() + REGRET_MS };
    contract.inherit(this.#present);
    this.#replace(contract);
    this.#host.log('info', `upgraded from ${device.name} to ${contract.device.name}`);
    settle('done');
  }

  /** The guest has gone: the next one finds what was announced to this one. */
  async left(): Promise<void> {
    this.#former = null;
    const next = this.#next;
    this.#next = null;
    if (next?.wish) {
      this.#replace(next.contract);
      await this.#host.change(next.wish);
      next.settle('waiting');
    } else next?.contract.close();
    this.#present.dropQueues();
    this.#present.agree(0n);
  }

  close(): void {
    this.#present.close();
  }

  /** A contract with queues like the present one's. Throws NicError NIC_PARAMETERS when it can't have as many descriptors. */
  #make(device: DeviceType, mask: bigint | undefined): Contract {
    const contract = new Contract(this.#host, device, mask);
    try {
      if (this.#present.parameters) contract.prepare(this.#present.parameters);
      return contract;
    } catch (error) {
      contract.close();
      throw error;
    }
  }

  /** Resolves with the outcome. */
  #announce(contract: Contract, wish: UpgradeWish): Promise<UpgradeReport['outcome']> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#expire(), wish.timeoutMs ?? UPGRADE_TIMEOUT_MS);
      this.#show(contract, wish, result => {
        clearTimeout(timer);
        if (result instanceof NicError) reject(result);
        else resolve(result);
      });
    });
  }

  #show(
    contract: Contract,
    wish: UpgradeWish | null = null,
    settle: Announcement['settle'] = () => {},
  ): void {
    this.#next?.contract.close();
    this.#next = { contract, wish, settle, seen: false, read: false };
    this.#host.signal();
  }

  /** The time is up. Who never looked is no such guest as reads announcements: it may get the contract by a new conversation. */
  #expire(): void {
    const { wish, seen, read } = this.#next!;
    if (!seen && wish?.hangUp) {
      this.#host.log('info', 'the hypervisor takes no notice of the upgrade: it will when it comes back');
      wish.hangUp();
      return;
    }
    const how = read ? 'has not changed to' : seen ? 'has not read' : 'took no notice of';
    this.#withdraw('NIC_UPGRADE_TIMEOUT', `the guest ${how} the new contract in time`);
    // It may be half way there: it is shown where it stands.
    if (seen) this.#show(this.#make(this.#present.device, this.#present.features));
  }

  #withdraw(code: string, reason: string): void {
    const { contract, settle } = this.#next!;
    this.#next = null;
    contract.close();
    this.#host.log('warn', `upgrade given up: ${reason}`);
    settle(new NicError(code, reason));
  }

  #replace(contract: Contract): void {
    this.#present.close();
    this.#present = contract;
  }
}
