/** The table of DMA maps against a model that knows nothing but pages. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { OwnedFd } from '../../linux/fd.js';
import { createMemfd } from '../../linux/memfd.js';
import { leakTest } from '../../linux/testing.js';
import { DmaTable } from './dma.js';
import { DMA, UNMAP_ALL } from './requests.js';

const PAGE = 4096n;
const FILE_PAGES = 12;
/** Addresses at both ends of the bus, and in the middle. */
const BASES = [0n, 1n << 40n, (1n << 64n) - 16n * PAGE];

interface Map {
  readonly base: number;
  readonly page: number;
  readonly pages: number;
  /** 2: none. */
  readonly file: number;
  readonly offset: number;
  readonly writable: boolean;
}

const addressOf = ({ base, page }: Pick<Map, 'base' | 'page'>): bigint => BASES[base]! + BigInt(page) * PAGE;

const map: fc.Arbitrary<Map> = fc.record({
  base: fc.nat({ max: 2 }),
  page: fc.nat({ max: 15 }),
  pages: fc.integer({ min: 1, max: 4 }),
  file: fc.nat({ max: 2 }),
  offset: fc.nat({ max: 8 }),
  writable: fc.boolean(),
});
const step = fc.oneof(
  { weight: 5, arbitrary: map.map(add => ({ add })) },
  { weight: 3, arbitrary: map.map(remove => ({ remove })) },
  { weight: 1, arbitrary: fc.constant({ all: true as const }) },
);

/** What holds for each page: a file, its page, and whether it may be written; and where its map begins and ends. */
type Model = globalThis.Map<bigint, { readonly of: Map; readonly at: number }>;

function modelAdd(model: Model, of: Map): boolean {
  const pages = Array.from({ length: of.pages }, (_, at) => addressOf(of) + BigInt(at) * PAGE);
  if (pages.some(page => page >= 1n << 64n || model.has(page))) return false;
  for (const [at, page] of pages.entries()) model.set(page, { of, at });
  return true;
}

function modelRemove(model: Model, range: Map): boolean {
  const [start, end] = [addressOf(range), addressOf(range) + BigInt(range.pages) * PAGE];
  if (end > 1n << 64n) return false;
  const inside = [...model].filter(([page]) => page >= start && page < end);
  const maps = new Set(inside.map(([, { of }]) => of));
  const whole = [...maps].every(of => inside.filter(([, entry]) => entry.of === of).length === of.pages);
  if (maps.size === 0 || !whole) return false;
  for (const [page] of inside) model.delete(page);
  return true;
}

leakTest('any maps and unmaps: what can be reached is what the model says', async () => {
  const files = [0, 1].map(n => createMemfd({ name: `file ${n}`, size: FILE_PAGES * Number(PAGE) }));
  const fileOf = ({ file }: Map): OwnedFd | null => files[file]?.dup() ?? null;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      const table = new DmaTable({ maxDmaMaps: 1000, maxFiles: 2 });
      const model: Model = new globalThis.Map();
      for (const one of steps) {
        const before = model.size;
        let expected = true;
        if ('add' in one) expected = modelAdd(model, one.add);
        else if ('remove' in one) expected = modelRemove(model, one.remove);
        else model.clear();
        let done = true;
        try {
          const change =
            'add' in one
              ? table.toAdd(addOf(one.add), fileOf(one.add))
              : table.toRemove('remove' in one ? removeOf(one.remove) : ALL);
          table.apply(change);
        } catch {
          done = false;
        }
        assert.equal(done, expected, JSON.stringify(one));
        if (!done) assert.equal(model.size, before);
        table.sweep();
        check(table, model, files);
      }
      assert.equal(table.size, new Set([...model.values()].map(({ of }) => of)).size);
      table.close();
    }),
    { numRuns: 300 },
  );
  for (const file of files) file.close();
});

const ALL = { argsz: 24, flags: UNMAP_ALL, address: 0n, size: 0n };

function addOf(one: Map) {
  const flags = DMA.READ | (one.writable ? DMA.WRITE : 0);
  return { ...removeOf(one), argsz: 32, flags, offset: BigInt(one.offset) * PAGE };
}

function removeOf(one: Map) {
  return { argsz: 24, flags: 0, address: addressOf(one), size: BigInt(one.pages) * PAGE };
}

function check(table: DmaTable, model: Model, files: readonly OwnedFd[]): void {
  const specs = table.specs();
  const fds = [...new Set(specs.map(({ fd }) => fd))];
  const nameOf = new globalThis.Map(fds.map(fd => [fd, files.findIndex(({ name }) => name === fd.name)]));
  const reached = specs.flatMap(spec =>
    Array.from({ length: Number(spec.size / PAGE) }, (_, i) => {
      const at = BigInt(i) * PAGE;
      const file = nameOf.get(spec.fd);
      return `${spec.guestPhysicalAddress + at} ${file} ${spec.mmapOffset + at} ${spec.writable}`;
    }),
  );
  const expected = [...model]
    .filter(([, { of }]) => of.file < 2)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([page, { of, at }]) => `${page} ${of.file} ${BigInt(of.offset + at) * PAGE} ${of.writable}`);
  assert.deepEqual(reached, expected);
  // Neighbours in every respect are one.
  for (const [i, spec] of specs.entries()) {
    const next = specs[i + 1];
    const joined =
      next?.fd === spec.fd &&
      next.writable === spec.writable &&
      next.guestPhysicalAddress === spec.guestPhysicalAddress + spec.size &&
      next.mmapOffset === spec.mmapOffset + spec.size;
    assert.ok(!joined);
  }
  assert.ok(fds.length <= 2, 'one descriptor for each file');
  for (const fd of fds) fd.close();
}
