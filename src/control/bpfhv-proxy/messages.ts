/**
 * The bpfhv-proxy messages, version 1, as a table, and how one becomes bytes and back.
 *
 * ```
 *   0          4          8          12
 *   | reqtype  |  flags   |   size   | payload: size bytes ...      file descriptors travel with the header
 *                 |   '- bits 0-2: version, 1
 *                 '- bit 3: error, only in a response, which then has no payload
 * ```
 * Every request gets one response, which repeats reqtype. All integers are little-endian.
 */
import type { OwnedFd } from '../../linux/fd.js';
import { ProxyError } from './errors.js';
import { decodeLayout, encodeLayout, type Layout, type LayoutValue, layoutSize } from './layout.js';

export const HEADER_SIZE = 12;
export const VERSION = 1;
export const FLAGS = { VERSION_MASK: 7, ERROR: 8 } as const;

/** Entries that the region table of SET_MEM_TABLE always carries, and so the most fds that any message has. */
export const MAX_REGIONS = 8;

/** Context sizes that a backend may ask for, in bytes: the head alone, and what is still sane. */
export const CONTEXT_SIZE = { MIN: 2096, MAX: 2 ** 24 } as const;

/** Feature bits. */
export const FEATURE = {
  SG: 1n << 0n,
  TX_CSUM: 1n << 1n,
  RX_CSUM: 1n << 2n,
  TSOV4: 1n << 3n,
  TCPV4_LRO: 1n << 4n,
  TSOV6: 1n << 5n,
  TCPV6_LRO: 1n << 6n,
  UFO: 1n << 7n,
  UDP_LRO: 1n << 8n,
  RX_OUT_OF_ORDER: 1n << 9n,
  TX_OUT_OF_ORDER: 1n << 10n,
} as const;

const NOTHING = {} as const satisfies Layout;
const FEATURES = { features: 'u64' } as const satisfies Layout;
const QUEUE = { queue: 'u32' } as const satisfies Layout;

const REGION = {
  guestPhysicalAddress: 'u64',
  size: 'u64',
  hypervisorVirtualAddress: 'u64',
  mmapOffset: 'u64',
} as const satisfies Layout;

interface RequestShape {
  readonly number: number;
  readonly payload: Layout;
  /** Fewest and most file descriptors with the request. */
  readonly fds: readonly [min: number, max: number];
  readonly response: Layout;
  readonly responseFds: 0 | 1;
}

/** Every request, in the order of their numbers. */
export const REQUESTS = {
  GET_FEATURES: { number: 1, payload: NOTHING, fds: [0, 0], response: FEATURES, responseFds: 0 },
  SET_FEATURES: { number: 2, payload: FEATURES, fds: [0, 0], response: NOTHING, responseFds: 0 },
  SET_PARAMETERS: {
    number: 3,
    payload: { numRxQueues: 'u32', numTxQueues: 'u32', numRxBufs: 'u32', numTxBufs: 'u32' },
    fds: [0, 0],
    response: { rxContextSize: 'u32', txContextSize: 'u32' },
    responseFds: 0,
  },
  GET_PROGRAMS: { number: 4, payload: NOTHING, fds: [0, 0], response: NOTHING, responseFds: 1 },
  SET_MEM_TABLE: {
    number: 5,
    payload: { numRegions: 'u32', pad: 'pad', regions: { times: MAX_REGIONS, of: REGION } },
    fds: [0, MAX_REGIONS], // as many as numRegions
    response: NOTHING,
    responseFds: 0,
  },
  SET_QUEUE_CTX: {
    number: 6,
    payload: { queue: 'u32', pad: 'pad', guestPhysicalAddress: 'u64' },
    fds: [0, 0],
    response: NOTHING,
    responseFds: 0,
  },
  SET_QUEUE_KICK: { number: 7, payload: QUEUE, fds: [0, 1], response: NOTHING, responseFds: 0 },
  SET_QUEUE_IRQ: { number: 8, payload: QUEUE, fds: [0, 1], response: NOTHING, responseFds: 0 },
  SET_UPGRADE: { number: 9, payload: { unused: 'u32' }, fds: [1, 1], response: NOTHING, responseFds: 0 },
  RX_ENABLE: { number: 10, payload: NOTHING, fds: [0, 0], response: NOTHING, responseFds: 0 },
  TX_ENABLE: { number: 11, payload: NOTHING, fds: [0, 0], response: NOTHING, responseFds: 0 },
  RX_DISABLE: { number: 12, payload: NOTHING, fds: [0, 0], response: NOTHING, responseFds: 0 },
  TX_DISABLE: { number: 13, payload: NOTHING, fds: [0, 0], response: NOTHING, responseFds: 0 },
} as const satisfies Record<string, RequestShape>;

export type RequestName = keyof typeof REQUESTS;
export type RequestValues<N extends RequestName> = LayoutValue<(typeof REQUESTS)[N]['payload']>;
export type ResponseValues<N extends RequestName> = LayoutValue<(typeof REQUESTS)[N]['response']>;

const BY_NUMBER = new Map<number, RequestName>(
  Object.entries(REQUESTS).map(([name, { number }]) => [number, name as RequestName]),
);

