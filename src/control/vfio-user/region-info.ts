/**
 * What a server says of a region, and the capabilities that may follow it.
 *
 * ```
 *   0      4      8      12           16     24       32
 *   | argsz| flags| index| cap_offset | size | offset | ... | id u16, version u16, next u32 | ... |
 *                             '----- from the start ------►             '---- from the start, 0: the last
 * ```
 * Layouts: struct vfio_region_info and what follows it in `linux/vfio.h`.
 */
import type { OwnedFd } from '../../linux/fd.js';
import { decodeLayout, type Layout, layoutSize } from '../bpfhv-proxy/layout.js';
import { VfioUserError } from './errors.js';
import type { ReplyValues } from './messages.js';
import { COMMANDS, REGION_FLAG } from './requests.js';

const CAP_HEADER = { id: 'u16', version: 'u16', next: 'u32' } as const satisfies Layout;
const AREAS = { count: 'u32', reserved: 'u32' } as const satisfies Layout;
const AREA = { offset: 'u64', size: 'u64' } as const satisfies Layout;

/** Capabilities' ids. */
export const REGION_CAP = { SPARSE_MMAP: 1, TYPE: 2, MSIX_MAPPABLE: 3 } as const;
const MAX_CAPS = 64;

export interface RegionCap {
  readonly id: number;
  readonly version: number;
  /** All that follows the header: how much of it is the capability's, its id says. */
  readonly body: Uint8Array;
}

export interface RegionInfo {
  readonly index: number;
  /** REGION_FLAG bits. */
  readonly flags: number;
  /** Bytes; 0: there is no such region. */
  readonly size: bigint;
  /** Where the region begins in the file behind `fd`. */
  readonly offset: bigint;
  /** What of it can be mapped, when that is not all of it. */
  readonly areas: readonly { readonly offset: bigint; readonly size: bigint }[] | null;
  readonly caps: readonly RegionCap[];
  /** For mapping it; now the caller's. */
  readonly fd: OwnedFd | null;
}

/** Checks and decodes a whole reply. Throws VfioUserError VFIO_VALUE; the fds stay the caller's then. */
export function decodeRegionInfo(
  index: number,
  values: ReplyValues<'GET_REGION_INFO'>,
  tail: Uint8Array,
  fds: readonly OwnedFd[],
): RegionInfo {
  const { flags, size, offset, capOffset } = values;
  if (values.index !== index) throw wrong(index, `it is of region ${values.index}`);
  const caps = (flags & REGION_FLAG.CAPS) === 0 ? [] : decodeCaps(index, capOffset, tail);
  const sparse = caps.find(({ id }) => id === REGION_CAP.SPARSE_MMAP);
  const areas = sparse ? decodeAreas(index, size, sparse.body) : null;
  return { ...{ index, flags, size, offset, areas, caps }, fd: fds[0] ?? null };
}

function decodeCaps(index: number, capOffset: number, tail: Uint8Array): RegionCap[] {
  const start = layoutSize(COMMANDS.GET_REGION_INFO.reply);
  const size = layoutSize(CAP_HEADER);
  const caps: RegionCap[] = [];
  for (let at = capOffset; at !== 0; ) {
    const from = at - start;
    if (from < 0 || from + size > tail.length) throw wrong(index, `a capability at ${at}`);
    if (caps.length === MAX_CAPS)
      throw wrong(index, `more than ${MAX_CAPS} capabilities, or for ever the same`);
    const { id, version, next } = decodeLayout(CAP_HEADER, tail.subarray(from, from + size));
    caps.push({ id, version, body: tail.subarray(from + size) });
    at = next;
  }
  return caps;
}

function decodeAreas(index: number, size: bigint, body: Uint8Array): { offset: bigint; size: bigint }[] {
  const [head, step] = [layoutSize(AREAS), layoutSize(AREA)];
  const count = body.length < head ? -1 : decodeLayout(AREAS, body.subarray(0, head)).count;
  if (count < 0 || head + count * step > body.length) throw wrong(index, 'areas that are cut short');
  return Array.from({ length: count }, (_, i) => {
    const area = decodeLayout(AREA, body.subarray(head + i * step, head + (i + 1) * step));
    if (area.offset + area.size > size) throw wrong(index, `an area beyond its ${size} bytes`);
    return area;
  });
}

function wrong(index: number, what: string): VfioUserError {
  return new VfioUserError('VFIO_VALUE', `the reply to GET_REGION_INFO ${index}: ${what}`);
}
