/**
 * A bpfhv device made of registers on this side and a backend process on the other: what a VMM's PCI model is to its guest, for a guest
 * driver in our own process.
 *
 * ```
 *   driver ── read, write (REG) ──► ProxyDevice ── bpfhv-proxy messages ──► backend
 *          ── doorbell eventfd ──────────────────────────────────────────►
 *          ◄───────────────────────────────────────── interrupt eventfd ──
 * ```
 * When a backend connects, the device learns all of it and sets STATUS.UPGRADE; registers show the new contract from then on. When it goes,
 * the link is down. Memory, doorbells and interrupts are the guest's and outlive backends.
 *
 * When a backend that is connected signals an upgrade, the device asks it for the new contract at once, sets STATUS.UPGRADE, and shows that one
 * while the old one still runs. CTRL.UPGRADE_READY makes it the contract; written while a direction is enabled, it says that the driver can't
 * take it, or can't go on with it. A backend that tells nothing before the stop is asked when the driver is ready.
 */
import { ABI_VERSION, CTRL, PROGRAMS, REG, STATUS } from '../../guest/bpfhv/registers.js';
import type { BpfhvTransport } from '../../guest/bpfhv/transport.js';
import type { GuestRam } from '../../guest/guest-ram.js';
import { EventFd } from '../../linux/eventfd.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import type { NicParameters } from '../../nic/control.js';
import type { Channel } from './channel.js';
import { deviceDump } from './dump.js';
import { ProxyError } from './errors.js';
import { ProxyFrontend } from './frontend.js';
import { askOffer, type Offer } from './offer.js';

export interface ProxyDeviceOptions {
  readonly ram: GuestRam;
  readonly queuePairs: number;
  /** Descriptors of each queue: a power of two from 16 to 8192. */
  readonly bufs: number;
  /** 6 octets. */
  readonly mac: Uint8Array;
  readonly log?: (level: 'info' | 'warn' | 'error', message: string) => void;
}

const DOORBELL_SIZE = 8;
const ENABLED = STATUS.RX_ENABLED | STATUS.TX_ENABLED;
const ENABLES = CTRL.RX_ENABLE | CTRL.TX_ENABLE;
const DISABLES = CTRL.RX_DISABLE | CTRL.TX_DISABLE;

/** A contract as registers and program window show it. */
interface Shown {
  readonly offer: Offer;
  /** Offered; once the driver has written them, accepted. */
  features: bigint;
  /** What the driver has registered for it, by queue; 0: nothing. */
  readonly contexts: bigint[];
}

export class ProxyDevice implements BpfhvTransport {
  readonly ram: GuestRam;
  onChange: () => void = () => {};
  readonly #options: ProxyDeviceOptions;
  readonly #kicks: readonly EventFd[];
  readonly #irqs: readonly EventFd[];
  readonly #upgradeFd: EventFd;
  readonly #upgradeWatch: Watch;
  #frontend: ProxyFrontend | null = null;
  #contract: Shown | null = null;
  /** Announced; shown, but not in force. */
  #next: Shown | null = null;
  /** An upgrade was signalled, and nobody has asked what it is. */
  #signalled = false;
  #asking = false;
  /** The backend told of a next contract while it ran: it is one that can be sent requests ahead. */
  #readsOn = false;
  /** An upgrade was signalled, but nothing told: what the registers show is the old contract still. */
  #stale = false;
  #generation = 0;
  #status = 0;
  #queue = 0;
  #program = 0;
  #addressLow = 0;
  #dump = Buffer.from('\0');
  #dumpOffset = 0;

  constructor(options: ProxyDeviceOptions) {
    this.#options = options;
    this.ram = options.ram;
    const queues = 2 * options.queuePairs;
    this.#kicks = Array.from({ length: queues }, (_, i) => EventFd.create(`queue ${i}: doorbell`));
    this.#irqs = Array.from({ length: queues }, (_, i) => EventFd.create(`queue ${i}: interrupt`));
    this.#upgradeFd = EventFd.create('upgrade');
    this.#upgradeWatch = watchReadable(this.#upgradeFd.fd, () => void this.#announced());
    this.#upgradeWatch.unref();
  }

