/** How VFIO, and vfio-user after it, numbers what a PCI function has (`linux/vfio.h`). */

/** Regions. */
export const REGION = {
  BAR0: 0,
  BAR1: 1,
  BAR2: 2,
  BAR3: 3,
  BAR4: 4,
  BAR5: 5,
  ROM: 6,
  CONFIG: 7,
  VGA: 8,
} as const;
export const NUM_REGIONS = 9;

/** Kinds of interrupt. */
export const IRQ = { INTX: 0, MSI: 1, MSIX: 2, ERR: 3, REQ: 4 } as const;
export const NUM_IRQS = 5;
