import { CTX_MAX_BUFS, CTX_NUM_BUFS } from '../../../datapath/layout.js';
import type { ContextPromise } from '../../ebpf/verifier/index.js';

/**
 * The bpfhv device as its driver sees it: BAR 0 registers, 32 bits each (docs/bpfhv.md, "Registers").
 *
 * Queues 0 … N-1 receive, N … 2N-1 transmit.
 */
export const REG = {
  STATUS: 0, // ro
  CTRL: 4, // wo
  MAC_LO: 8,
  MAC_HI: 12,
  NUM_RX_QUEUES: 16,
  NUM_TX_QUEUES: 20,
  NUM_RX_BUFS: 24,
  NUM_TX_BUFS: 28,
  RX_CTX_SIZE: 32,
  TX_CTX_SIZE: 36,
  DOORBELL_SIZE: 40,
  QUEUE_SELECT: 44,
  CTX_PADDR_LO: 48,
  CTX_PADDR_HI: 52, // writing it commits the pair for the selected queue; 0 = no context
  PROG_SELECT: 56,
  PROG_SIZE: 60, // instructions of the selected program, 0 = absent
  DOORBELL_GVA_LO: 64,
  DOORBELL_GVA_HI: 68,
  VERSION: 72,
  FEATURES: 76, // read: offered, then accepted; write: the accepted subset
  DUMP_LEN: 80,
  DUMP_INPUT: 84,
  DUMP_OFS: 88,
} as const;

export const STATUS = { LINK: 1, UPGRADE: 2, RX_ENABLED: 4, TX_ENABLED: 8 } as const;

export const CTRL = {
  RX_ENABLE: 1,
  TX_ENABLE: 2,
  RX_DISABLE: 4,
  TX_DISABLE: 8,
  UPGRADE_READY: 16,
  QUEUES_DUMP: 32,
} as const;

export const ABI_VERSION = 1;

/** Program numbers and the sections they come from. txh and rxh may be absent. */
export const PROGRAMS = [
  { number: 1, section: 'rxp', optional: false },
  { number: 2, section: 'rxc', optional: false },
  { number: 3, section: 'rxi', optional: false },
  { number: 4, section: 'rxr', optional: false },
  { number: 5, section: 'rxh', optional: true },
  { number: 6, section: 'txp', optional: false },
  { number: 7, section: 'txc', optional: false },
  { number: 8, section: 'txi', optional: false },
  { number: 9, section: 'txr', optional: false },
  { number: 10, section: 'txh', optional: true },
] as const;

export type ProgramSection = (typeof PROGRAMS)[number]['section'];

/** The driver never publishes nothing: programs may count on it, and some do. */
const BUFFERS: readonly ContextPromise[] = [{ offset: CTX_NUM_BUFS, bytes: 4, least: 1, most: CTX_MAX_BUFS }];
const NO_PROMISES: readonly ContextPromise[] = [];

/** What the driver has put into the context when it runs a program. */
export function promisesTo(section: string): readonly ContextPromise[] {
  return section === 'txp' || section === 'rxp' ? BUFFERS : NO_PROMISES;
}

/** Bytes of a receive buffer without LRO; a frame is at most as long. */
export const RX_BUFFER_SIZE = 1518;
/** With LRO; a frame may then take several. */
export const LARGE_RX_BUFFER_SIZE = 4096;

/** The number by which a program is selected, and under which it stands in the function table. */
export function programNumber(section: ProgramSection): number {
  return PROGRAMS.find(program => program.section === section)!.number;
}
