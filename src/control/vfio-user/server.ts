/**
 * The server's end: takes commands off a connection, lets a PCI function carry them out, one at a time and in order, and answers those that are to be answered.
 *
 * What a client sends wrongly costs it that command (an error in the reply, if it wants one) as long as the header says how much to skip; otherwise it
 * costs the connection. Nothing that a client sends makes serveVfioUser() throw.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ERRNO, LinuxError } from '../../linux/errors.js';
import type { OwnedFd } from '../../linux/fd.js';
import type { PciFunction } from '../../pci/function.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { type ClientMemory, MessageMemory } from './client-memory.js';
import type { DmaChange, DmaLimits } from './dma.js';
import { VfioUserError } from './errors.js';
import { Inbox } from './inbox.js';
import {
  type Command,
  commandLabel,
  decodeCommand,
  encodeError,
  encodeReply,
  FLAGS,
  isReply,
  type Message,
  wantsReply,
} from './messages.js';
import { PendingCommands } from './pending.js';
import { COMMANDS } from './requests.js';
import { type MemoryCommand, ServerMemory } from './server-memory.js';
import { ServerSession, type SessionCommand } from './server-session.js';
import { PAYLOAD_MARGIN, VfioUserStream } from './stream.js';
import { type Capabilities, DEFAULT_CAPABILITIES, transferSize } from './version.js';

export interface VfioServerOptions extends Partial<DmaLimits> {
  /** A client that has connected must begin its first command after so long, or it loses its place. Milliseconds, default 10 s. */
  readonly firstRequestTimeoutMs?: number;
  /** A message that has begun must be complete after so long. Milliseconds, default 5 s. */
  readonly messageTimeoutMs?: number;
  /** The client must answer a DMA_READ or DMA_WRITE after so long. Milliseconds, default 5 s. */
  readonly dmaTimeoutMs?: number;
  /** Bytes that one message may read or write; default, and at most, 1 MiB. */
  readonly maxDataXferSize?: number;
  /** Ends the session from this side. */
  readonly signal?: AbortSignal;
  /** Told about each command that was refused: by the protocol (VfioUserError), the function, or a fault in it. */
  readonly onRefused?: (command: string, error: Error) => void;
  /** Given the client's memory by messages, once a version is agreed on. */
  readonly onMemory?: (memory: ClientMemory) => void;
}

/** How a session ended. */
export interface VfioSessionEnd {
  readonly requests: number;
  readonly refused: number;
  /** Why, when it was not the client that closed between two messages; `VFIO_CLOSED` also after an abort. */
  readonly error: Error | null;
}

/** What QEMU takes: max_msg_fds is at most 16, write_multiple would make it queue all that it sends. */
const OFFERED: Capabilities = { ...DEFAULT_CAPABILITIES, maxMsgFds: 8 };

/** Commands that become one change of memory, at most. */
const MAX_BATCH = 4096;

/**
 * Serves one client on a connected channel until either side ends it, then disconnects the function. Closes the channel. Never
 * rejects: what went wrong is in the result.
 */
export function serveVfioUser(
  channel: Channel,
  fn: PciFunction,
  options: VfioServerOptions = {},
): Promise<VfioSessionEnd> {
  return new Server(channel, fn, options).serve();
}

/** A command that is to change memory, and what became of it. */
interface Change {
  readonly message: Message;
  readonly command?: MemoryCommand;
  /** Not there: it was refused at first sight. */
  readonly change?: DmaChange;
  error: unknown;
}

class Server {
  readonly #fn: PciFunction;
  readonly #options: VfioServerOptions;
  readonly #stream: VfioUserStream;
  readonly #inbox = new Inbox();
  readonly #pending: PendingCommands;
  readonly #session: ServerSession;
  readonly #memory: ServerMemory;
  #turn: Promise<unknown> = Promise.resolve();
  /** The client writes no more. It may not read any more either. */
  #left = false;
  #requests = 0;
  #refused = 0;
  #error: Error | null = null;

