import assert from 'node:assert/strict';
import { fstatSync } from 'node:fs';
import { countProcessFds, type OwnedFd, openFds } from '../../linux/fd.js';
import { createMemfd } from '../../linux/memfd.js';
import { leakTest } from '../../linux/testing.js';
import { socketPair, type UnixSocket } from '../../linux/unix-socket.js';
import type { MemoryRegionSpec } from '../../nic/control.js';
import { serveBackend } from './backend.js';
import { socketChannel } from './channel.js';
import { type FrontendOptions, ProxyFrontend } from './frontend.js';
import { decodeRequest, encodeErrorResponse, encodeResponse, HEADER_SIZE, type Request } from './messages.js';
import { MessageStream } from './stream.js';
import { anFd, type Exchange, NoteTakingNic, RECORDINGS, readRecording } from './testing.js';

/** What a backend does with one request: the bytes it answers and how many fds go with them; null: nothing. */
type Behaviour = (
  request: Request,
  bytes: Uint8Array,
) => { bytes: Uint8Array; fds?: number } | null | 'close';

/** A front end, and a backend that behaves as told. */
function connect(
  behave: Behaviour,
  options: FrontendOptions = {},
): { frontend: ProxyFrontend; done: Promise<void> } {
  const [mine, theirs] = socketPair('bpfhv-proxy');
  return { frontend: new ProxyFrontend(socketChannel(mine), options), done: backend(theirs, behave) };
}

async function backend(socket: UnixSocket, behave: Behaviour): Promise<void> {
  const channel = socketChannel(socket);
  const stream = new MessageStream(channel);
  try {
    for (let message = await stream.next(); message !== null; message = await stream.next()) {
      const bytes = new Uint8Array(HEADER_SIZE + message.payload.length);
      new Uint32Array(bytes.buffer, 0, 3).set([message.reqtype, message.flags, message.payload.length]);
      bytes.set(message.payload, HEADER_SIZE);
      const answer = behave(decodeRequest(message), bytes);
      for (const fd of message.fds) fd.close();
      if (answer === 'close') break;
      if (answer === null) continue;
      const fds = Array.from({ length: answer.fds ?? 0 }, () => anFd());
      channel.send(answer.bytes, fds);
      for (const fd of fds) fd.close();
    }
  } catch (error) {
    assert.equal((error as { code?: string }).code, 'PROXY_CLOSED'); // the front end has hung up
  }
  stream.close();
}

/** Sends the request of a recorded exchange by the method that makes it; checks what the method gives back. */
async function ask(frontend: ProxyFrontend, { request, response, requestFds }: Exchange): Promise<void> {
  const fds = requestFds.map(name => anFd(name));
  const message = { reqtype: request[0]!, flags: 1, payload: request.slice(HEADER_SIZE), fds, fdFault: null };
  const { name, values } = decodeRequest(message);
  const answer = new DataView(response.buffer, HEADER_SIZE);
  const fd = fds[0] ?? null;
  try {
    if (name === 'GET_FEATURES') assert.equal(await frontend.getFeatures(), answer.getBigUint64(0, true));
    else if (name === 'SET_FEATURES') await frontend.setFeatures(values.features);
    else if (name === 'SET_PARAMETERS') {
      const { rxContextSize, txContextSize } = await frontend.setParameters(values);
      assert.deepEqual(
        [rxContextSize, txContextSize],
        [answer.getUint32(0, true), answer.getUint32(4, true)],
      );
    } else if (name === 'GET_PROGRAMS') (await frontend.getPrograms()).close();
    else if (name === 'SET_MEM_TABLE') {
      await frontend.setMemTable(
        fds.map((owned, i): MemoryRegionSpec => ({ ...values.regions[i]!, fd: owned })),
      );
    } else if (name === 'SET_QUEUE_CTX')
      await frontend.setQueueContext(values.queue, values.guestPhysicalAddress);
    else if (name === 'SET_QUEUE_KICK') await frontend.setQueueKick(values.queue, fd);
    else if (name === 'SET_QUEUE_IRQ') await frontend.setQueueIrq(values.queue, fd);
    else if (name === 'SET_UPGRADE') await frontend.setUpgrade(fd!);
    else if (name === 'RX_ENABLE') await frontend.enable('rx');
    else if (name === 'TX_ENABLE') await frontend.enable('tx');
    else if (name === 'RX_DISABLE') await frontend.disable('rx');
    else await frontend.disable('tx');
  } finally {
    for (const owned of fds) {
      assert.equal(owned.closed, false, "fds passed in stay the caller's");
      owned.close();
    }
  }
}

