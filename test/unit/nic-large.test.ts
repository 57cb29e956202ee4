/**
 * A bpfhv guest of 16 GiB: every buffer that a port reads or writes itself has to come into the window, and leaves it for others; what only the kernel
 * moves stays where it is, also when it has to be cut.
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { type Mapping, openMappings } from '../../src/linux/mmap.js';
import { Nic, type NicOptions } from '../../src/nic/nic.js';
import { portSwallowed } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { STAMP_RING } from '../compliance/types.js';
import { largeFrame, payloadOf, plain } from './large-frames.js';
import { GIB, LargeGuest, NUM, numbered, type Piece, RX, TX } from './large-guest.js';
import { receive } from './segment-model.js';
import { Wire } from './wire.js';

const LENGTH = 200;
/** What the window is given out in. */
const UNIT = 0x20_0000;
const sring = deviceType('sring')!;
const gso = deviceType('sring_gso')!;

interface Rig {
  readonly guest: LargeGuest;
  readonly nic: Nic;
  readonly port: PortHandle;
  /** Warnings and errors, but for that the memory can be shrunk. */
  complaints(): string[];
}

/** A test of guests whose NICs run; when it ends nothing may be left. The memory that is told is what lies between two places in the file. */
function largeTest(
  name: string,
  body: (
    start: (options: Partial<NicOptions>, from?: number, to?: number) => Promise<Rig>,
    t: TestContext,
  ) => Promise<void>,
): void {
  test(name, { timeout: 60_000 }, async t => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const before = held();
    const all = countProcessFds();
    const rigs: Rig[] = [];
    try {
      await body(async (options, from, to) => {
        const log: string[] = [];
        const port = options.port ?? openPort(`source:len=${LENGTH}`, { window, arena });
        const nic = await Nic.start({
          ...{ window, arena, device: sring, ...options, port },
          log: (level, message) => level !== 'info' && log.push(message),
        });
        const guest = new LargeGuest(nic);
        const rig = {
          ...{ guest, nic, port },
          complaints: () => log.filter(line => !line.includes('shrunk')),
        };
        rigs.push(rig);
        await guest.start(from, to);
        return rig;
      }, t);
    } finally {
      for (const { nic, guest, port } of rigs) {
        await nic.close();
        guest.close();
        port.close();
      }
    }
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, 'descriptors left behind the table');
  });
}

interface Flow {
  readonly contract?: 0 | 1;
  /** The first frame's number. */
  readonly first?: number;
  readonly count: number;
  /** Where in the file buffers may be. */
  readonly from?: number;
  readonly to?: number;
}

/** Sends numbered frames, and waits until they are out. */
async function send({ guest, nic }: Rig, { contract = 0, first = 0, count, from, to }: Flow): Promise<void> {
  const queue = guest.sring(contract, TX);
  let posted = 0;
  let done = 0;
  while (done < count) {
    for (; posted < count && posted - done < NUM; posted++) {
      const piece = guest.somewhere(LENGTH, from, to);
      guest.write(piece, numbered(first + posted, LENGTH));
      queue.post(BigInt(posted), piece.gpa, LENGTH);
    }
    guest.kicks[TX]!.signal();
    await eventually(() => {
      while (queue.take()) done++;
      return done === posted;
    });
  }
  for (const { errors } of nic.stats().queues) assert.equal(errors, 0);
}

/** Receives numbered frames; the buffers that are left stay posted. */
async function take({ guest }: Rig, { contract = 0, count, from, to }: Flow): Promise<void> {
  const queue = guest.sring(contract, RX);
  const lent: Piece[] = [];
  for (let n = 0; n < count; n++) {
    for (; lent.length < NUM / 2; lent.push(lent.pop()!)) {
      lent.push(guest.somewhere(LENGTH, from, to));
      queue.post(0n, lent.at(-1)!.gpa, LENGTH);
    }
    guest.kicks[RX]!.signal();
    const { paddr, length } = await eventually(() => queue.take());
    const piece = lent.shift()!;
    assert.deepEqual([paddr, length], [piece.gpa, LENGTH]);
    assert.equal(guest.read(piece).readBigUInt64LE(16), BigInt(n));
  }
}

const swallowed = ({ port }: Rig) => portSwallowed(window, port);

