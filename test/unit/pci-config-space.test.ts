/** Configuration space as a guest's firmware and operating system go through it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { REGION } from '../../src/linux/vfio-numbers.js';
import {
  CAPABILITY,
  expressCapability,
  msixCapability,
  vendorCapability,
} from '../../src/pci/capabilities.js';
import { CONFIG_SIZE, type ConfigShape, ConfigSpace } from '../../src/pci/config-space.js';

const msix = msixCapability(3, { bar: 2, offset: 0 }, { bar: 2, offset: 2048 });
const vendor = vendorCapability(Uint8Array.of(1, 2, 3, 4, 5), Uint8Array.of(0, 0xff, 0, 0, 0));
const express = expressCapability();

const SHAPE: ConfigShape = {
  ...{ vendor: 0x1b36, device: 0x000e, revision: 7, classCode: 0x020000 },
  ...{ subsystemVendor: 0x1af4, subsystem: 0x1100, interruptPin: 1 },
  bars: [
    { space: 'memory', size: 256 },
    { space: 'io', size: 32 },
    { space: 'memory', size: 4096 },
    null,
    { space: 'memory', size: 1 << 20 },
  ],
  capabilities: [msix, vendor, express],
};

const get = (config: ConfigSpace, offset: number, size: number): number => {
  const into = new Uint8Array(size);
  config.read(offset, into);
  return into.reduceRight((value, byte) => value * 256 + byte, 0);
};
const put = (config: ConfigSpace, offset: number, size: number, value: number): boolean =>
  config.write(
    offset,
    Uint8Array.from({ length: size }, (_, i) => Math.floor(value / 256 ** i)),
  );

test('the header says what the function is', () => {
  const config = new ConfigSpace(SHAPE);
  for (const [offset, size, value] of [
    [0x00, 4, 0x000e_1b36],
    [0x04, 2, 0],
    [0x06, 2, 0x0010],
    [0x08, 4, 0x0200_0007],
    [0x0e, 1, 0],
    [0x2c, 4, 0x1100_1af4],
    [0x30, 4, 0],
    [0x34, 1, 0x40],
    [0x3c, 2, 0x0100],
    [0x100, 4, 0],
    [CONFIG_SIZE - 4, 4, 0],
  ] as const) {
    assert.equal(get(config, offset, size), value, `offset 0x${offset.toString(16)}`);
  }
});

/** Register, written, read back: on a function fresh from reset, 32 bits unless said otherwise. */
const WRITES: readonly (readonly [what: string, at: number, size: number, written: number, read: number])[] =
  [
    ['the ids', 0x00, 4, 0xffff_ffff, 0x000e_1b36],
    ['command', 0x04, 2, 0xffff, 0x0547],
    ['status', 0x06, 2, 0xffff, 0x0010],
    ['revision and class', 0x08, 4, 0xffff_ffff, 0x0200_0007],
    ['cache line', 0x0c, 1, 0x10, 0x10],
    ['latency, header type, self test', 0x0d, 3, 0xff_ffff, 0],
    ['BAR 0, sizing', 0x10, 4, 0xffff_ffff, 0xffff_ff00],
    ['BAR 0, an address', 0x10, 4, 0xfebf_1234, 0xfebf_1200],
    ['BAR 1, sizing', 0x14, 4, 0xffff_ffff, 0xffff_ffe1],
    ['BAR 1, a port', 0x14, 4, 0x0000_c0ff, 0x0000_c0e1],
    ['BAR 2, sizing', 0x18, 4, 0xffff_ffff, 0xffff_f000],
    ['BAR 3, which is not there', 0x1c, 4, 0xffff_ffff, 0],
    ['BAR 4, sizing', 0x20, 4, 0xffff_ffff, 0xfff0_0000],
    ['BAR 5, which is not there', 0x24, 4, 0xffff_ffff, 0],
    ['ROM, sizing', 0x30, 4, 0xffff_f800, 0],
    ['first capability', 0x34, 1, 0xff, 0x40],
    ['interrupt line', 0x3c, 1, 0x0b, 0x0b],
    ['interrupt pin', 0x3d, 1, 0xff, 1],
    ['BAR 2, its last byte', 0x1b, 1, 0xfe, 0xfe],
    ['behind the capabilities', 0xf0, 4, 0xffff_ffff, 0],
    ['extended space', 0x800, 4, 0xffff_ffff, 0],
  ];

