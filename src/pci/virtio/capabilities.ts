/**
 * The capabilities by which a driver finds the structures of a virtio function (virtio 1.2, 4.1.4), and the one that is a window to them.
 *
 * ```
 *   +0 vendor  next  length  type │ +4 bar  id  –  – │ +8 offset │ +12 length │ +16 notify: multiplier;  window: data
 * ```
 */

import { CAPABILITY, CFG_TYPE } from '../../guest/pci/virtio-numbers.js';
import { type Capability, vendorCapability } from '../capabilities.js';
import type { ConfigSpace } from '../config-space.js';

const { TYPE: TYPE_AT, BAR: BAR_AT, OFFSET: OFFSET_AT, LENGTH: LENGTH_AT, DATA: EXTRA_AT } = CAPABILITY;

export interface StructurePlace {
  readonly bar: number;
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/** Where a structure is; `extra`: the 32 bits behind that, if there are any. */
export function structureCapability(type: number, place: StructurePlace, extra?: number): Capability {
  return vendorCapability(body(type, place, extra));
}

/**
 * PCI_CFG: the driver writes bar, offset and length, and then reads or writes up to 4 bytes of data, which is an access to that place.
 */
export class BarWindow {
  readonly capability: Capability;

  constructor() {
    const whole = body(CFG_TYPE.PCI, { bar: 0, offset: 0, length: 0 }, 0);
    const writable = new Uint8Array(whole.length);
    writable[BAR_AT - TYPE_AT] = 0xff;
    writable.fill(0xff, OFFSET_AT - TYPE_AT);
    this.capability = vendorCapability(whole, writable);
  }

  /** Whether an access to configuration space meets the data. */
  meets(config: ConfigSpace, offset: number, length: number): boolean {
    const data = this.#data(config);
    return offset < data + 4 && data < offset + length;
  }

  /** What the driver has set; null: no access that can be made. */
  place(config: ConfigSpace): StructurePlace | null {
    const bytes = new Uint8Array(EXTRA_AT);
    config.read(config.offsetOf(this.capability), bytes);
    const view = new DataView(bytes.buffer);
    const bar = bytes[BAR_AT]!;
    const offset = view.getUint32(OFFSET_AT, true);
    const length = view.getUint32(LENGTH_AT, true);
    const size = bar < 6 ? config.regions[bar]!.size : 0;
    const possible = [1, 2, 4].includes(length) && offset % length === 0 && offset + length <= size;
    return possible ? { bar, offset, length } : null;
  }

  /** The data as they were written. */
  read(config: ConfigSpace, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    config.read(this.#data(config), bytes);
    return bytes;
  }

  /** Puts what was read from that place there. */
  store(config: ConfigSpace, bytes: Uint8Array): void {
    config.write(this.#data(config), bytes);
  }

  #data(config: ConfigSpace): number {
    return config.offsetOf(this.capability) + EXTRA_AT;
  }
}

/** What follows the capability's first three bytes. */
function body(type: number, { bar, offset, length }: StructurePlace, extra?: number): Uint8Array {
  const bytes = new Uint8Array((extra === undefined ? EXTRA_AT : EXTRA_AT + 4) - TYPE_AT);
  const view = new DataView(bytes.buffer);
  bytes[0] = type;
  bytes[BAR_AT - TYPE_AT] = bar;
  view.setUint32(OFFSET_AT - TYPE_AT, offset, true);
  view.setUint32(LENGTH_AT - TYPE_AT, length, true);
  if (extra !== undefined) view.setUint32(EXTRA_AT - TYPE_AT, extra, true);
  return bytes;
}
