/**
 * The kernel's VFIO: a PCI function in the hands of this process, behind an IOMMU that lets it reach only what was mapped.
 *
 * ```
 *   /dev/vfio/vfio   container ── map ──►  bus addresses ──► memory of this process
 *   /dev/vfio/7      group ── joins the container, hands out
 *                    device ── regions at offsets of its file, interrupts to eventfds, eventfds to writes
 * ```
 * Registers are read and written through the device's file and not mapped: the kernel makes of each call exactly one access of that width, and an access to a
 * function that is gone, or whose memory is switched off, is an error there and would be a SIGBUS here.
 *
 * Numbers and layouts: vfio-layout.ts.
 */
import { check, EINVAL, EIO, ERRNO, LinuxError } from './errors.js';
import { OwnedFd } from './fd.js';
import { ioctl, ioctlValue, open, type Pointer, pread, pwrite } from './libc.js';
import * as L from './vfio-layout.js';

const O_RDWR_CLOEXEC = 0o2 | 0o2000000;
/** Bytes for what an IOMMU says of itself; it is asked again where that is too few. */
const INFO_ROOM = 1024;

export type Width = 1 | 2 | 4;

function call(owner: OwnedFd, name: keyof typeof L.VFIO, argument: Pointer): number {
  return check(ioctl(owner.fd, L.VFIO[name], argument), `ioctl VFIO_${name}`, owner.name);
}

/** One IOMMU group in a container of its own: the address space of its devices. */
export class VfioGroup {
  readonly iommu: L.IommuFacts;
  readonly #container: OwnedFd;
  readonly #group: OwnedFd;

  /**
   * Takes a group for this process alone. Throws LinuxError: ENOENT (no vfio_pci in the kernel, or nothing of the group bound to it), EBUSY (another process
   * has it, or the kernel uses another of its devices), EACCES.
   * @param folder where the kernel's files are
   */
  constructor(number: number, folder = '/dev/vfio') {
    const container = `${folder}/vfio`;
    const group = `${folder}/${number}`;
    this.#container = new OwnedFd(open(container, O_RDWR_CLOEXEC), container, 'open');
    try {
      this.#group = new OwnedFd(open(group, O_RDWR_CLOEXEC), group, 'open');
      try {
        this.#join();
        this.iommu = this.#ask();
      } catch (error) {
        this.#group.close();
        throw error;
      }
    } catch (error) {
      this.#container.close();
      throw error;
    }
  }

