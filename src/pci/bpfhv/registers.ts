/**
 * The registers of a bpfhv device (docs/bpfhv.md, "Registers") and its program window: what a read gives, and what a write does. The numbers are the driver's
 * (`src/guest/bpfhv/registers.ts`); the queues are a backend's.
 *
 * ```
 *   driver ── read, write (REG) ──► BpfhvRegisters ── RegisterBackend ──► a NIC, or messages to one
 *                                        └ ShownContracts: which contract it is that registers speak of
 * ```
 */
import { ABI_VERSION, CTRL, PROGRAMS, REG, STATUS } from '../../guest/bpfhv/registers.js';
import type { Direction, NicParameters } from '../../nic/control.js';
import { ShownContracts } from './contracts.js';

const ENABLED = STATUS.RX_ENABLED | STATUS.TX_ENABLED;
const ENABLES = CTRL.RX_ENABLE | CTRL.TX_ENABLE;
const DISABLES = CTRL.RX_DISABLE | CTRL.TX_DISABLE;

/** In the order in which a write that asks for several of them is carried out. */
const SWITCHES: readonly { ctrl: number; direction: Direction; status: number; on: boolean }[] = [
  { ctrl: CTRL.RX_DISABLE, direction: 'rx', status: STATUS.RX_ENABLED, on: false },
  { ctrl: CTRL.TX_DISABLE, direction: 'tx', status: STATUS.TX_ENABLED, on: false },
  { ctrl: CTRL.RX_ENABLE, direction: 'rx', status: STATUS.RX_ENABLED, on: true },
  { ctrl: CTRL.TX_ENABLE, direction: 'tx', status: STATUS.TX_ENABLED, on: true },
];

export interface RegistersOptions {
  /** What is shown of queues and buffers while there is no backend. */
  readonly parameters: NicParameters;
  /** 6 octets. */
  readonly mac: Uint8Array;
  /** Bytes from one doorbell to the next. */
  readonly doorbellSize: number;
  /** The text of the dump registers, its NUL included (`dump.ts`). */
  readonly dump: () => Uint8Array;
  /** STATUS.UPGRADE has been set. */
  readonly onShow: () => void;
  readonly log: (level: 'info' | 'warn' | 'error', message: string) => void;
}

export class BpfhvRegisters {
  readonly contracts: ShownContracts;
  /** What is behind the backend has a link. */
  carrier = true;
  readonly #options: RegistersOptions;
  readonly #queues: number;
  /** Which directions run: those bits of STATUS. */
  #enabled = 0;
  #queue = 0;
  #program = 0;
  #contextLow = 0;
  #doorbells = { low: 0, high: 0 };
  #dump: Uint8Array = Uint8Array.of(0);
  #dumpOffset = 0;

  constructor(options: RegistersOptions) {
    const registers = this;
    this.#options = options;
    this.#queues = options.parameters.numRxQueues + options.parameters.numTxQueues;
    this.contracts = new ShownContracts({
      get running() {
        return registers.#enabled !== 0;
      },
      onShow: options.onShow,
      log: options.log,
    });
  }

  /** STATUS. */
  get status(): number {
    const { pending } = this.contracts;
    return this.#enabled | (this.#linkUp ? STATUS.LINK : 0) | (pending ? STATUS.UPGRADE : 0);
  }

