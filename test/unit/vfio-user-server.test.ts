/** The server's end of vfio-user over a function that takes notes: what QEMU says, in its order, and what is answered to what is wrong. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ScriptedChannel } from '../../src/control/bpfhv-proxy/testing.js';
import {
  type ClientMemory,
  COMMANDS,
  type CommandValues,
  DMA,
  decodeCapabilities,
  encodeCommand,
  encodeReply,
  FEATURE_FLAG,
  FLAGS,
  HEADER_SIZE,
  IRQ_SET,
  serveVfioUser,
  UNMAP_ALL,
} from '../../src/control/vfio-user/index.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { type OwnedFd, openFds } from '../../src/linux/fd.js';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { anFd, hello, NoteTakingFunction, Peer, QEMU_VERSION } from './vfio-user-peer.js';
import { at, CONVERSATION, info, irqs, map, memory, u32, unmap } from './vfio-user-scripts.js';

const E = { ENOENT: 2, EEXIST: 17, EINVAL: 22, ENOTTY: 25, ENOSPC: 28, ENOSYS: 38, EOPNOTSUPP: 95 };

/** Where the function's memory is: address, size, offset, and whether it may be written. */
const table = (fn: NoteTakingFunction): string[] =>
  fn.memory.map(m => {
    assert.equal(m.hypervisorVirtualAddress, m.guestPhysicalAddress);
    const rights = m.writable ? 'rw' : 'r';
    return `${m.guestPhysicalAddress.toString(16)}+${m.size.toString(16)}@${m.mmapOffset.toString(16)} ${rights}`;
  });

leakTest('QEMU 11.1 from its first message to the driver that runs, as bytes', async () => {
  const fn = new NoteTakingFunction();
  const peer = new Peer(fn);
  const ram = memory(1 << 28);
  const exchange = async (hex: string, fds: OwnedFd[] = []): Promise<string> => {
    peer.send(Buffer.from(hex.replaceAll(' ', ''), 'hex'), fds);
    const { id, command, flags, errno, payload } = await peer.answer();
    return `${id} ${command} ${flags} ${errno} ${Buffer.from(payload).toString('hex')}`;
  };

  // VERSION: the reply may not be longer than the request.
  assert.equal(QEMU_VERSION.length, HEADER_SIZE + 198);
  peer.send(QEMU_VERSION);
  const version = await peer.answer();
  assert.deepEqual([version.id, version.command, version.flags], [0, 1, 1]);
  assert.ok(version.payload.length <= 198);
  assert.deepEqual([...version.payload.subarray(0, 4), version.payload.at(-1)], [0, 0, 0, 0, 0]);
  const text = Buffer.from(version.payload.subarray(4, -1)).toString();
  assert.deepEqual(JSON.parse(text), {
    capabilities: { max_msg_fds: 8, max_data_xfer_size: 1048576, max_dma_maps: 65535, pgsizes: 4096 },
  });

  // DMA_MAP, pipelined, ids consecutive; the firmware has no fd.
  const maps = [
    '0100 0200 30000000 00000000 00000000 20000000 03000000 0000000000000000 0000000000000000 0000000800000000',
    '0200 0200 30000000 00000000 00000000 20000000 01000000 0000000000000000 0000fcff00000000 0000040000000000',
    '0300 0200 30000000 00000000 00000000 20000000 03000000 0000000800000000 0000000001000000 0000000800000000',
  ];
  maps.forEach((hex, i) => {
    peer.send(Buffer.from(hex.replaceAll(' ', ''), 'hex'), i === 1 ? [] : [ram.dup()]);
  });
  for (const id of [1, 2, 3]) {
    const reply = await peer.answer();
    assert.deepEqual([reply.id, reply.command, reply.flags, reply.payload.length], [id, 2, 1, 0]);
  }
  assert.deepEqual(table(fn), ['0+8000000@0 rw', '100000000+8000000@8000000 rw']);
  assert.equal(fn.calls.filter(call => call.startsWith('setMemory')).length, 1);

  // GET_INFO, regions 0 to 5 and 7, interrupts.
  assert.equal(
    await exchange('0400 0400 20000000 00000000 00000000 10000000 00000000 00000000 00000000'),
    '4 4 1 0 10000000030000000900000005000000',
  );
  const region = (id: number, index: number): string =>
    `0${id}00 0500 30000000 00000000 00000000 20000000 00000000 0${index}000000 00000000 0000000000000000 0000000000000000`;
  assert.equal(
    await exchange(region(5, 0)),
    '5 5 1 0 2000000003000000000000000000000000200000000000000000000000000000',
  );
  assert.match(await exchange(region(6, 1)), /^6 5 1 0 2000000000000000010000000{40}$/);
  assert.match(await exchange(region(7, 2)), /^7 5 1 0 200000000100000002000000000000000010000000000000/);
  assert.match(await exchange(region(8, 7)), /^8 5 1 0 200000000300000007000000000000000010000000000000/);
  assert.equal(
    await exchange('0900 0700 20000000 00000000 00000000 10000000 00000000 03000000 00000000'),
    '9 7 1 0 10000000090000000300000000000000',
  );
  assert.equal(
    await exchange('0a00 0700 20000000 00000000 00000000 10000000 00000000 02000000 00000000'),
    '10 7 1 0 10000000010000000200000020000000',
  );

  // The whole configuration space at once, or the first half of a page of it; the ROM's register; BAR 0.
  fn.bytes[REGION.CONFIG]!.set([0xf4, 0x1a]);
  const config = await exchange('0b00 0900 20000000 00000000 00000000 0000000000000000 07000000 00100000');
  assert.match(config, /^11 9 1 0 00000000000000000700000000100000f41a0{8188}$/);
  assert.match(
    await exchange('0c00 0900 20000000 00000000 00000000 0000000000000000 07000000 00010000'),
    /^12 9 1 0 00000000000000000700000000010000f41a0{508}$/,
  );
  assert.equal(
    await exchange('0d00 0a00 24000000 00000000 00000000 3000000000000000 07000000 04000000 00f8ffff'),
    '13 10 1 0 30000000000000000700000004000000',
  );
  assert.equal(fn.calls.at(-1), 'write(7, 0x30, 00f8ffff)');

  // INTx, reset, MSI-X: cleared with no fds, then vector by vector.
  const intx = anFd();
  assert.equal(
    await exchange('0e00 0800 24000000 00000000 00000000 18000000 24000000 00000000 00000000 01000000', [
      intx,
    ]),
    '14 8 1 0 ',
  );
  assert.equal(
    await exchange('0f00 0800 24000000 00000000 00000000 14000000 21000000 00000000 00000000 00000000'),
    '15 8 1 0 ',
  );
  assert.equal(await exchange('1000 0d00 10000000 00000000 00000000'), '16 13 1 0 ');
  assert.equal(
    await exchange('1100 0800 24000000 00000000 00000000 18000000 24000000 02000000 00000000 01000000'),
    '17 8 1 0 ',
  );
  const vectors = [anFd(), anFd(), anFd()];
  assert.equal(
    await exchange(
      '1200 0800 24000000 00000000 00000000 20000000 24000000 02000000 00000000 03000000',
      vectors,
    ),
    '18 8 1 0 ',
  );
  assert.deepEqual(fn.calls.slice(-7), [
    'connect(0.0, fd)',
    'connect(0.0, nothing)',
    'reset()',
    'connect(2.0, nothing)',
    'connect(2.0, fd)',
    'connect(2.1, fd)',
    'connect(2.2, fd)',
  ]);

  // A posted doorbell is not answered: the next answer is the next read's.
  peer.send(Buffer.from('13000a002400000010000000000000000010000000000000000000000400000001000000', 'hex'));
  assert.equal(
    await exchange('1400 0900 20000000 00000000 00000000 0010000000000000 00000000 04000000'),
    '20 9 1 0 0010000000000000000000000400000001000000',
  );

  // Memory moves while it runs.
  peer.send(
    Buffer.from('15000300280000000000000000000000180000000000000000000000000000000000000800000000', 'hex'),
  );
  peer.send(
    Buffer.from(
      '1600020030000000000000000000000020000000030000000000000000000000000000000000000000000c0000000000',
      'hex',
    ),
    [ram.dup()],
  );
  const unmapped = await peer.answer();
  assert.equal(
    Buffer.from(unmapped.payload).toString('hex'),
    '180000000000000000000000000000000000000800000000',
  );
  assert.equal((await peer.answer()).id, 0x16);
  assert.deepEqual(table(fn), ['0+c0000@0 rw', '100000000+8000000@8000000 rw']);

  const end = await peer.close();
  assert.deepEqual(peer.refusals, []);
  assert.deepEqual(end, { requests: 23, refused: 0, error: null });
  assert.equal(fn.calls.at(-1), 'disconnect()');
  ram.close();
});

