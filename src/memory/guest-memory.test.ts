/** Region tables: what is refused, what is shared, what is given back; guests larger than the window; huge pages. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import * as L from '../../datapath/layout.js';
import { EventFd } from '../linux/eventfd.js';
import type { OwnedFd } from '../linux/fd.js';
import * as libc from '../linux/libc.js';
import { createMemfd } from '../linux/memfd.js';
import { openMappings } from '../linux/mmap.js';
import { leakTest } from '../linux/testing.js';
import { loadDatapath } from '../ring/datapath.js';
import { Arena } from './arena.js';
import { GuestMemory, type GuestMemoryOptions, type RegionSpec, type RegionTable } from './guest-memory.js';
import { ARENA_START, Window } from './window.js';

const KiB = 2 ** 10;
const MiB = 2 ** 20;
const GiB = 2 ** 30;
const PAGE = 4096;

const window = Window.create();
const { calls } = loadDatapath(window);

let nextArena = ARENA_START;

function setUp(options: GuestMemoryOptions = {}, arenaSize = MiB) {
  const arena = new Arena(window, nextArena, (nextArena += arenaSize));
  const hint = arena.allocate(4);
  return {
    arena,
    memory: new GuestMemory(window, arena, options),
    /** Where the datapath finds [gpa, gpa + length), 0 = nowhere. */
    find: (table: RegionTable, gpa: bigint, length: number | bigint) => {
      window.words[hint >>> 2] = 0;
      return calls.translate(table.address, hint, gpa, BigInt(length)) >>> 0;
    },
  };
}

const region = (
  fd: OwnedFd,
  gpa: bigint,
  size: number | bigint,
  offset: number | bigint = 0,
): RegionSpec => ({
  guestPhysicalAddress: gpa,
  size: BigInt(size),
  mmapOffset: BigInt(offset),
  fd,
});

const entries = (table: RegionTable): number => window.words[(table.address + L.REGIONS_COUNT) >>> 2]!;
const flatOf = (table: RegionTable, entry = 0): number =>
  Number(window.longs[(table.address + L.REGIONS_HEAD + entry * L.REGION_SIZE + L.REGION_FLAT) / 8]!);

/** Has the kernel read `length` bytes at an address of this process: the bytes, or -errno. */
function kernelReads(address: number, length: number): Uint8Array | number {
  const scratch = createMemfd({ name: 'scratch', size: 0, sealed: false });
  const result = libc.write(scratch.fd, address, length);
  const bytes = readFileSync(`/proc/self/fd/${scratch.fd}`);
  scratch.close();
  return result < 0 ? result : bytes;
}

leakTest('tables that can not be are refused, with nothing left behind', () => {
  const { memory, arena } = setUp();
  const file = createMemfd({ name: 'guest', size: MiB });
  const odd = createMemfd({ name: 'odd', size: PAGE + 1 });
  const event = EventFd.create('no memory');
  const top = 2n ** 64n;
  const refused: [string, RegionSpec[], string][] = [
    ['empty', [region(file, 0n, 0)], 'MEMORY_REGION'],
    ['start + size wraps', [region(file, top - 4096n, 8192)], 'MEMORY_REGION'],
    ['huge size', [region(file, 0n, top - 1n)], 'MEMORY_REGION'],
    ['offset + size wraps', [region(file, 0n, 4096, top - 4096n)], 'MEMORY_REGION'],
    ['offset beyond the file', [region(file, 0n, 4096, MiB)], 'MEMORY_REGION'],
    ['size beyond the file', [region(file, 0n, MiB + 1)], 'MEMORY_REGION'],
    ['one byte over', [region(file, 0n, 4096, MiB - 4095)], 'MEMORY_REGION'],
    ['half a page at the end', [region(odd, 0n, PAGE + 1)], 'MEMORY_REGION'],
    ['overlap by a byte', [region(file, 0n, 4097), region(file, 4096n, 4096)], 'MEMORY_REGION'],
    ['one inside another', [region(file, 0n, 8192), region(file, 4096n, 1)], 'MEMORY_REGION'],
    ['the same twice', [region(file, 0n, 4096), region(file, 0n, 4096)], 'MEMORY_REGION'],
    ['good, then bad', [region(file, 0n, 4096), region(file, 8192n, 0)], 'MEMORY_REGION'],
    ['no regular file', [region(event.owner, 0n, 4096)], 'EINVAL'],
    [
      'too many',
      Array.from({ length: L.MAX_REGIONS + 1 }, (_, i) => region(file, BigInt(i) * 8192n, 1)),
      'MEMORY_REGION',
    ],
  ];
  const before = openMappings();
  for (const [what, specs, code] of refused) {
    assert.throws(() => memory.build(specs), { code }, what);
    assert.deepEqual(openMappings(), before, what);
    assert.equal(arena.live, 1, what);
  }
  // The last byte that an address can name is a good one.
  const table = memory.build([region(file, top - 4096n, 4096)]);
  table.close();
  event.close();
  odd.close();
  file.close();
});

