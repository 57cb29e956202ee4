/** Virtqueues byte by byte: rings written by hand, as the standard lays them out, and what the device does with chains of every kind. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import * as L from '../../datapath/layout.js';
import { checkSize } from '../../src/ring/virtio/areas.js';
import { VIRTIO_FEATURE as F, queueSettings } from '../../src/ring/virtio/features.js';
import { Virtq } from '../../src/ring/virtio/virtq.js';
import { getHeader, pieces, setHeader } from '../compliance/packets.js';
import { arena, window } from '../compliance/testbed.js';
import { VirtioBed, type VirtioSide } from '../compliance/virtio-bed.js';
import type { Piece } from '../compliance/virtio-model.js';

const MODERN = F.VERSION_1 | F.INDIRECT_DESC;
const beds: VirtioBed[] = [];
let live: number;
before(() => {
  live = arena.live;
});
after(() => {
  for (const bed of beds) {
    bed.checkCanaries();
    bed.close();
  }
  assert.equal(arena.live, live, 'leaks');
});

function bedOf(features: bigint, num = 8, maxFrame = 1518): VirtioBed {
  const bed = new VirtioBed({ features, num, maxFrame, slots: 16 });
  beds.push(bed);
  return bed;
}

const pop = (bed: VirtioBed, budget = 128) => bed.ring.pop(bed.tx.queue.address, bed.batch.address, budget);
const complete = (bed: VirtioBed, n: number) => bed.ring.complete(bed.tx.queue.address, bed.batch.address, n);
const room = (bed: VirtioBed, budget = 128) => bed.ring.room(bed.rx.queue.address, bed.batch.address, budget);
const push = (bed: VirtioBed, n: number) => bed.ring.push(bed.rx.queue.address, bed.batch.address, n);

/** A place in guest memory for the test's own data: the n-th slot. */
const slot = (bed: VirtioBed, n: number): bigint => bed.cut(n, 0, 1, () => 0)[0]!.gpa;
const hex = (bed: VirtioBed, gpa: bigint, length: number) => bed.gather([{ gpa, length }]).toString('hex');
const write = (bed: VirtioBed, gpa: bigint, text: string) => {
  const bytes = Buffer.from(text.replaceAll(' ', ''), 'hex');
  bed.scatter([{ gpa, length: bytes.length }], bytes);
};
const upwards = (a: bigint, b: bigint) => (a < b ? -1 : 1);
const le = (value: bigint | number, bytes: number) => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(value));
  return buffer.toString('hex', 0, bytes);
};

/** Makes a chain available: what is in those pieces, which begin with the header. */
function send(bed: VirtioBed, list: readonly Piece[], table?: bigint): void {
  bed.tx.driver.add(list, false, table);
  bed.tx.driver.publish();
}