leakTest('a version is agreed on once, and before anything else', async () => {
  const fn = new NoteTakingFunction();
  const peer = new Peer(fn);
  assert.equal(await peer.errno('REGION_READ', at(0, 0, 4)), E.EINVAL);
  const ram = memory();
  assert.equal(await peer.errno('DMA_MAP', map(0, 4096), { fds: [ram] }), E.EINVAL);
  for (const wrong of [
    '{"capabilities":[]}',
    '[]',
    '7',
    '{"capabilities":{"max_msg_fds":"8"}}',
    '{"capabilities":{"max_msg_fds":-1}}',
    '{"capabilities":{"max_data_xfer_size":0}}',
    '{"capabilities":{"max_dma_maps":1.5}}',
    '{"capabilities":{"write_multiple":1}}',
    '{"capabilities":',
    ' '.repeat(5000),
  ]) {
    peer.send(hello(wrong));
    const { flags, errno } = await peer.answer();
    assert.deepEqual([flags, errno], [FLAGS.REPLY | FLAGS.ERROR, E.EINVAL], wrong);
  }
  const other = { major: 1, minor: 0 };
  assert.equal(await peer.errno('VERSION', other, { tail: Buffer.from('{}\0') }), E.EINVAL);
  assert.equal(await peer.errno('VERSION', { major: 0, minor: 0 }, { tail: Buffer.from('{}') }), E.EINVAL);
  assert.equal(await peer.errno('VERSION', { major: 0, minor: 1 }, { tail: Buffer.of(0xff, 0) }), E.EINVAL);
  // Nothing at all will do, and a later minor version.
  const reply = await peer.ask('VERSION', { major: 0, minor: 7 });
  assert.deepEqual([...reply.payload.subarray(0, 4)], [0, 0, 0, 0]);
  peer.send(QEMU_VERSION);
  assert.equal((await peer.answer()).errno, E.EINVAL);
  await peer.settle();
  await peer.close();
  assert.equal(peer.refusals.length, 16);
  assert.deepEqual(fn.calls, ['disconnect()']);
});

leakTest('what is agreed on is what both can do', async () => {
  const fn = new NoteTakingFunction();
  const peer = new Peer(fn);
  peer.send(
    hello('{"capabilities":{"max_data_xfer_size":64,"max_dma_maps":2,"max_msg_fds":0,"later":{"x":1}}}'),
  );
  const { payload } = await peer.answer();
  const agreed = decodeCapabilities(payload.subarray(4));
  assert.deepEqual([agreed.maxDataXferSize, agreed.maxDmaMaps, agreed.maxMsgFds], [64, 2, 8]);
  assert.equal(await peer.errno('REGION_READ', at(0, 0, 64)), 0);
  assert.equal(await peer.errno('REGION_READ', at(0, 0, 65)), E.EINVAL);
  // It can't receive the eventfd.
  const bell = anFd();
  fn.bells.push({ offset: 0, size: 4, fd: bell });
  const io = await peer.ask('GET_REGION_IO_FDS', { argsz: 4096, flags: 0, index: 0, count: 0 });
  assert.deepEqual([io.payload.length, io.fds.length], [16, 0]);
  await peer.close();
  bell.close();
});

