/**
 * The state of a queue's ring as text: what both sides have written into the context, and what the device has kept for itself. Numbers are read
 * while the other side may write them, so those of a busy ring need not fit together.
 *
 * One function a ring format, named in its device type. `queue` is the window address of the QUEUE_* structure; the queue has a context.
 */
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';

const FAULTS: Readonly<Record<number, string>> = {
  [L.FAULT_NONE]: 'none',
  [L.FAULT_INDEX]: 'index',
  [L.FAULT_COMPLETION]: 'completion',
  [L.FAULT_PROGRAM]: 'program',
  [L.FAULT_MEMORY]: 'memory',
};

/** The word for one of FAULT_*. */
export function faultName(fault: number): string {
  return FAULTS[fault] ?? String(fault);
}

/** sring and sring_gso have the same head. */
const SRING = { prod: 0, intr: 4, cons: 128, kick: 132, clear: 384 } as const;

/** Of sring and sring_gso. Indices run free; `posted` waits for the device, `completed` for the guest. */
export function dumpSring(window: Window, queue: number, receive: boolean): string {
  const ring = word(window, queue + L.QUEUE_RING);
  const at = (field: keyof typeof SRING) => word(window, ring + SRING[field]);
  const [prod, cons, clear] = [at('prod'), at('cons'), at('clear')];
  return [
    `ring    prod ${prod}  cons ${cons}  clear ${clear}  posted ${minus(prod, cons)}  completed ${minus(cons, clear)}`,
    `flags   ${receive ? 'intr_enabled' : 'intr_at'} ${at('intr')}  kick_enabled ${at('kick')}`,
    `device  cons ${word(window, queue + L.QUEUE_CONS)}`,
  ].join('\n');
}

const PACKED_GUEST = 0;
const PACKED_HOST = 64;
/** Of both parts: offset and bytes. */
const PACKED_INDICES = {
  next_avail: [2, 2],
  avail_wrap: [6, 1],
  next_used: [4, 2],
  used_wrap: [7, 1],
} as const;
/** The device's part has no list of free descriptors, so its fields begin two bytes earlier. */
const PACKED_HOST_INDICES = {
  next_avail: [0, 2],
  avail_wrap: [4, 1],
  next_used: [2, 2],
  used_wrap: [5, 1],
} as const;
const PACKED_DRIVER_EVENT = 192;
const PACKED_DEVICE_EVENT = 256;
const PACKED_DESCRIPTORS = 320;
const PACKED_DESC_SIZE = 16;
const PACKED_DESC_FLAGS = 14;
const EVENT_FLAGS = ['enable', 'disable', 'desc'] as const;

/** Of vring_packed. An event "desc 5/1" asks to be told when index 5 is passed in the lap with wrap counter 1. */
export function dumpVringPacked(window: Window, queue: number): string {
  const ring = word(window, queue + L.QUEUE_RING);
  const num = word(window, queue + L.QUEUE_NUM);
  const position = word(window, queue + L.QUEUE_CONS);
  const part = (base: number, fields: Readonly<Record<string, readonly [number, number]>>) =>
    Object.entries(fields)
      .map(([name, [offset, size]]) => `${name} ${bytes(window, ring + base + offset, size)}`)
      .join('  ');
  const event = (offset: number) => {
    const offWrap = bytes(window, ring + offset, 2);
    const flags = bytes(window, ring + offset + 2, 2);
    return `${EVENT_FLAGS[flags] ?? flags} ${offWrap & 0x7fff}/${offWrap >>> 15}`;
  };
  const index = position & (num - 1);
  const flags = bytes(window, ring + PACKED_DESCRIPTORS + index * PACKED_DESC_SIZE + PACKED_DESC_FLAGS, 2);
  return [
    `guest   ${part(PACKED_GUEST, PACKED_INDICES)}`,
    `host    ${part(PACKED_HOST, PACKED_HOST_INDICES)}`,
    `events  driver ${event(PACKED_DRIVER_EVENT)}  device ${event(PACKED_DEVICE_EVENT)}`,
    `device  index ${index}  wrap ${(position & num) === 0 ? 1 : 0}  next descriptor avail ${(flags >>> 7) & 1} used ${flags >>> 15}`,
  ].join('\n');
}

function word(window: Window, address: number): number {
  return window.words[address >>> 2]!;
}

/** `size` bytes, little-endian, that do not cross a word. */
function bytes(window: Window, address: number, size: number): number {
  const shifted = word(window, address) >>> (8 * (address & 3));
  return size === 1 ? shifted & 0xff : shifted & 0xffff;
}

/** Of indices that run free. */
function minus(a: number, b: number): number {
  return (a - b) >>> 0;
}
