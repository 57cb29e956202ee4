/**
 * Messages one by one from a connection. bpfhv-proxy's stream does the work: pieces to whole messages, bounded in size, fds and time. Here it learns
 * this protocol's header, and its errors get this protocol's codes.
 *
 * A peer may have many commands under way, and need not read the answers while it still writes: what it does not take at once waits for it. Whoever answers
 * it calls `sent()` now and then, which stops him while too much waits.
 */
import type { OwnedFd } from '../../linux/fd.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { ProxyError } from '../bpfhv-proxy/errors.js';
import { type Framing, MessageStream } from '../bpfhv-proxy/stream.js';
import { VfioUserError, type VfioUserErrorCode } from './errors.js';
import { commandLabel, HEADER_SIZE, type Message } from './messages.js';
import { MAX_FDS } from './requests.js';

export interface StreamLimits {
  /** Longer payloads end the connection. Bytes. */
  readonly maxPayload: number;
  /** File descriptors of one message; more are closed at once, and the message is refused. At most 16. */
  readonly maxFds: number;
  /** A message that has begun must be complete after so long; so must the peer have read what waits for it. Milliseconds. */
  readonly messageTimeoutMs: number;
  /** `sent()` waits while more than that waits for the peer. Bytes; with a payload above it still less than a channel's MAX_UNSENT. */
  readonly maxUnsent: number;
}

/** So much longer than the data that they carry may messages be. */
export const PAYLOAD_MARGIN = 65536;

export const DEFAULT_STREAM_LIMITS: StreamLimits = {
  maxPayload: (1 << 20) + PAYLOAD_MARGIN,
  maxFds: MAX_FDS,
  messageTimeoutMs: 5000,
  maxUnsent: 256 * 1024,
};

const CODES: Readonly<Partial<Record<ProxyError['code'], VfioUserErrorCode>>> = {
  PROXY_OVERSIZE: 'VFIO_OVERSIZE',
  PROXY_SIZE: 'VFIO_SIZE',
  PROXY_TIMEOUT: 'VFIO_TIMEOUT',
  PROXY_CLOSED: 'VFIO_CLOSED',
};

const framing = (maxFds: number): Framing<Message> => ({
  headerSize: HEADER_SIZE,
  maxFds,
  payloadSize: header => header.getUint32(4, true) - HEADER_SIZE,
  label: header => commandLabel(header.getUint16(2, true)),
  message: (header, payload, fds, fdFault) => ({
    id: header.getUint16(0, true),
    command: header.getUint16(2, true),
    flags: header.getUint32(8, true),
    errno: header.getUint32(12, true),
    ...{ payload, fds, fdFault },
  }),
});

export class VfioUserStream {
  readonly #channel: Channel;
  readonly #stream: MessageStream<Message>;
  readonly #limits: StreamLimits;
  #draining: Promise<boolean> | null = null;
  #wake: (() => void) | null = null;

  constructor(channel: Channel, limits: Partial<StreamLimits> = {}) {
    this.#channel = channel;
    this.#limits = { ...DEFAULT_STREAM_LIMITS, ...limits };
    this.#stream = new MessageStream(channel, this.#limits, framing(this.#limits.maxFds));
  }

  get closed(): boolean {
    return this.#stream.closed;
  }

  /**
   * The next message, whose fds are then the caller's, or null when the peer has ended the connection between two messages. Waits
   * `beginMs` for its first byte. One call at a time.
   * @throws VfioUserError `VFIO_TIMEOUT`, `VFIO_OVERSIZE`, `VFIO_SIZE` (less than a header), `VFIO_CLOSED` (broken, closed here, or ended inside a message)
   */
  async next(beginMs?: number): Promise<Message | null> {
    try {
      return await this.#stream.next(beginMs);
    } catch (error) {
      throw translated(error);
    }
  }

  /** Sends messages, whole ones. The fds, of the first one, stay the caller's. @throws VfioUserError `VFIO_CLOSED` */
  send(bytes: Uint8Array, fds: readonly OwnedFd[] = []): void {
    try {
      this.#stream.send(bytes, fds, true);
    } catch (error) {
      throw translated(error);
    }
  }

  /** Resolves when not too much waits for the peer, or the connection is closed. @throws VfioUserError `VFIO_TIMEOUT` */
  async sent(): Promise<void> {
    const { maxUnsent, messageTimeoutMs } = this.#limits;
    while (!this.closed && this.#channel.unsent > maxUnsent) {
      this.#draining ??= this.#drained(messageTimeoutMs);
      if (await this.#draining) continue;
      throw new VfioUserError('VFIO_TIMEOUT', `the peer has not read for ${messageTimeoutMs} ms`);
    }
  }

  /** False when that takes longer. */
  #drained(ms: number): Promise<boolean> {
    return new Promise(resolve => {
      const settle = (inTime: boolean): void => {
        clearTimeout(timer);
        this.#draining = this.#wake = null;
        resolve(inTime);
      };
      const timer = setTimeout(settle, ms, false);
      this.#wake = () => settle(true);
      this.#channel.whenSent(this.#wake);
    });
  }

  /** Ends the connection; a next() that waits throws `VFIO_CLOSED`. */
  close(): void {
    this.#stream.close();
    this.#wake?.();
  }
}

function translated(error: unknown): unknown {
  const code = error instanceof ProxyError ? CODES[error.code] : undefined;
  if (!code) return error;
  return new VfioUserError(code, (error as Error).message, { cause: error });
}
