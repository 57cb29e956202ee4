/** Workers that share work: each gets its own commands, and none outlives another. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { openFds } from '../../src/linux/fd.js';
import { Crew, deal } from '../../src/nic/crew.js';
import { arena, window } from '../compliance/testbed.js';

const entry = new URL('./thread-loop.js', import.meta.url);

async function start(t: TestContext, size: number): Promise<Crew<string, number>> {
  const before = { live: arena.live, fds: openFds() };
  const counters = arena.allocate(64 * size);
  const crew = await Crew.start<string, number>(entry, {
    ...{ window, arena, name: 'test', size },
    data: worker => counters + 64 * worker,
  });
  t.after(async () => {
    await crew.stop();
    arena.free(counters);
    assert.deepEqual({ live: arena.live, fds: openFds() }, before, 'left behind');
  });
  return crew;
}

test('what is dealt out reaches everybody in turn, and nobody twice', () => {
  assert.deepEqual(deal([0, 1, 2, 3, 4], 2), [
    [0, 2, 4],
    [1, 3],
  ]);
  assert.deepEqual(deal(['a'], 3), [['a'], [], []]);
  assert.deepEqual(deal([], 2), [[], []]);
});

test('each worker gets a command of its own, and all answers come back in order', async t => {
  const crew = await start(t, 3);
  assert.equal(crew.size, 3);
  assert.deepEqual(await crew.call(worker => '#'.repeat(worker + 1)), [1, 2, 3]);
});

test('a command that throws in one worker is an error, and all go on', async t => {
  const crew = await start(t, 2);
  await assert.rejects(
    crew.call(worker => (worker === 1 ? 'throw' : 'x')),
    { code: 'THREAD_FAILED', message: 'told to' },
  );
  assert.deepEqual(await crew.call(() => 'xyz'), [3, 3]);
});

test('when one worker ends, all have ended before anybody hears of it', async t => {
  const crew = await start(t, 3);
  const failures: Error[] = [];
  crew.onFailure = error => failures.push(error);
  await assert.rejects(
    crew.call(worker => (worker === 0 ? 'exit' : 'x')),
    { code: 'THREAD_FAILED' },
  );
  assert.equal(failures.length, 1);
  const results = await Promise.allSettled([crew.call(() => 'x'), crew.call(() => 'x')]);
  assert.deepEqual(
    results.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
});

test('a crew that can not start leaves nothing behind', async () => {
  const before = { live: arena.live, fds: openFds() };
  const missing = new URL('./no-such-loop.js', import.meta.url);
  const options = { window, arena, name: 'test', size: 2, data: () => 0 };
  await assert.rejects(Crew.start(missing, options), { code: 'THREAD_FAILED', message: /no-such-loop/ });
  assert.deepEqual({ live: arena.live, fds: openFds() }, before);
});