leakTest('memory: what a table takes, and what not', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn, { maxDmaMaps: 6, maxFiles: 2 });
  const ram = memory(1 << 20);
  const add = (values: CommandValues<'DMA_MAP'>, fd: OwnedFd | null = ram) =>
    peer.errno('DMA_MAP', values, { fds: fd ? [fd.dup()] : [] });
  const remove = (values: CommandValues<'DMA_UNMAP'>) => peer.errno('DMA_UNMAP', values);
  const TOP = (1n << 64n) - 4096n;

  const wrong: readonly (readonly [what: string, values: CommandValues<'DMA_MAP'>])[] = [
    ['empty', map(0, 0)],
    ['wraps', map(TOP, 8192)],
    ['not in pages', map(0, 100)],
    ['not at a page', map(100, 4096)],
    ['not at a page of the file', map(0, 4096, 100)],
    ['beyond the file', map(0, 2 << 20)],
    ['offset and size wrap', map(0, 8192, TOP)],
    ['neither read nor written', map(0, 4096, 0, 0)],
    ['unknown flags', map(0, 4096, 0, 7)],
    ['argsz', { ...map(0, 4096), argsz: 31 }],
  ];
  for (const [what, values] of wrong) assert.equal(await add(values), E.EINVAL, what);
  const signal = anFd();
  assert.equal(await add(map(0, 4096), signal), E.EINVAL, 'an eventfd is no memory');
  signal.close();
  assert.ok(!fn.calls.some(call => call.startsWith('setMemory')));

  assert.equal(await add(map(0, 0x10000)), 0);
  assert.equal(await add(map(TOP, 4096, 0x1000)), 0);
  assert.equal(await add(map(0x10000, 0x10000, 0x10000)), 0);
  assert.equal(await add(map(0x20000, 0x1000, 0x20000, DMA.READ)), 0);
  assert.deepEqual(table(fn), ['0+20000@0 rw', '20000+1000@20000 r', 'fffffffffffff000+1000@1000 rw']);
  for (const [address, size] of [
    [0, 4096],
    [0xf000, 0x2000],
    [0x20000, 0x10000],
    [0, 0x40000],
  ] as const) {
    assert.equal(await add(map(address, size)), E.EEXIST);
    assert.equal(await add(map(address, size), null), E.EEXIST);
  }
  // Without a file: known, not reachable, and no new memory.
  const calls = fn.calls.length;
  assert.equal(await add(map(0xfffc0000, 0x40000), null), 0);
  assert.equal(fn.calls.length, calls);
  assert.equal(await add(map(0xfffc0000, 0x1000)), E.EEXIST);
  const second = memory(4096, 'second');
  assert.equal(await add(map(0x100000, 4096), second), 0);
  assert.equal(await add(map(0x200000, 4096)), E.ENOSPC, 'a seventh map');
  assert.equal(await remove(unmap(TOP, 4096)), 0);
  const third = memory(4096, 'third');
  assert.equal(await add(map(0x200000, 4096), third), E.ENOSPC, 'a third file');
  assert.equal(await remove(unmap(0x100000, 4096)), 0);
  assert.equal(await add(map(0x200000, 4096), third), 0, 'the second one is not needed any more');

  for (const values of [unmap(0, 0), unmap(100, 4096), unmap(0, 100), unmap(TOP, 8192), unmap(0, 4096, 1)]) {
    assert.equal(await remove(values), E.EINVAL);
  }
  assert.equal(await remove({ ...unmap(0, 4096), argsz: 16 }), E.EINVAL);
  assert.equal(await remove(unmap(0, 4096)), E.EINVAL, 'a part of a map');
  assert.equal(await remove(unmap(0x1000, 0x1_0000_0000)), E.EINVAL, 'a part of a map, and others');
  assert.equal(await remove(unmap(1n << 40n, 1n << 46n)), E.ENOENT, 'never mapped');
  assert.equal(await remove(unmap(0x10000, 0x10000)), 0);
  // As QEMU does when a guest changes its IOMMU's domain: more than was mapped.
  assert.equal(await remove(unmap(0x20000, 1n << 46n)), 0);
  assert.deepEqual(table(fn), ['0+10000@0 rw']);
  assert.equal(await remove(unmap(4096, 0, UNMAP_ALL)), E.EINVAL);
  assert.equal(await remove(unmap(0, 0, UNMAP_ALL)), 0);
  assert.equal(await remove(unmap(0, 0, UNMAP_ALL)), 0);
  assert.deepEqual(table(fn), []);
  await peer.settle();
  await peer.close();
  for (const fd of [ram, second, third]) fd.close();
});

leakTest(
  'memory that the function refuses stays out, and its neighbours of the same moment come in',
  async () => {
    const fn = new NoteTakingFunction();
    const peer = await Peer.greeted(fn);
    const [good, bad] = [memory(1 << 20, 'good'), memory(1 << 20, 'bad')];
    assert.equal(await peer.errno('DMA_MAP', map(0, 4096), { fds: [good.dup()] }), 0);
    fn.unwanted = ({ guestPhysicalAddress }) => guestPhysicalAddress >= 0x1000_0000n;
    // While one command is carried out the others arrive.
    let open = (): void => {};
    fn.gate = new Promise(resolve => (open = resolve));
    peer.tell('DEVICE_RESET', {});
    for (let i = 1; i <= 10; i++) {
      const file = i === 7 ? bad : good;
      peer.tell('DMA_MAP', map((i === 7 ? 0x1000_0000 : 0) + i * 8192, 4096), { fds: [file.dup()] });
    }
    peer.tell('DMA_UNMAP', unmap(0, 4096));
    await eventually(() => peer.socket.receive(new Uint8Array(1)) === null);
    open();
    assert.equal((await peer.answer()).command, COMMANDS.DEVICE_RESET.number);
    for (let i = 1; i <= 10; i++) {
      const { command, errno } = await peer.answer();
      assert.deepEqual([command, errno], [COMMANDS.DMA_MAP.number, i === 7 ? E.EINVAL : 0]);
    }
    assert.equal((await peer.answer()).flags, FLAGS.REPLY);
    assert.equal(table(fn).length, 9);
    const tries = fn.calls.filter(call => call.startsWith('setMemory'));
    assert.ok(tries.length <= 10, `${tries.length} tries`);
    await peer.close();
    good.close();
    bad.close();
  },
);

leakTest('tens of thousands of maps: few changes of memory, one descriptor, in time', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn);
  const ram = memory(1 << 28);
  const open = openFds().length;
  const COUNT = 20_000;
  const begun = performance.now();
  let [sent, answered] = [0, 0];
  const scrap = new Uint8Array(65536);
  // Pages in an order that no two of them can be joined; the doorbell behind them finds all of them there.
  let done = false;
  while (!done) {
    while (sent < COUNT && peer.socket.queuedBytes === 0) {
      const page = (sent * 7919) % COUNT;
      peer.tell('DMA_MAP', map(page * 8192, 4096, ((page * 31) % 65536) * 4096), { fds: [ram.dup()] });
      sent += 1;
      if (sent === COUNT) peer.tell('REGION_WRITE', at(0, 0, 4), { tail: u32(1), noReply: true });
    }
    await peer.readable();
    for (let got = peer.socket.receive(scrap); got; got = peer.socket.receive(scrap)) answered += got.bytes;
    done = answered === COUNT * HEADER_SIZE;
  }
  await peer.settle();
  const ms = performance.now() - begun;
  assert.equal(fn.memory.length, COUNT);
  const calls = fn.calls.filter(call => call.startsWith('setMemory'));
  assert.ok(calls.length < COUNT / 20, `${calls.length} changes of memory`);
  assert.ok(fn.calls.indexOf('write(0, 0x0, 01000000)') > fn.calls.lastIndexOf(calls.at(-1)!));
  assert.equal(openFds().length, open + 1);
  assert.ok(ms < 60_000, `${ms} ms`);

  peer.tell('DMA_UNMAP', unmap(0, 1n << 40n));
  assert.equal((await peer.answer()).flags, FLAGS.REPLY);
  assert.deepEqual(fn.memory, []);
  assert.equal(openFds().length, open);
  await peer.close();
  assert.deepEqual(peer.refusals, []);
  ram.close();
});

