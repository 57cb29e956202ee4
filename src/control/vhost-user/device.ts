/**
 * A virtio device whose other half is a vhost-user backend, for a guest driver in our own process: what QEMU is to its guest, or DPDK's virtio-user to
 * itself.
 *
 * ```
 *   driver ── start, stop ──► VhostUserDevice ── vhost-user messages ──► backend
 *          ── kick eventfd ─────────────────────────────────────────────►
 *          ◄────────────────────────────────────────────── call eventfd ──
 * ```
 * Memory, doorbells and interrupts are the guest's and outlive backends. For the backend our addresses are guest physical ones, as DPDK's are its own.
 */
import type { GuestRam } from '../../guest/guest-ram.js';
import type { RingPlace, VirtioOffer, VirtioTransport } from '../../guest/virtio/transport.js';
import { EventFd } from '../../linux/eventfd.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { VhostUserError } from './errors.js';
import { VhostUserFrontend } from './frontend.js';
import { PROTOCOL_FEATURE, PROTOCOL_FEATURES } from './requests.js';

export interface VhostUserDeviceOptions {
  readonly ram: GuestRam;
  /** At most. */
  readonly queuePairs: number;
  readonly log?: (level: 'info' | 'warn' | 'error', message: string) => void;
}

/** A backend that has been introduced. */
interface Backend {
  readonly frontend: VhostUserFrontend;
  readonly offer: VirtioOffer;
  /** It knows protocol features: rings are enabled one by one. */
  readonly enables: boolean;
  /** It knows the memory. */
  informed: boolean;
  /** Rings that it was given. */
  rings: readonly RingPlace[];
}

const WANTED = PROTOCOL_FEATURE.MQ | PROTOCOL_FEATURE.REPLY_ACK;

export class VhostUserDevice implements VirtioTransport {
  readonly ram: GuestRam;
  onChange: () => void = () => {};
  readonly #options: VhostUserDeviceOptions;
  readonly #kicks: readonly EventFd[];
  readonly #calls: readonly EventFd[];
  #backend: Backend | null = null;
  #closing = false;

  constructor(options: VhostUserDeviceOptions) {
    this.#options = options;
    this.ram = options.ram;
    const rings = Array.from({ length: 2 * options.queuePairs }, (_, ring) => ring);
    this.#kicks = rings.map(ring => EventFd.create(`ring ${ring}: kick`));
    this.#calls = rings.map(ring => EventFd.create(`ring ${ring}: call`));
  }

  get offer(): VirtioOffer | null {
    return this.#backend?.offer ?? null;
  }

  /** One backend's connection, from its first message to its end. Resolves when it is over: with whether it was of use. */
  async serve(channel: Channel): Promise<boolean> {
    let useful = false;
    const frontend = new VhostUserFrontend(channel);
    try {
      this.#backend = await this.#introduce(frontend);
      this.#log('info', 'backend connected');
      useful = true;
      this.onChange();
      const reason = await frontend.closed;
      if (!this.#closing) this.#log('warn', reason ? `backend lost: ${reason.message}` : 'backend gone');
    } catch (error) {
      frontend.close();
      const { code, message } = error as { code?: string; message: string };
      // Somebody who only looked whether we listen, or was killed while we got to know each other.
      if (code === 'VHOST_CLOSED') this.#log('warn', 'backend gone before it was known');
      else this.#log('error', `backend refused: ${message}`);
    }
    this.#backend = null;
    this.onChange();
    return useful;
  }

  async start(features: bigint, rings: readonly RingPlace[]): Promise<void> {
    const backend = this.#present();
    const { frontend, enables } = backend;
    backend.rings = rings;
    await frontend.tell('SET_FEATURES', { value: features | (enables ? PROTOCOL_FEATURES : 0n) });
    if (!backend.informed) await this.#lendMemory(frontend);
    backend.informed = true;
    // Before they start: a ring that runs and is not enabled has its frames taken and thrown away.
    for (const { index } of enables ? rings : []) await frontend.tell('SET_VRING_ENABLE', { index, num: 1 });
    for (const ring of rings) await this.#describe(frontend, ring);
  }

  async stop(): Promise<void> {
    const { frontend, rings } = this.#present();
    for (const { index } of rings) await frontend.stopVring(index);
  }

  kick(ring: number): number {
    return this.#kicks[ring]!.fd;
  }

  call(ring: number): number {
    return this.#calls[ring]!.fd;
  }

  close(): void {
    this.#closing = true;
    this.#backend?.frontend.close();
    for (const eventfd of [...this.#kicks, ...this.#calls]) eventfd.close();
  }

  async #introduce(frontend: VhostUserFrontend): Promise<Backend> {
    const features = await frontend.getFeatures();
    const enables = (features & PROTOCOL_FEATURES) !== 0n;
    if (enables) await frontend.negotiateProtocol(WANTED);
    let queuePairs = 1n;
    if ((frontend.protocol & PROTOCOL_FEATURE.MQ) !== 0n) {
      queuePairs = (await frontend.ask('GET_QUEUE_NUM', {})).value;
      if (queuePairs === 0n) throw new VhostUserError('VHOST_VALUE', 'GET_QUEUE_NUM: no queue pairs');
    }
    await frontend.tell('SET_OWNER', {});
    const most = this.#options.queuePairs;
    const pairs = queuePairs < BigInt(most) ? Number(queuePairs) : most;
    const offer = { features: features & ~PROTOCOL_FEATURES, queuePairs: pairs };
    return { frontend, offer, enables, informed: false, rings: [] };
  }

  async #lendMemory(frontend: VhostUserFrontend): Promise<void> {
    const { guestPhysicalAddress, size, fd } = this.ram;
    const region = { guestPhysicalAddress, userspaceAddress: guestPhysicalAddress, size: BigInt(size) };
    await frontend.setMemTable([{ ...region, mmapOffset: 0n, fd }]);
  }

  /** The doorbell comes last: it starts the ring. */
  async #describe(frontend: VhostUserFrontend, { index, num, base, areas }: RingPlace): Promise<void> {
    await frontend.setVringFd('SET_VRING_CALL', index, this.#calls[index]!.owner);
    await frontend.tell('SET_VRING_NUM', { index, num });
    await frontend.tell('SET_VRING_BASE', { index, num: base });
    await frontend.tell('SET_VRING_ADDR', {
      ...{ index, flags: 0, logGuestAddress: 0n },
      descriptor: areas.descriptor,
      available: areas.driver,
      used: areas.device,
    });
    await frontend.setVringFd('SET_VRING_KICK', index, this.#kicks[index]!.owner);
  }

  #present(): Backend {
    if (this.#backend) return this.#backend;
    throw new VhostUserError('VHOST_CLOSED', 'there is no backend');
  }

  #log(level: 'info' | 'warn' | 'error', message: string): void {
    this.#options.log?.(level, message);
  }
}