describe('a ring as the standard lays it out', () => {
  it('split: descriptors 16 bytes, available ring 6 + 2N, used ring 6 + 8N', () => {
    const bed = bedOf(F.VERSION_1 | F.EVENT_IDX, 4);
    const { descriptor, driver, device } = bed.tx.areas;
    const [header, payload] = [slot(bed, 0), slot(bed, 1)];
    write(bed, header, '00'.repeat(12));
    write(bed, payload, '0102030405060708090a0b0c0d0e');
    write(bed, descriptor + 32n, `${le(header, 8)} 0c000000 0100 0300`); // 2: the header, NEXT, 3
    write(bed, descriptor + 48n, `${le(payload, 8)} 0e000000 0000 ffff`); // 3: 14 bytes
    write(bed, driver, '0000 0100 0200 0000 0000 0000 0000'); // flags, idx 1, head 2, …, used_event 0
    assert.equal(pop(bed), 1);
    assert.deepEqual([bed.batch.length(0), bed.batch.iovs(0)], [14, 2]);
    assert.equal(complete(bed, 1), true);
    // flags, idx 1, { id 2, length 0 }, three more, avail_event 0: where the kicks were switched on
    assert.equal(
      hex(bed, device, 38),
      `00000100 0200000000000000 ${'00'.repeat(24)} 0000`.replaceAll(' ', ''),
    );
    bed.ring.kicks(bed.tx.queue.address, true);
    assert.equal(hex(bed, device + 36n, 2), '0100');
  });

  it('packed: descriptors 16 bytes, events 4', () => {
    const bed = bedOf(F.VERSION_1 | F.EVENT_IDX | F.RING_PACKED, 3);
    const { descriptor, driver, device } = bed.rx.areas;
    const at = slot(bed, 0);
    assert.equal(hex(bed, device, 4), '00800200', 'kick at index 0, wrap counter 1');
    write(bed, driver, '0080 0200');
    // 0 and 1: a chain of 20 and 1520 bytes to write, id 7; 2: one of 1530, id 9. AVAIL 0x80, NEXT 1, WRITE 2.
    write(bed, descriptor, `${le(at, 8)} 14000000 beef 8300 ${le(at + 64n, 8)} f0050000 0700 8200`);
    write(bed, descriptor + 32n, `${le(at + 4096n, 8)} fa050000 0900 8200`);
    assert.equal(room(bed), 2);
    assert.deepEqual([bed.batch.iovs(0), bed.batch.room(0), bed.batch.room(1)], [3, 1518, 1518]);
    bed.batch.setLength(0, 60);
    bed.batch.setLength(1, 61);
    assert.equal(push(bed, 2), true);
    // used over the first slot of each: length 72, id 7 and 73, id 9; AVAIL and USED equal 1, WRITE; marked as used in the other one
    assert.equal(hex(bed, descriptor + 8n, 8), '4800000007008280');
    assert.equal(hex(bed, descriptor + 24n, 8), 'f005000007008280');
    assert.equal(hex(bed, descriptor + 40n, 8), '4900000009008280');
    assert.equal(hex(bed, at, 12), '000000000000000000000100');
    bed.ring.kicks(bed.rx.queue.address, true);
    assert.equal(hex(bed, device, 4), '00000200', 'kick at index 0, wrap counter 0');
    bed.ring.kicks(bed.rx.queue.address, false);
    assert.equal(hex(bed, device + 2n, 2), '0100', 'never');
    // The next lap: available is USED without AVAIL.
    write(bed, descriptor, `${le(at, 8)} fa050000 0100 0280`);
    assert.equal(room(bed), 1);
    bed.batch.setLength(0, 60);
    push(bed, 1);
    assert.equal(hex(bed, descriptor + 8n, 8), '4800000001000200');
  });

  it('sizes that can not be are refused', () => {
    for (const packed of [false, true]) {
      for (const num of [1, 2, 256, 32768]) checkSize(num, packed);
      for (const num of [0, -1, 1.5, 32769, 65536])
        assert.throws(() => checkSize(num, packed), { code: 'VIRTQ_SIZE' });
    }
    checkSize(1023, true);
    assert.throws(() => checkSize(1023, false), { code: 'VIRTQ_SIZE' });
  });

  it('areas that are misaligned or in no region are refused, and the former ones kept', () => {
    const bed = bedOf(MODERN);
    const { areas, queue } = bed.tx;
    const bad = [
      { ...areas, descriptor: areas.descriptor + 8n },
      { ...areas, driver: areas.driver + 1n },
      { ...areas, device: areas.device + 2n },
      { ...areas, device: bed.forbidden[1]! - 8n },
      { ...areas, descriptor: 2n ** 64n - 16n },
    ];
    for (const place of bad) assert.throws(() => queue.place(place, bed.table), { code: 'MEMORY_ADDRESS' });
    send(bed, [{ gpa: slot(bed, 0), length: 72 }]);
    assert.equal(pop(bed), 1);
  });

  it('features decide format, header and offloads', () => {
    const names = (features: bigint) => queueSettings(features, 'tx');
    assert.deepEqual(names(0n), { flags: 0, header: 10, offloads: 0 });
    assert.equal(names(F.MRG_RXBUF).header, 12);
    assert.equal(names(F.VERSION_1).header, 12);
    assert.equal(queueSettings(F.VERSION_1 | F.RING_PACKED, 'rx').flags, L.VIRTQ_PACKED | L.VIRTQ_RECEIVE);
    assert.equal(names(F.HOST_TSO4).offloads, 0, 'nothing without checksums');
    assert.equal(names(F.CSUM | F.HOST_TSO6 | F.GUEST_TSO4).offloads, L.OFFLOAD_CSUM | L.OFFLOAD_TSO6);
    assert.equal(queueSettings(F.GUEST_CSUM | F.GUEST_UFO, 'rx').offloads, L.OFFLOAD_CSUM | L.OFFLOAD_UFO);
    assert.equal(names(F.CSUM | F.HOST_USO).offloads, L.OFFLOAD_CSUM | L.OFFLOAD_USO);
    assert.equal(queueSettings(F.GUEST_CSUM | F.GUEST_USO4, 'rx').offloads, L.OFFLOAD_CSUM, 'both or none');
    assert.equal(
      queueSettings(F.GUEST_CSUM | F.GUEST_USO4 | F.GUEST_USO6, 'rx').offloads,
      L.OFFLOAD_CSUM | L.OFFLOAD_USO,
    );
  });
});

