/** A vring_packed context for tests of its programs: where its fields are, and a device that does what VirtIO 1.1 says, as simply as it can be written. */
import { OPAQUE, ProgramBed, type Programs } from './program-bed.js';

export const FIELD = {
  FREE_ID: OPAQUE,
  AVAIL_IDX: OPAQUE + 2,
  USED_IDX: OPAQUE + 4,
  AVAIL_WRAP: OPAQUE + 6,
  USED_WRAP: OPAQUE + 7,
  AVAIL_FLAGS: OPAQUE + 8,
  STATE_OFS: OPAQUE + 128,
  NUM: OPAQUE + 136,
  DRIVER_EVENT: OPAQUE + 192,
  DEVICE_EVENT: OPAQUE + 256,
  DESC: OPAQUE + 320,
} as const;
export const EVENT = { ENABLE: 0, DISABLE: 1, DESC: 2 } as const;
export const [NEXT, WRITE, INDIRECT, AVAIL, USED] = [1, 2, 4, 0x80, 0x8000];

/** How far the states lie behind the start of the ring. */
export const stateOffset = (num: number): number => 320 + Math.ceil((16 * num) / 64) * 64;

export interface Desc {
  readonly addr: bigint;
  readonly len: number;
  readonly id: number;
  readonly flags: number;
}

export class PackedQueue extends ProgramBed {
  readonly num: number;
  /** The device: its next descriptor and the wrap counter of its lap. */
  next = 0;
  wrap = 1;

  /** A fresh ring, or one on which `laps` · num + `index` descriptors have come and gone. */
  constructor(programs: Programs, num: number, { laps = 0, index = 0 } = {}) {
    super(programs, OPAQUE + stateOffset(num) + Math.ceil((16 * num) / 64) * 64);
    this.num = num;
    this.next = index;
    this.wrap = laps % 2 === 0 ? 1 : 0;
    for (const field of [FIELD.AVAIL_IDX, FIELD.USED_IDX]) this.set16(field, index);
    for (const field of [FIELD.AVAIL_WRAP, FIELD.USED_WRAP]) this.bytes[field] = this.wrap;
    this.set16(FIELD.AVAIL_FLAGS, this.wrap ? AVAIL! : USED!);
    this.set(FIELD.STATE_OFS, stateOffset(num));
    this.set(FIELD.NUM, num);
    this.set(FIELD.DEVICE_EVENT, EVENT.ENABLE << 16);
    for (let i = 0; i < num; i++) {
      this.set16(this.stateAt(i) + 12, (i + 1) % num);
      this.set16(this.descAt(i) + 14, i < index === (this.wrap === 1) ? AVAIL! | USED! : 0);
    }
  }

  get16(offset: number): number {
    return this.view.getUint16(offset, true);
  }

  set16(offset: number, value: number): void {
    this.view.setUint16(offset, value, true);
  }

  descAt(index: number): number {
    return FIELD.DESC + 16 * index;
  }

  stateAt(id: number): number {
    return OPAQUE + stateOffset(this.num) + 16 * id;
  }

  desc(index: number): Desc {
    const at = this.descAt(index);
    return {
      addr: this.view.getBigUint64(at, true),
      len: this.get(at + 8),
      id: this.get16(at + 12),
      flags: this.get16(at + 14),
    };
  }

  /** The device uses its next descriptor and writes `len` into it. */
  use(len: number): void {
    const at = this.descAt(this.next);
    this.set(at + 8, len);
    this.set16(at + 14, this.wrap ? AVAIL! | USED! : 0);
    if (++this.next === this.num) {
      this.next = 0;
      this.wrap ^= 1;
    }
  }
}

/**
 * Whether an event asks to be told about `count` descriptors, of which the first is at `index` in the lap `wrap`: VirtIO 1.1, 2.7.10, one
 * descriptor after the other.
 */
export function asksFor(
  event: number,
  { index, wrap, count, num }: { index: number; wrap: number; count: number; num: number },
): boolean {
  const flags = event >>> 16;
  if (flags !== EVENT.DESC) return flags === EVENT.ENABLE;
  for (let i = 0; i < count; i++) {
    if ((event & 0xffff) === (index | (wrap << 15))) return true;
    if (++index === num) {
      index = 0;
      wrap ^= 1;
    }
  }
  return false;
}
