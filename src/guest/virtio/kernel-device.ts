/**
 * The kernel's vhost-net as the device of a guest in this process: it works on our rings, and moves the frames to and from a TAP or macvtap.
 *
 * ```
 *   netdev ── driver ── rings ── vhost-net of pair 0 ── queue 0 ──┐
 *                                vhost-net of pair 1 ── queue 1 ──┴ TAP, macvtap
 * ```
 * vhost-net knows the rings' features; offloads are the TAP's, which takes whatever it is given and hands out what `setOffloads` allows.
 */

import { OFFLOAD_USO } from '../../../datapath/layout.js';
import { EventFd } from '../../linux/eventfd.js';
import { VhostNet, type VhostRing } from '../../linux/vhost.js';
import type { Window } from '../../memory/window.js';
import { NET_FEATURE } from '../../nic/virtio-offers.js';
import type { TapHandle } from '../../port/tap.js';
import { VIRTIO_FEATURE as F, queueSettings } from '../../ring/virtio/features.js';
import type { GuestRam } from '../guest-ram.js';
import type { RingPlace, VirtioOffer, VirtioTransport } from './transport.js';

/** Of what vhost-net offers: bit 27 is another feature there, the header's; addresses are not translated; no log is kept. */
const RING_FEATURES = F.MRG_RXBUF | F.INDIRECT_DESC | F.EVENT_IDX | F.VERSION_1 | F.RING_PACKED;
const TAP_FEATURES =
  F.CSUM |
  (F.HOST_TSO4 | F.HOST_TSO6 | F.HOST_ECN | F.HOST_UFO) |
  F.GUEST_CSUM |
  (F.GUEST_TSO4 | F.GUEST_TSO6 | F.GUEST_ECN | F.GUEST_UFO);
/** Kernels from 6.2 on. */
const USO_FEATURES = F.HOST_USO | F.GUEST_USO4 | F.GUEST_USO6;

export interface KernelDeviceOptions {
  readonly window: Window;
  readonly ram: GuestRam;
  /** The TAP or macvtap behind it: a queue pair for each of its lanes. It stays its owner's. */
  readonly backend: TapHandle;
  /** Default: /dev/vhost-net. */
  readonly path?: string;
}

export class KernelDevice implements VirtioTransport {
  readonly ram: GuestRam;
  readonly offer: VirtioOffer;
  onChange: () => void = () => {};
  readonly #options: KernelDeviceOptions;
  readonly #pairs: VhostNet[] = [];
  readonly #kicks: EventFd[] = [];
  readonly #calls: EventFd[] = [];
  /** Rings that have a backend. */
  #running = 0;

  /** Throws LinuxError: ENOENT without the kernel's module vhost_net. */
  constructor(options: KernelDeviceOptions) {
    const { ram, backend } = options;
    this.#options = options;
    this.ram = ram;
    try {
      for (const _ of backend.lanes) {
        const pair = VhostNet.open(options.path);
        this.#pairs.push(pair);
        pair.setOwner();
      }
      for (let ring = 0; ring < 2 * backend.lanes.length; ring++) {
        this.#kicks.push(EventFd.create(`ring ${ring}: kick`));
        this.#calls.push(EventFd.create(`ring ${ring}: call`));
      }
      const pairs = backend.lanes.length;
      const offloads = TAP_FEATURES | ((backend.offloads & OFFLOAD_USO) === 0 ? 0n : USO_FEATURES);
      const features =
        (this.#pairs[0]!.features & RING_FEATURES) | offloads | (pairs > 1 ? NET_FEATURE.MQ : 0n);
      this.offer = { features, queuePairs: pairs };
    } catch (error) {
      this.close();
      throw error;
    }
  }

  async start(features: bigint, rings: readonly RingPlace[]): Promise<void> {
    const { backend } = this.#options;
    backend.setOffloads?.(queueSettings(features, 'rx').offloads);
    backend.useLanes?.(rings.length / 2);
    const region = {
      guestPhysicalAddress: this.ram.guestPhysicalAddress,
      size: BigInt(this.ram.size),
      userspaceAddress: this.#userspace(this.ram.guestPhysicalAddress),
    };
    for (const pair of this.#pairs) {
      pair.setFeatures(features & RING_FEATURES);
      pair.setMemory([region]);
    }
    for (const ring of rings) this.#pairs[ring.index >> 1]!.setRing(ring.index & 1, this.#described(ring));
    for (const { index } of rings) {
      this.#pairs[index >> 1]!.setBackend(index & 1, backend.lanes[index >> 1]!.fds[0]!);
      this.#running++;
    }
  }

  async stop(): Promise<void> {
    for (let ring = 0; ring < this.#running; ring++) {
      this.#pairs[ring >> 1]!.setBackend(ring & 1, null);
      this.#pairs[ring >> 1]!.ringBase(ring & 1);
    }
    this.#running = 0;
    this.#options.backend.setOffloads?.(0);
  }

  kick(ring: number): number {
    return this.#kicks[ring]!.fd;
  }

  call(ring: number): number {
    return this.#calls[ring]!.fd;
  }

  /** The kernel touches no ring any more. */
  close(): void {
    for (const owner of [...this.#pairs, ...this.#kicks, ...this.#calls]) owner.close();
  }

  #described({ index, num, base, areas }: RingPlace): VhostRing {
    return {
      ...{ num, base, kick: this.kick(index), call: this.call(index) },
      descriptor: this.#userspace(areas.descriptor),
      available: this.#userspace(areas.driver),
      used: this.#userspace(areas.device),
    };
  }

  /** Where this process has a guest physical address: the guest's memory lies in the window as a whole. */
  #userspace(gpa: bigint): bigint {
    return BigInt(this.#options.window.base) + gpa - this.ram.toGuest(0);
  }
}