  get present(): boolean {
    return this.#contract !== null;
  }

  get previews(): boolean {
    return this.#next !== null;
  }

  get generation(): number {
    return this.#generation;
  }

  doorbell(queue: number): number {
    return this.#kicks[queue]!.fd;
  }

  interrupt(queue: number): number {
    return this.#irqs[queue]!.fd;
  }

  /** One backend's connection, from its first message to its end. Resolves when it is over: with whether it was of use. */
  async serve(channel: Channel): Promise<boolean> {
    let useful = false;
    const frontend = new ProxyFrontend(channel, { onRefusal: 'keep' });
    try {
      const contract = await this.#introduce(frontend);
      this.#frontend = frontend;
      this.#contract = this.#asShown(contract);
      this.#status = 0;
      this.#next = null;
      this.#stale = false;
      this.#readsOn = false;
      this.#show();
      this.#log('info', 'backend connected');
      useful = true;
      const reason = await frontend.closed;
      this.#log('warn', reason ? `backend lost: ${reason.message}` : 'backend gone');
    } catch (error) {
      frontend.close();
      const { code, message } = error as { code?: string; message: string };
      // Somebody who only looked whether we listen, or was killed while we got to know each other.
      if (code === 'PROXY_CLOSED') this.#log('warn', 'backend gone before it was known');
      else this.#log('error', `backend refused: ${message}`);
    }
    this.#frontend = null;
    this.#contract = null;
    this.#next = null;
    this.#status = 0;
    this.#generation++;
    this.onChange();
    return useful;
  }

