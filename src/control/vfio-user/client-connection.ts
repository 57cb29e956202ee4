/**
 * The client's connection: sends commands in the order in which they were asked for, matches replies by id, and answers what the server wants of this side's
 * memory.
 *
 * ```
 *   ask, post ──► one by one, at most MAX_OUTSTANDING unanswered ──► server
 *   whoever asked ◄──────────── replies ─────────────────────────────┤
 *   MemoryHandler ◄──────────── DMA_READ, DMA_WRITE ─────────────────┘
 * ```
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ERRNO, LinuxError } from '../../linux/errors.js';
import type { OwnedFd } from '../../linux/fd.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { VfioUserError } from './errors.js';
import {
  type CommandName,
  type CommandValues,
  commandLabel,
  decodeCommand,
  encodeCommand,
  encodeError,
  encodeReply,
  isReply,
  type Message,
  type Reply,
  wantsReply,
} from './messages.js';
import { PendingCommands } from './pending.js';
import { PAYLOAD_MARGIN, VfioUserStream } from './stream.js';

/** This side's memory, as far as the server may ask for it by messages. Addresses are the bus's; nothing is checked yet. What it throws is a refusal. */
export interface MemoryHandler {
  read(address: bigint, into: Uint8Array): void | Promise<void>;
  write(address: bigint, bytes: Uint8Array): void | Promise<void>;
}

export interface VfioClientOptions {
  /** Every reply must be complete after so long. Milliseconds, default 10 s. */
  readonly replyTimeoutMs?: number;
  /** A message that has begun must be complete after so long. Milliseconds, default 5 s. */
  readonly messageTimeoutMs?: number;
  /** Bytes that one message may read or write; default, and at most, 1 MiB. */
  readonly maxDataXferSize?: number;
  /** Without one the server is refused. It must not wait for a command of this client's. */
  readonly memory?: MemoryHandler;
}

export interface Attached {
  readonly tail?: Uint8Array;
  readonly fds?: readonly OwnedFd[];
}

/** Commands that are under way at a time; more wait here. */
const MAX_OUTSTANDING = 128;
/** The server's commands that wait for the handler; while there are more nothing is read. */
const MAX_SERVING = 16;

export class ClientConnection {
  /** Resolves when the connection is over: with null when the server closed it or close() was called, else with the reason. */
  readonly closed: Promise<VfioUserError | null>;
  readonly #stream: VfioUserStream;
  readonly #pending: PendingCommands;
  readonly #memory: MemoryHandler | null;
  readonly #maxDataXferSize: number;
  #turn: Promise<unknown> = Promise.resolve();
  #onSettled: (() => void) | null = null;
  #onServed: (() => void) | null = null;
  #served: Promise<void> = Promise.resolve();
  #serving = 0;
  #fault: VfioUserError | null = null;

