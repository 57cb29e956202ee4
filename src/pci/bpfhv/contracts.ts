/**
 * The contracts that a device shows its driver: the present one, and for a while the next one, which its backend has announced.
 *
 * ```
 *                 attach                 backend signals, and tells             upgrade_ready
 *   no backend ───────────► present ───────────────────────────────► next shown ──────────────► present
 *       ▲                     │ ▲                                      │   while a direction is enabled: declined,
 *       └─────── detach ──────┘ └──────────────────────────────────────┘   the present one is shown again
 * ```
 * A backend that tells nothing before the stop is asked when the driver is ready. A driver that has registered nothing gets the next contract at once, from a
 * backend that can be told so.
 */
import { EventFd } from '../../linux/eventfd.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import type { RegisterBackend } from './backend.js';
import type { Offer } from './offer.js';

/** Refusals that are logged of one peer: what provokes them may be a guest that has nothing better to do, and resets its device as often. */
const MAX_REFUSALS = 100;

/** A contract as registers and program window show it. */
export interface Shown {
  readonly offer: Offer;
  /** Offered; once the driver has written them, accepted. */
  features: bigint;
  /** What the driver has registered for it, by queue; 0: nothing. */
  readonly contexts: bigint[];
}

export interface ContractsHost {
  /** A direction is enabled. */
  readonly running: boolean;
  /** STATUS.UPGRADE has been set: the driver is to look. */
  onShow(): void;
  log(level: 'info' | 'warn' | 'error', message: string): void;
}

export class ShownContracts {
  /** What the backend signals when it announces a contract; stays ours. */
  readonly upgradeFd = EventFd.create('upgrade');
  readonly #host: ContractsHost;
  readonly #watch: Watch;
  #backend: RegisterBackend | null = null;
  #present: Shown | null = null;
  /** Announced; shown, but not in force. */
  #next: Shown | null = null;
  #pending = false;
  /** An upgrade was signalled, but nothing told: what is shown is the old contract still. */
  #untold = false;
  /** The driver has said that it is ready for the present contract, and the backend has not been told. */
  #accepted = false;
  /** The contract of which the driver has read how large its contexts are. */
  #sizesOf: Shown | null = null;
  /** An upgrade was signalled, and nobody has asked what it is. */
  #signalled = false;
  #asking: Promise<void> | null = null;
  /** Another number for each backend that is attached. */
  #epoch = 0;
  #generation = 0;
  #refusals = 0;

