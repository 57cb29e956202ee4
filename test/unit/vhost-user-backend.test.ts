/** The backend's end of vhost-user over a NIC that takes notes: what each front end says, in its order, and what is answered to what is wrong. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import { ScriptedChannel } from '../../src/control/bpfhv-proxy/testing.js';
import {
  decodeBackendRequest,
  encodeRequest,
  FOREIGN_REQUESTS,
  HEADER_SIZE,
  PROTOCOL_FEATURE,
  REQUESTS,
  type RequestName,
  serveVhostUser,
  VhostUserStream,
} from '../../src/control/vhost-user/index.js';
import { type OwnedFd, openFds } from '../../src/linux/fd.js';
import { leakTest } from '../../src/linux/testing.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { anFd, NoteTakingVhost, Peer, say } from './vhost-user-peer.js';
import { dpdk, type Place, plain, qemu7, qemu11, type Step } from './vhost-user-scripts.js';

const PLACE: Place = {
  features: 0x1_0000_0000n,
  regions: [
    { guestPhysicalAddress: 0n, size: 0xa_0000n, userspaceAddress: 0x7f00_0000_0000n, mmapOffset: 0n },
    {
      guestPhysicalAddress: 0x10_0000n,
      size: 0x1000_0000n,
      userspaceAddress: 0x7f00_0010_0000n,
      mmapOffset: 0x10_0000n,
    },
  ],
  size: 256,
  base: 0,
  ring: index => {
    const at = 0x7f00_0020_0000n + BigInt(index) * 0x1_0000n;
    return { descriptor: at, used: at + 0x2000n, available: at + 0x1000n };
  },
};

async function talk(scripts: readonly (readonly Step[])[]): Promise<NoteTakingVhost> {
  const nic = new NoteTakingVhost();
  const peer = new Peer(nic);
  for (const steps of scripts) await say(peer, steps);
  const end = await peer.close();
  assert.deepEqual(peer.refusals, []);
  assert.equal(end.error, null);
  assert.equal(nic.calls.at(-1), 'disconnect()');
  return nic;
}

const RING_0 = [
  'setVringSize(0, 256)',
  'setVringBase(0, 0)',
  `setVringAddresses(0, ${PLACE.ring(0).descriptor}, ${PLACE.ring(0).available}, ${PLACE.ring(0).used}, )`,
  'setVringKick(0, fd)',
];

leakTest(
  'QEMU 7.2: enables before features, regions one by one, stops by asking where rings stand',
  async () => {
    const { connect, reset, start, stop } = qemu7(PLACE);
    const { calls } = await talk([connect, reset, reset, start, stop]);
    assert.deepEqual(calls.slice(0, 7), [
      'setTranslator(one)',
      'setVringCall(0, fd)',
      'setVringError(0, fd)',
      'setVringCall(1, fd)',
      'setVringError(1, fd)',
      'enableVring(0, true)',
      'enableVring(1, true)',
    ]);
    assert.deepEqual(calls.slice(9, 18), [
      'enableVring(0, true)',
      'enableVring(1, true)',
      'setFeatures(0x100000000)',
      'addRegion(0+655360 at 139637976727552)',
      'addRegion(1048576+268435456 at 139637977776128)',
      ...RING_0,
    ]);
    assert.deepEqual(calls.slice(-3), ['stopVring(0)', 'stopVring(1)', 'disconnect()']);
  },
);

leakTest(
  'QEMU 11.1: resets the device, repeats the features for each pair, wants to know how it went',
  async () => {
    const { connect, reset, start, stop } = qemu11(PLACE, 2);
    const { calls } = await talk([connect, reset, reset, start, stop]);
    assert.equal(calls.filter(call => call === 'reset()').length, 2);
    assert.equal(calls.filter(call => call.startsWith('setFeatures')).length, 2);
    assert.equal(calls.filter(call => call.startsWith('enableVring(3')).length, 4);
    assert.ok(calls.indexOf('enableVring(0, true)') < calls.indexOf('setFeatures(0x100000000)'));
  },
);

leakTest('DPDK: all interrupts first, one table, rings enabled last', async () => {
  const { connect, start, stop } = dpdk(PLACE, 2);
  const { calls } = await talk([connect, start, stop]);
  assert.deepEqual(calls.slice(0, 5), [
    'setVringCall(0, fd)',
    'setVringCall(1, fd)',
    'setVringCall(2, fd)',
    'setVringCall(3, fd)',
    'setFeatures(0x100000000)',
  ]);
  assert.ok(calls.indexOf('setVringKick(3, fd)') < calls.indexOf('enableVring(0, true)'));
});

leakTest('a front end without protocol features: its rings are enabled with the features', async () => {
  const { connect, start, stop } = plain(PLACE);
  const { calls } = await talk([connect, start, stop]);
  assert.equal(calls[0], 'setFeatures(0x100000000, enabled)');
  assert.ok(!calls.some(call => call.startsWith('enableVring')));
});

leakTest('replies have flags 5 and exact sizes', async () => {
  const nic = new NoteTakingVhost();
  const peer = new Peer(nic);
  await say(peer, qemu7(PLACE).connect);
  assert.equal(await peer.number('GET_FEATURES', {}), nic.offered | (1n << 30n));
  assert.equal(await peer.number('GET_PROTOCOL_FEATURES', {}), 0xa03fn);
  assert.equal(await peer.number('GET_QUEUE_NUM', {}), 2n);
  assert.equal(await peer.number('GET_MAX_MEM_SLOTS', {}), 509n);
  assert.equal(await peer.number('SET_LOG_BASE', { size: 8192n, offset: 0n }, [anFd()]), 0n);
  const base = await peer.ask('GET_VRING_BASE', { index: 3, num: 0 });
  assert.deepEqual([...base.payload], [3, 0, 0, 0, 43, 0, 0, 0]);
  assert.equal(base.flags, 5);
  await peer.close();
  assert.ok(nic.calls.includes('setDirtyLog(8192, 0)'));
});

leakTest(
  'an acknowledgement comes when it is asked for, whatever the request is, and only then',
  async () => {
    const nic = new NoteTakingVhost();
    const peer = new Peer(nic);
    // Before it is agreed on, nobody gets one.
    peer.send(encodeRequest('SET_OWNER', {}, true));
    await say(peer, dpdk(PLACE).connect);
    assert.ok(await peer.confirm('SET_VRING_NUM', { index: 0, num: 64 }));
    nic.refusing.add('setVringSize');
    assert.equal(await peer.confirm('SET_VRING_NUM', { index: 0, num: 65 }), false);
    peer.tell('SET_VRING_NUM', { index: 0, num: 66 });
    // One that is answered anyway gets its reply, and no acknowledgement behind it.
    peer.send(encodeRequest('GET_VRING_BASE', { index: 0, num: 0 }, true));
    assert.equal((await peer.answer()).request, REQUESTS.GET_VRING_BASE.number);
    await peer.settle();
    await peer.close();
    assert.deepEqual(peer.refusals, ['SET_VRING_NUM: NIC_TEST', 'SET_VRING_NUM: NIC_TEST']);
  },
);

leakTest('requests for what was not negotiated, or does not exist, are refused', async () => {
  const nic = new NoteTakingVhost();
  const peer = new Peer(nic);
  await say(peer, dpdk(PLACE).connect);
  assert.equal(await peer.confirm('SEND_RARP', { value: 1n }), false);
  assert.equal(await peer.confirm('NET_SET_MTU', { value: 1500n }), false);
  assert.equal(await peer.confirm('RESET_DEVICE', {}), false);
  const unknown = new Uint32Array([99, 9, 0]);
  peer.send(new Uint8Array(unknown.buffer));
  assert.deepEqual([...(await peer.answer()).payload], [1, 0, 0, 0, 0, 0, 0, 0]);
  peer.send(new Uint8Array(new Uint32Array([99, 1, 0]).buffer));
  // One who waits for a reply gets one that says nothing.
  for (const number of [24, 31, 40]) {
    peer.send(new Uint8Array(new Uint32Array([number, 1, 0]).buffer));
    assert.deepEqual(await peer.answer(), { request: number, flags: 5, payload: new Uint8Array(0) });
  }
  assert.equal(FOREIGN_REQUESTS[40]![0], 'GET_STATUS');
  assert.equal(await peer.confirm('SET_PROTOCOL_FEATURES', { value: 1n << 16n }), false);
  await peer.close();
  assert.equal(peer.refusals.length, 9);
  assert.deepEqual(nic.calls, ['disconnect()']);
});

leakTest('values are what they are called', async () => {
  const nic = new NoteTakingVhost();
  const peer = new Peer(nic);
  await say(peer, qemu7(PLACE).connect);
  nic.calls.length = 0;
  const mac = new DataView(new Uint8Array([0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0]).buffer).getBigUint64(
    0,
    true,
  );
  peer.tell('SEND_RARP', { value: mac });
  peer.tell('NET_SET_MTU', { value: 9000n });
  peer.tell('SET_VRING_KICK', { value: 0x101n });
  peer.tell('SET_VRING_CALL', { value: 0x100n });
  peer.tell('SET_VRING_ADDR', {
    index: 1,
    flags: 1,
    descriptor: 1n,
    used: 2n,
    available: 3n,
    logGuestAddress: 4n,
  });
  const region = PLACE.regions[1]!;
  peer.tell('REM_MEM_REG', { pad: 0n, ...region }, [anFd('a stray one')]);
  peer.tell('SET_LOG_FD', {}, [anFd('nobody needs it')]);
  const tlb = { iova: 0x1000n, size: 0x1000n, userspaceAddress: 0x7000n };
  peer.tell('IOTLB_MSG', { ...tlb, permType: 0x203 });
  peer.tell('IOTLB_MSG', { ...tlb, permType: 0x300 });
  assert.equal(await peer.confirm('IOTLB_MSG', { ...tlb, permType: 0x100 }), false);
  peer.tell('RESET_OWNER', {});
  await peer.settle();
  await peer.close();
  assert.deepEqual(nic.calls.slice(0, -1), [
    'announce(525400123456)',
    'setMtu(9000)',
    'setVringKick(1, polled)',
    'setVringCall(0, none)',
    'setVringAddresses(1, 1, 3, 2, 4)',
    'removeRegion(1048576+268435456 at 139637977776128)',
    'addTranslation(4096+4096 = 28672 rw)',
    'removeTranslation(4096+4096)',
    'reset()',
  ]);
});

leakTest('the NIC asks for translations on the channel of its own', async () => {
  const nic = new NoteTakingVhost();
  const peer = new Peer(nic);
  await say(peer, dpdk(PLACE).connect);
  peer.tell('SET_PROTOCOL_FEATURES', { value: PROTOCOL_FEATURE.BACKEND_REQ | PROTOCOL_FEATURE.REPLY_ACK });
  const [mine, theirs] = socketPair('requests');
  assert.ok(await peer.confirm('SET_BACKEND_REQ_FD', {}, [theirs.owner]));
  nic.ask!(0x1234n, true);
  const stream = new VhostUserStream(socketChannel(mine));
  const asked = decodeBackendRequest((await stream.next())!);
  assert.equal(asked.iova, 0x1234n);
  assert.equal(asked.permType, 0x102);
  // No socket: that is seen when it is used.
  assert.ok(await peer.confirm('SET_BACKEND_REQ_FD', {}, [anFd()]));
  assert.throws(() => nic.ask!(0n, false), { code: 'ENOTSOCK' });
  stream.close();
  await peer.close();
});

const patched = (bytes: Uint8Array, at: number, value: number): Uint8Array => {
  const copy = bytes.slice();
  new DataView(copy.buffer).setUint32(at, value, true);
  return copy;
};
const fds = (n: number): OwnedFd[] => Array.from({ length: n }, () => anFd());

leakTest(
  'what the protocol does not allow is refused, its descriptors closed, and the session goes on',
  async () => {
    const nic = new NoteTakingVhost();
    const peer = new Peer(nic);
    await say(peer, qemu7(PLACE).connect);
    peer.refusals.length = 0;
    nic.calls.length = 0;
    const open = openFds().length;
    const size = encodeRequest('SET_VRING_NUM', { index: 0, num: 64 });
    const kick = encodeRequest('SET_VRING_KICK', { value: 0n });
    const table = encodeRequest('SET_MEM_TABLE', { count: 2, each: PLACE.regions });
    const wrong: [bytes: Uint8Array, fds: number, code: string][] = [
      [patched(size, 4, 2), 0, 'VHOST_VERSION'],
      [patched(size, 4, 0), 0, 'VHOST_VERSION'],
      [patched(size, 4, 5), 0, 'VHOST_FLAGS'], // a reply, where none is due
      [patched(size, 4, 0x11), 0, 'VHOST_FLAGS'],
      [Buffer.concat([patched(size, 8, 9), Buffer.alloc(1)]), 0, 'VHOST_SIZE'],
      [patched(size, 8, 4).subarray(0, 16), 0, 'VHOST_SIZE'],
      [size, 1, 'VHOST_FDS'],
      [kick, 0, 'VHOST_FDS'],
      [kick, 2, 'VHOST_FDS'],
      [encodeRequest('SET_VRING_CALL', { value: 0x100n }), 1, 'VHOST_FDS'],
      [table, 1, 'VHOST_FDS'],
      [table, 3, 'VHOST_FDS'],
      [table, 9, 'VHOST_FDS'],
      [table, 200, 'VHOST_FDS'],
      [patched(table, 12, 3), 2, 'VHOST_SIZE'],
      [patched(table, 12, 9), 2, 'VHOST_VALUE'],
      [patched(table, 12, 0xffff_ffff), 2, 'VHOST_VALUE'],
      [encodeRequest('SET_VRING_ENABLE', { index: 0, num: 2 }), 0, 'VHOST_VALUE'],
      [encodeRequest('SET_BACKEND_REQ_FD', {}), 0, 'VHOST_FDS'],
    ];
    for (const [bytes, count, code] of wrong) {
      // More than one sendmsg may carry: the rest is for the socket layer to test.
      peer.send(bytes, fds(Math.min(count, 16)));
      await peer.settle();
      assert.match(peer.refusals.at(-1) ?? '', new RegExp(`: ${code}$`));
    }
    assert.equal(peer.refusals.length, wrong.length);
    assert.deepEqual(nic.calls, []);
    assert.equal(openFds().length, open);
    assert.equal((await peer.close()).error, null);
  },
);

for (const [what, bytes] of [
  ['a payload without end', new Uint8Array(new Uint32Array([2, 1, 0x7fff_ffff]).buffer)],
  ['a message that stays unfinished', encodeRequest('SET_FEATURES', { value: 1n }).subarray(0, 15)],
] as const) {
  leakTest(`${what} costs the connection`, async () => {
    const nic = new NoteTakingVhost();
    const peer = new Peer(nic, { messageTimeoutMs: 50 });
    peer.send(bytes, [anFd()]);
    const { error } = await peer.ended;
    assert.match((error as Error & { code: string }).code, /^VHOST_(OVERSIZE|TIMEOUT)$/);
    peer.socket.close();
    assert.deepEqual(nic.calls, ['disconnect()']);
  });
}

leakTest('one who connects and stays silent loses the place', async () => {
  const nic = new NoteTakingVhost();
  const peer = new Peer(nic, { firstRequestTimeoutMs: 30 });
  assert.equal(((await peer.ended).error as Error & { code: string }).code, 'VHOST_TIMEOUT');
  peer.socket.close();
});

leakTest('a byte at a time is as good as all at once', async () => {
  const nic = new NoteTakingVhost();
  const peer = new Peer(nic);
  for (const byte of encodeRequest('SET_VRING_NUM', { index: 1, num: 128 }))
    peer.send(new Uint8Array([byte]));
  await peer.settle();
  await peer.close();
  assert.deepEqual(nic.calls, ['setVringSize(1, 128)', 'disconnect()']);
});

leakTest('the front end may vanish at every message, and inside each', async () => {
  const { connect, reset, start, stop } = qemu11(PLACE);
  const steps = [...connect, ...reset, ...start, ...stop];
  for (let last = 0; last < steps.length; last++) {
    const nic = new NoteTakingVhost();
    const peer = new Peer(nic);
    await say(peer, steps.slice(0, last));
    const { name, values, fds: attached = [] } = steps[last]!;
    const bytes = encodeRequest(name as RequestName, values as never);
    peer.send(bytes.subarray(0, 1 + (last % (bytes.length - 1))), fds(attached.length));
    const { error } = await peer.close();
    assert.ok(error === null || (error as Error & { code: string }).code === 'VHOST_CLOSED');
    assert.equal(nic.calls.at(-1), 'disconnect()');
  }
});

test('whatever bytes come, the session ends with the NIC disconnected', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          request: fc.oneof(fc.integer({ min: 0, max: 45 }), fc.nat()),
          flags: fc.oneof(fc.constantFrom(1, 9), fc.nat()),
          size: fc.oneof(fc.integer({ min: 0, max: 300 }), fc.nat()),
          payload: fc.uint8Array({ maxLength: 300 }),
          fds: fc.integer({ min: 0, max: 9 }),
        }),
        { maxLength: 12 },
      ),
      async messages => {
        const before = openFds().length;
        const pieces = messages.map(({ request, flags, size, payload, fds: count }) => {
          const bytes = new Uint8Array(HEADER_SIZE + payload.length);
          new Uint32Array(bytes.buffer, 0, 3).set([request, flags, size]);
          bytes.set(payload, HEADER_SIZE);
          return { bytes, fds: fds(count) };
        });
        const nic = new NoteTakingVhost();
        await serveVhostUser(new ScriptedChannel(pieces), nic);
        assert.equal(nic.calls.at(-1), 'disconnect()');
        assert.equal(openFds().length, before);
      },
    ),
    { numRuns: 60 },
  );
});
