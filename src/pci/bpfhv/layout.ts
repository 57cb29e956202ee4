/** What a bpfhv device looks like on the bus (docs/bpfhv.md, "On the PCI bus"). */
import { type Capability, expressCapability, msixCapability, vendorCapability } from '../capabilities.js';
import type { ConfigShape } from '../config-space.js';
import { msixLayout } from '../msix.js';

export const BPFHV_VENDOR = 0x1b36;
export const BPFHV_DEVICE = 0x000e;
/** Network controller, Ethernet. */
const CLASS_CODE = 0x020000;
/** What QEMU gives devices that say nothing of their subsystem. */
const SUBSYSTEM = { vendor: 0x1af4, device: 0x1100 };

/** The BARs, by number. */
export const BAR = { REGISTERS: 0, DOORBELLS: 1, MSIX: 2, PROGRAM: 3 } as const;
/** Bytes. */
export const REGISTERS_SIZE = 256;
export const PROGRAM_WINDOW_SIZE = 128 * 1024;
/** Doorbells have a page of their own, whatever their number. */
const MIN_DOORBELLS_SIZE = 4096;

/** Bytes from one doorbell to the next: a power of two in this range. */
export const MIN_DOORBELL_SIZE = 8;
export const MAX_DOORBELL_SIZE = 2 ** 21;
/** Bytes at the start of a slot that an eventfd stands for: a write of that width, as drivers do it. */
export const DOORBELL_WIDTH = 4;

/** What our capability says: `PLNC`, so that nobody else's is taken for it. */
const SIGNATURE = Buffer.from('PLNC');
const CAPABILITY_VERSION = 1;
/** Flags of our capability. PREVIEWS: while STATUS.UPGRADE is set, registers and program window show the next contract, also while the present one runs. */
export const CAPABILITY_FLAG = { PREVIEWS: 1 } as const;

/** +3 signature, +7 version, +8 flags. */
function ownCapability(flags: number): Capability {
  return vendorCapability(Uint8Array.of(...SIGNATURE, CAPABILITY_VERSION, flags));
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
