/** The control queue of a virtio card: its rings in both formats against the model's driver, its commands, and guests that mean harm. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { COMMON, PCI_NET_FEATURE as P, STATUS } from '../../src/guest/pci/virtio-numbers.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { openFds } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { IRQ } from '../../src/linux/vfio-numbers.js';
import { Arena } from '../../src/memory/arena.js';
import { GuestMemory, type RegionTable } from '../../src/memory/guest-memory.js';
import { NET_FEATURE } from '../../src/nic/virtio-offers.js';
import { type CommandTarget, carryOut } from '../../src/pci/virtio/control-commands.js';
import { ControlQueue } from '../../src/pci/virtio/control-queue.js';
import { GuestBytes } from '../../src/pci/virtio/guest-bytes.js';
import { areaSizes, areaWritten } from '../../src/ring/virtio/areas.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, eventually, randomFrom, window } from '../compliance/testbed.js';
import {
  type ModelDriver,
  PackedDriver,
  type Piece,
  SplitDriver,
  type Used,
} from '../compliance/virtio-model.js';
import { GuestRings } from './guest-rings.js';
import { AT, BAR, MAC, type PciRig, pciTest } from './virtio-pci-rig.js';

const GIB = 2 ** 30;
const READ_ONLY = 4096;

const FORMATS = [
  ['split', 0n],
  ['split, event index', F.EVENT_IDX],
  ['packed', F.RING_PACKED],
  ['packed, event index', F.RING_PACKED | F.EVENT_IDX],
] as const;

type Ram = Pick<GuestRam, 'fd' | 'size' | 'allocate' | 'free' | 'toGuest' | 'close'> & {
  readonly guestPhysicalAddress: bigint;
};

/** A piece of a guest's memory that is larger than the window, as the guest has it. */
function pieceOfLarge(): Ram {
  const [offset, size] = [9 * GIB + 0x12_3000, 1 << 20];
  const fd = createMemfd({ name: 'large guest', size: 16 * GIB });
  const piece = window.overlay({ fd: fd.fd, fileOffset: offset, length: size, name: 'its piece' }, 4096)!;
  const pieces = new Arena(window, piece.address, piece.address + size);
  return {
    ...{ fd, size, guestPhysicalAddress: BigInt(offset) },
    allocate: bytes => pieces.allocate(bytes),
    free: address => pieces.free(address),
    toGuest: address => BigInt(offset + address - piece.address),
    close() {
      piece.mapping.close();
      fd.close();
    },
  };
}

/** A control ring in guest memory, driver side: commands one by one, each in pieces as a test likes. */
class CommandRing {
  readonly ram: Ram;
  readonly num: number;
  readonly driver: ModelDriver;
  readonly areas: { descriptor: bigint; driver: bigint; device: bigint };
  readonly #pieces: number[] = [];

  /** `readOnly`: the areas that the device only reads are there. */
  constructor(ram: Ram, num: number, features: bigint, readOnly?: bigint) {
    const packed = (features & F.RING_PACKED) !== 0n;
    const sizes = areaSizes(num, packed);
    const written = areaWritten(packed);
    this.ram = ram;
    this.num = num;
    const area = (name: keyof typeof sizes, at: number) =>
      readOnly === undefined || written[name] ? this.gpa(sizes[name]) : readOnly + BigInt(at);
    this.areas = {
      descriptor: area('descriptor', 0),
      driver: area('driver', sizes.descriptor),
      device: area('device', 0),
    };
    const options = {
      ...{ memory: this.view, base: ram.guestPhysicalAddress, areas: this.areas, num },
      eventIdx: (features & F.EVENT_IDX) !== 0n,
    };
    this.driver = packed ? new PackedDriver(options) : new SplitDriver(options);
  }

  get view(): DataView {
    return new DataView(window.memory.buffer, this.start, this.ram.size);
  }

  /** Window address of guest memory's first byte. */
  get start(): number {
    return Number(-this.ram.toGuest(0) + this.ram.guestPhysicalAddress);
  }

  /** Guest address of so many bytes. */
  gpa(size: number): bigint {
    const at = this.ram.allocate(size);
    this.#pieces.push(at);
    return this.ram.toGuest(at);
  }

