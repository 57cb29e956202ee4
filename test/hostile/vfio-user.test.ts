/**
 * Hostile peers at both ends of vfio-user: messages of valid conversations with anything in any field, cut, in any order, with any descriptors.
 *
 * What must hold: the function is asked for nothing that it does not have, one thing at a time; nothing is left when the peer is gone; the next one finds
 * everything in order; no error but the documented ones.
 */
import assert from 'node:assert/strict';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  type ClientMemory,
  encodeReply,
  FLAGS,
  HEADER_SIZE,
  serveVfioUser,
  VfioUserAccess,
  VfioUserClient,
  VfioUserError,
} from '../../src/control/vfio-user/index.js';
import { type OwnedFd, openFds } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { socketPair, type UnixSocket } from '../../src/linux/unix-socket.js';
import { randomFrom } from '../compliance/testbed.js';
import { anFd, NoteTakingFunction, Peer } from '../unit/vfio-user-peer.js';
import { CONVERSATION, map, memory, REFUSED, type Said, unmap } from '../unit/vfio-user-scripts.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const ROUNDS = LONG ? 300 : 12;
const MESSAGES = LONG ? 400 : 150;

type Random = (below: number) => number;

function seeded(t: { diagnostic(message: string): void }): Random {
  const seed = Number(process.env.POLYNIC_SEED ?? Date.now() % 2 ** 31);
  t.diagnostic(`POLYNIC_SEED=${seed}`);
  return randomFrom(seed) as Random;
}

const INTERESTING = [
  0n,
  1n,
  2n,
  4n,
  9n,
  0x21n,
  0x24n,
  31n,
  32n,
  4095n,
  4096n,
  8192n,
  0x10000n,
  1n << 20n,
  0x7fff_ffffn,
  0xffff_ffffn,
  0x1_0000_0000n,
  1n << 46n,
  (1n << 63n) - 1n,
  (1n << 64n) - 4096n,
  (1n << 64n) - 1n,
];

/** A message with some of its fields replaced, perhaps longer or shorter. One in four hundred says a wrong size, and so ends the connection. */
function mutate(random: Random, original: Uint8Array): Uint8Array {
  const change = random(6);
  const length = change === 0 ? HEADER_SIZE + random(80) : original.length;
  const bytes = new Uint8Array(length);
  bytes.set(original.subarray(0, length));
  const view = new DataView(bytes.buffer);
  view.setUint16(0, random(0x10000), true);
  view.setUint32(4, length, true);
  for (let i = random(4); i > 0 && length >= 20; i--) {
    const at = HEADER_SIZE + 4 * random((length - HEADER_SIZE) >> 2);
    const value = INTERESTING[random(INTERESTING.length)]!;
    if (random(2) === 0 && at + 8 <= length) view.setBigUint64(at, value, true);
    else view.setUint32(at, Number(value & 0xffff_ffffn), true);
  }
  if (random(12) === 0) view.setUint16(2, random(24), true);
  if (random(8) === 0) view.setUint32(8, FLAGS.NO_REPLY, true);
  if (random(20) === 0) view.setUint32(8, random(64), true);
  if (random(400) === 0)
    view.setUint32(4, Number(INTERESTING[random(INTERESTING.length)]! & 0xffff_ffffn), true);
  return bytes;
}

/** Something that is a descriptor. */
function anything(random: Random): OwnedFd {
  switch (random(4)) {
    case 0:
      return anFd();
    case 1:
      return createMemfd({ name: 'small', size: 4096 * random(4), sealed: random(2) === 0 });
    case 2: {
      const [mine, theirs] = socketPair('hostile');
      mine.close();
      return theirs.owner;
    }
    default:
      return memory(1 << 20, 'other memory');
  }
}

function descriptors(random: Random, { fds }: Said): OwnedFd[] {
  const count = random(4) === 0 ? random(17) : fds.length;
  return Array.from({ length: count }, (_, i) =>
    random(4) === 0 || i >= fds.length ? anything(random) : fds[i]!(),
  );
}

const SCRAP = new Uint8Array(1 << 16);

/** Reads what there is, and says whether the connection still is. */
function drain(socket: UnixSocket): boolean {
  try {
    for (let got = socket.receive(SCRAP); got; got = socket.receive(SCRAP)) {
      for (const fd of got.fds) fd.close();
      if (got.bytes === 0) return false;
    }
    return true;
  } catch {
    return false;
  }
}

/** The whole conversation, as it should be. */
async function converse(peer: Peer): Promise<void> {
  for (const { bytes, fds } of CONVERSATION) {
    peer.send(
      bytes,
      fds.map(make => make()),
    );
    const answer = await peer.answer();
    for (const fd of answer.fds) fd.close();
    assert.equal(answer.flags, FLAGS.REPLY);
  }
}