  constructor(channel: Channel, fn: PciFunction, options: VfioServerOptions) {
    const { messageTimeoutMs = 5000, dmaTimeoutMs = 5000, maxFiles = 256 } = options;
    const { maxDmaMaps = OFFERED.maxDmaMaps } = options;
    const maxDataXferSize = transferSize(options.maxDataXferSize);
    this.#fn = fn;
    this.#options = options;
    this.#stream = new VfioUserStream(channel, {
      maxPayload: maxDataXferSize + PAYLOAD_MARGIN,
      maxFds: OFFERED.maxMsgFds,
      messageTimeoutMs,
    });
    this.#pending = new PendingCommands(dmaTimeoutMs);
    const inTurn = <T>(action: () => T | Promise<T>): Promise<T> => this.#inTurn(action);
    this.#session = new ServerSession(fn, inTurn, { ...OFFERED, maxDataXferSize, maxDmaMaps });
    this.#memory = new ServerMemory(fn, { maxDmaMaps, maxFiles });
  }

  async serve(): Promise<VfioSessionEnd> {
    const { signal } = this.#options;
    const abort = (): void => this.#stream.close();
    signal?.addEventListener('abort', abort);
    if (signal?.aborted) abort();
    const reading = this.#read();
    try {
      for (let message = await this.#inbox.take(); message !== null; message = await this.#inbox.take()) {
        if (changesMemory(message)) await this.#changeMemory(message);
        else await this.#answer(message);
        if (!this.#left) await this.#stream.sent();
        await nextTurn(); // a client that never stops asking must not keep the event loop from everything else
      }
    } catch (cause) {
      this.#error ??= asError(cause);
    } finally {
      signal?.removeEventListener('abort', abort);
      this.#stream.close();
      this.#inbox.close();
    }
    await reading;
    await this.#end();
    return { requests: this.#requests, refused: this.#refused, error: this.#error };
  }

  /** Reads as long as there is a connection: commands to be carried out, and replies to ours. */
  async #read(): Promise<void> {
    const { firstRequestTimeoutMs = 10_000 } = this.#options;
    try {
      for (;;) {
        const message = await this.#stream.next(this.#requests === 0 ? firstRequestTimeoutMs : undefined);
        if (message === null) break;
        if (!isReply(message)) {
          this.#requests += 1;
          await this.#inbox.put(message);
        } else if (!this.#pending.settle(message)) {
          const text = `a reply to ${commandLabel(message.command)}, which was not asked`;
          this.#refuse(message, new VfioUserError('VFIO_REPLY', text));
          await nextTurn();
        }
      }
      this.#left = true;
      this.#inbox.end();
    } catch (cause) {
      this.#error ??= asError(cause);
      this.#inbox.close();
    }
    this.#pending.fail(new VfioUserError('VFIO_CLOSED', 'the client is gone'));
  }

  async #answer(message: Message): Promise<void> {
    let command: SessionCommand;
    try {
      command = this.#decode(message) as SessionCommand;
    } catch (cause) {
      for (const fd of message.fds) fd.close();
      return this.#send(this.#refuse(message, cause));
    }
    try {
      // From here on the fds are the session's, whatever comes of it.
      const { bytes, fds } = await this.#inTurn(() => this.#session.carryOut(command, message.id));
      if (wantsReply(message)) this.#send(bytes, fds);
    } catch (cause) {
      return this.#send(this.#refuse(message, cause));
    }
    if (command.name === 'VERSION') this.#offerMemory();
  }

  /** Carries out this command, and all such that have arrived behind it, as one change of memory. */
  async #changeMemory(first: Message): Promise<void> {
    const batch: Change[] = [];
    for (let next: Message | null = first; next !== null; next = await this.#nextChange(batch.length)) {
      const message = next;
      try {
        const command = this.#decode(message) as MemoryCommand;
        batch.push({ message, command, change: this.#memory.toChange(command), error: null });
      } catch (error) {
        for (const fd of message.fds) fd.close();
        batch.push({ message, error });
      }
    }
    const good = batch.filter(({ change }) => change !== undefined);
    const errors = await this.#inTurn(() => this.#memory.change(good.map(({ change }) => change!)));
    for (const [i, entry] of good.entries()) entry.error = errors[i];
    const replies = batch
      .map(entry => (entry.error === null ? changed(entry) : this.#refuse(entry.message, entry.error)))
      .filter(bytes => bytes !== null);
    if (replies.length > 0) this.#send(Buffer.concat(replies));
  }

  /** The next command, if it also changes memory and is there by now. */
  async #nextChange(taken: number): Promise<Message | null> {
    if (taken >= MAX_BATCH) return null;
    if (this.#inbox.empty) await nextTurn(); // what the socket has comes in meanwhile
    return this.#inbox.takeNow(changesMemory);
  }

  /** From now on the function, or who serves it, may use the client's memory. */
  #offerMemory(): void {
    const { maxDataXferSize } = this.#session.agreed!;
    this.#options.onMemory?.(new MessageMemory(this.#stream, this.#pending, maxDataXferSize));
  }

  #decode(message: Message): Command {
    const command = decodeCommand(message, 'client');
    this.#session.check(command.name);
    return command;
  }

  /** Counts it, tells whoever wants to know, and returns the reply, if one is due. */
  #refuse(message: Message, cause: unknown): Uint8Array | null {
    this.#refused += 1;
    const error = asError(cause);
    this.#options.onRefused?.(commandLabel(message.command), error);
    return wantsReply(message) && !isReply(message) ? encodeError(message, errnoOf(error)) : null;
  }

  #send(bytes: Uint8Array | null, fds: readonly OwnedFd[] = []): void {
    if (bytes === null) return;
    try {
      this.#stream.send(bytes, fds);
    } catch (error) {
      if (!this.#left) throw error;
    }
  }

  #inTurn<T>(action: () => T | Promise<T>): Promise<T> {
    const turn = this.#turn.then(action);
    this.#turn = turn.catch(() => {}); // the next in line has its own success
    return turn;
  }

  async #end(): Promise<void> {
    this.#session.close();
    try {
      await this.#inTurn(() => this.#fn.disconnect());
    } catch (cause) {
      this.#error ??= asError(cause);
    }
    this.#memory.close();
  }
}

function changesMemory({ command, flags }: Message): boolean {
  const { DMA_MAP, DMA_UNMAP } = COMMANDS;
  return (
    (flags & FLAGS.TYPE) === FLAGS.COMMAND && (command === DMA_MAP.number || command === DMA_UNMAP.number)
  );
}

/** The reply to a change of memory that was made. */
function changed({ message, command }: Change): Uint8Array | null {
  if (!wantsReply(message)) return null;
  return command!.name === 'DMA_MAP'
    ? encodeReply(command!.name, message.id, {})
    : encodeReply(command!.name, message.id, command!.values);
}

/** What the client is told. */
function errnoOf(error: Error): number {
  return error instanceof VfioUserError || error instanceof LinuxError ? error.errno : ERRNO.EINVAL!;
}

function asError(cause: unknown): Error {
  return cause instanceof Error ? cause : new Error(String(cause));
}