leakTest('addresses in no region, in a hole, across an end or across two regions are nowhere', () => {
  const { memory, find } = setUp();
  const [a, b] = [createMemfd({ name: 'a', size: MiB }), createMemfd({ name: 'b', size: MiB })];
  const table = memory.build([
    region(b, 0x30_0000n, MiB),
    region(a, 0x10_0000n, MiB),
    region(a, 0x50_0000n, 64, 100),
  ]);
  assert.equal(entries(table), 3);
  const start = find(table, 0x10_0000n, 1);
  assert.notEqual(start, 0);
  assert.equal(find(table, 0x1f_ffffn, 1), start + MiB - 1);
  assert.equal(find(table, 0x10_0000n, MiB), start);
  for (const [gpa, length] of [
    [0n, 1n],
    [0xf_ffffn, 1n],
    [0xf_ffffn, 2n],
    [0x1f_ffffn, 2n],
    [0x10_0000n, BigInt(MiB) + 1n],
    [0x20_0000n, 1n],
    [0x10_0000n, 0x30_0000n],
    [0x10_0000n, 0n],
    [0x10_0000n, 2n ** 64n - 1n],
    [2n ** 64n - 1n, 1n],
    [2n ** 64n - 1n, 2n ** 64n - 1n],
    [0x50_0000n, 65n],
  ] as const) {
    assert.equal(find(table, gpa, length), 0, `0x${gpa.toString(16)} + ${length}`);
  }
  // Offsets that are no multiple of a page.
  assert.equal(find(table, 0x50_003fn, 1), start + 163);
  table.close();
  for (const fd of [a, b]) fd.close();
});

leakTest('neighbours in address and file become one, others do not', () => {
  const { memory, find } = setUp();
  const [a, b] = [createMemfd({ name: 'a', size: MiB }), createMemfd({ name: 'b', size: MiB })];
  const half = MiB / 2;
  const joined = memory.build([region(a, BigInt(half), half, half), region(a, 0n, half)]);
  assert.equal(entries(joined), 1);
  assert.notEqual(find(joined, 0n, MiB), 0, 'a buffer across the seam');
  const apart = [
    [region(a, 0n, half), region(a, BigInt(half) + 1n, half - 1, half + 1)],
    [region(a, 0n, half, half), region(a, BigInt(half), half)],
    [region(a, 0n, half), region(b, BigInt(half), half, half)],
  ];
  for (const specs of apart) {
    const table = memory.build(specs);
    assert.equal(entries(table), 2);
    assert.equal(find(table, BigInt(half) - 1n, 2), 0, 'a buffer across the seam');
    table.close();
  }
  joined.close();
  for (const fd of [a, b]) fd.close();
});

leakTest('one file is mapped once, by however many descriptors and tables; the last user unmaps it', () => {
  const { memory, arena, find } = setUp();
  const file = createMemfd({ name: 'guest', size: 8 * MiB });
  const twin = file.dup();
  const mapped = () => openMappings().length;
  const before = mapped();
  const first = memory.build([region(file, 0n, MiB), region(twin, 0x40_0000n, MiB, 4 * MiB)]);
  assert.equal(mapped(), before + 1);
  file.close(); // the table keeps a descriptor of its own
  const second = memory.build([region(twin, 0x4000_0000n, 2 * MiB, MiB)]);
  assert.equal(mapped(), before + 1, 'what is mapped already covers it');
  assert.equal(find(second, 0x4000_0000n, 1), find(first, 0n, 1) + MiB);
  const third = memory.build([region(twin, 0n, 8 * MiB)]);
  assert.equal(mapped(), before + 2, 'more than what is mapped');
  const address = find(second, 0x4000_0000n, 1);
  window.bytes[address] = 77;
  first.close();
  first.close();
  assert.equal(mapped(), before + 2);
  assert.equal(window.bytes[address], 77, 'the second table still needs it');
  assert.equal(window.bytes[find(third, BigInt(MiB), 1)], 77, 'and both show the same page');
  third.close();
  assert.equal(mapped(), before + 1);
  second.close();
  assert.equal(mapped(), before);
  assert.equal(arena.live, 1);
  twin.close();
});

