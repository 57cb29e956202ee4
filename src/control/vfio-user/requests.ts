/**
 * The commands of vfio-user, as a table: their numbers, who sends them, the fixed part of their payloads, what may follow it, and the file descriptors that
 * travel with them. Layouts: docs/interop/vfio-user.rst of QEMU, and `linux/vfio.h`.
 */
import type { Layout } from '../bpfhv-proxy/layout.js';

/** The most fds of one message that this end takes, whichever it is; Linux would let a sender attach more. */
export const MAX_FDS = 16;

const NOTHING = {} as const satisfies Layout;
const SIZED = { argsz: 'u32', flags: 'u32' } as const satisfies Layout;
const VERSION = { major: 'u16', minor: 'u16' } as const satisfies Layout;
const MAP = { ...SIZED, offset: 'u64', address: 'u64', size: 'u64' } as const satisfies Layout;
const UNMAP = { ...SIZED, address: 'u64', size: 'u64' } as const satisfies Layout;
const INFO = { ...SIZED, numRegions: 'u32', numIrqs: 'u32' } as const satisfies Layout;
const INDEXED = { ...SIZED, index: 'u32', count: 'u32' } as const satisfies Layout;
const IRQS = { ...SIZED, index: 'u32', start: 'u32', count: 'u32' } as const satisfies Layout;
const ACCESS = { offset: 'u64', region: 'u32', count: 'u32' } as const satisfies Layout;
const MEMORY = { address: 'u64', count: 'u64' } as const satisfies Layout;
const MIGRATION = { argsz: 'u32', size: 'u32' } as const satisfies Layout;
const REGION_INFO = {
  ...SIZED,
  index: 'u32',
  capOffset: 'u32',
  size: 'u64',
  offset: 'u64',
} as const satisfies Layout;

export interface Shape {
  readonly number: number;
  /** Who sends it; without this the client. */
  readonly sender?: 'server';
  readonly request: Layout;
  readonly reply: Layout;
  /** Where bytes may follow the fixed part. */
  readonly tail?: 'request' | 'reply' | 'both';
  /** Most file descriptors of the request. */
  readonly fds?: number;
  /** Most file descriptors of the reply. */
  readonly replyFds?: number;
  /** Some reply with a header alone, which says all that there is to say. */
  readonly bareReply?: true;
}

export const COMMANDS = {
  /** Followed by capabilities: JSON, and a NUL (version.ts). */
  VERSION: { number: 1, request: VERSION, reply: VERSION, tail: 'both' },
  DMA_MAP: { number: 2, request: MAP, reply: NOTHING, fds: 1 },
  DMA_UNMAP: { number: 3, request: UNMAP, reply: UNMAP, bareReply: true },
  GET_INFO: { number: 4, request: INFO, reply: INFO },
  /** The reply may be followed by capabilities of the region (region-info.ts). */
  GET_REGION_INFO: { number: 5, request: REGION_INFO, reply: REGION_INFO, tail: 'reply', replyFds: 1 },
  /** The reply is followed by `count` times IO_FD. */
  GET_REGION_IO_FDS: { number: 6, request: INDEXED, reply: INDEXED, tail: 'reply', replyFds: MAX_FDS },
  GET_IRQ_INFO: { number: 7, request: INDEXED, reply: INDEXED },
  /** Followed by `count` octets when the data are booleans. */
  SET_IRQS: { number: 8, request: IRQS, reply: NOTHING, tail: 'request', fds: MAX_FDS },
  REGION_READ: { number: 9, request: ACCESS, reply: ACCESS, tail: 'reply' },
  REGION_WRITE: { number: 10, request: ACCESS, reply: ACCESS, tail: 'request', bareReply: true },
  DMA_READ: { number: 11, sender: 'server', request: MEMORY, reply: MEMORY, tail: 'reply' },
  /** The reply's count is a u32 in the specification's table, and a u64 from QEMU: it is in the tail. */
  DMA_WRITE: { number: 12, sender: 'server', request: MEMORY, reply: { address: 'u64' }, tail: 'both' },
  DEVICE_RESET: { number: 13, request: NOTHING, reply: NOTHING },
  /** Followed by `count` times MULTI_WRITE. */
  REGION_WRITE_MULTI: { number: 15, request: { count: 'u64' }, reply: { count: 'u64' }, tail: 'request' },
  DEVICE_FEATURE: { number: 16, request: SIZED, reply: SIZED, tail: 'both' },
  MIG_DATA_READ: { number: 17, request: MIGRATION, reply: MIGRATION, tail: 'reply' },
  MIG_DATA_WRITE: { number: 18, request: MIGRATION, reply: NOTHING, tail: 'request' },
} as const satisfies Record<string, Shape>;

/** Writing `size` bytes at `offset` may be replaced by what `type` says, on one of the reply's file descriptors. */
export const IO_FD = {
  offset: 'u64',
  size: 'u64',
  fdIndex: 'u32',
  type: 'u32',
  flags: 'u32',
  pad: 'pad',
  datamatch: 'u64',
} as const satisfies Layout;
export const IO_FD_TYPE = { IOEVENTFD: 0, IOREGIONFD: 1 } as const;

/** One write of REGION_WRITE_MULTI; `count` of the data's bytes count. */
export const MULTI_WRITE = { ...ACCESS, data: 'u64' } as const satisfies Layout;

/** In the flags of DMA_MAP. */
export const DMA = { READ: 1, WRITE: 2 } as const;
/** In the flags of DMA_UNMAP: everything, whatever the range. */
export const UNMAP_ALL = 2;
/** In the flags of GET_INFO's reply. */
export const DEVICE = { RESET: 1, PCI: 2 } as const;
/** In the flags of GET_REGION_INFO's reply. */
export const REGION_FLAG = { READ: 1, WRITE: 2, MMAP: 4, CAPS: 8 } as const;
/** In the flags of GET_IRQ_INFO's reply. */
export const IRQ_FLAG = { EVENTFD: 1, MASKABLE: 2, AUTOMASKED: 4, NORESIZE: 8 } as const;
/** In the flags of SET_IRQS: one of DATA_*, one of the rest. */
export const IRQ_SET = {
  DATA_NONE: 1,
  DATA_BOOL: 2,
  DATA_EVENTFD: 4,
  MASK: 8,
  UNMASK: 0x10,
  TRIGGER: 0x20,
} as const;
/** In the flags of DEVICE_FEATURE, above the feature's number. */
export const FEATURE_FLAG = { NUMBER: 0xffff, GET: 0x1_0000, SET: 0x2_0000, PROBE: 0x4_0000 } as const;
