/**
 * vfio-user messages: how one of requests.ts becomes bytes and back.
 *
 * ```
 *   0       2         4          8          12         16
 *   |  id   | command |   size   |  flags   |  errno   | payload ...          file descriptors travel with the first byte
 *                         |          |          '- of a reply with the error flag
 *                         |          '- bits 0-3: 0 command, 1 reply; bit 4: no reply is wanted; bit 5: error
 *                         '- of all of it, these 16 bytes included
 * ```
 * Both sides send commands, with ids of their own; a reply repeats its command's id. A command that failed is answered with a header alone, one that
 * wants no reply is never answered. All integers are little-endian.
 */
import { ERRNO, errnoName } from '../../linux/errors.js';
import type { OwnedFd } from '../../linux/fd.js';
import {
  decodeLayout,
  encodeLayout,
  type Layout,
  type LayoutValue,
  layoutSize,
} from '../bpfhv-proxy/layout.js';
import { VfioUserError } from './errors.js';
import { COMMANDS, type Shape } from './requests.js';

export const HEADER_SIZE = 16;
export const FLAGS = { TYPE: 0xf, COMMAND: 0, REPLY: 1, NO_REPLY: 0x10, ERROR: 0x20 } as const;

export type CommandName = keyof typeof COMMANDS;
type Of<N extends CommandName> = (typeof COMMANDS)[N];
export type CommandValues<N extends CommandName> = LayoutValue<Of<N>['request']>;
export type ReplyValues<N extends CommandName> = LayoutValue<Of<N>['reply']>;

const BY_NUMBER = new Map<number, CommandName>(
  Object.entries(COMMANDS).map(([name, { number }]) => [number, name as CommandName]),
);
const NONE = new Uint8Array(0);

/** A message as it comes off the stream: complete, nothing of it checked. Who takes it owns the fds. */
export interface Message {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly errno: number;
  readonly payload: Uint8Array;
  readonly fds: readonly OwnedFd[];
  /** Why the fds are not to be relied on; null when they are as they were sent. */
  readonly fdFault: string | null;
}

/** A command whose size, flags and number of fds are right. */
export type Command = {
  [N in CommandName]: {
    readonly name: N;
    readonly values: CommandValues<N>;
    /** What follows the fixed part; empty where nothing may. */
    readonly tail: Uint8Array;
    readonly fds: readonly OwnedFd[];
  };
}[CommandName];

export interface Reply<N extends CommandName> {
  /** Null: the reply was a header alone, where that will do. */
  readonly values: ReplyValues<N> | null;
  readonly tail: Uint8Array;
  readonly fds: readonly OwnedFd[];
}

/** The name of a command, or its number where it has none: for logs. */
export function commandLabel(command: number): string {
  return BY_NUMBER.get(command) ?? `command ${command}`;
}

export function isReply({ flags }: Message): boolean {
  return (flags & FLAGS.TYPE) === FLAGS.REPLY;
}

/** Its sender waits for an answer. */
export function wantsReply({ flags }: Message): boolean {
  return (flags & FLAGS.NO_REPLY) === 0;
}

/** `tail` follows the fixed part. The id may be set later (setId). */
export function encodeCommand<N extends CommandName>(
  name: N,
  values: CommandValues<N>,
  tail: Uint8Array = NONE,
  options: { id?: number; noReply?: boolean } = {},
): Uint8Array {
  const { number, request } = COMMANDS[name];
  const { id = 0, noReply = false } = options;
  const flags = FLAGS.COMMAND | (noReply ? FLAGS.NO_REPLY : 0);
  return frame(id, number, flags, 0, encodeLayout(request as Layout, values), tail);
}

/** The reply to a message; `values` null: a header alone. */
export function encodeReply<N extends CommandName>(
  name: N,
  id: number,
  values: ReplyValues<N> | null,
  tail: Uint8Array = NONE,
): Uint8Array {
  const { number, reply } = COMMANDS[name];
  const head = values === null ? NONE : encodeLayout(reply as Layout, values as LayoutValue<Layout>);
  return frame(id, number, FLAGS.REPLY, 0, head, tail);
}

/** "Could not", to any message, known or not. */
export function encodeError({ id, command }: Pick<Message, 'id' | 'command'>, errno: number): Uint8Array {
  return frame(id, command, FLAGS.REPLY | FLAGS.ERROR, errno, NONE, NONE);
}

/** Gives an encoded message another id. */
export function setId(bytes: Uint8Array, id: number): void {
  new DataView(bytes.buffer, bytes.byteOffset).setUint16(0, id, true);
}

