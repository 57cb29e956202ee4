/**
 * The optional programs in the guest's driver, txh and rxh: packets that they drop, programs that misbehave, and frames that must never be
 * where the device can read them.
 */
import assert from 'node:assert/strict';
import { createSecretKey } from 'node:crypto';
import { describe, test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { assemble } from '../../src/ebpf/asm.js';
import { compile, instantiate } from '../../src/ebpf/jit/index.js';
import { decodeProgram } from '../../src/ebpf/program.js';
import { BPFHV_HELPERS, helperImplementations, PKT_OPEN, PKT_SEAL } from '../../src/guest/bpfhv/helpers.js';
import { programNumber } from '../../src/guest/bpfhv/registers.js';
import { Sealer } from '../../src/guest/bpfhv/seal.js';
import { sealingHelpers } from '../../src/guest/bpfhv/seal-helpers.js';
import { type HelperCalls, whetherSealed } from '../../src/guest/bpfhv/seal-policy.js';
import { WINDOW_PAGES } from '../../src/memory/window.js';
import { FEATURE, maskOf } from '../../src/ring/features.js';
import { deviceTypeNames, sealedTypeNames } from '../../src/ring/registry.js';
import { arena, payload, type Side, Testbed, window } from '../compliance/testbed.js';

const NUM = 32;
const RX_PKT_ALLOC = 0x4b8f0000;
const KEY = createSecretKey(Buffer.alloc(32, 3));
const PASS = 'mov %r0, 0\nexit';
const SEAL = `call ${PKT_SEAL}\nexit`;
const OPEN = `call ${PKT_OPEN}\nexit`;
/** Drops every packet whose handle, its number in the batch, is odd. */
const DROP_ODD = 'ldxdw %r0, [%r1+8]\nand %r0, 1\nexit';
/** Drops every second packet: counts in a field that belongs to the guest. */
const DROP_SECOND = 'ldxdw %r0, [%r1+0]\nmov %r2, %r0\nadd %r2, 1\nstxdw [%r1+0], %r2\nand %r0, 1\nexit';

const ignore = () => {};

interface Hooked {
  readonly bed: Testbed;
  readonly sealer: Sealer;
}

/** Runs `body` on a testbed with these hooks; `staged`: frames lie in private memory. */
function hooked(
  { device = 'sring', txh = PASS, rxh = PASS, staged = false, features = 0n },
  body: (hooked: Hooked) => void,
): void {
  const live = arena.live;
  const bed = new Testbed({ device, num: NUM, features });
  const { calls, table } = bed.datapath;
  const sealer = new Sealer(KEY);
  const helpers = helperImplementations(calls, () => {});
  for (const [id, helper] of sealingHelpers(calls, window.bytes, sealer, () => 1, ignore))
    helpers.set(id, helper);
  const areas = staged ? [arena.allocate(L.STAGING_SIZE), arena.allocate(L.STAGING_SIZE)] : [];
  const install = (section: 'txh' | 'rxh', text: string): void => {
    const { module } = compile(decodeProgram(assemble(text), section), {
      ...{ contextSize: bed.tx.contextSize, stackBase: bed.stack, helpers: BPFHV_HELPERS, budget: 65536 },
      ...{ sharedMemory: true, memoryPages: WINDOW_PAGES },
    });
    table.set(programNumber(section), instantiate({ module }, window.memory, helpers).run);
  };
  install('txh', txh);
  install('rxh', rxh);
  bed.setDriver(bed.tx, L.DRIVER_PREPARE, programNumber('txh'));
  bed.setDriver(bed.rx, L.DRIVER_FINISH, programNumber('rxh'));
  bed.setDriver(bed.rx, L.DRIVER_STAGING, areas[0] ?? 0);
  bed.setDriver(bed.tx, L.DRIVER_STAGING, areas[1] ?? 0);
  try {
    body({ bed, sealer });
    bed.checkCanaries();
  } finally {
    for (const area of areas) arena.free(area);
    bed.close();
  }
  assert.equal(arena.live, live);
}

const counter = ({ driver }: Side, stat: number) =>
  Number(window.longs[(driver + L.DRIVER_STATS + stat) / 8]!);
const dropped = (side: Side) => counter(side, L.STAT_DROPPED);
const fault = (bed: Testbed, side: Side) => bed.driver(side, L.DRIVER_FAULT);

/** An IPv4 frame that says `words`. */
function packet(words: string): Buffer {
  const body = Buffer.from(words);
  const frame = Buffer.concat([Buffer.alloc(34), body]);
  frame.writeUInt16BE(0x0800, 12);
  frame[14] = 0x45;
  frame.writeUInt16BE(20 + body.length, 16);
  frame[23] = 17;
  return frame;
}

/** What a frame made by `packet` says. */
const wordsOf = (frame: Buffer) => frame.toString('latin1', 34);

/** The guest sends these; returns what publish returned. */
function send(bed: Testbed, frames: readonly Buffer[]): number {
  const { calls } = bed.datapath;
  const room = calls.driver_tx_room(bed.tx.driver, bed.guestBatch.address, frames.length);
  assert.equal(room, frames.length, 'room');
  frames.forEach((frame, i) => {
    let at = 0;
    const iov = iovsOf(bed, i);
    for (const { address, length } of iov) {
      window.bytes.set(frame.subarray(at, at + length), address);
      at += length;
    }
    bed.guestBatch.setLength(i, frame.length);
  });
  return calls.driver_tx_publish(bed.tx.driver, bed.guestBatch.address, frames.length);
}

/** The buffers of a frame in the guest's batch. */
function iovsOf({ guestBatch }: Testbed, i: number): { address: number; length: number }[] {
  const iov = (guestBatch.iovAddress(i) - window.base) / 8;
  return Array.from({ length: guestBatch.iovs(i) - 1 }, (_, b) => ({
    address: Number(window.longs[iov + 2 * b + 2]!) - window.base,
    length: Number(window.longs[iov + 2 * b + 3]!),
  }));
}

/** The device takes what was published, and gives it back. */
function take(bed: Testbed): Buffer[] {
  const { ring, deviceBatch, datapath, tx } = bed;
  const n = ring.pop(tx.queue.address, deviceBatch.address, NUM);
  const frames = Array.from({ length: n }, (_, i) => {
    const at = payload(deviceBatch, i);
    return Buffer.from(window.bytes.slice(at, at + Math.min(deviceBatch.length(i), 1518)));
  });
  ring.complete(tx.queue.address, deviceBatch.address, n);
  assert.equal(datapath.calls.driver_tx_complete(tx.driver, NUM), n);
  return frames;
}

/** The device delivers these to the guest's ring. */
function deliver(bed: Testbed, frames: readonly Buffer[]): void {
  const { ring, deviceBatch, datapath, rx } = bed;
  assert.ok(datapath.calls.driver_rx_refill(rx.driver) >= 0);
  assert.ok(ring.room(rx.queue.address, deviceBatch.address, NUM) >= frames.length);
  frames.forEach((frame, i) => {
    window.bytes.set(frame, payload(deviceBatch, i));
    deviceBatch.setLength(i, frame.length);
  });
  ring.push(rx.queue.address, deviceBatch.address, frames.length);
}

/** What the guest gets. */
function receive(bed: Testbed): Buffer[] {
  const { datapath, guestBatch, rx } = bed;
  assert.ok(datapath.calls.driver_rx_poll(rx.driver, guestBatch.address, NUM) >= 0);
  const frames = Array.from({ length: guestBatch.count }, (_, i) => {
    const [iov, ...more] = iovsOf(bed, i);
    assert.deepEqual(more, []);
    assert.equal(iov!.length, guestBatch.length(i));
    assert.equal(iov!.address, payload(guestBatch, i));
    return Buffer.from(window.bytes.slice(iov!.address, iov!.address + iov!.length));
  });
  datapath.calls.driver_rx_release(rx.driver, guestBatch.address);
  return frames;
}

/** Whether the words are anywhere in the guest memory that the device has. */
function visible({ ram, rx }: Testbed, words: string): boolean {
  const start = rx.context - Number(ram.toGuest(rx.context) - ram.guestPhysicalAddress);
  return Buffer.from(window.memory.buffer, start, ram.size).includes(words);
}

/** Everything comes back at a stop. */
function stop(bed: Testbed): void {
  for (const side of bed.sides) {
    bed.datapath.calls.driver_seize(side.driver, NUM);
    assert.deepEqual(bed.audit(side), { free: NUM, driver: 0, device: 0 });
  }
}

const numbers = (n: number) => Array.from({ length: n }, (_, i) => packet(`packet ${i}`));

describe('txh and rxh', () => {
  for (const device of deviceTypeNames) {
    test(`${device}: what they drop is counted, and its buffers are free`, () => {
      hooked({ device, txh: DROP_ODD, rxh: DROP_SECOND }, ({ bed }) => {
        let odd = 0;
        for (let round = 0; round < 20; round++) {
          const frames = numbers(5 + (round % 11));
          const even = frames.filter((_, i) => i % 2 === 0).map(wordsOf);
          odd += frames.length - even.length;
          assert.ok(send(bed, frames) >= 0);
          assert.deepEqual(bed.audit(bed.tx), { free: NUM - even.length, driver: 0, device: even.length });
          assert.deepEqual(take(bed).map(wordsOf), even);
          assert.equal(bed.audit(bed.tx).free, NUM);
        }
        assert.equal(dropped(bed.tx), odd);
        deliver(bed, numbers(9));
        assert.deepEqual(
          receive(bed).map(wordsOf),
          [0, 2, 4, 6, 8].map(i => `packet ${i}`),
        );
        assert.equal(dropped(bed.rx), 4);
        assert.deepEqual(bed.audit(bed.rx), { free: 9, driver: 0, device: NUM - 9 });
        stop(bed);
      });
    });
  }

  test('frames of several buffers', () => {
    const features = maskOf(FEATURE.SG, FEATURE.TX_CSUM, FEATURE.TSOV4);
    hooked({ device: 'sring_gso', txh: DROP_ODD, features }, ({ bed }) => {
      const long = (i: number) => packet(`${i}`.repeat(20_000 + i));
      for (let round = 0; round < 10; round++) {
        assert.ok(send(bed, [0, 1, 2, 3].map(long)) >= 0);
        const { device } = bed.audit(bed.tx);
        assert.equal(device, 4, 'two frames of two buffers');
        assert.deepEqual(
          take(bed).map(frame => frame[34]! - 0x30),
          [0, 2],
        );
        assert.deepEqual(bed.audit(bed.tx), { free: NUM, driver: 0, device: 0 });
      }
    });
  });

  test('all dropped: nothing is published, nobody is kicked', () => {
    hooked({ txh: 'mov %r0, -1\nexit', rxh: 'mov %r0, 1\nexit' }, ({ bed }) => {
      assert.equal(send(bed, numbers(8)), 0);
      assert.deepEqual(take(bed), []);
      assert.equal(counter(bed.tx, L.STAT_PACKETS), 0);
      deliver(bed, numbers(8));
      assert.deepEqual(receive(bed), []);
      assert.deepEqual([dropped(bed.tx), dropped(bed.rx)], [8, 8]);
      assert.deepEqual([fault(bed, bed.tx), fault(bed, bed.rx)], [0, 0]);
    });
  });

  test('the upper half of what they return means nothing', () => {
    hooked({ txh: 'lddw %r0, 0x100000000\nexit' }, ({ bed }) => {
      send(bed, numbers(2));
      assert.equal(take(bed).length, 2);
    });
  });

  for (const [what, text] of [
    ['reads beyond its context', 'ldxdw %r0, [%r1-8]\nexit'],
    ['never ends', 'ja -1\nexit'],
  ] as const) {
    test(`one that ${what} stops its queue`, () => {
      hooked({ txh: text, rxh: text }, ({ bed }) => {
        assert.throws(() => send(bed, numbers(3)), WebAssembly.RuntimeError);
        deliver(bed, numbers(3));
        assert.throws(() => receive(bed), WebAssembly.RuntimeError);
        for (const side of bed.sides) bed.datapath.calls.driver_fail(side.driver, L.FAULT_PROGRAM);
        stop(bed);
      });
    });
  }

  test('one that makes packets', () => {
    const alloc = `call ${RX_PKT_ALLOC}\nmov %r0, 0\nexit`;
    hooked({ txh: alloc, rxh: alloc }, ({ bed }) => {
      assert.equal(send(bed, numbers(2)), -1);
      assert.equal(fault(bed, bed.tx), L.FAULT_COMPLETION);
      deliver(bed, numbers(2));
      assert.deepEqual(receive(bed).map(wordsOf), ['packet 0', 'packet 1'], 'it gets -ENOMEM');
      stop(bed);
    });
  });

  test('rxh cannot ask for an offload that was not agreed on', () => {
    const ask = `mov %r2, 14\nmov %r3, 0\ncall ${RX_PKT_ALLOC + 2}\nmov %r0, 0\nexit`;
    hooked({ rxh: ask }, ({ bed }) => {
      deliver(bed, numbers(2));
      assert.deepEqual(receive(bed), []);
      assert.equal(dropped(bed.rx), 2);
    });
  });
});

describe('sealing in the driver', () => {
  const sealed = { txh: SEAL, rxh: OPEN, staged: true };

  for (const device of sealedTypeNames) {
    test(`${device}: from guest to guest, and the device sees none of it`, () => {
      hooked({ ...sealed, device }, ({ bed: a }) => {
        hooked({ ...sealed, device }, ({ bed: b }) => {
          for (let round = 0; round < 20; round++) {
            const frames = numbers(1 + ((round * 7) % NUM));
            assert.ok(send(a, frames) >= 0);
            assert.equal(visible(a, 'packet'), false);
            const carried = take(a);
            assert.equal(carried.length, frames.length);
            for (const frame of carried) assert.equal(frame[23], 253);
            deliver(b, carried);
            assert.deepEqual(receive(b).map(wordsOf), frames.map(wordsOf));
            assert.equal(visible(b, 'packet'), false);
            assert.deepEqual(b.audit(b.rx), { free: frames.length, driver: 0, device: NUM - frames.length });
          }
          assert.equal(a.audit(a.tx).free, NUM);
          assert.deepEqual([dropped(a.tx), dropped(b.rx)], [0, 0]);
          stop(b);
        });
      });
    });
  }

  test('frames have room for what is added, and what has none is dropped', () => {
    hooked(sealed, ({ bed }) => {
      assert.equal(bed.datapath.calls.driver_tx_room(bed.tx.driver, bed.guestBatch.address, 1), 1);
      assert.equal(bed.guestBatch.room(0), 1490);
      assert.ok(send(bed, [packet('x'.repeat(1490 - 34))]) >= 0);
      assert.equal(take(bed)[0]!.length, 1518);
      assert.ok(send(bed, [packet('x'.repeat(1491 - 34)), Buffer.alloc(60), packet('fits')]) >= 0);
      assert.equal(take(bed).length, 1);
      assert.equal(dropped(bed.tx), 2);
    });
  });

  test('what is not authentic is dropped and counted by itself', () => {
    hooked(sealed, ({ bed }) => {
      const sealer = new Sealer(KEY);
      const bytes = new Uint8Array(2048);
      const good = () => {
        const frame = packet('good');
        bytes.set(frame);
        return Buffer.from(bytes.slice(0, sealer.seal(bytes, 0, frame.length, 1518)));
      };
      const [first, second] = [good(), good()];
      const changed = Buffer.from(second);
      changed[60]! ^= 1;
      deliver(bed, [first, first, changed, packet('plain'), Buffer.alloc(60), second]);
      assert.deepEqual(receive(bed).map(wordsOf), ['good', 'good']);
      assert.deepEqual([counter(bed.rx, L.STAT_UNAUTHENTIC), dropped(bed.rx)], [3, 4]);
      assert.equal(fault(bed, bed.rx), 0);
    });
  });

  const HOSTILE: readonly (readonly [what: string, txh: string, rxh: string])[] = [
    ['let everything pass', PASS, PASS],
    ['do the other one’s work', OPEN, SEAL],
    [
      'ask for it and say something else',
      `call ${PKT_OPEN}\nmov %r0, 0\nexit`,
      `call ${PKT_SEAL}\nmov %r0, 0\nexit`,
    ],
  ];
  for (const [what, txh, rxh] of HOSTILE) {
    test(`programs of the device that ${what}: no plaintext gets out, nothing forged gets in`, () => {
      hooked({ txh, rxh, staged: true }, ({ bed }) => {
        assert.ok(send(bed, numbers(4)) >= 0);
        assert.deepEqual(take(bed), []);
        assert.equal(visible(bed, 'packet'), false);
        deliver(bed, numbers(4));
        assert.deepEqual(receive(bed), []);
        assert.deepEqual([dropped(bed.tx), dropped(bed.rx)], [4, 4]);
        stop(bed);
      });
    });
  }

  test('a program that seals twice, or from elsewhere, gets an error', () => {
    const twice = `mov %r6, %r1\ncall ${PKT_SEAL}\nmov %r1, %r6\ncall ${PKT_SEAL}\nadd %r0, 22\nexit`;
    hooked({ ...sealed, txh: twice }, ({ bed, sealer }) => {
      assert.ok(send(bed, [packet('once')]) >= 0);
      const [frame] = take(bed);
      assert.equal(frame!.length, packet('once').length + 28);
      assert.ok(new Sealer(KEY).open(frame!, 0, frame!.length) > 0);
      const helpers = new Map(sealingHelpers(bed.datapath.calls, window.bytes, sealer, () => 1, ignore));
      for (const helper of helpers.values()) assert.equal(helper(), -22n, 'no packet at hand');
    });
  });

  test('without a staging area the helpers do nothing', () => {
    hooked({ txh: SEAL, rxh: OPEN }, ({ bed }) => {
      send(bed, numbers(2));
      assert.deepEqual(take(bed), []);
      deliver(bed, numbers(2));
      assert.deepEqual(receive(bed), []);
      assert.equal(counter(bed.rx, L.STAT_UNAUTHENTIC), 0);
    });
  });

  test('what the device writes after a packet was taken changes nothing', () => {
    hooked(sealed, ({ bed: a }) => {
      hooked(sealed, ({ bed: b }) => {
        send(a, [packet('as it was')]);
        deliver(b, take(a));
        const { calls } = b.datapath;
        assert.equal(calls.driver_rx_poll(b.rx.driver, b.guestBatch.address, 1), 1);
        window.bytes.fill(0, b.rx.buffers, b.rx.buffers + NUM * 2048);
        const at = payload(b.guestBatch, 0);
        const length = b.guestBatch.length(0);
        assert.equal(wordsOf(Buffer.from(window.bytes.slice(at, at + length))), 'as it was');
        calls.driver_rx_release(b.rx.driver, b.guestBatch.address);
      });
    });
  });
});

test('which contracts go with a key, and which without', () => {
  const calls = (txh: number[], rxh: number[], rxc: number[] = []): HelperCalls =>
    new Map([
      ['rxc', new Set([RX_PKT_ALLOC, ...rxc])],
      ['txh', new Set(txh)],
      ['rxh', new Set(rxh)],
    ]);
  const both = calls([PKT_SEAL], [PKT_OPEN]);
  const neither = calls([], []);
  assert.equal(whetherSealed(both, true), true);
  assert.equal(whetherSealed(neither, false), false);
  assert.equal(whetherSealed(new Map(), false), false);
  const one = [
    calls([PKT_SEAL], []),
    calls([], [PKT_OPEN]),
    calls([PKT_OPEN], [PKT_SEAL]),
    calls([], [], [PKT_OPEN]),
  ];
  for (const [contract, hasKey] of [
    [both, false],
    [neither, true],
    ...one.flatMap(contract => [[contract, true] as const, [contract, false] as const]),
  ] as const) {
    assert.throws(() => whetherSealed(contract, hasKey), { code: 'DRIVER_KEY' });
  }
});