leakTest('a client that says anything', async t => {
  const random = seeded(t);
  const bell = anFd();
  const fn = new NoteTakingFunction();
  fn.bells.push({ offset: 0x1000, size: 4, fd: bell });
  const open = openFds().length;
  let ended = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const memories: ClientMemory[] = [];
    const peer = new Peer(fn, {
      messageTimeoutMs: 20,
      dmaTimeoutMs: 20,
      onMemory: one => memories.push(one),
    });
    const said = [...CONVERSATION.slice(1), ...REFUSED];
    if (random(5) > 0) peer.send(CONVERSATION[0]!.bytes);
    for (let i = 0; i < MESSAGES; i++) {
      const one = said[random(said.length)]!;
      try {
        peer.send(mutate(random, one.bytes), descriptors(random, one));
      } catch {
        break; // it has hung up, as it may
      }
      if (random(16) === 0) await new Promise(resolve => setImmediate(resolve));
      if (random(24) === 0) memories[0]?.read(BigInt(random(4096)), 1 + random(4096)).catch(() => {});
      if (random(24) === 0)
        memories[0]?.write(BigInt(random(4096)), new Uint8Array(random(64))).catch(() => {});
      if (random(8) === 0 && !drain(peer.socket)) break;
    }
    drain(peer.socket);
    const { error } = await peer.close();
    assert.ok(error === null || error instanceof VfioUserError, String(error));
    // Closed is what it is when answers were left unread.
    if (error !== null && error.code !== 'VFIO_CLOSED') ended += 1;
    assert.deepEqual(fn.violations, []);
    assert.equal(fn.calls.at(-1), 'disconnect()');
    assert.equal(openFds().length, open);

    const next = new Peer(fn);
    await converse(next);
    assert.deepEqual(await next.close(), { requests: CONVERSATION.length, refused: 0, error: null });
    fn.calls.length = 0;
  }
  t.diagnostic(`${ended} of ${ROUNDS} hung up on`);
  bell.close();
});

leakTest('a client that lets half of its messages go missing', async t => {
  const random = seeded(t);
  const fn = new NoteTakingFunction();
  const open = openFds().length;
  for (let round = 0; round < 4 * ROUNDS; round++) {
    const stream = Buffer.concat(CONVERSATION.map(({ bytes }) => bytes));
    const from = random(stream.length);
    const cut = Buffer.concat([stream.subarray(0, from), stream.subarray(from + random(64))]);
    const peer = new Peer(fn, { messageTimeoutMs: 5 });
    for (let at = 0; at < cut.length; ) {
      const piece = cut.subarray(at, at + 1 + random(200));
      try {
        peer.send(piece, random(6) === 0 ? [anything(random)] : []);
      } catch {
        break;
      }
      at += piece.length;
      if (random(3) === 0) await new Promise(resolve => setImmediate(resolve));
    }
    drain(peer.socket);
    const { error } = await peer.close();
    assert.ok(error === null || error instanceof VfioUserError);
    assert.deepEqual(fn.violations, []);
    assert.equal(openFds().length, open);
  }
});

leakTest('memory that comes and goes without end, much of it senseless, and refused', async t => {
  const random = seeded(t);
  const fn = new NoteTakingFunction();
  const open = openFds().length;
  const files = Array.from({ length: 12 }, (_, i) => memory(1 << 16, `file ${i}`));
  fn.unwanted = ({ mmapOffset }) => mmapOffset === 0x3000n;
  const peer = await Peer.greeted(fn, { maxFiles: 8, maxDmaMaps: 40 });
  for (let i = 0; i < ROUNDS * 300; i++) {
    const [address, size] = [BigInt(random(64)) << 12n, BigInt(1 + random(8)) << 12n];
    const silent = { noReply: random(2) === 0 };
    if (random(3) === 0) peer.tell('DMA_UNMAP', unmap(address, size), silent);
    else if (random(60) === 0) peer.tell('DMA_UNMAP', unmap(0, 0, 2), silent);
    else {
      const fds = random(8) === 0 ? [] : [files[random(files.length)]!.dup()];
      peer.tell('DMA_MAP', map(address, size, random(16) << 12), { fds, ...silent });
    }
    if (i % 64 > 0) continue;
    // What the kernel does not take waits here, with descriptors.
    await eventually(() => {
      if (!drain(peer.socket)) throw new Error('the server hung up');
      return peer.socket.queuedBytes === 0;
    });
    const there = openFds().length - open - files.length;
    assert.ok(there <= 8 + 64, `${there} descriptors`);
  }
  await eventually(() => {
    drain(peer.socket);
    return fn.busy === 0;
  });
  assert.ok(fn.memory.every(({ mmapOffset }) => mmapOffset !== 0x3000n));
  await peer.close();
  assert.deepEqual(fn.violations, []);
  for (const file of files) file.close();
});

