/** The vhost-user control protocol: both ends. README.md beside this file has the sequence of messages. */
export { serveVhostUser, type VhostBackendOptions, type VhostSessionEnd } from './backend.js';
export { VhostUserError, type VhostUserErrorCode } from './errors.js';
export { type SharedRegion, type VhostFrontendOptions, VhostUserFrontend } from './frontend.js';
export {
  decodeAck,
  decodeBackendRequest,
  decodeReply,
  decodeRequest,
  encodeAck,
  encodeBackendRequest,
  encodeReply,
  encodeRequest,
  FLAGS,
  HEADER_SIZE,
  type Message,
  type ReplyValues,
  type Request,
  type RequestName,
  type RequestValues,
  requestLabel,
  VERSION,
} from './messages.js';
export {
  BACKEND_REQUESTS,
  FOREIGN_REQUESTS,
  IOTLB,
  IOTLB_PERM,
  MAX_TABLE_REGIONS,
  PROTOCOL_FEATURE,
  PROTOCOL_FEATURES,
  REQUESTS,
  VRING_FD,
  VRING_LOG,
} from './requests.js';
export { type StreamLimits, VhostUserStream } from './stream.js';