leakTest('a table built again and again costs nothing that stays', () => {
  const { memory, arena } = setUp();
  const file = createMemfd({ name: 'guest', size: 4 * MiB });
  let table = memory.build([region(file, 0n, MiB)]);
  const before = openMappings();
  for (let i = 0; i < 500; i++) {
    const next = memory.build([region(file, BigInt(i) * 4096n, MiB)]);
    table.close();
    table = next;
  }
  assert.deepEqual(openMappings(), before, 'the very mapping that was there at first');
  assert.equal(arena.live, 2);
  table.close();
  file.close();
});

leakTest('memory that can shrink is noted once a mapping, or refused', () => {
  const notes: string[] = [];
  const file = createMemfd({ name: 'loose', size: MiB, sealed: false });
  const lax = setUp({ note: message => notes.push(message) });
  const table = lax.memory.build([region(file, 0n, MiB)]);
  lax.memory.build([region(file, 0n, MiB)]).close();
  assert.equal(notes.length, 1);
  assert.match(notes[0]!, /memfd:loose can be shrunk/);
  const strict = setUp({ requireSealed: true });
  const sealed = createMemfd({ name: 'sealed', size: MiB });
  assert.throws(() => strict.memory.build([region(sealed, 0n, MiB), region(file, BigInt(MiB), MiB)]), {
    code: 'MEMORY_UNSEALED',
  });
  assert.equal(strict.arena.live, 1);
  strict.memory.build([region(sealed, 0n, MiB)]).close();

  // Cut short under the mapping: the kernel's copy fails, and a new table of the old size is refused.
  assert.ok(kernelReads(flatOf(table), 8) instanceof Uint8Array);
  assert.equal(libc.ftruncate(file.fd, 0), 0);
  assert.equal(kernelReads(flatOf(table), 8), -14, 'EFAULT');
  assert.throws(() => lax.memory.build([region(file, 0n, MiB)]), { code: 'MEMORY_REGION' });
  table.close();
  sealed.close();
  file.close();
});

leakTest('a guest larger than the window: flat as a whole, contexts pinned piece by piece', () => {
  const { memory, find } = setUp();
  const file = createMemfd({ name: 'large', size: 16 * GiB });
  const mark = Buffer.from('far away');
  writeSync(file.fd, mark, 0, mark.length, 15 * GiB + 40);
  const table = memory.build([region(file, 0x1_0000_0000n, 16 * GiB)]);
  const far = 0x1_0000_0000n + 15n * BigInt(GiB);
  assert.deepEqual(Buffer.from(kernelReads(flatOf(table) + 15 * GiB + 40, 8) as Uint8Array), mark);
  assert.equal(find(table, far, 8), 0, 'not in the window');

  const mappings = openMappings().length;
  const at = table.pin(far + 40n, 9000, 8);
  assert.deepEqual(Buffer.from(window.bytes.slice(at, at + 8)), mark);
  window.bytes[at + 8999] = 5;
  const scratch = Buffer.alloc(1);
  assert.equal(libc.read(file.fd, scratch, 0), 0);
  assert.equal((kernelReads(flatOf(table) + 15 * GiB + 40 + 8999, 1) as Uint8Array)[0], 5);
  assert.equal(table.pin(far + 40n, 9000, 8), at, 'the same bytes again are the same pin');
  table.unpin(far + 40n, 9000);
  assert.equal(window.bytes[at + 8999], 5, 'one user is left');
  table.unpin(far + 40n, 9000);
  assert.equal(openMappings().length, mappings);

  // A guest that moves its context for ever does not use the window up.
  for (let i = 0n; i < 5000n; i++) {
    const gpa = far + i * 4096n;
    table.pin(gpa, 8752, 8);
    table.unpin(gpa, 8752);
  }
  // One that registers ever more at once is refused some day, and the rest goes on.
  assert.throws(
    () => {
      for (let i = 0n; i < 5000n; i++) table.pin(far + i * 0x20_0000n, 2 * MiB, 8);
    },
    error =>
      (error as { code?: string }).code === 'MEMORY_FULL' ||
      (error as { code?: string }).code === 'MEMORY_ADDRESS',
  );
  table.close();
  file.close();
});

leakTest('pins lie in one region, aligned; nothing is mapped for those that do not', () => {
  const { memory } = setUp();
  const file = createMemfd({ name: 'guest', size: 5 * GiB });
  const table = memory.build([region(file, 0n, 5n * BigInt(GiB) - 4096n)]);
  const mappings = openMappings().length;
  const end = 5n * BigInt(GiB) - 4096n;
  for (const [gpa, length] of [
    [end, 1],
    [end - 4096n, 4097],
    [2n ** 64n - 8n, 16],
    [4n, 4096],
    [4097n, 16],
  ] as const) {
    assert.throws(() => table.pin(gpa, length, 8), { code: 'MEMORY_ADDRESS' });
  }
  assert.equal(openMappings().length, mappings);
  table.close();
  file.close();
});