describe('what can be written', () => {
  for (const [what, at, size, written, read] of WRITES) {
    test(what, () => {
      const config = new ConfigSpace(SHAPE);
      put(config, at, size, written);
      assert.equal(get(config, at, size).toString(16), read.toString(16));
      config.reset();
      assert.equal(get(config, at, size), get(new ConfigSpace(SHAPE), at, size));
    });
  }

  test('all at once is the same as byte by byte', () => {
    const [whole, bytewise] = [new ConfigSpace(SHAPE), new ConfigSpace(SHAPE)];
    const ones = new Uint8Array(CONFIG_SIZE).fill(0xff);
    whole.write(0, ones);
    for (let i = 0; i < CONFIG_SIZE; i++) bytewise.write(i, ones.subarray(0, 1));
    const [a, b] = [new Uint8Array(CONFIG_SIZE), new Uint8Array(CONFIG_SIZE)];
    whole.read(0, a);
    for (let i = 0; i < CONFIG_SIZE; i++) bytewise.read(i, b.subarray(i, i + 1));
    assert.deepEqual(a, b);
  });
});

test('capabilities are a list, each where it says', () => {
  const config = new ConfigSpace(SHAPE);
  const found: number[][] = [];
  for (let at = get(config, 0x34, 1); at !== 0; at = get(config, at + 1, 1))
    found.push([get(config, at, 1), at]);
  assert.deepEqual(found, [
    [CAPABILITY.MSIX, config.offsetOf(msix)],
    [CAPABILITY.VENDOR, config.offsetOf(vendor)],
    [CAPABILITY.EXPRESS, config.offsetOf(express)],
  ]);
  for (const [, at] of found) assert.equal(at! % 4, 0);
});

test('MSI-X: three vectors, table and pending bits in BAR 2; two bits to switch', () => {
  const config = new ConfigSpace(SHAPE);
  const at = config.offsetOf(msix);
  assert.equal(get(config, at + 2, 2), 2);
  assert.equal(get(config, at + 4, 4), 2);
  assert.equal(get(config, at + 8, 4), 2048 | 2);
  put(config, at + 2, 2, 0xffff);
  assert.equal(get(config, at + 2, 2), 0xc002);
  assert.equal(config.msixControl, 0xc000);
  put(config, at + 4, 4, 0xffff_ffff);
  assert.equal(get(config, at + 4, 4), 2);
});

test("a vendor's capability says its length, and is written where it may be", () => {
  const config = new ConfigSpace(SHAPE);
  const at = config.offsetOf(vendor);
  assert.equal(get(config, at + 2, 1), 8);
  put(config, at + 3, 4, 0);
  assert.equal(get(config, at + 3, 4), 0x04_03_00_01);
});

test('PCI Express: an endpoint of version 2 that can be asked for a reset', () => {
  const config = new ConfigSpace(SHAPE);
  const at = config.offsetOf(express);
  assert.equal(get(config, at + 2, 2), 2);
  assert.ok(get(config, at + 4, 4) & (1 << 28));
  assert.equal(get(config, at + 18, 2), 0x0011);
  assert.equal(put(config, at + 8, 2, 0x2810), false);
  assert.equal(put(config, at + 8, 2, 0xa810), true);
  assert.equal(get(config, at + 8, 2), 0x2810, 'the bit does not stay');
  assert.equal(put(config, at + 9, 1, 0x80), true);
  assert.equal(put(config, at + 10, 2, 0xffff), false);
});

test('the status register shows INTx, and a reset takes it back', () => {
  const config = new ConfigSpace(SHAPE);
  config.showInterrupt(true);
  assert.equal(get(config, 0x06, 2), 0x0018);
  config.showInterrupt(false);
  assert.equal(get(config, 0x06, 2), 0x0010);
  config.showInterrupt(true);
  config.reset();
  assert.equal(get(config, 0x06, 2), 0x0010);
});

test('regions follow from the BARs', () => {
  const { regions } = new ConfigSpace(SHAPE);
  assert.deepEqual(
    regions.map(({ size }) => size),
    [256, 32, 4096, 0, 1 << 20, 0, 0, CONFIG_SIZE, 0],
  );
  assert.deepEqual(regions[REGION.ROM], { size: 0, readable: false, writable: false });
});

test('a function without interrupts, BARs and capabilities', () => {
  const config = new ConfigSpace({ ...SHAPE, interruptPin: 0, bars: [], capabilities: [] });
  assert.equal(get(config, 0x06, 2), 0);
  assert.equal(get(config, 0x34, 1), 0);
  put(config, 0x04, 2, 0xffff);
  assert.equal(get(config, 0x04, 2), 0x0144);
  assert.equal(config.msixControl, 0);
  assert.equal(config.write(0, new Uint8Array(CONFIG_SIZE).fill(0xff)), false);
});

test('shapes that can not be', () => {
  const bars = (size: number) => ({ ...SHAPE, bars: [{ space: 'memory', size }] as const });
  for (const size of [0, 8, 48, 4095]) assert.throws(() => new ConfigSpace(bars(size)), RangeError);
  const capabilities = [vendorCapability(new Uint8Array(150)), expressCapability()];
  assert.throws(() => new ConfigSpace({ ...SHAPE, capabilities }), RangeError);
});