largeTest('sring: buffers all over the guest, out and in', async start => {
  const rig = await start({});
  await send(rig, { count: 150 });
  assert.deepEqual(swallowed(rig), { sequence: 150, outOfOrder: 0 });
  await take(rig, { count: 100 });
  assert.deepEqual(rig.complaints(), []);
});

largeTest('both ways at once', async start => {
  const rig = await start({});
  await Promise.all([send(rig, { count: 150 }), take(rig, { count: 150 })]);
  assert.deepEqual(swallowed(rig), { sequence: 150, outOfOrder: 0 });
  assert.deepEqual(rig.complaints(), []);
});

largeTest('a stop sends what was published, wherever it lies, and comes to its end', async start => {
  const rig = await start({});
  const { guest, nic } = rig;
  const queue = guest.sring(0, TX);
  for (let n = 0; n < NUM; n++) {
    const piece = guest.somewhere(LENGTH);
    guest.write(piece, numbered(n, LENGTH));
    queue.post(BigInt(n), piece.gpa, LENGTH);
  }
  await nic.disable('tx');
  assert.deepEqual(swallowed(rig), { sequence: NUM, outOfOrder: 0 });
  assert.deepEqual(rig.complaints(), []);
});

largeTest('sring_gso: packets of several buffers far from each other', async start => {
  const rig = await start({ device: gso });
  const { guest } = rig;
  const tx = guest.sringGso(0, TX);
  const out = 120;
  for (let n = 0; n < out; n++) {
    const lengths = guest.random(2) === 0 ? [LENGTH] : [50, 1, LENGTH - 60, 9];
    const pieces = lengths.map(length => guest.somewhere(length));
    const frame = numbered(n, LENGTH);
    let done = 0;
    for (const piece of pieces) {
      guest.write(piece, frame.subarray(done));
      done += piece.length;
    }
    await eventually(() => {
      while (tx.take());
      return tx.free >= pieces.length;
    });
    tx.post(pieces);
    guest.kicks[TX]!.signal();
  }
  await eventually(() => swallowed(rig)!.sequence === out);
  assert.equal(swallowed(rig)!.outOfOrder, 0);

  // A frame may take as many buffers as hold the largest one: all of them have to be there, whatever comes.
  const rx = guest.sringGso(0, RX);
  const lent: Piece[] = [];
  for (let n = 0; n < 80; n++) {
    while (lent.length < NUM) {
      lent.push(guest.somewhere(2048));
      rx.post([lent.at(-1)!]);
    }
    guest.kicks[RX]!.signal();
    const { paddr, length, last } = await eventually(() => rx.take());
    const piece = lent.shift()!;
    assert.deepEqual([paddr, length, last], [piece.gpa, LENGTH, true]);
    assert.equal(guest.read(piece).readBigUInt64LE(16), BigInt(n));
  }
  assert.deepEqual(rig.complaints(), []);
});

largeTest(
  'large frames that wait in a TAP while the contract changes to one without offloads are cut',
  async start => {
    const cable = new Wire('cable');
    const { guest, nic, port, complaints } = await start({ device: gso, port: cable.port });
    // The guest has no buffers for them yet.
    const shapes = [1, 2, 3, 4].map(i => ({
      ...plain,
      sequence: i,
      v6: i % 2 === 0,
      size: 1400,
      payload: 14_000,
    }));
    for (const shape of shapes) {
      const { frame, ask } = largeFrame(shape);
      cable.sendAsking(frame, ask);
    }
    const small = { ...plain, sequence: 5, payload: 1000 };
    const { frame, ask } = largeFrame(small);
    cable.sendAsking(frame, { ...ask, type: 0, gsoSize: 0, hdrLen: 0 });
    assert.notEqual(nic.agreed, 0n);

    const done = nic.upgrade({ device: sring });
    guest.parameters();
    nic.programs();
    await guest.disable();
    nic.setFeatures(0n);
    await guest.setContexts(1);
    await guest.enable();
    assert.equal((await done).outcome, 'done');
    const rx = guest.sring(1, RX);
    const payloads: Buffer[] = [];
    const lent: Piece[] = [];
    while (payloads.length < 41) {
      while (lent.length < NUM / 2) {
        lent.push(guest.somewhere(2048));
        rx.post(0n, lent.at(-1)!.gpa, 2048);
      }
      guest.kicks[RX]!.signal();
      const { length } = await eventually(() => rx.take());
      const bytes = guest.read({ gpa: lent.shift()!.gpa, length });
      payloads.push(receive(bytes).transport.subarray(32));
    }
    for (const [i, shape] of shapes.entries()) {
      const joined = Buffer.concat(payloads.slice(10 * i, 10 * i + 10));
      assert.ok(joined.equals(payloadOf(shape)), `frame ${i}`);
    }
    assert.ok(payloads[40]!.equals(payloadOf(small)), 'the one that lacked its checksum only');
    const { dropped, tooLong, softened } = port.counters();
    assert.deepEqual({ dropped, tooLong, softened }, { dropped: 0, tooLong: 0, softened: 5 });
    assert.deepEqual(complaints(), []);
  },
);

