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
 * Where the wish names a port that can't be used, the guest has the former contract announced to it after the swap, as if somebody had wished for it.
 *
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
  /** Descriptors of every queue. For control protocols in which it is the NIC that says how many there are: others ask for as many as they like. */
  readonly bufs?: number;
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
  /** Does something while no request is under way and no other change. */
  inTurn<T>(step: () => Promise<T>): Promise<T>;
  /** Raises the guest's upgrade interrupt. */
  signal(): void;
  /** What was announced is no more, and was not taken. */
  withdrawn(): void;
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
  readonly settle: (result: Outcome | Error) => void;
}

type Outcome = UpgradeReport['outcome'];

/** What an upgrade comes to, once it has begun. */
interface Begun {
  readonly from: DeviceType;
  readonly to: DeviceType;
  readonly outcome: Promise<Outcome>;
}

/**
 * A contract as it is asked for. `mask`: feature bits to offer, of those that the device type has; undefined: all of them. `parameters`: its queues; null: nobody
 * has asked for any.
 */
type Terms = Pick<Contract, 'device' | 'mask' | 'parameters'>;

export class Contracts {
  readonly #host: UpgradeHost;
  #present: Contract;
  #next: Announcement | null = null;
  /** What was before the last swap, and until when it can be had back. */
  #former: { readonly terms: Terms; readonly until: number } | null = null;
  /** A contract was taken back that the guest had begun to use: what it starts next may be that one, so contexts of the present one count no more. */
  #astray = false;

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

  /** Changes the contract (see `Nic.upgrade`). */
  async upgrade(wish: UpgradeWish): Promise<UpgradeReport> {
    const start = performance.now();
    const { from, to, outcome } = await this.#host.inTurn(() => this.#begin(wish));
    return { outcome: await outcome, from: from.name, to: to.name, ms: performance.now() - start };
  }

