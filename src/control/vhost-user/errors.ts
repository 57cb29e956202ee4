/** What goes wrong on a vhost-user connection, by a code that does not change. */

/**
 * - `VHOST_VERSION` the version in the flags is not 1
 * - `VHOST_FLAGS` flag bits are set that have no meaning in that direction
 * - `VHOST_REQUEST` the request's number is unknown, or it belongs to a protocol feature that was not negotiated
 * - `VHOST_SIZE` the payload's size is not that of the message
 * - `VHOST_OVERSIZE` the payload is longer than any message; the rest of the stream cannot be trusted
 * - `VHOST_FDS` too many or too few file descriptors, or not with the header, or lost on the way
 * - `VHOST_VALUE` a field's value is outside what the protocol allows
 * - `VHOST_REPLY` a reply to something else, or where none is due
 * - `VHOST_REFUSED` the backend answered that it could not
 * - `VHOST_TIMEOUT` the peer did not answer, or did not finish a message, in time
 * - `VHOST_CLOSED` the connection is gone
 */
export type VhostUserErrorCode =
  | 'VHOST_VERSION'
  | 'VHOST_FLAGS'
  | 'VHOST_REQUEST'
  | 'VHOST_SIZE'
  | 'VHOST_OVERSIZE'
  | 'VHOST_FDS'
  | 'VHOST_VALUE'
  | 'VHOST_REPLY'
  | 'VHOST_REFUSED'
  | 'VHOST_TIMEOUT'
  | 'VHOST_CLOSED';

export class VhostUserError extends Error {
  override readonly name = 'VhostUserError';
  readonly code: VhostUserErrorCode;

  constructor(code: VhostUserErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
