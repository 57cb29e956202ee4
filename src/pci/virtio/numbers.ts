/** What only the device's side has to know of a virtio network card on a PCI bus: the registers of old drivers, and why it interrupts. Offsets in bytes. */

/** Ethernet controller. */
export const CLASS_ETHERNET = 0x02_0000;

/** The register block of drivers from before the standard: offsets. The vectors are there only while MSI-X is enabled; the device's own block follows. */
export const LEGACY = {
  DEVICE_FEATURES: 0,
  DRIVER_FEATURES: 4,
  QUEUE_PFN: 8,
  QUEUE_SIZE: 12,
  QUEUE_SELECT: 14,
  QUEUE_NOTIFY: 16,
  STATUS: 18,
  ISR: 19,
  CONFIG_VECTOR: 20,
  QUEUE_VECTOR: 22,
} as const;
export const LEGACY_CONFIG = 20;
export const LEGACY_CONFIG_WITH_MSIX = 24;
/** Legacy rings lie in whole pages, and so does the part that the device writes. */
export const LEGACY_PAGE = 4096;

/** Why INTx is asserted. */
export const ISR = { QUEUE: 1, CONFIG: 2 } as const;
