/**
 * The front end's end: typed requests to a backend, one outstanding at a time. It drives other people's backends as well as our own.
 *
 * A request without a reply is confirmed by an acknowledgement where the backend knows them; else it is sent and believed. The backend is not
 * trusted: a reply that is late, of the wrong kind or size, or that nobody asked for, ends the connection.
 */
import type { OwnedFd } from '../../linux/fd.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { VhostUserError } from './errors.js';
import {
  decodeAck,
  decodeReply,
  encodeRequest,
  type Message,
  type ReplyValues,
  type RequestName,
  type RequestValues,
  requestLabel,
} from './messages.js';
import { PROTOCOL_FEATURE, REQUESTS, VRING_FD } from './requests.js';
import { type StreamLimits, VhostUserStream } from './stream.js';

export interface VhostFrontendOptions extends Partial<StreamLimits> {
  /** Every reply must be complete after so long. Milliseconds, default 10 s. */
  readonly replyTimeoutMs?: number;
}

/** A region of the memory that is shared. */
export type SharedRegion = RequestValues<'SET_MEM_TABLE'>['each'][number] & { readonly fd: OwnedFd };

interface Pending {
  readonly resolve: (message: Message) => void;
  readonly reject: (error: VhostUserError) => void;
}

/** Those whose payload is a vring's index, and an fd or none. */
type VringFd = 'SET_VRING_KICK' | 'SET_VRING_CALL' | 'SET_VRING_ERR';

/**
 * One connected backend. All methods throw VhostUserError; after any but `VHOST_REFUSED` the connection is closed. File descriptors passed in stay the
 * caller's. Calls may overlap: they wait for each other, in order.
 */
export class VhostUserFrontend {
  /** Resolves when the connection is over: with null when the backend closed it or close() was called, else with the reason. */
  readonly closed: Promise<VhostUserError | null>;
  readonly #stream: VhostUserStream;
  readonly #replyTimeoutMs: number;
  #tail: Promise<unknown> = Promise.resolve();
  #pending: Pending | null = null;
  #fault: VhostUserError | null = null;
  #protocol = 0n;

  constructor(channel: Channel, options: VhostFrontendOptions = {}) {
    this.#stream = new VhostUserStream(channel, options);
    this.#replyTimeoutMs = options.replyTimeoutMs ?? 10_000;
    this.closed = this.#receive();
  }

  /** PROTOCOL_FEATURE bits that were agreed on. */
  get protocol(): bigint {
    return this.#protocol;
  }

  async getFeatures(): Promise<bigint> {
    return (await this.ask('GET_FEATURES', {})).value;
  }

  /** Agrees on those of `wanted` that the backend offers. */
  async negotiateProtocol(wanted: bigint): Promise<void> {
    const { value: offered } = await this.ask('GET_PROTOCOL_FEATURES', {});
    await this.tell('SET_PROTOCOL_FEATURES', { value: offered & wanted });
    this.#protocol = offered & wanted;
  }

  /** At most 8 regions (RangeError). */
  async setMemTable(regions: readonly SharedRegion[]): Promise<void> {
    if (regions.length > REQUESTS.SET_MEM_TABLE.fds[1]) throw new RangeError(`${regions.length} regions`);
    const fds = regions.map(({ fd }) => fd);
    await this.tell('SET_MEM_TABLE', { count: regions.length, each: regions }, fds);
  }

  async addMemRegion({ fd, ...region }: SharedRegion): Promise<void> {
    await this.tell('ADD_MEM_REG', { pad: 0n, ...region }, [fd]);
  }

  async removeMemRegion({ fd: _, ...region }: SharedRegion): Promise<void> {
    await this.tell('REM_MEM_REG', { pad: 0n, ...region });
  }

  /** `fd` null: none, which for a doorbell means that the backend is to look by itself. */
  async setVringFd(name: VringFd, index: number, fd: OwnedFd | null): Promise<void> {
    const value = BigInt(index) | (fd ? 0n : VRING_FD.NONE);
    await this.tell(name, { value }, fd ? [fd] : []);
  }

