/**
 * The places of a region where writes can go to file descriptors, as a server lists them behind its reply.
 *
 * The specification's entries have 40 bytes; those of libvfio-user 48, with eight more before the value to match. Their length follows from the reply's.
 */
import { decodeLayout, layoutSize } from '../bpfhv-proxy/layout.js';
import { VfioUserError } from './errors.js';
import type { ReplyValues } from './messages.js';
import { IO_FD } from './requests.js';

/** See IO_FD. */
export interface IoFd {
  readonly offset: bigint;
  /** Bytes of a write; 0: any. */
  readonly size: bigint;
  /** IO_FD_TYPE. */
  readonly type: number;
  readonly flags: number;
  readonly datamatch: bigint;
  /** Which of the reply's file descriptors. */
  readonly fdIndex: number;
}

/** Checks and decodes what follows a reply that came with `numFds` file descriptors. Throws VfioUserError VFIO_VALUE. */
export function decodeIoFds(
  { index, count }: ReplyValues<'GET_REGION_IO_FDS'>,
  tail: Uint8Array,
  numFds: number,
): IoFd[] {
  if (count === 0) return [];
  const size = layoutSize(IO_FD);
  const step = tail.length / count;
  if (step !== size && step !== size + 8) throw wrong(index, `${tail.length} bytes for ${count} entries`);
  return Array.from({ length: count }, (_, i) => {
    const entry = decodeLayout(IO_FD, tail.subarray(i * step, i * step + size));
    if (entry.fdIndex >= numFds) throw wrong(index, `file descriptor ${entry.fdIndex} of ${numFds}`);
    if (step === size) return entry;
    const end = tail.subarray((i + 1) * step - 8, (i + 1) * step);
    return { ...entry, ...decodeLayout({ datamatch: 'u64' }, end) };
  });
}

function wrong(index: number, what: string): VfioUserError {
  return new VfioUserError('VFIO_VALUE', `the reply to GET_REGION_IO_FDS ${index}: ${what}`);
}
