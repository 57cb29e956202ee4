/** VFIO's numbers and structs, byte by byte, as <linux/vfio.h> has them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../src/linux/vfio-layout.js';

const bytes = (view: DataView): string =>
  Buffer.from(view.buffer)
    .toString('hex')
    .replace(/(.{8})(?=.)/g, '$1 ');
const words = (...values: number[]): DataView => new DataView(Uint32Array.from(values).buffer);

test('the ioctls are called as the kernel calls them', () => {
  assert.deepEqual(
    [L.VFIO.GET_API_VERSION, L.VFIO.SET_IOMMU, L.VFIO.GROUP_GET_DEVICE_FD, L.VFIO.DEVICE_SET_IRQS],
    [0x3b64, 0x3b66, 0x3b6a, 0x3b6e],
  );
  // One number, one meaning on the container and another one on the device.
  assert.deepEqual(
    [L.VFIO.IOMMU_GET_INFO, L.VFIO.IOMMU_MAP_DMA, L.VFIO.IOMMU_UNMAP_DMA],
    [0x3b70, 0x3b71, 0x3b72],
  );
  assert.equal(L.VFIO.DEVICE_IOEVENTFD, 0x3b74);
});

test('what is asked', () => {
  assert.equal(
    bytes(L.regionInfo(7)),
    '20000000 00000000 07000000 00000000 00000000 00000000 00000000 00000000',
  );
  assert.equal(bytes(L.irqInfo(2)), '10000000 00000000 02000000 00000000');
  assert.equal(bytes(L.irqSet(2, [5, -1])), '1c000000 24000000 02000000 00000000 02000000 05000000 ffffffff');
  assert.equal(bytes(L.irqsOff(2)), '14000000 21000000 02000000 00000000 00000000');
  assert.equal(
    bytes(L.ioEventFd(0x100_0000_0008, 0xffff_ffff, 4, 9)),
    '20000000 04000000 08000000 00010000 ffffffff 00000000 09000000 00000000',
  );
  assert.equal(
    bytes(L.dmaMap(0x1_0000_0000n, 0x20_0000, 0x7f00_0000_1000)),
    '20000000 03000000 00100000 007f0000 00000000 01000000 00002000 00000000',
  );
  assert.equal(
    bytes(L.dmaUnmap(0x1_0000_0000n, 4096)),
    '18000000 00000000 00000000 01000000 00100000 00000000',
  );
});

test('what is answered', () => {
  assert.equal(L.isViable(words(8, 1)), true);
  assert.equal(L.isViable(words(8, 2)), false);
  assert.deepEqual(L.readDeviceInfo(words(16, 2, 9, 5)), { isPci: true, regions: 9, irqs: 5 });
  assert.deepEqual(L.readRegionInfo(words(32, 7, 1, 0, 0x1000, 0, 0, 0x100)), {
    size: 0x1000,
    offset: 2 ** 40,
  });
  assert.equal(L.readIrqCount(words(16, 9, 2, 5)), 5);
});

/** struct vfio_iommu_type1_info with these capabilities behind it, in words: id and version, next, the rest. */
function iommu(flags: number, first: number, ...capabilities: number[]): DataView {
  return words(24 + 4 * capabilities.length, flags, 0x20_1000, 0, first, 0, ...capabilities);
}

test('an IOMMU says what it can map', () => {
  const pageSizes = 0x20_1000n;
  const range = [0x1_0001, 0, 2, 0, 0, 0, 0xfedf_ffff, 0, 0xfef0_0000, 0, 0xffff_ffff, 0xffff];
  const ranges = [
    { start: 0n, end: 0xfedf_ffffn },
    { start: 0xfef0_0000n, end: 0xffff_ffff_ffffn },
  ];
  assert.deepEqual(L.readIommuInfo(iommu(3, 24, ...range)), { pageSizes, ranges });
  // Another capability comes first.
  assert.deepEqual(L.readIommuInfo(iommu(3, 24, 0x1_0003, 40, 9, 0, ...range)), { pageSizes, ranges });
  assert.deepEqual(L.readIommuInfo(iommu(1, 24, ...range)), { pageSizes, ranges: null });
  assert.deepEqual(L.readIommuInfo(iommu(0, 0)), { pageSizes: 0n, ranges: null });
});

test('capabilities that lead nowhere, or in circles, or promise more than there is', () => {
  assert.equal(L.readIommuInfo(iommu(2, 4096)).ranges, null);
  assert.equal(L.readIommuInfo(iommu(2, 24, 0x1_0003, 24, 0, 0)).ranges, null);
  assert.equal(L.readIommuInfo(iommu(2, 24, 0x1_0003, 8, 0, 0)).ranges, null);
  assert.deepEqual(L.readIommuInfo(iommu(2, 24, 0x1_0001, 0, 1000, 0, 1, 0, 2, 0)).ranges, [
    { start: 1n, end: 2n },
  ]);
});
