import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { check } from './errors.js';
import { EventFd } from './eventfd.js';
import { countProcessFds, type OwnedFd } from './fd.js';
import { MAX_FDS, sendWithFds } from './fd-passing.js';
import * as libc from './libc.js';
import { eventually, leakTest, text } from './testing.js';
import { UnixListener } from './unix-listener.js';
import { connectUnix, type Received, socketPair, type UnixSocket } from './unix-socket.js';

const bytes = (s: string) => new TextEncoder().encode(s);
const buffer = new Uint8Array(65536);

leakTest('1 to 16 descriptors travel with a message and work at the other end', () => {
  const [a, b] = socketPair('pair');
  for (let count = 1; count <= MAX_FDS; count++) {
    const bells = Array.from({ length: count }, (_, i) => EventFd.create(`bell ${i}`, { initial: i + 1 }));
    assert.ok(
      a.send(
        bytes(`with ${count}`),
        bells.map(bell => bell.fd),
      ),
    );
    const got = b.receive(buffer)!;
    assert.equal(text(buffer.subarray(0, got.bytes)), `with ${count}`);
    assert.deepEqual([got.truncatedControl, got.surplusFds], [false, 0]);
    const received = got.fds.map(fd => EventFd.adopt(fd));
    assert.deepEqual(
      received.map(bell => bell.drain()),
      bells.map((_, i) => i + 1),
    );
    for (const bell of [...bells, ...received]) bell.close();
  }
  assert.equal(b.receive(buffer), null);
  assert.throws(() => a.send(bytes('x'), new Array(17).fill(0)), { code: 'ERR_SOCKET_TOO_MANY_FDS' });
  a.close();
  assert.equal(b.receive(buffer)!.bytes, 0);
  assert.throws(() => b.send(bytes('x')), { code: 'EPIPE' });
  b.close();
  assert.throws(() => b.send(bytes('x')), { code: 'ERR_SOCKET_CLOSED' });
});

leakTest('surplus descriptors are closed; a list cut short is closed as a whole', () => {
  const [a, b] = socketPair('pair');
  const before = countProcessFds();
  const send = (count: number) =>
    check(sendWithFds(a.owner.fd, bytes('x'), new Array(count).fill(a.owner.fd)), 'sendmsg');
  const receive = (): Received => {
    const got = b.receive(buffer)!;
    assert.equal(countProcessFds(), before + got.fds.length);
    for (const fd of got.fds) fd.close();
    return got;
  };
  send(20);
  const surplus = receive();
  assert.deepEqual([surplus.fds.length, surplus.surplusFds, surplus.truncatedControl], [16, 4, false]);
  // More than our own control buffer holds: sent by a C-like peer with a larger one.
  sendMany(a, 100);
  const cut = receive();
  assert.deepEqual([cut.bytes, cut.fds.length, cut.truncatedControl], [1, 0, true]);
  a.close();
  b.close();
});

/** One byte with more descriptors than this folder's own send can carry. */
function sendMany(socket: UnixSocket, count: number): void {
  const payload = new Uint8Array([1]);
  const control = new Int32Array(4 + count);
  control.set([16 + 4 * count, 0, 1, 1, ...new Array(count).fill(socket.owner.fd)]);
  const iovec = new BigUint64Array([BigInt(libc.addressOf(payload)), 1n]);
  const header = new BigUint64Array([
    0n,
    0n,
    BigInt(libc.addressOf(iovec)),
    1n,
    BigInt(libc.addressOf(control)),
    BigInt(control.byteLength),
    0n,
  ]);
  check(libc.sendmsg(socket.owner.fd, header, 0), 'sendmsg');
}