leakTest('the same memory again and again, and cut differently: nothing piles up', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn);
  const ram = memory(1 << 20);
  const open = openFds().length;
  for (let i = 0; i < 200; i++) {
    const cut = 4096 * (1 + (i % 200));
    peer.tell('DMA_MAP', map(0, cut), { fds: [ram.dup()] });
    peer.tell('DMA_MAP', map(cut, (1 << 20) - cut, cut), { fds: [ram.dup()] });
    peer.tell('DMA_MAP', map(0, 1 << 20), { fds: [ram.dup()] });
    for (const errno of [0, 0, E.EEXIST]) assert.equal((await peer.answer()).errno, errno);
    assert.deepEqual(table(fn), ['0+100000@0 rw']);
    assert.equal(await peer.errno('DMA_UNMAP', unmap(0, 1 << 20)), 0);
    assert.deepEqual(table(fn), []);
  }
  assert.equal(openFds().length, open);
  await peer.close();
  ram.close();
});

leakTest('interrupts: every combination of data and action', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn);
  const { DATA_NONE, DATA_BOOL, DATA_EVENTFD, MASK, UNMASK, TRIGGER } = IRQ_SET;
  const { INTX, MSI, MSIX, ERR } = IRQ;
  const set = async (values: CommandValues<'SET_IRQS'>, tail?: Uint8Array, fds: OwnedFd[] = []) => {
    const before = fn.calls.length;
    return [await peer.errno('SET_IRQS', values, { tail, fds }), ...fn.calls.slice(before)];
  };
  const [first, second] = [EventFd.create('first'), EventFd.create('second')];
  const both = [first.owner.dup(), second.owner.dup()];
  assert.deepEqual(await set(irqs(DATA_EVENTFD | TRIGGER, MSIX, 30, 2), undefined, both), [
    ...[0, 'connect(2.30, fd)', 'connect(2.31, fd)'],
  ]);
  assert.deepEqual(await set(irqs(DATA_NONE | TRIGGER, MSIX, 30, 2)), [0, 'raise(2.30)', 'raise(2.31)']);
  assert.deepEqual([first.drain(), second.drain()], [1, 1]);
  assert.deepEqual(await set(irqs(DATA_BOOL | TRIGGER, MSIX, 30, 2), Uint8Array.of(0, 9)), [
    0,
    'raise(2.31)',
  ]);
  assert.deepEqual([first.drain(), second.drain()], [0, 1]);
  assert.deepEqual(await set(irqs(DATA_EVENTFD | TRIGGER, MSIX, 31, 1)), [0, 'connect(2.31, nothing)']);
  const disabled = await set(irqs(DATA_NONE | TRIGGER, MSIX, 0, 0));
  assert.deepEqual([disabled[0], disabled.length], [0, 33]);
  assert.deepEqual(await set(irqs(DATA_NONE | TRIGGER, MSI, 0, 0)), [0], 'there are none');
  assert.deepEqual(await set(irqs(DATA_NONE | MASK, INTX, 0, 1)), [0, 'mask(0.0, true)']);
  assert.deepEqual(await set(irqs(DATA_NONE | UNMASK, INTX, 0, 1)), [0, 'mask(0.0, false)']);
  assert.deepEqual(await set(irqs(DATA_BOOL | MASK, INTX, 0, 1), Uint8Array.of(0)), [0]);
  assert.deepEqual(await set(irqs(DATA_BOOL | UNMASK, INTX, 0, 1), Uint8Array.of(1)), [
    0,
    'mask(0.0, false)',
  ]);

  // Unmasked by an eventfd, until another one comes, or none.
  for (const eventfd of [first, second]) {
    assert.deepEqual(
      await set(irqs(DATA_EVENTFD | UNMASK, INTX, 0, 1), undefined, [eventfd.owner.dup()]),
      [0],
    );
    const before = fn.calls.length;
    eventfd.signal();
    await eventually(() => fn.calls.length > before);
    assert.equal(fn.calls.at(-1), 'mask(0.0, false)');
  }
  assert.deepEqual(await set(irqs(DATA_EVENTFD | UNMASK, INTX, 0, 1)), [0]);
  first.signal();
  second.signal();
  await peer.settle();
  assert.equal(
    await peer.errno('SET_IRQS', irqs(DATA_EVENTFD | UNMASK, INTX, 0, 1), { fds: [memory()] }),
    E.EINVAL,
  );

  for (const values of [
    irqs(DATA_NONE | TRIGGER, 5, 0, 0),
    irqs(DATA_NONE | TRIGGER, 0xffff_ffff, 0, 0),
    irqs(DATA_NONE | TRIGGER, MSIX, 32, 1),
    irqs(DATA_NONE | TRIGGER, MSIX, 1, 0xffff_ffff),
    irqs(DATA_NONE | TRIGGER, MSIX, 0xffff_ffff, 1),
    irqs(DATA_NONE | TRIGGER, MSIX, 1, 0),
    irqs(DATA_NONE | TRIGGER, ERR, 0, 1),
    irqs(DATA_NONE | MASK, INTX, 0, 0),
    irqs(DATA_EVENTFD | TRIGGER, MSIX, 0, 0),
    irqs(DATA_NONE | DATA_EVENTFD | TRIGGER, MSIX, 0, 1),
    irqs(DATA_NONE | MASK | TRIGGER, INTX, 0, 1),
    irqs(DATA_NONE, MSIX, 0, 1),
    irqs(TRIGGER, MSIX, 0, 1),
    irqs(0x40 | DATA_NONE | TRIGGER, MSIX, 0, 1),
    irqs(DATA_BOOL | TRIGGER, MSIX, 0, 1),
    { ...irqs(DATA_NONE | TRIGGER, MSIX, 0, 1), argsz: 19 },
  ]) {
    assert.deepEqual(await set(values), [E.EINVAL], JSON.stringify(values));
  }
  assert.deepEqual(await set(irqs(DATA_BOOL | TRIGGER, MSIX, 0, 2), new Uint8Array(3)), [E.EINVAL]);
  assert.deepEqual(await set(irqs(DATA_NONE | TRIGGER, MSIX, 0, 2), new Uint8Array(2)), [E.EINVAL]);
  assert.deepEqual(await set(irqs(DATA_NONE | MASK, MSIX, 0, 1)), [E.ENOTTY]);
  assert.deepEqual(await set(irqs(DATA_EVENTFD | UNMASK, MSIX, 0, 1), undefined, [anFd()]), [E.ENOTTY]);
  assert.deepEqual(await set(irqs(DATA_EVENTFD | MASK, INTX, 0, 1), undefined, [anFd()]), [E.ENOTTY]);
  // All eventfds, or none; and only where they are asked for.
  for (const [count, sent] of [
    [2, 1],
    [1, 2],
    [8, 9],
  ] as const) {
    const fds = Array.from({ length: sent }, () => anFd());
    assert.deepEqual(await set(irqs(DATA_EVENTFD | TRIGGER, MSIX, 0, count), undefined, fds), [E.EINVAL]);
  }
  assert.deepEqual(await set(irqs(DATA_NONE | TRIGGER, MSIX, 0, 1), undefined, [anFd()]), [E.EINVAL]);
  // What the function does not take: those behind it are closed.
  const mixed = [anFd(), memory(), anFd()];
  assert.deepEqual(await set(irqs(DATA_EVENTFD | TRIGGER, MSIX, 0, 3), undefined, mixed), [
    ...[E.EINVAL, 'connect(2.0, fd)', 'connect(2.1, fd)'],
  ]);
  await peer.close();
  first.close();
  second.close();
});

