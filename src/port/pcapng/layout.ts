/**
 * The numbers of the two capture file formats: draft-ietf-opsawg-pcapng and draft-ietf-opsawg-pcap. Offsets in bytes.
 *
 * ```
 *   pcapng   block │ block │ …          each  type u32 │ total length u32 │ body … │ total length u32
 *            section header, interface description…, packet, packet, …
 *   pcap     file header 24 │ record │ record │ …    each  seconds │ fraction │ captured │ original │ bytes
 * ```
 * A section is written in the byte order of its writer; the magic number shows which. Blocks come in whole words of 4 bytes.
 */

// --- Blocks
export const BLOCK_SECTION = 0x0a0d0d0a; // the same in both byte orders
export const BLOCK_INTERFACE = 1;
export const BLOCK_OLD_PACKET = 2; // an enhanced one with two 16-bit fields in place of the interface
export const BLOCK_SIMPLE_PACKET = 3;
export const BLOCK_PACKET = 6;
export const BLOCK_TYPE = 0;
export const BLOCK_LENGTH = 4;
export const BLOCK_BODY = 8;
export const BLOCK_MIN = 12;

/** The shortest block of each type that we look into. */
export const SHORTEST: Readonly<Record<number, number>> = {
  [BLOCK_SECTION]: 28,
  [BLOCK_INTERFACE]: 20,
  [BLOCK_OLD_PACKET]: 32,
  [BLOCK_SIMPLE_PACKET]: 16,
  [BLOCK_PACKET]: 32,
};

// --- Section header: magic u32 │ major u16 │ minor u16 │ section length i64 │ options
export const SECTION_MAGIC = 8;
export const SECTION_MAJOR = 12;
export const SECTION_OPTIONS = 24;
export const BYTE_ORDER_MAGIC = 0x1a2b3c4d;

// --- Interface description: link type u16 │ 0 │ snap length u32 │ options
export const INTERFACE_LINK = 8;
export const INTERFACE_SNAP = 12;
export const INTERFACE_OPTIONS = 16;
export const LINK_ETHERNET = 1;

// --- Packet: interface u32 │ timestamp high u32, low u32 │ captured u32 │ original u32 │ bytes │ options
export const PACKET_INTERFACE = 8;
export const PACKET_TIME_HIGH = 12;
export const PACKET_TIME_LOW = 16;
export const PACKET_CAPTURED = 20;
export const PACKET_ORIGINAL = 24;
export const PACKET_BYTES = 28;

// --- Simple packet: original u32 │ bytes, as many as the first interface's snap length lets through
export const SIMPLE_ORIGINAL = 8;
export const SIMPLE_BYTES = 12;

// --- Options: code u16 │ length u16 │ value, padded to words
export const OPTION_END = 0;
export const OPTION_COMMENT = 1;
export const OPTION_PACKET_FLAGS = 2;
export const OPTION_INTERFACE_NAME = 2;
export const OPTION_APPLICATION = 4;
/** A unit of time: base^-exponent seconds; the exponent has 7 bits. */
export interface Resolution {
  readonly base: 2 | 10;
  readonly exponent: number;
}
export const OPTION_RESOLUTION = 9; // u8: 10^-n seconds, or 2^-n with the top bit set
export const OPTION_TIME_OFFSET = 14; // i64 seconds

/** Direction of a packet, in the two low bits of its flags, as its interface sees it. */
export const INBOUND = 1;
export const OUTBOUND = 2;

// --- Classic pcap: magic │ major u16 │ minor u16 │ 0 │ 0 │ snap length │ link type u16, more u16
export const CLASSIC_MICROSECONDS = 0xa1b2c3d4;
export const CLASSIC_NANOSECONDS = 0xa1b23c4d;
export const CLASSIC_MAJOR = 4;
export const CLASSIC_LINK = 20;
export const CLASSIC_HEADER = 24;
export const RECORD_SECONDS = 0;
export const RECORD_FRACTION = 4;
export const RECORD_CAPTURED = 8;
export const RECORD_ORIGINAL = 12;
export const RECORD_BYTES = 16;

// --- Limits: beyond them a file is taken for damaged. The first two are those that Wireshark keeps.
export const MAX_BLOCK = 0x100_0000;
export const MAX_FRAME = 0x4_0000;
export const MAX_INTERFACES = 1024;

/** `bytes` in whole words of 4. */
export const padded = (bytes: number): number => (bytes + 3) & ~3;
