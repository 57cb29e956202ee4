/**
 * The hypervisor's end: typed requests to a backend, one outstanding at a time.
 *
 * The backend is not trusted. A response that is late, of the wrong kind, size or version, with more or fewer file
 * descriptors than due, or that nobody asked for, ends the connection, since what follows cannot be trusted either.
 */
import type { OwnedFd } from '../../linux/fd.js';
import type { Direction, MemoryRegionSpec, NicParameters } from '../../nic/control.js';
import type { Channel } from './channel.js';
import { ProxyError } from './errors.js';
import {
  CONTEXT_SIZE,
  decodeResponse,
  encodeRequest,
  MAX_REGIONS,
  type Message,
  type RequestName,
  type RequestValues,
  type ResponseValues,
  requestLabel,
} from './messages.js';
import { MessageStream, type StreamLimits } from './stream.js';

export interface FrontendOptions extends Partial<StreamLimits> {
  /** Every response must be complete after so long. Milliseconds, default 10 s: stopping drains what the guest has published. */
  readonly responseTimeoutMs?: number;
  /** What a response with the error flag does to the connection, besides throwing `PROXY_REFUSED`. Default `close`. */
  readonly onRefusal?: 'close' | 'keep';
}

interface Pending {
  readonly resolve: (message: Message) => void;
  readonly reject: (error: ProxyError) => void;
}

/**
 * One connected backend. All methods throw ProxyError; after any but `PROXY_REFUSED` (see `onRefusal`) the connection is closed.
 * File descriptors passed in stay the caller's. Calls may overlap: they wait for each other, in order.
 */
export class ProxyFrontend {
  /** Resolves when the connection is over: with null when the backend closed it or close() was called, else with the reason. */
  readonly closed: Promise<ProxyError | null>;
  readonly #stream: MessageStream;
  readonly #responseTimeoutMs: number;
  readonly #onRefusal: 'close' | 'keep';
  #tail: Promise<unknown> = Promise.resolve();
  /** Whose responses are due, in this order. */
  readonly #pending: Pending[] = [];
  #fault: ProxyError | null = null;

  constructor(channel: Channel, options: FrontendOptions = {}) {
    this.#stream = new MessageStream(channel, options);
    this.#responseTimeoutMs = options.responseTimeoutMs ?? 10_000;
    this.#onRefusal = options.onRefusal ?? 'close';
    this.closed = this.#receive();
  }

  /** Requests can be sent, as far as is known. */
  get open(): boolean {
    return !this.#stream.closed;
  }

  /** The feature bits that the backend offers. */
  async getFeatures(): Promise<bigint> {
    return (await this.#request('GET_FEATURES', {})).values.features;
  }

  async setFeatures(features: bigint): Promise<void> {
    await this.#request('SET_FEATURES', { features });
  }

  /** Returns the bytes of guest memory that one context takes; `PROXY_VALUE` when they are not sane. */
  async setParameters(parameters: NicParameters): Promise<{ rxContextSize: number; txContextSize: number }> {
    const { values } = await this.#request('SET_PARAMETERS', parameters);
    for (const size of [values.rxContextSize, values.txContextSize]) {
      if (size < CONTEXT_SIZE.MIN || size > CONTEXT_SIZE.MAX) {
        throw this.#fail(
          new ProxyError(
            'PROXY_VALUE',
            `SET_PARAMETERS: a context of ${size} bytes, not ${CONTEXT_SIZE.MIN} to ${CONTEXT_SIZE.MAX}`,
          ),
        );
      }
    }
    return values;
  }

  /** The ELF object with the guest's programs, unread and unchecked. The fd is now the caller's. */
  async getPrograms(): Promise<OwnedFd> {
    return (await this.#request('GET_PROGRAMS', {})).fds[0]!;
  }

  /** Replaces the whole table; at most 8 regions (RangeError). */
  async setMemTable(regions: readonly MemoryRegionSpec[]): Promise<void> {
    if (regions.length > MAX_REGIONS)
      throw new RangeError(`${regions.length} regions, at most ${MAX_REGIONS}`);
    await this.#request(
      'SET_MEM_TABLE',
      { numRegions: regions.length, regions },
      regions.map(({ fd }) => fd),
    );
  }

  /** Receive queues come first, then transmit queues; address 0n takes the context away. */
  async setQueueContext(queue: number, guestPhysicalAddress: bigint): Promise<void> {
    await this.#request('SET_QUEUE_CTX', { queue, guestPhysicalAddress });
  }

  async setQueueKick(queue: number, fd: OwnedFd | null): Promise<void> {
    await this.#request('SET_QUEUE_KICK', { queue }, fd === null ? [] : [fd]);
  }

