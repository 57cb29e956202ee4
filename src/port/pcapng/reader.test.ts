/** The reader against files written field by field, by other tools, and by enemies. */
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { MAX_FRAME, MAX_INTERFACES } from './layout.js';
import { CaptureReader, END, FRAME, PAUSE } from './reader.js';
import { folder, haveTshark, numbered, Pen, readCapture, run, tshark, writeBytes } from './testing.js';

const ORDERS = [
  ['little', new Pen(true)],
  ['big', new Pen(false)],
] as const;

for (const [name, pen] of ORDERS) {
  test(`pcapng, ${name}-endian: interfaces with their own clocks, simple packets, unknown blocks and options`, t => {
    const custom = pen.block(0xbad, numbered(9));
    const resolution = (n: number) => pen.option(9, [n]);
    const words = pen.u32(0, 100);
    const offset = pen.option(14, name === 'little' ? [...pen.u32(100), ...pen.u32(0)] : words);
    const path = writeBytes(
      join(folder(t), 'f'),
      pen.section(),
      custom,
      pen.interface(1, 16), // microseconds, for want of another word
      pen.interface(1, 0, [...pen.option(2, numbered(5)), ...resolution(9), ...pen.u16(0, 0)]),
      pen.interface(1, 0, [...resolution(0x80 | 10), ...offset]),
      pen.packet(numbered(15), { low: 7 }),
      custom,
      pen.packet(numbered(60), {
        id: 1,
        high: 1,
        low: 2,
        options: [...pen.option(1, numbered(6)), ...pen.u16(0, 0)],
      }),
      pen.packet(numbered(64), { id: 2, low: 1536 }),
      pen.simple(40, numbered(16)), // cut by the snap length
      pen.block(2, [...pen.u16(1, 77), ...pen.u32(0, 5, 20, 20), ...numbered(20)]), // a packet block of the old kind
      pen.section(), // forgets the interfaces
      pen.interface(1, 0),
      pen.simple(18, numbered(18)),
    );
    const { frames, fault } = readCapture(path);
    assert.equal(fault, '');
    assert.deepEqual(
      frames.map(({ bytes, original, ns, interfaceId }) => [bytes.length, original, ns, interfaceId]),
      [
        [15, 15, 7000n, 0],
        [60, 60, 2n ** 32n + 2n, 1],
        [64, 64, 101_500_000_000n, 2],
        [16, 40, null, 0],
        [20, 20, 5n, 1],
        [18, 18, null, 0],
      ],
    );
    for (const { bytes } of frames) assert.deepEqual([...bytes], numbered(bytes.length));
  });

  test(`pcap, ${name}-endian: microseconds and nanoseconds`, t => {
    const path = join(folder(t), 'f');
    for (const [magic, unit] of [
      [0xa1b2c3d4, 1000n],
      [0xa1b23c4d, 1n],
    ] as const) {
      writeBytes(path, pen.classic(magic), pen.record(3, 5, numbered(15)), pen.record(4, 6, numbered(60)));
      const { frames, fault } = readCapture(path);
      assert.equal(fault, '');
      assert.deepEqual(
        frames.map(({ bytes, ns }) => [[...bytes], ns]),
        [
          [numbered(15), 3_000_000_000n + 5n * unit],
          [numbered(60), 4_000_000_000n + 6n * unit],
        ],
      );
    }
  });
}

test('a section in another byte order may follow', t => {
  const parts = ORDERS.flatMap(([, pen]) => [pen.section(), pen.interface(), pen.packet(numbered(20))]);
  const { frames, fault } = readCapture(writeBytes(join(folder(t), 'f'), ...parts));
  assert.deepEqual([frames.length, fault], [2, '']);
});

const pen = new Pen(true);
const head = [...pen.section(), ...pen.interface()];
const good = pen.packet(numbered(20));
const classic = pen.classic(0xa1b2c3d4);

