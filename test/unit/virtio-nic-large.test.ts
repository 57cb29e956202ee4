/**
 * A guest that is larger than the window: 16 GiB, sparse, rings and buffers all over it.
 *
 * ```
 *   file    0          3 GiB │                                       16 GiB
 *   guest   0          3 GiB │ hole │ 4 GiB                          17 GiB        as QEMU lays it out
 * ```
 * The port is one that reads and writes frames itself, so that every buffer has to come into the window.
 */
import assert from 'node:assert/strict';
import { readSync, writeSync } from 'node:fs';
import { EventFd } from '../../src/linux/eventfd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import type { Mapping } from '../../src/linux/mmap.js';
import { eventually } from '../../src/linux/testing.js';
import { VirtioNic } from '../../src/nic/virtio-nic.js';
import { portSwallowed } from '../../src/port/flow.js';
import { openPort } from '../../src/port/registry.js';
import { areaSizes } from '../../src/ring/virtio/areas.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena } from '../compliance/testbed.js';
import { PackedDriver, type Piece, SplitDriver } from '../compliance/virtio-model.js';
import { Peer, say } from './vhost-user-peer.js';
import { type Place, qemu7 } from './vhost-user-scripts.js';
import { virtioTest, window } from './virtio-rig.js';

const GIB = 2 ** 30;
const SIZE = 16 * GIB;
const HOLE = 3 * GIB; // from here on, guest addresses are a GiB higher
const USER = 0x7000_0000_0000n;
const NUM = 64;
const HEADER = 12;
const LENGTH = 200;
/** Where the rings are in the file: in the middle of nowhere, not at the start of a chunk. */
const RINGS = [9 * GIB + 0x12_3000, 15 * GIB + 0x1f_f000];

/** Of each: the areas, and behind them, in other pages, indirect tables. */
const ROOM = 16 * 4096;
const TABLES = 2 * 4096;

const toGuest = (offset: number): bigint => BigInt(offset < HOLE ? offset : offset + GIB);
const region = (from: number, to: number) => ({
  guestPhysicalAddress: toGuest(from),
  size: BigInt(to - from),
  userspaceAddress: USER + BigInt(from),
  mmapOffset: BigInt(from),
});