/** What a client does all day. Each of them may fail, in the ways that are documented. */
async function work(client: VfioUserClient, ram: OwnedFd, signal: OwnedFd): Promise<void> {
  const close = (fds: readonly (OwnedFd | null)[]): void => {
    for (const fd of fds) fd?.close();
  };
  const calls: (() => Promise<unknown>)[] = [
    () => client.getInfo(),
    () => client.getRegionInfo(0).then(({ fd }) => close([fd])),
    () => client.getIoFds(0).then(({ fds }) => close(fds)),
    () => client.getIrqInfo(2),
    () => client.dmaMap({ iova: 0n, size: 1n << 20n, fd: ram }),
    () => client.connectIrqs(2, 0, [signal, signal, signal]),
    () => client.regionRead(0, 0, 64),
    () => client.regionWrite(0, 0, new Uint8Array(4)),
    () => client.regionWrite(0, 0, new Uint8Array(4), { posted: true }),
    () => client.regionWriteMulti([{ region: 0, offset: 0, bytes: new Uint8Array(2) }]),
    () => client.deviceFeature(0x1_0001, undefined, 8),
    () => client.migDataRead(32),
    () => client.disableIrqs(2),
    () => client.dmaUnmap(0n, 1n << 20n),
    () => client.reset(),
  ];
  const results = await Promise.allSettled(calls.map(call => call()));
  for (const result of results) {
    if (result.status === 'rejected')
      assert.ok(result.reason instanceof VfioUserError, String(result.reason));
  }
}

/**
 * Our server with someone in between who changes its answers, and asks things of his own.
 *
 * ```
 *   client ──────────────► server
 *          ◄── liar ◄─────
 * ```
 */
function liar(random: Random, fn: NoteTakingFunction, odds: number) {
  const [mine, client] = socketPair('hostile (client)');
  const [theirs, server] = socketPair('hostile (server)');
  const ended = serveVfioUser(socketChannel(server), fn);
  const close = (): void => {
    mine.close();
    theirs.close();
  };
  const relay = (from: UnixSocket, to: UnixSocket, change: (message: Uint8Array) => Uint8Array): void => {
    let rest = Buffer.alloc(0);
    const fds: OwnedFd[] = [];
    const next = (): void => {
      for (let got = from.receive(SCRAP); got; got = from.receive(SCRAP)) {
        fds.push(...got.fds);
        if (got.bytes === 0) {
          close();
          return;
        }
        rest = Buffer.concat([rest, SCRAP.subarray(0, got.bytes)]);
        while (rest.length >= HEADER_SIZE && rest.length >= rest.readUInt32LE(4)) {
          const message = rest.subarray(0, rest.readUInt32LE(4));
          rest = rest.subarray(message.length);
          to.send(
            change(Uint8Array.from(message)),
            fds.map(({ fd }) => fd),
          );
          for (const fd of fds.splice(0)) fd.close();
        }
        if (from.closed) return;
      }
    };
    from.onReadable(() => {
      try {
        next();
      } catch {
        close();
      }
      for (const fd of from.closed ? fds.splice(0) : []) fd.close();
    });
  };
  relay(mine, theirs, message => message);
  relay(theirs, mine, message => {
    // The greeting stays as it is.
    if (message[2] === 1 || random(odds) > 0) return message;
    const id = new DataView(message.buffer).getUint16(0, true);
    const changed = mutate(random, message);
    if (random(8) > 0) new DataView(changed.buffer).setUint16(0, id, true);
    if (random(6) === 0) return Buffer.concat([REFUSED[3 + random(2)]!.bytes, changed]);
    return random(10) === 0 ? encodeReply('DEVICE_RESET', id, {}) : changed;
  });
  return { client, close, ended };
}

leakTest('a server that says anything', async t => {
  const random = seeded(t);
  const bell = anFd();
  const [ram, signal] = [memory(), anFd()];
  const handler = { read: (_: bigint, into: Uint8Array) => void into.fill(1), write: () => {} };
  let ended = 0;
  for (let round = 0; round < ROUNDS * 4; round++) {
    const fn = new NoteTakingFunction();
    fn.bells.push({ offset: 0x1000, size: 4, fd: bell });
    const between = liar(random, fn, 2 + random(20));
    const options = { replyTimeoutMs: 40, messageTimeoutMs: 20, memory: handler };
    const channel = socketChannel(between.client);
    try {
      if (round % 2 === 0) {
        const client = await VfioUserClient.connect(channel, options);
        for (let i = 0; i < 3; i++) await work(client, ram, signal);
        client.close();
        const reason = await client.closed;
        if (reason !== null) ended += 1;
      } else {
        const pci = await VfioUserAccess.open(channel, options);
        await pci.map({ iova: 0n, size: 4096, fd: ram, offset: 0 }).catch(() => {});
        await pci.connect([signal]).catch(() => {});
        await pci.wire(0, 0, 1, 4, signal).catch(() => {});
        await pci.readWords(0, 0, 128).catch(() => {});
        await pci.close();
      }
    } catch (error) {
      const { code } = error as Error & { code?: string };
      assert.match(String(code), /^(VFIO|PCI)_/, String(error));
      ended += 1;
    }
    between.close();
    await between.ended;
  }
  t.diagnostic(`${ended} of ${ROUNDS * 4} hung up on`);
  for (const fd of [bell, ram, signal]) fd.close();
});