for (const recording of RECORDINGS) {
  leakTest(`${recording}: every request is byte for byte the recorded one`, async () => {
    const exchanges = readRecording(recording);
    let at = 0;
    const { frontend, done } = connect((request, bytes) => {
      const { request: expected, response, responseFds, requestFds } = exchanges[at++]!;
      assert.deepEqual(bytes, expected, request.name);
      assert.equal(request.fds.length, requestFds.length);
      return { bytes: response, fds: responseFds.length };
    });
    for (const exchange of exchanges) await ask(frontend, exchange);
    assert.equal(at, exchanges.length);
    frontend.close();
    assert.equal(await frontend.closed, null);
    await done;
  });
}

leakTest('both ends understand each other; the programs arrive as the same file', async () => {
  const [mine, theirs] = socketPair('bpfhv-proxy');
  const nic = new NoteTakingNic();
  const served = serveBackend(socketChannel(theirs), nic);
  const frontend = new ProxyFrontend(socketChannel(mine));
  nic.offered = 0x1ffn;
  assert.equal(await frontend.getFeatures(), 0x1ffn);
  const memory = createMemfd({ name: 'guest', size: 4096 });
  const region = {
    guestPhysicalAddress: 2n ** 64n - 1n,
    size: 2n,
    hypervisorVirtualAddress: 0n,
    mmapOffset: 0n,
  };
  await frontend.setMemTable([{ ...region, fd: memory }]);
  memory.close();
  await frontend.setQueueContext(3, 2n ** 64n - 4096n);
  const programs = await frontend.getPrograms();
  assert.notEqual(programs.fd, nic.programs().fd);
  assert.equal(fstatSync(programs.fd).ino, fstatSync(nic.programs().fd).ino);
  programs.close();
  await assert.rejects(frontend.setMemTable(new Array(9).fill({ ...region, fd: programs })), RangeError);
  await assert.rejects(frontend.setFeatures(2n ** 64n), RangeError);
  await frontend.rxEnable();
  frontend.close();
  assert.equal((await served).error, null);
  nic.close();
  assert.deepEqual(nic.calls, [
    'features()',
    'setMemoryTable(18446744073709551615+2)',
    'setQueueContext(3, 18446744073709547520)',
    'programs()',
    'programs()', // ours, for the comparisons
    'programs()',
    'enable(rx)',
    'disconnect()',
  ]);
});

const features = encodeResponse('GET_FEATURES', { features: 1n });
const patched = (bytes: Uint8Array, offset: number, value: number): Uint8Array => {
  const copy = bytes.slice();
  new DataView(copy.buffer).setUint32(offset, value, true);
  return copy;
};
const both = (a: Uint8Array, b: Uint8Array): Uint8Array => Uint8Array.of(...a, ...b);
const sizes = (rxContextSize: number, txContextSize: number): Uint8Array =>
  encodeResponse('SET_PARAMETERS', { rxContextSize, txContextSize });
const parameters = { numRxQueues: 1, numTxQueues: 1, numRxBufs: 256, numTxBufs: 256 };
const getFeatures = (frontend: ProxyFrontend): Promise<unknown> => frontend.getFeatures();
const getPrograms = (frontend: ProxyFrontend): Promise<OwnedFd> => frontend.getPrograms();
const setParameters = (frontend: ProxyFrontend): Promise<unknown> => frontend.setParameters(parameters);

const LIES: [string, string, (frontend: ProxyFrontend) => Promise<unknown>, ReturnType<Behaviour>][] = [
  ['answers another request', 'PROXY_REPLY', getFeatures, { bytes: patched(features, 0, 2) }],
  ['answers an unknown request', 'PROXY_REPLY', getFeatures, { bytes: patched(features, 0, 99) }],
  ['answers with another version', 'PROXY_VERSION', getFeatures, { bytes: patched(features, 4, 2) }],
  ['answers with unknown flags', 'PROXY_FLAGS', getFeatures, { bytes: patched(features, 4, 0x11) }],
  ['answers too short', 'PROXY_SIZE', getFeatures, { bytes: patched(features, 8, 7).subarray(0, 19) }],
  [
    'answers too long',
    'PROXY_SIZE',
    getFeatures,
    { bytes: both(patched(features, 8, 12), new Uint8Array(4)) },
  ],
  [
    'answers without a payload',
    'PROXY_SIZE',
    getFeatures,
    { bytes: patched(features, 8, 0).subarray(0, 12) },
  ],
  [
    'announces a payload without end',
    'PROXY_OVERSIZE',
    getFeatures,
    { bytes: patched(features, 8, 0xffff_ffff) },
  ],
  ['sends an fd that nobody wants', 'PROXY_FDS', getFeatures, { bytes: features, fds: 1 }],
  ['sends no programs', 'PROXY_FDS', getPrograms, { bytes: encodeResponse('GET_PROGRAMS', {}) }],
  ['sends programs twice', 'PROXY_FDS', getPrograms, { bytes: encodeResponse('GET_PROGRAMS', {}), fds: 2 }],
  ['sends sixteen fds', 'PROXY_FDS', getPrograms, { bytes: encodeResponse('GET_PROGRAMS', {}), fds: 16 }],
  ['refuses', 'PROXY_REFUSED', getFeatures, { bytes: encodeErrorResponse(1) }],
  ['refuses with a payload', 'PROXY_SIZE', getFeatures, { bytes: patched(features, 4, 9) }],
  ['refuses with an fd', 'PROXY_FDS', getPrograms, { bytes: encodeErrorResponse(4), fds: 1 }],
  ['wants a context without a head', 'PROXY_VALUE', setParameters, { bytes: sizes(2095, 8752) }],
  ['wants a huge context', 'PROXY_VALUE', setParameters, { bytes: sizes(8752, 2 ** 24 + 1) }],
  ['hangs up', 'PROXY_CLOSED', getFeatures, 'close'],
  ['does not answer', 'PROXY_TIMEOUT', getFeatures, null],
  ['does not finish its answer', 'PROXY_TIMEOUT', getFeatures, { bytes: features.subarray(0, 13) }],
];

