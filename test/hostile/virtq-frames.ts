/** What has to be true of the frames that a virtqueue makes of a hostile guest's chains. */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { window } from '../compliance/testbed.js';
import type { VirtioBed, VirtioSide } from '../compliance/virtio-bed.js';

/** Every iovec of the batch's frames lies in one region, by both of its addresses, and the headers ask for what they may. */
export function checkFrames(bed: VirtioBed, side: VirtioSide, count: number): void {
  const { batch, table } = bed;
  const word = (at: number) => window.words[at >>> 2]!;
  assert.equal(batch.count, count);
  const most = word(side.queue.address + L.QUEUE_MAX_FRAME);
  for (let i = 0; i < count; i++) {
    const frame = word(batch.address + L.BATCH_FRAMES) + i * L.FRAME_SIZE;
    const iov = word(frame + L.FRAME_IOV) / 8;
    const iovs = batch.iovs(i);
    assert.ok(iovs >= 2 && iovs <= 65, `${iovs} iovecs`);
    let total = 0;
    for (let b = 1; b < iovs; b++) {
      const flat = Number(window.longs[iov + 2 * b]!);
      const length = Number(window.longs[iov + 2 * b + 1]!);
      assert.ok(length > 0, 'an empty buffer');
      assert.equal(
        flat - window.base,
        word(word(frame + L.FRAME_WIN) + 4 * (b - 1)),
        'two addresses of one byte',
      );
      assert.ok(inRegion(table.address, flat, length), `${length} bytes at ${flat} are no guest memory`);
      total += length;
    }
    assert.ok(total <= most, `a frame of ${total} bytes`);
    assert.equal(batch.length(i), total);
    if (side.direction === 'rx') assert.equal(batch.room(i), total);
    else if (batch.asks(i)) checkHeader(bed, frame, total);
  }
}

function checkHeader(bed: VirtioBed, frame: number, length: number): void {
  const header = new DataView(window.bytes.buffer, window.words[(frame + L.FRAME_HEADER) >>> 2]!, 12);
  assert.ok((bed.features & F.CSUM) !== 0n, 'nothing was agreed on');
  assert.equal(header.getUint8(0), 1);
  assert.ok(header.getUint16(6, true) + header.getUint16(8, true) + 2 <= length, 'a checksum beyond the end');
  const type = header.getUint8(1);
  if (type !== 0)
    assert.ok((type & 0x7f) === 1 && header.getUint16(4, true) > 0 && header.getUint16(2, true) <= length);
}

function inRegion(table: number, flat: number, length: number): boolean {
  const count = window.words[(table + L.REGIONS_COUNT) >>> 2]!;
  for (let i = 0; i < count; i++) {
    const entry = (table + L.REGIONS_HEAD + i * L.REGION_SIZE) / 8;
    const start = Number(window.longs[entry + L.REGION_FLAT / 8]!);
    const size = Number(window.longs[entry + L.REGION_LENGTH / 8]!);
    if (flat >= start && flat + length <= start + size) return true;
  }
  return false;
}
