/** The client's end of vfio-user: against servers that are made of bytes, most of which lie. */
import assert from 'node:assert/strict';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  type CommandName,
  encodeCommand,
  encodeError,
  encodeReply,
  FLAGS,
  HEADER_SIZE,
  REGION_CAP,
  type VfioClientOptions,
  VfioUserClient,
} from '../../src/control/vfio-user/index.js';
import { EventFd } from '../../src/linux/eventfd.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { socketPair, type UnixSocket } from '../../src/linux/unix-socket.js';
import { anFd } from './vfio-user-peer.js';

const VERSION = { major: 0, minor: 0 };
const hello = (id: number, text = '{"capabilities":{"max_msg_fds":8}}\0'): Uint8Array =>
  encodeReply('VERSION', id, VERSION, Buffer.from(text));

/** For servers that are to be found too slow; the greeting must be in time even on a busy machine. */
const HASTY: VfioClientOptions = { replyTimeoutMs: 700, messageTimeoutMs: 50 };

interface Asked {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly payload: Uint8Array<ArrayBuffer>;
  readonly fds: readonly OwnedFd[];
}

/** What a server answers: bytes, and fds with them, which are closed when they are sent; null: nothing. */
type Answer = Uint8Array | { readonly bytes: Uint8Array; readonly fds: readonly OwnedFd[] } | null;

/** A server that gives the answers of a list, one to each command. VERSION it answers itself, unless it is told how. */
class FakeServer {
  readonly asked: Asked[] = [];
  /** The client is gone. */
  left = false;
  readonly socket: UnixSocket;
  readonly client: Promise<VfioUserClient>;
  readonly #answers: ((asked: Asked) => Answer)[];