  /**
   * Lets the group's devices reach `size` bytes at `address` of this process, as bus address `iova`: whole pages of the IOMMU. Throws LinuxError: EINVAL (not
   * in `iommu.ranges`), EEXIST, ENOMEM (more than this user may lock).
   */
  map(iova: bigint, size: number, address: number): void {
    call(this.#container, 'IOMMU_MAP_DMA', L.dmaMap(iova, size, address));
  }

  /** Takes back what one `map` gave. */
  unmap(iova: bigint, size: number): void {
    call(this.#container, 'IOMMU_UNMAP_DMA', L.dmaUnmap(iova, size));
  }

  /** One of its devices, by PCI address. */
  device(address: string): VfioDevice {
    const fd = call(this.#group, 'GROUP_GET_DEVICE_FD', Buffer.from(`${address}\0`, 'latin1'));
    return VfioDevice.adopt(new OwnedFd(fd, `PCI function ${address}`));
  }

  /** After its devices: nothing is mapped any more. */
  close(): void {
    this.#group.close();
    this.#container.close();
  }

  #join(): void {
    const [container, group] = [this.#container, this.#group];
    const version = call(container, 'GET_API_VERSION', null);
    if (version !== L.API_VERSION) throw new LinuxError(`use version ${version} of`, EINVAL, container.name);
    const status = L.groupStatus();
    call(group, 'GROUP_GET_STATUS', status);
    if (!L.isViable(status)) throw new LinuxError('take', ERRNO.EBUSY!, group.name);
    call(group, 'GROUP_SET_CONTAINER', new Int32Array([container.fd]));
    const better = ioctlValue(container.fd, L.VFIO.CHECK_EXTENSION, L.TYPE1V2_IOMMU) > 0;
    const kind = better ? L.TYPE1V2_IOMMU : L.TYPE1_IOMMU;
    check(ioctlValue(container.fd, L.VFIO.SET_IOMMU, kind), 'ioctl VFIO_SET_IOMMU', group.name);
  }

  #ask(): L.IommuFacts {
    let info = L.iommuInfo(INFO_ROOM);
    call(this.#container, 'IOMMU_GET_INFO', info);
    if (L.iommuInfoSize(info) > INFO_ROOM) {
      info = L.iommuInfo(L.iommuInfoSize(info));
      call(this.#container, 'IOMMU_GET_INFO', info);
    }
    return L.readIommuInfo(info);
  }
}

interface Region {
  readonly size: number;
  /** Of its first byte in the device's file. */
  readonly offset: number;
}

export class VfioDevice {
  /** By number (REGION); size 0: there is none. */
  readonly regions: readonly Region[];
  /** How many interrupts there are of each kind (IRQ). */
  readonly irqs: readonly number[];
  readonly #fd: OwnedFd;
  readonly #word = Buffer.alloc(4);
  /** Kinds of interrupt that are on. */
  readonly #connected = new Set<number>();

  private constructor(fd: OwnedFd) {
    this.#fd = fd;
    const info = L.deviceInfo();
    call(fd, 'DEVICE_GET_INFO', info);
    const { isPci, regions, irqs } = L.readDeviceInfo(info);
    if (!isPci) throw new LinuxError('use as a PCI function', EINVAL, fd.name);
    this.regions = Array.from({ length: regions }, (_, index) => this.#askRegion(index));
    this.irqs = Array.from({ length: irqs }, (_, index) => this.#askIrqs(index));
  }

  /** Takes over a device's file; closes it when it is of no use. */
  static adopt(fd: OwnedFd): VfioDevice {
    try {
      return new VfioDevice(fd);
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** One read of that width, little-endian. Throws LinuxError: EIO (gone), EINVAL (not in the region). */
  read(region: number, offset: number, size: Width): number {
    const at = this.#place(region, offset, size);
    this.#whole('read', pread(this.#fd.fd, this.#word, size, at), size);
    return this.#word.readUIntLE(0, size);
  }

  /** One write of that width. */
  write(region: number, offset: number, value: number, size: Width): void {
    const at = this.#place(region, offset, size);
    this.#word.writeUInt32LE(value >>> 0);
    this.#whole('write', pwrite(this.#fd.fd, this.#word, size, at), size);
  }

  /** Connects the first interrupts of a kind to these eventfds, which stay the caller's, in place of what they were connected to; none: turns them off. */
  connect(kind: number, eventfds: readonly number[]): void {
    // How many there are can't change while they are on; what is off can't be turned off.
    if (this.#connected.delete(kind)) call(this.#fd, 'DEVICE_SET_IRQS', L.irqsOff(kind));
    if (eventfds.length === 0) return;
    call(this.#fd, 'DEVICE_SET_IRQS', L.irqSet(kind, eventfds));
    this.#connected.add(kind);
  }

  /** Has the kernel write `value` to a BAR whenever the eventfd is signalled. Throws LinuxError where it can't: EINVAL, ENOTTY, ENOSPC. */
  wire(region: number, offset: number, value: number, size: Width, eventfd: number): void {
    const at = this.#place(region, offset, size);
    call(this.#fd, 'DEVICE_IOEVENTFD', L.ioEventFd(at, value >>> 0, size, eventfd));
  }

  /** Interrupts and wires end with it. */
  close(): void {
    this.#fd.close();
  }

  /** Where that is in the device's file. */
  #place(region: number, offset: number, size: number): number {
    const { size: length, offset: start } = this.regions[region] ?? { size: 0, offset: 0 };
    if (offset < 0 || offset + size > length) {
      throw new LinuxError(`reach byte ${offset} of region ${region} of`, EINVAL, this.#fd.name);
    }
    return start + offset;
  }

  #whole(what: string, result: number, size: number): void {
    if (check(result, what, this.#fd.name) !== size) throw new LinuxError(what, EIO, this.#fd.name);
  }

  #askRegion(index: number): Region {
    const info = L.regionInfo(index);
    const result = ioctl(this.#fd.fd, L.VFIO.DEVICE_GET_REGION_INFO, info);
    return result < 0 ? { size: 0, offset: 0 } : L.readRegionInfo(info); // VGA, of a function that is none
  }

  #askIrqs(index: number): number {
    const info = L.irqInfo(index);
    const result = ioctl(this.#fd.fd, L.VFIO.DEVICE_GET_IRQ_INFO, info);
    return result < 0 ? 0 : L.readIrqCount(info);
  }
}
