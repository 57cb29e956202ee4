/** Changes of memory that a vfio-user server makes together, of which the function refuses some: who is told what, and how often the function is asked. */
import assert from 'node:assert/strict';
import { ServerMemory } from '../../src/control/vfio-user/server-memory.js';
import { LinuxError } from '../../src/linux/errors.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { leakTest } from '../../src/linux/testing.js';
import { MemoryError } from '../../src/memory/window.js';
import { NoteTakingFunction } from './vfio-user-peer.js';

const PAGE = 4096;
const MANY = 4096;
const isBad = (page: number) => page >= 1 << 20;
const LIMITS = { maxDmaMaps: 65535, maxFiles: 4 };

class Bench {
  readonly fn = new NoteTakingFunction();
  readonly memory = new ServerMemory(this.fn, LIMITS);
  readonly #file = createMemfd({ name: 'memory', size: PAGE });

  constructor() {
    this.fn.unwanted = ({ guestPhysicalAddress }) => isBad(Number(guestPhysicalAddress) / PAGE);
  }

  /** Maps all of these pages at once, none of which goes on where another one ends. Returns why not, for each of them. */
  map(pages: readonly number[]): Promise<unknown[]> {
    return this.memory.change(
      pages.map(page => {
        const values = { argsz: 32, flags: 3, offset: 0n, address: BigInt(page * PAGE), size: BigInt(PAGE) };
        const command = { name: 'DMA_MAP', values, fds: [this.#file.dup()] as readonly OwnedFd[] };
        return this.memory.toChange({ ...command, tail: new Uint8Array(0) } as never);
      }),
    );
  }

  /** How often the function was asked. */
  get asked(): number {
    return this.fn.calls.length;
  }

  close(): void {
    this.memory.close();
    this.#file.close();
  }
}

const row = (count: number, from = 0) => Array.from({ length: count }, (_, i) => from + 2 * i);

leakTest('two culprits among thousands are found, and are all that is refused', async () => {
  const bench = new Bench();
  const pages = row(MANY);
  const culprits = [17, 3000];
  for (const i of culprits) pages[i] = (1 << 20) + 2 * i;
  const errors = await bench.map(pages);
  assert.deepEqual(
    [...errors.keys()].filter(i => errors[i] !== null),
    culprits,
  );
  assert.equal(bench.fn.memory.length, MANY - 2);
  bench.close();
});

leakTest('thousands of culprits: the function is not asked thousands of times', async () => {
  const bench = new Bench();
  const errors = await bench.map(row(MANY, 1 << 20));
  assert.ok(errors.every(error => (error as Error).message === 'not this one'));
  assert.equal(errors.length, MANY);
  assert.ok(bench.asked <= 32, `asked ${bench.asked} times`);
  // The next ones have their own chance, and what was refused is not mapped.
  assert.deepEqual(await bench.map([0, 2]), [null, null]);
  assert.equal(bench.fn.memory.length, 2);
  bench.close();
});

for (const error of [new LinuxError('fcntl', 24, 'memory'), new MemoryError('MEMORY_FULL', 'no room')]) {
  leakTest(`${error.code}, which no change alone is to blame for: nothing is tried again`, async () => {
    const bench = new Bench();
    bench.fn.setMemory = async specs => {
      for (const fd of new Set(specs.map(spec => spec.fd))) fd.close();
      bench.fn.calls.push('setMemory');
      throw error;
    };
    assert.deepEqual(await bench.map([0, 2, 4]), [error, error, error]);
    assert.equal(bench.asked, 1);
    bench.close();
  });
}
