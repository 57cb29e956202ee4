/**
 * The capabilities that functions here have, as they lie in configuration space.
 *
 * ```
 *   +0 id   +1 next (0: the last)   +2 …
 * ```
 */

/** PCI's numbers for them. */
export const CAPABILITY = { VENDOR: 0x09, EXPRESS: 0x10, MSIX: 0x11 } as const;

export interface Capability {
  /** All of it: the id is there, the pointer to the next one is filled in by whoever lines them up. */
  readonly bytes: Uint8Array;
  /** Bits that a write changes; as long as `bytes`. */
  readonly writable: Uint8Array;
}

/** A place in a BAR. */
export interface BarPlace {
  readonly bar: number;
  /** A multiple of 8. */
  readonly offset: number;
}

/** Of Message Control. */
export const MSIX_CONTROL = { FUNCTION_MASK: 0x4000, ENABLE: 0x8000 } as const;
/** Where Message Control is inside the capability. */
export const MSIX_CONTROL_AT = 2;

/** `vectors` vectors, 1 to 2048, whose table and pending bits lie there. */
export function msixCapability(vectors: number, table: BarPlace, pba: BarPlace): Capability {
  return laidOut(12, [
    { at: 0, bytes: 1, value: CAPABILITY.MSIX },
    {
      ...{ at: MSIX_CONTROL_AT, bytes: 2, value: vectors - 1 },
      mask: MSIX_CONTROL.ENABLE | MSIX_CONTROL.FUNCTION_MASK,
    },
    { at: 4, bytes: 4, value: table.offset | table.bar },
    { at: 8, bytes: 4, value: pba.offset | pba.bar },
  ]);
}

/** A vendor's own: what `body` means is the vendor's to say. `writable`, as long as `body`: bits of it that a write changes; default: none. */
export function vendorCapability(body: Uint8Array, writable = new Uint8Array(body.length)): Capability {
  const head = 3; // id, next, length
  const capability = laidOut(head + body.length, [
    { at: 0, bytes: 1, value: CAPABILITY.VENDOR },
    { at: 2, bytes: 1, value: head + body.length },
  ]);
  capability.bytes.set(body, head);
  capability.writable.set(writable, head);
  return capability;
}

/** Where Device Control is inside the capability, and its bit that resets the function. */
export const DEVICE_CONTROL_AT = 8;
export const FUNCTION_LEVEL_RESET = 0x8000;

/**
 * PCI Express, version 2: an endpoint behind a link of one lane at 2.5 GT/s that can reset itself. A root port copies the speed and width of its own link from
 * Link Status, and what is plugged in under a running guest is found by that.
 */
export function expressCapability(): Capability {
  return laidOut(60, [
    { at: 0, bytes: 1, value: CAPABILITY.EXPRESS },
    { at: 2, bytes: 2, value: 0x0002 }, // version 2, endpoint
    { at: 4, bytes: 4, value: 0x1000_8000 }, // device: function level reset, role-based errors, payloads of 128 bytes
    // Device Control: relaxed ordering, no snoop, reads of 512 bytes. The reset bit reads 0.
    { at: DEVICE_CONTROL_AT, bytes: 2, value: 0x2810, mask: 0x7fff },
    { at: 12, bytes: 4, value: 0x0000_0011 }, // link: one lane, 2.5 GT/s
    { at: 16, bytes: 2, value: 0, mask: 0x00c3 }, // Link Control: power states, common clock, extended synch
    { at: 18, bytes: 2, value: 0x0011 }, // Link Status
    { at: 44, bytes: 4, value: 0x0000_0002 }, // link, once more: 2.5 GT/s is what it can
    { at: 48, bytes: 2, value: 0x0001 }, // and what it aims at
  ]);
}

/** A register, little-endian. */
export interface Field {
  readonly at: number;
  readonly bytes: 1 | 2 | 3 | 4;
  /** After a reset. */
  readonly value: number;
  /** Bits that a write changes; default: none. */
  readonly mask?: number;
}

/** Puts registers where they belong. */
export function place(fields: readonly Field[], bytes: Uint8Array, writable: Uint8Array): void {
  for (const { at, bytes: count, value, mask = 0 } of fields) {
    for (let i = 0; i < count; i++) {
      bytes[at + i] = value >>> (8 * i);
      writable[at + i] = mask >>> (8 * i);
    }
  }
}

function laidOut(size: number, fields: readonly Field[]): Capability {
  const capability = { bytes: new Uint8Array(size), writable: new Uint8Array(size) };
  place(fields, capability.bytes, capability.writable);
  return capability;
}