leakTest('512 regions: a look-up stays far below a microsecond', t => {
  const { memory, arena } = setUp();
  const file = createMemfd({ name: 'guest', size: 4 * MiB });
  const count = 512;
  const specs = Array.from({ length: count }, (_, i) =>
    region(file, BigInt(i) * 0x10_0000n, 4096, (count - 1 - i) * 8192),
  );
  const table = memory.build(specs);
  assert.equal(entries(table), count);
  const hint = arena.allocate(4);
  for (const [i, spec] of specs.entries()) {
    window.words[hint >>> 2] = 0;
    const at = calls.translate(table.address, hint, spec.guestPhysicalAddress + 4095n, 1n);
    assert.notEqual(at, 0, `region ${i}`);
    assert.equal(calls.translate(table.address, hint, spec.guestPhysicalAddress + 4096n, 1n), 0);
  }
  // Jumping about, so that the hint never helps. The call itself, with its BigInts, is most of it.
  const measure = (stride: number) => {
    const start = performance.now();
    for (let i = 0, at = 0; i < 50_000; i++, at = (at + stride) % count) {
      calls.translate(table.address, hint, specs[at]!.guestPhysicalAddress, 64n);
    }
    return ((performance.now() - start) * 1e6) / 50_000;
  };
  measure(0);
  measure(211);
  const [same, jumping] = [measure(0), measure(211)];
  t.diagnostic(
    `a look-up: ${same.toFixed(0)} ns in the same region, ${jumping.toFixed(0)} ns in another of 512`,
  );
  assert.ok(jumping < 2000, `${jumping} ns`);
  arena.free(hint);
  table.close();
  file.close();
});

leakTest('tens of thousands of pages, each named by itself', t => {
  const { memory } = setUp({}, 4 * MiB);
  const count = 40_000;
  const file = createMemfd({ name: 'guest', size: count * 4096 });
  // Every other page, the last one first: no two are neighbours both here and in the file.
  const specs = Array.from({ length: count }, (_, i) =>
    region(file, BigInt(i) * 0x2000n, 4096, (count - 1 - i) * 4096),
  );
  const start = performance.now();
  const table = memory.build(specs);
  t.diagnostic(`${count} regions in ${(performance.now() - start).toFixed(0)} ms`);
  assert.equal(entries(table), count);
  const first = table.pin(0n, 4096, 64);
  assert.equal(table.pin(0x2000n * BigInt(count - 1), 4096, 64), first - (count - 1) * 4096);
  assert.throws(() => table.pin(0x1000n, 1, 1), { code: 'MEMORY_ADDRESS' });
  assert.throws(() => table.pin(0xfffn, 2, 1), { code: 'MEMORY_ADDRESS' });
  table.close();
  file.close();
});

leakTest('what may not be written is no place for a ring, but for parts that are only read', () => {
  const { memory } = setUp();
  const file = createMemfd({ name: 'guest', size: 3 * 4096 });
  const table = memory.build([
    region(file, 0n, 4096),
    { ...region(file, 4096n, 4096, 4096), writable: false },
    region(file, 8192n, 4096, 8192),
  ]);
  assert.equal(entries(table), 3);
  assert.ok(table.pin(0n, 4096, 64) > 0);
  assert.throws(() => table.pin(4096n, 16, 64), { code: 'MEMORY_ADDRESS', message: /may not be written/ });
  assert.ok(table.pin(4096n, 16, 64, false) > 0); // one that is only read
  table.close();
  file.close();
});

leakTest('huge pages: regions at offsets that are none of theirs', t => {
  const setting = '/proc/sys/vm/nr_hugepages';
  const before = readFileSync(setting, 'utf8').trim();
  try {
    writeFileSync(setting, String(Number(before) + 8));
  } catch (error) {
    return t.skip(`huge pages can't be reserved: ${(error as Error).message}`);
  }
  try {
    const free = Number(readFileSync('/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', 'utf8'));
    if (free < 4) return t.skip(`no huge pages to be had: ${free} are free`);
    const { memory, find } = setUp();
    const file = createMemfd({ name: 'huge', size: 8 * MiB, hugePageSize: 2 * MiB });
    const table = memory.build([region(file, 0n, 640 * KiB), region(file, 0x10_0000n, 5 * MiB, MiB + 4096)]);
    const low = find(table, 0n, 640 * KiB);
    const high = find(table, 0x10_0000n, 5 * MiB);
    assert.equal((window.base + low) % (2 * MiB), 0);
    assert.equal(high, low + MiB + 4096);
    window.bytes[high] = 9;
    assert.equal((kernelReads(flatOf(table, 1), 1) as Uint8Array)[0], 9);
    table.close();
    file.close();
  } finally {
    writeFileSync(setting, before);
  }
});
