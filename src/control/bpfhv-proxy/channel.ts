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
  /** Sends all of it or throws. The fds stay the caller's. */
  send(bytes: Uint8Array, fds: readonly OwnedFd[]): void;
  /** Ends the connection; no callback comes after it. Calling it again does nothing. */
  close(): void;
}

/**
 * A connected socket as a channel, which owns it from now on. Every message of this protocol is short and waits for its
 * answer, so a peer that leaves so much unread that the kernel takes no more breaks the rules: send() throws.
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
    send(bytes, fds) {
      const taken = socket.send(
        bytes,
        fds.map(({ fd }) => fd),
      );
      if (!taken) throw new Error(`${socket.name}: the peer does not read its messages`);
    },
    close() {
      socket.close();
    },
  };
}
