/**
 * Reads capture files, pcapng and classic pcap, both byte orders: where each frame's bytes are, how many, and when it was seen.
 *
 *     const reader = new CaptureReader(fd);
 *     while (reader.next() === FRAME) …reader.position, reader.length, reader.time()
 *     if (reader.fault) …the file is damaged from there on
 *
 * The reader finds frames and does not touch their bytes. A block is believed only as a whole: its lengths agree with each other, with
 * the limits and with the file. At the first that is not, the file ends, and `fault` says where and why.
 */
import { Clock } from './clock.js';
import { FileWalk, PIECE } from './file-walk.js';
import * as L from './layout.js';

/** What `next` found. */
export const END = 0;
export const FRAME = 1;
/** The budget is used up; there may be more. */
export const PAUSE = 2;

/** Not a frame: a block that was only passed. */
const OTHER = 3;

/** Blocks of a head that `readHead` goes through. */
const MAX_HEAD = 1 + L.MAX_INTERFACES;

interface Interface {
  /** Captured bytes of a frame at most. */
  readonly snap: number;
  readonly clock: Clock;
}

export class CaptureReader {
  /** Blocks that `next` may still look at before it pauses. Set it before a bounded piece of work. */
  budget = Number.POSITIVE_INFINITY;
  /** Why the file ended before its end, or ''. */
  fault = '';
  /** The frame: offset of its bytes in the file, how many there are, how many it had, whom it came from. */
  position = 0;
  length = 0;
  originalLength = 0;
  interfaceId = 0;
  /** False for a simple packet, which has no time. */
  timed = false;
  #timeHigh = 0;
  #timeLow = 0;
  readonly #walk: FileWalk;
  #interfaces: Interface[] = [];
  #format: 'unknown' | 'pcapng' | 'pcap' = 'unknown';
  #ended = false;

  /** Borrows `fd`, which must be a file that can be read by position. */
  constructor(fd: number) {
    this.#walk = new FileWalk(fd);
  }

  /** Looks for the next frame: FRAME, END or PAUSE. */
  next(): number {
    while (!this.#ended) {
      if (this.budget <= 0) return PAUSE;
      this.budget--;
      const found = this.#step();
      if (found !== OTHER) return found;
    }
    return END;
  }

  /** Reads the file's head alone: what stands before the first block that is neither a section nor an interface. */
  readHead(): void {
    this.#step();
    for (let blocks = 1; blocks < MAX_HEAD && !this.#ended && this.#isHead(); blocks++) this.#step();
  }

  /** When the frame was seen, if it is timed: nanoseconds since 1970 in the halves of what this gives, until the next call. */
  time(): { readonly high: number; readonly low: number } {
    const { clock } = this.#interfaces[this.interfaceId]!;
    if (this.#format === 'pcap') clock.readSeconds(this.#timeHigh, this.#timeLow);
    else clock.read(this.#timeHigh, this.#timeLow);
    return clock;
  }

  #isHead(): boolean {
    if (this.#format !== 'pcapng' || !this.#walk.has(L.BLOCK_MIN)) return false;
    const type = this.#walk.u32(L.BLOCK_TYPE);
    return type === L.BLOCK_SECTION || type === L.BLOCK_INTERFACE;
  }

  #step(): number {
    if (this.#format === 'pcapng') return this.#block();
    return this.#format === 'pcap' ? this.#record() : this.#detect();
  }

  #detect(): number {
    const walk = this.#walk;
    if (!walk.has(4)) return this.#stop('is too short for a capture file');
    if (walk.u32(0) === L.BLOCK_SECTION) {
      this.#format = 'pcapng';
      return this.#block();
    }
    for (const littleEndian of [true, false]) {
      walk.littleEndian = littleEndian;
      const sign = walk.u32(0);
      if (sign === L.CLASSIC_MICROSECONDS) return this.#classic(6);
      if (sign === L.CLASSIC_NANOSECONDS) return this.#classic(9);
    }
    return this.#stop(
      `is neither pcapng nor pcap (it begins with ${walk.u32(0).toString(16).padStart(8, '0')})`,
    );
  }

  // ---- classic pcap ----

  #classic(exponent: number): number {
    const walk = this.#walk;
    if (!walk.has(L.CLASSIC_HEADER)) return this.#stop('ends within its header');
    const version = walk.u16(L.CLASSIC_MAJOR);
    if (version !== 2) return this.#stop(`has version ${version}, not 2`);
    const link = walk.u32(L.CLASSIC_LINK) & 0xffff;
    if (link !== L.LINK_ETHERNET)
      return this.#stop(`has link type ${link}, not Ethernet (${L.LINK_ETHERNET})`);
    this.#interfaces = [{ snap: L.MAX_FRAME, clock: new Clock({ base: 10, exponent }) }];
    this.#format = 'pcap';
    walk.position += L.CLASSIC_HEADER;
    return OTHER;
  }