largeTest('the contract changes while frames wait for their buffers', async start => {
  const rig = await start({});
  const { nic, guest } = rig;
  await send(rig, { count: 100 });
  const done = nic.upgrade({ device: { ...sring } });
  guest.parameters();
  nic.programs();
  await guest.setContexts(1);
  await send(rig, { count: 100, first: 100 }); // writes the table anew that queues of the next contract have been told of
  await guest.disable();
  await guest.enable();
  assert.equal((await done).outcome, 'done');
  await send(rig, { contract: 1, count: 100, first: 200 });
  await take(rig, { contract: 1, count: 100 });
  assert.deepEqual(swallowed(rig), { sequence: 300, outOfOrder: 0 });
});

largeTest('memory that fits, then more, then what fits again, under a running guest', async start => {
  const [from, to] = [9 * GIB, 11 * GIB];
  const rig = await start({}, from, to);
  await send(rig, { count: 100, from, to });
  await rig.nic.setMemoryTable(rig.guest.regions());
  await send(rig, { count: 100, first: 100 });
  await rig.nic.setMemoryTable(rig.guest.regions(from, to));
  await send(rig, { count: 100, first: 200, from, to });
  assert.deepEqual(swallowed(rig), { sequence: 300, outOfOrder: 0 });
  assert.deepEqual(rig.complaints(), []);
});

/** Takes all that is free of the window but for so many units; what is returned gives it back. */
function fillWindow(rest = 0): () => void {
  const memory = createMemfd({ name: 'filler', size: 2 * GIB });
  const overlay = (length: number) =>
    window.overlay({ fd: memory.fd, fileOffset: 0, length, name: 'filler' }, 4096)?.mapping;
  const spared = Array.from({ length: rest }, () => overlay(UNIT)!);
  const filler: Mapping[] = [];
  for (let length = 2 * GIB; length >= UNIT; ) {
    const mapping = overlay(length);
    if (mapping) filler.push(mapping);
    else length /= 2;
  }
  for (const mapping of spared) mapping.close();
  assert.equal(window.free, rest * UNIT);
  return () => {
    for (const mapping of filler) mapping.close();
    memory.close();
  };
}

largeTest('no room in the window: the queue stands still until the guest starts it anew', async start => {
  const rig = await start({});
  const { guest, nic } = rig;
  const tx = guest.sring(0, TX);
  const empty = fillWindow();
  try {
    for (let i = 0; i < 40; i++) {
      const piece = guest.somewhere(LENGTH);
      guest.write(piece, numbered(i, LENGTH));
      tx.post(0n, piece.gpa, LENGTH);
    }
    guest.kicks[TX]!.signal();
    await eventually(() => rig.complaints().length > 0);
    assert.match(
      rig.complaints()[0]!,
      /^queue 1 stands still: no room in the window for the 1 buffers of a frame$/,
    );
    assert.match(nic.dump(), /queue 1 tx: .* fault memory/);
    assert.equal(swallowed(rig)!.sequence, 0);
    assert.equal((await nic.upgrade({ spin: true })).outcome, 'done', 'the NIC goes on');
    await nic.upgrade({ spin: false });
    assert.equal(rig.complaints().length, 1, 'said once');
  } finally {
    empty();
  }
  await guest.disable();
  await guest.enable();
  await eventually(() => swallowed(rig)!.sequence === 40);
  assert.equal(swallowed(rig)!.outOfOrder, 0);
});

