import assert from 'node:assert/strict';
import { readFileSync, writeSync } from 'node:fs';
import * as libc from './libc.js';
import { createMemfd, inspectMemory, SEAL_GROW, SEAL_SHRINK } from './memfd.js';
import { alignedOffset, baseOf, mapFlat, mapOnto, openMappings } from './mmap.js';
import { leakTest, sharedMemory } from './testing.js';

const MiB = 1 << 20;
const GiB = 1 << 30;

leakTest('a sealed memfd keeps its size, an unsealed one is reported as shrinkable', () => {
  const sealed = createMemfd({ name: 'sealed', size: 3 * GiB });
  assert.deepEqual(inspectMemory(sealed.fd), {
    size: 3 * GiB,
    pageSize: libc.PAGE_SIZE,
    hugetlb: false,
    seals: SEAL_SHRINK | SEAL_GROW,
    shrinkable: false,
  });
  assert.equal(libc.ftruncate(sealed.fd, 0), -1, 'EPERM');
  const open = createMemfd({ name: 'open', size: MiB, sealed: false });
  assert.equal(inspectMemory(open.fd).shrinkable, true);
  assert.equal(libc.ftruncate(open.fd, 0), 0);
  assert.throws(() => inspectMemory(-1), { code: 'EBADF' });
  open.close();
  sealed.close();
});

leakTest('a memfd over a 4 GiB WebAssembly.Memory and back', () => {
  const memory = sharedMemory();
  const bytes = new Uint8Array(memory.buffer);
  const file = createMemfd({ name: 'guest', size: 2 * GiB });
  const flat = mapFlat({ fd: file.fd, length: 2 * GiB, name: 'flat' });
  bytes[GiB - 1] = 11;
  bytes[3 * GiB] = 33;

  const overlay = mapOnto(memory, GiB, { fd: file.fd, length: 2 * GiB, name: 'overlay' });
  assert.deepEqual(
    openMappings().map(({ name, length }) => [name, length]),
    [
      ['flat', 2 * GiB],
      ['overlay', 2 * GiB],
    ],
  );
  assert.equal(overlay.address, baseOf(memory) + GiB);
  // What is written through the window is in the file, seen through the flat mapping, to the last byte.
  bytes.set([1, 2, 3], GiB);
  bytes[3 * GiB - 1] = 4;
  const seen = new Uint8Array(3);
  const pipe = createMemfd({ name: 'copy', size: 64 });
  assert.equal(libc.write(pipe.fd, flat.address, 3), 3);
  assert.equal(libc.write(pipe.fd, flat.address + 2 * GiB - 1, 1), 1);
  assert.deepEqual([...readFileSync(`/proc/self/fd/${pipe.fd}`).subarray(0, 4)], [1, 2, 3, 4]);
  // And the other way round.
  assert.equal(libc.read(file.fd, seen, 3), 3);
  assert.deepEqual([...seen], [1, 2, 3]);
  // Its neighbours are untouched.
  assert.deepEqual([bytes[GiB - 1], bytes[3 * GiB]], [11, 33]);

  overlay.close();
  overlay.close();
  assert.deepEqual([bytes[GiB], bytes[3 * GiB - 1]], [0, 0]);
  bytes[GiB] = 99;
  const again = mapOnto(memory, GiB, { fd: file.fd, fileOffset: GiB, length: GiB });
  assert.equal(bytes[2 * GiB - 1], 4, 'mapped from a file offset');
  again.close();
  pipe.close();
  flat.close();
  file.close();
});

leakTest('ranges that cannot be right are refused before the kernel sees them', () => {
  const memory = sharedMemory(16);
  const file = createMemfd({ name: 'small', size: 2 * libc.PAGE_SIZE });
  const fd = file.fd;
  const page = libc.PAGE_SIZE;
  const refuse = (code: string, memoryOffset: number, fileOffset: number, length: number) =>
    assert.throws(() => mapOnto(memory, memoryOffset, { fd, fileOffset, length }), { code });
  refuse('ERR_MAPPING_BEYOND_FILE', 0, 0, 3 * page);
  refuse('ERR_MAPPING_BEYOND_FILE', 0, 2 * page, page);
  refuse('ERR_MAPPING_ALIGNMENT', 0, 1, page);
  refuse('ERR_MAPPING_ALIGNMENT', 8, 0, page);
  refuse('ERR_MAPPING_ALIGNMENT', 0, 0, page + 1);
  refuse('ERR_MAPPING_RANGE', MiB, 0, page);
  refuse('ERR_MAPPING_RANGE', MiB - page, 0, 2 * page);
  refuse('ERR_MAPPING_RANGE', -page, 0, page);
  refuse('ERR_MAPPING_RANGE', 0, 0, 0);
  refuse('ERR_MAPPING_RANGE', 0, Number.NaN, page);
  assert.throws(() => mapFlat({ fd: 0x7fff, length: page }), { code: 'EBADF' });
  file.close();
});

leakTest('huge pages that can not be had leave no hole', t => {
  const huge = 2 * MiB;
  const free = Number(readFileSync('/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', 'utf8'));
  const size = (free + 1) * huge;
  if (size > GiB) return t.skip(`${free} huge pages are free on this machine: too many for this test`);
  const memory = sharedMemory();
  const offset = alignedOffset(memory, 0, huge);
  new Uint8Array(memory.buffer)[offset] = 1;
  const file = createMemfd({ name: 'huge', size, hugePageSize: huge });
  assert.throws(() => mapOnto(memory, offset, { fd: file.fd, length: size }), { code: 'ENOMEM' });
  const probe = createMemfd({ name: 'probe', size: 1 });
  // The kernel reads it for us: EFAULT where we would die.
  assert.equal(writeSync(probe.fd, new Uint8Array(memory.buffer, offset, 1)), 1);
  assert.equal(new Uint8Array(memory.buffer)[offset], 0);
  probe.close();
  file.close();
});

leakTest('huge pages: their size is known and they go where the address allows', t => {
  const huge = 2 * MiB;
  const pool = () => Number(readFileSync(`/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages`, 'utf8'));
  const file = createMemfd({ name: 'huge', size: huge, hugePageSize: huge });
  const facts = inspectMemory(file.fd);
  assert.deepEqual([facts.pageSize, facts.hugetlb, facts.shrinkable], [huge, true, false]);
  const memory = sharedMemory(256);
  const offset = alignedOffset(memory, 0, huge);
  assert.equal((baseOf(memory) + offset) % huge, 0);
  assert.throws(() => mapOnto(memory, offset + libc.PAGE_SIZE, { fd: file.fd, length: huge }), {
    code: 'ERR_MAPPING_ALIGNMENT',
  });
  if (pool() > 0) {
    const overlay = mapOnto(memory, offset, { fd: file.fd, length: huge });
    new Uint8Array(memory.buffer)[offset] = 1;
    overlay.close();
    assert.equal(new Uint8Array(memory.buffer)[offset], 0);
  } else t.diagnostic('mapping not tried: no huge pages are reserved on this machine');
  file.close();
});
