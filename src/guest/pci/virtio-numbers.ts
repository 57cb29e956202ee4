/** What a virtio network card on a PCI bus is known by (virtio 1.2, 2.1, 4.1 and 5.1), for its driver and the device (src/pci/virtio) alike: offsets in bytes. */

export const VIRTIO_VENDOR = 0x1af4;
/** Device ids of a network card: of the standard alone, and a transitional one. */
export const NETWORK_CARD = { MODERN: 0x1041, TRANSITIONAL: 0x1000 } as const;

/** Of a vendor capability that names a structure: the two last fields are there for some types only. */
export const CAPABILITY = { TYPE: 3, BAR: 4, OFFSET: 8, LENGTH: 12, MULTIPLIER: 16, DATA: 16 } as const;

/** What a function's configuration structures are for: cfg_type of its vendor capabilities. */
export const CFG_TYPE = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5 } as const;

/** The common configuration structure: offsets. The three addresses are two halves each. */
export const COMMON = {
  DEVICE_FEATURE_SELECT: 0,
  DEVICE_FEATURE: 4,
  DRIVER_FEATURE_SELECT: 8,
  DRIVER_FEATURE: 12,
  CONFIG_VECTOR: 16,
  NUM_QUEUES: 18,
  STATUS: 20,
  GENERATION: 21,
  QUEUE_SELECT: 22,
  QUEUE_SIZE: 24,
  QUEUE_VECTOR: 26,
  QUEUE_ENABLE: 28,
  QUEUE_NOTIFY_OFF: 30,
  QUEUE_DESCRIPTOR: 32,
  QUEUE_DRIVER: 40,
  QUEUE_DEVICE: 48,
  QUEUE_NOTIFY_DATA: 56,
  QUEUE_RESET: 58,
} as const;
export const COMMON_SIZE = 60;

export const STATUS = {
  ACKNOWLEDGE: 0x01,
  DRIVER: 0x02,
  DRIVER_OK: 0x04,
  FEATURES_OK: 0x08,
  NEEDS_RESET: 0x40,
  FAILED: 0x80,
} as const;

/** Interrupts of this kind are not wanted. */
export const NO_VECTOR = 0xffff;

const bit = (number: number): bigint => 1n << BigInt(number);

/** Features that are this function's own: what the NIC behind it knows nothing of. */
export const PCI_NET_FEATURE = {
  MAC: bit(5),
  STATUS: bit(16),
  CTRL_VQ: bit(17),
  CTRL_RX: bit(18),
  CTRL_MAC_ADDR: bit(23),
  RING_RESET: bit(40),
} as const;

/** Fields of the network card's own configuration: offsets. */
export const NET_CONFIG = { MAC: 0, STATUS: 6, MAX_PAIRS: 8, MTU: 10 } as const;
export const NET_CONFIG_SIZE = 12;
export const NET_STATUS = { LINK_UP: 1, ANNOUNCE: 2 } as const;
