import assert from 'node:assert/strict';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { drainEventFd, EventFd, signalEventFd } from './eventfd.js';
import { createMemfd } from './memfd.js';
import { leakTest } from './testing.js';
import { watchReadable } from './watch.js';

leakTest('an eventfd adds up and reads to zero', () => {
  const bell = EventFd.create('bell', { initial: 0xfffffffe });
  bell.signal();
  assert.equal(signalEventFd(bell.fd), 0);
  assert.equal(bell.drain(), 0x1_0000_0000);
  assert.equal(drainEventFd(bell.fd), 0);
  bell.close();
  assert.equal(signalEventFd(bell.fd), -9);
  assert.throws(() => bell.signal(), { code: 'EBADF' });
});

leakTest('only an eventfd is adopted as one', () => {
  const file = createMemfd({ name: 'no bell', size: 8 });
  assert.throws(() => EventFd.adopt(file), { code: 'EINVAL', message: /memfd:no bell/ });
  assert.ok(file.closed);
  const bell = EventFd.create('bell', { nonblocking: false });
  const adopted = EventFd.adopt(bell.owner.dup());
  assert.equal(bell.drain(), 0, 'made nonblocking');
  adopted.close();
  bell.close();
});

leakTest('the event loop hears of a signal, and of no more after close', async () => {
  const bell = EventFd.create('bell');
  const heard = await new Promise<number>(resolve => {
    const watch = watchReadable(bell.fd, () => {
      watch.close();
      resolve(bell.drain());
    });
    bell.signal();
    bell.signal();
  });
  assert.equal(heard, 2);
  bell.close();
});

leakTest('the operands outlive a garbage collection', () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const bell = EventFd.create('bell');
  for (let i = 0; i < 20; i++) {
    collect();
    // Small blocks of memory that would take the place of a freed operand.
    const fill = Array.from({ length: 200 }, () => new Uint32Array(4).fill(77).buffer);
    assert.equal(fill.length, 200);
    bell.signal();
    assert.equal(bell.drain(), 1);
  }
  bell.close();
});