  /** Stops the ring; where it stands. */
  async stopVring(index: number): Promise<number> {
    const reply = await this.ask('GET_VRING_BASE', { index, num: 0 });
    if (reply.index === index) return reply.num;
    throw this.#fail(
      new VhostUserError('VHOST_VALUE', `GET_VRING_BASE: of ring ${reply.index}, not ${index}`),
    );
  }

  /** A request that has a reply. */
  ask<N extends RequestName>(
    name: N,
    values: RequestValues<N>,
    fds: readonly OwnedFd[] = [],
  ): Promise<ReplyValues<N>> {
    return this.#inTurn(() =>
      this.#exchange(name, encodeRequest(name, values), fds, message => decodeReply(name, message)),
    );
  }

  /** One that has none: acknowledged where that was agreed on. `VHOST_REFUSED` when the backend could not. */
  tell<N extends RequestName>(
    name: N,
    values: RequestValues<N>,
    fds: readonly OwnedFd[] = [],
  ): Promise<void> {
    const acknowledged = (this.#protocol & PROTOCOL_FEATURE.REPLY_ACK) !== 0n;
    const bytes = encodeRequest(name, values, acknowledged);
    return this.#inTurn(async () => {
      if (!acknowledged) return this.#send(name, bytes, fds);
      const done = await this.#exchange(name, bytes, fds, message => decodeAck(name, message));
      if (!done) throw new VhostUserError('VHOST_REFUSED', `the backend refuses ${name}`);
    });
  }

  /** Ends the connection; requests under way throw `VHOST_CLOSED`. */
  close(): void {
    this.#stream.close();
  }

  #inTurn<T>(exchange: () => Promise<T>): Promise<T> {
    const turn = this.#tail.then(exchange);
    this.#tail = turn.catch(() => {}); // the next in line has its own success
    return turn;
  }

  #send(name: RequestName, bytes: Uint8Array, fds: readonly OwnedFd[]): void {
    if (this.#stream.closed) {
      throw new VhostUserError('VHOST_CLOSED', `${name}: the connection is closed`, { cause: this.#fault });
    }
    this.#stream.send(bytes, fds);
  }

  async #exchange<T>(
    name: RequestName,
    bytes: Uint8Array,
    fds: readonly OwnedFd[],
    decode: (message: Message) => T,
  ): Promise<T> {
    const message = await this.#reply(name, bytes, fds);
    try {
      return decode(message);
    } catch (error) {
      for (const fd of message.fds) fd.close();
      throw error instanceof VhostUserError ? this.#fail(error) : error;
    }
  }

  #reply(name: RequestName, bytes: Uint8Array, fds: readonly OwnedFd[]): Promise<Message> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#fail(
          new VhostUserError('VHOST_TIMEOUT', `no reply to ${name} after ${this.#replyTimeoutMs} ms`),
        );
      }, this.#replyTimeoutMs);
      const settled = (): void => {
        clearTimeout(timer);
        this.#pending = null;
      };
      this.#pending = {
        resolve: message => {
          settled();
          resolve(message);
        },
        reject: error => {
          settled();
          reject(error);
        },
      };
      try {
        this.#send(name, bytes, fds);
      } catch (error) {
        this.#fail(error as VhostUserError);
      }
    });
  }

  /** Reads as long as there is a connection: an answer, a lie, or the end may come at any time. */
  async #receive(): Promise<VhostUserError | null> {
    try {
      for (;;) {
        const message = await this.#stream.next();
        if (message === null) break;
        if (this.#pending === null) {
          for (const fd of message.fds) fd.close();
          throw new VhostUserError('VHOST_REPLY', `unsolicited reply to ${requestLabel(message.request)}`);
        }
        this.#pending.resolve(message);
      }
    } catch (error) {
      if (!this.#stream.closed) this.#fail(error as VhostUserError);
    }
    this.#stream.close();
    this.#pending?.reject(new VhostUserError('VHOST_CLOSED', 'the connection was closed before the reply'));
    return this.#fault;
  }

  /** Ends the connection for a reason, of which the first counts. Returns the error, to be thrown. */
  #fail(error: VhostUserError): VhostUserError {
    this.#fault ??= error;
    this.#stream.close();
    this.#pending?.reject(error);
    return error;
  }
}