/**
 * What one side makes of a command of the other, `sender`. The fds stay with the caller until it returns.
 * @throws VfioUserError `VFIO_FLAGS`, `VFIO_COMMAND`, `VFIO_SIZE`, `VFIO_FDS`, `VFIO_VALUE`
 */
export function decodeCommand(message: Message, sender: 'client' | 'server'): Command {
  const { command, flags, payload, fds } = message;
  const label = commandLabel(command);
  if ((flags & ~(FLAGS.TYPE | FLAGS.NO_REPLY)) !== 0 || (flags & FLAGS.TYPE) !== FLAGS.COMMAND) {
    throw new VfioUserError('VFIO_FLAGS', `${label}: flags 0x${flags.toString(16)}`);
  }
  const name = BY_NUMBER.get(command);
  const shape: Shape | undefined = name && COMMANDS[name];
  if (shape === undefined || (shape.sender ?? 'client') !== sender) {
    throw new VfioUserError('VFIO_COMMAND', `${label} is not served`, { errno: ERRNO.ENOSYS! });
  }
  const hasTail = shape.tail === 'request' || shape.tail === 'both';
  const [values, tail] = split(label, shape.request, hasTail, payload);
  const size = layoutSize(shape.request);
  if ('argsz' in values && (values.argsz as number) < size) {
    throw new VfioUserError('VFIO_VALUE', `${label}: argsz ${values.argsz}, less than ${size}`);
  }
  checkFds(message, shape.fds ?? 0);
  return { name, values, tail, fds } as unknown as Command;
}

/**
 * What the sender of `name` makes of the message that has its id.
 * @throws VfioUserError `VFIO_REFUSED`; `VFIO_REPLY`: another command's, or none; `VFIO_FLAGS`, `VFIO_SIZE`, `VFIO_FDS`
 */
export function decodeReply<N extends CommandName>(name: N, message: Message): Reply<N> {
  const shape: Shape = COMMANDS[name];
  const { command, flags, errno, payload, fds } = message;
  if (command !== shape.number) {
    throw new VfioUserError('VFIO_REPLY', `${commandLabel(command)} in reply to ${name}`);
  }
  if ((flags & ~FLAGS.ERROR) !== FLAGS.REPLY) {
    throw new VfioUserError('VFIO_FLAGS', `the reply to ${name}: flags 0x${flags.toString(16)}`);
  }
  const failed = (flags & FLAGS.ERROR) !== 0;
  checkFds(message, failed ? 0 : (shape.replyFds ?? 0));
  if (failed && payload.length > 0) {
    throw new VfioUserError('VFIO_SIZE', `the refusal of ${name}: ${payload.length} bytes of payload`);
  }
  if (failed) {
    throw new VfioUserError('VFIO_REFUSED', `the peer refuses ${name}: ${errnoName(errno)}`, { errno });
  }
  if (payload.length === 0 && shape.bareReply) return { values: null, tail: NONE, fds };
  const hasTail = shape.tail === 'reply' || shape.tail === 'both';
  const [values, tail] = split(`the reply to ${name}`, shape.reply, hasTail, payload);
  return { values: values as ReplyValues<N>, tail, fds };
}

function frame(
  id: number,
  command: number,
  flags: number,
  errno: number,
  head: Uint8Array,
  tail: Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + head.length + tail.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, id, true);
  view.setUint16(2, command, true);
  view.setUint32(4, bytes.length, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, errno, true);
  bytes.set(head, HEADER_SIZE);
  bytes.set(tail, HEADER_SIZE + head.length);
  return bytes;
}

type Values = { readonly [name: string]: unknown };

function split(label: string, layout: Layout, hasTail: boolean, payload: Uint8Array): [Values, Uint8Array] {
  const size = layoutSize(layout);
  if (payload.length < size || (payload.length > size && !hasTail)) {
    const due = hasTail ? `${size} or more` : `${size}`;
    throw new VfioUserError('VFIO_SIZE', `${label}: ${payload.length} bytes of payload, not ${due}`);
  }
  return [decodeLayout(layout, payload.subarray(0, size)), payload.subarray(size)];
}

function checkFds({ command, fds, fdFault }: Message, most: number): void {
  const wrong = (why: string) => new VfioUserError('VFIO_FDS', `${commandLabel(command)}: ${why}`);
  if (fdFault !== null) throw wrong(fdFault);
  if (fds.length > most) throw wrong(`${fds.length} file descriptors, at most ${most}`);
}
