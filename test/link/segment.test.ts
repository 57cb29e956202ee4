/**
 * Software segmentation before real kernels, who put together what was cut: large frames that a kernel sends, as it does for a moment after a contract
 * without offloads has replaced one with, and frames that kernels send no more, injected (injection.ts), through rings of all agreements.
 *
 * ```
 *   kernel ══ TAP ══ port.get: cuts ──► batch of 1518-byte buffers ──► port.put ══ TAP ══ kernel
 *   test ──────────► port.get: cuts or not ──► ring ──► port.put ══ TAP ══ kernel ── UDP socket ──► test
 *                                                  └──► pcap.put: cuts ──► tshark
 * ```
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import * as L from '../../datapath/layout.js';
import { LinuxError } from '../../src/linux/errors.js';
import { parseIp, parseMac } from '../../src/linux/ip-address.js';
import { setsockopt } from '../../src/linux/libc.js';
import { openUdp } from '../../src/linux/socket.js';
import { folder, haveTshark, readCapture, run } from '../../src/port/pcapng/testing.js';
import { attachPort, openPort } from '../../src/port/registry.js';
import type { TapHandle } from '../../src/port/tap.js';
import { Batch } from '../../src/ring/batch.js';
import { offloadsOf } from '../../src/ring/features.js';
import { arena, eventually, Testbed, window } from '../compliance/testbed.js';
import { largeFrame, payloadOf, plain, type Shape } from '../unit/large-frames.js';
import { receive as receiveFrame } from '../unit/segment-model.js';
import { cannot, type End, kernelStats, makeEnd, setUp } from './harness.js';
import { type Passed, receive, Tapped, transmit } from './injection.js';
import { tcpTransfer } from './traffic.js';

const BYTES = 10e6;

test('large frames that nobody agreed on arrive cut, with content and checksums right', async t => {
  const why = cannot();
  if (why) return t.skip(why);
  // Any receive ring serves as a source of buffers.
  const bed = new Testbed({ device: 'sring', num: 128 });
  t.after(() => bed.close());
  const { calls } = bed.datapath;
  const ends = [
    makeEnd('big0', '10.9.1.1', '02:00:00:00:01:01'),
    makeEnd('cut0', '10.9.1.2', '02:00:00:00:01:02'),
  ] as const;
  const handles = ends.map(({ interface: name, path, mac }) =>
    openPort(`tap:${name},netns=${path},mac=${mac}`, { window, arena }),
  ) as [TapHandle, TapHandle];
  t.after(() => {
    for (const handle of handles) handle.close();
    for (const { netns } of ends) netns.close();
  });
  const [big, plain] = ends as readonly [End, End];
  handles[0].tap.setOffload(L.OFFLOAD_CSUM | L.OFFLOAD_TSO4); // the kernel may; what the port has agreed to stays nothing
  setUp(big, plain);
  setUp(plain, big);
  const ports = handles.map(({ lanes }) => attachPort(lanes[0]!, { window, calls }));
  const batch = Batch.allocate(window, arena);
  t.after(() => arena.free(batch.address));

  let over = false;
  const pump = async () => {
    while (!over) {
      for (const [i, port] of ports.entries()) {
        calls.driver_reset(bed.tx.driver, bed.num);
        calls.driver_tx_room(bed.tx.driver, batch.address, 100);
        const filled = port.get(batch);
        window.words[(batch.address + L.BATCH_COUNT) >>> 2] = filled;
        trim(batch, filled);
        assert.equal(ports[1 - i]!.put(batch), filled);
      }
      await nextTurn();
    }
  };
  const pumping = pump();
  const { sent, got } = await tcpTransfer(big, plain, { seed: 31, bytes: BYTES }).finally(() => {
    over = true;
  });
  await pumping;

  assert.equal(got.sha256, sent.sha256);
  for (const handle of handles) {
    const { dropped, tooLong, errors } = handle.counters();
    assert.deepEqual({ dropped, tooLong, errors }, { dropped: 0, tooLong: 0, errors: 0 });
  }
  const { txPackets, txBytes } = kernelStats(big);
  assert.ok(txBytes / txPackets > 4000, `the kernel sent ${txBytes / txPackets} bytes a frame`);
  const { rxPackets, rxBytes } = kernelStats(plain);
  assert.ok(rxBytes / rxPackets <= 1514, `${rxBytes / rxPackets} bytes a frame arrived`);
});

/** Cuts the buffer of each frame to what it holds, as a ring does. */
function trim(batch: Batch, count: number): void {
  for (let i = 0; i < count; i++) {
    window.longs[(batch.iovAddress(i) - window.base + L.IOVEC_SIZE + L.IOVEC_LENGTH) / 8] = BigInt(
      batch.length(i),
    );
  }
}

