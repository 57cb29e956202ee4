/**
 * A virtio network card as its driver knows it, whatever the registers look like: status, features, queues, the control queue. What moves frames is a
 * VirtioNic.
 *
 * ```
 *                  FEATURES_OK, if it agrees      DRIVER_OK: rings of enabled queues go to the NIC
 *   0 ── ACKNOWLEDGE, DRIVER ──────► features ──────────────────────────────────────────────────────► running
 *   ▲                                                                                                    │
 *   └──────────────────────────────────── status 0 ◄── NEEDS_RESET, when something broke ────────────────┘
 * ```
 * Queues are numbered as the driver does: of each pair one receives and one transmits; the control queue is behind them.
 */

import { PCI_NET_FEATURE as P, STATUS } from '../../guest/pci/virtio-numbers.js';
import type { Window } from '../../memory/window.js';
import type { VirtioNic } from '../../nic/virtio-nic.js';
import { NET_FEATURE } from '../../nic/virtio-offers.js';
import { VIRTIO_FEATURE as F } from '../../ring/virtio/features.js';
import type { Interrupts } from '../interrupts.js';
import { carryOut } from './control-commands.js';
import { ControlQueue } from './control-queue.js';
import { DataRings } from './data-rings.js';
import { DeviceQueue } from './device-queue.js';
import { GuestBytes } from './guest-bytes.js';
import { NetConfig } from './net-config.js';
import { VirtioSignals } from './signals.js';

export interface VirtioNetOptions {
  /** Stays its owner's; nobody else speaks to it as a front end. */
  readonly nic: VirtioNic;
  readonly window: Window;
  /** 6 octets. */
  readonly mac: Uint8Array;
  /** The guest is told the largest packet; default: it is not, and takes 1500. */
  readonly mtu?: number | undefined;
  /** Descriptors of each queue at most: a power of two, no more than the NIC's limit. Default 256, or that limit. */
  readonly queueSize?: number;
  /** Feature bits that the guest is not offered, though they could be had: packed rings, for example. */
  readonly withhold?: bigint;
  /** For the names of eventfds. */
  readonly name?: string;
  readonly log?: (level: 'warn', message: string) => void;
}

/** Warnings about a guest that are logged, until its host is another one. */
const MAX_WARNINGS = 100;

/** What the NIC offers and is for others to use: a dirty log is vhost's; the largest packet is said only where it is known. */
const NOT_OFFERED = F.LOG_ALL | NET_FEATURE.MTU;
const OWN = Object.values(P).reduce((all, one) => all | one, 0n);
/** Of no meaning to drivers that follow the standard. */
const LEGACY_ONLY = F.ANY_LAYOUT;
const WORD = 0xffff_ffffn;

export class VirtioNetDevice {
  readonly nic: VirtioNic;
  readonly config: NetConfig;
  readonly signals: VirtioSignals;
  readonly queues: readonly DeviceQueue[];
  /** What drivers of before the standard are offered: 32 bits of it. */
  readonly legacyOffer: bigint;
  readonly offer: bigint;
  /** Registers that say which part of something others show. */
  readonly select = { offer: 0, accepted: 0, queue: 0 };
  readonly #options: VirtioNetOptions;
  readonly #rings: DataRings;
  readonly #control: ControlQueue;
  /** As the driver has written them. */
  #accepted = 0n;
  /** As they were agreed on. */
  #features = 0n;
  #status = 0;
  #warnings = 0;

