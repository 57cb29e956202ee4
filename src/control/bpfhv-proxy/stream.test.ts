import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { openFds } from '../../linux/fd.js';
import { leakTest } from '../../linux/testing.js';
import { HEADER_SIZE, type Message } from './messages.js';
import { MessageReader, MessageStream } from './stream.js';
import { anFd, type Piece, RECORDINGS, readRecording, ScriptedChannel } from './testing.js';

/** Cuts bytes into pieces of the given sizes (repeated as needed); the fds travel with the first piece. */
function cut(bytes: Uint8Array, sizes: readonly number[], fds: Piece['fds'] = []): Piece[] {
  const pieces: Piece[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const piece = bytes.subarray(at, at + sizes[i % sizes.length]!);
    pieces.push({ bytes: piece, fds: at === 0 ? fds : [] });
    at += piece.length;
  }
  return pieces;
}

function header(reqtype: number, flags: number, size: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE);
  new Uint32Array(bytes.buffer).set([reqtype, flags, size]);
  return bytes;
}

async function all(stream: MessageStream): Promise<Message[]> {
  const messages: Message[] = [];
  for (let message = await stream.next(); message !== null; message = await stream.next())
    messages.push(message);
  return messages;
}

leakTest('however a conversation is cut, the same messages come out, each with its own fds', async () => {
  const requests = RECORDINGS.flatMap(readRecording).map(({ request, requestFds }) => ({
    bytes: request,
    fds: requestFds.length,
  }));
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 20 }),
      fc.subarray(requests, { minLength: 1, maxLength: 12 }),
      async (sizes, chosen) => {
        const sent = chosen.map(({ bytes, fds }) => ({
          bytes,
          fds: Array.from({ length: fds }, () => anFd()),
        }));
        const channel = new ScriptedChannel(sent.flatMap(({ bytes, fds }) => cut(bytes, sizes, fds)));
        const stream = new MessageStream(channel);
        const messages = await all(stream);
        stream.close();
        assert.equal(messages.length, sent.length);
        messages.forEach((message, i) => {
          const { bytes, fds } = sent[i]!;
          assert.deepEqual(message.payload, bytes.slice(HEADER_SIZE));
          assert.equal(message.reqtype, bytes[0]);
          assert.deepEqual([...message.fds], fds);
          assert.equal(message.fdFault, null);
          for (const fd of fds) fd.close();
        });
      },
    ),
    { numRuns: 100 },
  );
});

leakTest(
  'garbage gives messages or a ProxyError, never more than is bounded, and leaves no fd behind',
  async () => {
    const piece = fc.record({
      bytes: fc.uint8Array({ minLength: 1, maxLength: 64 }),
      fds: fc.oneof(
        { weight: 3, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.integer({ min: 1, max: 16 }) },
      ),
      fdsLost: fc.boolean(),
    });
    // Half of the streams have small sizes, so that they get past their first header.
    const tame = fc
      .array(piece, { maxLength: 12 })
      .map(pieces => pieces.map(p => ({ ...p, bytes: p.bytes.map((byte, i) => (i % 12 > 8 ? 0 : byte)) })));
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.array(piece, { maxLength: 12 }), tame), async pieces => {
        const before = openFds().length;
        const channel = new ScriptedChannel(
          pieces.map(p => ({ ...p, fds: Array.from({ length: p.fds }, () => anFd()) })),
        );
        const stream = new MessageStream(channel);
        try {
          for (let message = await stream.next(); message !== null; message = await stream.next()) {
            assert.ok(message.payload.length <= 4096);
            assert.ok(message.fds.length <= 8);
            for (const fd of message.fds) fd.close();
          }
        } catch (error) {
          assert.match((error as { code: string }).code, /^PROXY_(OVERSIZE|CLOSED)$/);
        }
        stream.close();
        assert.equal(openFds().length, before);
      }),
      { numRuns: 200 },
    );
  },
);

test('a reader asks for the header and then for the payload, and for nothing beyond', () => {
  const reader = new MessageReader();
  assert.equal(reader.wanted, 12);
  assert.equal(reader.push(header(6, 1, 16).subarray(0, 5)), null);
  assert.equal(reader.wanted, 7);
  assert.equal(reader.push(header(6, 1, 16).subarray(5)), null);
  assert.equal(reader.wanted, 16);
  assert.throws(() => reader.push(new Uint8Array(17)), RangeError);
  assert.deepEqual(reader.push(new Uint8Array(16).fill(7))?.payload, new Uint8Array(16).fill(7));
  assert.equal(reader.wanted, 12);
  assert.equal(reader.push(header(1, 1, 0))?.reqtype, 1);
});

test('a payload may be as long as the limit and not a byte longer', () => {
  assert.equal(new MessageReader(100).push(header(1, 1, 100)), null);
  assert.throws(() => new MessageReader(100).push(header(1, 1, 101)), { code: 'PROXY_OVERSIZE' });
  assert.throws(() => new MessageReader().push(header(1, 1, 0xffff_ffff)), { code: 'PROXY_OVERSIZE' });
});

leakTest('fds count only with the header, and only eight of them', () => {
  const late = new MessageReader();
  late.push(header(7, 1, 4), [anFd()]);
  const withPayload = anFd();
  const message = late.push(new Uint8Array(4), [withPayload])!;
  assert.match(message.fdFault!, /after the header/);
  assert.ok(withPayload.closed);
  for (const fd of message.fds) fd.close();

  const many = new MessageReader();
  for (let i = 0; i < 11; i++)
    many.push(
      header(5, 1, 0).subarray(i, i + 1),
      Array.from({ length: 16 }, () => anFd()),
    );
  assert.equal(openFds().filter(({ name }) => name === 'an fd').length, 8);
  many.dispose();

  const lost = new MessageReader();
  assert.match(lost.push(header(4, 1, 0), [], true)!.fdFault!, /lost/);
  assert.equal(lost.push(header(4, 1, 0))!.fdFault, null);
});

leakTest('a peer that says nothing, or stops inside a message, runs into a time limit', async () => {
  // These channels never become readable again after their pieces.
  const hanging = (pieces: Piece[]): ScriptedChannel => {
    const channel = new ScriptedChannel(pieces);
    const whenReadable = channel.whenReadable.bind(channel);
    let left = pieces.length;
    channel.whenReadable = callback => {
      if (left-- > 0) whenReadable(callback);
    };
    return channel;
  };
  const silent = new MessageStream(hanging([]));
  await assert.rejects(silent.next(20), { code: 'PROXY_TIMEOUT', message: /silent/ });
  silent.close();

  const stuck = new MessageStream(hanging([{ bytes: header(7, 1, 4), fds: [anFd()] }]), {
    messageTimeoutMs: 20,
  });
  await assert.rejects(stuck.next(), { code: 'PROXY_TIMEOUT', message: /unfinished/ });
  stuck.close();

  const closed = new MessageStream(hanging([]));
  const waiting = closed.next();
  closed.close();
  await assert.rejects(waiting, { code: 'PROXY_CLOSED' });
});

test('the end of the stream is an end between messages and an error inside one', async () => {
  const ended = new MessageStream(new ScriptedChannel([{ bytes: header(1, 1, 0) }]));
  assert.equal((await ended.next())!.reqtype, 1);
  assert.equal(await ended.next(), null);
  for (const piece of [header(7, 1, 4).subarray(0, 3), header(7, 1, 4)]) {
    const stream = new MessageStream(new ScriptedChannel([{ bytes: piece }]));
    await assert.rejects(stream.next(), { code: 'PROXY_CLOSED', message: /middle/ });
  }
});
