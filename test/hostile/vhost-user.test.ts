/**
 * A hostile front end against our vhost-user backend with a real NIC behind it: messages that make no sense in every field, in any order, while rings run.
 *
 * What must hold: every answer in time, no memory but the guest's is touched (canaries), other rings go on where the mistake does not concern them, nothing
 * is left when it is gone, and the next front end finds a NIC that works.
 */
import assert from 'node:assert/strict';
import {
  encodeRequest,
  PROTOCOL_FEATURE,
  REQUESTS,
  type RequestName,
} from '../../src/control/vhost-user/index.js';
import { type OwnedFd, openFds } from '../../src/linux/fd.js';
import { addSeals, createMemfd, SEAL_SHRINK } from '../../src/linux/memfd.js';
import { eventually } from '../../src/linux/testing.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, randomFrom } from '../compliance/testbed.js';
import { anFd, say } from '../unit/vhost-user-peer.js';
import { qemu11, type Step } from '../unit/vhost-user-scripts.js';
import { type VirtioRig, virtioTest, window } from '../unit/virtio-rig.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const ROUNDS = LONG ? 40 : 4;
const MESSAGES = LONG ? 400 : 120;

type Random = (below: number) => number;

const INTERESTING = [
  0n,
  1n,
  2n,
  0xffn,
  0x100n,
  4095n,
  4096n,
  0x7fff_ffffn,
  0xffff_ffffn,
  0x1_0000_0000n,
  (1n << 63n) - 1n,
  (1n << 64n) - 4096n,
  (1n << 64n) - 1n,
];

/** The conversation that makes everything run. */
async function begin(rig: VirtioRig): Promise<void> {
  const { connect, reset, start } = qemu11(rig.place);
  await rig.say(connect, reset, start, translations(rig));
  assert.deepEqual(rig.peer.refusals, []);
}

/** Behind an IOMMU: all of the guest's memory, under its own addresses. */
function translations({ place, ram }: VirtioRig): Step[] {
  if ((place.features & F.ACCESS_PLATFORM) === 0n) return [];
  const { guestPhysicalAddress: iova, userspaceAddress } = place.regions[0]!;
  const values = { iova, size: BigInt(ram.size), userspaceAddress, permType: 0x203 };
  return [{ name: 'IOTLB_MSG', values } as Step];
}

async function works(rig: VirtioRig): Promise<void> {
  const before = rig.packets(1);
  const n = rig.publish(20);
  assert.ok(n > 0);
  await eventually(() => rig.packets(1) === before + n);
  rig.refill();
  await eventually(() => rig.poll() > 0);
}

/** A page of the window in front of the guest's memory, and one of the arena, that nobody may write. */
function canaries(): { check(): void; close(): void } {
  const pieces = [arena.allocate(4096), arena.allocate(4096)];
  for (const at of pieces) window.bytes.fill(0xa5, at, at + 4096);
  return {
    check() {
      for (const at of pieces) {
        assert.ok(
          window.bytes.subarray(at, at + 4096).every(byte => byte === 0xa5),
          'somebody wrote there',
        );
      }
    },
    close() {
      for (const at of pieces) arena.free(at);
    },
  };
}

/** Any request with any fields: those of a right one, some of them replaced. */
function mutate(random: Random, step: Step): Uint8Array {
  const bytes = encodeRequest(step.name, step.values, random(2) === 0);
  const view = new DataView(bytes.buffer);
  for (let i = random(3); i > 0 && bytes.length > 16; i--) {
    const at = 12 + 4 * random((bytes.length - 12) / 4);
    const value = INTERESTING[random(INTERESTING.length)]!;
    if (random(2) === 0 && at + 8 <= bytes.length) view.setBigUint64(at, value, true);
    else view.setUint32(at, Number(value & 0xffff_ffffn), true);
  }
  return bytes;
}

/** Something that is a descriptor. */
function anything(random: Random, rig: VirtioRig): OwnedFd {
  switch (random(5)) {
    case 0:
      return anFd();
    case 1:
      return rig.ram.fd.dup();
    case 2:
      return createMemfd({ name: 'small', size: 4096 * random(4), sealed: random(2) === 0 });
    case 3: {
      const [mine, theirs] = socketPair('hostile');
      mine.close();
      return theirs.owner;
    }
    default:
      return createMemfd({ name: 'other memory', size: 1 << 20 });
  }
}

