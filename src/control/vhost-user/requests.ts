/**
 * The requests of vhost-user, as a table: their numbers, their payloads, the file descriptors that travel with them, and what is answered.
 * Those that we neither serve nor send are listed by number only, so that refusals can name them.
 */
import type { Layout } from '../bpfhv-proxy/layout.js';

/** Regions in one SET_MEM_TABLE, and so the most fds that any message has. */
export const MAX_TABLE_REGIONS = 8;

/** In the payloads of SET_VRING_KICK, CALL and ERR: which vring, and that no fd comes with it. */
export const VRING_FD = { INDEX: 0xffn, NONE: 0x100n } as const;

/** In the flags of SET_VRING_ADDR. */
export const VRING_LOG = 1;

const NOTHING = {} as const satisfies Layout;
const U64 = { value: 'u64' } as const satisfies Layout;
const STATE = { index: 'u32', num: 'u32' } as const satisfies Layout;

const REGION = {
  guestPhysicalAddress: 'u64',
  size: 'u64',
  userspaceAddress: 'u64',
  mmapOffset: 'u64',
} as const satisfies Layout;

/** `permType`: permissions in bits 0 to 7 (1 read, 2 write), the kind of message in bits 8 to 15 (IOTLB); the rest is padding. */
export const IOTLB_MESSAGE = {
  iova: 'u64',
  size: 'u64',
  userspaceAddress: 'u64',
  permType: 'u32',
  pad: 'pad',
} as const satisfies Layout;

/** Kinds of IOTLB message. */
export const IOTLB = { MISS: 1, UPDATE: 2, INVALIDATE: 3, ACCESS_FAIL: 4 } as const;
/** Permissions in one. */
export const IOTLB_PERM = { READ: 1, WRITE: 2 } as const;

interface Shape {
  readonly number: number;
  readonly payload: Layout;
  /** Follows the payload as often as its `count` says, MAX_TABLE_REGIONS times at most, each with an fd. */
  readonly each?: Layout;
  /** Fewest and most file descriptors. */
  readonly fds: readonly [min: number, max: number];
  /** What is answered in any case; null: nothing, unless an acknowledgement is asked for. */
  readonly reply: Layout | null;
}

const plain = <P extends Layout>(number: number, payload: P) =>
  ({ number, payload, fds: [0, 0], reply: null }) as const;
const asking = <P extends Layout, R extends Layout>(number: number, payload: P, reply: R) =>
  ({ number, payload, fds: [0, 0], reply }) as const;
const withFd = <P extends Layout>(number: number, payload: P, fewest: 0 | 1) =>
  ({ number, payload, fds: [fewest, 1], reply: null }) as const;

/** What a front end may ask of us, in the order of the numbers. */
export const REQUESTS = {
  GET_FEATURES: asking(1, NOTHING, U64),
  SET_FEATURES: plain(2, U64),
  SET_OWNER: plain(3, NOTHING),
  RESET_OWNER: plain(4, NOTHING),
  SET_MEM_TABLE: {
    ...{ number: 5, payload: { count: 'u32', pad: 'pad' }, each: REGION, fds: [0, MAX_TABLE_REGIONS] },
    reply: null,
  },
  SET_LOG_BASE: { number: 6, payload: { size: 'u64', offset: 'u64' }, fds: [1, 1], reply: U64 },
  SET_LOG_FD: withFd(7, NOTHING, 1),
  SET_VRING_NUM: plain(8, STATE),
  SET_VRING_ADDR: plain(9, {
    index: 'u32',
    flags: 'u32',
    descriptor: 'u64',
    used: 'u64',
    available: 'u64',
    logGuestAddress: 'u64',
  }),
  SET_VRING_BASE: plain(10, STATE),
  GET_VRING_BASE: asking(11, STATE, STATE),
  SET_VRING_KICK: withFd(12, U64, 0),
  SET_VRING_CALL: withFd(13, U64, 0),
  SET_VRING_ERR: withFd(14, U64, 0),
  GET_PROTOCOL_FEATURES: asking(15, NOTHING, U64),
  SET_PROTOCOL_FEATURES: plain(16, U64),
  GET_QUEUE_NUM: asking(17, NOTHING, U64),
  SET_VRING_ENABLE: plain(18, STATE),
  SEND_RARP: plain(19, U64),
  NET_SET_MTU: plain(20, U64),
  SET_BACKEND_REQ_FD: withFd(21, NOTHING, 1),
  IOTLB_MSG: plain(22, IOTLB_MESSAGE),
  RESET_DEVICE: plain(34, NOTHING),
  GET_MAX_MEM_SLOTS: asking(36, NOTHING, U64),
  ADD_MEM_REG: withFd(37, { pad: 'u64', ...REGION }, 1),
  /** Some send the fd along once more. */
  REM_MEM_REG: withFd(38, { pad: 'u64', ...REGION }, 0),
} as const satisfies Record<string, Shape>;

/** What belongs to protocol features that we do not offer. True: its sender waits for an answer in any case. */
export const FOREIGN_REQUESTS: Readonly<Record<number, readonly [name: string, answered: boolean]>> = {
  23: ['SET_VRING_ENDIAN', false],
  24: ['GET_CONFIG', true],
  25: ['SET_CONFIG', false],
  26: ['CREATE_CRYPTO_SESSION', true],
  27: ['CLOSE_CRYPTO_SESSION', false],
  28: ['POSTCOPY_ADVISE', true],
  29: ['POSTCOPY_LISTEN', false],
  30: ['POSTCOPY_END', true],
  31: ['GET_INFLIGHT_FD', true],
  32: ['SET_INFLIGHT_FD', false],
  33: ['GPU_SET_SOCKET', false],
  35: ['VRING_KICK', false],
  39: ['SET_STATUS', false],
  40: ['GET_STATUS', true],
  41: ['GET_SHARED_OBJECT', true],
  42: ['SET_DEVICE_STATE_FD', true],
  43: ['CHECK_DEVICE_STATE', true],
};

/** What a backend may ask of a front end, on the channel of its own that SET_BACKEND_REQ_FD gives it. */
export const BACKEND_REQUESTS = {
  IOTLB_MSG: plain(1, IOTLB_MESSAGE),
} as const satisfies Record<string, Shape>;

/** Protocol features: bit masks. */
const bit = (number: number): bigint => 1n << BigInt(number);
export const PROTOCOL_FEATURE = {
  MQ: bit(0),
  LOG_SHMFD: bit(1),
  RARP: bit(2),
  REPLY_ACK: bit(3),
  NET_MTU: bit(4),
  BACKEND_REQ: bit(5),
  RESET_DEVICE: bit(13),
  CONFIGURE_MEM_SLOTS: bit(15),
} as const;

/** The bit among the device's features that says that protocol features can be negotiated, and rings start disabled. */
export const PROTOCOL_FEATURES = bit(30);

/** Without these a request makes no sense. */
export const NEEDS: Readonly<Partial<Record<keyof typeof REQUESTS, bigint>>> = {
  SET_LOG_BASE: PROTOCOL_FEATURE.LOG_SHMFD,
  GET_QUEUE_NUM: PROTOCOL_FEATURE.MQ,
  SEND_RARP: PROTOCOL_FEATURE.RARP,
  NET_SET_MTU: PROTOCOL_FEATURE.NET_MTU,
  SET_BACKEND_REQ_FD: PROTOCOL_FEATURE.BACKEND_REQ,
  RESET_DEVICE: PROTOCOL_FEATURE.RESET_DEVICE,
  GET_MAX_MEM_SLOTS: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS,
  ADD_MEM_REG: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS,
  REM_MEM_REG: PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS,
};