  /** Instructions of the selected program, 8 bytes each; nothing when there is none. */
  get program(): Uint8Array {
    const section = PROGRAMS.find(({ number }) => number === this.#program)?.section;
    return (section && this.contracts.shown?.offer.programs.get(section)) ?? new Uint8Array();
  }

  read(register: number): number {
    const { contracts } = this;
    const { mac, doorbellSize } = this.#options;
    const { numRxQueues, numTxQueues, numRxBufs, numTxBufs } =
      contracts.shown?.offer.parameters ?? this.#options.parameters;
    switch (register) {
      case REG.STATUS:
        return this.status;
      case REG.MAC_LO:
        return ((mac[2]! << 24) | (mac[3]! << 16) | (mac[4]! << 8) | mac[5]!) >>> 0;
      case REG.MAC_HI:
        return (mac[0]! << 8) | mac[1]!;
      case REG.NUM_RX_QUEUES:
        return numRxQueues;
      case REG.NUM_TX_QUEUES:
        return numTxQueues;
      case REG.NUM_RX_BUFS:
        return numRxBufs;
      case REG.NUM_TX_BUFS:
        return numTxBufs;
      case REG.RX_CTX_SIZE:
        contracts.sizesRead();
        return contracts.shown?.offer.rxContextSize ?? 0;
      case REG.TX_CTX_SIZE:
        contracts.sizesRead();
        return contracts.shown?.offer.txContextSize ?? 0;
      case REG.DOORBELL_SIZE:
        return doorbellSize;
      case REG.QUEUE_SELECT:
        return this.#queue;
      case REG.PROG_SELECT:
        return this.#program;
      case REG.PROG_SIZE:
        return this.program.length / 8;
      case REG.DOORBELL_GVA_LO:
        return this.#doorbells.low;
      case REG.DOORBELL_GVA_HI:
        return this.#doorbells.high;
      case REG.VERSION:
        return ABI_VERSION;
      case REG.FEATURES:
        return Number((contracts.shown?.features ?? 0n) & 0xffff_ffffn);
      case REG.DUMP_LEN:
        return this.#dump.length;
      case REG.DUMP_INPUT:
        return this.#dumpWord();
      case REG.DUMP_OFS:
        return this.#dumpOffset;
      default: // write-only, or nothing
        return 0;
    }
  }

  /** Resolves when it is done, or was ignored. Never rejects for what is written. */
  async write(register: number, value: number): Promise<void> {
    switch (register) {
      case REG.CTRL:
        return this.#control(value);
      case REG.QUEUE_SELECT:
        if (value < this.#queues) this.#queue = value;
        return;
      case REG.CTX_PADDR_LO:
        this.#contextLow = value;
        return;
      case REG.CTX_PADDR_HI:
        return this.contracts.setContext(this.#queue, (BigInt(value) << 32n) | BigInt(this.#contextLow));
      case REG.PROG_SELECT:
        if (PROGRAMS.some(({ number }) => number === value)) this.#program = value;
        return;
      case REG.DOORBELL_GVA_LO:
        this.#doorbells.low = value;
        return;
      case REG.DOORBELL_GVA_HI:
        this.#doorbells.high = value;
        return;
      case REG.FEATURES:
        return this.contracts.setFeatures(BigInt(value));
      case REG.DUMP_OFS:
        if (value < this.#dump.length) this.#dumpOffset = value;
        return;
      default: // read-only, or nothing
    }
  }

  /** Nothing runs any more. */
  stopped(): void {
    this.#enabled = 0;
  }

  /** As after power-on. For a backend that has been reset, or is gone. */
  reset(): void {
    this.stopped();
    this.#queue = 0;
    this.#program = 0;
    this.#contextLow = 0;
    this.#doorbells = { low: 0, high: 0 };
    this.#dump = Uint8Array.of(0);
    this.#dumpOffset = 0;
  }

  close(): void {
    this.contracts.close();
  }

  get #linkUp(): boolean {
    const { present } = this.contracts;
    if (!this.carrier || !present) return false;
    return present.contexts.slice(0, present.offer.parameters.numRxQueues).every(gpa => gpa !== 0n);
  }

  async #control(value: number): Promise<void> {
    const { contracts } = this;
    // Who starts with contexts for what is announced has taken it.
    if ((value & ENABLES) !== 0 && this.#enabled === 0 && contracts.prepared) await contracts.ready();
    await this.#both(value);
    for (const { ctrl, direction, status, on } of SWITCHES)
      if (value & ctrl) await this.#switch(direction, status, on);
    if (value & CTRL.UPGRADE_READY) await contracts.ready();
    if (value & CTRL.QUEUES_DUMP) {
      this.#dump = this.#options.dump();
      this.#dumpOffset = 0;
    }
  }

  /** Both directions in one go, where the backend can do that and both are to change. */
  async #both(value: number): Promise<void> {
    const { contracts } = this;
    if (!contracts.together) return;
    if ((value & DISABLES) === DISABLES && this.#enabled === ENABLED) {
      await contracts.ask(backend => backend.both!('disable'));
      this.#enabled = 0;
    }
    if ((value & ENABLES) === ENABLES && this.#enabled === 0) {
      if (await contracts.ask(backend => backend.both!('enable'))) this.#enabled = ENABLED;
    }
  }

  async #switch(direction: Direction, status: number, on: boolean): Promise<void> {
    if (((this.#enabled & status) !== 0) === on) return;
    const done = await this.contracts.ask(backend =>
      on ? backend.enable(direction) : backend.disable(direction),
    );
    // A backend that does not confirm a stop is gone; the bit falls in either case.
    if (done && on) this.#enabled |= status;
    if (!on) this.#enabled &= ~status;
  }

  /** Four bytes at the offset, zeros behind the end. */
  #dumpWord(): number {
    const word = new Uint8Array(4);
    word.set(this.#dump.subarray(this.#dumpOffset, this.#dumpOffset + 4));
    return new DataView(word.buffer).getUint32(0, true);
  }
}