for (const [what, accept] of [
  ['split', F.VERSION_1 | F.EVENT_IDX],
  ['packed', F.VERSION_1 | F.RING_PACKED],
  ['behind an IOMMU', F.VERSION_1 | F.ACCESS_PLATFORM],
] as const) {
  virtioTest(
    `${what}: any message, any field, any descriptor, any order, while rings run`,
    async (start, t) => {
      const seed = Number(process.env.POLYNIC_SEED ?? Date.now() % 2 ** 31);
      t.diagnostic(`POLYNIC_SEED=${seed}`);
      const random = randomFrom(seed) as Random;
      const guard = canaries();
      const iommu = (accept & F.ACCESS_PLATFORM) === 0n ? {} : { iommu: 0n };
      const rig = await start({ accept, portSpec: 'source', num: 32, ramSize: 2 << 20, ...iommu });
      try {
        for (let round = 0; round < ROUNDS; round++) {
          const { connect, reset, start: run, stop } = qemu11(rig.place);
          const steps = [...connect, ...reset, ...run, ...stop, ...more(rig)];
          await say(rig.peer, [...connect, ...reset], rig.supply);
          await say(rig.peer, [...run.map(withoutAck), ...translations(rig)], rig.supply);
          assert.ok(rig.nic.running);
          for (let i = 0; i < MESSAGES; i++) {
            const step = steps[random(steps.length)]!;
            const right = step.fds?.length ?? 0;
            const count = random(4) === 0 ? random(9) : right;
            const fds = Array.from({ length: count }, (_, n) =>
              random(3) === 0 || n >= right ? anything(random, rig) : rig.supply(step.fds![n]!, step),
            );
            rig.peer.send(mutate(random, step), fds);
            if (random(8) === 0) rig.publish(8);
            if (random(16) === 0) rig.refill();
            for (
              let got = rig.peer.socket.receive(SCRAP);
              got && got.bytes > 0;
              got = rig.peer.socket.receive(SCRAP)
            ) {
              assert.equal(got.fds.length, 0);
            }
          }
          await drained(rig);
          guard.check();
          await rig.reconnect();
          for (const channel of rig.channels.splice(0)) channel.close();
          assert.ok(!rig.nic.running);
          rig.reset();
          await begin(rig);
          await works(rig);
          guard.check();
          await rig.reconnect();
          rig.reset();
        }
      } finally {
        guard.close();
      }
    },
  );
}

const SCRAP = new Uint8Array(65536);

const withoutAck = ({ name, values, fds = [] }: Step): Step => ({ name, values, fds }) as Step;

/** What no script says. */
function more(rig: VirtioRig): Step[] {
  const region = rig.place.regions[0]!;
  const step = <N extends RequestName>(name: N, values: object, fds: Step['fds'] = []): Step =>
    ({ name, values, fds }) as unknown as Step;
  return [
    step('SET_MEM_TABLE', { count: 2, each: rig.place.regions }, ['memory', 'memory']),
    step('SET_MEM_TABLE', { count: 0, each: [] }),
    step('REM_MEM_REG', { pad: 0n, ...region }),
    step('SET_LOG_BASE', { size: 8192n, offset: 0n }, ['memory']),
    step('SET_LOG_FD', {}, ['memory']),
    step('SEND_RARP', { value: 0x1234n }),
    step('NET_SET_MTU', { value: 1500n }),
    ...translations(rig),
    step('IOTLB_MSG', { iova: 0n, size: 1n << 40n, userspaceAddress: 0n, permType: 0x203 }),
    step('IOTLB_MSG', { iova: 0x1_0000_4000n, size: 4096n, userspaceAddress: 0n, permType: 0x300 }),
    step('IOTLB_MSG', { iova: 0n, size: 1n << 40n, userspaceAddress: 0n, permType: 0x300 }),
    step('RESET_OWNER', {}),
    step('SET_VRING_ENABLE', { index: 1, num: 0 }),
    step('SET_VRING_KICK', { value: 0x101n }),
    step('SET_VRING_CALL', { value: 0x100n }),
    step('SET_PROTOCOL_FEATURES', { value: PROTOCOL_FEATURE.REPLY_ACK }),
    step('SET_FEATURES', { value: 0n }),
    step('SET_FEATURES', { value: F.VERSION_1 | F.LOG_ALL | F.MRG_RXBUF }),
  ];
}