  /** Bytes of guest memory. */
  at(gpa: bigint, length: number): Uint8Array {
    const at = this.start + Number(gpa - this.ram.guestPhysicalAddress);
    return window.bytes.subarray(at, at + length);
  }

  /** The pieces of a command: a copy of each of `parts`, and a byte for the answer, whose address is returned as well. */
  command(parts: readonly Uint8Array[]): { pieces: Piece[]; ack: bigint } {
    const ack = this.gpa(1);
    this.at(ack, 1)[0] = 0xff;
    const pieces = parts.map(part => {
      const gpa = this.gpa(part.length);
      this.at(gpa, part.length).set(part);
      return { gpa, length: part.length };
    });
    return { pieces: [...pieces, { gpa: ack, length: 1, writable: true }], ack };
  }

  close(): void {
    for (const at of this.#pieces) this.ram.free(at);
  }
}

class ControlBed {
  readonly ram: Ram;
  readonly kick = EventFd.create('control kick');
  readonly ring: CommandRing;
  readonly queue: ControlQueue;
  readonly commands: Uint8Array[] = [];
  readonly broken: string[] = [];
  interrupts = 0;
  /** Null: the guest's memory is away. */
  table: RegionTable | null;
  /** Called when the queue asks for the guest's memory. */
  onAccess: () => void = () => {};
  /** What commands come to. */
  answer: (command: Uint8Array) => Promise<boolean> = async () => true;
  readonly #table: RegionTable;