/** Two TAPs, each with a kernel behind it, and a ring between them; null: they can't be had here, and the test says why. */
function rig(t: TestContext, device: string, features = 0n) {
  const why = cannot();
  if (why) {
    t.skip(why);
    return null;
  }
  const bed = new Testbed({ device, num: 128, features });
  const { calls } = bed.datapath;
  const [source, target] = [new Tapped(calls, 'src0', 1), new Tapped(calls, 'dst0', 2)];
  t.after(() => {
    source.close();
    target.close();
    bed.close();
  });
  source.join(target);
  target.join(source);
  return { bed, calls, source, target };
}

const fragmented: Shape = { ...plain, kind: 'fragments', payload: 30_001, size: 1480 };
const datagrams: Shape = { ...plain, kind: 'datagrams', payload: 20_500, size: 1000 };
const hop = [{ type: 0, more: 0 }];

const SHAPES: readonly Shape[] = [
  fragmented,
  { ...fragmented, payload: 65_000, dontFragment: true, id: 0 },
  { ...fragmented, v6: true, size: 1448 },
  { ...fragmented, v6: true, size: 1440, extensions: hop },
  datagrams,
  { ...datagrams, v6: true },
  { ...datagrams, v6: true, extensions: hop },
];
const CUT_BY_KIND = { fragments: L.OFFLOAD_UFO, datagrams: L.OFFLOAD_USO, tcp: L.OFFLOAD_TSO4 };

/** The datagrams that a frame of this shape stands for. */
function datagramsOf(shape: Shape): Buffer[] {
  const payload = payloadOf(shape);
  const size = shape.kind === 'fragments' ? payload.length : shape.size;
  const n = Math.ceil(payload.length / size);
  return Array.from({ length: n }, (_, i) => payload.subarray(i * size, (i + 1) * size));
}

/** Injects a frame of this shape at `from`, moves it, and checks what a socket at `to` hears. */
async function send(shape: Shape, from: Tapped, to: Tapped, move: () => Passed): Promise<Passed> {
  const port = 7000;
  const ear = to.listen(shape.v6, port);
  try {
    from.inject(...frameFrom(shape, from, to, port));
    const passed = move();
    const expected = datagramsOf(shape);
    const heard: Buffer[] = [];
    await eventually(() => heard.push(...ear.heard()) >= expected.length);
    assert.deepEqual(
      heard.map(({ length }) => length),
      expected.map(({ length }) => length),
      `${shape.kind}, IPv${shape.v6 ? 6 : 4}`,
    );
    for (const [i, datagram] of heard.entries()) assert.ok(datagram.equals(expected[i]!), `datagram ${i}`);
    return passed;
  } finally {
    ear.close();
  }
}

function frameFrom(shape: Shape, from: Tapped, to: Tapped, port: number) {
  const [source, target] = [from, to].map(({ end, ip6 }) => parseIp(shape.v6 ? ip6 : end.ip).bytes);
  const ethernet = Buffer.concat([parseMac(to.end.mac), parseMac(from.end.mac)]);
  const { frame, ask } = largeFrame(shape, { ethernet, source: source!, target: target!, port });
  return [frame, ask] as const;
}

test('large datagrams for a guest that has agreed to none arrive, put together by its kernel', async t => {
  const all = rig(t, 'sring');
  if (!all) return;
  const { bed, source, target } = all;
  for (const shape of SHAPES) {
    const { frames, asking } = await send(shape, source, target, () =>
      receive(bed, source.injected, target.port),
    );
    assert.ok(frames >= 15, `${frames} frames`);
    assert.equal(asking, 0);
  }
  assert.equal(source.handle.counters().softened, SHAPES.length);
  assert.equal(target.handle.counters().softened, 0);
});