/** Everything that was sent has been looked at: the answer to one that can't fail is the last one. */
async function drained(rig: VirtioRig): Promise<void> {
  rig.peer.send(encodeRequest('GET_VRING_BASE', { index: 0x5a5a, num: 0 }));
  const last = Buffer.from(new Uint32Array([REQUESTS.GET_VRING_BASE.number, 5, 0]).buffer);
  let tail = Buffer.alloc(0);
  await eventually(() => {
    const got = rig.peer.socket.receive(SCRAP);
    if (got?.bytes === 0) throw new Error('the backend hung up');
    if (got) tail = Buffer.concat([tail, SCRAP.subarray(0, got.bytes)]).subarray(-12);
    return tail.equals(last);
  }, 20_000);
}

virtioTest('memory that is cut short, odd, or overlaps', async start => {
  const rig = await start({ portSpec: 'source' });
  await begin(rig);
  const open = openFds().length;
  const region = {
    guestPhysicalAddress: 1n << 40n,
    size: 8192n,
    userspaceAddress: 1n << 41n,
    mmapOffset: 0n,
  };
  const [first] = rig.place.regions;
  const WRONG: readonly (readonly [what: string, change: Partial<typeof region>])[] = [
    ['empty', { size: 0n }],
    ['beyond the file', { size: 1n << 33n }],
    ['offset beyond the file', { mmapOffset: 1n << 33n }],
    ['offset and size wrap', { mmapOffset: (1n << 64n) - 4096n }],
    ['guest address wraps', { guestPhysicalAddress: (1n << 64n) - 4096n }],
    ["front end's address wraps", { userspaceAddress: (1n << 64n) - 4096n }],
    ['overlaps in the guest', { guestPhysicalAddress: first!.guestPhysicalAddress + 4096n }],
    ['overlaps in the front end', { userspaceAddress: first!.userspaceAddress + 4096n }],
  ];
  for (const [what, change] of WRONG) {
    const one = { ...region, ...change };
    assert.equal(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...one }, [rig.ram.fd.dup()]), false, what);
    const table = { count: 2, each: [first!, one] };
    assert.equal(
      await rig.peer.confirm('SET_MEM_TABLE', table, [rig.ram.fd.dup(), rig.ram.fd.dup()]),
      false,
      what,
    );
  }
  for (const fd of [anFd('no memory'), createMemfd({ name: 'empty', size: 0 })]) {
    assert.equal(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...region }, [fd]), false);
  }
  // What lies beside pages is memory as well.
  const odd = { ...region, mmapOffset: 100n, size: 5000n };
  assert.ok(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...odd }, [rig.ram.fd.dup()]));
  assert.ok(await rig.peer.confirm('REM_MEM_REG', { pad: 0n, ...odd }));
  await works(rig);
  assert.equal(openFds().length, open, 'descriptors of refused regions are closed');
});

virtioTest('unsealed memory is noted, or refused where that was asked for', async start => {
  const rig = await start({ requireSealed: true });
  await rig.say(qemu11(rig.place).connect);
  const unsealed = createMemfd({ name: 'unsealed', size: 1 << 20, sealed: false });
  const region = { guestPhysicalAddress: 0n, size: 1n << 20n, userspaceAddress: 1n << 30n, mmapOffset: 0n };
  assert.equal(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...region }, [unsealed.dup()]), false);
  assert.match(rig.peer.refusals.at(-1)!, /MEMORY_UNSEALED/);
  const refused = await rig.peer.ask('SET_LOG_BASE', { size: 4096n, offset: 0n }, [unsealed.dup()]);
  assert.equal(refused.payload.length, 0);
  addSeals(unsealed.fd, SEAL_SHRINK);
  assert.ok(await rig.peer.confirm('ADD_MEM_REG', { pad: 0n, ...region }, [unsealed]));
});