for (const [what, accept] of [
  ['split', F.VERSION_1],
  ['packed, indirect', F.VERSION_1 | F.RING_PACKED | F.INDIRECT_DESC],
] as const) {
  virtioTest(`${what}: buffers all over a guest of 16 GiB`, async () => {
    const packed = (accept & F.RING_PACKED) !== 0n;
    const memory = createMemfd({ name: 'large guest', size: SIZE });
    const port = openPort('source:len=200', { window, arena });
    const log: string[] = [];
    const nic = await VirtioNic.start({
      ...{ window, arena, port },
      log: (level, message) => level !== 'info' && log.push(message),
    });
    const peer = new Peer(nic);
    const signals = Array.from({ length: 4 }, (_, i) => EventFd.create(`signal ${i}`));
    const mappings: Mapping[] = [];
    const sizes = areaSizes(NUM, packed);
    /** Areas in the file. */
    const areas = RINGS.map(at => ({
      descriptor: at,
      driver: at + sizes.descriptor,
      device: at + Math.ceil((sizes.descriptor + sizes.driver) / 4) * 4,
    }));
    const drivers = areas.map((at, i) => {
      const page = RINGS[i]!;
      const overlay = window.overlay({ fd: memory.fd, fileOffset: page, length: ROOM, name: 'rings' }, 4096)!;
      mappings.push(overlay.mapping);
      const options = {
        memory: new DataView(window.bytes.buffer, overlay.address, ROOM),
        base: toGuest(page),
        areas: { descriptor: toGuest(at.descriptor), driver: toGuest(at.driver), device: toGuest(at.device) },
        ...{ num: NUM, eventIdx: false },
      };
      return packed ? new PackedDriver(options, { index: 0, wrap: true }) : new SplitDriver(options);
    });
    const place: Place = {
      ...{ features: accept, size: NUM, base: packed ? 0x8000_8000 : 0 },
      regions: [region(0, HOLE), region(HOLE, SIZE)],
      ring: index => {
        const { descriptor, driver, device } = areas[index]!;
        const user = (offset: number) => USER + BigInt(offset);
        return { descriptor: user(descriptor), available: user(driver), used: user(device) };
      },
    };
    const { connect, reset, start } = qemu7(place);
    await say(peer, [...connect, ...reset, ...start], (kind, { name, values }) => {
      if (kind === 'memory') return memory.dup();
      const index = Number((values as { value?: bigint }).value ?? 0n);
      return signals[name === 'SET_VRING_KICK' ? index : 2 + index]!.owner.dup();
    });
    assert.deepEqual([peer.refusals, log.filter(line => line.includes("can't run"))], [[], []]);

    let state = 1;
    const random = (below: number): number => {
      state = (state * 1103515245 + 12345) % 2 ** 31;
      return Math.floor((state / 2 ** 31) * below);
    };
    /** A buffer anywhere, but where the rings are; in one piece, or torn: header and payload far from each other. */
    const buffer = (): Piece[] => {
      const far = (length: number): Piece => {
        for (;;) {
          const offset = random(SIZE / 64) * 64 - (random(8) === 0 ? 16 : 0); // some reach into the next page
          const free = offset > 0 && RINGS.every(at => offset + length < at || offset > at + ROOM);
          if (free && (offset + length <= HOLE || offset >= HOLE) && offset + length <= SIZE)
            return { gpa: toGuest(offset), length };
        }
      };
      return random(2) === 0 ? [far(HEADER + LENGTH)] : [far(HEADER), far(LENGTH)];
    };
    const offsetOf = (gpa: bigint): number => Number(gpa) - (gpa >= BigInt(HOLE + GIB) ? GIB : 0);
    const table = (ring: number, n: number): bigint | undefined =>
      packed && n % 2 === 0 ? toGuest(RINGS[ring]! + TABLES + (n % NUM) * 64) : undefined;

    // Out: each frame with its number where source and sink have it.
    const out = 400;
    let posted = 0;
    const [rx, tx] = drivers as [SplitDriver, SplitDriver];
    const send = (number: number): void => {
      const pieces = buffer();
      const frame = Buffer.alloc(HEADER + LENGTH);
      frame.writeBigUInt64LE(BigInt(number), HEADER + 16);
      let done = 0;
      for (const { gpa, length } of pieces) {
        writeSync(memory.fd, frame, done, length, offsetOf(gpa));
        done += length;
      }
      tx.add(pieces, false, table(1, number));
    };
    while (nic.stats().queues[1]!.packets < out) {
      await eventually(() => {
        tx.taken();
        return tx.free > 4;
      });
      for (; posted < out && tx.free > 4; posted++) send(posted);
      tx.publish();
      signals[1]!.signal();
      if (posted === out) await eventually(() => nic.stats().queues[1]!.packets === out);
    }
    assert.deepEqual(portSwallowed(window, port), { sequence: out, outOfOrder: 0 });

    // In: what the source has written is in the buffers.
    const lent = new Map<number, Piece[]>();
    let expected = 0n;
    let n = 0;
    while (expected < 300n) {
      for (; rx.free > 4; n++) {
        const pieces = buffer();
        lent.set(rx.add(pieces, true, table(0, n)), pieces);
      }
      rx.publish();
      signals[0]!.signal();
      for (const { id, length } of await eventually(() => {
        const taken = rx.taken();
        return taken.length > 0 && taken;
      })) {
        assert.equal(length, HEADER + LENGTH);
        const frame = Buffer.concat(
          lent.get(id)!.map(piece => {
            const bytes = Buffer.alloc(piece.length);
            readSync(memory.fd, bytes, 0, piece.length, offsetOf(piece.gpa));
            return bytes;
          }),
        );
        assert.equal(frame.readUInt16LE(10), 1, 'num_buffers');
        assert.equal(frame.readBigUInt64LE(HEADER + 16), expected++);
      }
    }
    // What was published last is sent when the NIC stops.
    tx.taken();
    let last = out;
    for (; tx.free > 4; last++) send(last);
    assert.ok(last > out);
    tx.publish();
    await nic.quiesce();
    assert.deepEqual(portSwallowed(window, port), { sequence: last, outOfOrder: 0 });
    assert.deepEqual(
      log.filter(line => !line.includes('shrunk')),
      [],
    );

    await peer.close();
    await nic.close();
    port.close();
    for (const mapping of mappings) mapping.close();
    for (const signal of signals) signal.close();
    memory.close();
  });
}