test('large datagrams of a guest whose contract has no offloads arrive, put together by the host', async t => {
  const all = rig(t, 'vring_packed');
  if (!all) return;
  const { bed, source, target } = all;
  for (const shape of SHAPES) {
    const { frames, asking } = await send(shape, source, target, () =>
      transmit(bed, source.injected, target.port),
    );
    assert.ok(frames >= 15, `${frames} frames`);
    assert.equal(asking, 0);
  }
});

test('large datagrams pass whole where they were agreed on, and the kernel takes them', async t => {
  const all = rig(t, 'sring_gso', 0x1ffn);
  if (!all) return;
  const { bed, source, target } = all;
  for (const direction of ['tx', 'rx'] as const) {
    const agreed = offloadsOf(0x1ffn, direction);
    source.handle.setOffloads(agreed);
    for (const shape of SHAPES) {
      const move = () => (direction === 'tx' ? transmit : receive)(bed, source.injected, target.port);
      const { frames, asking } = await send(shape, source, target, move);
      const whole = (agreed & CUT_BY_KIND[shape.kind]) !== 0;
      assert.deepEqual([frames, asking], whole ? [1, 1] : [datagramsOf(shape).length, 0], shape.kind);
    }
  }
  assert.equal(target.handle.counters().softened, 0);
});

test('a frame that the kernel refuses for what it asks is cut after all', async t => {
  const all = rig(t, 'sring_gso', 0x1ffn);
  if (!all) return;
  const { bed, source, target } = all;
  // As a queue whose contract knows USO.
  const offloads = (bed.tx.queue.address + L.QUEUE_OFFLOADS) >>> 2;
  window.words[offloads] = L.OFFLOAD_ALL;
  window.words[(source.handle.lanes[0]!.state + L.PORT_OFFLOADS) >>> 2] = L.OFFLOAD_ALL;
  const many = { ...datagrams, payload: 20_000, size: 100 };
  const cases: readonly (readonly [string, Shape])[] = [
    ['UFO', fragmented],
    ['UFO, IPv6', { ...fragmented, v6: true, size: 1448 }],
    ['UFO with the largest gso_size', { ...fragmented, payload: 1400, size: 0xffff }],
    ['USO', datagrams],
    ['USO, IPv6', { ...datagrams, v6: true }],
    ['USO of 128 datagrams', { ...many, payload: 12_800 }],
    ['USO of 200 datagrams', many],
    ['USO of 200 datagrams, IPv6', { ...many, v6: true }],
  ];
  const refused: string[] = [];
  for (const [what, shape] of cases) {
    const before = target.handle.counters();
    const { asking } = await send(shape, source, target, () => transmit(bed, source.injected, target.port));
    assert.equal(asking, 1, what);
    const after = target.handle.counters();
    const softened = after.softened - before.softened;
    if (softened > 0) refused.push(what);
    assert.equal(after.sent - before.sent, softened > 0 ? datagramsOf(shape).length : 1, what);
    assert.deepEqual([after.dropped, after.errors], [0, 0], what);
  }
  t.diagnostic(`this kernel refuses: ${refused.join('; ') || 'nothing: it was not needed that we cut'}`);

  // A header that makes no sense is no reason to cut.
  window.words[offloads] = 0;
  const [frame, ask] = frameFrom(many, source, target, 7000);
  source.inject(frame, ask);
  assert.deepEqual(transmit(bed, source.injected, target.port), { frames: 0, asking: 0 });
  assert.equal(bed.tx.queue.stats.dropped, 1, 'the guest asked for what it had not agreed to');
});

