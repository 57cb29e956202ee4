/** The control socket's two ends in one process: what is asked is answered, and what hostile clients and servers do harms nobody else. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { EventFd } from '../../src/linux/eventfd.js';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { connectUnix, type UnixSocket } from '../../src/linux/unix-socket.js';
import { type Claim, claim } from '../../src/observe/control/claim.js';
import { ask } from '../../src/observe/control/client.js';
import {
  ControlError,
  type Controlled,
  MAX_REQUEST,
  printable,
  type UpgradeWish,
} from '../../src/observe/control/messages.js';
import { type ControlLimits, ControlServer } from '../../src/observe/control/server.js';

const folder = mkdtempSync(join(tmpdir(), 'polynic-control-'));
const path = join(folder, 'test.sock');
after(() => rmSync(folder, { recursive: true }));

const report = { outcome: 'done', from: 'sring', to: 'sring_gso', ms: 1.5 } as const;

/** Answers with what it was asked. */
function answering(more: Partial<Controlled> = {}): Controlled {
  return {
    info: () => ({ pid: 7 }),
    stats: () => ({ queues: [], flow: null, port: {} }),
    dump: async () => 'queue 0\n  fine',
    ...more,
  };
}

function serverTest(
  name: string,
  options: Partial<Controlled> & { readonly limits?: Partial<ControlLimits> },
  body: (server: ControlServer, t: TestContext, claimed: Claim) => Promise<void>,
): void {
  const { limits, ...controlled } = options;
  leakTest(name, async t => {
    const claimed = claim(path)!;
    const server = new ControlServer(claimed.listener, answering(controlled), fail, limits);
    try {
      await body(server, t, claimed);
    } finally {
      claimed.release();
      server.close();
    }
    assert.equal(server.clients, 0);
  });
}

function fail(error: unknown): never {
  throw error;
}

/** A client that says what it likes. */
class Raw {
  readonly socket: UnixSocket;

  constructor() {
    this.socket = connectUnix(path);
  }

  send(text: string | Uint8Array): this {
    this.socket.send(typeof text === 'string' ? Buffer.from(text) : text);
    return this;
  }

  /** So many lines; or all that comes before the end, when no number is given. */
  async lines(want = Number.POSITIVE_INFINITY): Promise<unknown[]> {
    let text = '';
    const buffer = Buffer.alloc(65536);
    const complete = () => text.split('\n').length - 1;
    await new Promise<void>((resolve, reject) => {
      this.socket.onReadable(() => {
        try {
          const got = this.socket.receive(buffer);
          text += buffer.toString('utf8', 0, got?.bytes ?? 0);
          if (got?.bytes === 0 || complete() >= want) resolve();
        } catch (error) {
          if ((error as { code?: string }).code === 'ECONNRESET') resolve();
          else reject(error);
        }
      });
    });
    this.socket.onReadable(null);
    return text
      .split('\n')
      .slice(0, -1)
      .map(line => JSON.parse(line) as unknown);
  }

  /** Everything up to the end, then closes. */
  async end(): Promise<unknown[]> {
    const lines = await this.lines();
    this.close();
    return lines;
  }

  close(): void {
    this.socket.close();
  }
}

const refused = (line: unknown) => (line as { error: { code: string } }).error.code;

let wished: UpgradeWish[] = [];
serverTest(
  'every request gets its answer',
  {
    upgrade: async wish => {
      wished.push(wish);
      return report;
    },
  },
  async () => {
    wished = [];
    assert.deepEqual(await ask(path, { op: 'info' }), { pid: 7 });
    assert.deepEqual(await ask(path, { op: 'stats' }), { queues: [], flow: null, port: {} });
    assert.equal(await ask(path, { op: 'dump' }), 'queue 0\n  fine');
    assert.deepEqual(
      await ask(path, { op: 'upgrade', device: 'sring_gso', port: 'sink', offload: 'none', spin: false }),
      report,
    );
    assert.deepEqual(wished, [{ device: 'sring_gso', port: 'sink', offload: 'none', spin: false }]);
  },
);

let left = 0;
serverTest('leave is answered before it takes effect on others', { leave: () => void left++ }, async () => {
  assert.deepEqual(await ask(path, { op: 'leave' }), {});
  assert.equal(left, 1);
});

serverTest('what a process does not offer is refused', {}, async () => {
  for (const op of ['upgrade', 'leave'] as const) {
    await assert.rejects(ask(path, { op }), { code: 'CONTROL_UNSUPPORTED' });
  }
});