for (const [what, code, request, answer] of LIES) {
  leakTest(`a backend that ${what} gets ${code} and is hung up on`, async () => {
    const { frontend, done } = connect(() => answer, { responseTimeoutMs: 50 });
    await assert.rejects(request(frontend), { name: 'ProxyError', code });
    const reason = await frontend.closed;
    if (answer === 'close') assert.equal(reason, null);
    else assert.equal(reason?.code, code);
    await assert.rejects(frontend.getFeatures(), { code: 'PROXY_CLOSED' });
    await done;
  });
}

leakTest('the limits of context sizes are allowed', async () => {
  const { frontend, done } = connect(() => ({ bytes: sizes(2096, 2 ** 24) }));
  assert.deepEqual(await frontend.setParameters(parameters), { rxContextSize: 2096, txContextSize: 2 ** 24 });
  frontend.close();
  await done;
});

leakTest('a second response to one request, and a response before any, end the connection', async () => {
  const twice = connect(() => ({ bytes: both(features, features) }));
  assert.equal(await twice.frontend.getFeatures(), 1n);
  assert.equal((await twice.frontend.closed)?.code, 'PROXY_REPLY');
  await twice.done;

  const [mine, theirs] = socketPair('bpfhv-proxy');
  const frontend = new ProxyFrontend(socketChannel(mine));
  const fd = anFd();
  theirs.send(features, [fd.fd]);
  fd.close();
  assert.equal((await frontend.closed)?.code, 'PROXY_REPLY');
  theirs.close();
});

leakTest('a refusal may leave the connection open, if so wished', async () => {
  let refuse = true;
  const { frontend, done } = connect(() => ({ bytes: refuse ? encodeErrorResponse(1) : features }), {
    onRefusal: 'keep',
  });
  await assert.rejects(frontend.getFeatures(), { code: 'PROXY_REFUSED' });
  refuse = false;
  assert.equal(await frontend.getFeatures(), 1n);
  frontend.close();
  await done;
});

leakTest('overlapping calls wait for each other, and fail together', async () => {
  let outstanding = 0;
  const { frontend, done } = connect(({ name }) => {
    assert.equal(++outstanding, 1);
    setImmediate(() => outstanding--);
    return name === 'TX_DISABLE'
      ? 'close'
      : { bytes: name === 'RX_ENABLE' ? encodeResponse(name, {}) : features };
  });
  assert.deepEqual(await Promise.all([frontend.getFeatures(), frontend.rxEnable(), frontend.getFeatures()]), [
    1n,
    undefined,
    1n,
  ]);
  const results = await Promise.allSettled([
    frontend.txDisable(),
    frontend.getFeatures(),
    frontend.rxEnable(),
  ]);
  for (const result of results) {
    assert.ok(result.status === 'rejected' && result.reason.code === 'PROXY_CLOSED');
  }
  await done;
});

leakTest('the backend may disappear at every message', async () => {
  const exchanges = readRecording('sring');
  for (let last = 0; last < exchanges.length; last++) {
    let at = 0;
    const { frontend, done } = connect(() => {
      const { response, responseFds } = exchanges[at]!;
      return at++ === last ? 'close' : { bytes: response, fds: responseFds.length };
    });
    for (const exchange of exchanges.slice(0, last)) await ask(frontend, exchange);
    await assert.rejects(ask(frontend, exchanges[last]!), { code: 'PROXY_CLOSED' });
    await frontend.closed;
    await done;
  }
});

leakTest('ten thousand requests with fds leave none behind', async () => {
  const { frontend, done } = connect(({ name }) => ({
    bytes: encodeResponse(name as 'SET_QUEUE_KICK', {}),
    fds: name === 'GET_PROGRAMS' ? 1 : 0,
  }));
  const bell = anFd();
  const before = [openFds().length, countProcessFds()];
  for (let i = 0; i < 5000; i++) {
    await frontend.setQueueKick(i % 2, bell);
    (await frontend.getPrograms()).close();
  }
  assert.deepEqual([openFds().length, countProcessFds()], before);
  bell.close();
  frontend.close();
  await done;
});