  /** `large`: the guest has so much memory that it is not in the window. `readOnly`: so many bytes of its memory, the first ones, may not be written. */
  constructor(features: bigint, { num = 16, large = false, readOnly = 0 } = {}) {
    this.ram = large ? pieceOfLarge() : new GuestRam(window, 1 << 20);
    const { fd, size, guestPhysicalAddress } = this.ram;
    const whole = { guestPhysicalAddress: 0n, size: 16n * BigInt(GIB), mmapOffset: 0n, fd };
    const piece = { guestPhysicalAddress, size: BigInt(size), mmapOffset: 0n, fd };
    const first = { ...piece, size: BigInt(readOnly), writable: false };
    const rest = {
      ...piece,
      guestPhysicalAddress: guestPhysicalAddress + first.size,
      ...{ size: piece.size - first.size, mmapOffset: first.size },
    };
    const parts = readOnly > 0 ? [first, rest] : [piece];
    this.#table = new GuestMemory(window, arena).build(large ? [whole] : parts);
    assert.equal(this.#table.inWindow, !large);
    this.table = this.#table;
    const aside = readOnly > 0 ? this.ram.toGuest(this.ram.allocate(readOnly)) : undefined;
    this.ring = new CommandRing(this.ram, num, features, aside);
    this.queue = new ControlQueue({
      memory: new GuestBytes(window, () => {
        this.onAccess();
        return this.table;
      }),
      carryOut: command => {
        this.commands.push(command);
        return this.answer(command);
      },
      interrupt: () => void this.interrupts++,
      onBroken: error => this.broken.push(error.message),
    });
    this.queue.start({ num, areas: this.ring.areas }, features, this.kick);
  }

  async close(): Promise<void> {
    await this.queue.stop();
    this.kick.close();
    this.ring.close();
    this.#table.close();
    this.ram.close();
  }
}

function controlTest(
  name: string,
  features: bigint,
  body: (bed: ControlBed) => Promise<void>,
  options: { large?: boolean; readOnly?: number } = {},
): void {
  test(name, { timeout: 60_000 }, async () => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const before = held();
    const bed = new ControlBed(features, options);
    try {
      await body(bed);
    } finally {
      await bed.close();
    }
    assert.deepEqual(held(), before, 'left behind');
  });
}

for (const [what, features] of FORMATS) {
  controlTest(
    `${what}: commands in pieces and tables, round and round, in order, each answered`,
    features,
    async bed => {
      const { ring } = bed;
      const random = randomFrom(7);
      let sent = 0;
      bed.answer = async command => {
        if (random(3) === 0) await new Promise(resolve => setImmediate(resolve));
        return command[1] !== 9;
      };
      for (let round = 0; round < 60; round++) {
        const batch: { ack: bigint; good: boolean }[] = [];
        for (let n = 1 + random(4); n > 0 && ring.driver.free >= 4; n--) {
          const good = random(4) !== 0;
          const whole = Uint8Array.of(1, good ? 1 : 9, sent++ & 0xff, 4);
          const cut = 1 + random(3);
          const { pieces, ack } = ring.command(
            random(2) === 0 ? [whole] : [whole.slice(0, cut), whole.slice(cut)],
          );
          ring.driver.add(pieces, false, random(2) === 0 ? ring.gpa(16 * pieces.length) : undefined);
          batch.push({ ack, good });
        }
        const before = bed.interrupts;
        ring.driver.arm(1);
        if (ring.driver.publish()) bed.kick.signal();
        const used: Used[] = [];
        await eventually(() => used.push(...ring.driver.taken()) === batch.length);
        assert.ok(bed.interrupts > before);
        for (const { ack, good } of batch) assert.equal(ring.at(ack, 1)[0], good ? 0 : 1);
        assert.deepEqual(
          used.map(({ length }) => length),
          batch.map(() => 1),
        );
      }
      assert.deepEqual(
        bed.commands.map(command => command[2]),
        Array.from({ length: sent }, (_, i) => i & 0xff),
      );
      assert.deepEqual(bed.broken, []);
    },
  );

  controlTest(`${what}: no interrupt for a guest that wants none`, features, async bed => {
    const { ring } = bed;
    // With an event index the first one may come anyway: its event is where nothing was said yet.
    ring.driver.arm(0);
    if ((features & F.EVENT_IDX) !== 0n && (features & F.RING_PACKED) === 0n) return;
    ring.driver.add(ring.command([Uint8Array.of(0, 0, 1)]).pieces, false);
    ring.driver.publish();
    bed.kick.signal();
    await eventually(() => ring.driver.taken().length === 1);
    assert.equal(bed.interrupts, 0);
  });

  controlTest(
    `${what}: what can't be understood comes back, and the next command is done`,
    features,
    async bed => {
      const { ring } = bed;
      const packed = (features & F.RING_PACKED) !== 0n;
      const good = Uint8Array.of(1, 2, 3);
      const nowhere = ring.ram.guestPhysicalAddress + BigInt(ring.ram.size);
      const ack = () => ring.command([]).pieces[0]!;
      const cases: (readonly [name: string, pieces: Piece[], nowhereTable?: boolean])[] = [
        ['nowhere', [{ gpa: nowhere, length: 3 }, ack()]],
        ['across the end', [{ gpa: nowhere - 1n, length: 3 }, ack()]],
        ['wraps', [{ gpa: 2n ** 64n - 2n, length: 3 }, ack()]],
        ['empty', [{ gpa: ring.gpa(1), length: 0 }, ack()]],
        ['too short', [{ gpa: ring.gpa(1), length: 1 }, ack()]],
        ['too long', [{ gpa: ring.ram.guestPhysicalAddress, length: 65537 }, ack()]],
        ['far too long', [{ gpa: ring.ram.guestPhysicalAddress, length: 0xffff_ffff }, ack()]],
        ['nothing to read', [ack()]],
        ['answer first', [ack(), { gpa: ring.gpa(3), length: 3 }]],
        [
          'answer nowhere',
          [
            { gpa: ring.gpa(3), length: 3 },
            { gpa: nowhere, length: 1, writable: true },
          ],
        ],
        ['no answer', [{ gpa: ring.gpa(3), length: 3 }]],
        ['table nowhere', [{ gpa: ring.gpa(3), length: 3 }, ack()], true],
      ];
      for (const [name, pieces, nowhereTable] of cases) {
        ring.driver.add(pieces, false, nowhereTable ? ring.gpa(16 * pieces.length) : undefined);
        const next = ring.command([good]);
        ring.driver.add(next.pieces, false);
        ring.driver.publish();
        if (nowhereTable) ring.view.setBigUint64(tableAt(ring, packed), nowhere, true);
        bed.kick.signal();
        const used: Used[] = [];
        await eventually(() => used.push(...ring.driver.taken()) === 2);
        assert.equal(ring.at(next.ack, 1)[0], 0, name);
        for (const { gpa, writable } of pieces) {
          if (writable && gpa !== nowhere) assert.notEqual(ring.at(gpa, 1)[0], 0, name);
        }
      }
      assert.deepEqual(bed.broken, []);
    },
  );

  test(`${what}: random writes into ring and tables: bounded, nothing else touched, works again`, {
    timeout: 60_000,
  }, async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = randomFrom(seed);
      const bed = new ControlBed(features);
      const { ring } = bed;
      const sizes = areaSizes(ring.num, (features & F.RING_PACKED) !== 0n);
      const canary = arena.allocate(4096);
      window.bytes.fill(0xa5, canary, canary + 4096);
      for (let n = 0; n < 200; n++) {
        const area = (['descriptor', 'driver', 'device'] as const)[random(3)]!;
        const at = ring.areas[area] + BigInt(random(sizes[area]));
        if (random(3) === 0) ring.at(at, 1)[0] = random(256);
        else {
          const slot = ring.at(ring.areas.descriptor + BigInt(16 * random(ring.num)), 16);
          const view = new DataView(slot.buffer, slot.byteOffset);
          view.setBigUint64(0, ring.ram.guestPhysicalAddress + BigInt(random(ring.ram.size + 64)), true);
          view.setUint32(8, random(2) === 0 ? random(64) * 16 : random(2 ** 32), true);
          view.setUint16(12, random(2) === 0 ? random(ring.num + 2) : random(65536), true);
          view.setUint16(
            14,
            [random(8), random(8) | 0x80, random(8) | 0x8000, random(65536)][random(4)]!,
            true,
          );
        }
        if (random(2) === 0 && (features & F.RING_PACKED) === 0n) {
          const idx = new DataView(window.memory.buffer, ring.at(ring.areas.driver, 4).byteOffset);
          idx.setUint16(2, idx.getUint16(2, true) + random(3), true);
        }
        bed.queue.look();
        if (random(8) === 0) await new Promise(resolve => setImmediate(resolve));
      }
      await bed.queue.stop();
      assert.ok(window.bytes.subarray(canary, canary + 4096).every(byte => byte === 0xa5));
      arena.free(canary);
      assert.ok(bed.broken.length <= 1);
      // As after a reset.
      const again = new CommandRing(ring.ram, 8, features);
      bed.queue.start({ num: 8, areas: again.areas }, features, bed.kick);
      bed.answer = async () => true;
      const { pieces, ack } = again.command([Uint8Array.of(1, 2)]);
      again.driver.add(pieces, false);
      again.driver.publish();
      bed.kick.signal();
      await eventually(() => again.driver.taken().length === 1);
      assert.equal(again.at(ack, 1)[0], 0);
      await bed.queue.stop();
      again.close();
      await bed.close();
    }
  });
}