serverTest(
  'what fails is told by code and first line, whatever is thrown',
  {
    info: () => {
      throw new ControlError('UPGRADE_UNSUPPORTED', 'first\nsecond');
    },
    stats: () => ({ big: 1n }),
    dump: async () => {
      throw 'no error at all';
    },
  },
  async () => {
    await assert.rejects(ask(path, { op: 'info' }), { code: 'UPGRADE_UNSUPPORTED', message: 'first' });
    await assert.rejects(ask(path, { op: 'stats' }), { code: 'CONTROL_FAILED' });
    await assert.rejects(ask(path, { op: 'dump' }), { code: 'CONTROL_FAILED', message: 'no error at all' });
  },
);

const NONSENSE: readonly (readonly [string, string | Uint8Array])[] = [
  ['nothing', ''],
  ['words', 'hello'],
  ['half an object', '{"op":"info"'],
  ['a number', '7'],
  ['null', 'null'],
  ['an array', '[{"op":"info"}]'],
  ['no op', '{}'],
  ['an unknown op', '{"op":"frob"}'],
  ['an op of the prototype', '{"op":"constructor"}'],
  ['an op that is no text', '{"op":{"toString":"info"}}'],
  ['a wish where there is none', '{"op":"info","device":"sring"}'],
  ['an unknown wish', '{"op":"upgrade","colour":"red"}'],
  ['a wish of the prototype', '{"op":"upgrade","toString":"sring"}'],
  ['a wish of the wrong kind', '{"op":"upgrade","spin":"yes"}'],
  ['a port that is a number', '{"op":"upgrade","port":5}'],
  ['__proto__', '{"op":"upgrade","__proto__":{"device":"x"}}'],
  ['bytes', Uint8Array.of(0, 0xff, 0xfe, 0x80, 0xc0, 7)],
  ['a deep nest', '['.repeat(2000)],
];

serverTest(
  'nonsense is refused, line by line, and the client stays',
  { upgrade: async () => report },
  async () => {
    const client = new Raw();
    for (const [what, line] of NONSENSE) {
      const bytes = Buffer.concat([Buffer.from(line), Buffer.from('\n')]);
      const [answer] = await client.send(bytes).lines(1);
      assert.equal(refused(answer), 'CONTROL_REQUEST', what);
    }
    assert.deepEqual(await client.send('{"op":"info"}\n').lines(1), [{ ok: { pid: 7 } }]);
    client.close();
  },
);

serverTest('a request byte by byte, and several at once, in order', {}, async () => {
  const client = new Raw();
  for (const byte of Buffer.from('{"op":"info"}\n')) {
    client.send(Uint8Array.of(byte));
    await nextTurn();
  }
  assert.deepEqual(await client.lines(1), [{ ok: { pid: 7 } }]);
  client.send('{"op":"info"}\n{"op":"dump"}\n{"op":"info"}\n{"op"');
  assert.deepEqual(await client.lines(3), [
    { ok: { pid: 7 } },
    { ok: 'queue 0\n  fine' },
    { ok: { pid: 7 } },
  ]);
  assert.deepEqual(await client.send(':"info"}\n').lines(1), [{ ok: { pid: 7 } }]);
  client.close();
});

serverTest('a line without end costs the connection, the longest that may be does not', {}, async () => {
  const wish = `{"op":"info"}${' '.repeat(MAX_REQUEST - 14)}\n`;
  assert.equal(wish.length, MAX_REQUEST);
  const polite = new Raw().send(wish);
  assert.deepEqual(await polite.lines(1), [{ ok: { pid: 7 } }]);
  polite.close();
  const [answer, ...more] = await new Raw().send('x'.repeat(200_000)).end();
  assert.equal(refused(answer), 'CONTROL_REQUEST');
  assert.deepEqual(more, []);
});

serverTest('who says nothing, or half a line, is let go', { limits: { idleMs: 50 } }, async () => {
  for (const begin of ['', '{"op":']) {
    const client = new Raw();
    if (begin !== '') client.send(begin);
    assert.deepEqual((await client.end()).map(refused), ['CONTROL_TIMEOUT']);
  }
});

serverTest('who leaves in the middle of a line leaves nothing behind', {}, async server => {
  for (let i = 0; i < 10; i++) new Raw().send('{"op":"in').close();
  await eventually(() => server.clients === 0);
  assert.deepEqual(await ask(path, { op: 'info' }), { pid: 7 });
});

