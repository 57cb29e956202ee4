import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { countProcessFds, type OwnedFd, openFds } from '../../linux/fd.js';
import { eventually, leakTest } from '../../linux/testing.js';
import { socketPair, type UnixSocket } from '../../linux/unix-socket.js';
import { type BackendOptions, type SessionEnd, serveBackend } from './backend.js';
import { socketChannel } from './channel.js';
import { encodeErrorResponse, encodeRequest, HEADER_SIZE, REQUESTS, type RequestName } from './messages.js';
import { anFd, NoteTakingNic, RECORDINGS, readRecording, ScriptedChannel } from './testing.js';

/** A hypervisor made of a bare socket: it can say anything. */
class Peer {
  readonly nic = new NoteTakingNic();
  readonly refusals: string[] = [];
  readonly socket: UnixSocket;
  readonly ended: Promise<SessionEnd>;
  readonly #buffer = new Uint8Array(65536);

  constructor(options: BackendOptions = {}) {
    const [mine, theirs] = socketPair('bpfhv-proxy');
    this.socket = mine;
    const onRefused = (request: string, error: Error): void => {
      this.refusals.push(`${request}: ${(error as Error & { code: string }).code}`);
    };
    this.ended = serveBackend(socketChannel(theirs), this.nic, { onRefused, ...options });
  }

  send(bytes: Uint8Array, fds: readonly OwnedFd[] = []): void {
    this.socket.send(
      bytes,
      fds.map(({ fd }) => fd),
    );
    for (const fd of fds) fd.close();
  }