for (const format of ['split', 'packed'] as const) {
  const features = MODERN | (format === 'packed' ? F.RING_PACKED : 0n);
  describe(`${format}: chains that are not as usual`, () => {
    let bed: VirtioBed;
    before(() => {
      bed = bedOf(features);
    });
    const errors = (side: VirtioSide) => bed.stats(side).errors;

    it('the header may be torn into bytes, with empty descriptors between them', () => {
      bed.reset();
      const own = bedOf(features, 64);
      const whole = Buffer.alloc(12 + 60, 0x5a).fill(0, 0, 12);
      const list = Array.from({ length: 12 }, (_, i) => [
        { gpa: slot(own, i) + BigInt(i), length: 1 },
        { gpa: own.forbidden[0]!, length: 0 }, // nothing of it is touched
      ]).flat();
      list.push({ gpa: slot(own, 12), length: 60 });
      own.scatter(list, whole);
      send(own, list);
      assert.equal(pop(own), 1);
      assert.equal(own.batch.iovs(0), 2);
      assert.ok(Buffer.concat(pieces(own.batch, 0, 60)).equals(whole.subarray(12)));
      complete(own, 1);
      own.rx.driver.add(
        list.map(piece => (piece.length === 60 ? { ...piece, length: 1518 } : piece)),
        true,
      );
      own.rx.driver.publish();
      assert.equal(room(own), 1);
      setHeader(own.batch, 0, { hdrLen: 0x1234, start: 0x5678 });
      own.batch.setLength(0, 100);
      push(own, 1);
      assert.deepEqual(
        own.rx.driver.taken().map(used => used.length),
        [112],
      );
      const header = own.gather(list, 12).toString('hex');
      assert.equal(header, '000034120000785600000100');
      assert.deepEqual([errorsOf(own, 'tx'), errorsOf(own, 'rx')], [0, 0]);
    });

    it('a buffer may lie in two regions that follow each other', () => {
      // The same memory, described as two regions that are not one in this process.
      const own = bedOf(features);
      const entry = own.table.address + L.REGIONS_HEAD;
      const words = window.words;
      const at = Number(slot(own, 0) - (own.ram.guestPhysicalAddress + 4096n)) + 40;
      const length = words[(entry + L.REGION_LENGTH) >>> 2]!;
      // Cut the first region at `at`; what follows takes the place of the second one.
      words[(entry + L.REGION_LENGTH) >>> 2] = at;
      const next = entry + L.REGION_SIZE;
      window.longs[(next + L.REGION_GPA) / 8] = window.longs[(entry + L.REGION_GPA) / 8]! + BigInt(at);
      window.longs[(next + L.REGION_LENGTH) / 8] = BigInt(length - at);
      window.longs[(next + L.REGION_FLAT) / 8] = window.longs[(entry + L.REGION_FLAT) / 8]! + BigInt(at);
      words[(next + L.REGION_WINDOW) >>> 2] = words[(entry + L.REGION_WINDOW) >>> 2]! + at;
      const piece = { gpa: slot(own, 0), length: 112 };
      const whole = Buffer.alloc(112, 7).fill(0, 0, 12);
      own.scatter([piece], whole);
      send(own, [piece]);
      assert.equal(pop(own), 1);
      assert.deepEqual([own.batch.length(0), own.batch.iovs(0)], [100, 3]);
      assert.ok(Buffer.concat(pieces(own.batch, 0, 100)).equals(whole.subarray(12)));
    });

    it('what makes no sense goes back with length 0, counted, and the next chain is looked at', () => {
      const hole = bed.forbidden[1]!;
      const good = { gpa: slot(bed, 0), length: 72 };
      const h = { gpa: slot(bed, 1), length: 12 };
      const top = 2n ** 64n;
      const bad: readonly (readonly [string, readonly Piece[], boolean?])[] = [
        ['shorter than the header', [{ gpa: slot(bed, 2), length: 11 }]],
        ['a header and no payload', [h]],
        ['a header and an empty payload', [h, { gpa: slot(bed, 2), length: 0 }]],
        ['of the other direction', [good], true],
        ['in no region', [{ gpa: hole, length: 72 }]],
        ['payload in no region', [h, { gpa: hole + 5n, length: 60 }]],
        ['into a hole', [h, { gpa: hole - 59n, length: 60 }]],
        ['wrapping', [h, { gpa: top - 8n, length: 60 }]],
        ['wrapping into a region', [h, { gpa: top - 8n, length: 0xffff_ffff }]],
        ['longer than a frame', [h, { gpa: slot(bed, 2), length: 1519 }]],
        [
          'longer than a frame, in pieces',
          [h, { gpa: slot(bed, 2), length: 1000 }, { gpa: slot(bed, 3), length: 519 }],
        ],
      ];
      for (const [what, list, writable = false] of bad) {
        bed.reset();
        const past = errors(bed.tx);
        const ids = [bed.tx.driver.add(list, writable), bed.tx.driver.add([good], false)];
        if (list.length > 1) ids.push(bed.tx.driver.add(list, writable, bed.tableFor(1)));
        bed.tx.driver.publish();
        assert.equal(pop(bed), 1, what);
        complete(bed, 1);
        assert.equal(errors(bed.tx) - past, ids.length - 1, what);
        assert.deepEqual(
          bed.tx.driver.taken(),
          ids.map(id => ({ id, length: 0 })),
          what,
        );
      }
      const badRx: readonly (readonly [string, readonly Piece[], boolean?])[] = [
        ...bad.filter(([what]) => !what.startsWith('longer')),
      ].map(([what, list, writable]) => [what, list, !(writable ?? false)] as const);
      for (const [what, list, writable] of badRx) {
        bed.reset();
        const past = errors(bed.rx);
        const ids = [
          bed.rx.driver.add(list, writable!),
          bed.rx.driver.add([{ ...good, length: 1530 }], true),
        ];
        bed.rx.driver.publish();
        assert.equal(room(bed), 1, what);
        bed.batch.setLength(0, 60);
        push(bed, 1);
        assert.equal(errors(bed.rx) - past, 1, what);
        assert.deepEqual(
          bed.rx.driver.taken(),
          ids.map((id, i) => ({ id, length: 72 * i })),
          what,
        );
      }
    });

    it('more pieces than a frame may have: an error to transmit, unused to receive into', () => {
      const own = bedOf(features, 256);
      const list = [
        { gpa: slot(own, 0), length: 12 },
        ...Array.from({ length: 65 }, (_, i) => ({ gpa: slot(own, 1) + BigInt(32 * i), length: 10 })),
      ];
      send(own, list);
      send(own, list.slice(0, 65));
      send(own, list, own.tableFor(0));
      assert.equal(pop(own), 1);
      assert.equal(own.batch.iovs(0), 65);
      complete(own, 1);
      assert.deepEqual([own.tx.driver.taken().length, errorsOf(own, 'tx')], [3, 2]);
      own.rx.driver.add(list, true);
      own.rx.driver.publish();
      assert.equal(room(own), 1);
      assert.equal(own.batch.room(0), 640);
    });

    it('room for a header only is none: it waits for the next chain, or goes back with it when that is bad', () => {
      const own = bedOf(features | F.MRG_RXBUF);
      const { queue } = own.rx;
      const header = { gpa: slot(own, 0), length: 12 };
      const post = (piece: Piece) => {
        const id = own.rx.driver.add([piece], true);
        own.rx.driver.publish();
        return id;
      };
      const ids = [post(header)];
      assert.equal(room(own), 0);
      assert.equal(own.ring.kicks(queue.address, true), false, 'nothing to do before there is more');
      ids.push(post({ gpa: slot(own, 1), length: 2000 }));
      assert.equal(own.ring.kicks(queue.address, false), true);
      assert.equal(room(own), 1);
      own.batch.setLength(0, 100);
      push(own, 1);
      assert.equal(hex(own, header.gpa, 12), '000000000000000000000200', 'two buffers');
      assert.deepEqual(own.rx.driver.taken(), [
        { id: ids[0], length: 12 },
        { id: ids[1], length: 100 },
      ]);
      const bad = [
        post(header),
        post({ gpa: own.forbidden[0]!, length: 100 }),
        post({ gpa: slot(own, 1), length: 2000 }),
      ];
      assert.equal(room(own), 1);
      own.batch.setLength(0, 100);
      push(own, 1);
      assert.deepEqual(
        own.rx.driver.taken().map(({ id, length }) => [id, length]),
        [
          [bad[0], 0],
          [bad[1], 0],
          [bad[2], 112],
        ],
      );
      assert.equal(errorsOf(own, 'rx'), 2);
    });

    it('indirect tables: nested, odd, empty, endless, elsewhere, too long, not agreed on', () => {
      bed.reset();
      const h = { gpa: slot(bed, 1), length: 12 };
      const payload = { gpa: slot(bed, 2), length: 60 };
      const table = bed.tableFor(0);
      const good = () => {
        write(bed, table, '00'.repeat(64));
        const [first, second] = format === 'split' ? ['0100 0100', '0000 0000'] : ['0000 0000', '0000 0000'];
        write(bed, table, `${le(h.gpa, 8)} 0c000000 ${first} ${le(payload.gpa, 8)} 3c000000 ${second}`);
      };
      const flagsAt = (entry: number) => table + BigInt(16 * entry + (format === 'split' ? 12 : 14));
      /** [what, prepares the table, how the descriptor names it, further flags] */
      const cases: readonly (readonly [string, () => void, Piece?, string?])[] = [
        ['nested', () => write(bed, flagsAt(0), '0500')],
        ['nested, the last', () => write(bed, flagsAt(1), '0400')],
        ['not a multiple of 16', () => {}, { gpa: table, length: 33 }],
        ['empty', () => {}, { gpa: table, length: 0 }],
        ['too long', () => {}, { gpa: table, length: 1025 * 16 }],
        ['beyond a region', () => {}, { gpa: bed.forbidden[1]! - 16n, length: 32 }],
        ['in no region', () => {}, { gpa: bed.forbidden[1]!, length: 32 }],
        ['wrapping', () => {}, { gpa: 2n ** 64n - 16n, length: 32 }],
        ['with NEXT', () => {}, { gpa: table, length: 32 }, 'NEXT'],
        ['a writable entry', () => write(bed, flagsAt(1), '0200')],
      ];
      const split: typeof cases = [
        ['going round', () => write(bed, table + 28n, '0100 0000')],
        ['next beyond its end', () => write(bed, table + 12n, '0100 0200')],
      ];
      for (const [what, prepare, piece, more] of [...cases, ...(format === 'split' ? split : [])]) {
        bed.reset();
        good();
        prepare();
        const past = errors(bed.tx);
        const id = bed.tx.driver.add([h, payload], false, bed.tableFor(3));
        const { gpa, length } = piece ?? { gpa: table, length: 32 };
        const descriptor = bed.tx.areas.descriptor + (format === 'split' ? BigInt(16 * id) : 0n);
        write(bed, descriptor, `${le(gpa, 8)} ${le(length, 4)}`);
        bed.tx.driver.publish();
        if (more) {
          const at = Number(descriptor - bed.ram.guestPhysicalAddress) + (format === 'split' ? 12 : 14);
          bed.memory.setUint16(at, bed.memory.getUint16(at, true) | 1, true);
        }
        assert.equal(pop(bed), 0, what);
        complete(bed, 0);
        assert.equal(errors(bed.tx) - past, 1, what);
      }
      bed.reset();
      good();
      const id = bed.tx.driver.add([h, payload], false, bed.tableFor(3));
      write(bed, bed.tx.areas.descriptor + (format === 'split' ? BigInt(16 * id) : 0n), le(table, 8));
      bed.tx.driver.publish();
      assert.equal(pop(bed), 1, 'the good one, by the same means');

      const plain = bedOf(features & ~F.INDIRECT_DESC);
      plain.tx.driver.add([{ gpa: slot(plain, 0), length: 72 }], false, plain.tableFor(0));
      plain.tx.driver.publish();
      assert.equal(pop(plain), 0);
      assert.equal(errorsOf(plain, 'tx'), 1);
    });

    it('headers that make no sense, or ask for what was not agreed on, are dropped and counted', () => {
      const own = bedOf(features | F.CSUM | F.HOST_TSO4);
      const { queue } = own.tx;
      const piece = { gpa: slot(own, 0), length: 1012 };
      const sent = (header: string) => {
        own.reset();
        write(own, piece.gpa, header);
        send(own, [piece]);
        const n = pop(own);
        const got = n === 1 ? getHeader(own.batch, 0) : null;
        complete(own, n);
        assert.equal(own.tx.driver.taken().length, 1);
        return got;
      };
      const past = own.stats(own.tx).dropped;
      //                    flags type hdrLen gsoSize start offset
      assert.equal(sent('01 00 0000 0000 d703 1000')?.flags, undefined, 'a checksum beyond the end');
      assert.equal(sent('00 01 3600 f401 2200 1000'), null, 'segments without a checksum');
      assert.equal(sent('01 01 3600 0000 2200 1000'), null, 'segments of no size');
      assert.equal(sent('01 04 3600 f401 2200 1000'), null, 'TSO6 was not agreed on');
      assert.equal(sent('01 02 3600 f401 2200 1000'), null, 'no such type');
      assert.equal(own.stats(own.tx).dropped - past, 5);
      assert.equal(sent('01 01 3600 f401 2200 1000')?.gsoSize, 500);
      assert.equal(sent('07 00 3600 f401 2200 1000')?.flags, 1, 'flags that are not the guest’s');
      assert.equal(queue.fault, 0);
      assert.equal(errorsOf(own, 'tx'), 0);
    });

    it('work is charged to the budget', () => {
      const own = bedOf(features, 512);
      for (let i = 0; i < 40; i++) send(own, [{ gpa: own.forbidden[0]!, length: 72 }]);
      for (const left of [40, 37, 34]) {
        assert.equal(own.ring.pending(own.tx.queue.address), left);
        assert.equal(pop(own, 3), 0);
        complete(own, 0);
      }
      // A thousand empty descriptors cost as much as sixty chains.
      own.reset();
      const empty = Array.from({ length: 400 }, () => ({ gpa: 0n, length: 0 }));
      const list = [{ gpa: slot(own, 0), length: 72 }];
      for (let i = 0; i < 6; i++) send(own, [...empty, ...list], own.tableFor(i));
      assert.equal(pop(own, 30), 2);
      assert.equal(pop(own, 26), 1);
    });

    it('an index that can not be is a fault, or nothing', () => {
      bed.reset();
      const { queue, areas } = bed.tx;
      if (format === 'split') {
        write(bed, areas.driver + 2n, '0900');
        assert.equal(bed.ring.pending(queue.address), 0);
        assert.equal(queue.fault, L.FAULT_INDEX);
        assert.deepEqual([pop(bed), bed.ring.kicks(queue.address, true)], [0, false]);
        assert.equal(bed.ring.resume(queue.address), false);
        write(bed, areas.driver + 2n, '0800');
        assert.equal(bed.ring.resume(queue.address), true);
        // Heads that are no descriptors.
        for (let i = 0; i < 8; i++)
          write(bed, areas.driver + 4n + BigInt(2 * i), i % 2 === 0 ? '0800' : 'ffff');
        const past = errors(bed.tx);
        assert.equal(pop(bed), 0);
        complete(bed, 0);
        assert.equal(errors(bed.tx) - past, 8);
        assert.equal(hex(bed, areas.device + 2n, 10), '08000800000000000000');
      } else {
        // A chain that never ends is one of all descriptors.
        for (let i = 0; i < 8; i++)
          write(bed, areas.descriptor + BigInt(16 * i), `${le(slot(bed, 0), 8)} 10000000 0000 8100`);
        const past = errors(bed.tx);
        assert.equal(pop(bed), 0);
        complete(bed, 0);
        assert.equal(errors(bed.tx) - past, 1);
        assert.equal(queue.base, 0x0000_0000, 'a lap further');
        assert.equal(queue.setBase(0x8008), false);
        assert.equal(bed.ring.resume(queue.address), false);
        assert.equal(queue.fault, L.FAULT_INDEX);
        assert.equal(pop(bed), 0);
      }
    });

    it('the base is told and taken as vhost has it', () => {
      bed.reset();
      const { queue } = bed.tx;
      if (format === 'split') {
        write(bed, bed.tx.areas.device + 2n, 'fdff');
        write(bed, bed.tx.areas.driver + 2n, 'fdff');
        assert.ok(queue.setBase(0xfffd) && bed.ring.resume(queue.address));
        assert.equal(queue.base, 0xfffd);
        assert.equal(queue.setBase(0x10000), false);
      } else {
        assert.equal(queue.base, 0x8000_8000);
        for (const [told, now] of [
          [0x8000, 0x8000_8000], // no upper half
          [0x8000_8000, 0x8000_8000],
          [0x0003_0003, 0x0003_0003],
          [0x8002_8005, 0x8002_8002], // three available ones are not used yet: they are looked at again
        ] as const) {
          assert.ok(queue.setBase(told), told.toString(16));
          assert.equal(queue.base, now);
        }
        for (const told of [0x8008, 0x8009_8000, 0x7fff]) assert.equal(queue.setBase(told), false);
      }
    });
  });

  describe(`${format}: addresses that are not known yet`, () => {
    it('stop the queue before that chain, and it goes on when they are', () => {
      const own = bedOf(features | F.ACCESS_PLATFORM);
      const hole = own.forbidden[1]!;
      const good = { gpa: slot(own, 0), length: 72 };
      for (const missing of [
        { gpa: hole + 100n, length: 60 },
        { gpa: hole - 20n, length: 60 },
      ]) {
        own.reset();
        const { queue, driver } = own.tx;
        for (const list of [[good], [good, missing], [good]]) driver.add(list, false);
        driver.publish();
        assert.equal(pop(own), 1);
        const wanted = missing.gpa > hole ? missing : { gpa: hole, length: 40 };
        // The part of it that is in the first region was found.
        assert.deepEqual(queue.miss, {
          kind: 'read',
          address: missing.gpa > hole ? wanted.gpa : hole,
          length: wanted.length,
        });
        complete(own, 1);
        assert.equal(own.ring.pending(queue.address), 0, 'nothing to do before it is there');
        assert.equal(own.ring.kicks(queue.address, true), false);
        assert.equal(pop(own), 0);
        assert.notEqual(queue.miss, null);
        // The answer: the second region grows downwards over the hole.
        const entry = own.table.address + L.REGIONS_HEAD + L.REGION_SIZE;
        const fields = [L.REGION_GPA, L.REGION_LENGTH, L.REGION_FLAT].map(field => (entry + field) / 8);
        const [gpa, length, flat] = fields as [number, number, number];
        const grow = (by: bigint) => {
          window.longs[gpa] = window.longs[gpa]! - by;
          window.longs[length] = window.longs[length]! + by;
          window.longs[flat] = window.longs[flat]! - by;
          window.words[(entry + L.REGION_WINDOW) >>> 2] =
            window.words[(entry + L.REGION_WINDOW) >>> 2]! - Number(by);
        };
        grow(4096n);
        queue.clearMiss();
        assert.equal(own.ring.kicks(queue.address, true), true);
        assert.equal(pop(own), 2);
        complete(own, 2);
        assert.deepEqual([errorsOf(own, 'tx'), driver.taken().length, queue.miss], [0, 3, null]);
        grow(-4096n);
        window.words[(queue.address + L.QUEUE_HINT) >>> 2] = 0;
      }
      own.reset();
      own.tx.driver.add([good], false, hole);
      own.tx.driver.publish();
      own.rx.driver.add([{ gpa: slot(own, 1), length: 1530 }], true, hole);
      own.rx.driver.publish();
      const page = Number(hole - own.ram.guestPhysicalAddress);
      own.bytes.fill(0xa5, page, page + 4096);
      assert.equal(pop(own), 0);
      assert.deepEqual(own.tx.queue.miss, { kind: 'read', address: hole, length: 16 }, 'a table');
      assert.equal(room(own), 0);
      assert.deepEqual(own.rx.queue.miss, { kind: 'read', address: hole, length: 16 }, 'also to receive');
      own.reset();
      own.tx.driver.add([good], false, hole - 8n);
      own.tx.driver.publish();
      own.bytes.fill(0xa5, page, page + 4096);
      assert.equal(pop(own), 0);
      const rest = { kind: 'read', address: hole + 7n, length: 1 };
      assert.deepEqual(own.tx.queue.miss, rest, 'what is known of a descriptor is not asked for again');
      own.reset();
      own.rx.driver.add([{ gpa: hole, length: 1530 }], true);
      own.rx.driver.publish();
      assert.equal(room(own), 0);
      assert.deepEqual(own.rx.queue.miss, { kind: 'write', address: hole, length: 1530 });
    });

    it('headers and tables outside of the window are misses, payload is not', () => {
      const own = bedOf(features);
      const entry = own.table.address + L.REGIONS_HEAD + L.REGION_SIZE;
      const at = (entry + L.REGION_WINDOW) >>> 2;
      const home = window.words[at]!;
      window.words[at] = 0; // the second region
      const [near, far] = [slot(own, 0), slot(own, 12)];
      send(own, [
        { gpa: near, length: 12 },
        { gpa: far, length: 60 },
      ]);
      send(own, [{ gpa: far, length: 72 }]);
      assert.equal(pop(own), 1);
      assert.deepEqual(own.tx.queue.miss, { kind: 'window', address: far, length: 72 });
      complete(own, 1);
      window.words[at] = home;
      assert.equal(pop(own), 1);
    });

    it('regions that may not be read, or written, are errors', () => {
      const own = bedOf(features);
      const entry = own.table.address + L.REGIONS_HEAD;
      const denied = (entry + L.REGION_DENIED) >>> 2;
      const [tx, rx] = [
        { gpa: slot(own, 0), length: 72 },
        { gpa: slot(own, 0), length: 1530 },
      ];
      for (const [deny, sends, receives] of [
        [0, 1, 1],
        [L.DENY_READ, 0, 1],
        [L.DENY_WRITE, 1, 0],
        [L.DENY_READ | L.DENY_WRITE, 0, 0],
      ] as const) {
        own.reset();
        window.words[denied] = deny;
        send(own, [tx]);
        own.rx.driver.add([rx], true);
        own.rx.driver.publish();
        assert.deepEqual([pop(own), room(own)], [sends, receives]);
      }
      window.words[denied] = 0;
    });
  });

  describe(`${format}: dirty pages`, () => {
    it('are marked for what was written, where it is, and nothing else', () => {
      const own = bedOf(features | F.MRG_RXBUF, 8, 3000);
      const size = 4096;
      const bitmap = arena.allocate(size + 64);
      const base = own.ram.guestPhysicalAddress >> 12n; // guest memory begins at page 2^20
      const marked = () => {
        const pages: bigint[] = [];
        for (let byte = 0; byte < size; byte++) {
          for (let bit = 0; bit < 8; bit++)
            if (window.bytes[bitmap + byte]! & (1 << bit)) pages.push(BigInt(8 * byte + bit));
        }
        window.bytes.fill(0, bitmap, bitmap + size);
        return pages;
      };
      // The table that the log goes by has its addresses from 0 on.
      const { queue } = own.rx;
      const entries = [0, 1].map(
        i => (own.table.address + L.REGIONS_HEAD + i * L.REGION_SIZE + L.REGION_GPA) / 8,
      );
      const shadow = arena.allocate(L.REGIONS_HEAD + 2 * L.REGION_SIZE);
      window.bytes.copyWithin(
        shadow,
        own.table.address,
        own.table.address + L.REGIONS_HEAD + 2 * L.REGION_SIZE,
      );
      for (const i of [0, 1]) {
        const at = (shadow + L.REGIONS_HEAD + i * L.REGION_SIZE + L.REGION_GPA) / 8;
        window.longs[at] = window.longs[entries[i]!]! - (base << 12n);
      }
      const log = { bitmap, size, table: { address: shadow } as typeof own.table };
      const page = (gpa: bigint) => (gpa >> 12n) - base;
      const receive = (length: number, list: readonly Piece[]) => {
        const { driver } = own.rx;
        for (const piece of list) driver.add([piece], true);
        driver.publish();
        assert.equal(room(own), 1);
        own.batch.setLength(0, length);
        push(own, 1);
        driver.taken();
      };
      const first = (page(slot(own, 0)) + base + 3n) << 12n;
      const buffers = [
        { gpa: first + 4000n, length: 2012 }, // the header and 84 bytes in one page, the rest in the next
        { gpa: first + 3n * 4096n + 100n, length: 2000 },
      ];
      const p = page(first);
      receive(60, buffers);
      assert.deepEqual(marked(), [], 'no log is kept');
      queue.setLog({ ...log, ring: 1n << 20n, event: 2n << 20n });
      own.reset();
      receive(60, buffers);
      const ring = 256n;
      const event = format === 'packed' ? [512n] : []; // written when kicks are switched on
      assert.deepEqual(
        marked(),
        [p, p + 1n, ring, ...event].sort(upwards),
        'all of the buffer that holds it',
      );
      own.reset();
      marked();
      receive(2500, buffers);
      assert.deepEqual(marked(), [p, p + 1n, p + 3n, ring].sort(upwards), 'both buffers, the ring');
      queue.setLog(log);
      own.reset();
      receive(60, buffers);
      assert.deepEqual(marked(), [p, p + 1n], 'the ring is not logged');
      // A bitmap that is too short for the memory: what it has no bit for is not marked, and nothing behind it is written.
      own.reset();
      const short = Number(p >> 3n);
      window.bytes.fill(0x77, bitmap + short, bitmap + short + 8);
      queue.setLog({ ...log, size: short });
      receive(60, buffers);
      assert.ok(window.bytes.subarray(bitmap + short, bitmap + short + 8).every(byte => byte === 0x77));
      queue.setLog(null);
      arena.free(shadow);
      arena.free(bitmap);
    });
  });
}