serverTest(
  'one client too many is told so, and finds room later',
  { limits: { clients: 3 } },
  async server => {
    const clients = [new Raw(), new Raw(), new Raw()];
    await eventually(() => server.clients === 3);
    await assert.rejects(ask(path, { op: 'info' }), { code: 'CONTROL_BUSY' });
    clients.pop()!.close();
    await eventually(() => server.clients === 2);
    assert.deepEqual(await ask(path, { op: 'info' }), { pid: 7 });
    for (const client of clients) client.close();
  },
);

serverTest(
  'who asks and asks and does not read is dropped, and holds nobody up',
  { stats: () => ({ much: 'x'.repeat(20_000) }) },
  async server => {
    const flooder = new Raw();
    flooder.socket.queueLimit = 1 << 30;
    flooder.send('{"op":"stats"}\n'.repeat(20_000));
    for (let i = 0; i < 20; i++) assert.deepEqual(await ask(path, { op: 'info' }), { pid: 7 });
    await eventually(() => server.clients === 0);
    flooder.close();
  },
);

serverTest('descriptors that come along are closed', {}, async () => {
  const gift = EventFd.create('gift');
  const client = new Raw();
  client.socket.send(Buffer.from('{"op":"info"}\n'), [gift.fd, gift.fd]);
  assert.deepEqual(await client.lines(1), [{ ok: { pid: 7 } }]);
  client.close();
  gift.close();
});

let finish: (text: string) => void = () => {};
const slow = { dump: () => new Promise<string>(resolve => (finish = resolve)) };
serverTest(
  'a client that leaves, and a server that ends, before the answer',
  slow,
  async (server, _t, claimed) => {
    const hasty = new Raw().send('{"op":"dump"}\n');
    await eventually(() => server.clients === 1);
    hasty.close();
    await nextTurn();
    finish('nobody there');
    await eventually(() => server.clients === 0);
    const asked = ask(path, { op: 'dump' });
    await eventually(() => server.clients === 1);
    claimed.release();
    server.close();
    await assert.rejects(asked, { code: 'CONTROL_CLOSED' });
    finish('too late');
  },
);

serverTest('another user is sent away, even if files would let it in', {}, async (_server, t) => {
  if (process.geteuid!() !== 0) return t.skip('needs root: it becomes another user');
  chmodSync(folder, 0o755);
  chmodSync(path, 0o777);
  const script = `require('net').connect(${JSON.stringify(path)}).pipe(process.stdout)`;
  const child = spawn(process.execPath, ['-e', script], { uid: 65534, gid: 65534, cwd: '/' });
  let text = '';
  child.stdout.on('data', data => (text += data));
  await once(child, 'close');
  chmodSync(folder, 0o700);
  assert.equal(refused(JSON.parse(text)), 'CONTROL_DENIED');
});

function hangUpAfter(socket: UnixSocket, text: string): void {
  socket.send(Buffer.from(text));
  socket.close();
}

const SERVERS: readonly (readonly [string, (socket: UnixSocket) => void, string])[] = [
  ['says nothing', () => {}, 'CONTROL_TIMEOUT'],
  ['hangs up', socket => socket.close(), 'CONTROL_CLOSED'],
  ['stops in the middle', socket => hangUpAfter(socket, '{"ok":'), 'CONTROL_CLOSED'],
  ['talks nonsense', socket => socket.send(Buffer.from('hello\n')), 'CONTROL_ANSWER'],
  ['answers with nothing', socket => socket.send(Buffer.from('{}\n')), 'CONTROL_ANSWER'],
  ['answers with null', socket => socket.send(Buffer.from('null\n')), 'CONTROL_ANSWER'],
  ['fails without words', socket => socket.send(Buffer.from('{"error":{"code":5}}\n')), 'CONTROL_ANSWER'],
  ['never stops', socket => socket.send(Buffer.alloc(3 << 20, 'x')), 'CONTROL_ANSWER'],
];

for (const [what, act, code] of SERVERS) {
  leakTest(`a server that ${what}: ${code}`, async () => {
    const listener = UnixListener.listen(path);
    const sockets: UnixSocket[] = [];
    listener.onConnection(socket => {
      sockets.push(socket);
      act(socket);
    }, fail);
    await assert.rejects(ask(path, { op: 'info' }, { timeoutMs: code === 'CONTROL_TIMEOUT' ? 50 : 5000 }), {
      code,
    });
    listener.close();
    for (const socket of sockets) socket.close();
  });
}

leakTest('what others say can not steer a terminal', async () => {
  assert.equal(printable('a\x1b[2Jb\x07\x9b\u202e\r\nc\u00e4'), 'a?[2Jb????\nc\u00e4');
});
