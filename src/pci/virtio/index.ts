/** A virtio network card as a PCI function. */
export { VirtioNetDevice, type VirtioNetOptions } from './device.js';
export { VirtioNetFunction, type VirtioNetFunctionOptions } from './function.js';
