/** What a bpfhv device looks like on the bus (docs/bpfhv.md, "On the PCI bus"). */
import {
  BAR,
  BPFHV_DEVICE,
  BPFHV_VENDOR,
  CAPABILITY_FLAG,
  PROGRAM_WINDOW_SIZE,
  REGISTERS_SIZE,
  SIGNATURE,
  SIGNATURE_VERSION,
} from '../../guest/pci/bpfhv-numbers.js';
import { type Capability, expressCapability, msixCapability, vendorCapability } from '../capabilities.js';
import type { ConfigShape } from '../config-space.js';
import { msixLayout } from '../msix.js';

/** Network controller, Ethernet. */
const CLASS_CODE = 0x020000;
/** What QEMU gives devices that say nothing of their subsystem. */
const SUBSYSTEM = { vendor: 0x1af4, device: 0x1100 };

/** Doorbells have a page of their own, whatever their number. */
const MIN_DOORBELLS_SIZE = 4096;

/** Bytes at the start of a slot that an eventfd stands for: a write of that width, as drivers do it. */
export const DOORBELL_WIDTH = 4;

/** +3 signature, +7 version, +8 flags. */
function ownCapability(flags: number): Capability {
  return vendorCapability(Uint8Array.of(...Buffer.from(SIGNATURE), SIGNATURE_VERSION, flags));
}

/** Bytes of BAR 1: a power of two. */
export function doorbellsSize(queues: number, doorbellSize: number): number {
  let size = MIN_DOORBELLS_SIZE;
  while (size < queues * doorbellSize) size *= 2;
  return size;
}

/** The data sheet of a device with so many queues, both directions counted. */
export function bpfhvShape(queues: number, doorbellSize: number): ConfigShape {
  const { size, table, pba } = msixLayout(queues + 1);
  return {
    ...{ vendor: BPFHV_VENDOR, device: BPFHV_DEVICE, revision: 0, classCode: CLASS_CODE },
    ...{ subsystemVendor: SUBSYSTEM.vendor, subsystem: SUBSYSTEM.device, interruptPin: 1 },
    bars: [
      { space: 'memory', size: REGISTERS_SIZE },
      { space: 'memory', size: doorbellsSize(queues, doorbellSize) },
      { space: 'memory', size },
      { space: 'memory', size: PROGRAM_WINDOW_SIZE },
    ],
    capabilities: [
      msixCapability(queues + 1, { bar: BAR.MSIX, offset: table }, { bar: BAR.MSIX, offset: pba }),
      ownCapability(CAPABILITY_FLAG.PREVIEWS),
      expressCapability(),
    ],
  };
}