/** What is wrong, the bytes, how many frames come before it, and what the reader says. */
const DAMAGED: readonly [string, readonly number[], number, RegExp][] = [
  ['empty', [], 0, /too short/],
  ['three bytes', [10, 13, 13], 0, /too short/],
  ['another format', numbered(100, 65), 0, /neither pcapng nor pcap \(it begins with 41424344\), at byte 0/],
  ['section without magic', pen.section(1, 0x11111111), 0, /without a byte order, at byte 0/],
  ['section of version 2', pen.section(2), 0, /version 2/],
  [
    'section too short',
    [...pen.block(0x0a0d0d0a, [...pen.u32(0x1a2b3c4d), 1, 0, 0, 0]), ...good],
    0,
    /length 20, at byte 0/,
  ],
  ['another link type', [...pen.section(), ...pen.interface(113)], 0, /link type 113, not Ethernet/],
  ['another link type, later', [...head, ...good, ...pen.interface(113), ...good], 1, /link type 113/],
  [
    'too many interfaces',
    [...head, ...Array(MAX_INTERFACES).fill(pen.interface()).flat()],
    0,
    /more than 1024/,
  ],
  [
    'interface of 64 KiB',
    [...pen.section(), ...pen.interface(1, 0, Array(0x10000).fill(0))],
    0,
    /65556 bytes/,
  ],
  ['option runs out', [...pen.section(), ...pen.interface(1, 0, pen.u16(9, 1))], 0, /option that runs out/],
  ['packet without interface', [...pen.section(), ...good], 0, /interface 0, which it never described/],
  [
    'simple packet without interface',
    [...pen.section(), ...pen.simple(4, [1, 2, 3, 4])],
    0,
    /never described/,
  ],
  ['packet of a later interface', [...head, ...good, ...pen.packet([1], { id: 1 })], 1, /interface 1/],
  ['length 0', [...head, ...good, ...pen.block(6, numbered(40), { head: 0 })], 1, /length 0,/],
  ['length 8', [...head, ...good, ...pen.block(77, [], { head: 8 })], 1, /length 8,/],
  [
    'length of no whole words',
    [...head, ...good, ...pen.block(77, numbered(8), { head: 18 })],
    1,
    /length 18,/,
  ],
  ['length of 4 GiB', [...head, ...good, ...pen.block(77, [], { head: 0xfffffffc })], 1, /length 4294967292/],
  [
    'length beyond the file',
    [...head, ...good, ...pen.block(77, [], { head: 4096 })],
    1,
    /ends within a block, at byte 100/,
  ],
  ['packet too short for itself', [...head, ...good, ...pen.block(6, [], { head: 28 })], 1, /length 28/],
  [
    'trailer differs',
    [...head, ...good, ...pen.block(77, numbered(8), { tail: 24 })],
    1,
    /length 20 that ends with length 24/,
  ],
  [
    'packet trailer differs',
    [...head, ...good, ...pen.packet(numbered(20)).with(-4, 0)],
    1,
    /ends with length 0/,
  ],
  [
    'frame longer than its block',
    [...head, ...good, ...pen.packet(numbered(20), { captured: 21 })],
    1,
    /frame of 21 bytes/,
  ],
  [
    'frame of 4 GiB',
    [...head, ...good, ...pen.packet([], { captured: 0xffffffff })],
    1,
    /frame of 4294967295 bytes/,
  ],
  [
    'simple packet longer than its block',
    [...head, ...good, ...pen.simple(5, [1, 2, 3, 4])],
    1,
    /frame of 5 bytes/,
  ],
  ['cut in a frame', [...head, ...good, ...good.slice(0, 40)], 1, /ends within a block, at byte 100/],
  ['cut in a trailer', [...head, ...good, ...good.slice(0, -1)], 1, /ends within a block/],
  ['cut in a header', [...head, ...good, ...good.slice(0, 7)], 1, /ends within a block/],
  ['cut in the section', pen.section().slice(0, 20), 0, /ends within a block/],
  ['pcap: cut in its header', classic.slice(0, 20), 0, /ends within its header/],
  ['pcap: version 3', pen.classic(0xa1b2c3d4, 1, 3), 0, /version 3/],
  ['pcap: another link type', pen.classic(0xa1b2c3d4, 101), 0, /link type 101/],
  [
    'pcap: cut in a record',
    [...classic, ...pen.record(0, 0, [1, 2]), 1, 2, 3],
    1,
    /ends within a record, at byte 42/,
  ],
  [
    'pcap: cut in a frame',
    [...classic, ...pen.record(0, 0, [1, 2]), ...pen.record(0, 0, [1, 2], 3)],
    1,
    /ends within a record/,
  ],
  [
    'pcap: frame of 4 GiB',
    [...classic, ...pen.record(0, 0, [1]), ...pen.record(0, 0, [], 0xffffffff)],
    1,
    /4294967295 bytes/,
  ],
];

