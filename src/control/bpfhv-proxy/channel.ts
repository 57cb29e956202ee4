/** What the protocol needs of a connection, and a Unix socket in that form. Nothing here blocks. */
import type { OwnedFd } from '../../linux/fd.js';
import type { UnixSocket } from '../../linux/unix-socket.js';

export interface Received {
  /** Bytes written to the buffer; 0 is the end of the stream. */
  readonly bytes: number;
  /** Now the caller's. */
  readonly fds: readonly OwnedFd[];
  /** More file descriptors came with this piece than are in `fds`. */
  readonly fdsLost: boolean;
}

export interface Channel {
  /** Takes what has arrived, at most `buffer.length` bytes; null when that is nothing. Throws when the connection is broken. */
  receive(buffer: Uint8Array): Received | null;
  /** Calls back, once, when receive() would not return null; a second call replaces the first. */
  whenReadable(callback: () => void): void;
  /**
   * Sends all of it or throws. The fds stay the caller's. `patiently`: what the peer does not take at once waits for it, MAX_UNSENT bytes at most.
   */
  send(bytes: Uint8Array, fds: readonly OwnedFd[], patiently?: boolean): void;
  /** Bytes that wait for the peer. */
  readonly unsent: number;
  /** Calls back, once, when no more bytes wait; a second call replaces the first. */
  whenSent(callback: () => void): void;
  /** Ends the connection; no callback comes after it. Calling it again does nothing. */
  close(): void;
}

/** What may wait for a peer that is sent to patiently. Bytes. */
export const MAX_UNSENT = 4 << 20;

/**
 * A connected socket as a channel, which owns it from now on. Where every message is short and waits for its answer, a peer that leaves so much
 * unread that the kernel takes no more breaks the rules: send() throws. Where many may be under way it is to be sent to patiently.
 */
export function socketChannel(socket: UnixSocket): Channel {
  return {
    receive(buffer) {
      const received = socket.receive(buffer);
      if (received === null) return null;
      const { bytes, fds, truncatedControl, surplusFds } = received;
      return { bytes, fds, fdsLost: truncatedControl || surplusFds > 0 };
    },
    whenReadable(callback) {
      socket.onReadable(() => {
        socket.onReadable(null);
        callback();
      });
    },
    send(bytes, fds, patiently = false) {
      if (patiently) socket.queueLimit = MAX_UNSENT;
      const taken = socket.send(
        bytes,
        fds.map(({ fd }) => fd),
      );
      if (!taken && !patiently) throw new Error(`${socket.name}: the peer does not read its messages`);
    },
    get unsent() {
      return socket.queuedBytes;
    },
    whenSent(callback) {
      socket.onSent(() => {
        socket.onSent(null);
        callback();
      });
    },
    close() {
      socket.close();
    },
  };
}