  #record(): number {
    const walk = this.#walk;
    if (!walk.has(L.RECORD_BYTES)) return this.#endOr('record');
    const captured = walk.u32(L.RECORD_CAPTURED);
    if (captured > L.MAX_FRAME) return this.#stop(`has a frame of ${captured} bytes`);
    this.#timeHigh = walk.u32(L.RECORD_SECONDS);
    this.#timeLow = walk.u32(L.RECORD_FRACTION);
    this.#frame(L.RECORD_BYTES, captured, walk.u32(L.RECORD_ORIGINAL), true);
    const start = walk.position;
    // The last byte is there: the whole frame is.
    walk.position += L.RECORD_BYTES + captured - 1;
    if (!walk.has(1)) return this.#truncated('record', start);
    walk.position++;
    return FRAME;
  }

  // ---- pcapng ----

  #block(): number {
    const walk = this.#walk;
    if (!walk.has(L.BLOCK_MIN)) return this.#endOr('block');
    const type = walk.u32(L.BLOCK_TYPE);
    if (type === L.BLOCK_SECTION && !this.#takeByteOrder())
      return this.#stop('has a section without a byte order');
    const start = walk.position;
    const length = walk.u32(L.BLOCK_LENGTH);
    if (length < (L.SHORTEST[type] ?? L.BLOCK_MIN) || length > L.MAX_BLOCK || length % 4 !== 0) {
      return this.#stop(`has a block of type ${type} with length ${length}`);
    }
    const found = this.#look(type, length);
    if (this.#ended) return END;
    walk.position = start + length - 4;
    if (!walk.has(4)) return this.#truncated('block', start);
    const trailer = walk.u32(0);
    if (trailer !== length)
      return this.#stop(`has a block of length ${length} that ends with length ${trailer}`);
    walk.position += 4;
    return found;
  }

  #takeByteOrder(): boolean {
    const walk = this.#walk;
    walk.littleEndian = true;
    if (walk.u32(L.SECTION_MAGIC) === L.BYTE_ORDER_MAGIC) return true;
    walk.littleEndian = false;
    return walk.u32(L.SECTION_MAGIC) === L.BYTE_ORDER_MAGIC;
  }

  #look(type: number, length: number): number {
    switch (type) {
      case L.BLOCK_SECTION:
        return this.#section();
      case L.BLOCK_INTERFACE:
        return this.#interface(length);
      case L.BLOCK_PACKET:
      case L.BLOCK_OLD_PACKET:
        return this.#packet(type, length);
      case L.BLOCK_SIMPLE_PACKET:
        return this.#simplePacket(length);
      default:
        return OTHER;
    }
  }

  #section(): number {
    const walk = this.#walk;
    if (!walk.has(L.SECTION_OPTIONS)) return this.#truncated('block', walk.position);
    const major = walk.u16(L.SECTION_MAJOR);
    if (major !== 1) return this.#stop(`has a section of version ${major}, not 1`);
    this.#interfaces = [];
    return OTHER;
  }

  #interface(length: number): number {
    const walk = this.#walk;
    if (length > PIECE) return this.#stop(`has an interface description of ${length} bytes`);
    if (!walk.has(length)) return this.#truncated('block', walk.position);
    const link = walk.u16(L.INTERFACE_LINK);
    if (link !== L.LINK_ETHERNET) {
      return this.#stop(`has an interface of link type ${link}, not Ethernet (${L.LINK_ETHERNET})`);
    }
    if (this.#interfaces.length === L.MAX_INTERFACES)
      return this.#stop(`has more than ${L.MAX_INTERFACES} interfaces`);
    let resolution: L.Resolution = { base: 10, exponent: 6 };
    let offset = 0n;
    const end = length - 4;
    for (let at = L.INTERFACE_OPTIONS; at + 4 <= end; ) {
      const code = walk.u16(at);
      const size = walk.u16(at + 2);
      if (code === L.OPTION_END) break;
      if (at + 4 + L.padded(size) > end) return this.#stop('has an option that runs out of its block');
      if (code === L.OPTION_RESOLUTION && size === 1) {
        const byte = walk.u8(at + 4);
        resolution = { base: byte & 0x80 ? 2 : 10, exponent: byte & 0x7f };
      } else if (code === L.OPTION_TIME_OFFSET && size === 8) {
        offset = walk.i64(at + 4);
      }
      at += 4 + L.padded(size);
    }
    const snap = walk.u32(L.INTERFACE_SNAP) || L.MAX_FRAME; // 0: no limit
    this.#interfaces.push({ snap, clock: new Clock(resolution, offset) });
    return OTHER;
  }

  #packet(type: number, length: number): number {
    const walk = this.#walk;
    if (!walk.has(L.PACKET_BYTES)) return this.#truncated('block', walk.position);
    const captured = walk.u32(L.PACKET_CAPTURED);
    if (!this.#fits(captured, length - L.SHORTEST[L.BLOCK_PACKET]!)) return END;
    const id = type === L.BLOCK_PACKET ? walk.u32(L.PACKET_INTERFACE) : walk.u16(L.PACKET_INTERFACE);
    if (id >= this.#interfaces.length)
      return this.#stop(`has a packet of interface ${id}, which it never described`);
    this.interfaceId = id;
    this.#timeHigh = walk.u32(L.PACKET_TIME_HIGH);
    this.#timeLow = walk.u32(L.PACKET_TIME_LOW);
    return this.#frame(L.PACKET_BYTES, captured, walk.u32(L.PACKET_ORIGINAL), true);
  }

  #simplePacket(length: number): number {
    const first = this.#interfaces[0];
    if (!first) return this.#stop('has a packet of interface 0, which it never described');
    const original = this.#walk.u32(L.SIMPLE_ORIGINAL);
    const captured = Math.min(original, first.snap);
    if (!this.#fits(captured, length - L.SHORTEST[L.BLOCK_SIMPLE_PACKET]!)) return END;
    this.interfaceId = 0;
    this.#timeHigh = this.#timeLow = 0;
    return this.#frame(L.SIMPLE_BYTES, captured, original, false);
  }

  #fits(captured: number, room: number): boolean {
    if (captured <= L.MAX_FRAME && L.padded(captured) <= room) return true;
    this.#stop(`has a frame of ${captured} bytes in a block with room for ${room}`);
    return false;
  }

  // ---- both ----

  #frame(offset: number, captured: number, original: number, timed: boolean): number {
    this.position = this.#walk.position + offset;
    this.length = captured;
    this.originalLength = original;
    this.timed = timed;
    return FRAME;
  }

  /** There is less than a header: the file's end, or a header cut in two. */
  #endOr(what: string): number {
    if (this.#walk.left > 0 || this.#walk.failure) return this.#truncated(what, this.#walk.position);
    this.#ended = true;
    return END;
  }

  #truncated(what: string, start: number): number {
    this.#walk.position = start;
    return this.#stop(this.#walk.failure ? `can't be read: ${this.#walk.failure}` : `ends within a ${what}`);
  }

  #stop(why: string): number {
    this.fault = `${why}, at byte ${this.#walk.position}`;
    this.#ended = true;
    return END;
  }
}