leakTest('regions: only what is there is read and written, in pieces of the agreed size', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn, { maxDataXferSize: 4096 });
  const read = (values: CommandValues<'REGION_READ'>) => peer.errno('REGION_READ', values);
  const write = (values: CommandValues<'REGION_READ'>, bytes = new Uint8Array(values.count)) =>
    peer.errno('REGION_WRITE', values, { tail: bytes });
  for (const [region, offset, count] of [
    [0, 8192, 4],
    [0, 8190, 4],
    [0, (1n << 64n) - 2n, 4],
    [0, 1n << 63n, 4],
    [0, 0, 4097],
    [0, 0, 0xffff_ffff],
    [1, 0, 1],
    [6, 0, 4],
    [8, 0, 4],
    [9, 0, 4],
    [0xffff_ffff, 0, 4],
  ] as const) {
    assert.equal(await read(at(region, offset, count)), E.EINVAL, `${region}: ${count} at ${offset}`);
    const bytes = new Uint8Array(Math.min(count, 5000));
    assert.equal(await write(at(region, offset, count), bytes), E.EINVAL, `${region}: ${count} at ${offset}`);
  }
  assert.equal(await write(at(2, 0, 4)), E.EINVAL, 'it can only be read');
  assert.equal(await read(at(2, 4092, 4)), 0);
  assert.equal(await write(at(0, 0, 4), new Uint8Array(3)), E.EINVAL);
  assert.equal(await write(at(0, 0, 4), new Uint8Array(5)), E.EINVAL);
  assert.equal(await peer.errno('GET_REGION_INFO', { ...info(9) }), E.EINVAL);
  assert.equal(await peer.errno('GET_REGION_INFO', { ...info(0), argsz: 31 }), E.EINVAL);
  assert.equal(await peer.errno('GET_IRQ_INFO', { argsz: 16, flags: 0, index: 5, count: 0 }), E.EINVAL);
  assert.deepEqual(fn.calls, ['read(2, 0xffc, 4)']);
  assert.equal(await read(at(0, 8192, 0)), 0, 'nothing, at the end');
  assert.equal(await write(at(0, 8192, 0)), 0);
  const reply = await peer.ask('REGION_READ', at(0, 4096, 4096));
  assert.equal(reply.payload.length, 16 + 4096);
  fn.refusing.add('read').add('write').add('reset');
  assert.equal(await read(at(0, 0, 4)), E.EINVAL);
  assert.equal(await write(at(0, 0, 4)), E.EINVAL);
  assert.equal(await peer.errno('DEVICE_RESET', {}), E.EINVAL);
  await peer.settle();
  await peer.close();
});

leakTest('nothing is ever answered to a command that wants no reply', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn);
  const silent = { noReply: true };
  peer.tell('REGION_WRITE', at(0, 0, 4), { tail: u32(7), ...silent });
  peer.tell('REGION_WRITE', at(0, 9000, 4), { tail: u32(7), ...silent });
  peer.tell('REGION_WRITE', at(0, 0, 4), { tail: u32(7, 8), ...silent });
  peer.tell('REGION_READ', at(0, 0, 4), silent);
  peer.tell('DMA_MAP', map(0, 4096), { fds: [memory()], ...silent });
  peer.tell('DMA_MAP', map(0, 4096), { fds: [memory()], ...silent });
  peer.tell('DMA_UNMAP', unmap(0, 1n << 50n), silent);
  peer.tell('DEVICE_FEATURE', { argsz: 8, flags: 1 }, silent);
  const unknown = encodeCommand('DEVICE_RESET', {}, undefined, silent);
  unknown[2] = 99;
  peer.send(unknown);
  await peer.settle();
  const end = await peer.close();
  assert.equal(end.refused, 5);
});

leakTest('many writes in one message: all of them, or none', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn);
  const one = (region: number, offset: number, count: number) =>
    Buffer.concat(
      [new BigUint64Array([BigInt(offset)]), u32(region, count, 0x04030201, 0x08070605)].map(
        a => new Uint8Array(a.buffer),
      ),
    );
  const multi = (count: number, tail: Uint8Array) =>
    peer.ask('REGION_WRITE_MULTI', { count: BigInt(count) }, { tail });
  const ok = await multi(3, Buffer.concat([one(0, 0, 4), one(7, 16, 1), one(0, 8, 8)]));
  assert.deepEqual([...ok.payload], [3, 0, 0, 0, 0, 0, 0, 0]);
  const writes = ['write(0, 0x0, 01020304)', 'write(7, 0x10, 01)', 'write(0, 0x8, 0102030405060708)'];
  assert.deepEqual(fn.calls, writes);
  for (const [count, tail] of [
    [2, one(0, 0, 4)],
    [1, Buffer.concat([one(0, 0, 4), one(0, 0, 4)])],
    [2, Buffer.concat([one(0, 0, 4), one(0, 8190, 4)])],
    [2, Buffer.concat([one(0, 0, 4), one(0, 0, 9)])],
    [2, Buffer.concat([one(0, 0, 4), one(2, 0, 4)])],
    [1025, Buffer.concat(Array.from({ length: 1025 }, () => one(0, 0, 4)))],
  ] as const) {
    assert.equal((await multi(count, tail)).errno, E.EINVAL);
  }
  assert.equal(await peer.errno('REGION_WRITE_MULTI', { count: (1n << 64n) - 1n }), E.EINVAL);
  assert.deepEqual(fn.calls, writes);
  // QEMU's largest, which is not answered.
  peer.tell(
    'REGION_WRITE_MULTI',
    { count: 200n },
    { tail: Buffer.concat(Array.from({ length: 200 }, () => one(0, 0, 4))), noReply: true },
  );
  await peer.settle();
  assert.equal(fn.calls.length, 203);
  await peer.close();
});