/** What was to be done at once has been done. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve));
}

/** Offset in guest memory of the descriptor that names a table. */
function tableAt(ring: CommandRing, packed: boolean): number {
  for (let slot = 0; slot < ring.num; slot++) {
    const at = Number(ring.areas.descriptor - ring.ram.guestPhysicalAddress) + 16 * slot;
    const flags = ring.view.getUint16(at + (packed ? 14 : 12), true);
    if ((flags & 4) !== 0) return at;
  }
  throw new Error('no table in the ring');
}

for (const [what, features] of FORMATS) {
  controlTest(
    `${what}: commands in the memory of a guest that is larger than the window`,
    features,
    async bed => {
      for (let n = 0; n < 20; n++) {
        const { pieces, ack } = bed.ring.command([Uint8Array.of(1, 2, n)]);
        bed.ring.driver.add(pieces, false, n % 2 === 0 ? bed.ring.gpa(32) : undefined);
        bed.ring.driver.publish();
        bed.kick.signal();
        await eventually(() => bed.ring.driver.taken().length === 1);
        assert.equal(bed.ring.at(ack, 1)[0], 0);
      }
      assert.equal(bed.commands.length, 20);
    },
    { large: true },
  );

  controlTest(
    `${what}: memory that is away for a moment costs no command, and none is done twice`,
    features,
    async bed => {
      const { ring } = bed;
      const there = bed.table;
      let [notYet, done, unread] = [0, 0, 0];
      for (let n = 0; n < 40; n++) {
        const { pieces, ack } = ring.command([Uint8Array.of(1, 2, n)]);
        ring.driver.add(pieces, false);
        ring.driver.arm(1);
        ring.driver.publish();
        // It goes at one of the times at which the queue asks for it, later in each round.
        let asked = 0;
        bed.onAccess = () => {
          if (asked++ === n) bed.table = null;
        };
        bed.queue.look();
        await settled();
        const carriedOut = () => bed.commands.filter(command => command[2] === n).length;
        if (!bed.table) carriedOut() > 0 ? done++ : notYet++;
        bed.onAccess = () => {};
        bed.table = there;
        bed.queue.look();
        const used: Used[] = [];
        await eventually(() => used.push(...ring.driver.taken()) === 1);
        await settled();
        assert.equal(ring.driver.taken().length, 0);
        if (carriedOut() === 0) unread++;
        else assert.equal(carriedOut(), 1);
        assert.equal(used[0]!.length, 1 - Number(ring.at(ack, 1)[0] === 0xff));
      }
      assert.ok(notYet > 0 && done > 0);
      assert.equal(unread, 1); // the ring was there, and the command was not: that is answered
      assert.deepEqual(bed.broken, []);
    },
  );

  controlTest(
    `${what}: commands and tables in memory that may not be written, as they are behind an IOMMU; no answer is put there`,
    features,
    async bed => {
      const { ring } = bed;
      const { view } = ring;
      const start = ring.ram.guestPhysicalAddress;
      const end = start + BigInt(READ_ONLY);
      for (const [n, ack] of [ring.gpa(1), start + 2048n].entries()) {
        const command = start + 1024n;
        ring.at(command, 3).set([1, 2, 3 + n]);
        ring.at(ack, 1)[0] = 0xff;
        const pieces = [
          { gpa: command, length: 3 },
          { gpa: ack, length: 1, writable: true },
        ];
        ring.driver.add(pieces, false, start + 3072n);
        ring.driver.publish();
        bed.kick.signal();
        const used: Used[] = [];
        await eventually(() => used.push(...ring.driver.taken()) === 1);
        const mayBe = ack >= end;
        assert.equal(view.getUint8(Number(ack - start)), mayBe ? 0 : 0xff);
        assert.equal(used[0]!.length, mayBe ? 1 : 0);
      }
      assert.deepEqual(
        bed.commands.map(command => [...command]),
        [
          [1, 2, 3],
          [1, 2, 4],
        ],
      );
      assert.deepEqual(bed.broken, []);
    },
    { readOnly: READ_ONLY },
  );
}