  /** The next `length` bytes of responses; the number of fds with them is in `fds`. */
  async receive(length: number): Promise<{ bytes: Uint8Array; fds: number }> {
    let filled = 0;
    let fds = 0;
    while (filled < length) {
      const got = await eventually(() => this.socket.receive(this.#buffer.subarray(filled, length)));
      assert.notEqual(got.bytes, 0, 'the backend has closed');
      filled += got.bytes;
      fds += got.fds.length;
      for (const fd of got.fds) fd.close();
    }
    return { bytes: this.#buffer.slice(0, length), fds };
  }

  async refused(bytes: Uint8Array, fds: readonly OwnedFd[] = []): Promise<void> {
    this.send(bytes, fds);
    const reqtype = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    assert.deepEqual((await this.receive(HEADER_SIZE)).bytes, encodeErrorResponse(reqtype));
  }

  async close(): Promise<SessionEnd> {
    this.socket.close();
    const end = await this.ended;
    this.nic.close();
    assert.equal(this.nic.calls.at(-1), 'disconnect()');
    return end;
  }
}

function patched(bytes: Uint8Array, offset: number, value: number): Uint8Array {
  const copy = bytes.slice();
  new DataView(copy.buffer).setUint32(offset, value, true);
  return copy;
}

const fds = (count: number): OwnedFd[] => Array.from({ length: count }, () => anFd());
const kick = (queue = 0): Uint8Array => encodeRequest('SET_QUEUE_KICK', { queue });
const getFeatures = encodeRequest('GET_FEATURES', {});

for (const recording of RECORDINGS) {
  leakTest(`${recording}: every response is byte for byte the recorded one`, async () => {
    const peer = new Peer();
    for (const { name, response } of readRecording(recording)) {
      const view = new DataView(response.buffer, HEADER_SIZE);
      if (name === 'GET_FEATURES') peer.nic.offered = view.getBigUint64(0, true);
      if (name === 'SET_PARAMETERS') {
        peer.nic.contextSizes = {
          rxContextSize: view.getUint32(0, true),
          txContextSize: view.getUint32(4, true),
        };
      }
    }
    for (const exchange of readRecording(recording)) {
      peer.send(exchange.request, fds(exchange.requestFds.length));
      const answer = await peer.receive(exchange.response.length);
      assert.deepEqual(answer.bytes, exchange.response, exchange.name);
      assert.equal(answer.fds, exchange.responseFds.length);
    }
    const end = await peer.close();
    assert.deepEqual(end, { requests: readRecording(recording).length, refused: 0, error: null });
    if (recording !== 'sring') return;
    assert.deepEqual(peer.nic.calls.slice(0, 14), [
      'setMemoryTable(0+536870912)',
      'setMemoryTable(0+536870912, 4275699712+131072)',
      'setMemoryTable(0+536870912)',
      'features()',
      'setFeatures(0)',
      'setParameters(1, 1, 256, 256)',
      'programs()',
      'setQueueKick(0, true)',
      'setQueueIrq(0, false)',
      'setQueueKick(1, true)',
      'setQueueIrq(1, false)',
      'setUpgrade()',
      'setMemoryTable(0+786432, 1048576+535822336)',
      'setMemoryTable(0+884736, 983040+535887872)',
    ]);
  });
}

leakTest('what the protocol does not allow is refused, and the session goes on', async () => {
  const peer = new Peer();
  const table = encodeRequest('SET_MEM_TABLE', { numRegions: 1, regions: [] });
  const upgrade = encodeRequest('SET_UPGRADE', { unused: 0 });
  const longer = new Uint8Array(kick().length + 4);
  longer.set(patched(kick(), 8, 8));

  const cases: [string, string, Uint8Array, number][] = [
    ['unknown request 0', 'request 0: PROXY_REQUEST', patched(getFeatures, 0, 0), 0],
    ['unknown request 14', 'request 14: PROXY_REQUEST', patched(getFeatures, 0, 14), 0],
    [
      'unknown request with payload and fds',
      'request 4294967295: PROXY_REQUEST',
      patched(kick(), 0, 0xffff_ffff),
      3,
    ],
    ['version 0', 'GET_FEATURES: PROXY_VERSION', patched(getFeatures, 4, 0), 0],
    ['version 2', 'GET_FEATURES: PROXY_VERSION', patched(getFeatures, 4, 2), 0],
    ['error flag', 'GET_FEATURES: PROXY_FLAGS', patched(getFeatures, 4, 9), 0],
    ['unknown flag', 'GET_FEATURES: PROXY_FLAGS', patched(getFeatures, 4, 0x8000_0001), 0],
    ['payload too long', 'SET_QUEUE_KICK: PROXY_SIZE', longer, 1],
    ['payload too short', 'SET_QUEUE_KICK: PROXY_SIZE', patched(kick(), 8, 3).subarray(0, 15), 1],
    ['payload where none is due', 'RX_ENABLE: PROXY_SIZE', patched(kick(), 0, REQUESTS.RX_ENABLE.number), 0],
    ['fd where none is due', 'GET_FEATURES: PROXY_FDS', getFeatures, 1],
    ['two fds for one', 'SET_QUEUE_KICK: PROXY_FDS', kick(), 2],
    ['more fds than any message has', 'SET_QUEUE_KICK: PROXY_FDS', kick(), 16],
    ['no fd where one is due', 'SET_UPGRADE: PROXY_FDS', upgrade, 0],
    ['fewer fds than regions', 'SET_MEM_TABLE: PROXY_FDS', patched(table, HEADER_SIZE, 2), 1],
    ['more fds than regions', 'SET_MEM_TABLE: PROXY_FDS', table, 2],
    ['nine regions', 'SET_MEM_TABLE: PROXY_VALUE', patched(table, HEADER_SIZE, 9), 8],
    ['2^32 - 1 regions', 'SET_MEM_TABLE: PROXY_VALUE', patched(table, HEADER_SIZE, 0xffff_ffff), 8],
  ];
  for (const [what, refusal, bytes, count] of cases) {
    await peer.refused(bytes, fds(count));
    assert.equal(peer.refusals.pop(), refusal, what);
  }
  assert.deepEqual(peer.nic.calls, [], 'none of them reached the NIC');
  peer.send(getFeatures);
  await peer.receive(HEADER_SIZE + 8);
  const end = await peer.close();
  assert.deepEqual(end, { requests: cases.length + 1, refused: cases.length, error: null });
});

leakTest('a message whose length cannot be believed ends the session', async () => {
  const peer = new Peer();
  peer.send(patched(getFeatures, 8, 4097));
  assert.equal((await peer.ended).error?.message, 'GET_FEATURES: 4097 bytes of payload, at most 4096');
  await peer.close();
});

leakTest('a request may come a byte at a time, its fds with the first', async () => {
  const peer = new Peer();
  const request = encodeRequest('SET_MEM_TABLE', { numRegions: 2, regions: [] });
  request.forEach((_, i) => {
    peer.send(request.subarray(i, i + 1), i === 0 ? fds(2) : []);
  });
  assert.deepEqual((await peer.receive(HEADER_SIZE)).bytes, patched(request, 8, 0).slice(0, HEADER_SIZE));
  assert.deepEqual(peer.nic.calls, ['setMemoryTable(0+0, 0+0)']);

  // With the payload they are too late.
  peer.send(kick().subarray(0, HEADER_SIZE));
  peer.send(kick().subarray(HEADER_SIZE), fds(1));
  assert.deepEqual(
    (await peer.receive(HEADER_SIZE)).bytes,
    encodeErrorResponse(REQUESTS.SET_QUEUE_KICK.number),
  );
  assert.deepEqual(peer.refusals, ['SET_QUEUE_KICK: PROXY_FDS']);
  await peer.close();
});

leakTest('requests sent ahead are answered one by one, in order', async () => {
  const peer = new Peer();
  for (let queue = 0; queue < 64; queue++) peer.send(kick(queue), fds(1));
  await peer.receive(64 * HEADER_SIZE);
  assert.deepEqual(
    peer.nic.calls,
    Array.from({ length: 64 }, (_, queue) => `setQueueKick(${queue}, true)`),
  );
  await peer.close();
});

leakTest('what the NIC refuses is answered with an error, for each request', async () => {
  const peer = new Peer();
  for (const method of ['features', 'setFeatures', 'setParameters', 'programs', 'setMemoryTable'] as const) {
    peer.nic.refusing.add(method);
  }
  for (const method of [
    'setQueueContext',
    'setQueueKick',
    'setQueueIrq',
    'setUpgrade',
    'enable',
    'disable',
  ] as const) {
    peer.nic.refusing.add(method);
  }
  const seen = new Map(readRecording('sring').map(exchange => [exchange.name, exchange]));
  assert.equal(seen.size, Object.keys(REQUESTS).length);
  for (const { name, request, requestFds } of seen.values()) {
    await peer.refused(request, fds(requestFds.length));
    assert.equal(peer.refusals.pop(), `${name}: NIC_TEST`);
  }
  peer.nic.refusing.clear();
  peer.send(getFeatures);
  await peer.receive(HEADER_SIZE + 8);
  await peer.close();
});

leakTest('the peer may disappear at every message, before, in the middle and after it', async () => {
  const exchanges = readRecording('sring');
  for (let last = 0; last < exchanges.length; last++) {
    for (const bytes of [1, HEADER_SIZE, Number.POSITIVE_INFINITY]) {
      const peer = new Peer();
      exchanges.slice(0, last).forEach(({ request, requestFds }) => {
        peer.send(request, fds(requestFds.length));
      });
      const { request, requestFds } = exchanges[last]!;
      peer.send(request.subarray(0, bytes), fds(requestFds.length));
      await peer.close();
    }
  }
});

leakTest('the same set-fd request ten thousand times leaves no fd behind', async () => {
  const peer = new Peer();
  const bell = anFd();
  const all = countProcessFds();
  let most = 0;
  for (let round = 0; round < 200; round++) {
    for (let i = 0; i < 50; i++) peer.socket.send(kick(round % 2), [bell.fd]);
    await peer.receive(50 * HEADER_SIZE);
    most = Math.max(most, openFds().length);
  }
  assert.equal(peer.nic.calls.length, 10_000);
  assert.ok(countProcessFds() <= all + 2);
  assert.ok(most < 20, `${most} descriptors at a time`);
  bell.close();
  await peer.close();
});

leakTest('a peer that never reads its answers is dropped', async () => {
  const peer = new Peer();
  let dropped = false;
  void peer.ended.then(() => (dropped = true));
  while (!dropped) {
    try {
      if (peer.socket.queuedBytes === 0) peer.send(encodeRequest('GET_PROGRAMS', {}));
    } catch {
      break; // the connection is closed already
    }
    await new Promise(resolve => setImmediate(resolve));
  }
  assert.match((await peer.ended).error!.message, /does not read/);
  await peer.close();
});

leakTest('a client that connects and says nothing, or half of something, loses its place', async () => {
  const silent = new Peer({ firstRequestTimeoutMs: 30 });
  assert.equal(((await silent.ended).error as { code?: string }).code, 'PROXY_TIMEOUT');
  await silent.close();
  const stuck = new Peer({ messageTimeoutMs: 30 });
  stuck.send(kick().subarray(0, 14), fds(1));
  assert.equal(((await stuck.ended).error as { code?: string }).code, 'PROXY_TIMEOUT');
  await stuck.close();
});

leakTest('a session that has begun may be idle for longer than the first request may take', async () => {
  const peer = new Peer({ firstRequestTimeoutMs: 200 });
  peer.send(getFeatures);
  await peer.receive(HEADER_SIZE + 8);
  assert.equal(
    await Promise.race([peer.ended, new Promise(resolve => setTimeout(resolve, 400, 'idle'))]),
    'idle',
  );
  assert.equal((await peer.close()).error, null);
});

leakTest('an abort ends a session, while it waits and while the NIC works', async () => {
  for (const during of ['waiting', 'working'] as const) {
    const abort = new AbortController();
    const peer = new Peer({ signal: abort.signal });
    let open = (): void => {};
    if (during === 'working') {
      peer.nic.gate = new Promise(resolve => (open = resolve));
      peer.send(kick(), fds(1));
      await eventually(() => openFds().some(({ name }) => name.startsWith('received')));
    }
    abort.abort();
    open();
    assert.equal(((await peer.ended).error as { code?: string }).code, 'PROXY_CLOSED');
    await peer.close();
  }
});

leakTest('no garbage makes the backend throw or keep an fd', async () => {
  const names = Object.keys(REQUESTS) as RequestName[];
  const word = fc.oneof(fc.integer({ min: 0, max: 16 }), fc.constantFrom(264, 4096, 4097), fc.nat());
  const message = fc.record({
    reqtype: fc.oneof(fc.integer({ min: 0, max: names.length + 1 }), fc.nat()),
    flags: fc.oneof({ weight: 8, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: word }),
    size: fc.option(word, { freq: 8 }),
    payload: fc.uint8Array({ maxLength: 300 }),
    fds: fc.integer({ min: 0, max: 10 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(message, { maxLength: 10 }), async messages => {
      const before = openFds().length;
      const nic = new NoteTakingNic();
      const channel = new ScriptedChannel(
        messages.map(({ reqtype, flags, size, payload, fds: count }) => {
          const bytes = new Uint8Array(HEADER_SIZE + payload.length);
          const view = new DataView(bytes.buffer);
          [reqtype, flags, size ?? payload.length].forEach((value, i) => {
            view.setUint32(4 * i, value, true);
          });
          bytes.set(payload, HEADER_SIZE);
          return { bytes, fds: fds(count) };
        }),
      );
      const end = await serveBackend(channel, nic);
      assert.equal(channel.sent.length, end.requests);
      nic.close();
      assert.equal(openFds().length, before);
    }),
    { numRuns: 200 },
  );
});

test('the table of requests is numbered from 1 without a gap', () => {
  assert.deepEqual(
    Object.values(REQUESTS).map(({ number }) => number),
    Array.from({ length: 13 }, (_, i) => i + 1),
  );
});
