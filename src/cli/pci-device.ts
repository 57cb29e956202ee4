/**
 * The devices on PCI that `guest` has drivers for: each is looked at, and has a slot that it goes into, and another one of its kind when it is gone.
 *
 * ```
 *   access ── probePci ──► PciDevice ── start ──► NIC and PciSlot ◄── plug ── a device, and later ones
 * ```
 */
import { type PciAccess, PciError } from '../guest/pci/access.js';
import { type BpfhvFunction, probeBpfhv } from '../guest/pci/bpfhv-pci.js';
import { VIRTIO_VENDOR } from '../guest/pci/virtio-numbers.js';
import { probeVirtioNet, type VirtioFunction } from '../guest/pci/virtio-pci.js';
import { REGION } from '../linux/vfio-numbers.js';
import {
  type GuestNic,
  type GuestNicOptions,
  type PciReserve,
  startBpfhvPciGuest,
  startVirtioPciGuest,
} from './guest-nic.js';
import { UsageError } from './host.js';

/** Found, and not used yet. */
export interface PciDevice {
  readonly kind: 'bpfhv' | 'virtio';
  /** Queue pairs. */
  readonly queues: number;
  /** A NIC for it and others like it. Rejects with UsageError for options that its kind has no use for. */
  start(options: GuestNicOptions, reserve: PciReserve): Promise<{ nic: GuestNic; slot: PciSlot }>;
}

export interface PciSlot {
  /** Told when the device in it is gone. */
  set onGone(handler: (reason: Error) => void);
  /** Puts a device in. Rejects with PciError PCI_DEVICE for one of another kind. */
  plug(access: PciAccess, device: PciDevice): Promise<void>;
}

/** What is behind it. Rejects with PciError PCI_DEVICE, DriverError DRIVER_DEVICE for what no driver here can work with; PCI_GONE. */
export async function probePci(access: PciAccess): Promise<PciDevice> {
  const [low = 0, high = 0] = await access.readWords(REGION.CONFIG, 0, 4);
  return (low | (high << 8)) === VIRTIO_VENDOR
    ? new VirtioDevice(await probeVirtioNet(access))
    : new BpfhvDevice(await probeBpfhv(access));
}

export class BpfhvDevice implements PciDevice {
  readonly kind = 'bpfhv';
  readonly found: BpfhvFunction;

  constructor(found: BpfhvFunction) {
    this.found = found;
  }

  get queues(): number {
    return this.found.sizes.numRxQueues;
  }

  async start(options: GuestNicOptions, reserve: PciReserve) {
    if (options.packed)
      throw new UsageError('--packed is for virtio: the ring format of a bpfhv device is its own');
    const { nic, slot } = await startBpfhvPciGuest(options, { sizes: this.found.sizes, ...reserve });
    return { nic, slot: slotFor(BpfhvDevice, slot) };
  }
}

class VirtioDevice implements PciDevice {
  readonly kind = 'virtio';
  readonly found: VirtioFunction;

  constructor(found: VirtioFunction) {
    this.found = found;
  }

  get queues(): number {
    return this.found.queuePairs;
  }

  async start(options: GuestNicOptions, reserve: PciReserve) {
    if (options.key) throw new UsageError('--key-file is for bpfhv: virtio has no programs that could seal');
    const { nic, slot } = await startVirtioPciGuest(options, { found: this.found, ...reserve });
    return { nic, slot: slotFor(VirtioDevice, slot) };
  }
}

interface SlotOf<Found> {
  onGone: (reason: Error) => void;
  plug(access: PciAccess, found: Found): Promise<void>;
}

/** A slot of the driver's, for one kind of device. */
export function slotFor<Found>(
  Kind: new (found: Found) => PciDevice & { readonly found: Found },
  slot: SlotOf<Found>,
): PciSlot {
  return {
    set onGone(handler: (reason: Error) => void) {
      slot.onGone = handler;
    },
    async plug(access, device) {
      if (!(device instanceof Kind)) throw new PciError('PCI_DEVICE', `it is a ${device.kind} device now`);
      await slot.plug(access, device.found);
    },
  };
}