  constructor(options: VirtioNetOptions & { queueSize: number }, interrupts: Interrupts) {
    const { nic, window, mac, mtu = 0, queueSize, name = 'virtio-net' } = options;
    const hidden = NOT_OFFERED | (options.withhold ?? 0n);
    this.nic = nic;
    this.#options = options;
    const offered = ((nic.features() | OWN) & ~hidden) | (mtu > 0 ? NET_FEATURE.MTU : 0n);
    this.offer = offered & ~LEGACY_ONLY;
    this.legacyOffer = offered & WORD;
    this.config = new NetConfig({ mac, maxPairs: nic.queuePairs, mtu });
    this.queues = Array.from(
      { length: 2 * nic.queuePairs + 1 },
      (_, index) => new DeviceQueue(index, queueSize, name),
    );
    this.signals = new VirtioSignals(interrupts, name);
    this.#rings = new DataRings({
      ...{ nic, mtu, name, signals: this.signals },
      onBroken: error => this.#broke(error),
    });
    this.#control = new ControlQueue({
      memory: new GuestBytes(window, () => nic.memory),
      carryOut: command => this.#carryOut(command),
      interrupt: () => this.signals.queueUsed(this.queues[this.#controlIndex]!),
      onBroken: error => this.#broke(error),
    });
  }

  get status(): number {
    if (this.nic.faulty) this.#status |= STATUS.NEEDS_RESET;
    return this.#status;
  }

  /** What driver and device have agreed on. */
  get features(): bigint {
    return this.#features;
  }

  get running(): boolean {
    return (this.#status & STATUS.DRIVER_OK) !== 0;
  }

  /** What the driver has written. */
  get accepted(): bigint {
    return this.#accepted;
  }

  /** 32 bits of what the driver takes: `half` 0 or 1, others do not exist. */
  accept(half: number, value: number): void {
    if (half > 1 || (this.#status & STATUS.FEATURES_OK) !== 0) return;
    const shift = BigInt(32 * half);
    this.#accepted = (this.#accepted & ~(WORD << shift)) | (BigInt(value) << shift);
  }

  /** All that a driver from before the standard takes: there is nothing to agree on. */
  acceptLegacy(features: number): void {
    if (this.running) return;
    this.#accepted = BigInt(features) & this.legacyOffer;
    this.#features = this.#accepted;
  }

  /** Status 0 resets; bits that were set stay until then. `legacy`: the driver is from before the standard, and does not ask about features. */
  async setStatus(value: number, legacy = false): Promise<void> {
    if (value === 0) return this.reset();
    const fresh = value & ~this.#status;
    this.#status |= fresh & (STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FAILED);
    if ((fresh & STATUS.FEATURES_OK) !== 0 && !this.running) this.#agree();
    const agreed = legacy || (this.#status & STATUS.FEATURES_OK) !== 0;
    if ((fresh & STATUS.DRIVER_OK) !== 0 && agreed) await this.#begin();
  }

  /** Drivers from before the standard have no command for the address, and write it. */
  writeConfig(offset: number, bytes: Uint8Array): void {
    if ((this.#features & F.VERSION_1) === 0n) this.config.write(offset, bytes);
  }

  /** The driver has described a queue. */
  async enableQueue(queue: DeviceQueue): Promise<void> {
    if (queue.enabled) return;
    queue.enabled = true;
    if (this.running) await this.#start(queue);
  }

  /** One queue is as if it had never been used, the others go on. */
  async resetQueue(queue: DeviceQueue): Promise<void> {
    if (this.#isControl(queue)) await this.#control.stop();
    else await this.#rings.stop(queue);
    queue.reset();
  }

  /** The driver has something in that queue. */
  notify(index: number): void {
    this.queues[index]?.kick.signal();
  }

  async setVector(queue: DeviceQueue, vector: number): Promise<void> {
    queue.vector = this.signals.accepted(vector);
    await this.#rings.retarget();
  }

  /** Interrupts go elsewhere now. */
  retarget(): Promise<void> {
    return this.#rings.retarget();
  }

  /** The NIC's memory is another one. */
  memoryChanged(): void {
    this.#control.look();
  }

  /** The guest learns that there is a cable, or none. */
  setLink(up: boolean): void {
    if (up === this.config.linkUp) return;
    this.config.linkUp = up;
    this.#configChanged();
  }

  /** The network is another one: it is to learn where the guest is, from the guest if that can do it. */
  async announce(): Promise<void> {
    if (!this.running) return;
    const able = NET_FEATURE.GUEST_ANNOUNCE | P.STATUS | P.CTRL_VQ;
    if ((this.#features & able) !== able) return this.nic.announce(this.config.mac);
    this.config.announce = true;
    this.#configChanged();
  }

  /** As after power-on, with the memory that there is. */
  async reset(): Promise<void> {
    await this.#control.stop();
    await this.#rings.reset();
    this.#status = 0;
    this.#accepted = 0n;
    this.#features = 0n;
    Object.assign(this.select, { offer: 0, accepted: 0, queue: 0 });
    this.config.reset();
    for (const queue of this.queues) queue.reset();
    this.signals.reset();
  }

  /** Says something about the guest, if not too much has been said about it already. */
  warn(message: string): void {
    if (this.#warnings++ < MAX_WARNINGS) this.#options.log?.('warn', message);
  }

  /** Its host is gone, as the NIC was told: another one may come. */
  forgive(): void {
    this.#warnings = 0;
  }

  /** For a device that was reset. */
  close(): void {
    this.#rings.close();
    this.signals.close();
    for (const { kick } of this.queues) kick.close();
  }

  get #controlIndex(): number {
    return (this.#features & NET_FEATURE.MQ) !== 0n ? 2 * this.nic.queuePairs : 2;
  }

  #isControl({ index }: DeviceQueue): boolean {
    return index === this.#controlIndex;
  }

  /** The driver asks whether its features will do. */
  #agree(): void {
    const foreign = this.#accepted & ~this.offer;
    if (foreign !== 0n || (this.#accepted & F.VERSION_1) === 0n) {
      this.warn(`the guest's features 0x${this.#accepted.toString(16)} are refused`);
      return;
    }
    this.#features = this.#accepted;
    this.#status |= STATUS.FEATURES_OK;
  }

  async #begin(): Promise<void> {
    this.#status |= STATUS.DRIVER_OK;
    await this.#rings.begin(this.#features);
    for (const queue of this.queues) if (queue.enabled) await this.#start(queue);
  }

  async #start(queue: DeviceQueue): Promise<void> {
    const { index, size: num, areas, kick } = queue;
    if (!this.#isControl(queue)) {
      // Without MQ there is one pair, and queues behind the control queue have no meaning.
      if (index < this.#controlIndex) await this.#rings.start(queue);
      return;
    }
    if ((this.#features & P.CTRL_VQ) === 0n) return;
    try {
      this.#control.start({ num, areas }, this.#features, kick);
    } catch (error) {
      this.#broke(error as Error);
    }
  }

  async #carryOut(command: Uint8Array): Promise<boolean> {
    const { config } = this;
    try {
      return await carryOut(
        {
          ...{ features: this.#features, maxPairs: this.nic.queuePairs },
          setMac: mac => {
            config.mac = mac;
          },
          announced: () => {
            config.announce = false;
          },
          setPairs: pairs => this.#rings.setPairs(pairs),
        },
        command,
      );
    } catch (error) {
      this.warn(`a command of the guest failed: ${(error as Error).message}`);
      return false;
    }
  }

  #configChanged(): void {
    if (this.running) this.signals.configChanged();
  }

  /** Nothing but a reset helps. */
  #broke(error: Error): void {
    this.warn(`the guest has to reset its device: ${error.message}`);
    this.#status |= STATUS.NEEDS_RESET;
    this.#configChanged();
  }
}