  async read(register: number): Promise<number> {
    const { queuePairs, bufs, mac } = this.#options;
    switch (register) {
      case REG.STATUS:
        return this.#status | (this.#linkUp ? STATUS.LINK : 0);
      case REG.MAC_LO:
        return ((mac[2]! << 24) | (mac[3]! << 16) | (mac[4]! << 8) | mac[5]!) >>> 0;
      case REG.MAC_HI:
        return (mac[0]! << 8) | mac[1]!;
      case REG.NUM_RX_QUEUES:
      case REG.NUM_TX_QUEUES:
        return queuePairs;
      case REG.NUM_RX_BUFS:
      case REG.NUM_TX_BUFS:
        return bufs;
      case REG.RX_CTX_SIZE:
        return this.#shown?.offer.rxContextSize ?? 0;
      case REG.TX_CTX_SIZE:
        return this.#shown?.offer.txContextSize ?? 0;
      case REG.DOORBELL_SIZE:
        return DOORBELL_SIZE;
      case REG.QUEUE_SELECT:
        return this.#queue;
      case REG.PROG_SELECT:
        return this.#program;
      case REG.PROG_SIZE:
        return (this.#selectedProgram?.length ?? 0) / 8;
      case REG.VERSION:
        return ABI_VERSION;
      case REG.FEATURES:
        return Number((this.#shown?.features ?? 0n) & 0xffff_ffffn);
      case REG.DUMP_LEN:
        return this.#dump.length;
      case REG.DUMP_INPUT:
        return this.#dumpWord();
      case REG.DUMP_OFS:
        return this.#dumpOffset;
      default:
        return 0;
    }
  }

  async write(register: number, value: number): Promise<void> {
    switch (register) {
      case REG.CTRL:
        return this.#control(value);
      case REG.QUEUE_SELECT:
        if (value < this.#kicks.length) this.#queue = value;
        return;
      case REG.CTX_PADDR_LO:
        this.#addressLow = value;
        return;
      case REG.CTX_PADDR_HI:
        return this.#setContext((BigInt(value) << 32n) | BigInt(this.#addressLow));
      case REG.PROG_SELECT:
        if (PROGRAMS.some(program => program.number === value)) this.#program = value;
        return;
      case REG.FEATURES:
        return this.#setFeatures(BigInt(value));
      case REG.DUMP_OFS:
        if (value < this.#dump.length) this.#dumpOffset = value;
        return;
      default: // read-only, or nothing
    }
  }

  async readProgram(instructions: number): Promise<Uint8Array> {
    return (this.#selectedProgram ?? new Uint8Array()).subarray(0, instructions * 8);
  }

  close(): void {
    this.#frontend?.close();
    this.#upgradeWatch.close();
    for (const eventfd of [...this.#kicks, ...this.#irqs, this.#upgradeFd]) eventfd.close();
  }

  /** What a VMM says to a backend that has just connected, in the order in which existing ones say it. */
  async #introduce(frontend: ProxyFrontend): Promise<Offer> {
    const { ram } = this;
    await frontend.setMemTable([
      {
        guestPhysicalAddress: ram.guestPhysicalAddress,
        size: BigInt(ram.size),
        hypervisorVirtualAddress: 0n,
        mmapOffset: 0n,
        fd: ram.fd,
      },
    ]);
    const offer = await askOffer(frontend, this.#parameters, { accept: true });
    await this.#lendSignals(frontend);
    return offer;
  }

  async #lendSignals(frontend: ProxyFrontend): Promise<void> {
    for (const [queue, kick] of this.#kicks.entries()) {
      await frontend.setQueueKick(queue, kick.owner);
      await frontend.setQueueIrq(queue, this.#irqs[queue]!.owner);
    }
    await frontend.setUpgrade(this.#upgradeFd.owner);
  }

  get #parameters(): NicParameters {
    const { queuePairs, bufs } = this.#options;
    return { numRxQueues: queuePairs, numTxQueues: queuePairs, numRxBufs: bufs, numTxBufs: bufs };
  }

  get #shown(): Shown | null {
    return this.#next ?? this.#contract;
  }

  #asShown(offer: Offer): Shown {
    return { offer, features: offer.features, contexts: this.#kicks.map(() => 0n) };
  }

  /** What registers show has changed, and the driver is to look. */
  #show(): void {
    this.#generation++;
    this.#status |= STATUS.UPGRADE;
    this.onChange();
  }

  /** The backend has signalled an upgrade. Asking takes a while, in which it may signal another one: what was told till then is not shown. */
  async #announced(): Promise<void> {
    this.#upgradeFd.drain();
    this.#signalled = true;
    if (this.#asking) return;
    this.#asking = true;
    while (this.#signalled) {
      this.#signalled = false;
      if (this.#frontend) await this.#askNext(this.#frontend);
    }
    this.#asking = false;
  }

  async #askNext(frontend: ProxyFrontend): Promise<void> {
    let offer: Offer | null = null;
    let refused: Error | null = null;
    try {
      offer = await askOffer(frontend, this.#parameters, { accept: false });
    } catch (error) {
      refused = error as Error;
    }
    if (frontend !== this.#frontend || !frontend.open) return; // whoever serves the connection says why it is over
    if (this.#signalled) return;
    if (refused && !(refused instanceof ProxyError && refused.code === 'PROXY_REFUSED')) {
      this.#log('error', `the new contract is refused: ${refused.message}`);
      await this.#decline();
      return;
    }
    this.#next = offer && this.#asShown(offer);
    this.#stale = offer === null;
    if (offer) this.#readsOn = true;
    this.#show();
  }

  async #decline(): Promise<void> {
    this.#next = null;
    this.#stale = false;
    this.#status &= ~STATUS.UPGRADE;
    this.#generation++;
    await this.#ask(frontend => frontend.setUpgrade(this.#upgradeFd.owner));
  }

  /** The backend tells what it did not tell while it ran. */
  async #relearn(): Promise<void> {
    this.#stale = false;
    await this.#ask(async frontend => {
      const offer = await askOffer(frontend, this.#parameters, { accept: true });
      await this.#lendSignals(frontend);
      this.#contract = this.#asShown(offer);
      this.#generation++;
    });
  }

  /** The driver is ready for the contract that was announced. */
  async #ready(): Promise<void> {
    if ((this.#status & ENABLED) !== 0) return this.#decline();
    if ((this.#status & STATUS.UPGRADE) === 0) return;
    this.#status &= ~STATUS.UPGRADE;
    if (this.#next) {
      this.#contract = this.#next;
      this.#next = null;
    } else if (this.#stale) await this.#relearn();
  }

  async #control(value: number): Promise<void> {
    if (this.#readsOn && (value & DISABLES) === DISABLES && (this.#status & ENABLED) === ENABLED) {
      await this.#ask(frontend => frontend.both('disable'));
      this.#status &= ~ENABLED;
    }
    if (this.#readsOn && (value & ENABLES) === ENABLES && (this.#status & ENABLED) === 0) {
      if (await this.#ask(frontend => frontend.both('enable'))) this.#status |= ENABLED;
    }
    if (value & CTRL.RX_DISABLE) await this.#switch('rxDisable', STATUS.RX_ENABLED, false);
    if (value & CTRL.TX_DISABLE) await this.#switch('txDisable', STATUS.TX_ENABLED, false);
    if (value & CTRL.RX_ENABLE) await this.#switch('rxEnable', STATUS.RX_ENABLED, true);
    if (value & CTRL.TX_ENABLE) await this.#switch('txEnable', STATUS.TX_ENABLED, true);
    if (value & CTRL.UPGRADE_READY) await this.#ready();
    if (value & CTRL.QUEUES_DUMP) this.#makeDump();
  }

  async #switch(
    request: 'rxEnable' | 'txEnable' | 'rxDisable' | 'txDisable',
    bit: number,
    on: boolean,
  ): Promise<void> {
    if (((this.#status & bit) !== 0) === on) return;
    const done = await this.#ask(frontend => frontend[request]());
    // A backend that does not confirm a stop is gone; the bit falls in either case.
    if (done && on) this.#status |= bit;
    if (!on) this.#status &= ~bit;
  }

  async #setContext(gpa: bigint): Promise<void> {
    const [queue, shown] = [this.#queue, this.#shown];
    if (shown && (await this.#ask(frontend => frontend.setQueueContext(queue, gpa))))
      shown.contexts[queue] = gpa;
  }

  async #setFeatures(accepted: bigint): Promise<void> {
    const shown = this.#shown;
    if (!shown || (accepted & ~shown.offer.features) !== 0n) return;
    if (await this.#ask(frontend => frontend.setFeatures(accepted))) shown.features = accepted;
  }

  /** Asks the backend. False when it refuses or is gone: the registers then show that nothing has changed. */
  async #ask(request: (frontend: ProxyFrontend) => Promise<void>): Promise<boolean> {
    if (!this.#frontend) return false;
    try {
      await request(this.#frontend);
      return true;
    } catch (error) {
      if (!(error instanceof ProxyError)) throw error;
      this.#log('warn', error.message);
      return false;
    }
  }

  get #linkUp(): boolean {
    const { contexts = [0n] } = this.#contract ?? {};
    return contexts.slice(0, this.#options.queuePairs).every(gpa => gpa !== 0n);
  }

  get #selectedProgram(): Uint8Array | undefined {
    const section = PROGRAMS.find(program => program.number === this.#program)?.section;
    return section && this.#shown?.offer.programs.get(section);
  }

  #makeDump(): void {
    const { ram, bufs } = this.#options;
    const status = this.#status | (this.#linkUp ? STATUS.LINK : 0);
    const { features = 0n } = this.#shown ?? {};
    const contexts = this.#contract?.contexts ?? this.#kicks.map(() => 0n);
    this.#dump = deviceDump({ ram, status, features, contexts, bufs });
    this.#dumpOffset = 0;
  }

  /** Four bytes at the offset, zeros behind the end. */
  #dumpWord(): number {
    const word = Buffer.alloc(4);
    this.#dump.copy(word, 0, this.#dumpOffset);
    return word.readUInt32LE();
  }

  #log(level: 'info' | 'warn' | 'error', message: string): void {
    this.#options.log?.(level, message);
  }
}
