/**
 * A virtio network card on PCI, as its driver's transport: a slot into which a function is put, and another one when that is gone.
 *
 * ```
 *   driver ── start, stop ─────────────────► common configuration: status, features, queues
 *          ── kick eventfd ─ kernel ───────► notification of the queue
 *          ◄─ call eventfd ─ kernel ──────── MSI-X, a vector for each ring
 *   ram ◄────────────────── DMA ──────────── rings and buffers
 * ```
 * Eventfds and memory are the slot's and outlive functions. Devices of the standard only, and of those the ones that know that addresses are the bus's: any
 * other would take them for the machine's memory. No interrupt tells of the link, or of a device that broke or answers no more: status is looked at now and
 * then.
 */
import { EventFd } from '../../linux/eventfd.js';
import type { Window } from '../../memory/window.js';
import { MAX_QUEUE_PAIRS } from '../../nic/limits.js';
import { Turns } from '../../nic/turns.js';
import { NET_FEATURE } from '../../nic/virtio-offers.js';
import { VIRTIO_FEATURE as F } from '../../ring/virtio/features.js';
import type { GuestRam } from '../guest-ram.js';
import type { RingPlace, VirtioOffer, VirtioTransport } from '../virtio/transport.js';
import { type PciAccess, PciError } from './access.js';
import { wireDoorbell } from './doorbell.js';
import { COMMAND_RING, CommandQueue } from './virtio-command.js';
import { COMMON, NET_CONFIG, NET_STATUS, NO_VECTOR, PCI_NET_FEATURE as P, STATUS } from './virtio-numbers.js';
import { findPlaces, notVirtio, type VirtioPlaces } from './virtio-places.js';
import { NOTIFY_SIZE, type Notification, VirtioRegisters } from './virtio-registers.js';

/** What a device may ask of a driver about memory: the bus's addresses, and an order that processors here keep anyway. */
const PLATFORM = F.ACCESS_PLATFORM | (1n << 36n);
/** With which a device can have several pairs. */
const SEVERAL = NET_FEATURE.MQ | P.CTRL_VQ;
const SET_PAIRS = [4, 0] as const;
const ALL_ONES = 0xff;
const LOOK_MS = 1000;

/** A device before it is used. */
export interface VirtioFunction {
  readonly places: VirtioPlaces;
  /** Feature bits. */
  readonly features: bigint;
  readonly queuePairs: number;
  /** Descriptors that a ring can have. */
  readonly queueSize: number;
  /** Where each ring's notification is to be written. */
  readonly notifications: readonly Notification[];
  /** Where it has several pairs: its control queue. */
  readonly control: { readonly index: number; readonly notification: Notification } | null;
  /** 6 octets; null: it has no address of its own. */
  readonly mac: Uint8Array | null;
}

/** Looks at a function, and stops it in case somebody has left it running. Rejects with PciError: PCI_DEVICE, PCI_GONE. */
export async function probeVirtioNet(access: PciAccess): Promise<VirtioFunction> {
  const places = await findPlaces(access);
  const registers = new VirtioRegisters(access, places);
  await registers.reset();
  const features = await registers.offer();
  if ((features & F.VERSION_1) === 0n) throw notVirtio('it is from before the standard');
  if ((features & F.ACCESS_PLATFORM) === 0n) throw notVirtio("it does not take the bus's addresses");
  if (access.vectors < 2) throw notVirtio(`${access.vectors} MSI-X vectors`);
  const several = (features & SEVERAL) === SEVERAL;
  const pairs = several ? await registers.own(NET_CONFIG.MAX_PAIRS, 2) : 1;
  // Some devices have the queues of further pairs only once those were agreed on.
  await registers.agree(F.VERSION_1 | (features & PLATFORM) | (several ? SEVERAL : 0n));
  const queues = await registers.get(COMMON.NUM_QUEUES, 2);
  if (pairs < 1 || queues < 2 * pairs + (several ? 1 : 0))
    throw notVirtio(`${queues} queues for ${pairs} pairs`);
  const queuePairs = Math.min(pairs, access.vectors >> 1, MAX_QUEUE_PAIRS);
  const notifications: Notification[] = [];
  for (let ring = 0; ring < 2 * queuePairs; ring++) notifications.push(await registers.notification(ring));
  const index = 2 * pairs;
  const control = several ? { index, notification: await registers.notification(index) } : null;
  const queueSize = await registers.queueSize(2 * queuePairs);
  const mac = (features & P.MAC) === 0n ? null : await registers.mac();
  await registers.reset();
  return { places, features, queuePairs, queueSize, notifications, control, mac };
}

