/** The bpfhv-proxy control protocol: both ends. README.md beside this file has the sequence of messages. */
export { type BackendOptions, type SessionEnd, serveBackend } from './backend.js';
export { type Channel, type Received, socketChannel } from './channel.js';
export { ProxyError, type ProxyErrorCode } from './errors.js';
export { type FrontendOptions, ProxyFrontend } from './frontend.js';
export {
  CONTEXT_SIZE,
  decodeRequest,
  decodeResponse,
  encodeErrorResponse,
  encodeRequest,
  encodeResponse,
  FEATURE,
  FLAGS,
  HEADER_SIZE,
  MAX_REGIONS,
  type Message,
  REQUESTS,
  type Request,
  type RequestName,
  type RequestValues,
  type ResponseValues,
  requestLabel,
  VERSION,
} from './messages.js';
export {
  ConnectionSlot,
  DEFAULT_RETRY_TIMINGS,
  keepConnected,
  type ReconnectOptions,
  type RetryTimings,
} from './reconnect.js';
export { DEFAULT_STREAM_LIMITS, MessageReader, MessageStream, type StreamLimits } from './stream.js';
