/**
 * PCI functions in sysfs, and which driver has them.
 *
 * ```
 *   bus/pci/devices/0000:01:00.0/   vendor, device        what it is
 *                                   iommu_group ─► 7      all that the IOMMU can't tell apart
 *                                   driver ─► e1000e      unbind: takes it from that driver
 *                                   driver_override       the only driver that may have it
 *   bus/pci/drivers_probe                                 gives it to the driver that may have it
 *   kernel/iommu_groups/7/devices/                        the group's members
 * ```
 * Documentation/ABI/testing/sysfs-bus-pci of Linux.
 */
import { ERRNO, isErrno, LinuxError } from './errors.js';
import type { Sysfs } from './sysfs.js';

const ADDRESS = /^(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/i;

/** `0000:01:00.0` of that or of `01:00.0`; null: it is no address. */
export function parsePciAddress(text: string): string | null {
  const [, domain = '0000', bus, device, number] = ADDRESS.exec(text) ?? [];
  return bus === undefined ? null : `${domain}:${bus}:${device}.${number}`.toLowerCase();
}

export interface PciNode {
  readonly address: string;
  readonly vendor: number;
  readonly device: number;
  /** Who has it; null: nobody. */
  readonly driver: string | null;
  /** Who alone may have it; null: any that knows it. */
  readonly override: string | null;
  /** Null: no IOMMU watches over it. */
  readonly group: number | null;
}

const folder = (address: string): string => `bus/pci/devices/${address}`;

/** Null: there is no such function. */
export function readPciNode(sysfs: Sysfs, address: string): PciNode | null {
  const at = folder(address);
  const vendor = sysfs.read(`${at}/vendor`);
  const device = sysfs.read(`${at}/device`);
  if (vendor === null || device === null) return null;
  const override = sysfs.read(`${at}/driver_override`);
  const group = sysfs.link(`${at}/iommu_group`);
  return {
    ...{ address, vendor: Number(vendor), device: Number(device) },
    driver: sysfs.link(`${at}/driver`),
    override: override === '(null)' || override === '' ? null : override,
    group: group === null ? null : Number(group),
  };
}

/** The functions of an IOMMU group. */
export function groupMembers(sysfs: Sysfs, group: number): PciNode[] {
  return sysfs
    .list(`kernel/iommu_groups/${group}/devices`)
    .map(address => readPciNode(sysfs, address))
    .filter(node => node !== null);
}

/** A function that was given to a driver. */
export interface PciBinding {
  /** The function goes back to the driver that had it, or to none. Nobody may have it open. Throws LinuxError. */
  undo(): void;
  /** Somebody else takes it from the driver, or out of the machine: whichever driver they mean may have it. */
  forget(): void;
}

/**
 * Gives a function to a driver, in place of the one that has it. Throws LinuxError (ENODEV: the driver does not take it) and leaves the function with whom it
 * was.
 */
export function bindPciDriver(sysfs: Sysfs, node: PciNode, driver: string): PciBinding {
  const { address, driver: former, override } = node;
  if (former === driver) return { undo: () => {}, forget: () => {} };
  const at = folder(address);
  const driverNow = () => sysfs.link(`${at}/driver`);
  const prefer = (name: string | null) => sysfs.write(`${at}/driver_override`, `${name ?? ''}\n`);
  const probe = () => sysfs.write('bus/pci/drivers_probe', address);
  const binding = {
    undo(): void {
      if (driverNow() === driver) sysfs.write(`${at}/driver/unbind`, address);
      prefer(override);
      if (former !== null && driverNow() === null) probe();
    },
    forget(): void {
      try {
        prefer(override);
      } catch (error) {
        if (!isErrno(error, 'ENOENT', 'ENODEV')) throw error; // it is not there any more
      }
    },
  };
  try {
    prefer(driver);
    if (former !== null) sysfs.write(`${at}/driver/unbind`, address);
    probe();
    if (driverNow() !== driver) throw new LinuxError('bind', ERRNO.ENODEV!, `${address} to ${driver}`);
    return binding;
  } catch (error) {
    binding.undo();
    throw error;
  }
}