leakTest('doorbells are handed out to those who ask', async () => {
  const fn = new NoteTakingFunction();
  const bells = Array.from({ length: 10 }, (_, i) => EventFd.create(`bell ${i}`));
  for (const [i, bell] of bells.entries()) fn.bells.push({ offset: 4096 + 4 * i, size: 4, fd: bell.owner });
  fn.bells.push({ offset: 5000, size: 2, fd: bells[0]!.owner });
  const peer = new Peer(fn);
  peer.send(hello('{"capabilities":{"max_msg_fds":3}}'));
  await peer.answer();
  const ask = (argsz: number, index = 0, flags = 0) =>
    peer.ask('GET_REGION_IO_FDS', { argsz, flags, index, count: 0 });
  const short = await ask(16);
  assert.deepEqual([...new Uint32Array(short.payload.buffer)], [16 + 4 * 40, 0, 0, 4]);
  assert.equal(short.fds.length, 0);
  const whole = await ask(16 + 4 * 40);
  assert.equal(whole.payload.length, 16 + 4 * 40);
  assert.equal(whole.fds.length, 3);
  // u64 offset, u64 size, fd_index, type, flags, padding, u64 datamatch
  assert.deepEqual(
    [...new Uint32Array(whole.payload.buffer, 16 + 40, 10)],
    [4100, 0, 4, 0, 1, 0, 0, 0, 0, 0],
  );
  assert.deepEqual(
    [...new Uint32Array(whole.payload.buffer, 16 + 3 * 40, 10)],
    [5000, 0, 2, 0, 0, 0, 0, 0, 0, 0],
  );
  EventFd.adopt(whole.fds[1]!).signal();
  assert.equal(bells[1]!.drain(), 1);
  for (const fd of whole.fds) fd.close();
  assert.equal((await ask(4096, 9)).errno, E.EINVAL);
  assert.equal((await ask(4096, 0, 1)).errno, E.EINVAL);
  assert.deepEqual([...new Uint32Array((await ask(4096, 7)).payload.buffer)], [16, 0, 7, 0]);
  await peer.close();
  for (const bell of bells) bell.close();
});

leakTest('features and saved state: there are none', async () => {
  const peer = await Peer.greeted(new NoteTakingFunction());
  const { GET, SET, PROBE } = FEATURE_FLAG;
  const feature = (flags: number) => peer.errno('DEVICE_FEATURE', { argsz: 8, flags });
  for (const number of [0, 1, 2, 6, 7, 8, 0xffff]) {
    for (const how of [GET, SET, PROBE, PROBE | GET, PROBE | SET, PROBE | GET | SET]) {
      assert.equal(await feature(number | how), E.ENOTTY);
    }
    for (const how of [0, GET | SET, 0x8_0000 | GET]) assert.equal(await feature(number | how), E.EINVAL);
  }
  assert.equal(await peer.errno('MIG_DATA_READ', { argsz: 8, size: 4096 }), E.EOPNOTSUPP);
  assert.equal(
    await peer.errno('MIG_DATA_WRITE', { argsz: 8, size: 1 }, { tail: new Uint8Array(1) }),
    E.EOPNOTSUPP,
  );
  await peer.close();
});

leakTest('messages that are wrong cost that message', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn);
  const good = encodeCommand('REGION_READ', at(0, 0, 4), undefined, { id: 7 });
  const changed = (change: (view: DataView) => void): Uint8Array => {
    const bytes = good.slice();
    change(new DataView(bytes.buffer));
    return bytes;
  };
  const errno = async (bytes: Uint8Array, fds: OwnedFd[] = []): Promise<number> => {
    peer.send(bytes, fds);
    const answer = await peer.answer();
    assert.deepEqual([answer.id, answer.flags, answer.payload.length], [7, FLAGS.REPLY | FLAGS.ERROR, 0]);
    return answer.errno;
  };
  for (const command of [0, 11, 12, 14, 19, 0xffff]) {
    assert.equal(
      await errno(changed(view => view.setUint16(2, command, true))),
      E.ENOSYS,
      `command ${command}`,
    );
  }
  for (const flags of [0x20, 0x40, 0x8000_0000, 2, 15]) {
    assert.equal(await errno(changed(view => view.setUint32(8, flags, true))), E.EINVAL, `flags ${flags}`);
  }
  const length = (to: number): Uint8Array => {
    const bytes = new Uint8Array(to);
    bytes.set(good.subarray(0, to));
    new DataView(bytes.buffer).setUint32(4, to, true);
    return bytes;
  };
  for (const to of [16, 17, 31, 33, 4096, (1 << 20) + 65536]) assert.equal(await errno(length(to)), E.EINVAL);
  // Descriptors where none belong, or more than were agreed on.
  assert.equal(await errno(good, [anFd()]), E.EINVAL);
  const connect = encodeCommand('SET_IRQS', irqs(0x24, IRQ.MSIX, 0, 9), undefined, { id: 7 });
  assert.equal(
    await errno(
      connect,
      Array.from({ length: 9 }, () => anFd()),
    ),
    E.EINVAL,
  );
  assert.equal(
    await errno(
      connect,
      Array.from({ length: 16 }, () => anFd()),
    ),
    E.EINVAL,
  );
  // Behind the first byte they belong to nothing.
  const late = encodeCommand('DMA_MAP', map(0, 4096), undefined, { id: 7 });
  peer.send(late.subarray(0, 16));
  assert.equal(await errno(late.subarray(16), [memory()]), E.EINVAL);
  // A reply to nothing is not answered.
  peer.send(encodeReply('DMA_READ', 3, { address: 0n, count: 0n }), [anFd()]);
  await peer.settle();
  assert.deepEqual(fn.calls, []);
  await peer.close();
  assert.equal(peer.refusals.at(-1), 'DMA_READ: VFIO_REPLY');
});

