import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { LinuxError } from '../../linux/errors.js';
import { leakTest } from '../../linux/testing.js';
import { UnixListener } from '../../linux/unix-listener.js';
import { connectUnix } from '../../linux/unix-socket.js';
import { serveBackend } from './backend.js';
import { type Channel, socketChannel } from './channel.js';
import { ProxyFrontend } from './frontend.js';
import { ConnectionSlot, keepConnected } from './reconnect.js';
import { NoteTakingNic, ScriptedChannel } from './testing.js';

const ENOENT = 2;
const EACCES = 13;

test('pauses double up to their limit and start over after a useful session', async () => {
  const abort = new AbortController();
  const delays: [number, boolean][] = [];
  const attempts = ['fail', 'fail', 'fail', 'useless', 'useful', 'fail', 'useless'];
  let session = '';
  await keepConnected({
    connect: () => {
      session = attempts.shift()!;
      if (session === 'fail') throw new LinuxError('connect', ENOENT, '/nowhere');
      return new ScriptedChannel([]);
    },
    session: async () => session === 'useful',
    signal: abort.signal,
    timings: { firstDelayMs: 1, maxDelayMs: 8 },
    onWait: (delayMs, error) => {
      delays.push([delayMs, error === null]);
      if (attempts.length === 0) abort.abort();
    },
  });
  assert.deepEqual(delays, [
    [1, false],
    [2, false],
    [4, false],
    [8, true],
    [1, true],
    [2, false],
    [4, true],
  ]);
});

test('after useless sessions pauses have a limit of their own, which is no one else’s', async () => {
  const abort = new AbortController();
  const delays: number[] = [];
  const attempts = ['useless', 'useless', 'useless', 'useless', 'fail', 'useless', 'useful', 'fail'];
  let session = '';
  await keepConnected({
    connect: () => {
      session = attempts.shift()!;
      if (session === 'fail') throw new LinuxError('connect', ENOENT, '/nowhere');
      return new ScriptedChannel([]);
    },
    session: async () => session === 'useful',
    signal: abort.signal,
    timings: { firstDelayMs: 1, maxDelayMs: 2, maxUselessDelayMs: 5 },
    onWait: delayMs => {
      delays.push(delayMs);
      if (attempts.length === 0) abort.abort();
    },
  });
  assert.deepEqual(delays, [1, 2, 4, 5, 2, 4, 1, 2]);
});

test('what waiting does not mend is not waited for, and an abort ends a pause', async () => {
  const session = async (): Promise<boolean> => true;
  const denied = (): Channel => {
    throw new LinuxError('connect', EACCES, '/root/only');
  };
  const never = new AbortController();
  await assert.rejects(keepConnected({ connect: denied, session, signal: never.signal }), { code: 'EACCES' });

  const abort = new AbortController();
  await keepConnected({
    connect: () => {
      throw new LinuxError('connect', ENOENT, '/nowhere');
    },
    session,
    signal: abort.signal,
    timings: { firstDelayMs: 1_000_000 },
    onWait: () => setImmediate(() => abort.abort()),
  });
});

test('one is served, the latest newcomer waits, the others are sent away', async () => {
  const served: Channel[] = [];
  const end: (() => void)[] = [];
  const slot = new ConnectionSlot(channel => {
    served.push(channel);
    return new Promise<void>(resolve => end.push(resolve));
  });
  const channels = Array.from({ length: 5 }, () => new ScriptedChannel([]));
  const [first, second, third, fourth, fifth] = channels as [ScriptedChannel, ...ScriptedChannel[]] &
    ScriptedChannel[];
  slot.offer(first!);
  slot.offer(second!);
  slot.offer(third!);
  assert.deepEqual(served, [first]);
  assert.deepEqual([second!.closed, third!.closed, slot.busy], [true, false, true]);
  end[0]!();
  await new Promise(resolve => setImmediate(resolve));
  assert.deepEqual(served, [first, third]);
  slot.offer(fourth!);
  const closed = slot.close();
  assert.equal(fourth!.closed, true);
  slot.offer(fifth!);
  assert.equal(fifth!.closed, true);
  end[1]!();
  await closed;
  assert.deepEqual([served.length, slot.busy], [2, false]);
});

leakTest('a backend waits for its hypervisor, outlives it, and serves the next one', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-'));
  const path = join(folder, 'proxy.sock');
  const nic = new NoteTakingNic();
  const abort = new AbortController();
  let waited = (): void => {};
  const firstWait = new Promise<void>(resolve => (waited = resolve));
  const running = keepConnected({
    connect: () => socketChannel(connectUnix(path)),
    session: async channel => (await serveBackend(channel, nic, { signal: abort.signal })).requests > 0,
    signal: abort.signal,
    timings: { firstDelayMs: 5, maxDelayMs: 20 },
    onWait: () => waited(),
  });
  await firstWait;
  for (let life = 0; life < 3; life++) {
    const listener = UnixListener.listen(path);
    const channel = await new Promise<Channel>((resolve, reject) => {
      listener.onConnection(socket => resolve(socketChannel(socket)), reject);
    });
    const frontend = new ProxyFrontend(channel);
    assert.equal(await frontend.getFeatures(), 0n);
    frontend.close();
    listener.close();
  }
  abort.abort();
  await running;
  nic.close();
  assert.equal(nic.calls.filter(call => call === 'features()').length, 3);
  rmSync(folder, { recursive: true });
});

leakTest('a half-open backend loses the place to one that answers', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-'));
  const path = join(folder, 'proxy.sock');
  const results: string[] = [];
  let answered = (): void => {};
  const done = new Promise<void>(resolve => (answered = resolve));
  const slot = new ConnectionSlot(async channel => {
    const frontend = new ProxyFrontend(channel, { responseTimeoutMs: 50 });
    try {
      await frontend.getFeatures();
      results.push('answered');
      answered();
    } catch (error) {
      results.push((error as { code: string }).code);
    }
    frontend.close();
    await frontend.closed;
  });
  const listener = UnixListener.listen(path);
  listener.onConnection(
    socket => slot.offer(socketChannel(socket)),
    error => assert.fail(String(error)),
  );
  const halfOpen = connectUnix(path);
  const nic = new NoteTakingNic();
  const served = serveBackend(socketChannel(connectUnix(path)), nic);
  await done;
  assert.equal((await served).error, null);
  assert.deepEqual(results, ['PROXY_TIMEOUT', 'answered']);
  halfOpen.close();
  listener.close();
  await slot.close();
  nic.close();
  rmSync(folder, { recursive: true });
});