export interface VirtioPciOptions {
  readonly window: Window;
  readonly ram: GuestRam;
  /** At most. */
  readonly queuePairs: number;
  /** How often to look at the device's status, milliseconds. */
  readonly lookMs?: number;
}

interface Plugged {
  readonly access: PciAccess;
  readonly found: VirtioFunction;
  readonly registers: VirtioRegisters;
  offer: VirtioOffer;
  commands: CommandQueue | null;
  /** It was started, and is to run. */
  running: boolean;
  linkUp: boolean;
}

export class VirtioPci implements VirtioTransport {
  readonly ram: GuestRam;
  onChange: () => void = () => {};
  /** Called when the function in the slot is gone; it is not closed yet. */
  onGone: (reason: Error) => void = () => {};
  readonly #options: VirtioPciOptions;
  readonly #kicks: readonly EventFd[];
  readonly #calls: readonly EventFd[];
  readonly #timer: NodeJS.Timeout;
  /** Of those who set the device's status. */
  readonly #turns = new Turns();
  #looking = false;
  #plugged: Plugged | null = null;

  constructor(options: VirtioPciOptions) {
    const rings = Array.from({ length: 2 * options.queuePairs }, (_, ring) => ring);
    this.#options = options;
    this.ram = options.ram;
    this.#kicks = rings.map(ring => EventFd.create(`ring ${ring}: kick`));
    this.#calls = rings.map(ring => EventFd.create(`ring ${ring}: call`));
    this.#timer = setInterval(() => void this.#look(), options.lookMs ?? LOOK_MS);
    this.#timer.unref();
  }

  get offer(): VirtioOffer | null {
    return this.#plugged?.offer ?? null;
  }

  get linkUp(): boolean {
    return this.#plugged?.linkUp ?? false;
  }

