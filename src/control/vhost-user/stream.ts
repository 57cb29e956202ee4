/**
 * Messages one by one from a connection. The header has the form of bpfhv-proxy's (three u32, the last one the payload's size), so its stream does the
 * work: pieces to whole messages, bounded in size, fds and time. Here its errors get this protocol's codes.
 */
import type { OwnedFd } from '../../linux/fd.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { ProxyError } from '../bpfhv-proxy/errors.js';
import { MessageStream, type StreamLimits } from '../bpfhv-proxy/stream.js';
import { VhostUserError, type VhostUserErrorCode } from './errors.js';
import type { Message } from './messages.js';

export type { StreamLimits } from '../bpfhv-proxy/stream.js';

const CODES: Readonly<Partial<Record<ProxyError['code'], readonly [VhostUserErrorCode, string | null]>>> = {
  // The text of this one names the other protocol's request.
  PROXY_OVERSIZE: ['VHOST_OVERSIZE', 'a message longer than any there is'],
  PROXY_TIMEOUT: ['VHOST_TIMEOUT', null],
  PROXY_CLOSED: ['VHOST_CLOSED', null],
};

export class VhostUserStream {
  readonly #stream: MessageStream;

  constructor(channel: Channel, limits: Partial<StreamLimits> = {}) {
    this.#stream = new MessageStream(channel, limits);
  }

  get closed(): boolean {
    return this.#stream.closed;
  }

  /**
   * The next message, whose fds are then the caller's, or null when the peer has ended the connection between two messages. Waits
   * `beginMs` for its first byte. One call at a time.
   * @throws VhostUserError `VHOST_TIMEOUT`, `VHOST_OVERSIZE`, `VHOST_CLOSED` (broken, closed here, or ended inside a message)
   */
  async next(beginMs?: number): Promise<Message | null> {
    try {
      const message = await this.#stream.next(beginMs);
      if (message === null) return null;
      const { reqtype: request, flags, payload, fds, fdFault } = message;
      return { request, flags, payload, fds, fdFault };
    } catch (error) {
      throw translated(error);
    }
  }

  /** Sends one message. The fds stay the caller's. @throws VhostUserError `VHOST_CLOSED` */
  send(bytes: Uint8Array, fds: readonly OwnedFd[] = []): void {
    try {
      this.#stream.send(bytes, fds);
    } catch (error) {
      throw translated(error);
    }
  }

  /** Ends the connection; a next() that waits throws `VHOST_CLOSED`. */
  close(): void {
    this.#stream.close();
  }
}

function translated(error: unknown): unknown {
  const entry = error instanceof ProxyError ? CODES[error.code] : undefined;
  if (!entry) return error;
  const [code, text] = entry;
  return new VhostUserError(code, text ?? (error as Error).message, { cause: error });
}