  /** The guest can't take what is announced, or can't go on with what it has just changed to. */
  refused(): void {
    const next = this.#next;
    if (next?.read) {
      if (next.wish) this.#withdraw('NIC_UPGRADE_DECLINED', 'the guest can not take the new contract');
      this.#astray = false; // it knows what it goes on with
    } else if (this.#former && performance.now() < this.#former.until) {
      const { terms } = this.#former;
      this.#former = null;
      if (next?.wish) this.#withdraw('NIC_UPGRADE_DECLINED', 'the guest can not use the contract before it');
      this.#host.log(
        'warn',
        `the guest can not use ${this.#present.device.name}: back to ${terms.device.name}`,
      );
      this.#showAgain(terms);
    }
  }

  /** Nothing runs, and the guest is about to start: whether it has prepared itself for what is announced. */
  get due(): Contract | null {
    return this.#next?.read && this.#next.contract.begun ? this.#next.contract : null;
  }

  /** From the present contract to the one that is announced: the guest has prepared itself for it, or has not begun to use either. */
  async swap(): Promise<void> {
    const { contract, wish, settle } = this.#take();
    const { device, mask, parameters } = this.#present;
    const terms = { device, mask, parameters };
    this.#former = { terms, until: performance.now() + REGRET_MS };
    contract.inherit(this.#present);
    this.#replace(contract);
    this.#host.log('info', `upgraded from ${device.name} to ${contract.device.name}`);
    try {
      if (wish) await this.#host.change(wish);
      settle(contract.begun ? 'done' : 'waiting');
    } catch (error) {
      this.#goBack(terms, error as Error);
      settle(error as Error);
    }
  }

  /** Nothing runs any more. */
  stopped(): void {
    if (this.#astray) this.#present.dropContexts();
    this.#astray = false;
  }

  /** The guest has gone: the next one finds what was announced to this one. */
  async left(): Promise<void> {
    await this.#turnOver();
    this.#present.left();
  }

  /** The guest begins anew, and finds what was announced to it; with as many queues. */
  async restart(): Promise<void> {
    await this.#turnOver();
    this.#present.dropContexts();
    this.#present.agree(0n);
  }

  close(): void {
    this.#present.close();
  }

  async #begin(wish: UpgradeWish): Promise<Begun> {
    if (this.#next?.wish) throw new NicError('NIC_UPGRADE_BUSY', 'another upgrade is under way');
    const from = this.#present.device;
    const to = wish.device ?? from;
    const { features, bufs } = wish;
    if (wish.device === undefined && features === undefined && bufs === undefined) {
      await this.#host.change(wish);
      return { from, to, outcome: Promise.resolve('done') };
    }
    const { mask, parameters } = this.#present;
    if (bufs !== undefined && !parameters)
      throw new NicError('NIC_PARAMETERS', `${bufs} buffers: nobody has asked for queues yet`);
    const terms = {
      ...{ device: to, mask: features ?? mask },
      parameters:
        parameters && bufs !== undefined ? { ...parameters, numRxBufs: bufs, numTxBufs: bufs } : parameters,
    };
    const { outcome } = await this.#propose(terms, wish);
    return { from, to, outcome };
  }

  /** Makes the contract, and announces it to the guest; for the next guest when none is there. Comes to what that comes to. */
  async #propose(terms: Terms, wish: UpgradeWish): Promise<{ outcome: Promise<Outcome> }> {
    const contract = this.#make(terms);
    if (this.#present.parameters === null) {
      await this.#offerNext(contract, wish);
      return { outcome: Promise.resolve('waiting') };
    }
    this.#host.log('info', `upgrade from ${this.#present.device.name} to ${terms.device.name} announced`);
    return { outcome: this.#announce(contract, wish) };
  }

  /** The next guest gets the contract. Throws when the rest of what was wished for can't be done: it gets the present one. */
  async #offerNext(contract: Contract, wish: UpgradeWish): Promise<void> {
    try {
      await this.#host.change(wish);
    } catch (error) {
      contract.close();
      throw error;
    }
    this.#replace(contract);
  }

  /** The guest has begun with a contract, but the rest of the wish can't be done. */
  #goBack(terms: Terms, { message }: Error): void {
    this.#host.log('warn', `back to ${terms.device.name}: ${message}`);
    void this.#host.inTurn(async () => {
      if (this.#next) return; // somebody has found something else to be better
      try {
        const { outcome } = await this.#propose(terms, {});
        outcome.catch(() => {}); // it has been logged
      } catch (error) {
        this.#host.log('error', `${terms.device.name} can't be announced: ${(error as Error).message}`);
      }
    });
  }

  /** Throws NicError NIC_PARAMETERS when its queues can't have as many descriptors, and when programs can't be read. */
  #make({ device, mask, parameters }: Terms): Contract {
    const contract = new Contract(this.#host, device, mask);
    try {
      if (parameters) contract.prepare(parameters);
      return contract;
    } catch (error) {
      contract.close();
      throw error;
    }
  }

  #announce(contract: Contract, wish: UpgradeWish): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#expire(contract), wish.timeoutMs ?? UPGRADE_TIMEOUT_MS);
      this.#show(contract, wish, result => {
        clearTimeout(timer);
        if (result instanceof Error) reject(result);
        else resolve(result);
      });
    });
  }

  #show(
    contract: Contract,
    wish: UpgradeWish | null = null,
    settle: Announcement['settle'] = () => {},
  ): void {
    if (this.#next) this.#drop();
    this.#next = { contract, wish, settle, seen: false, read: false };
    this.#host.signal();
  }

  /** Announces what the guest had, or has: it may be half way to something else. Nobody waits for it. */
  #showAgain(terms: Terms): void {
    try {
      this.#show(this.#make(terms));
    } catch (error) {
      this.#host.log('error', `${terms.device.name} can't be announced: ${(error as Error).message}`);
    }
  }

  /** The time of an announcement is up. Who never looked is no such guest as reads announcements: it may get the contract by a new conversation. */
  #expire(contract: Contract): void {
    void this.#host.inTurn(async () => {
      if (this.#next?.contract !== contract) return;
      const { wish, seen, read } = this.#next;
      if (!seen && wish?.hangUp) {
        this.#host.log('info', 'the hypervisor takes no notice of the upgrade: it will when it comes back');
        wish.hangUp();
        return;
      }
      const how = read ? 'has not changed to' : seen ? 'has not read' : 'took no notice of';
      this.#withdraw('NIC_UPGRADE_TIMEOUT', `the guest ${how} the new contract in time`);
      if (seen) this.#showAgain(this.#present);
    });
  }

  /** Nobody runs on the present contract any more: what somebody has wished for takes its place. */
  async #turnOver(): Promise<void> {
    this.#former = null;
    this.#astray = false;
    const next = this.#next && this.#take();
    if (next?.wish) {
      await this.#offerNext(next.contract, next.wish).then(
        () => next.settle('waiting'),
        (error: Error) => next.settle(error),
      );
    } else next?.contract.close();
  }

  #withdraw(code: string, reason: string): void {
    this.#host.log('warn', `upgrade given up: ${reason}`);
    this.#drop().settle(new NicError(code, reason));
  }

  /** What was announced is no more. */
  #drop(): Announcement {
    const next = this.#take();
    if (next.contract.begun) this.#astray = true;
    next.contract.close();
    if (!this.#host.running) this.stopped();
    this.#host.withdrawn();
    return next;
  }

  #take(): Announcement {
    const next = this.#next!;
    this.#next = null;
    return next;
  }

  #replace(contract: Contract): void {
    this.#present.close();
    this.#present = contract;
  }
}