describe('a dirty bitmap', () => {
  it('has a bit a page, the lowest first', () => {
    const bed = bedOf(MODERN);
    const queue = new Virtq({ window, arena, calls: bed.datapath.calls }, 'tx');
    const bitmap = arena.allocate(64);
    queue.setLog({ bitmap, size: 8, table: bed.table });
    const marks = (gpa: number, length: number) => {
      window.bytes.fill(0, bitmap, bitmap + 16);
      bed.datapath.calls.dirty_mark(queue.address, BigInt(gpa), BigInt(length));
      return Buffer.from(window.bytes.subarray(bitmap, bitmap + 9)).toString('hex');
    };
    assert.equal(marks(0, 1), '010000000000000000');
    assert.equal(marks(4095, 1), '010000000000000000');
    assert.equal(marks(4095, 2), '030000000000000000');
    assert.equal(marks(7 * 4096, 8192), '800100000000000000');
    assert.equal(marks(63 * 4096, 8192), '000000000000008000', 'the last bit; what lies beyond has none');
    assert.equal(marks(64 * 4096, 1), '000000000000000000');
    assert.equal(marks(0, 0), '000000000000000000');
    assert.equal(marks(2 ** 52, 4096), '000000000000000000');
    queue.close();
    arena.free(bitmap);
  });
});

function errorsOf(bed: VirtioBed, direction: 'tx' | 'rx'): number {
  return bed.stats(bed[direction]).errors;
}
