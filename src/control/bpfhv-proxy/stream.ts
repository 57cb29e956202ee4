/**
 * From pieces of a byte stream to whole messages.
 *
 * ```
 *   channel ──bytes, fds──► MessageReader ──► Message      a piece never reaches past the message it belongs to,
 *                              │ wanted                    so the fds that come with it are that message's
 * ```
 * The reader asks for exactly the bytes that the current message still lacks. However the peer cuts or delays its messages,
 * at most one unfinished message of bounded size is held, for a bounded time.
 */
import type { OwnedFd } from '../../linux/fd.js';
import type { Channel, Received } from './channel.js';
import { ProxyError } from './errors.js';
import { HEADER_SIZE, MAX_REGIONS, type Message, requestLabel } from './messages.js';

/** What a reader must know of a protocol: this one's, or that of another whose messages also begin with a header that says how long they are. */
export interface Framing<M> {
  /** Bytes. */
  readonly headerSize: number;
  /** The most file descriptors that any message has. */
  readonly maxFds: number;
  /** Bytes of payload that a header announces; below 0 when it announces less than itself. */
  payloadSize(header: DataView): number;
  /** What to call the message in errors. */
  label(header: DataView): string;
  message(header: DataView, payload: Uint8Array, fds: readonly OwnedFd[], fdFault: string | null): M;
}

const PROXY_FRAMING: Framing<Message> = {
  headerSize: HEADER_SIZE,
  maxFds: MAX_REGIONS,
  payloadSize: header => header.getUint32(8, true),
  label: header => requestLabel(header.getUint32(0, true)),
  message: (header, payload, fds, fdFault) => ({
    reqtype: header.getUint32(0, true),
    flags: header.getUint32(4, true),
    ...{ payload, fds, fdFault },
  }),
};

export interface StreamLimits {
  /** Longer payloads end the connection; shorter ones of the wrong size only fail their request. Bytes. */
  readonly maxPayload: number;
  /** A message that has begun must be complete after so long. Milliseconds. */
  readonly messageTimeoutMs: number;
}

export const DEFAULT_STREAM_LIMITS: StreamLimits = { maxPayload: 4096, messageTimeoutMs: 5000 };

export class MessageReader<M = Message> {
  readonly #maxPayload: number;
  readonly #framing: Framing<M>;
  readonly #header: Uint8Array<ArrayBuffer>;
  #payload: Uint8Array | null = null; // null while the header is incomplete
  #filled = 0; // bytes of the header, then of the payload
  #fds: OwnedFd[] = [];
  #fdFault: string | null = null;

  constructor(
    maxPayload = DEFAULT_STREAM_LIMITS.maxPayload,
    framing = PROXY_FRAMING as unknown as Framing<M>,
  ) {
    this.#maxPayload = maxPayload;
    this.#framing = framing;
    this.#header = new Uint8Array(framing.headerSize);
  }