controlTest('split: a table in a circle, in a table, too large, odd; a chain in a circle', 0n, async bed => {
  const { ring } = bed;
  const table = ring.gpa(64);
  const head = () => new DataView(window.memory.buffer, ring.at(ring.areas.descriptor, 16).byteOffset);
  const entry = (i: number) =>
    new DataView(window.memory.buffer, ring.at(table + BigInt(16 * i), 16).byteOffset);
  let avail = 0;
  const offer = async (fill: () => void) => {
    fill();
    const driver = new DataView(window.memory.buffer, ring.at(ring.areas.driver, 64).byteOffset);
    driver.setUint16(4 + 2 * (avail % ring.num), 0, true);
    driver.setUint16(2, ++avail, true);
    bed.kick.signal();
    const device = new DataView(window.memory.buffer, ring.at(ring.areas.device, 64).byteOffset);
    await eventually(() => device.getUint16(2, true) === avail);
    assert.equal(device.getUint32(4 + 8 * ((avail - 1) % ring.num) + 4, true), 0);
  };
  const set = (view: DataView, gpa: bigint, length: number, flags: number, next: number) => {
    view.setBigUint64(0, gpa, true);
    view.setUint32(8, length, true);
    view.setUint16(12, flags, true);
    view.setUint16(14, next, true);
  };
  const data = ring.gpa(4);
  await offer(() => {
    set(head(), table, 32, 4, 0);
    set(entry(0), data, 2, 1, 1);
    set(entry(1), data, 2, 1, 0);
  });
  await offer(() => set(entry(1), table, 16, 4, 0));
  await offer(() => set(entry(1), data, 2, 1, 2));
  await offer(() => set(head(), table, 31, 4, 0));
  await offer(() => set(head(), table, 0, 4, 0));
  await offer(() => set(head(), table, 16 * 1025, 4, 0));
  await offer(() => set(head(), table, 32, 4 | 1, 1));
  await offer(() => set(head(), data, 2, 1, 0));
  await offer(() => set(head(), data, 2, 1, ring.num));
  assert.deepEqual(bed.commands, []);
  assert.deepEqual(bed.broken, []);
});

