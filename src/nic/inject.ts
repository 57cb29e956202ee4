/** A frame of our own, of one buffer, in a batch: what a NIC itself has to say to the network. */
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';
import type { Batch } from '../ring/batch.js';

/** Makes the batch that frame alone: `length` bytes at a window address, without any offload. */
export function fillWith(
  { words, longs, base }: Window,
  batch: Batch,
  address: number,
  length: number,
): void {
  const of = (field: number) => words[(batch.address + field) >>> 2]!;
  const [frame, header, iov, win] = [
    of(L.BATCH_FRAMES),
    of(L.BATCH_HEADERS),
    of(L.BATCH_IOV),
    of(L.BATCH_WIN),
  ];
  const set = (at: number, value: number) => {
    words[at >>> 2] = value;
  };
  for (let at = 0; at < L.FRAME_SIZE; at += 4) set(frame + at, 0);
  for (let at = 0; at < L.VNET_HEADER_STRIDE; at += 4) set(header + at, 0);
  longs[(iov + L.IOVEC_BASE) / 8] = BigInt(base + header);
  longs[(iov + L.IOVEC_LENGTH) / 8] = BigInt(L.VNET_HEADER_SIZE);
  longs[(iov + L.IOVEC_SIZE + L.IOVEC_BASE) / 8] = BigInt(base + address);
  longs[(iov + L.IOVEC_SIZE + L.IOVEC_LENGTH) / 8] = BigInt(length);
  set(win + 4, address);
  set(frame + L.FRAME_IOV, iov);
  set(frame + L.FRAME_IOVS, 2);
  set(frame + L.FRAME_LENGTH, length);
  set(frame + L.FRAME_HEADER, header);
  set(frame + L.FRAME_WIN, win + 4);
  set(batch.address + L.BATCH_IOV_USED, 2);
  set(batch.address + L.BATCH_METADATA, 0);
  set(batch.address + L.BATCH_COUNT, 1);
}
