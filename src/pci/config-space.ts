/**
 * The configuration space of a function: 4096 bytes that a guest reads to find out what this is, and of which it can write some bits.
 *
 * ```
 *   0x00 vendor  device   command  status   revision class      …  header type 0
 *   0x10 BAR 0 … BAR 5                                           a BAR's low bits can't be written: that is how its size is found
 *   0x2c subsystem        0x30 no ROM       0x34 first capability  0x3c interrupt line, pin
 *   0x40 capabilities, one behind the other …
 *   0x100 extended capabilities: none
 * ```
 * Accesses may be of any size at any offset: every byte stands for itself.
 */
import { NUM_REGIONS, REGION } from '../linux/vfio-numbers.js';
import {
  CAPABILITY,
  type Capability,
  DEVICE_CONTROL_AT,
  type Field,
  FUNCTION_LEVEL_RESET,
  MSIX_CONTROL,
  MSIX_CONTROL_AT,
  place,
} from './capabilities.js';
import type { RegionShape } from './function.js';

export const CONFIG_SIZE = 4096;

const COMMAND_AT = 0x04;
const STATUS_AT = 0x06;
const BARS_AT = 0x10;
const FIRST_CAPABILITY_AT = 0x34;
const CAPABILITIES_FROM = 0x40;
const CAPABILITIES_END = 0x100;

/** Bits of the command register. */
export const COMMAND = {
  IO: 0x001,
  MEMORY: 0x002,
  BUS_MASTER: 0x004,
  PARITY: 0x040,
  SERR: 0x100,
  INTX_DISABLE: 0x400,
} as const;
const STATUS = { INTERRUPT: 0x08, CAPABILITIES: 0x10 } as const;

/** A base address register with 32 bits. `size` in bytes, a power of two: of memory at least 16, of I/O ports at least 4. */
export interface Bar {
  readonly space: 'memory' | 'io';
  readonly size: number;
}

/** What is written into the function's data sheet. */
export interface ConfigShape {
  readonly vendor: number;
  readonly device: number;
  readonly revision: number;
  /** Class, subclass, programming interface: 24 bits. */
  readonly classCode: number;
  readonly subsystemVendor: number;
  readonly subsystem: number;
  /** 1 is pin A; 0: the function has no INTx. */
  readonly interruptPin: number;
  /** BAR 0 first; null: there is none. */
  readonly bars: readonly (Bar | null)[];
  /** In this order. */
  readonly capabilities: readonly Capability[];
}

export class ConfigSpace {
  /** All regions of the function, by number: its BARs and this. */
  readonly regions: readonly RegionShape[];
  readonly #initial = new Uint8Array(CONFIG_SIZE);
  readonly #writable = new Uint8Array(CONFIG_SIZE);
  readonly #bytes: Uint8Array;
  /** Where each capability lies. */
  readonly #offsets = new Map<Capability, number>();

