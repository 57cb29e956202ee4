/**
 * A PCI function of this machine, a virtual one or not, that the kernel hands to this process: by VFIO, which needs an IOMMU.
 *
 * ```
 *   the function's driver ── unbind ──► vfio-pci ── this process … close ──► the former driver again
 * ```
 * What the kernel asks back (it is unplugged, or its administrator takes it away) is gone: the kernel waits until it is closed.
 */
import { isErrno } from '../../linux/errors.js';
import { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import {
  bindPciDriver,
  groupMembers,
  type PciBinding,
  type PciNode,
  parsePciAddress,
  readPciNode,
} from '../../linux/pci-bind.js';
import { Sysfs } from '../../linux/sysfs.js';
import { type VfioDevice, VfioGroup, type Width } from '../../linux/vfio.js';
import type { IommuFacts } from '../../linux/vfio-layout.js';
import { IRQ, REGION } from '../../linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import { type PciAccess, PciError } from './access.js';

const DRIVER = 'vfio-pci';
/** Bits of the command register in configuration space: memory decoding, bus mastering. */
const COMMAND = 4;
const DECODE_AND_MASTER = 0x2 | 0x4;

/** Where the kernel shows its devices, and hands them out. */
export interface KernelPciPlaces {
  readonly sysfs?: Sysfs;
  /** Default: /dev/vfio. */
  readonly vfio?: string;
}

export class KernelPci implements PciAccess {
  readonly address: string;
  onGone: (reason: Error | null) => void = () => {};
  readonly #group: VfioGroup;
  readonly #device: VfioDevice;
  /** Signalled when the kernel wants the function back. */
  readonly #request: EventFd;
  /** All end with the access, watch and eventfd together. */
  readonly #watched: { readonly eventfd: EventFd; readonly watch: Watch }[] = [];
  readonly #binding: PciBinding;
  #state: 'here' | 'gone' | 'closed' = 'here';

  /**
   * Takes a function, by its address in sysfs (`0000:01:00.0` or `01:00.0`), from the driver that has it. Rejects with PciError: PCI_ADDRESS (there is none),
   * PCI_IOMMU (none watches over it, or the kernel has no VFIO), PCI_BUSY (another process has it, or the kernel uses what can't be told apart from it); or with
   * LinuxError. Then it is with the driver that had it.
   */
  static async open(address: string, places: KernelPciPlaces = {}): Promise<KernelPci> {
    const { sysfs = new Sysfs(), vfio } = places;
    const { node, group } = find(sysfs, address);
    const binding = take(sysfs, node);
    try {
      return new KernelPci(node.address, openGroup(sysfs, group, vfio), binding);
    } catch (error) {
      binding.undo();
      throw error;
    }
  }

  private constructor(address: string, group: VfioGroup, binding: PciBinding) {
    this.address = address;
    this.#group = group;
    this.#binding = binding;
    this.#request = EventFd.create(`the kernel's request for ${address}`);
    try {
      this.#device = group.device(address);
      try {
        if ((this.#device.irqs[IRQ.REQ] ?? 0) > 0) this.#device.connect(IRQ.REQ, [this.#request.fd]);
        const command = this.#device.read(REGION.CONFIG, COMMAND, 2);
        this.#device.write(REGION.CONFIG, COMMAND, command | DECODE_AND_MASTER, 2);
      } catch (error) {
        this.#device.close();
        throw error;
      }
    } catch (error) {
      this.#request.close();
      group.close();
      throw error;
    }
    this.#watch(this.#request, () => {
      this.#lose(new PciError('PCI_GONE', `the kernel takes PCI function ${address} back`));
    });
  }

  get vectors(): number {
    return this.#device.irqs[IRQ.MSIX] ?? 0;
  }

  regionSize(region: number): number {
    return this.#device.regions[region]?.size ?? 0;
  }

  async read(region: number, offset: number, size: Width): Promise<number> {
    return this.#here(device => device.read(region, offset, size));
  }

  async readWords(region: number, offset: number, length: number): Promise<Uint8Array> {
    return this.#here(device => {
      const words = new Uint32Array(length / 4);
      for (let i = 0; i < words.length; i++) words[i] = device.read(region, offset + 4 * i, 4);
      return new Uint8Array(words.buffer);
    });
  }

  async write(region: number, offset: number, value: number, size: Width): Promise<void> {
    this.#here(device => device.write(region, offset, value, size));
  }

  /** The kernel does it where it can: else this thread does, after the eventfd, which it then reads. */
  async wire(region: number, offset: number, value: number, size: Width, eventfd: OwnedFd): Promise<void> {
    this.#here(device => {
      try {
        device.wire(region, offset, value, size, eventfd.fd);
      } catch (error) {
        if (!isErrno(error, 'EINVAL', 'ENOTTY', 'ENOSPC')) throw error;
        // One of our own: the caller may close his while it is watched.
        this.#watch(EventFd.adopt(eventfd.dup()), () => {
          void this.write(region, offset, value, size).catch(() => {}); // `onGone` has said so
        });
      }
    });
  }

  async connect(eventfds: readonly OwnedFd[]): Promise<void> {
    const fds = eventfds.map(({ fd }) => fd);
    this.#here(device => device.connect(IRQ.MSIX, fds));
  }

  async map({ iova, size, address }: Parameters<PciAccess['map']>[0]): Promise<void> {
    this.#here(() => {
      const why = unmappable(this.#group.iommu, iova, BigInt(size), BigInt(address));
      if (why)
        throw new PciError(
          'PCI_IOMMU',
          `the IOMMU can't map ${size} bytes as 0x${iova.toString(16)}: ${why}`,
        );
      this.#group.map(iova, size, address);
    });
  }

  async unmap(iova: bigint, size: number): Promise<void> {
    this.#here(() => this.#group.unmap(iova, size));
  }

  async close(): Promise<void> {
    const state = this.#state;
    this.#state = 'closed';
    if (state === 'closed') return;
    for (const { watch } of this.#watched) watch.close();
    this.#device.close(); // interrupts and wires end here, and bus mastering
    this.#group.close();
    for (const { eventfd } of this.#watched) eventfd.close();
    if (state === 'gone') this.#binding.forget();
    else this.#binding.undo();
  }

  #watch(eventfd: EventFd, callback: () => void): void {
    const watch = watchReadable(eventfd.fd, () => {
      eventfd.drain();
      callback();
    });
    watch.unref();
    this.#watched.push({ eventfd, watch });
  }

  /** Does something with a function that is there. Throws PciError PCI_GONE; LinuxError for what is refused. */
  #here<T>(action: (device: VfioDevice) => T): T {
    if (this.#state !== 'here') throw new PciError('PCI_GONE', `PCI function ${this.address} is gone`);
    try {
      return action(this.#device);
    } catch (error) {
      if (!isErrno(error, 'EIO', 'ENODEV')) throw error;
      const gone = new PciError('PCI_GONE', error.message, { cause: error });
      this.#lose(gone);
      throw gone;
    }
  }

  #lose(reason: PciError): void {
    if (this.#state !== 'here') return;
    this.#state = 'gone';
    this.onGone(reason);
  }
}

/** Why an IOMMU can't map that; null: it can. */
function unmappable(
  { pageSizes, ranges }: IommuFacts,
  iova: bigint,
  size: bigint,
  address: bigint,
): string | null {
  const page = pageSizes & -pageSizes; // the smallest one
  if (page !== 0n && (iova | size | address) % page !== 0n) return `its pages have ${page} bytes`;
  if (!ranges || ranges.some(({ start, end }) => start <= iova && iova + size - 1n <= end)) return null;
  const reach = ranges.map(({ start, end }) => `0x${start.toString(16)}-0x${end.toString(16)}`);
  return `it has ${reach.join(', ')}`;
}

function find(sysfs: Sysfs, text: string): { node: PciNode; group: number } {
  const address = parsePciAddress(text);
  if (address === null) {
    throw new PciError('PCI_ADDRESS', `"${text}" is no PCI address: write it as 0000:01:00.0 or 01:00.0`);
  }
  const node = readPciNode(sysfs, address);
  if (!node) throw new PciError('PCI_ADDRESS', `there is no PCI function ${address}`);
  if (node.group === null) {
    const advice = 'boot the kernel with intel_iommu=on or amd_iommu=on, on a machine that has one';
    throw new PciError('PCI_IOMMU', `no IOMMU watches over PCI function ${address}: ${advice}`);
  }
  return { node, group: node.group };
}

/** Binds it to the driver that hands functions out. */
function take(sysfs: Sysfs, node: PciNode): PciBinding {
  if (sysfs.list(`bus/pci/drivers/${DRIVER}`).length === 0) {
    throw new PciError('PCI_IOMMU', `the kernel has no driver ${DRIVER}: modprobe ${DRIVER}`);
  }
  return bindPciDriver(sysfs, node, DRIVER);
}

function openGroup(sysfs: Sysfs, group: number, folder?: string): VfioGroup {
  try {
    return new VfioGroup(group, folder);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) {
      const advice = `modprobe vfio_iommu_type1`;
      throw new PciError('PCI_IOMMU', `the kernel has no VFIO: ${error.message}: ${advice}`, {
        cause: error,
      });
    }
    if (!isErrno(error, 'EBUSY')) throw error;
    const others = groupMembers(sysfs, group).filter(({ driver }) => driver !== null && driver !== DRIVER);
    const who = others.map(({ address, driver }) => `${address} (${driver})`).join(', ');
    const why = who ? `it also holds ${who}` : 'another process has it';
    throw new PciError('PCI_BUSY', `IOMMU group ${group} can't be had: ${why}`, { cause: error });
  }
}
