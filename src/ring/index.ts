/** What the author of a ring format needs of polynic: docs/write-your-own-ring.md. */
export type { Datapath, DatapathExports } from './datapath.js';
export { FEATURE, maskOf } from './features.js';
export { type DeviceModule, DeviceTypeError } from './module.js';
export { deviceType, deviceTypeNames } from './registry.js';
export type { DeviceType, Ring } from './ring.js';
export type { RingView } from './view.js';