controlTest('split: an index ahead by more than the ring holds, a head that there is not', 0n, async bed => {
  const driver = () => new DataView(window.memory.buffer, bed.ring.at(bed.ring.areas.driver, 64).byteOffset);
  driver().setUint16(2, bed.ring.num + 1, true);
  bed.kick.signal();
  await eventually(() => bed.broken.length === 1);
  bed.kick.signal();
  await bed.queue.stop();
  driver().setUint16(2, 1, true);
  driver().setUint16(4, bed.ring.num, true);
  bed.queue.start({ num: bed.ring.num, areas: bed.ring.areas }, 0n, bed.kick);
  await eventually(() => bed.broken.length === 2);
});

controlTest('sizes and places that a ring can not have', 0n, async bed => {
  const { areas } = bed.ring;
  const start = (num: number, changed: Partial<typeof areas>, features: bigint) => () =>
    bed.queue.start({ num, areas: { ...areas, ...changed } }, features, bed.kick);
  await bed.queue.stop();
  assert.throws(start(12, {}, 0n), { code: 'VIRTQ_SIZE' });
  assert.throws(start(0, {}, F.RING_PACKED), { code: 'VIRTQ_SIZE' });
  assert.throws(start(8, { descriptor: 8n }, 0n), { code: 'NIC_RING' });
  assert.throws(start(8, { driver: 1n }, 0n), { code: 'NIC_RING' });
  assert.throws(start(8, { device: 2n }, F.RING_PACKED), { code: 'NIC_RING' });
});

test('commands: which exist, what each needs, and which data are its', async () => {
  const done: string[] = [];
  const target: CommandTarget = {
    features: P.CTRL_VQ | P.CTRL_RX | P.CTRL_MAC_ADDR | NET_FEATURE.MQ | NET_FEATURE.GUEST_ANNOUNCE,
    maxPairs: 4,
    setMac: mac => void done.push(`mac ${mac}`),
    announced: () => void done.push('announced'),
    setPairs: async pairs => void done.push(`pairs ${pairs}`),
  };
  const table = (...counts: number[]) => counts.flatMap(n => [n, 0, 0, 0, ...Array(6 * n).fill(1)]);
  const rows: (readonly [command: number[], ok: boolean, feature?: bigint])[] = [
    [[0, 0, 1], true, P.CTRL_RX],
    [[0, 1, 0], true, P.CTRL_RX],
    [[0, 0], false],
    [[0, 2, 1], false],
    [[1, 0, ...table(2, 3)], true, P.CTRL_RX],
    [[1, 0, ...table(0, 0)], true],
    [[1, 0, ...table(2)], false],
    [[1, 0, ...table(2, 3), 0], false],
    [[1, 0, 0xff, 0xff, 0xff, 0xff], false],
    [[1, 1, 2, 0, 0, 0, 0, 1], true, P.CTRL_MAC_ADDR],
    [[1, 1, 2, 0, 0, 0, 0], false],
    [[2, 0, 1, 0], false],
    [[3, 0], true, NET_FEATURE.GUEST_ANNOUNCE],
    [[3, 0, 1], false],
    [[3, 1], false],
    [[4, 0, 4, 0], true, NET_FEATURE.MQ],
    [[4, 0, 0, 0], false],
    [[4, 0, 5, 0], false],
    [[4, 0, 1, 1], false],
    [[4, 0, 1], false],
    [[4, 1, 1, 0], false],
    [[5, 0, 0, 0, 0, 0, 0, 0, 0, 0], false],
    [[255, 255], false],
  ];
  for (const [command, ok, feature] of rows) {
    assert.equal(await carryOut(target, Uint8Array.from(command)), ok, command.join());
    if (feature === undefined) continue;
    const without = { ...target, features: target.features & ~feature };
    assert.equal(await carryOut(without, Uint8Array.from(command)), false, command.join());
  }
  assert.deepEqual(done, ['mac 2,0,0,0,0,1', 'announced', 'pairs 4']);
});