test('datagrams that the kernel sends as one, for a guest that has agreed to none', async t => {
  const all = rig(t, 'sring');
  if (!all) return;
  const { bed, source, target } = all;
  try {
    source.handle.tap.setOffload(L.OFFLOAD_CSUM | L.OFFLOAD_TSO4 | L.OFFLOAD_TSO6 | L.OFFLOAD_USO);
  } catch (error) {
    if (!(error instanceof LinuxError)) throw error;
    return t.skip(`this kernel has no USO for TAPs: ${error.message}`);
  }
  for (const v6 of [false, true]) {
    const to = { ip: v6 ? target.ip6 : target.end.ip, port: 7001 };
    const ear = target.listen(v6, to.port);
    const socket = openUdp(to.ip, { netns: source.end.netns });
    const payload = payloadOf({ ...datagrams, sequence: 9 });
    // Whoever knows the other's address need not ask for it; IPv6 asks.
    await eventually(() => {
      receive(bed, source.port, target.port);
      transmit(bed, target.port, source.port);
      socket.connect(to);
      const size = new Int32Array([datagrams.size]);
      assert.equal(setsockopt(socket.fd, 17, 103, size), 0, 'UDP_SEGMENT');
      return socket.send(payload, payload.length) === payload.length;
    });
    const heard: Buffer[] = [];
    await eventually(() => {
      receive(bed, source.port, target.port);
      transmit(bed, target.port, source.port);
      return heard.push(...ear.heard()) >= 21;
    });
    assert.equal(heard.length, 21);
    assert.ok(Buffer.concat(heard).equals(payload));
    ear.close();
    socket.close();
  }
  assert.ok(source.handle.counters().softened >= 2);
});

for (const direction of ['tx', 'rx'] as const) {
  test(`a capture of large frames that were agreed on (${direction}) is what the wire would see`, async t => {
    if (!haveTshark(t)) return;
    const all = rig(t, 'sring_gso', 0x1ffn);
    if (!all) return;
    const { bed, calls, source, target } = all;
    const path = join(folder(t), 'f.pcapng');
    const capture = openPort(`pcap:out=${path}`, { window, arena });
    t.after(() => capture.close());
    const port = attachPort(capture.lanes[0]!, { window, calls });
    source.handle.setOffloads(offloadsOf(0x1ffn, direction));
    const shapes = [...SHAPES, { ...plain, payload: 60_000 }, { ...plain, v6: true, size: 1428 }];
    let asking = 0;
    for (const shape of shapes) {
      source.inject(...frameFrom(shape, source, target, 7000));
      asking += (direction === 'tx' ? transmit : receive)(bed, source.injected, port).asking;
    }
    assert.equal(asking, shapes.filter(({ kind }) => kind !== 'datagrams').length);
    assert.deepEqual(
      (({ dropped, softened, errors }) => ({ dropped, softened, errors }))(capture.counters()),
      { dropped: 0, softened: asking, errors: 0 },
    );
    const { frames, fault } = readCapture(path);
    assert.equal(fault, '');
    for (const { bytes } of frames) {
      assert.ok(bytes.length <= 1514, `${bytes.length} bytes`);
      receiveFrame(Buffer.from(bytes));
    }
    lookAtCapture(path, shapes);
  });
}

/** What tshark makes of a file: no bad checksum, and datagrams with the content that they should have. */
function lookAtCapture(path: string, shapes: readonly Shape[]): void {
  const check = ['ip', 'tcp', 'udp'].flatMap(protocol => ['-o', `${protocol}.check_checksum:TRUE`]);
  const reassemble = ['-o', 'ip.defragment:TRUE', '-o', 'ipv6.defragment:TRUE'];
  const look = (filter: string, ...fields: string[]) =>
    run('tshark', [
      ...['-r', path, ...check, ...reassemble, '-Y', filter, '-T', 'fields', '-E', 'occurrence=f'],
      ...fields.flatMap(field => ['-e', field]),
    ]);
  const status = ['ip', 'tcp', 'udp'].map(protocol => `${protocol}.checksum.status == "Bad"`);
  assert.equal(look(status.join(' || '), 'frame.number'), '', 'bad checksums');
  assert.equal(look('_ws.malformed', 'frame.number'), '', 'malformed frames');
  const good = look('udp.checksum.status == "Good"', 'frame.number').trimEnd().split('\n');
  const udp = look('udp', 'udp.payload').trimEnd().split('\n');
  const expected = shapes.filter(({ kind }) => kind !== 'tcp').flatMap(datagramsOf);
  assert.equal(good.length, expected.length, 'good checksums');
  assert.deepEqual(
    udp,
    expected.map(datagram => datagram.toString('hex')),
  );
}
