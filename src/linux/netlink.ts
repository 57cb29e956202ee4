/**
 * Route netlink: questions and orders to the kernel about interfaces, addresses and routes.
 *
 *     message    u32 length │ u16 type │ u16 flags │ u32 sequence │ u32 port │ body
 *     body       a fixed struct (ifinfomsg, ifaddrmsg, rtmsg, ndmsg) │ attributes
 *     attribute  u16 length │ u16 type │ value, padded to 4
 *
 * An order (NLM_F_ACK) is answered by an error message with code 0, a question by one message. Nothing here asks for
 * dumps. The kernel answers within the send, so this is synchronous. Layouts: <linux/netlink.h>, <linux/rtnetlink.h>.
 * `link.ts` and `route.ts` are what uses it.
 */
import { check, EINTR, LinuxError } from './errors.js';
import { OwnedFd } from './fd.js';
import * as libc from './libc.js';
import { inNetns } from './netns.js';

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_ROUTE = 0;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const ANSWER_TIMEOUT_S = 5n;
const HEADER_SIZE = 16;
const NLMSG_ERROR = 2;
const RECEIVE_SIZE = 65536;

export const NLM_F_REQUEST = 0x01;
export const NLM_F_ACK = 0x04;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
export const NLM_F_REPLACE = 0x100;

/** Attribute type to value: bytes, a number (as u32), a string (with its final zero), or nested attributes. */
export type Attributes = readonly (readonly [type: number, value: AttributeValue])[];
export type AttributeValue = Uint8Array | number | string | { nested: Attributes };

/** Encodes attributes, each padded to 4 bytes. */
export function encodeAttributes(attributes: Attributes): Uint8Array {
  const parts = attributes.map(([type, value]) => {
    const payload = encodeValue(value);
    const part = new Uint8Array(4 + align(payload.length));
    const view = new DataView(part.buffer);
    view.setUint16(0, 4 + payload.length, true);
    view.setUint16(2, type, true);
    part.set(payload, 4);
    return part;
  });
  return concat(parts);
}

/** Decodes attributes that begin at `offset` in `bytes`; of a repeated type, the last. */
export function decodeAttributes(bytes: Uint8Array, offset = 0): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = offset; at + 4 <= bytes.length; ) {
    const length = view.getUint16(at, true);
    if (length < 4 || at + length > bytes.length) break;
    found.set(view.getUint16(at + 2, true) & 0x3fff, bytes.subarray(at + 4, at + length));
    at += align(length);
  }
  return found;
}

/**
 * Sends one request inside `netns` (default: here) and returns the body of the answer, empty for an order.
 * `what` names the request and its object in errors. Throws LinuxError with the kernel's verdict.
 */
export function netlinkRequest(
  netns: OwnedFd | undefined,
  what: { call: string; object: string },
  type: number,
  flags: number,
  struct: Uint8Array,
  attributes: Attributes = [],
): Uint8Array {
  const name = 'netlink socket';
  const socket = inNetns(
    netns,
    () => new OwnedFd(libc.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_ROUTE), name, 'socket'),
  );
  try {
    const timeout = new BigInt64Array([ANSWER_TIMEOUT_S, 0n]);
    check(libc.setsockopt(socket.fd, SOL_SOCKET, SO_RCVTIMEO, timeout), 'setsockopt SO_RCVTIMEO', name);
    const body = concat([struct, encodeAttributes(attributes)]);
    const message = new Uint8Array(HEADER_SIZE + body.length);
    const header = new DataView(message.buffer);
    header.setUint32(0, message.length, true);
    header.setUint16(4, type, true);
    header.setUint16(6, NLM_F_REQUEST | flags, true);
    header.setUint32(8, 1, true);
    message.set(body, HEADER_SIZE);
    check(libc.send(socket.fd, message, message.length, 0), what.call, what.object);
    return receiveAnswer(socket, what);
  } finally {
    socket.close();
  }
}

function receiveAnswer(socket: OwnedFd, what: { call: string; object: string }): Uint8Array {
  const buffer = new Uint8Array(RECEIVE_SIZE);
  let length: number;
  do length = libc.recv(socket.fd, buffer, buffer.length, 0);
  while (length === -EINTR);
  check(length, what.call, what.object);
  const view = new DataView(buffer.buffer);
  const messageLength = view.getUint32(0, true);
  const type = view.getUint16(4, true);
  if (type === NLMSG_ERROR) {
    const error = view.getInt32(HEADER_SIZE, true);
    if (error < 0) throw new LinuxError(what.call, -error, what.object);
    return new Uint8Array(0);
  }
  return buffer.slice(HEADER_SIZE, Math.min(messageLength, length));
}

function encodeValue(value: AttributeValue): Uint8Array {
  if (typeof value === 'number') return new Uint8Array(new Uint32Array([value]).buffer);
  if (typeof value === 'string') return new TextEncoder().encode(`${value}\0`);
  return value instanceof Uint8Array ? value : encodeAttributes(value.nested);
}

/** Joins byte arrays. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

function align(length: number): number {
  return (length + 3) & ~3;
}