  constructor(
    answers: readonly ((asked: Asked) => Answer)[],
    options: VfioClientOptions = {},
    greets = true,
  ) {
    const [mine, theirs] = socketPair('vfio-user');
    this.socket = theirs;
    this.#answers = [...(greets ? [({ id }: Asked) => hello(id)] : []), ...answers];
    theirs.onReadable(() => this.#read());
    this.client = VfioUserClient.connect(socketChannel(mine), options);
  }

  send(answer: Answer): void {
    if (answer === null) return;
    const { bytes, fds } = 'bytes' in answer ? answer : { bytes: answer, fds: [] };
    this.socket.send(
      bytes,
      fds.map(({ fd }) => fd),
    );
    for (const fd of fds) fd.close();
  }

  close(): void {
    this.socket.close();
  }

  /** Messages here are short and come whole. */
  #read(): void {
    while (!this.socket.closed) {
      const head = new Uint8Array(HEADER_SIZE);
      const got = this.socket.receive(head);
      if (got === null) return;
      if (got.bytes === 0) {
        this.socket.onReadable(null);
        this.left = true;
        return;
      }
      const view = new DataView(head.buffer);
      const payload = new Uint8Array(view.getUint32(4, true) - HEADER_SIZE);
      if (payload.length > 0) assert.equal(this.socket.receive(payload)!.bytes, payload.length);
      const asked = {
        ...{ id: view.getUint16(0, true), command: view.getUint16(2, true), flags: view.getUint32(8, true) },
        ...{ payload, fds: got.fds },
      };
      for (const fd of got.fds) fd.close();
      this.asked.push(asked);
      if (this.#answers.length > 0) this.send(this.#answers.shift()!(asked));
    }
  }
}

/** What a client does with the answers of a server: the error's code, or what came of it. */
async function outcome<T>(
  use: (client: VfioUserClient) => Promise<T>,
  answers: readonly ((asked: Asked) => Answer)[],
  options?: VfioClientOptions,
): Promise<T | string> {
  const server = new FakeServer(answers, options);
  const client = await server.client;
  try {
    return await use(client);
  } catch (error) {
    const { code } = error as Error & { code: string };
    if (code !== 'VFIO_REFUSED') {
      assert.equal((await client.closed)?.code ?? 'VFIO_CLOSED', code);
      await assert.rejects(client.reset(), { code: 'VFIO_CLOSED' });
    }
    return code;
  } finally {
    client.close();
    server.close();
  }
}

function changed(bytes: Uint8Array, at: number, value: number, size: 2 | 4 = 4): Uint8Array {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  if (size === 2) view.setUint16(at, value, true);
  else view.setUint32(at, value, true);
  return copy;
}

const INFO = { argsz: 16, flags: 3, numRegions: 9, numIrqs: 5 };
const getInfo = (client: VfioUserClient) => client.getInfo();
const info = ({ id }: Asked): Uint8Array => encodeReply('GET_INFO', id, INFO);

for (const [what, answer, code] of [
  ['nothing', () => null, 'VFIO_TIMEOUT'],
  ['another id', ({ id }: Asked) => encodeReply('GET_INFO', id + 1, INFO), 'VFIO_REPLY'],
  ['another command', (a: Asked) => changed(info(a), 2, 7, 2), 'VFIO_REPLY'],
  ['a command in its place', (a: Asked) => changed(info(a), 8, 0), 'VFIO_TIMEOUT'],
  ['a type that does not exist', (a: Asked) => changed(info(a), 8, 3), 'VFIO_FLAGS'],
  ['a reply that wants no reply', (a: Asked) => changed(info(a), 8, 0x11), 'VFIO_FLAGS'],
  ['flags without meaning', (a: Asked) => changed(info(a), 8, 0x101), 'VFIO_FLAGS'],
  ['a refusal that says more', (a: Asked) => changed(info(a), 8, 0x21), 'VFIO_SIZE'],
  ['a refusal', (a: Asked) => encodeError(a, 5), 'VFIO_REFUSED'],
  ['a refusal without a reason', (a: Asked) => encodeError(a, 0), 'VFIO_REFUSED'],
  ['too little', (a: Asked) => changed(info(a), 4, 20).slice(0, 20), 'VFIO_SIZE'],
  ['a header alone', (a: Asked) => changed(info(a), 4, 16).slice(0, 16), 'VFIO_SIZE'],
  ['too much', (a: Asked) => Buffer.concat([changed(info(a), 4, 36), new Uint8Array(4)]), 'VFIO_SIZE'],
  ['half of it', (a: Asked) => info(a).slice(0, 20), 'VFIO_TIMEOUT'],
  ['one that never ends', (a: Asked) => changed(info(a), 4, 0xffff_ffff), 'VFIO_OVERSIZE'],
  ['less than a header', (a: Asked) => changed(info(a), 4, 15), 'VFIO_SIZE'],
  ['a descriptor with it', (a: Asked) => ({ bytes: info(a), fds: [anFd()] }), 'VFIO_FDS'],
  [
    'many descriptors',
    (a: Asked) => ({ bytes: info(a), fds: Array.from({ length: 16 }, () => anFd()) }),
    'VFIO_FDS',
  ],
  ['a refusal with a descriptor', (a: Asked) => ({ bytes: encodeError(a, 5), fds: [anFd()] }), 'VFIO_FDS'],
] as const) {
  leakTest(`a server that answers ${what}: ${code}`, async () => {
    assert.equal(await outcome(getInfo, [answer], code === 'VFIO_TIMEOUT' ? HASTY : {}), code);
  });
}

leakTest('a server that says what nobody asked is hung up on', async () => {
  const server = new FakeServer([]);
  const client = await server.client;
  server.send({ bytes: encodeReply('GET_INFO', 77, INFO), fds: [anFd()] });
  assert.equal((await client.closed)?.code, 'VFIO_REPLY');
  server.close();
});

leakTest('a server that answers twice is hung up on', async () => {
  const server = new FakeServer([asked => Buffer.concat([info(asked), info(asked)])]);
  const client = await server.client;
  assert.deepEqual(await client.getInfo(), { flags: 3, numRegions: 9, numIrqs: 5 });
  assert.equal((await client.closed)?.code, 'VFIO_REPLY');
  server.close();
});

for (const [what, answer, code] of [
  ['nothing', () => null, 'VFIO_TIMEOUT'],
  ['no', (a: Asked) => encodeError(a, 22), 'VFIO_REFUSED'],
  [
    'another major version',
    ({ id }: Asked) => encodeReply('VERSION', id, { major: 1, minor: 0 }),
    'VFIO_VERSION',
  ],
  [
    'a later minor version',
    ({ id }: Asked) => encodeReply('VERSION', id, { major: 0, minor: 1 }),
    'VFIO_VERSION',
  ],
  ['no JSON', ({ id }: Asked) => hello(id, '{"capa\0'), 'VFIO_VERSION'],
  ['no NUL', ({ id }: Asked) => hello(id, '{}'), 'VFIO_VERSION'],
  [
    'capabilities that are none',
    ({ id }: Asked) => hello(id, '{"capabilities":{"pgsizes":"4096"}}\0'),
    'VFIO_VERSION',
  ],
  [
    'no room for descriptors',
    ({ id }: Asked) => hello(id, '{"capabilities":{"max_msg_fds":0}}\0'),
    'VFIO_FDS',
  ],
  ['a socket that was not asked for', ({ id }: Asked) => ({ bytes: hello(id), fds: [anFd()] }), 'VFIO_FDS'],
] as const) {
  leakTest(`a server that greets with ${what}: ${code}`, async () => {
    const server = new FakeServer([answer], code === 'VFIO_TIMEOUT' ? HASTY : {}, false);
    await assert.rejects(server.client, { code });
    await eventually(() => server.left);
    server.close();
  });
}

leakTest('what a server does not state has its default', async () => {
  for (const text of ['', '\0', '{}\0', '{"capabilities":{}}\0']) {
    const server = new FakeServer([({ id }) => hello(id, text)], {}, false);
    const client = await server.client;
    assert.deepEqual(client.capabilities, {
      ...{ maxMsgFds: 1, maxDataXferSize: 1 << 20, maxDmaMaps: 65535, pgsizes: 4096, writeMultiple: false },
    });
    client.close();
    server.close();
  }
  const sent = new FakeServer([({ id }) => hello(id)], {}, false);
  (await sent.client).close();
  assert.deepEqual(JSON.parse(Buffer.from(sent.asked[0]!.payload.subarray(4, -1)).toString()), {
    capabilities: {
      ...{
        max_msg_fds: 16,
        max_data_xfer_size: 1048576,
        max_dma_maps: 65535,
        pgsizes: 4096,
        write_multiple: true,
      },
    },
  });
  sent.close();
});

leakTest('replies may come in any order', async () => {
  const held: Asked[] = [];
  const server = new FakeServer(
    Array.from({ length: 3 }, () => (asked: Asked) => {
      held.push(asked);
      return null;
    }),
  );
  const client = await server.client;
  const reads = [1, 2, 3].map(n => client.regionRead(0, n, 1));
  await eventually(() => held.length === 3);
  for (const { id, payload } of held.reverse()) {
    const offset = payload[0]!;
    server.send(
      encodeReply('REGION_READ', id, { offset: BigInt(offset), region: 0, count: 1 }, Uint8Array.of(offset)),
    );
  }
  assert.deepEqual(
    (await Promise.all(reads)).flatMap(bytes => [...bytes]),
    [1, 2, 3],
  );
  client.close();
  server.close();
});

const REGION = { argsz: 32, flags: 3, index: 1, capOffset: 0, size: 0x3000n, offset: 0x100n };
const cap = (id: number, next: number, ...words: number[]): Uint8Array =>
  new Uint8Array(Uint32Array.of(id | (1 << 16), next, ...words).buffer);
const whole = ({ id }: Asked, values: Partial<typeof REGION>, ...caps: Uint8Array[]): Uint8Array => {
  const tail = Buffer.concat(caps);
  return encodeReply('GET_REGION_INFO', id, { ...REGION, argsz: 32 + tail.length, ...values }, tail);
};
const SPARSE = cap(REGION_CAP.SPARSE_MMAP, 0, 2, 0, 0x1000, 0, 0x1000, 0, 0x2000, 0, 0x800, 0);

leakTest('regions with capabilities are asked for twice; the first descriptor is closed', async () => {
  const file = createMemfd({ name: 'bar', size: 4096 });
  const type = cap(REGION_CAP.TYPE, 48 + 48, 7, 8);
  const result = await outcome(
    async client => {
      const region = await client.getRegionInfo(1);
      assert.ok(region.fd !== null && !region.fd.closed);
      region.fd.close();
      return region;
    },
    [
      ({ id }) => ({
        bytes: encodeReply('GET_REGION_INFO', id, { ...REGION, argsz: 32 + 16 + 48 + 8, flags: 7 }),
        fds: [file.dup()],
      }),
      asked => {
        assert.equal(new Uint32Array(asked.payload.buffer)[0], 32 + 16 + 48 + 8);
        const caps = [type, changed(SPARSE, 4, 0), cap(REGION_CAP.MSIX_MAPPABLE, 48)];
        return { bytes: whole(asked, { flags: 15, capOffset: 32 }, ...caps), fds: [file.dup()] };
      },
    ],
  );
  assert.ok(typeof result === 'object');
  assert.deepEqual(
    result.caps.map(({ id }) => id),
    [REGION_CAP.TYPE, REGION_CAP.MSIX_MAPPABLE, REGION_CAP.SPARSE_MMAP],
  );
  assert.deepEqual([...result.caps[0]!.body.subarray(0, 8)], [7, 0, 0, 0, 8, 0, 0, 0]);
  assert.deepEqual(result.areas, [
    { offset: 0x1000n, size: 0x1000n },
    { offset: 0x2000n, size: 0x800n },
  ]);
  assert.deepEqual([result.size, result.offset, result.flags], [0x3000n, 0x100n, 15]);
  file.close();
});

leakTest('regions that are described wrongly', async () => {
  const caps = { flags: 15, capOffset: 32 };
  const wrong: readonly (readonly [what: string, (asked: Asked) => Uint8Array, code?: string])[] = [
    ['another one', asked => whole(asked, { index: 2 })],
    ['a capability before its place', asked => whole(asked, { ...caps, capOffset: 8 }, SPARSE)],
    ['a capability behind the end', asked => whole(asked, { ...caps, capOffset: 0x1000 }, SPARSE)],
    ['a capability across the end', asked => whole(asked, { ...caps, capOffset: 32 + 44 }, SPARSE)],
    ['for ever the same', asked => whole(asked, caps, changed(SPARSE, 4, 32))],
    ['areas that are cut short', asked => whole(asked, caps, changed(SPARSE, 8, 3))],
    ['areas without number', asked => whole(asked, caps, SPARSE.slice(0, 12))],
    ['an area beyond the region', asked => whole(asked, caps, changed(SPARSE, 40, 0x1001))],
    ['an area that wraps', asked => whole(asked, caps, changed(SPARSE, 44, 0xffff_ffff))],
    ['too much to say', asked => whole(asked, { argsz: 0xffff_ffff })],
    ['too little', ({ id }) => encodeReply('GET_INFO', id, INFO), 'VFIO_REPLY'],
  ];
  for (const [what, answer, code = 'VFIO_VALUE'] of wrong) {
    const give = (asked: Asked): Answer => ({ bytes: answer(asked), fds: [anFd()] });
    assert.equal(await outcome(client => client.getRegionInfo(1), [give, give]), code, what);
  }
  // Never all that there is.
  const more = (asked: Asked): Uint8Array => whole(asked, { argsz: 200 });
  assert.equal(await outcome(client => client.getRegionInfo(1), [more, more]), 'VFIO_VALUE');
});

leakTest('file descriptors for writes: entries of 40 bytes, or of 48', async () => {
  const entry = (extra: boolean, fdIndex: number): Uint8Array => {
    const words = [0x1000, 0, 4, 0, fdIndex, 0, 1, 0, ...(extra ? [9, 9] : []), 0x55, 0];
    return new Uint8Array(Uint32Array.from(words).buffer);
  };
  const reply = ({ id }: Asked, entries: Uint8Array[], count = entries.length): Uint8Array => {
    const tail = Buffer.concat(entries);
    return encodeReply('GET_REGION_IO_FDS', id, { argsz: 16 + tail.length, flags: 0, index: 0, count }, tail);
  };
  const two = (): OwnedFd[] => [anFd(), anFd()];
  for (const extra of [false, true]) {
    const entries = [entry(extra, 1), entry(extra, 0)];
    const result = await outcome(
      async client => {
        const { entries, fds } = await client.getIoFds(0);
        for (const fd of fds) fd.close();
        return { entries, count: fds.length };
      },
      [
        ({ id }) =>
          encodeReply('GET_REGION_IO_FDS', id, {
            argsz: 16 + 2 * entries[0]!.length,
            flags: 0,
            index: 0,
            count: 2,
          }),
        asked => ({ bytes: reply(asked, entries), fds: two() }),
      ],
    );
    const there = { offset: 0x1000n, size: 4n, type: 0, flags: 1, datamatch: 0x55n };
    assert.deepEqual(result, {
      entries: [
        { ...there, fdIndex: 1 },
        { ...there, fdIndex: 0 },
      ],
      count: 2,
    });
  }
  const wrong: readonly ((asked: Asked) => Answer)[] = [
    asked => ({ bytes: reply(asked, [entry(false, 2)]), fds: two() }),
    asked => ({ bytes: reply(asked, [entry(false, 0)]), fds: [] }),
    asked => ({ bytes: reply(asked, [entry(false, 0)], 3), fds: two() }),
    asked => ({ bytes: reply(asked, [entry(false, 0), entry(true, 0)], 2), fds: two() }),
  ];
  for (const answer of wrong)
    assert.equal(await outcome(client => client.getIoFds(0), [answer]), 'VFIO_VALUE');
});

leakTest('replies that repeat something else', async () => {
  const where = { offset: 8n, region: 1, count: 4 };
  const four = new Uint8Array(4);
  const cases: readonly (readonly [
    (client: VfioUserClient) => Promise<unknown>,
    (asked: Asked) => Uint8Array,
    code?: string,
  ])[] = [
    [c => c.regionRead(1, 8, 4), ({ id }) => encodeReply('REGION_READ', id, { ...where, offset: 9n }, four)],
    [c => c.regionRead(1, 8, 4), ({ id }) => encodeReply('REGION_READ', id, { ...where, region: 2 }, four)],
    [c => c.regionRead(1, 8, 4), ({ id }) => encodeReply('REGION_READ', id, { ...where, count: 3 }, four)],
    [
      c => c.regionRead(1, 8, 4),
      ({ id }) => encodeReply('REGION_READ', id, where, four.slice(1)),
      'VFIO_SIZE',
    ],
    [
      c => c.regionRead(1, 8, 4),
      ({ id }) => encodeReply('REGION_READ', id, where, new Uint8Array(5)),
      'VFIO_SIZE',
    ],
    [c => c.regionRead(1, 8, 4), ({ id }) => encodeReply('REGION_READ', id, null), 'VFIO_SIZE'],
    [c => c.regionWrite(1, 8, four), ({ id }) => encodeReply('REGION_WRITE', id, { ...where, count: 2 })],
    [
      c => c.regionWriteMulti([{ region: 1, offset: 8, bytes: four }]),
      ({ id }) => encodeReply('REGION_WRITE_MULTI', id, { count: 0n }),
    ],
    [
      c => c.dmaUnmap(0n, 4096n),
      ({ id }) => encodeReply('DMA_UNMAP', id, { argsz: 24, flags: 0, address: 0n, size: 8192n }),
    ],
    [
      c => c.dmaMap({ iova: 0n, size: 4096n, fd: null }),
      ({ id }) =>
        changed(encodeReply('DMA_UNMAP', id, { argsz: 24, flags: 0, address: 0n, size: 0n }), 2, 2, 2),
      'VFIO_SIZE',
    ],
    [
      c => c.getIrqInfo(2),
      ({ id }) => encodeReply('GET_IRQ_INFO', id, { argsz: 16, flags: 1, index: 1, count: 8 }),
    ],
    [
      c => c.deviceFeature(0x1_0001, undefined, 8),
      ({ id }) => encodeReply('DEVICE_FEATURE', id, { argsz: 24, flags: 0x1_0001 }, new Uint8Array(16)),
    ],
    [
      c => c.deviceFeature(0x1_0001),
      ({ id }) => encodeReply('DEVICE_FEATURE', id, { argsz: 8, flags: 0x2_0001 }),
    ],
    [
      c => c.migDataRead(8),
      ({ id }) => encodeReply('MIG_DATA_READ', id, { argsz: 24, size: 16 }, new Uint8Array(16)),
    ],
    [c => c.migDataRead(8), ({ id }) => encodeReply('MIG_DATA_READ', id, { argsz: 24, size: 5 }, four)],
  ];
  for (const [i, [use, answer, code = 'VFIO_VALUE']] of cases.entries()) {
    assert.equal(await outcome(use, [answer]), code, `case ${i}`);
  }
});

leakTest('replies that are as they may be', async () => {
  const four = new Uint8Array(4);
  // Headers alone.
  const bare =
    (name: CommandName) =>
    ({ id }: Asked) =>
      encodeReply(name, id, null);
  assert.equal(await outcome(c => c.regionWrite(1, 8, four), [bare('REGION_WRITE')]), undefined);
  assert.equal(await outcome(c => c.dmaUnmap(0n, 4096n), [bare('DMA_UNMAP')]), undefined);
  const all = { argsz: 24, flags: 2, address: 0n, size: 1n << 30n };
  assert.equal(
    await outcome(c => c.dmaUnmapAll(), [({ id }) => encodeReply('DMA_UNMAP', id, all)]),
    undefined,
  );
  const state = (asked: Asked): Uint8Array => {
    assert.deepEqual([...new Uint32Array(asked.payload.buffer)], [16, 0x1_0001]);
    return encodeReply('DEVICE_FEATURE', asked.id, { argsz: 16, flags: 0x1_0001 }, new Uint8Array(8).fill(1));
  };
  assert.deepEqual(
    await outcome(c => c.deviceFeature(0x1_0001, undefined, 8), [state]),
    new Uint8Array(8).fill(1),
  );
  const piece = ({ id }: Asked): Uint8Array => encodeReply('MIG_DATA_READ', id, { argsz: 12, size: 4 }, four);
  assert.deepEqual(await outcome(c => c.migDataRead(100), [piece]), four);
  const taken = ({ id, payload }: Asked): Uint8Array => {
    assert.equal(Buffer.from(payload).toString('hex'), '0c0000000400000000000000');
    return encodeReply('MIG_DATA_WRITE', id, {});
  };
  assert.equal(await outcome(c => c.migDataWrite(four), [taken]), undefined);
  const multi = ({ id, payload }: Asked): Uint8Array => {
    const hex = '0100000000000000' + '0800000000000000' + '01000000' + '02000000' + '0504000000000000';
    assert.equal(Buffer.from(payload).toString('hex'), hex);
    return encodeReply('REGION_WRITE_MULTI', id, { count: 1n });
  };
  const write = { region: 1, offset: 8, bytes: Uint8Array.of(5, 4) };
  assert.equal(await outcome(c => c.regionWriteMulti([write]), [multi]), undefined);
});

leakTest('what was not asked for properly is not sent', async () => {
  const server = new FakeServer([]);
  const client = await server.client;
  const fds = Array.from({ length: 9 }, () => anFd());
  await assert.rejects(client.setIrqs({ flags: 0x24, index: 2, start: 0, count: 9 }, { fds }), RangeError);
  await assert.rejects(
    client.regionWriteMulti([{ region: 0, offset: 0, bytes: new Uint8Array(9) }]),
    RangeError,
  );
  await assert.rejects(client.dmaMap({ iova: -1n, size: 4096n, fd: null }), RangeError);
  assert.equal(server.asked.length, 1);
  for (const fd of fds) fd.close();
  client.close();
  server.close();
});

leakTest('posted writes want no reply, and go out in their place', async () => {
  const server = new FakeServer([]);
  const client = await server.client;
  const four = new Uint8Array(4);
  await client.regionWrite(0, 0, four, { posted: true });
  const read = client.regionRead(0, 0, 4);
  await client.regionWriteMulti([{ region: 0, offset: 4, bytes: four }], { posted: true });
  await eventually(() => server.asked.length === 4);
  assert.deepEqual(
    server.asked.slice(1).map(({ command, flags }) => [command, flags]),
    [
      [10, FLAGS.NO_REPLY],
      [9, 0],
      [15, FLAGS.NO_REPLY],
    ],
  );
  client.close();
  await assert.rejects(read, { code: 'VFIO_CLOSED' });
  assert.equal(await client.closed, null);
  server.close();
});

leakTest('a server that is slow gets only so much at a time, and all of it', async () => {
  const held: Asked[] = [];
  const server = new FakeServer(
    Array.from({ length: 1000 }, () => (asked: Asked) => {
      held.push(asked);
      return null;
    }),
  );
  const client = await server.client;
  const ram = createMemfd({ name: 'ram', size: 4096 });
  const maps = Array.from({ length: 1000 }, (_, i) =>
    client.dmaMap({ iova: BigInt(i) * 4096n, size: 4096n, fd: ram }),
  );
  await eventually(() => held.length === 128);
  let answered = 0;
  while (answered < 1000) {
    await eventually(() => held.length > 0);
    assert.ok(held.length <= 128);
    const { id, payload } = held.shift()!;
    assert.equal(new DataView(payload.buffer).getBigUint64(16, true), BigInt(answered) * 4096n);
    server.send(encodeReply('DMA_MAP', id, {}));
    answered += 1;
  }
  await Promise.all(maps);
  client.close();
  server.close();
  ram.close();
});

/** A client with memory of 64 KiB, and what it answers to commands of the server's. */
async function withMemory(handler = true) {
  const bytes = new Uint8Array(65536);
  const memory = {
    read: (address: bigint, into: Uint8Array) => {
      if (address + BigInt(into.length) > 65536n) throw new RangeError('beyond');
      into.set(bytes.subarray(Number(address), Number(address) + into.length));
    },
    write: async (address: bigint, from: Uint8Array) => bytes.set(from, Number(address)),
  };
  const replies: { id: number; command: number; flags: number; errno: number; payload: Buffer }[] = [];
  const [mine, theirs] = socketPair('vfio-user');
  const scrap = new Uint8Array(1 << 20);
  let rest = Buffer.alloc(0);
  theirs.onReadable(() => {
    for (let got = theirs.receive(scrap); got && got.bytes > 0; got = theirs.receive(scrap)) {
      rest = Buffer.concat([rest, scrap.subarray(0, got.bytes)]);
    }
    while (rest.length >= HEADER_SIZE && rest.length >= rest.readUInt32LE(4)) {
      const message = rest.subarray(0, rest.readUInt32LE(4));
      rest = rest.subarray(message.length);
      const [id, command, flags] = [
        message.readUInt16LE(0),
        message.readUInt16LE(2),
        message.readUInt32LE(8),
      ];
      if ((flags & FLAGS.TYPE) !== FLAGS.REPLY) theirs.send(hello(id));
      else
        replies.push({ id, command, flags, errno: message.readUInt32LE(12), payload: message.subarray(16) });
    }
  });
  const client = await VfioUserClient.connect(socketChannel(mine), handler ? { memory } : {});
  return { client, server: theirs, bytes, replies };
}

leakTest('the server reads and writes the memory of a client that lets it', async () => {
  const { client, server, bytes, replies } = await withMemory();
  bytes.set([1, 2, 3, 4], 0x100);
  server.send(encodeCommand('DMA_READ', { address: 0x100n, count: 4n }, undefined, { id: 9 }));
  server.send(encodeCommand('DMA_WRITE', { address: 0x200n, count: 2n }, Uint8Array.of(7, 8), { id: 9 }));
  server.send(
    encodeCommand('DMA_WRITE', { address: 0x300n, count: 1n }, Uint8Array.of(9), { noReply: true }),
  );
  server.send(encodeCommand('DMA_READ', { address: 0x300n, count: 1n }, undefined, { id: 10 }));
  await eventually(() => replies.length === 3);
  assert.deepEqual(
    replies.map(({ id, command, flags, payload }) => [id, command, flags, payload.toString('hex')]),
    [
      [9, 11, 1, '0001000000000000040000000000000001020304'],
      [9, 12, 1, '00020000000000000200000000000000'],
      [10, 11, 1, '0003000000000000010000000000000009'],
    ],
  );
  assert.deepEqual([...bytes.subarray(0x200, 0x202)], [7, 8]);
  client.close();
  server.close();
});

leakTest('commands of the server that are wrong are refused', async () => {
  const { client, server, replies } = await withMemory();
  const errno = async (bytes: Uint8Array, fds: OwnedFd[] = []): Promise<number> => {
    const before = replies.length;
    server.send(
      bytes,
      fds.map(({ fd }) => fd),
    );
    for (const fd of fds) fd.close();
    await eventually(() => replies.length > before);
    const { flags, errno, payload } = replies.at(-1)!;
    assert.deepEqual([flags, payload.length], [FLAGS.REPLY | FLAGS.ERROR, 0]);
    return errno;
  };
  const read = (address: bigint, count: bigint) => encodeCommand('DMA_READ', { address, count });
  const write = (count: bigint, data: number) =>
    encodeCommand('DMA_WRITE', { address: 0n, count }, new Uint8Array(data));
  assert.equal(await errno(read(65536n, 1n)), 22);
  assert.equal(await errno(read((1n << 64n) - 1n, 2n)), 22);
  assert.equal(await errno(read(0n, (1n << 20n) + 1n)), 7);
  assert.equal(await errno(read(0n, (1n << 64n) - 1n)), 7);
  assert.equal(await errno(write(4n, 3)), 22);
  assert.equal(await errno(write(4n, 5)), 22);
  assert.equal(await errno(read(0n, 4n), [anFd()]), 22);
  assert.equal(await errno(encodeCommand('DEVICE_RESET', {})), 38);
  assert.equal(await errno(changed(read(0n, 4n), 2, 99, 2)), 38);
  assert.equal(await errno(changed(read(0n, 4n), 4, 31).slice(0, 31)), 22);
  server.send(encodeCommand('DMA_WRITE', { address: 0n, count: 4n }, undefined, { noReply: true }));
  assert.equal(await errno(encodeCommand('DEVICE_RESET', {})), 38, 'and that is the only answer');
  client.close();
  server.close();
  const without = await withMemory(false);
  without.server.send(read(0n, 4n));
  await eventually(() => without.replies.length === 1);
  assert.equal(without.replies[0]!.errno, 14);
  without.client.close();
  without.server.close();
});

leakTest('a server that asks and asks, and does not read, does not keep the client', async () => {
  const [mine, theirs] = socketPair('vfio-user');
  theirs.onReadable(() => {
    theirs.onReadable(null);
    theirs.send(hello(0));
    for (let i = 0; i < 3000; i++) theirs.send(encodeCommand('DMA_READ', { address: 0n, count: 16384n }));
  });
  let reads = 0;
  const memory = { read: () => void reads++, write: () => {} };
  const client = await VfioUserClient.connect(socketChannel(mine), { memory, messageTimeoutMs: 50 });
  assert.equal((await client.closed)?.code, 'VFIO_TIMEOUT');
  assert.ok(reads < 500);
  theirs.close();
});

leakTest('memory that never answers does not keep the connection open', async () => {
  const [mine, theirs] = socketPair('vfio-user');
  const gift = anFd();
  theirs.onReadable(() => {
    theirs.onReadable(null);
    theirs.send(hello(0));
    for (let i = 0; i < 40; i++)
      theirs.send(encodeCommand('DMA_READ', { address: 0n, count: 4n }), [gift.fd]);
    theirs.send(encodeCommand('DMA_READ', { address: 0n, count: 4n }));
    for (let i = 0; i < 40; i++) theirs.send(encodeCommand('DMA_READ', { address: 0n, count: 4n }));
  });
  let begun = false;
  const read = () => {
    begun = true;
    return new Promise<void>(() => {});
  };
  const client = await VfioUserClient.connect(socketChannel(mine), { memory: { read, write: () => {} } });
  await eventually(() => begun);
  client.close();
  assert.equal(await client.closed, null);
  gift.close();
  theirs.close();
});

leakTest('the server leaves at every step, and in the middle of every answer', async () => {
  const four = new Uint8Array(4);
  const ram = createMemfd({ name: 'ram', size: 4096 });
  const signal = EventFd.create('signal');
  const where = { offset: 0n, region: 0, count: 4 };
  const steps: readonly (readonly [
    (client: VfioUserClient) => Promise<unknown>,
    (asked: Asked) => Uint8Array,
  ])[] = [
    [c => c.dmaMap({ iova: 0n, size: 4096n, fd: ram }), ({ id }) => encodeReply('DMA_MAP', id, {})],
    [getInfo, info],
    [c => c.getRegionInfo(1), asked => whole(asked, {})],
    [
      c => c.getIrqInfo(2),
      ({ id }) => encodeReply('GET_IRQ_INFO', id, { argsz: 16, flags: 1, index: 2, count: 8 }),
    ],
    [c => c.connectIrqs(2, 0, [signal.owner]), ({ id }) => encodeReply('SET_IRQS', id, {})],
    [c => c.regionRead(0, 0, 4), ({ id }) => encodeReply('REGION_READ', id, where, four)],
    [c => c.regionWrite(0, 0, four), ({ id }) => encodeReply('REGION_WRITE', id, where)],
    [c => c.reset(), ({ id }) => encodeReply('DEVICE_RESET', id, {})],
    [c => c.dmaUnmap(0n, 4096n), ({ id }) => encodeReply('DMA_UNMAP', id, null)],
  ];
  for (let last = 0; last < steps.length; last++) {
    for (const part of [0, 0.3, 0.99]) {
      const server: FakeServer = new FakeServer(
        steps.slice(0, last + 1).map(([, answer], i) => (asked: Asked) => {
          const bytes = answer(asked);
          if (i < last) return bytes;
          const cut = Math.floor(bytes.length * part);
          if (cut > 0) server.send(bytes.subarray(0, cut));
          server.close();
          return null;
        }),
      );
      const client = await server.client;
      for (const [use] of steps.slice(0, last)) await use(client);
      await assert.rejects(steps[last]![0](client), { code: 'VFIO_CLOSED' });
      const reason = await client.closed;
      assert.equal(reason?.code ?? null, part === 0 ? null : 'VFIO_CLOSED');
      await assert.rejects(client.regionWrite(0, 0, four, { posted: true }), { code: 'VFIO_CLOSED' });
    }
  }
  ram.close();
  signal.close();
});
