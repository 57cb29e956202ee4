/** Slots of the window: disjoint, aligned, given back, and refused when there are none. */
import assert from 'node:assert/strict';
import { createMemfd } from '../linux/memfd.js';
import { leakTest } from '../linux/testing.js';
import { ARENA_END, Window } from './window.js';

const MiB = 2 ** 20;
const GiB = 2 ** 30;

leakTest('overlays are disjoint, in units of 2 MiB, and show the file', () => {
  const window = Window.create();
  const file = createMemfd({ name: 'guest', size: 8 * MiB });
  const range = (fileOffset: number, length: number) => ({ fd: file.fd, fileOffset, length });
  const a = window.overlay(range(0, 4096), 4096)!;
  const b = window.overlay(range(0, 3 * MiB), 4096)!;
  const c = window.overlay(range(4096, 4096), 4096)!;
  assert.ok(a.address >= ARENA_END);
  for (const { address } of [a, b, c]) assert.equal((window.base + address) % (2 * MiB), 0);
  assert.ok(a.address + 4096 <= b.address && b.address + 3 * MiB <= c.address);
  window.bytes[a.address + 5] = 1;
  window.bytes[b.address + 4096 + 5] = 2;
  assert.equal(window.bytes[b.address + 5], 1, 'the same page twice');
  assert.equal(window.bytes[c.address + 5], 2);

  a.mapping.close();
  assert.equal(window.bytes[a.address + 5], 0, 'private zeros are back');
  const again = window.overlay(range(0, 4096), 4096)!;
  assert.equal(again.address, a.address, 'the slot was given back');
  for (const { mapping } of [again, b, c]) {
    mapping.close();
    mapping.close();
  }
  file.close();
});

leakTest('what does not fit gets null, and nothing is taken for it', () => {
  const window = Window.create();
  const file = createMemfd({ name: 'guest', size: 4 * GiB });
  assert.equal(window.overlay({ fd: file.fd, length: 4 * GiB }, 4096), null);
  const most = 4 * GiB - ARENA_END - (window.base % (2 * MiB) === 0 ? 0 : 2 * MiB);
  const whole = window.overlay({ fd: file.fd, length: most }, 4096)!;
  assert.equal(window.overlay({ fd: file.fd, length: 4096 }, 4096), null, 'full');
  whole.mapping.close();
  const slots = Array.from({ length: 64 }, () => window.overlay({ fd: file.fd, length: 4096 }, 4096)!);
  assert.equal(new Set(slots.map(({ address }) => address)).size, 64);
  for (const { mapping } of slots.toReversed()) mapping.close();
  window.overlay({ fd: file.fd, length: most }, 4096)!.mapping.close();
  file.close();
});

leakTest('a mapping that fails gives its slot back', () => {
  const window = Window.create();
  const file = createMemfd({ name: 'guest', size: 4096 });
  const first = window.overlay({ fd: file.fd, length: 4096 }, 4096)!;
  first.mapping.close();
  for (let i = 0; i < 5; i++) {
    assert.throws(() => window.overlay({ fd: file.fd, length: GiB }, 4096), {
      code: 'ERR_MAPPING_BEYOND_FILE',
    });
  }
  const second = window.overlay({ fd: file.fd, length: 4096 }, 4096)!;
  assert.equal(second.address, first.address);
  second.mapping.close();
  file.close();
});