  constructor(channel: Channel, options: VfioClientOptions & { readonly maxDataXferSize: number }) {
    const { replyTimeoutMs = 10_000, messageTimeoutMs = 5000, maxDataXferSize, memory } = options;
    this.#stream = new VfioUserStream(channel, {
      maxPayload: maxDataXferSize + PAYLOAD_MARGIN,
      messageTimeoutMs,
    });
    this.#pending = new PendingCommands(replyTimeoutMs);
    this.#memory = memory ?? null;
    this.#maxDataXferSize = maxDataXferSize;
    this.closed = this.#receive();
  }

  /** Sends a command and resolves with its reply, whose fds are the caller's. Throws VfioUserError; all but `VFIO_REFUSED` end the connection. */
  async ask<N extends CommandName>(
    name: N,
    values: CommandValues<N>,
    { tail, fds }: Attached = {},
  ): Promise<Reply<N>> {
    const command = encodeCommand(name, values, tail);
    try {
      const { reply } = await this.#inTurn(name, () => ({
        reply: this.#pending.ask(name, command, bytes => this.#stream.send(bytes, fds)),
      }));
      return await reply;
    } catch (error) {
      throw error instanceof VfioUserError && error.code !== 'VFIO_REFUSED' ? this.fail(error) : error;
    }
  }

  /** Sends a command that gets no reply. Resolves when it is on its way. */
  async post<N extends CommandName>(
    name: N,
    values: CommandValues<N>,
    { tail }: Attached = {},
  ): Promise<void> {
    const command = encodeCommand(name, values, tail, { noReply: true });
    try {
      await this.#inTurn(name, () => this.#stream.send(command));
    } catch (error) {
      throw error instanceof VfioUserError ? this.fail(error) : error;
    }
  }

  /** Ends the connection for a reason, of which the first counts. Returns the error, to be thrown. */
  fail(error: VfioUserError): VfioUserError {
    if (!this.#stream.closed) this.#fault = error;
    this.#end(error);
    return error;
  }

  /** Ends the connection; commands under way throw `VFIO_CLOSED`. */
  close(): void {
    this.#end(new VfioUserError('VFIO_CLOSED', 'the connection was closed'));
  }

  #end(error: VfioUserError): void {
    this.#stream.close();
    this.#pending.fail(error);
    this.#onSettled?.();
    this.#onServed?.();
  }

  /** Sends when its turn has come, and not too much is under way. */
  #inTurn<T>(name: CommandName, send: () => T): Promise<T> {
    const turn = this.#turn.then(async () => {
      while (this.#pending.size >= MAX_OUTSTANDING && !this.#stream.closed) {
        await new Promise<void>(resolve => (this.#onSettled = resolve));
      }
      await this.#stream.sent();
      if (!this.#stream.closed) return send();
      throw new VfioUserError('VFIO_CLOSED', `${name}: the connection is closed`, { cause: this.#fault });
    });
    this.#turn = turn.catch(() => {}); // the next in line has its own success
    return turn;
  }

  /** Reads as long as there is a connection: an answer, a command, a lie, or the end may come at any time. */
  async #receive(): Promise<VfioUserError | null> {
    try {
      for (;;) {
        const message = await this.#stream.next();
        if (message === null) break;
        if (!isReply(message)) await this.#enqueue(message);
        else if (this.#pending.settle(message)) this.#onSettled?.();
        else {
          const what = `an unsolicited reply to ${commandLabel(message.command)}`;
          throw new VfioUserError('VFIO_REPLY', what);
        }
      }
    } catch (error) {
      if (!this.#stream.closed) this.fail(error as VfioUserError);
    }
    this.#end(new VfioUserError('VFIO_CLOSED', 'the connection was closed before the reply'));
    return this.#fault;
  }

  /** Lets a command of the server's be carried out after those before it. Resolves when the next one may come. */
  async #enqueue(message: Message): Promise<void> {
    this.#serving += 1;
    this.#served = this.#served
      .then(() => this.#serve(message))
      .catch(error => void this.fail(error))
      .finally(() => {
        this.#serving -= 1;
        this.#onServed?.();
      });
    while (this.#serving >= MAX_SERVING && !this.#stream.closed) {
      await new Promise<void>(resolve => (this.#onServed = resolve));
    }
  }

  async #serve(message: Message): Promise<void> {
    let answer: Uint8Array;
    try {
      if (this.#stream.closed) throw new VfioUserError('VFIO_CLOSED', 'too late');
      answer = await this.#carryOut(message);
    } catch (error) {
      for (const fd of message.fds) fd.close();
      // Flags that are no command's may have been a reply's: somebody would wait for it.
      if (error instanceof VfioUserError && error.code === 'VFIO_FLAGS') throw error;
      const known = error instanceof VfioUserError || error instanceof LinuxError;
      answer = encodeError(message, known ? error.errno : ERRNO.EINVAL!);
    }
    if (wantsReply(message) && !this.#stream.closed) this.#stream.send(answer);
    await this.#stream.sent();
    await nextTurn(); // a server that never stops asking must not keep the event loop from everything else
  }

  async #carryOut(message: Message): Promise<Uint8Array> {
    const command = decodeCommand(message, 'server');
    const handler = this.#memory;
    if (handler === null) {
      throw new VfioUserError('VFIO_COMMAND', 'no memory is there for messages', { errno: ERRNO.EFAULT! });
    }
    if (command.name !== 'DMA_READ' && command.name !== 'DMA_WRITE') throw new TypeError(command.name);
    const { address, count } = command.values;
    if (count > this.#maxDataXferSize) {
      throw new VfioUserError('VFIO_VALUE', `${command.name}: ${count} bytes`, { errno: ERRNO.E2BIG! });
    }
    const length = Number(count);
    if (command.name === 'DMA_READ') {
      const bytes = new Uint8Array(length);
      await handler.read(address, bytes);
      return encodeReply(command.name, message.id, { address, count }, bytes);
    }
    if (command.tail.length !== length) {
      throw new VfioUserError('VFIO_SIZE', `DMA_WRITE: ${command.tail.length} bytes of data, not ${count}`);
    }
    await handler.write(address, command.tail);
    const written = new Uint8Array(8);
    new DataView(written.buffer).setBigUint64(0, count, true);
    return encodeReply(command.name, message.id, { address }, written);
  }
}
