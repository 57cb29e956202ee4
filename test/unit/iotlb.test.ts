/** Translations by themselves: which are known, which leave, what they are in memory, and that they take a bounded time and room. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { REGIONS_COUNT } from '../../datapath/layout.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { leakTest } from '../../src/linux/testing.js';
import { Iotlb, MAX_PIECES, MAX_TRANSLATIONS } from '../../src/nic/iotlb.js';
import { VhostMemory } from '../../src/nic/vhost-memory.js';
import { arena, randomFrom, window } from '../compliance/testbed.js';

const PAGE = 4096n;
const USER = 0x7f00_0000_0000n;
const IOVA = 0x4000_0000_0000n;

/** So many regions of a page, every other one of the guest's addresses and of the front end's. */
function memoryOf(regions: number): VhostMemory {
  const memory = new VhostMemory(window, arena, {});
  const memfd = createMemfd({ name: 'guest', size: regions * 4096 });
  memory.take(
    memory.replaced(
      Array.from({ length: regions }, (_, i) => ({
        guestPhysicalAddress: BigInt(2 * i) * PAGE,
        size: PAGE,
        hypervisorVirtualAddress: USER + BigInt(2 * (regions - i)) * PAGE,
        mmapOffset: BigInt(i) * PAGE,
        fd: memfd.dup(),
      })),
    ),
  );
  memfd.close();
  return memory;
}

const of = (iova: bigint, size: bigint, userspaceAddress: bigint) => ({
  ...{ iova, size, userspaceAddress, readable: true, writable: true },
});
const entries = ({ table }: Iotlb) => (table ? window.words[(table.address + REGIONS_COUNT) >>> 2]! : 0);

test('what is known, what overlaps, what is taken back: as a list of single bytes has it', () => {
  const random = randomFrom(5);
  const iotlb = new Iotlb();
  let known = new Map<number, number>(); // byte ──► which translation
  for (let n = 1; n <= 3000; n++) {
    const [from, size] = [random(200), 1 + random(20)];
    const bytes = Array.from({ length: size }, (_, i) => from + i);
    const hit = new Set(bytes.map(byte => known.get(byte)).filter(owner => owner !== undefined));
    assert.equal(iotlb.knows(BigInt(from), BigInt(size)), hit.size > 0);
    known = new Map([...known].filter(([, owner]) => !hit.has(owner)));
    if (random(3) === 0) iotlb.remove(BigInt(from), BigInt(size));
    else {
      iotlb.add(of(BigInt(from), BigInt(size), 0n));
      for (const byte of bytes) known.set(byte, n);
    }
    const [at, length] = [random(220), 1 + random(10)];
    const missing = Array.from({ length }, (_, i) => at + i).find(byte => !known.has(byte));
    assert.equal(iotlb.missing(BigInt(at), length, true), missing === undefined ? null : BigInt(missing));
  }
});

leakTest('the oldest leave when there are too many', () => {
  const live = arena.live;
  const memory = memoryOf(1);
  const iotlb = new Iotlb();
  const user = memory.regions[0]!.hypervisorVirtualAddress;
  for (let i = 0; i < MAX_TRANSLATIONS + 100; i++) iotlb.add(of(IOVA + BigInt(i) * PAGE, PAGE, user));
  iotlb.rebuild(memory);
  assert.equal(entries(iotlb), MAX_TRANSLATIONS);
  assert.equal(iotlb.missing(IOVA + 99n * PAGE, 1, true), IOVA + 99n * PAGE);
  assert.equal(iotlb.missing(IOVA + 100n * PAGE, 1, true), null);
  iotlb.clear();
  memory.clear();
  assert.equal(arena.live, live);
});

leakTest('509 regions and hundreds of translations, each of all of them: bounded in time and room', () => {
  const live = arena.live;
  const memory = memoryOf(509);
  const iotlb = new Iotlb();
  const all = 1024n * PAGE;
  const took: number[] = [];
  for (let i = 0; i < 300; i++) {
    const begun = performance.now();
    iotlb.add(of(IOVA + BigInt(i) * all, all, USER));
    iotlb.rebuild(memory)?.close();
    took.push(performance.now() - begun);
    assert.ok(entries(iotlb) <= MAX_PIECES && entries(iotlb) >= 509);
    assert.equal(iotlb.missing(IOVA + BigInt(i) * all, 1, true), null, 'the youngest one is known');
  }
  const typical = took.sort((a, b) => a - b)[150]!;
  assert.ok(typical < 50, `${typical.toFixed(1)} ms`);
  const address = iotlb.guestAddress(IOVA + 299n * all + 2n * PAGE, 4096, memory);
  assert.equal(address, memory.regions[508]!.guestPhysicalAddress);
  iotlb.clear();
  memory.clear();
  assert.equal(arena.live, live);
});

leakTest('no room at all: nothing is known, and what was is not used any more', () => {
  const live = arena.live;
  const memory = memoryOf(20);
  const iotlb = new Iotlb();
  for (let i = 0; i < 40; i++)
    iotlb.add(of(IOVA + BigInt(i) * PAGE, PAGE, memory.regions[i % 20]!.hypervisorVirtualAddress));
  iotlb.rebuild(memory);
  const filled: number[] = [];
  for (let size = 2 ** 26; size >= 64; ) {
    try {
      filled.push(arena.allocate(size));
    } catch {
      size /= 2;
    }
  }
  iotlb.remove(IOVA, PAGE);
  const former = iotlb.rebuild(memory);
  assert.deepEqual([iotlb.table, iotlb.missing(IOVA + PAGE, 1, true)], [null, IOVA + PAGE]);
  former!.close();
  for (const address of filled) arena.free(address);
  iotlb.add(of(IOVA, PAGE, memory.regions[0]!.hypervisorVirtualAddress));
  assert.equal(iotlb.rebuild(memory), null);
  assert.equal(entries(iotlb), 1);
  iotlb.clear();
  memory.clear();
  assert.equal(arena.live, live);
});