leakTest('however messages are cut, and glued, each has its own descriptors', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn);
  const ram = memory();
  const command = encodeCommand('DMA_MAP', map(0x10000, 0x1000, 0x1000), undefined, { id: 1 });
  for (const [i, byte] of command.entries()) {
    peer.send(Uint8Array.of(byte), i === 0 ? [ram.dup()] : []);
    if (i % 7 === 0) await new Promise(resolve => setImmediate(resolve));
  }
  assert.equal((await peer.answer()).errno, 0);
  const without = encodeCommand('DMA_MAP', map(0x20000, 0x1000), undefined, { id: 2 });
  const with_ = encodeCommand('DMA_MAP', map(0x30000, 0x1000, 0x3000), undefined, { id: 3 });
  peer.send(Buffer.concat([without, without, with_.subarray(0, 0)]));
  peer.send(Buffer.concat([with_, without]), [ram.dup()]);
  for (const errno of [0, E.EEXIST, 0, E.EEXIST]) assert.equal((await peer.answer()).errno, errno);
  assert.deepEqual(table(fn), ['10000+1000@1000 rw', '30000+1000@3000 rw']);
  await peer.close();
  ram.close();
});

for (const [what, bytes, code] of [
  ['a size less than the header', u32(0x0004_0001, 15, 0, 0), 'VFIO_SIZE'],
  ['a size of nothing', u32(0x0004_0001, 0, 0, 0), 'VFIO_SIZE'],
  ['a size beyond all messages', u32(0x0004_0001, 16 + (1 << 20) + 65537, 0, 0), 'VFIO_OVERSIZE'],
  ['a size beyond all measure', u32(0x0004_0001, 0xffff_ffff, 0, 0), 'VFIO_OVERSIZE'],
  ['half a header', u32(0x0004_0001, 16), 'VFIO_TIMEOUT'],
  ['half a message', u32(0x0004_0001, 32, 0, 0, 16), 'VFIO_TIMEOUT'],
] as const) {
  leakTest(`${what} ends the connection`, async () => {
    const fn = new NoteTakingFunction();
    const peer = await Peer.greeted(fn, { messageTimeoutMs: 30 });
    peer.send(bytes);
    const { error } = await peer.ended;
    assert.equal((error as Error & { code: string }).code, code);
    assert.deepEqual(fn.calls, ['disconnect()']);
    peer.socket.close();
  });
}

leakTest('who connects and stays silent loses its place', async () => {
  const fn = new NoteTakingFunction();
  const peer = new Peer(fn, { firstRequestTimeoutMs: 20 });
  assert.equal(((await peer.ended).error as Error & { code: string }).code, 'VFIO_TIMEOUT');
  assert.deepEqual(fn.calls, ['disconnect()']);
  peer.socket.close();
});

leakTest('who asks and does not read is waited for, not for ever', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn, { messageTimeoutMs: 50 });
  for (let i = 0; i < 3000; i++) peer.tell('REGION_READ', at(0, 0, 8192));
  assert.equal(((await peer.ended).error as Error & { code: string }).code, 'VFIO_TIMEOUT');
  assert.ok(fn.calls.length < 500, 'commands that wait for their answers to be read are not carried out');
  peer.socket.close();
});

leakTest('who reads late gets everything', async () => {
  const peer = await Peer.greeted(new NoteTakingFunction());
  const ids = Array.from({ length: 200 }, () => peer.tell('REGION_READ', at(0, 0, 8192)));
  for (const id of ids) {
    const answer = await peer.answer();
    assert.deepEqual([answer.id, answer.payload.length], [id, 16 + 8192]);
  }
  assert.equal((await peer.close()).error, null);
});

leakTest('the signal ends the session, whatever it does', async () => {
  const fn = new NoteTakingFunction();
  const stop = new AbortController();
  const peer = await Peer.greeted(fn, { signal: stop.signal });
  let open = (): void => {};
  fn.gate = new Promise(resolve => (open = resolve));
  for (let i = 0; i < 10; i++) peer.tell('SET_IRQS', irqs(0x24, IRQ.MSIX, i, 1), { fds: [anFd()] });
  await eventually(() => fn.busy > 0);
  stop.abort();
  open();
  assert.equal(((await peer.ended).error as Error & { code: string }).code, 'VFIO_CLOSED');
  assert.equal(fn.calls.at(-1), 'disconnect()');
  assert.ok(fn.calls.length <= 3);
  peer.socket.close();
  const late = new Peer(fn, { signal: stop.signal });
  assert.notEqual((await late.ended).error, null);
  late.socket.close();
});

leakTest('what a client has written before it leaves is carried out', async () => {
  const fn = new NoteTakingFunction();
  const peer = await Peer.greeted(fn);
  for (let i = 0; i < 50; i++) peer.tell('REGION_WRITE', at(0, 4 * i, 4), { tail: u32(i), noReply: true });
  const end = await peer.close();
  assert.equal(end.error, null);
  assert.equal(fn.calls.length, 51);
});

/** The client's memory by messages, and the next message that the server sends. */
async function dma(fn: NoteTakingFunction, dmaTimeoutMs?: number) {
  let offered: ClientMemory | null = null;
  const peer = await Peer.greeted(fn, { dmaTimeoutMs, onMemory: memory => (offered = memory) });
  await eventually(() => offered);
  return { peer, memory: offered! as ClientMemory };
}

leakTest('the server reads and writes memory by messages, among commands with the same ids', async () => {
  const { peer, memory } = await dma(new NoteTakingFunction());
  const read = memory.read(0x1234n, 8);
  const ask = await peer.answer();
  assert.deepEqual([ask.command, ask.flags], [11, 0]);
  assert.equal(Buffer.from(ask.payload).toString('hex'), '34120000000000000800000000000000');
  // A command of the client's with that id is another one.
  peer.send(
    encodeCommand('GET_INFO', { argsz: 16, flags: 0, numRegions: 0, numIrqs: 0 }, undefined, { id: ask.id }),
  );
  const other = await peer.answer();
  assert.deepEqual([other.id, other.command], [ask.id, 4]);
  peer.send(encodeReply('DMA_READ', ask.id, { address: 0x1234n, count: 8n }, Buffer.from('ABCDEFGH')));
  assert.equal(Buffer.from(await read).toString(), 'ABCDEFGH');

  // The count of the reply has eight bytes or four.
  for (const count of [u32(3, 0), u32(3)]) {
    const written = memory.write(0xffff_ffff_0000n, Buffer.from('xyz'));
    const write = await peer.answer();
    assert.equal(Buffer.from(write.payload).toString('hex'), '0000ffffffff0000030000000000000078797a');
    peer.send(encodeReply('DMA_WRITE', write.id, { address: 0xffff_ffff_0000n }, count));
    await written;
  }
  await peer.close();
});