  async setQueueIrq(queue: number, fd: OwnedFd | null): Promise<void> {
    await this.#request('SET_QUEUE_IRQ', { queue }, fd === null ? [] : [fd]);
  }

  /** The eventfd by which the backend asks for an upgrade. */
  async setUpgrade(fd: OwnedFd): Promise<void> {
    await this.#request('SET_UPGRADE', { unused: 0 }, [fd]);
  }

  async rxEnable(): Promise<void> {
    await this.#request('RX_ENABLE', {});
  }

  async txEnable(): Promise<void> {
    await this.#request('TX_ENABLE', {});
  }

  async rxDisable(): Promise<void> {
    await this.#request('RX_DISABLE', {});
  }

  async txDisable(): Promise<void> {
    await this.#request('TX_DISABLE', {});
  }

  enable(direction: Direction): Promise<void> {
    return direction === 'rx' ? this.rxEnable() : this.txEnable();
  }

  disable(direction: Direction): Promise<void> {
    return direction === 'rx' ? this.rxDisable() : this.txDisable();
  }

  /**
   * Both directions by requests that do not wait for each other's response. For backends that are known to read on: one request outstanding is what
   * every backend can be asked for.
   */
  async both(action: 'enable' | 'disable'): Promise<void> {
    const names =
      action === 'enable' ? (['RX_ENABLE', 'TX_ENABLE'] as const) : (['RX_DISABLE', 'TX_DISABLE'] as const);
    const turn = this.#tail.then(() =>
      Promise.all(names.map(name => this.#exchange(name, encodeRequest(name, {}), []))),
    );
    this.#tail = turn.catch(() => {});
    await turn;
  }

  /** Ends the connection; requests under way throw `PROXY_CLOSED`. */
  close(): void {
    this.#stream.close();
  }

  /** Waits for its turn, sends, and waits for the response. */
  #request<N extends RequestName>(
    name: N,
    values: RequestValues<N>,
    fds: readonly OwnedFd[] = [],
  ): Promise<{ values: ResponseValues<N>; fds: readonly OwnedFd[] }> {
    const bytes = encodeRequest(name, values);
    const turn = this.#tail.then(() => this.#exchange(name, bytes, fds));
    this.#tail = turn.catch(() => {}); // the next in line has its own success
    return turn;
  }

  async #exchange<N extends RequestName>(
    name: N,
    bytes: Uint8Array,
    fds: readonly OwnedFd[],
  ): Promise<{ values: ResponseValues<N>; fds: readonly OwnedFd[] }> {
    if (this.#stream.closed) {
      throw new ProxyError('PROXY_CLOSED', `${name}: the connection is closed`, { cause: this.#fault });
    }
    const message = await this.#response(name, bytes, fds);
    try {
      return decodeResponse(name, message);
    } catch (error) {
      for (const fd of message.fds) fd.close();
      if (!(error instanceof ProxyError)) throw error;
      if (error.code === 'PROXY_REFUSED' && this.#onRefusal === 'keep') throw error;
      throw this.#fail(error);
    }
  }

  #response(name: RequestName, bytes: Uint8Array, fds: readonly OwnedFd[]): Promise<Message> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#fail(
          new ProxyError('PROXY_TIMEOUT', `no response to ${name} after ${this.#responseTimeoutMs} ms`),
        );
      }, this.#responseTimeoutMs);
      this.#pending.push({
        resolve: message => {
          clearTimeout(timer);
          resolve(message);
        },
        reject: error => {
          clearTimeout(timer);
          reject(error);
        },
      });
      try {
        this.#stream.send(bytes, fds);
      } catch (error) {
        this.#fail(error as ProxyError);
      }
    });
  }

  /** Reads as long as there is a connection: an answer, a lie, or the end may come at any time. */
  async #receive(): Promise<ProxyError | null> {
    try {
      for (;;) {
        const message = await this.#stream.next();
        if (message === null) break;
        const pending = this.#pending.shift();
        if (!pending) {
          for (const fd of message.fds) fd.close();
          throw new ProxyError('PROXY_REPLY', `unsolicited response to ${requestLabel(message.reqtype)}`);
        }
        pending.resolve(message);
      }
    } catch (error) {
      if (!this.#stream.closed) this.#fail(error as ProxyError);
    }
    this.#stream.close();
    this.#rejectAll(new ProxyError('PROXY_CLOSED', 'the connection was closed before the response'));
    return this.#fault;
  }

  /** Ends the connection for a reason, of which the first counts. Returns the error, to be thrown. */
  #fail(error: ProxyError): ProxyError {
    this.#fault ??= error;
    this.#stream.close();
    this.#rejectAll(error);
    return error;
  }

  #rejectAll(error: ProxyError): void {
    for (const { reject } of this.#pending.splice(0)) reject(error);
  }
}