largeTest(
  'little room in the window: what a queue has brought there makes room for what it needs',
  async start => {
    const rig = await start({});
    await send(rig, { count: 10 });
    const empty = fillWindow();
    try {
      await send(rig, { count: 50, first: 10 });
      assert.deepEqual(swallowed(rig), { sequence: 60, outOfOrder: 0 });
    } finally {
      empty();
    }
    assert.deepEqual(rig.complaints(), []);
  },
);

largeTest(
  'too little room for all buffers of one frame: its queue stands still, others go on',
  async start => {
    const rig = await start({ device: gso });
    const { guest, nic } = rig;
    const [rx, tx] = [guest.sringGso(0, RX), guest.sringGso(0, TX)];
    const far = (n: number) =>
      Array.from({ length: n }, (_, i) => ({ gpa: BigInt(i + 20) * 0x1000_0000n, length: 100 }));
    const empty = fillWindow(8);
    try {
      guest.write(far(1)[0]!, numbered(0, 100));
      tx.post(far(8));
      guest.kicks[TX]!.signal();
      await eventually(() => swallowed(rig)!.sequence === 1);
      assert.deepEqual(rig.complaints(), []);
      tx.post(far(9));
      guest.kicks[TX]!.signal();
      await eventually(() => rig.complaints().length > 0);
      assert.deepEqual(rig.complaints(), [
        'queue 1 stands still: no room in the window for the 9 buffers of a frame',
      ]);
      const near = 0x3_1000_0000n;
      for (let i = 0; i < NUM; i++) rx.post([{ gpa: near + BigInt(i * 2048), length: 2048 }]);
      guest.kicks[RX]!.signal();
      await eventually(() => nic.stats().queues[RX]!.packets > 0);
    } finally {
      empty();
    }
  },
);

largeTest('a ring that carries flow marks: headers are read where the kernel has put them', async start => {
  const cable = new Wire('cable');
  const { guest, complaints } = await start({ device: deviceType(STAMP_RING)!, port: cable.port });
  const ring = guest.opaque(0, RX);
  ring.setBigUint64(512 + 8, guest.somewhere(2048).gpa, true);
  ring.setUint32(512 + 16, 2048, true);
  ring.setUint32(0, 1, true); // prod
  guest.kicks[RX]!.signal();
  const { frame, ask } = largeFrame({ ...plain, payload: 100 });
  cable.sendAsking(frame, { ...ask, flags: 0, type: 0 });
  await eventually(() => ring.getUint32(128, true) === 1); // cons
  assert.equal(ring.getUint32(512 + 16, true), frame.length);
  assert.notEqual(ring.getUint32(512 + 20, true), 0, 'no mark');
  assert.deepEqual(complaints(), []);
});

largeTest('several such guests: whoever has much of the window gives way to who has nothing', async start => {
  // The first takes all that is left, but for what the others need to begin.
  const greedy = await start({});
  greedy.guest.sring(0, RX);
  const spare = takeOf(40);
  const filled = [fillWindow(12)];
  try {
    await send(greedy, { count: 60 });
    assert.equal(window.free, 0);
    spare();
    const rigs = [greedy, await start({}), await start({})];
    for (const { guest } of rigs) for (const queue of [RX, TX]) guest.sring(0, queue);
    filled.push(fillWindow(1));
    for (const rig of rigs.slice(1)) await send(rig, { count: 40 });
    await Promise.all(rigs.map((rig, i) => send(rig, { count: 100, first: i === 0 ? 60 : 40 })));
    await Promise.all(rigs.map(rig => take(rig, { count: 60 })));
    for (const [i, rig] of rigs.entries()) {
      assert.deepEqual(swallowed(rig), { sequence: i === 0 ? 160 : 140, outOfOrder: 0 });
      assert.deepEqual(rig.complaints(), []);
    }
  } finally {
    for (const empty of filled) empty();
  }
});

/** Takes so many units of the window; what is returned gives them back. */
function takeOf(units: number): () => void {
  const memory = createMemfd({ name: 'spare', size: UNIT });
  const range = { fd: memory.fd, fileOffset: 0, length: UNIT, name: 'spare' };
  const taken = Array.from({ length: units }, () => window.overlay(range, 4096)!.mapping);
  return () => {
    for (const mapping of taken) mapping.close();
    memory.close();
  };
}
