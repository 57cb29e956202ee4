/** A worker's loop and the main thread's hold on it: commands, sleep, and every way to end. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { openFds } from '../../src/linux/fd.js';
import { LoopThread, ThreadError } from '../../src/nic/thread.js';
import { arena, window } from '../compliance/testbed.js';

const entry = new URL('./thread-loop.js', import.meta.url);

async function start(t: TestContext): Promise<{ thread: LoopThread<string, number>; turns: () => number }> {
  const before = { live: arena.live, fds: openFds() };
  const counter = arena.allocate(64);
  const thread = await LoopThread.start<string, number>(entry, {
    window,
    arena,
    data: counter,
    name: 'test',
  });
  t.after(async () => {
    await thread.stop();
    arena.free(counter);
    assert.deepEqual({ live: arena.live, fds: openFds() }, before, 'left behind');
  });
  return { thread, turns: () => Atomics.load(window.words, counter >>> 2) };
}

test('a loop that was called while it was awake sleeps again afterwards', { timeout: 60_000 }, async t => {
  const { thread, turns } = await start(t);
  // It notices the call between two turns, maybe before the wake-up that goes with it: that one must not keep it awake for ever.
  for (let round = 0; round < 20; round++) {
    assert.equal(await thread.call('busy'), 4);
    assert.equal(await thread.call('idle'), 4);
    const before = turns();
    await pause(10);
    assert.ok(turns() - before < 10, `round ${round}: ${turns() - before} turns in 10 ms without work`);
  }
});

test('a caller who loses the processor in the middle of a call keeps nobody awake', {
  timeout: 60_000,
}, async t => {
  const { thread, turns } = await start(t);
  const { store } = Atomics;
  let meanwhile = 0;
  const slow = t.mock.method(Atomics, 'store', ((...words: Parameters<typeof store>) => {
    const before = turns();
    for (const end = performance.now() + 30; performance.now() < end; );
    meanwhile = turns() - before;
    return store(...words);
  }) as typeof store);
  assert.equal(await thread.call('idle'), 4);
  assert.equal(slow.mock.callCount(), 1);
  assert.ok(meanwhile < 10, `${meanwhile} turns in 30 ms`);
});

test('a command that throws costs its caller, and the loop goes on', { timeout: 60_000 }, async t => {
  const { thread } = await start(t);
  await assert.rejects(thread.call('throw'), { code: 'THREAD_FAILED', message: 'told to' });
  assert.equal(await thread.call('more'), 4);
});

test('a worker that ends by itself is a failure, told once, to all who wait and who ask', {
  timeout: 60_000,
}, async t => {
  const { thread } = await start(t);
  const failures: Error[] = [];
  thread.onFailure = error => failures.push(error);
  for (const call of [thread.call('exit'), thread.call('late')].map(call =>
    assert.rejects(call, ThreadError),
  ))
    await call;
  await assert.rejects(thread.call('too late'), ThreadError);
  await thread.stop();
  assert.equal(failures.length, 1);
});

test('a worker that can not start leaves nothing behind', { timeout: 60_000 }, async () => {
  const before = { live: arena.live, fds: openFds() };
  const options = { window, arena, data: 0, name: 'test' };
  const missing = LoopThread.start(new URL('./no-such-loop.js', import.meta.url), options);
  await assert.rejects(missing, { code: 'THREAD_FAILED', message: /no-such-loop/ });
  assert.deepEqual({ live: arena.live, fds: openFds() }, before);
});