  constructor(host: ContractsHost) {
    this.#host = host;
    this.#watch = watchReadable(this.upgradeFd.fd, () => {
      if (this.upgradeFd.drain() > 0) void this.look();
    });
    this.#watch.unref();
  }

  get present(): Shown | null {
    return this.#present;
  }

  get shown(): Shown | null {
    return this.#next ?? this.#present;
  }

  /** What is shown is announced, but not in force. */
  get previews(): boolean {
    return this.#next !== null;
  }

  /** STATUS.UPGRADE. */
  get pending(): boolean {
    return this.#pending;
  }

  /** The driver has registered contexts for what is announced. */
  get prepared(): boolean {
    return this.#next !== null && isBegun(this.#next);
  }

  /** The backend can be asked for both directions in one go. */
  get together(): boolean {
    return this.#backend?.both !== undefined;
  }

  /** Another number whenever what is shown has changed. */
  get generation(): number {
    return this.#generation;
  }

  /** A backend is there. `show`: the driver that there may be is to look; otherwise it begins anew, and has seen nothing. */
  attach(backend: RegisterBackend, offer: Offer, { show }: { show: boolean }): void {
    this.#forget();
    this.#backend = backend;
    this.#present = asShown(offer);
    if (show) this.#show();
    else {
      this.#sizesOf = null;
      this.#generation++;
    }
  }

  /** There is no backend any more. */
  detach(): void {
    this.#forget();
    this.#backend = null;
    this.#present = null;
    this.#generation++;
    this.peerGone();
  }

  /** The peer whose refusals were logged is gone: the next one's are news again. */
  peerGone(): void {
    this.#refusals = 0;
  }

  /** Asks what the backend has announced. Asking takes a while, in which it may announce something else: what was told till then is not shown. */
  look(): Promise<void> {
    this.#signalled = true;
    this.#asking ??= this.#askAll().finally(() => {
      this.#asking = null;
      return this.#signalled ? this.look() : undefined; // signalled since the last question
    });
    return this.#asking;
  }

  /** The driver has read the size of a context. */
  sizesRead(): void {
    this.#sizesOf = this.shown;
  }

  /** Ignored for features that are not offered. */
  async setFeatures(accepted: bigint): Promise<void> {
    await this.#catchUp();
    const { shown } = this;
    if (!shown || (accepted & ~shown.offer.features) !== 0n) return;
    if (await this.ask(backend => backend.setFeatures(accepted))) shown.features = accepted;
  }

  /** Ignored when another contract is shown than that for which the driver has made its contexts: it may not be large enough. */
  async setContext(queue: number, gpa: bigint): Promise<void> {
    await this.#catchUp();
    const { shown } = this;
    if (!shown || (gpa !== 0n && this.#sizesOf !== null && this.#sizesOf !== shown)) return;
    if (!(await this.ask(backend => backend.setQueueContext(queue, gpa)))) return;
    shown.contexts[queue] = gpa;
    await this.#settle();
  }

  /** The driver is ready for the contract that was announced. While it runs, that makes no sense, and says that it declines. */
  async ready(): Promise<void> {
    if (this.#host.running) return this.#decline();
    if (!this.#pending) return;
    this.#pending = false;
    if (this.#next) {
      this.#present = this.#next;
      this.#next = null;
      this.#accepted = true;
      await this.#settle();
    } else if (this.#untold) await this.#relearn();
  }

  /** Asks the backend. False when it refuses or is gone: registers then show that nothing has changed. */
  async ask(request: (backend: RegisterBackend) => Promise<void>): Promise<boolean> {
    if (!this.#backend) return false;
    try {
      await request(this.#backend);
      return true;
    } catch (error) {
      if (this.#refusals < MAX_REFUSALS) this.#host.log('warn', (error as Error).message);
      this.#refusals++;
      return false;
    }
  }

  close(): void {
    this.#watch.close();
    this.upgradeFd.close();
  }

  #forget(): void {
    this.#epoch++;
    this.#next = null;
    this.#pending = false;
    this.#untold = false;
    this.#accepted = false;
  }

  /** What is shown has changed, and the driver is to look. */
  #show(): void {
    this.#generation++;
    this.#pending = true;
    this.#host.onShow();
  }

  /** What was announced up to now is shown. */
  async #catchUp(): Promise<void> {
    if (this.upgradeFd.drain() > 0) await this.look();
    else await this.#asking;
  }

  async #askAll(): Promise<void> {
    while (this.#signalled) {
      this.#signalled = false;
      if (this.#backend) await this.#askNext(this.#backend);
    }
  }

  async #askNext(backend: RegisterBackend): Promise<void> {
    const epoch = this.#epoch;
    const told = await backend.preview().catch((error: Error) => error);
    if (epoch !== this.#epoch || !backend.open) return; // whoever has attached it says why it is over
    if (this.#signalled || told === 'nothing') return;
    if (told instanceof Error) {
      this.#host.log('error', `the new contract is refused: ${told.message}`);
      return this.#decline();
    }
    this.#untold = told === 'later';
    const next = told === 'later' ? null : asShown(told);
    if (next && backend.take && !this.#begun) return this.#replace(next);
    this.#next = next;
    this.#show();
  }

  /** The present contract runs, or the driver has registered something for it. */
  get #begun(): boolean {
    return this.#host.running || (this.#present !== null && isBegun(this.#present));
  }

  /** Nobody has begun to use the present contract. Who has not even seen it needs not be told. */
  async #replace(next: Shown): Promise<void> {
    this.#present = next;
    this.#next = null;
    if (this.#sizesOf) this.#show();
    else this.#generation++;
    await this.ask(async backend => backend.take?.());
  }

  async #decline(): Promise<void> {
    this.#next = null;
    this.#untold = false;
    this.#pending = false;
    this.#generation++;
    await this.ask(backend => backend.decline());
  }

  /** The backend tells what it did not tell while it ran. */
  async #relearn(): Promise<void> {
    this.#untold = false;
    await this.ask(async backend => {
      this.#present = asShown(await backend.offer());
      this.#generation++;
    });
  }

  /** Tells the backend that its announcement was taken, once everything is registered. */
  async #settle(): Promise<void> {
    if (!this.#accepted || !this.#present?.contexts.every(gpa => gpa !== 0n)) return;
    this.#accepted = false;
    await this.ask(async backend => backend.take?.());
  }
}

function asShown(offer: Offer): Shown {
  const { numRxQueues, numTxQueues } = offer.parameters;
  return { offer, features: offer.features, contexts: new Array(numRxQueues + numTxQueues).fill(0n) };
}

function isBegun({ contexts }: Shown): boolean {
  return contexts.some(gpa => gpa !== 0n);
}