for (const [what, bytes, frames, fault] of DAMAGED) {
  test(`damaged: ${what}`, t => {
    const read = readCapture(writeBytes(join(folder(t), 'f'), bytes));
    assert.match(read.fault, fault);
    assert.equal(read.frames.length, frames);
  });
}

test('whatever the bytes, the reader ends, and no frame reaches out of the file', t => {
  const path = join(folder(t), 'f');
  const base = [...head, ...good, ...pen.block(77, numbered(8)), ...pen.simple(20, numbered(20)), ...good];
  let faults = 0;
  for (let at = 0; at < base.length; at++) {
    for (const value of [0, 1, 0x7f, 0xff]) {
      const bytes = base.with(at, value);
      const { frames, fault } = readCapture(writeBytes(path, bytes));
      if (fault !== '') faults++;
      assert.ok(frames.length <= 3);
      for (const frame of frames) assert.ok(frame.bytes.length <= bytes.length);
    }
  }
  assert.ok(faults > base.length, `${faults} of ${4 * base.length} mutations were noticed`);
});

test('a budget bounds the blocks of one call', t => {
  const path = writeBytes(join(folder(t), 'f'), head, ...Array(10).fill(pen.block(77, [])), good);
  const fd = openSync(path, 'r');
  t.after(() => closeSync(fd));
  const reader = new CaptureReader(fd);
  const found = Array.from({ length: 5 }, () => {
    reader.budget = 5;
    return reader.next();
  });
  assert.deepEqual(found, [PAUSE, PAUSE, FRAME, END, END]);
});

test('a frame of the greatest length, across pieces', t => {
  const frame = numbered(MAX_FRAME);
  const { frames, fault } = readCapture(writeBytes(join(folder(t), 'f'), head, pen.packet(frame), good));
  assert.deepEqual([frames.map(({ bytes }) => bytes.length), fault], [[MAX_FRAME, 20], '']);
});

test('files converted by editcap read as tshark reads them', t => {
  if (!haveTshark(t)) return;
  const from = join(folder(t), 'f');
  const frames = [60, 61, 62, 63, 1514].map((n, i) =>
    pen.packet(numbered(n, i), { high: 0x5aa5b, low: 1234567 * i }),
  );
  writeBytes(from, pen.section(), pen.interface(1, 0, [...pen.option(9, [6]), ...pen.u16(0, 0)]), ...frames);
  for (const format of ['pcap', 'nsecpcap', 'pcapng']) {
    const to = `${from}.${format}`;
    run('editcap', ['-F', format, from, to]);
    const { frames, fault } = readCapture(to);
    assert.equal(fault, '');
    assert.equal(frames.length, 5);
    assert.deepEqual(
      frames.map(({ bytes, original, ns }) => [Buffer.from(bytes).toString('hex'), original, ns]),
      tshark(to).map(({ hex, original, ns }) => [hex, original, ns]),
      format,
    );
  }
});