  /**
   * Puts in a function that `probeVirtioNet` has found, in place of one that is gone. It stays the caller's. Rejects with PciError, LinuxError; the slot is
   * empty then, and of the function nothing but its closing makes sense.
   */
  async plug(access: PciAccess, found: VirtioFunction): Promise<void> {
    const queuePairs = Math.min(found.queuePairs, this.#options.queuePairs);
    // Without them MQ means nothing.
    const features = found.control ? found.features : found.features & ~NET_FEATURE.MQ;
    const offer = { features, queuePairs };
    const plugged = {
      ...{ access, found, offer, commands: null, running: false, linkUp: true },
      registers: new VirtioRegisters(access, found.places),
    };
    let lost: Error | null = null;
    access.onGone = reason => {
      lost = reason ?? gone();
      this.#lose(plugged, lost);
    };
    await access.map(this.#memory);
    await access.connect(this.#calls.slice(0, 2 * queuePairs).map(({ owner }) => owner));
    for (let ring = 0; ring < 2 * queuePairs; ring++) {
      const { bar: region, offset } = found.notifications[ring]!;
      await wireDoorbell(
        access,
        { region, offset, value: ring, size: NOTIFY_SIZE },
        this.#kicks[ring]!.owner,
      );
    }
    if (lost) throw lost;
    this.#plugged = plugged;
    this.onChange();
  }

  start(features: bigint, rings: readonly RingPlace[]): Promise<void> {
    return this.#turns.take(() => this.#start(features, rings));
  }

  stop(): Promise<void> {
    return this.#turns.take(async () => letGo(this.#here()));
  }

  kick(ring: number): number {
    return this.#kicks[ring]!.fd;
  }

  call(ring: number): number {
    return this.#calls[ring]!.fd;
  }

  /** The function reaches our memory no more, if it is there. */
  async close(): Promise<void> {
    const plugged = this.#plugged;
    this.#plugged = null;
    clearInterval(this.#timer);
    try {
      await plugged?.access.unmap(this.#memory.iova, this.#memory.size);
    } finally {
      if (plugged) closeCommands(plugged);
      for (const eventfd of [...this.#kicks, ...this.#calls]) eventfd.close();
    }
  }

  get #memory() {
    const { guestPhysicalAddress: iova, size, fd, address } = this.ram;
    return { iova, size, fd, offset: 0, address };
  }

  #here(): Plugged {
    if (!this.#plugged) throw gone();
    return this.#plugged;
  }

  async #start(features: bigint, rings: readonly RingPlace[]): Promise<void> {
    const plugged = this.#here();
    const { registers, found } = plugged;
    const several = (features & NET_FEATURE.MQ) !== 0n;
    await letGo(plugged);
    await registers.agree(features | (found.features & (PLATFORM | P.STATUS)) | (several ? SEVERAL : 0n));
    for (const ring of rings) await registers.enable(ring.index, ring.num, ring.areas, ring.index);
    if (several) await this.#makeCommands(plugged, (features & F.RING_PACKED) !== 0n);
    await registers.addStatus(STATUS.DRIVER_OK);
    if (several) await this.#setPairs(plugged, rings.length / 2);
    plugged.linkUp = await hasLink(plugged);
    plugged.running = true;
  }

  async #look(): Promise<void> {
    const plugged = this.#plugged;
    if (!plugged || this.#looking) return;
    this.#looking = true;
    try {
      await this.#turns.take(() => this.#lookAt(plugged));
    } catch (error) {
      // One that is gone tells so itself; what can't be reset is of no more use than that.
      if ((error as PciError).code === 'PCI_DEVICE') this.#lose(plugged, error as PciError);
    } finally {
      this.#looking = false;
    }
  }

  async #lookAt(plugged: Plugged): Promise<void> {
    const status = await plugged.registers.get(COMMON.STATUS, 1);
    if (status === ALL_ONES) this.#lose(plugged, gone('the device answers no more: all its bits are ones'));
    if (plugged !== this.#plugged || !plugged.running) return;
    const broken = (status & (STATUS.DRIVER_OK | STATUS.NEEDS_RESET)) !== STATUS.DRIVER_OK;
    const linkUp = broken ? plugged.linkUp : await hasLink(plugged);
    if (!broken && linkUp === plugged.linkUp) return;
    if (broken) {
      await letGo(plugged);
      plugged.offer = { ...plugged.offer }; // whoever takes it up begins anew
    }
    plugged.linkUp = linkUp;
    if (plugged === this.#plugged) this.onChange();
  }

  /** The control queue, for the number of pairs. */
  async #makeCommands(plugged: Plugged, packed: boolean): Promise<void> {
    const { registers, found } = plugged;
    if (plugged !== this.#plugged) throw gone();
    plugged.commands = new CommandQueue(this.#options.window, this.ram, packed);
    await registers.enable(found.control!.index, COMMAND_RING, plugged.commands.areas, NO_VECTOR);
  }

  async #setPairs({ access, commands, found }: Plugged, pairs: number): Promise<void> {
    if (!commands) throw gone();
    const { index, notification } = found.control!;
    const { bar, offset } = notification;
    const ring = () => access.write(bar, offset, index, NOTIFY_SIZE);
    await commands.send(Uint8Array.of(...SET_PAIRS, pairs, 0), ring);
  }

  #lose(plugged: Plugged, reason: Error): void {
    if (plugged !== this.#plugged) return;
    this.#plugged = null;
    closeCommands(plugged);
    this.onChange();
    this.onGone(reason);
  }
}

/** The device uses nothing any more. Rejects with PciError. */
async function letGo(plugged: Plugged): Promise<void> {
  plugged.running = false;
  try {
    await plugged.registers.reset();
  } finally {
    closeCommands(plugged); // a device that does not reset itself is given up
  }
}

/** A device that does not tell of a link has one. */
async function hasLink({ registers, found }: Plugged): Promise<boolean> {
  if ((found.features & P.STATUS) === 0n) return true;
  return ((await registers.own(NET_CONFIG.STATUS, 2)) & NET_STATUS.LINK_UP) !== 0;
}

function closeCommands(plugged: Plugged): void {
  plugged.commands?.close();
  plugged.commands = null;
}

function gone(message = 'there is no device'): PciError {
  return new PciError('PCI_GONE', message);
}
