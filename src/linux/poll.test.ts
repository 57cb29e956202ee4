import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { monotonicNs } from './clock.js';
import { EventFd } from './eventfd.js';
import { POLLIN, POLLNVAL, POLLOUT, Poller } from './poll.js';
import { getAffinity, setAffinity, threadId } from './process.js';
import { leakTest } from './testing.js';

leakTest('a wait ends at its timeout, or when an entry is ready', () => {
  const a = EventFd.create('a');
  const b = EventFd.create('b');
  const poller = new Poller(3);
  poller.set(0, a.fd, POLLIN);
  poller.set(2, b.fd, POLLIN);
  const start = monotonicNs();
  assert.equal(poller.wait(20), 0);
  const waited = (monotonicNs() - start) / 1e6;
  assert.ok(waited >= 20 && waited < 2000, `${waited} ms`);
  b.signal();
  assert.equal(poller.wait(-1), 1);
  assert.deepEqual([poller.ready(0), poller.ready(1), poller.ready(2)], [false, false, true]);
  a.signal();
  assert.equal(poller.wait(0), 2);
  b.drain();
  a.drain();
  assert.equal(poller.wait(0), 0);
  assert.ok(!poller.ready(0) && !poller.ready(2));
  poller.set(2, b.fd, POLLIN | POLLOUT);
  assert.equal(poller.wait(1500), 1);
  assert.equal(poller.revents(2), POLLOUT);
  poller.set(2, 901, POLLIN);
  assert.equal(poller.wait(-1), 1);
  assert.equal(poller.revents(2), POLLNVAL, 'a closed fd shows');
  poller.set(2, -1, 0);
  assert.equal(poller.wait(0), 0);
  assert.throws(() => poller.set(3, a.fd, POLLIN), RangeError);
  a.close();
  b.close();
});

leakTest('a worker thread blocks in ppoll, is woken, and answers', async () => {
  const request = EventFd.create('request');
  const reply = EventFd.create('reply');
  const code = `
    import { workerData, parentPort } from 'node:worker_threads';
    const modules = await Promise.all(workerData.modules.map(url => import(url)));
    const { Poller, drainEventFd, signalEventFd, openFds, EventFd, createMemfd } = Object.assign({}, ...modules);
    const poller = new Poller(1);
    poller.set(0, workerData.request, 1);
    parentPort.postMessage('ready');
    let rounds = 0;
    while (rounds < 100) {
      poller.wait(-1);
      rounds += drainEventFd(workerData.request);
      signalEventFd(workerData.reply);
    }
    const own = EventFd.create('own');
    const memory = createMemfd({ name: 'own', size: 4096 });
    const held = openFds().length;
    own.close();
    memory.close();
    parentPort.postMessage({ rounds, held, left: openFds().length });`;
  const modules = ['./poll.js', './eventfd.js', './fd.js', './memfd.js'].map(
    name => new URL(name, import.meta.url).href,
  );
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
    workerData: { request: request.fd, reply: reply.fd, modules },
  });
  await once(worker, 'message');
  const poller = new Poller(1);
  poller.set(0, reply.fd, POLLIN);
  const result = once(worker, 'message');
  for (let i = 0; i < 100; i++) {
    request.signal();
    assert.equal(poller.wait(5000), 1, `answer ${i}`);
    assert.equal(reply.drain(), 1);
  }
  assert.deepEqual((await result)[0], { rounds: 100, held: 2, left: 0 });
  await once(worker, 'exit');
  request.close();
  reply.close();
});

test('the clock agrees with the process clock and does not run backwards', () => {
  const [seconds, nanoseconds] = process.hrtime();
  const now = monotonicNs();
  assert.ok(Math.abs(now - (seconds * 1e9 + nanoseconds)) < 1e9);
  let last = now;
  for (let i = 0; i < 1000; i++) {
    const next = monotonicNs();
    assert.ok(next >= last);
    last = next;
  }
});

test('a thread is bound to CPUs and back', () => {
  const all = getAffinity();
  assert.equal(threadId(), process.pid);
  setAffinity([all[0]!]);
  assert.deepEqual(getAffinity(), [all[0]]);
  setAffinity(all);
  assert.deepEqual(getAffinity(threadId()), all);
  assert.throws(() => setAffinity([5000]), {
    code: 'EINVAL',
    message: 'sched_setaffinity CPUs 5000: EINVAL (invalid argument)',
  });
});
