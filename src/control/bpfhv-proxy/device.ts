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
 * What registers do, and how the contract is shown that a connected backend announces, is every bpfhv device's (`src/pci/bpfhv/`).
 */
import type { BpfhvTransport } from '../../guest/bpfhv/transport.js';
import type { GuestRam } from '../../guest/guest-ram.js';
import { EventFd } from '../../linux/eventfd.js';
import type { NicParameters } from '../../nic/control.js';
import { BpfhvRegisters } from '../../pci/bpfhv/registers.js';
import type { Channel } from './channel.js';
import { deviceDump } from './dump.js';
import { ProxyFrontend } from './frontend.js';
import { ProxyQueueBackend } from './queue-backend.js';

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

export class ProxyDevice implements BpfhvTransport {
  readonly ram: GuestRam;
  onChange: () => void = () => {};
  readonly #options: ProxyDeviceOptions;
  readonly #parameters: NicParameters;
  readonly #registers: BpfhvRegisters;
  readonly #kicks: readonly EventFd[];
  readonly #irqs: readonly EventFd[];
  #frontend: ProxyFrontend | null = null;
  #closing = false;

  constructor(options: ProxyDeviceOptions) {
    const { ram, queuePairs, bufs, mac } = options;
    this.#options = options;
    this.ram = ram;
    this.#parameters = {
      ...{ numRxQueues: queuePairs, numTxQueues: queuePairs },
      ...{ numRxBufs: bufs, numTxBufs: bufs },
    };
    const queues = 2 * queuePairs;
    this.#kicks = Array.from({ length: queues }, (_, i) => EventFd.create(`queue ${i}: doorbell`));
    this.#irqs = Array.from({ length: queues }, (_, i) => EventFd.create(`queue ${i}: interrupt`));
    this.#registers = new BpfhvRegisters({
      ...{ parameters: this.#parameters, mac, doorbellSize: DOORBELL_SIZE },
      dump: () => this.#dump(),
      onShow: () => this.onChange(),
      log: (level, message) => this.#log(level, message),
    });
  }

  get present(): boolean {
    return this.#registers.contracts.present !== null;
  }

  get previews(): boolean {
    return this.#registers.contracts.previews;
  }

  get generation(): number {
    return this.#registers.contracts.generation;
  }

  doorbell(queue: number): number {
    return this.#kicks[queue]!.fd;
  }

  interrupt(queue: number): number {
    return this.#irqs[queue]!.fd;
  }

  /** One backend's connection, from its first message to its end. Resolves when it is over: with whether it was of use. */
  async serve(channel: Channel): Promise<boolean> {
    const { contracts } = this.#registers;
    let useful = false;
    const frontend = new ProxyFrontend(channel, { onRefusal: 'keep' });
    try {
      const backend = await this.#introduce(frontend);
      const offer = await backend.offer();
      this.#frontend = frontend;
      this.#registers.stopped();
      contracts.attach(backend, offer, { show: true });
      this.#log('info', 'backend connected');
      useful = true;
      const reason = await frontend.closed;
      if (!this.#closing) this.#log('warn', reason ? `backend lost: ${reason.message}` : 'backend gone');
    } catch (error) {
      frontend.close();
      const { code, message } = error as { code?: string; message: string };
      // Somebody who only looked whether we listen, or was killed while we got to know each other.
      if (code === 'PROXY_CLOSED') this.#log('warn', 'backend gone before it was known');
      else this.#log('error', `backend refused: ${message}`);
    }
    this.#frontend = null;
    this.#registers.stopped();
    contracts.detach();
    this.onChange();
    return useful;
  }

  async read(register: number): Promise<number> {
    return this.#registers.read(register);
  }

  write(register: number, value: number): Promise<void> {
    return this.#registers.write(register, value);
  }

  async readProgram(instructions: number): Promise<Uint8Array> {
    return this.#registers.program.subarray(0, instructions * 8);
  }

  close(): void {
    this.#closing = true;
    this.#frontend?.close();
    this.#registers.close();
    for (const eventfd of [...this.#kicks, ...this.#irqs]) eventfd.close();
  }

  /** A VMM tells a backend that has just connected of the guest's memory before it asks for anything. */
  async #introduce(frontend: ProxyFrontend): Promise<ProxyQueueBackend> {
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
    return new ProxyQueueBackend(frontend, {
      parameters: this.#parameters,
      kicks: this.#kicks,
      irqs: this.#irqs,
      upgrade: this.#registers.contracts.upgradeFd.owner,
    });
  }

  #dump(): Uint8Array {
    const { ram, bufs } = this.#options;
    const { status, contracts } = this.#registers;
    const { features = 0n } = contracts.shown ?? {};
    const contexts = contracts.present?.contexts ?? this.#kicks.map(() => 0n);
    return deviceDump({ ram, status, features, contexts, bufs });
  }

  #log(level: 'info' | 'warn' | 'error', message: string): void {
    this.#options.log?.(level, message);
  }
}
