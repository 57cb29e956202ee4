/**
 * vhost-user messages, version 1: how one of requests.ts becomes bytes and back.
 *
 * ```
 *   0          4          8          12
 *   | request  |  flags   |   size   | payload: size bytes ...      file descriptors travel with the header
 *                 |   '- bits 0-1: version, 1
 *                 '- bit 2: reply, bit 3: the sender wants to know whether it worked
 * ```
 * An answer repeats the request's number. Most requests get none; with REPLY_ACK negotiated and bit 3 set, those get a u64, 0 for success. All
 * integers are little-endian.
 */
import type { OwnedFd } from '../../linux/fd.js';
import {
  decodeLayout,
  encodeLayout,
  type Layout,
  type LayoutValue,
  layoutSize,
} from '../bpfhv-proxy/layout.js';
import { VhostUserError } from './errors.js';
import { BACKEND_REQUESTS, FOREIGN_REQUESTS, MAX_TABLE_REGIONS, REQUESTS, VRING_FD } from './requests.js';

export const HEADER_SIZE = 12;
export const VERSION = 1;
export const FLAGS = { VERSION_MASK: 3, REPLY: 4, NEED_REPLY: 8 } as const;

export type RequestName = keyof typeof REQUESTS;
type Shape<N extends RequestName> = (typeof REQUESTS)[N];
type Each<N extends RequestName> =
  Shape<N> extends { readonly each: infer E extends Layout }
    ? { readonly each: readonly LayoutValue<E>[] }
    : unknown;

/** A request's fields; `each` are those that come as often as `count` says. */
export type RequestValues<N extends RequestName> = LayoutValue<Shape<N>['payload']> & Each<N>;
export type ReplyValues<N extends RequestName> = Shape<N>['reply'] extends infer R extends Layout
  ? LayoutValue<R>
  : null;

const BY_NUMBER = new Map<number, RequestName>(
  Object.entries(REQUESTS).map(([name, { number }]) => [number, name as RequestName]),
);

/** Their payload says whether an fd comes with them. */
const VRING_FDS: ReadonlySet<RequestName> = new Set(['SET_VRING_KICK', 'SET_VRING_CALL', 'SET_VRING_ERR']);

/** A message as it comes off the stream: complete, nothing of it checked. Who takes it owns the fds. */
export interface Message {
  readonly request: number;
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
export function requestLabel(request: number): string {
  return BY_NUMBER.get(request) ?? FOREIGN_REQUESTS[request]?.[0] ?? `request ${request}`;
}

/** Its sender asks to be told whether it worked. */
export function wantsAck({ flags }: Message): boolean {
  return (flags & FLAGS.NEED_REPLY) !== 0;
}

/** Its sender waits for an answer in any case. */
export function isAnswered(request: number): boolean {
  const name = BY_NUMBER.get(request);
  return name === undefined ? (FOREIGN_REQUESTS[request]?.[1] ?? false) : REQUESTS[name].reply !== null;
}

export function encodeRequest<N extends RequestName>(
  name: N,
  values: RequestValues<N>,
  needReply = false,
): Uint8Array {
  const shape: { number: number; payload: Layout; each?: Layout } = REQUESTS[name];
  const head = encodeLayout(shape.payload, values);
  const each = (values as { each?: readonly LayoutValue<Layout>[] }).each ?? [];
  const parts = [head, ...each.map(entry => encodeLayout(shape.each!, entry))];
  return frame(shape.number, VERSION | (needReply ? FLAGS.NEED_REPLY : 0), Buffer.concat(parts));
}

export function encodeReply<N extends RequestName>(name: N, values: ReplyValues<N>): Uint8Array {
  const { number, reply } = REQUESTS[name];
  return frame(number, VERSION | FLAGS.REPLY, encodeLayout(reply as Layout, values as LayoutValue<Layout>));
}

/** "Done", or "could not": repeats any request, known or not. */
export function encodeAck(request: number, done: boolean): Uint8Array {
  return frame(request, VERSION | FLAGS.REPLY, encodeLayout({ value: 'u64' }, { value: done ? 0n : 1n }));
}

/** An answer of no bytes, to a request that waits for one that can't be given. */
export function encodeEmptyReply(request: number): Uint8Array {
  return frame(request, VERSION | FLAGS.REPLY, new Uint8Array(0));
}

/** What a backend asks on its own channel. */
export function encodeBackendRequest<N extends keyof typeof BACKEND_REQUESTS>(
  name: N,
  values: LayoutValue<(typeof BACKEND_REQUESTS)[N]['payload']>,
): Uint8Array {
  const { number, payload } = BACKEND_REQUESTS[name];
  return frame(number, VERSION, encodeLayout(payload, values));
}

/**
 * What a backend makes of a message. The fds stay with the caller until it returns.
 * @throws VhostUserError `VHOST_VERSION`, `VHOST_FLAGS`, `VHOST_REQUEST`, `VHOST_SIZE`, `VHOST_FDS`, `VHOST_VALUE`
 */
export function decodeRequest(message: Message): Request {
  checkFlags(message, FLAGS.NEED_REPLY, 0);
  const name = BY_NUMBER.get(message.request);
  if (name === undefined) {
    throw new VhostUserError('VHOST_REQUEST', `${requestLabel(message.request)} is not served`);
  }
  const shape: { payload: Layout; each?: Layout; fds: readonly [number, number] } = REQUESTS[name];
  const values = decodeValues(message, shape.payload, shape.each);
  let [min, max] = shape.fds;
  if (values.each) min = max = values.each.length;
  if (VRING_FDS.has(name)) min = max = ((values.value as bigint) & VRING_FD.NONE) === 0n ? 1 : 0;
  checkFds(message, min, max);
  return { name, values, fds: message.fds } as unknown as Request;
}

/**
 * What a front end makes of a message when it waits for the reply to `name`: the reply's fields.
 * @throws VhostUserError as decodeRequest, and `VHOST_REPLY`: another request's, or none
 */
export function decodeReply<N extends RequestName>(name: N, message: Message): ReplyValues<N> {
  const { number, reply } = REQUESTS[name];
  checkReply(name, number, message);
  return decodeValues(message, reply as Layout) as unknown as ReplyValues<N>;
}

/** Whether the acknowledgement of `name` says that it worked. @throws VhostUserError as decodeReply */
export function decodeAck(name: RequestName, message: Message): boolean {
  checkReply(name, REQUESTS[name].number, message);
  return (decodeValues(message, { value: 'u64' }) as { value: bigint }).value === 0n;
}

/** What a front end makes of a message on the backend's own channel. @throws VhostUserError as decodeRequest */
export function decodeBackendRequest(
  message: Message,
): LayoutValue<(typeof BACKEND_REQUESTS)['IOTLB_MSG']['payload']> {
  const { number, payload } = BACKEND_REQUESTS.IOTLB_MSG;
  checkFlags(message, FLAGS.NEED_REPLY, 0);
  if (message.request !== number) {
    throw new VhostUserError('VHOST_REQUEST', `the backend's request ${message.request} is not served`);
  }
  checkFds(message, 0, 0);
  return decodeValues(message, payload) as unknown as LayoutValue<typeof payload>;
}

function frame(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_SIZE);
  return bytes;
}