/** A message as it comes off the stream: complete, nothing of it checked. Who takes it owns the fds. */
export interface Message {
  readonly reqtype: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: readonly OwnedFd[];
  /** Why the fds are not to be relied on; null when they are as they were sent. */
  readonly fdFault: string | null;
}

/** A request whose size, version and number of fds are right. */
export type Request = {
  [N in RequestName]: {
    readonly name: N;
    readonly values: RequestValues<N>;
    readonly fds: readonly OwnedFd[];
  };
}[RequestName];

/** The name of a request, or its number where it has none: for logs. */
export function requestLabel(reqtype: number): string {
  return BY_NUMBER.get(reqtype) ?? `request ${reqtype}`;
}

export function encodeRequest<N extends RequestName>(name: N, values: RequestValues<N>): Uint8Array {
  return frame(REQUESTS[name].number, VERSION, encodeLayout(REQUESTS[name].payload as Layout, values));
}

export function encodeResponse<N extends RequestName>(name: N, values: ResponseValues<N>): Uint8Array {
  return frame(REQUESTS[name].number, VERSION, encodeLayout(REQUESTS[name].response as Layout, values));
}

/** "Could not": repeats any reqtype, known or not. */
export function encodeErrorResponse(reqtype: number): Uint8Array {
  return frame(reqtype, VERSION | FLAGS.ERROR, new Uint8Array(0));
}

/**
 * What a backend makes of a message. The fds stay with the caller until it returns.
 * @throws ProxyError `PROXY_VERSION`, `PROXY_FLAGS`, `PROXY_REQUEST`, `PROXY_SIZE`, `PROXY_FDS`, `PROXY_VALUE`
 */
export function decodeRequest(message: Message): Request {
  checkVersion(message);
  if (message.flags !== VERSION)
    throw new ProxyError('PROXY_FLAGS', `${describe(message)}: flags ${hex(message.flags)}`);
  const name = BY_NUMBER.get(message.reqtype);
  if (name === undefined) throw new ProxyError('PROXY_REQUEST', `unknown request ${message.reqtype}`);

  const shape = REQUESTS[name];
  const values = payloadOf(message, shape.payload);
  let [min, max]: readonly [number, number] = shape.fds;
  if ('numRegions' in values) {
    const count = values.numRegions as number;
    if (count > MAX_REGIONS)
      throw new ProxyError('PROXY_VALUE', `${name}: ${count} regions, at most ${MAX_REGIONS}`);
    min = max = count;
  }
  checkFds(message, min, max);
  return { name, values, fds: message.fds } as unknown as Request;
}

/**
 * What a hypervisor makes of a message when it waits for the response to `name`.
 * @throws ProxyError as decodeRequest, and `PROXY_REPLY` (another request's), `PROXY_REFUSED` (the error flag)
 */
export function decodeResponse<N extends RequestName>(
  name: N,
  message: Message,
): { readonly values: ResponseValues<N>; readonly fds: readonly OwnedFd[] } {
  const shape = REQUESTS[name];
  checkVersion(message);
  if (message.reqtype !== shape.number) {
    throw new ProxyError('PROXY_REPLY', `${describe(message)} in response to ${name}`);
  }
  if ((message.flags & ~(FLAGS.VERSION_MASK | FLAGS.ERROR)) !== 0) {
    throw new ProxyError('PROXY_FLAGS', `response to ${name}: flags ${hex(message.flags)}`);
  }
  const refused = (message.flags & FLAGS.ERROR) !== 0;
  const values = payloadOf(message, refused ? NOTHING : shape.response);
  const fds = refused ? 0 : shape.responseFds;
  checkFds(message, fds, fds);
  if (refused) throw new ProxyError('PROXY_REFUSED', `the backend refuses ${name}`);
  return { values: values as ResponseValues<N>, fds: message.fds };
}

function frame(reqtype: number, flags: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, reqtype, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_SIZE);
  return bytes;
}

function checkVersion(message: Message): void {
  const version = message.flags & FLAGS.VERSION_MASK;
  if (version !== VERSION) throw new ProxyError('PROXY_VERSION', `${describe(message)}: version ${version}`);
}

function payloadOf(message: Message, layout: Layout): LayoutValue<Layout> {
  const size = layoutSize(layout);
  if (message.payload.length !== size) {
    throw new ProxyError(
      'PROXY_SIZE',
      `${describe(message)}: ${message.payload.length} bytes of payload, not ${size}`,
    );
  }
  return decodeLayout(layout, message.payload);
}

function checkFds(message: Message, min: number, max: number): void {
  if (message.fdFault !== null) throw new ProxyError('PROXY_FDS', `${describe(message)}: ${message.fdFault}`);
  const { length } = message.fds;
  if (length < min || length > max) {
    const due = min === max ? `${min}` : `${min} to ${max}`;
    throw new ProxyError('PROXY_FDS', `${describe(message)}: ${length} file descriptors, not ${due}`);
  }
}

function describe(message: Message): string {
  return requestLabel(message.reqtype);
}

function hex(value: number): string {
  return `0x${(value >>> 0).toString(16)}`;
}