leakTest('large pieces of memory go by smaller messages, one at a time', async () => {
  const { peer, memory } = await dma(new NoteTakingFunction());
  const bytes = memory.read(0n, 150_000);
  const other = memory.read(1n << 20n, 1);
  const sizes: number[] = [];
  while (sizes.length < 4) {
    for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve));
    const { id, payload } = await peer.answer();
    const [address, count] = new BigUint64Array(payload.buffer);
    assert.equal(peer.socket.receive(new Uint8Array(1)), null);
    sizes.push(Number(count));
    const data = new Uint8Array(Number(count)).fill(Number(address! >> 16n) + 1);
    peer.send(encodeReply('DMA_READ', id, { address: address!, count: count! }, data));
  }
  assert.deepEqual(
    sizes.toSorted((a, b) => b - a),
    [65536, 65536, 18928, 1],
  );
  const got = await bytes;
  assert.deepEqual([got[0], got[65536], got[149_999]], [1, 2, 3]);
  assert.equal((await other).length, 1);
  await peer.close();
});

leakTest('answers of the client that make no sense cost that access', async () => {
  const fn = new NoteTakingFunction();
  const { peer, memory } = await dma(fn, 400);
  const answerWith = async (answer: (id: number) => Uint8Array, fds: OwnedFd[] = []) => {
    const read = memory.read(16n, 4);
    const { id } = await peer.answer();
    peer.send(answer(id), fds);
    return read;
  };
  const right = { address: 16n, count: 4n };
  const four = new Uint8Array(4);
  const refusal = (id: number): Uint8Array => {
    const bytes = encodeReply('DMA_READ', id, null);
    bytes[8] = 0x21;
    bytes[12] = 14;
    return bytes;
  };
  await assert.rejects(answerWith(refusal), { code: 'VFIO_REFUSED', errno: 14 });
  const wrong: readonly (readonly [(id: number) => Uint8Array, code: string])[] = [
    [id => encodeReply('DMA_READ', id, { ...right, address: 17n }, four), 'VFIO_VALUE'],
    [id => encodeReply('DMA_READ', id, { ...right, count: 5n }, four), 'VFIO_VALUE'],
    [id => encodeReply('DMA_READ', id, right, new Uint8Array(3)), 'VFIO_VALUE'],
    [id => encodeReply('DMA_READ', id, right, new Uint8Array(5)), 'VFIO_VALUE'],
    [id => encodeReply('DMA_READ', id, null), 'VFIO_SIZE'],
    [id => encodeReply('DMA_WRITE', id, { address: 16n }, four), 'VFIO_REPLY'],
  ];
  for (const [answer, code] of wrong) await assert.rejects(answerWith(answer), { code });
  await assert.rejects(
    answerWith(id => encodeReply('DMA_READ', id, right, four), [anFd()]),
    { code: 'VFIO_FDS' },
  );
  const write = memory.write(16n, four);
  peer.send(encodeReply('DMA_WRITE', (await peer.answer()).id, { address: 16n }, u32(3, 0)));
  await assert.rejects(write, { code: 'VFIO_VALUE' });
  // None in time; it may come later.
  const read = memory.read(16n, 4);
  const { id } = await peer.answer();
  await assert.rejects(read, { code: 'VFIO_TIMEOUT' });
  peer.send(encodeReply('DMA_READ', id, right, four));
  await peer.settle();
  assert.deepEqual(peer.refusals, []);
  // The client leaves meanwhile.
  const last = memory.read(16n, 4);
  await peer.answer();
  const gone = assert.rejects(last, { code: 'VFIO_CLOSED' });
  assert.equal((await peer.close()).error, null);
  await gone;
  await assert.rejects(memory.read(0n, 4), { code: 'VFIO_CLOSED' });
});

leakTest("a function may ask for the client's memory while it carries out a command", async () => {
  const fn = new NoteTakingFunction();
  const { peer, memory } = await dma(fn);
  fn.write = async () => void fn.bytes[0]!.set(await memory.read(0x5000n, 4));
  const id = peer.tell('REGION_WRITE', at(0, 0, 4), { tail: u32(1) });
  const ask = await peer.answer();
  // Commands behind it wait, the answer does not.
  peer.tell('REGION_READ', at(0, 0, 4));
  peer.send(encodeReply('DMA_READ', ask.id, { address: 0x5000n, count: 4n }, u32(0x11223344)));
  assert.equal((await peer.answer()).id, id);
  assert.deepEqual([...(await peer.answer()).payload.subarray(16)], [0x44, 0x33, 0x22, 0x11]);
  await peer.close();
});

leakTest('it leaves at every step, and in the middle of every message', async () => {
  const bell = anFd();
  for (let last = 0; last < CONVERSATION.length; last++) {
    for (const part of [0, 1, 15, 16, 0.99, 1e9]) {
      const fn = new NoteTakingFunction();
      fn.bells.push({ offset: 0, size: 4, fd: bell });
      const peer = new Peer(fn);
      for (const [i, { bytes, fds }] of CONVERSATION.slice(0, last + 1).entries()) {
        const cut = i < last ? bytes.length : part < 1 ? Math.floor(bytes.length * part) : part;
        if (cut > 0) {
          peer.send(
            bytes.subarray(0, cut),
            fds.map(make => make()),
          );
        }
        if (i < last) for (const fd of (await peer.answer()).fds) fd.close();
      }
      const { error } = await peer.close();
      assert.ok(error === null || (error as Error & { code: string }).code === 'VFIO_CLOSED');
      assert.equal(fn.calls.at(-1), 'disconnect()');
      assert.deepEqual(peer.refusals, []);
    }
  }
  bell.close();
});

test('whatever bytes come, the session ends with the function disconnected', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          command: fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 0xffff })),
          flags: fc.oneof(fc.constantFrom(0, 1, 0x10, 0x21), fc.nat()),
          size: fc.oneof(fc.constant(-1), fc.integer({ min: 0, max: 300 }), fc.nat()),
          payload: fc.uint8Array({ maxLength: 300 }),
          fds: fc.integer({ min: 0, max: 9 }),
        }),
        { maxLength: 12 },
      ),
      async messages => {
        const before = openFds().length;
        const pieces = messages.map(({ command, flags, size, payload, fds }) => {
          const bytes = new Uint8Array(HEADER_SIZE + payload.length);
          const whole = size < 0 ? bytes.length : size;
          new Uint32Array(bytes.buffer, 0, 3).set([(command << 16) | 5, whole, flags]);
          bytes.set(payload, HEADER_SIZE);
          return { bytes, fds: Array.from({ length: fds }, () => anFd()) };
        });
        const fn = new NoteTakingFunction();
        await serveVfioUser(new ScriptedChannel([{ bytes: QEMU_VERSION }, ...pieces]), fn);
        assert.equal(fn.calls.at(-1), 'disconnect()');
        assert.equal(openFds().length, before);
      },
    ),
    { numRuns: 60 },
  );
});