  /** Throws RangeError for a BAR whose size is no power of two, and for more capabilities than there is room for. */
  constructor(shape: ConfigShape) {
    place(header(shape), this.#initial, this.#writable);
    for (const [i, bar] of shape.bars.entries())
      if (bar) place([baseAddress(bar, i)], this.#initial, this.#writable);
    this.#lineUp(shape.capabilities);
    this.#bytes = this.#initial.slice();
    this.regions = Array.from({ length: NUM_REGIONS }, (_, region) => {
      const size = region === REGION.CONFIG ? CONFIG_SIZE : (shape.bars[region]?.size ?? 0);
      return { size, readable: size > 0, writable: size > 0 };
    });
  }

  read(offset: number, into: Uint8Array): void {
    into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  /** Returns whether the guest asks for a reset of the function (PCI Express, Device Control), which is the caller's to do. */
  write(offset: number, bytes: Uint8Array): boolean {
    for (const [i, byte] of bytes.entries()) {
      const mask = this.#writable[offset + i]!;
      this.#bytes[offset + i] = (this.#bytes[offset + i]! & ~mask) | (byte & mask);
    }
    const express = this.#find(CAPABILITY.EXPRESS);
    const top = bytes[express + DEVICE_CONTROL_AT + 1 - offset] ?? 0;
    return express > 0 && (top & (FUNCTION_LEVEL_RESET >>> 8)) !== 0;
  }

  /** Bits of COMMAND. */
  get command(): number {
    return this.#word(COMMAND_AT);
  }

  /** Bits of MSIX_CONTROL; 0 without that capability. */
  get msixControl(): number {
    const at = this.#find(CAPABILITY.MSIX);
    return at === 0
      ? 0
      : this.#word(at + MSIX_CONTROL_AT) & (MSIX_CONTROL.ENABLE | MSIX_CONTROL.FUNCTION_MASK);
  }

  /** Shows in the status register whether the function asks for INTx. */
  showInterrupt(asserted: boolean): void {
    const rest = this.#bytes[STATUS_AT]! & ~STATUS.INTERRUPT;
    this.#bytes[STATUS_AT] = asserted ? rest | STATUS.INTERRUPT : rest;
  }

  /** Where a capability of the shape lies. */
  offsetOf(capability: Capability): number {
    return this.#offsets.get(capability)!;
  }

  reset(): void {
    this.#bytes.set(this.#initial);
  }

  #word(at: number): number {
    return this.#bytes[at]! | (this.#bytes[at + 1]! << 8);
  }

  /** Where the first capability with that id lies; 0: nowhere. */
  #find(id: number): number {
    for (const [{ bytes }, at] of this.#offsets) if (bytes[0] === id) return at;
    return 0;
  }

  #lineUp(capabilities: readonly Capability[]): void {
    let at = CAPABILITIES_FROM;
    let pointer = FIRST_CAPABILITY_AT;
    for (const capability of capabilities) {
      const { bytes, writable } = capability;
      if (at + bytes.length > CAPABILITIES_END)
        throw new RangeError('more capabilities than fit into 192 bytes');
      this.#initial.set(bytes, at);
      this.#writable.set(writable, at);
      this.#initial[pointer] = at;
      this.#offsets.set(capability, at);
      pointer = at + 1;
      at = (at + bytes.length + 3) & ~3;
    }
  }
}

function header(shape: ConfigShape): Field[] {
  const has = (space: Bar['space']) => shape.bars.some(bar => bar?.space === space);
  const command =
    (has('io') ? COMMAND.IO : 0) |
    (has('memory') ? COMMAND.MEMORY : 0) |
    (shape.interruptPin > 0 ? COMMAND.INTX_DISABLE : 0) |
    (COMMAND.BUS_MASTER | COMMAND.PARITY | COMMAND.SERR);
  return [
    { at: 0x00, bytes: 2, value: shape.vendor },
    { at: 0x02, bytes: 2, value: shape.device },
    { at: COMMAND_AT, bytes: 2, value: 0, mask: command },
    { at: STATUS_AT, bytes: 2, value: shape.capabilities.length > 0 ? STATUS.CAPABILITIES : 0 },
    { at: 0x08, bytes: 1, value: shape.revision },
    { at: 0x09, bytes: 3, value: shape.classCode },
    { at: 0x0c, bytes: 1, value: 0, mask: 0xff }, // cache line size: for the guest to note
    { at: 0x2c, bytes: 2, value: shape.subsystemVendor },
    { at: 0x2e, bytes: 2, value: shape.subsystem },
    { at: 0x3c, bytes: 1, value: 0, mask: 0xff }, // interrupt line: likewise
    { at: 0x3d, bytes: 1, value: shape.interruptPin },
  ];
}

function baseAddress({ space, size }: Bar, index: number): Field {
  const least = space === 'memory' ? 16 : 4;
  if (size < least || (size & (size - 1)) !== 0)
    throw new RangeError(`BAR ${index}: ${size} bytes are no power of two from ${least} on`);
  return { at: BARS_AT + 4 * index, bytes: 4, value: space === 'memory' ? 0 : 1, mask: -size };
}
