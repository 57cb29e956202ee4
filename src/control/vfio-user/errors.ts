/** What goes wrong on a vfio-user connection, by a code that does not change, and by the errno that a peer is told. */
import { ERRNO } from '../../linux/errors.js';

/**
 * - `VFIO_VERSION` a version other than 0, capabilities that make no sense, or anything before a version is agreed on
 * - `VFIO_FLAGS` flag bits that have no meaning there
 * - `VFIO_COMMAND` the command's number is unknown, not for this side, or for something that the device does not have
 * - `VFIO_SIZE` the message's size is not that of its kind
 * - `VFIO_OVERSIZE` longer than any message; the rest of the stream cannot be trusted
 * - `VFIO_FDS` too many or too few file descriptors, or of the wrong kind, or not with the header, or lost on the way
 * - `VFIO_VALUE` a field's value is outside what the protocol, or the device, allows
 * - `VFIO_REPLY` a reply to something else, or where none is due
 * - `VFIO_REFUSED` the peer answered that it could not; `errno` is what it said
 * - `VFIO_TIMEOUT` the peer did not answer, did not finish a message, or did not read, in time
 * - `VFIO_CLOSED` the connection is gone
 */
export type VfioUserErrorCode =
  | 'VFIO_VERSION'
  | 'VFIO_FLAGS'
  | 'VFIO_COMMAND'
  | 'VFIO_SIZE'
  | 'VFIO_OVERSIZE'
  | 'VFIO_FDS'
  | 'VFIO_VALUE'
  | 'VFIO_REPLY'
  | 'VFIO_REFUSED'
  | 'VFIO_TIMEOUT'
  | 'VFIO_CLOSED';

export class VfioUserError extends Error {
  override readonly name = 'VfioUserError';
  readonly code: VfioUserErrorCode;
  /** Positive; EINVAL where nothing else is said. */
  readonly errno: number;

  constructor(code: VfioUserErrorCode, message: string, options: ErrorOptions & { errno?: number } = {}) {
    super(message, options);
    this.code = code;
    this.errno = options.errno ?? ERRNO.EINVAL!;
  }
}
