/** What goes wrong on a bpfhv-proxy connection, by a code that does not change. */

/**
 * - `PROXY_VERSION` the version in the flags is not 1
 * - `PROXY_FLAGS` flag bits are set that have no meaning in that direction
 * - `PROXY_REQUEST` the request's number is unknown
 * - `PROXY_SIZE` the payload's size is not that of the message
 * - `PROXY_OVERSIZE` the payload is longer than any message; the rest of the stream cannot be trusted
 * - `PROXY_FDS` too many or too few file descriptors, or not with the header, or lost on the way
 * - `PROXY_VALUE` a field's value is outside what the protocol allows
 * - `PROXY_REPLY` a response to something else, or where none is due
 * - `PROXY_REFUSED` the backend answered with the error flag
 * - `PROXY_TIMEOUT` the peer did not answer, or did not finish a message, in time
 * - `PROXY_CLOSED` the connection is gone
 */
export type ProxyErrorCode =
  | 'PROXY_VERSION'
  | 'PROXY_FLAGS'
  | 'PROXY_REQUEST'
  | 'PROXY_SIZE'
  | 'PROXY_OVERSIZE'
  | 'PROXY_FDS'
  | 'PROXY_VALUE'
  | 'PROXY_REPLY'
  | 'PROXY_REFUSED'
  | 'PROXY_TIMEOUT'
  | 'PROXY_CLOSED';

export class ProxyError extends Error {
  override readonly name = 'ProxyError';
  readonly code: ProxyErrorCode;

  constructor(code: ProxyErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