/** A card with its control queue, and all pairs' rings. */
async function withControl(rig: PciRig, features: bigint, pairs: number, control: number) {
  const accept = F.VERSION_1 | P.CTRL_VQ | features;
  const rings = new GuestRings({
    ...{ space: rig.ram, features: accept, num: 64, pairs, kick: ring => void rig.kick(ring) },
  });
  rig.rings = rings;
  await rig.set(COMMON.STATUS, 0, 1);
  await rig.accept(accept);
  assert.equal((await rig.status()) & STATUS.FEATURES_OK, STATUS.FEATURES_OK);
  await rig.useMsix();
  for (const [i, { areas }] of rings.drivers.entries()) await rig.enable(i, 64, areas, i + 1);
  const ring = new CommandRing(rig.ram, 16, accept);
  await rig.enable(control, 16, ring.areas, control + 1);
  await rig.set(COMMON.STATUS, 0xf, 1);
  const command = async (...bytes: number[]) => {
    const { pieces, ack } = ring.command([Uint8Array.from(bytes)]);
    ring.driver.add(pieces, false);
    if (ring.driver.publish()) await rig.kick(control);
    await eventually(() => ring.driver.taken().length === 1);
    return ring.at(ack, 1)[0]!;
  };
  return { ring, command };
}

for (const [what, features] of FORMATS) {
  pciTest(`${what}: several pairs, as many as the guest says`, async start => {
    const rig = await start({ portSpec: 'source', pairs: 2 });
    const { ring, command } = await withControl(rig, features | NET_FEATURE.MQ, 2, 4);
    const serving = () => rig.nic.dump().match(/started, enabled/g)?.length ?? 0;
    assert.equal(serving(), 2);
    assert.equal(await command(4, 0, 2, 0), 0);
    assert.equal(serving(), 4);
    assert.ok(rig.vectors[5]!.drain() > 0);
    await rig.flows(0);
    await rig.flows(1);
    assert.equal(await command(4, 0, 3, 0), 1);
    assert.equal(await command(4, 0, 1, 0), 0);
    assert.equal(serving(), 2);
    await rig.flows(0);
    ring.close();
  });

  pciTest(`${what}: address, modes, the network's news; then INTx`, async start => {
    const rig = await start();
    const own = features | P.CTRL_RX | P.CTRL_MAC_ADDR | P.STATUS | NET_FEATURE.GUEST_ANNOUNCE;
    const { ring, command } = await withControl(rig, own, 1, 2);
    assert.equal(await command(0, 0, 1), 0);
    const generation = await rig.get(COMMON.GENERATION, 1);
    assert.equal(await command(1, 1, 2, 4, 6, 8, 10, 12), 0);
    assert.deepEqual(await rig.bytes(BAR.MODERN, AT.DEVICE, 6), Uint8Array.of(2, 4, 6, 8, 10, 12));
    assert.notEqual(await rig.get(COMMON.GENERATION, 1), generation);
    await rig.fn.device.announce();
    assert.equal(await rig.read(BAR.MODERN, AT.DEVICE + 6, 2), 3);
    assert.equal(await command(3, 0), 0);
    assert.equal(await rig.read(BAR.MODERN, AT.DEVICE + 6, 2), 1);
    await rig.setMsixControl(0);
    for (const i of rig.vectors.keys()) await rig.fn.connect(IRQ.MSIX, i, null);
    ring.driver.arm(1);
    assert.equal(await command(0, 1, 0), 0);
    assert.equal((await rig.read(BAR.MODERN, AT.ISR, 1)) & 1, 1);
    // The address is the card's own again.
    await rig.set(COMMON.STATUS, 0, 1);
    assert.deepEqual(await rig.bytes(BAR.MODERN, AT.DEVICE, 6), MAC);
    ring.close();
  });
}

pciTest('a control queue without its memory waits for it; one that breaks is told of', async start => {
  const rig = await start();
  const { ring } = await withControl(rig, P.CTRL_RX, 1, 2);
  await rig.fn.setMemory([]);
  const { pieces, ack } = ring.command([Uint8Array.of(0, 0, 1)]);
  ring.driver.add(pieces, false);
  ring.driver.publish();
  await rig.kick(2);
  await rig.giveMemory();
  await eventually(() => ring.at(ack, 1)[0] === 0);
  new DataView(window.memory.buffer, ring.at(ring.areas.driver, 4).byteOffset).setUint16(2, 999, true);
  await rig.kick(2);
  await eventually(() => /reset/.test(rig.log.join('\n')));
  assert.equal((await rig.status()) & STATUS.NEEDS_RESET, STATUS.NEEDS_RESET);
  ring.close();
});
