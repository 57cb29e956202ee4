/** The vfio-user protocol: both ends. README.md beside this file has the sequence of messages. */
export { VfioUserAccess } from './access.js';
export { type DmaMapping, type RegionWrite, VfioUserClient } from './client.js';
export type { MemoryHandler, VfioClientOptions } from './client-connection.js';
export type { ClientMemory } from './client-memory.js';
export { VfioUserError, type VfioUserErrorCode } from './errors.js';
export type { IoFd } from './io-fds.js';
export {
  type Command,
  type CommandName,
  type CommandValues,
  commandLabel,
  decodeCommand,
  decodeReply,
  encodeCommand,
  encodeError,
  encodeReply,
  FLAGS,
  HEADER_SIZE,
  type Message,
  type Reply,
  type ReplyValues,
} from './messages.js';
export { REGION_CAP, type RegionCap, type RegionInfo } from './region-info.js';
export {
  COMMANDS,
  DEVICE,
  DMA,
  FEATURE_FLAG,
  IO_FD,
  IO_FD_TYPE,
  IRQ_FLAG,
  IRQ_SET,
  MULTI_WRITE,
  REGION_FLAG,
  UNMAP_ALL,
} from './requests.js';
export { serveVfioUser, type VfioServerOptions, type VfioSessionEnd } from './server.js';
export { type StreamLimits, VfioUserStream } from './stream.js';
export {
  type Capabilities,
  DEFAULT_CAPABILITIES,
  decodeCapabilities,
  encodeCapabilities,
} from './version.js';
