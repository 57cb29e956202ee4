/**
 * A guest with a processor of its own: it writes its ring while the device reads it.
 *
 * ```
 *   this thread    make available, pop | room, check, complete | push           the worker    writes descriptors and tables, without a pause
 * ```
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, eventually, randomFrom, window } from '../compliance/testbed.js';
import { VirtioBed, type VirtioSide } from '../compliance/virtio-bed.js';
import { checkFrames } from './virtq-frames.js';

const MS = process.env.POLYNIC_LONG === 'hostile' ? 20_000 : 1200;
const PATIENCE_MS = 20_000;
const NUM = 16;
const TABLES = 8;

/** Runs a script in a thread with these numbers, as `data`, and the window's memory; stops it at the end. */
async function beside(script: string, data: object, body: () => void): Promise<void> {
  const stop = arena.allocate(64);
  const worker = new Worker(
    `const { workerData: { memory, stop, data } } = require('node:worker_threads');
     const stopped = () => Atomics.load(words, stop) !== 0;
     const ready = () => Atomics.store(words, stop + 1, 1);
     const words = new Int32Array(memory.buffer);
     ${script}`,
    { eval: true, workerData: { memory: window.memory, stop: stop >>> 2, data } },
  );
  try {
    await eventually(() => Atomics.load(window.words, (stop >>> 2) + 1) === 1);
    body();
  } finally {
    Atomics.store(window.words, stop >>> 2, 1);
    await once(worker, 'exit');
    arena.free(stop);
  }
}

/** Writes any of some values over any of some fields. */
const SCRIBBLE = `
  const longs = new BigUint64Array(memory.buffer);
  const halves = new Uint16Array(memory.buffer);
  const { descriptors, addresses, lengths, flags, flagsAt, others } = data;
  const any = list => list[Math.floor(Math.random() * list.length)];
  ready();
  while (!stopped()) {
    const at = any(descriptors);
    switch (Math.floor(Math.random() * 4)) {
      case 0: longs[at / 8] = any(addresses); break;
      case 1: words[at / 4 + 2] = any(lengths); break;
      case 2: halves[at / 2 + flagsAt] = any(flags); break;
      case 3: halves[at / 2 + 13 - flagsAt] = any(others);
    }
  }
`;

for (const format of ['split', 'packed'] as const)
  for (const direction of ['tx', 'rx'] as const)
    test(`${format}, ${direction}: descriptors that change while they are read`, async t => {
      const packed = format === 'packed';
      const features = F.VERSION_1 | F.INDIRECT_DESC | F.MRG_RXBUF | (packed ? F.RING_PACKED : 0n);
      const live = arena.live;
      const bed = new VirtioBed({ features, num: NUM, slots: 32 });
      const side = bed[direction];
      const payload = direction === 'tx' ? bed.payload.slice() : null;
      const at = (gpa: bigint) => bed.bytes.byteOffset + Number(gpa - bed.ram.guestPhysicalAddress);
      const tables = Array.from({ length: TABLES }, (_, n) => bed.tableFor(n));
      const good = Array.from({ length: 8 }, (_, n) => bed.cut(n, 0, 1, () => 0)[0]!.gpa);
      const write = direction === 'rx' ? 2 : 0;
      const kinds = [0, 1, 4].map(kind => kind | write);
      const owners = packed ? [0x80, 0x8000] : [0];
      const data = {
        descriptors: [
          ...Array.from({ length: NUM }, (_, i) => at(side.areas.descriptor) + 16 * i),
          ...tables.flatMap(table => Array.from({ length: 8 }, (_, i) => at(table) + 16 * i)),
        ],
        addresses: [...good, ...tables, ...bed.forbidden, bed.forbidden[1]! - 30n, 2n ** 64n - 20n],
        lengths: [0, 1, 12, 72, 128, 1530, 5000, 0x7fff_ffff, -1],
        flags: owners.flatMap(owner => kinds.map(kind => kind | owner)),
        flagsAt: packed ? 7 : 6,
        others: [0, 1, 2, 7, NUM - 1, NUM, 0xffff],
      };
      const seen = { frames: 0, errors: 0 };
      await beside(SCRIBBLE, data, () => {
        const end = performance.now() + MS;
        const tame = () => seen.frames <= 100 || seen.errors <= 100;
        const random = randomFrom(1);
        // The worker may have to wait for a processor.
        for (let round = 0; performance.now() < end + (tame() ? PATIENCE_MS : 0); round++) {
          if (round % 200 === 0) bed.reset();
          const past = bed.stats(side);
          makeAvailable(bed, side, packed);
          const { address } = side.queue;
          const frames = bed.ring[direction === 'tx' ? 'pop' : 'room'](address, bed.batch.address, 16);
          checkFrames(bed, side, frames);
          if (direction === 'rx')
            for (let i = 0; i < frames; i++) bed.batch.setLength(i, random(bed.batch.room(i) + 1));
          bed.ring[direction === 'tx' ? 'complete' : 'push'](address, bed.batch.address, frames);
          if (side.queue.fault !== 0) bed.reset();
          seen.frames += frames;
          seen.errors += Math.max(0, bed.stats(side).errors - past.errors);
        }
      });
      bed.checkCanaries();
      if (payload) assert.equal(Buffer.compare(payload, bed.payload), 0, 'written while transmitting');
      t.diagnostic(JSON.stringify(seen));
      assert.ok(seen.frames > 100 && seen.errors > 100, 'too tame to mean anything');
      bed.close();
      assert.equal(arena.live, live);
    });

/** As many chains as there may be, of descriptors as the worker has left them. */
function makeAvailable(bed: VirtioBed, { areas, queue }: VirtioSide, packed: boolean): void {
  const [ring, driver] = [areas.descriptor, areas.driver].map(gpa =>
    Number(gpa - bed.ram.guestPhysicalAddress),
  ) as [number, number];
  for (let i = 0; i < NUM; i++) {
    if (!packed) {
      bed.memory.setUint16(driver + 4 + 2 * i, i, true);
      continue;
    }
    const at = ((queue.base & 0x8000) !== 0 ? 0 : NUM) + (queue.base & 0x7fff) + i;
    const flags = ring + 16 * (at % NUM) + 14;
    const owner = at % (2 * NUM) < NUM ? 0x80 : 0x8000;
    bed.memory.setUint16(flags, (bed.memory.getUint16(flags, true) & ~0x8080) | owner, true);
  }
  if (!packed) bed.memory.setUint16(driver + 2, queue.base + NUM, true);
}