leakTest('what the kernel does not take is queued with its descriptors, and arrives in order', async () => {
  const [a, b] = socketPair('pair');
  const chunk = new Uint8Array(32768).fill(7);
  let sent = 0;
  do sent += chunk.length;
  while (a.send(chunk));
  const bell = EventFd.create('bell', { initial: 42 });
  assert.equal(a.send(bytes('tail'), [bell.fd]), false);
  bell.close();
  a.queueLimit = a.queuedBytes;
  assert.throws(() => a.send(bytes('x')), { code: 'ERR_SOCKET_QUEUE_FULL' });

  let received = 0;
  let last = '';
  const fds: OwnedFd[] = [];
  await new Promise<void>((resolve, reject) => {
    b.onReadable(() => {
      try {
        for (let got: Received | null; (got = b.receive(buffer)); ) {
          received += got.bytes;
          fds.push(...got.fds);
          last = text(buffer.subarray(Math.max(0, got.bytes - 4), got.bytes));
        }
        if (received >= sent + 4) resolve();
      } catch (error) {
        reject(error);
      }
    });
  });
  assert.equal(received, sent + 4);
  assert.equal(last, 'tail');
  assert.equal(a.queuedBytes, 0);
  assert.equal(fds.length, 1);
  const arrived = EventFd.adopt(fds[0]!);
  assert.equal(arrived.drain(), 42);
  arrived.close();
  b.close();
  a.close();
});

leakTest('a peer that dies with a queue before it: the next send throws, nothing leaks', async () => {
  const [a, b] = socketPair('pair');
  const bell = EventFd.create('bell');
  while (a.send(new Uint8Array(65536)));
  a.send(bytes('x'), [bell.fd]);
  bell.close();
  b.close();
  await eventually(() => a.queuedBytes === 0);
  assert.throws(() => a.send(bytes('x')), { code: /EPIPE|ECONNRESET/ });
  a.close();
});

leakTest('the reader of a connection reset by its peer is told', async () => {
  const [a, b] = socketPair('pair');
  a.send(bytes('never read'));
  b.send(bytes('last words'));
  const seen: string[] = [];
  await new Promise<void>(resolve => {
    a.onReadable(() => {
      // One receive per call, as a lazy user would: the watch must survive the error.
      try {
        const got = a.receive(buffer);
        if (got) seen.push(text(buffer.subarray(0, got.bytes)));
        if (got?.bytes === 0) resolve();
      } catch (error) {
        seen.push((error as { code: string }).code);
      }
    });
    b.close();
  });
  assert.deepEqual(seen, ['last words', 'ECONNRESET', '']);
  a.close();
});

leakTest('listen, connect, credentials, and the life of the file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-'));
  const path = join(folder, 's.sock');
  try {
    const listener = UnixListener.listen(path, { mode: 0o666 });
    assert.equal(statSync(path).mode & 0o777, 0o666);
    const connected = new Promise<UnixSocket>((resolve, reject) => listener.onConnection(resolve, reject));
    const client = connectUnix(path);
    const server = await connected;
    assert.deepEqual(server.peerCredentials(), {
      pid: process.pid,
      uid: process.getuid!(),
      gid: process.getgid!(),
    });
    assert.throws(() => UnixListener.listen(path), { code: 'ERR_SOCKET_IN_USE' });
    client.close();
    server.close();
    listener.close();
    assert.throws(() => statSync(path), { code: 'ENOENT' });
    assert.throws(() => connectUnix(path), {
      code: 'ENOENT',
      message: `connect ${path}: ENOENT (no such file or directory)`,
    });

    // A stale file, as a killed server leaves it.
    const killed = UnixListener.listen(path);
    libc.close(killed.owner.release());
    assert.ok(statSync(path).isSocket());
    const heir = UnixListener.listen(path);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    heir.close();

    writeFileSync(path, 'precious');
    assert.throws(() => UnixListener.listen(path), { code: 'ERR_SOCKET_PATH', message: /not a socket/ });
    const link = join(folder, 'link');
    symlinkSync(path, link);
    assert.throws(() => UnixListener.listen(link), { code: 'ERR_SOCKET_PATH', message: /symbolic link/ });
    assert.throws(() => UnixListener.listen(join(folder, 'x'.repeat(100))), { code: 'ERR_SOCKET_PATH' });
    assert.throws(() => UnixListener.listen(join(folder, 'no', 'such')), { code: 'ENOENT' });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

leakTest('a listener does not remove a file that is no longer its own', () => {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-'));
  const path = join(folder, 's.sock');
  try {
    const listener = UnixListener.listen(path);
    rmSync(path);
    writeFileSync(path, 'new');
    listener.close();
    assert.ok(statSync(path).isFile());
  } finally {
    rmSync(folder, { recursive: true });
  }
});
