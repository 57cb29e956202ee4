/** What a bpfhv device on a PCI bus is known by (docs/bpfhv.md, "On the PCI bus"), for its driver and the device (src/pci/bpfhv) alike. */

export const BPFHV_VENDOR = 0x1b36;
export const BPFHV_DEVICE = 0x000e;

/** The BARs, by number. */
export const BAR = { REGISTERS: 0, DOORBELLS: 1, MSIX: 2, PROGRAM: 3 } as const;
/** Bytes. */
export const REGISTERS_SIZE = 256;
export const PROGRAM_WINDOW_SIZE = 128 * 1024;

/** Bytes from one doorbell to the next: a power of two in this range. */
export const MIN_DOORBELL_SIZE = 8;
export const MAX_DOORBELL_SIZE = 2 ** 21;

export function isDoorbellSize(bytes: number): boolean {
  return bytes >= MIN_DOORBELL_SIZE && bytes <= MAX_DOORBELL_SIZE && (bytes & (bytes - 1)) === 0;
}

/** What polynic's devices say of themselves in a vendor capability, where others have nothing: this, so that nobody else's is taken for it, version, flags. */
export const SIGNATURE = 'PLNC';
export const SIGNATURE_VERSION = 1;
/** PREVIEWS: while STATUS.UPGRADE is set, registers and program window show the next contract, also while the present one runs. */
export const CAPABILITY_FLAG = { PREVIEWS: 1 } as const;