/** Flags are version 1, all of `needed`, and at most `allowed` besides. */
function checkFlags(message: Message, allowed: number, needed: number): void {
  const { request, flags } = message;
  const version = flags & FLAGS.VERSION_MASK;
  if (version !== VERSION) {
    throw new VhostUserError('VHOST_VERSION', `${requestLabel(request)}: version ${version}`);
  }
  const others = flags & ~FLAGS.VERSION_MASK;
  if ((others & ~(allowed | needed)) !== 0 || (others & needed) !== needed) {
    throw new VhostUserError('VHOST_FLAGS', `${requestLabel(request)}: flags 0x${flags.toString(16)}`);
  }
}

function checkReply(name: RequestName, number: number, message: Message): void {
  if (message.request !== number) {
    throw new VhostUserError('VHOST_REPLY', `${requestLabel(message.request)} in reply to ${name}`);
  }
  checkFlags(message, 0, FLAGS.REPLY);
  checkFds(message, 0, 0);
}

type Values = { [name: string]: unknown; each?: readonly unknown[] };

function decodeValues(message: Message, layout: Layout, each?: Layout): Values {
  const { payload } = message;
  const label = requestLabel(message.request);
  const head = layoutSize(layout);
  const wrong = (due: string) =>
    new VhostUserError('VHOST_SIZE', `${label}: ${payload.length} bytes of payload, not ${due}`);
  if (payload.length < head) throw wrong(`${head}`);
  const values: Values = decodeLayout(layout, payload.subarray(0, head));
  if (each === undefined) {
    if (payload.length !== head) throw wrong(`${head}`);
    return values;
  }
  const count = values.count as number;
  if (count > MAX_TABLE_REGIONS) {
    throw new VhostUserError('VHOST_VALUE', `${label}: ${count} regions, at most ${MAX_TABLE_REGIONS}`);
  }
  const step = layoutSize(each);
  if (payload.length !== head + count * step) throw wrong(`${head + count * step}`);
  const at = (i: number) => payload.subarray(head + i * step, head + (i + 1) * step);
  return { ...values, each: Array.from({ length: count }, (_, i) => decodeLayout(each, at(i))) };
}

function checkFds({ request, fds, fdFault }: Message, min: number, max: number): void {
  if (fdFault !== null) throw new VhostUserError('VHOST_FDS', `${requestLabel(request)}: ${fdFault}`);
  if (fds.length >= min && fds.length <= max) return;
  const due = min === max ? `${min}` : `${min} to ${max}`;
  throw new VhostUserError(
    'VHOST_FDS',
    `${requestLabel(request)}: ${fds.length} file descriptors, not ${due}`,
  );
}