virtioTest('the same request for ever: nothing piles up', async start => {
  const rig = await start({ portSpec: 'source' });
  await begin(rig);
  const held = () => ({ fds: openFds().length, live: arena.live });
  const before = held();
  const { regions, ring } = rig.place;
  for (let i = 0; i < (LONG ? 2000 : 150); i++) {
    rig.peer.tell('SET_VRING_CALL', { value: 0n }, [anFd()]);
    rig.peer.tell('SET_VRING_ERR', { value: 1n }, [anFd()]);
    rig.peer.tell('SET_VRING_KICK', { value: 0n }, [anFd()]);
    rig.peer.tell('SET_VRING_NUM', { index: 0, num: 64 });
    rig.peer.tell('SET_VRING_ADDR', { index: 0, flags: 0, ...ring(0), logGuestAddress: 0n });
    rig.peer.tell('SET_MEM_TABLE', { count: 2, each: regions }, [rig.ram.fd.dup(), rig.ram.fd.dup()]);
    await rig.peer.number('SET_LOG_BASE', { size: 8192n, offset: 0n }, [
      createMemfd({ name: 'log', size: 8192 }),
    ]);
  }
  const after = held();
  assert.ok(after.fds <= before.fds + 4, `${after.fds - before.fds} descriptors more`);
  assert.ok(after.live <= before.live + 4, `${after.live - before.live} pieces of memory more`);
  assert.deepEqual(rig.peer.refusals, []);
});

virtioTest(
  'what comes from a migration or a crash elsewhere is not asked for, and not taken',
  async start => {
    const rig = await start({ portSpec: 'source' });
    await begin(rig);
    const open = openFds().length;
    // GET_INFLIGHT_FD, SET_INFLIGHT_FD: a region of guest-readable state; SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE: a stream.
    const REFUSED = [
      [31, Buffer.from('00100000000000000000000000000000 0200 4000 00000000'.replaceAll(' ', ''), 'hex')],
      [32, Buffer.from('00100000000000000000000000000000 0200 4000 00000000'.replaceAll(' ', ''), 'hex')],
      [42, Buffer.alloc(8)],
      [42, Buffer.from('0100000000000000', 'hex')],
      [43, Buffer.alloc(0)],
    ] as const;
    for (const [request, payload] of REFUSED)
      for (const count of [0, 1, 2]) {
        const header = Buffer.from(new Uint32Array([request, 9, payload.length]).buffer);
        rig.peer.send(
          Buffer.concat([header, payload]),
          Array.from({ length: count }, () => createMemfd({ name: 'state', size: 8192 })),
        );
        const answer = await rig.peer.answer();
        assert.deepEqual([answer.request, answer.flags], [request, 5]);
        assert.ok(
          answer.payload.length === 0 || answer.payload.some(byte => byte !== 0),
          `${request}: no success`,
        );
      }
    assert.equal(rig.peer.refusals.length, 3 * REFUSED.length);
    assert.equal(openFds().length, open, 'their descriptors are closed');
    await works(rig);
  },
);

virtioTest('rings that there are not', async start => {
  const rig = await start();
  await begin(rig);
  const open = openFds().length;
  for (const index of [4, 5, 63, 64, 255]) {
    assert.equal(await rig.peer.confirm('SET_VRING_KICK', { value: BigInt(index) }, [anFd()]), false);
    assert.equal(await rig.peer.confirm('SET_VRING_CALL', { value: BigInt(index) }, [anFd()]), false);
    assert.equal(await rig.peer.confirm('SET_VRING_ERR', { value: BigInt(index) }, [anFd()]), false);
  }
  for (const index of [4, 255, 256, 0x8000_0000, 0xffff_ffff]) {
    assert.equal(await rig.peer.confirm('SET_VRING_NUM', { index, num: 64 }), false);
    assert.equal(await rig.peer.confirm('SET_VRING_BASE', { index, num: 0 }), false);
    assert.equal(await rig.peer.confirm('SET_VRING_ENABLE', { index, num: 1 }), false);
    const base = await rig.peer.ask('GET_VRING_BASE', { index, num: 0 });
    assert.equal(base.payload.length, 0);
  }
  assert.equal(openFds().length, open);
});

virtioTest('it vanishes at every step: the next one finds a NIC that works', async start => {
  const rig = await start({ portSpec: 'source' });
  const { connect, reset, start: run, stop } = qemu11(rig.place);
  const steps = [...connect, ...reset, ...run, ...stop];
  const stride = LONG ? 1 : 5;
  for (let last = 0; last < steps.length; last += stride) {
    await rig.say(steps.slice(0, last));
    rig.publish(10);
    await rig.reconnect();
    for (const channel of rig.channels.splice(0)) channel.close();
    rig.reset();
    assert.ok(!rig.nic.running);
  }
  await begin(rig);
  await works(rig);
});
