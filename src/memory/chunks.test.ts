/** Files that are larger than the window, many at once: each gets its share, keeps what it needs together, and gives the rest up when it is asked. */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { createMemfd } from '../linux/memfd.js';
import { leakTest } from '../linux/testing.js';
import { Arena } from './arena.js';
import { GuestMemory, type RegionTable } from './guest-memory.js';
import { Window } from './window.js';

const MiB = 1 << 20;
const GiB = 2 ** 30;
const CHUNK = 2 * MiB;
const window = Window.create();
const arena = new Arena(window);

class Guest {
  readonly table: RegionTable;
  asked = 0;
  readonly #file = createMemfd({ name: 'large', size: 16 * GiB });

  constructor() {
    const giveWay = async () => {
      this.asked++;
      this.table.trim();
      this.table.refresh();
    };
    const region = { guestPhysicalAddress: 0n, size: 16n * BigInt(GiB), mmapOffset: 0n, fd: this.#file };
    this.table = new GuestMemory(window, arena, { giveWay }).build([region]);
  }

  /** Brings in what begins at that chunk, so many chunks far from each other. */
  reach(first: number, count: number): void {
    for (let i = first; i < first + count; i++) this.table.reach(BigInt(i * 2 * CHUNK), 100);
  }

  /** The buffers of a frame, each in another chunk. */
  frame(first: number, buffers: number): (readonly [flat: bigint, length: number])[] {
    return Array.from({ length: buffers }, (_, i) => [this.#flat + BigInt((first + 2 * i) * CHUNK), 100]);
  }

  /** Which of those chunks are there. */
  has(first: number): boolean {
    this.table.refresh();
    return this.#entries().some(({ gpa, window: at }) => at !== 0 && gpa === BigInt(first * CHUNK));
  }

  get bytes(): number {
    this.table.refresh();
    return this.#entries().reduce((sum, { window: at, length }) => sum + (at === 0 ? 0 : length), 0);
  }

  close(): void {
    this.table.close();
    this.#file.close();
  }

  /** Of the memory's first byte. */
  get #flat(): bigint {
    return window.longs[(this.table.address + L.REGIONS_HEAD + L.REGION_FLAT) / 8]!;
  }

  #entries() {
    const { address } = this.table;
    const count = window.words[(address + L.REGIONS_COUNT) >>> 2]!;
    return Array.from({ length: count }, (_, i) => {
      const entry = address + L.REGIONS_HEAD + i * L.REGION_SIZE;
      return {
        gpa: window.longs[(entry + L.REGION_GPA) / 8]!,
        length: Number(window.longs[(entry + L.REGION_LENGTH) / 8]!),
        window: window.words[(entry + L.REGION_WINDOW) >>> 2]!,
      };
    });
  }
}

/** Guests that are closed at the end, whatever happens. */
function chunkTest(name: string, body: (guest: () => Guest) => void | Promise<void>): void {
  leakTest(name, async () => {
    const guests: Guest[] = [];
    try {
      await body(() => {
        guests.push(new Guest());
        return guests.at(-1)!;
      });
    } finally {
      for (const guest of guests) guest.close();
    }
    assert.equal(arena.live, 0);
  });
}

chunkTest('one guest has half of the window; the oldest leave', guest => {
  const one = guest();
  one.reach(0, 1100);
  assert.equal(one.bytes, 2 * GiB);
  assert.ok(!one.has(0) && one.has(2 * 1099) && one.has(2 * (1100 - 1024)));
});

chunkTest('thirty-two: each gets a share, whoever came first', async guest => {
  const guests: Guest[] = [];
  for (let i = 0; i < 32; i++) {
    const next = guest();
    guests.push(next);
    for (let at = 0; at < 300; at++) {
      try {
        next.reach(at, 1);
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'MEMORY_FULL');
        await window.chunks.makeRoom();
        next.reach(at, 1); // there is some now
      }
      if (window.chunks.crowded) await window.chunks.makeRoom();
    }
  }
  await window.chunks.makeRoom();
  for (const one of guests)
    assert.ok(one.bytes <= 64 * MiB && one.bytes >= 60 * MiB, `${one.bytes / MiB} MiB`);
  assert.ok(guests[0]!.asked > 0 && guests.at(-1)!.asked <= 1);
});

chunkTest('what is needed at once stays together, beyond the share if need be', async guest => {
  const guests = Array.from({ length: 32 }, () => guest());
  for (const one of guests) one.reach(0, 32);
  const [one] = guests as [Guest];
  // 64 buffers in as many chunks: twice the share. Of the others none come that would cost one of them.
  one.table.reachBuffers(one.frame(5000, 64), one.frame(1, 64));
  for (let i = 0; i < 64; i++) assert.ok(one.has(5000 + 2 * i), `buffer ${i}`);
  assert.equal(one.bytes, 128 * MiB);
  one.reach(3, 1);
  assert.equal(one.bytes, 64 * MiB, 'it is over');
});

chunkTest('more than there is: refused, and the next one finds room', guest => {
  const one = guest();
  assert.throws(() => one.table.reach(0n, 5 * GiB), { code: 'MEMORY_FULL' });
  one.reach(3000, 4);
  assert.ok(one.has(6006));
  one.table.trim();
  assert.ok(one.bytes <= 2 * GiB);
});
