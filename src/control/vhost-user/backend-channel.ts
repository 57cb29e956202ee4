/**
 * The backend's own channel: what it asks of its front end, which has sent it one end of a socket pair for that.
 *
 * ```
 *   backend                                  front end
 *      │ SET_BACKEND_REQ_FD [socket]            │
 *      │◄───────────────────────────────────────│
 *      │ miss: IOTLB_MSG, on the new channel    │
 *      │───────────────────────────────────────►│
 *      │      update: IOTLB_MSG, on the old one │
 *      │◄───────────────────────────────────────│
 * ```
 * A miss is not acknowledged: the update, or the front end's silence, is the answer.
 */
import { type OwnedFd, setNonblocking } from '../../linux/fd.js';
import { UnixSocket } from '../../linux/unix-socket.js';
import { encodeBackendRequest } from './messages.js';
import { IOTLB, IOTLB_PERM } from './requests.js';

export class BackendChannel {
  readonly #socket: UnixSocket;

  /** Takes over the socket. Throws LinuxError, and closes it, when it is none that can be written to without waiting. */
  constructor(fd: OwnedFd) {
    try {
      setNonblocking(fd.fd, true);
    } catch (error) {
      fd.close();
      throw error;
    }
    this.#socket = new UnixSocket(fd);
  }

  /** Asks for the translation of an address that is about to be read or written. Throws LinuxError, SocketError. */
  miss(iova: bigint, write: boolean): void {
    const perm = write ? IOTLB_PERM.WRITE : IOTLB_PERM.READ;
    const permType = (IOTLB.MISS << 8) | perm;
    this.#socket.send(encodeBackendRequest('IOTLB_MSG', { iova, size: 1n, userspaceAddress: 0n, permType }));
  }

  close(): void {
    this.#socket.close();
  }
}