  /** Bytes that complete the header, or the payload: the most that push() takes. Never 0. */
  get wanted(): number {
    return (this.#payload ?? this.#header).length - this.#filled;
  }

  /** Whether a message has begun. */
  get begun(): boolean {
    return this.#filled > 0 || this.#payload !== null;
  }

  /**
   * Takes the next piece, with the fds that came with it, and returns the message that it completes. Fds beyond what any
   * message may carry are closed at once.
   * @throws ProxyError `PROXY_OVERSIZE`, or `PROXY_SIZE` (less than the header); the stream is of no use after it
   */
  push(piece: Uint8Array, fds: readonly OwnedFd[] = [], fdsLost = false): M | null {
    const { wanted } = this;
    this.#keepFds(fds, fdsLost);
    if (piece.length > wanted) throw new RangeError(`${piece.length} bytes where ${wanted} are wanted`);

    (this.#payload ?? this.#header).set(piece, this.#filled);
    this.#filled += piece.length;
    if (piece.length < wanted) return null;
    if (this.#payload === null) {
      const header = new DataView(this.#header.buffer);
      const size = this.#framing.payloadSize(header);
      if (size < 0 || size > this.#maxPayload) {
        throw new ProxyError(
          size < 0 ? 'PROXY_SIZE' : 'PROXY_OVERSIZE',
          `${this.#framing.label(header)}: ${size} bytes of payload, at most ${this.#maxPayload}`,
        );
      }
      this.#payload = new Uint8Array(size);
      this.#filled = 0;
      if (size > 0) return null;
    }
    return this.#take(this.#payload);
  }

  /** Closes the fds of an unfinished message and forgets it. */
  dispose(): void {
    for (const fd of this.#fds) fd.close();
    this.#reset();
  }

  #keepFds(fds: readonly OwnedFd[], fdsLost: boolean): void {
    if (fdsLost) this.#fdFault ??= 'file descriptors were lost on the way';
    for (const fd of fds) {
      if (this.#payload !== null) this.#fdFault ??= 'file descriptors came after the header';
      else if (this.#fds.length === this.#framing.maxFds)
        this.#fdFault ??= `more than ${this.#framing.maxFds} file descriptors`;
      else {
        this.#fds.push(fd);
        continue;
      }
      fd.close();
    }
  }

  #take(payload: Uint8Array): M {
    const header = new DataView(this.#header.buffer);
    const message = this.#framing.message(header, payload, this.#fds, this.#fdFault);
    this.#reset();
    return message;
  }

  #reset(): void {
    this.#payload = null;
    this.#filled = 0;
    this.#fds = [];
    this.#fdFault = null;
  }
}

/** A channel, a reader and a clock: messages one by one. */
export class MessageStream<M = Message> {
  readonly #channel: Channel;
  readonly #reader: MessageReader<M>;
  readonly #messageTimeoutMs: number;
  readonly #buffer: Uint8Array;
  #wake: (() => void) | null = null;
  #closed = false;

  constructor(
    channel: Channel,
    limits: Partial<StreamLimits> = {},
    framing = PROXY_FRAMING as unknown as Framing<M>,
  ) {
    const { maxPayload, messageTimeoutMs } = { ...DEFAULT_STREAM_LIMITS, ...limits };
    this.#channel = channel;
    this.#reader = new MessageReader(maxPayload, framing);
    this.#messageTimeoutMs = messageTimeoutMs;
    this.#buffer = new Uint8Array(Math.max(framing.headerSize, maxPayload));
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * The next message, whose fds are then the caller's, or null when the peer has ended the connection between two messages. Waits
   * `beginMs` for its first byte. One call at a time.
   * @throws ProxyError `PROXY_TIMEOUT`, `PROXY_OVERSIZE`, `PROXY_CLOSED` (broken, closed here, or ended inside a message)
   */
  async next(beginMs = Number.POSITIVE_INFINITY): Promise<M | null> {
    const start = performance.now();
    let begun = this.#reader.begun ? start : null;
    for (;;) {
      const message = this.#read();
      if (message !== undefined) return message;
      if (begun === null && this.#reader.begun) begun = performance.now();
      const deadline = begun === null ? start + beginMs : begun + this.#messageTimeoutMs;
      if (await this.#readable(deadline)) continue;
      throw new ProxyError(
        'PROXY_TIMEOUT',
        begun === null ? 'the peer is silent' : 'a message stays unfinished',
      );
    }
  }

  /** Sends one message; `patiently` as a channel does. The fds stay the caller's. @throws ProxyError `PROXY_CLOSED` */
  send(bytes: Uint8Array, fds: readonly OwnedFd[] = [], patiently = false): void {
    if (this.#closed) throw new ProxyError('PROXY_CLOSED', 'the connection is closed');
    try {
      this.#channel.send(bytes, fds, patiently);
    } catch (cause) {
      throw broken(cause);
    }
  }

  /** Ends the connection; a next() that waits throws `PROXY_CLOSED`. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reader.dispose();
    this.#channel.close();
    this.#wake?.();
  }

  /** Reads until a message is complete; null at the end of the stream, undefined when more has to arrive. */
  #read(): M | null | undefined {
    for (;;) {
      if (this.#closed) throw new ProxyError('PROXY_CLOSED', 'the connection is closed');
      let received: Received | null;
      try {
        received = this.#channel.receive(this.#buffer.subarray(0, this.#reader.wanted));
      } catch (cause) {
        throw broken(cause);
      }
      if (received === null) return undefined;
      if (received.bytes === 0) {
        if (this.#reader.begun)
          throw new ProxyError('PROXY_CLOSED', 'the peer is gone in the middle of a message');
        return null;
      }
      const message = this.#reader.push(
        this.#buffer.subarray(0, received.bytes),
        received.fds,
        received.fdsLost,
      );
      if (message !== null) return message;
    }
  }

  /** Waits for bytes, the end, or close(); false when the deadline (of performance.now()) comes first. */
  #readable(deadline: number): Promise<boolean> {
    return new Promise(resolve => {
      let timer: NodeJS.Timeout | undefined;
      const settle = (readable: boolean): void => {
        clearTimeout(timer);
        this.#wake = null;
        resolve(readable);
      };
      const ms = deadline - performance.now();
      if (Number.isFinite(ms)) timer = setTimeout(settle, Math.max(0, ms), false);
      this.#wake = () => settle(true);
      this.#channel.whenReadable(() => settle(true));
    });
  }
}

function broken(cause: unknown): ProxyError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new ProxyError('PROXY_CLOSED', `the connection is broken: ${why}`, { cause });
}
